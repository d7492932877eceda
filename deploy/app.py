"""Synthesise every stack into ``deploy/templates``: ``python -m deploy.app``. Works offline; needs node and CDK.

The templates are committed: a review sees what will change, and the quick tests need no CDK.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from aws_cdk import App, DefaultStackSynthesizer, Environment, Stack, Tags

from deploy.access import Access
from deploy.application import Application
from deploy.broker import Broker
from deploy.environments import DEPLOYMENTS, REGION, REST_ACCOUNT
from deploy.foundation import Foundation
from deploy.monitoring import Monitoring
from deploy.registry import Registry
from deploy.workers import Workers

TEMPLATES = Path(__file__).parent / "templates"


def build(outdir: str) -> App:
    """Return the app with all stacks of all environments."""
    context = {"aws:cdk:enable-path-metadata": False, "@aws-cdk/aws-s3:serverAccessLogsUseBucketPolicy": True}
    app = App(outdir=outdir, analytics_reporting=False, context=context)

    def synthesizer() -> DefaultStackSynthesizer:
        # Plain templates: nothing to bootstrap, no assets, deployed by change sets.
        return DefaultStackSynthesizer(generate_bootstrap_version_rule=False)

    Registry(app, env=Environment(account=REST_ACCOUNT, region=REGION), synthesizer=synthesizer())
    for deployment in DEPLOYMENTS:
        env = Environment(account=deployment.account, region=deployment.region)
        access = Access(app, deployment, env=env, synthesizer=synthesizer())
        foundation = Foundation(app, deployment, env=env, synthesizer=synthesizer())
        workers: list[Stack] = []
        broker = Broker(app, deployment, foundation, env=env, synthesizer=synthesizer()) if deployment.workers else None
        application = Application(app, deployment, foundation, broker, env=env, synthesizer=synthesizer())
        if broker is not None:
            workers = [broker, Workers(app, application, env=env, synthesizer=synthesizer())]
        monitoring = Monitoring(app, deployment, foundation, application, env=env, synthesizer=synthesizer())
        application.add_stack_dependency(access)
        for stack in (access, foundation, application, monitoring, *workers):
            # Roles cost nothing, and the template of the many has to stay small.
            for key, value in (("environment", deployment.env), ("project", "classfeed")):
                Tags.of(stack).add(key, value, exclude_resource_types=["AWS::IAM::Role"])
    return app


def templates() -> dict[str, dict[str, Any]]:
    """Return the stacks' templates by name."""
    with tempfile.TemporaryDirectory() as folder:
        build(folder).synth()
        return {
            path.name.removesuffix(".template.json"): json.loads(path.read_text())
            for path in sorted(Path(folder).glob("*.template.json"))
        }


def text(template: dict[str, Any]) -> str:
    """Return a template in its committed form."""
    return json.dumps(template, indent=1, sort_keys=True) + "\n"


def main() -> None:
    """Write the templates, and remove those of stacks that no longer exist."""
    TEMPLATES.mkdir(exist_ok=True)
    rendered = templates()
    for name, template in rendered.items():
        (TEMPLATES / f"{name}.json").write_text(text(template))
    for path in TEMPLATES.glob("*.json"):
        if path.stem not in rendered:
            path.unlink()
    sys.stdout.write("\n".join(sorted(rendered)) + "\n")


if __name__ == "__main__":
    main()
