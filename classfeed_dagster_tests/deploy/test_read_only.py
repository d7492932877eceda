"""The viewers' webserver is `dagster-webserver --read-only`: every mutation that Dagster knows is put to it, and refused."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Iterator
from typing import Any

import graphql
import pytest
from dagster import DagsterInstance
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import EmptyWorkspaceTarget
from dagster._core.workspace.permissions import Permissions, get_user_permissions
from dagster_graphql.schema import create_schema

from classfeed_dagster_tests.fixtures.templates import ROOT

SCHEMA = create_schema()
MUTATIONS = sorted(SCHEMA.graphql_schema.mutation_type.fields)
# What changes nothing of a feed and asks for no leave: a line of telemetry (switched off), an invitation seen.
HARMLESS = {"logTelemetry", "setNuxSeen"}

# The answer to several at once is a list of answers.
INNER = {"launchMultipleRuns": "{ ... on LaunchMultipleRunsResult { launchMultipleRunsResult { __typename } } }"}


def plausible(kind: Any, depth: int = 0) -> str:
    """Return a minimal valid literal of a GraphQL type."""
    if isinstance(kind, graphql.GraphQLNonNull):
        return plausible(kind.of_type, depth)
    if isinstance(kind, graphql.GraphQLList):
        return f"[{plausible(kind.of_type, depth + 1)}]"
    if isinstance(kind, graphql.GraphQLEnumType):
        return next(iter(kind.values))
    if isinstance(kind, graphql.GraphQLInputObjectType):
        # Dagster distinguishes kinds of selectors by their fields; names are always known.
        values = {
            name: plausible(field.type, depth + 1)
            for name, field in kind.fields.items()
            if isinstance(field.type, graphql.GraphQLNonNull)
            or name in ("repositoryLocationName", "repositoryName", "pipelineName", "jobName", "selector")
        }
        return "{" + ", ".join(f"{name}: {value}" for name, value in values.items()) + "}"
    return {"Int": "1", "Float": "1.0", "Boolean": "true", "RunConfigData": "{}"}.get(str(kind), '"x"')


def mutation(name: str) -> str:
    """Return the mutation with its minimal arguments."""
    field = SCHEMA.graphql_schema.mutation_type.fields[name]
    expected = {key: arg.type for key, arg in field.args.items() if isinstance(arg.type, graphql.GraphQLNonNull)}
    arguments = ", ".join(f"{key}: {plausible(kind)}" for key, kind in expected.items())
    named = graphql.get_named_type(field.type)
    leaf = isinstance(named, graphql.GraphQLScalarType)
    answer = "" if leaf else INNER.get(name, "{ __typename }")
    return f"mutation {{ {name}{f'({arguments})' if arguments else ''} {answer} }}"


@pytest.fixture(scope="module")
def viewer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with (
        DagsterInstance.local_temp(str(tmp_path_factory.mktemp("dagster"))) as instance,
        WorkspaceProcessContext(instance, EmptyWorkspaceTarget(), read_only=True) as process,
    ):
        yield process.create_request_context()


def test_viewers_only_get_the_read_only_webserver() -> None:
    service = (ROOT / "deploy" / "service").read_text().splitlines()
    assert [line.split(")")[0].strip() for line in service if "--read-only" in line] == ["viewer"]


@pytest.mark.parametrize("name", sorted(set(MUTATIONS) - HARMLESS))
def test_mutation_is_refused(viewer: Any, name: str) -> None:
    text = mutation(name)
    assert graphql.validate(SCHEMA.graphql_schema, graphql.parse(text)) == []
    answer = asyncio.run(SCHEMA.execute_async(text, context_value=viewer))
    if "UnauthorizedError" in str(answer.data):
        return
    # What it names must exist before Dagster asks whether one may: then Dagster's own code is read for the question.
    assert answer.errors or set(answer.data[name].values()) <= {"PythonError", "TerminateRunsResult"}
    resolver = SCHEMA.graphql_schema.mutation_type.graphene_type._meta.fields[name].resolver
    query = set(
        re.findall(r"@(?:require_permission_check|check_permission)\(Permissions\.(\w+)\)", inspect.getsource(resolver))
    )
    assert query
    allowed = get_user_permissions(True)  # of read-only
    assert not any(allowed[Permissions[request].value].enabled for request in query)


def test_mutations_without_permission_are_the_known_ones() -> None:
    assert set(MUTATIONS) >= HARMLESS
    assert {"launchRun", "terminateRun", "deletePipelineRun", "startSensor", "wipeAssets"} <= set(MUTATIONS)
