"""Resources that the Dagster UI lists with their settings. Secrets are shown as set or not set, never their value."""

import dagster as dg
from pydantic import Field, SecretStr

from classfeed_dagster.runtime import Runtime
from classfeed_dagster.settings import Environment, Settings

SET, NOT_SET = "set (hidden)", "not set"


class ObjectStoreResource(dg.ConfigurableResource[None]):
    """The object store of landed, delivered and reconciled files."""

    url: str = Field(description="CLASSFEED_STORE_URL: a folder or s3://bucket/prefix")
    s3_endpoint_url: str = Field(description="CLASSFEED_S3_ENDPOINT_URL")


class WarehouseResource(dg.ConfigurableResource[None]):
    """Snowflake, or the local stand-in without an account."""

    account: str = Field(description="CLASSFEED_SNOWFLAKE_ACCOUNT")
    user: str = Field(description="CLASSFEED_SNOWFLAKE_USER")
    private_key: str = Field(description="CLASSFEED_SNOWFLAKE_PRIVATE_KEY: whether it is set")
    role: str = Field(description="CLASSFEED_SNOWFLAKE_ROLE")
    virtual_warehouse: str = Field(description="CLASSFEED_SNOWFLAKE_WAREHOUSE")
    database: str = Field(description="CLASSFEED_SNOWFLAKE_DATABASE")
    database_schema: str = Field(description="CLASSFEED_SNOWFLAKE_SCHEMA")


class SlackResource(dg.ConfigurableResource[None]):
    """The channel of this environment's alerts."""

    token: str = Field(description="CLASSFEED_SLACK_TOKEN: whether it is set")
    channel: str = Field(description="channel of this environment")
    url: str = Field(description="CLASSFEED_SLACK_URL")


def runtime_resource(runtime: Runtime) -> dg.ResourceDefinition:
    """Return the runtime as a resource with a name and a description."""

    @dg.resource(
        description="Connections to bigsite, the object store and the warehouse, opened when a step needs one."
    )
    def classfeed_runtime(_: dg.InitResourceContext) -> Runtime:
        return runtime

    return classfeed_runtime


def shown_resources(settings: Settings) -> dict[str, dg.ConfigurableResource[None]]:
    """Return the resources by name. ``Runtime`` opens the connections from the same settings."""
    production = settings.env is Environment.PROD
    return {
        "object_store": ObjectStoreResource(
            url=settings.store_location, s3_endpoint_url=settings.s3_endpoint_url or "AWS"
        ),
        "warehouse": WarehouseResource(
            account=settings.snowflake_account or "local stand-in",
            user=settings.snowflake_user or NOT_SET,
            private_key=_masked(settings.snowflake_private_key),
            role=settings.snowflake_role or NOT_SET,
            virtual_warehouse=settings.snowflake_warehouse or NOT_SET,
            database=settings.snowflake_database,
            database_schema=settings.snowflake_schema,
        ),
        "slack": SlackResource(
            token=_masked(settings.slack_token),
            channel=settings.slack_channel if production else settings.slack_channel_nonprod,
            url=settings.slack_url,
        ),
    }


def _masked(secret: SecretStr | None) -> str:
    return NOT_SET if secret is None else SET
