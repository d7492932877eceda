"""Steps of the rehearsal, in the order of ``deploy/release``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from classfeed_dagster_tests.rehearsal.first_dates import (
    check_alert,
    check_collector,
    check_delivery,
    check_fan_out,
    check_nothing_due,
    check_proof,
    publish_figures,
    refuse_simulation,
    request_rerun,
    simulate_customers,
    start_new_feed,
    turn_switch,
)
from classfeed_dagster_tests.rehearsal.first_deployment import (
    check_confinement,
    check_environment,
    check_identity,
    check_service,
    check_targets,
    create_bigsite,
    create_metrics,
    grant_privileges,
    migrate,
    migrate_earlier,
    only_class_super,
    refuse_bad_input,
    refuse_revoked,
    run_preflight,
    run_smoke,
    services_of,
    start_service,
)
from classfeed_dagster_tests.rehearsal.image import Image
from classfeed_dagster_tests.rehearsal.parts import World, world
from classfeed_dagster_tests.rehearsal.pipelines import Round, replay, start_up
from classfeed_dagster_tests.rehearsal.releases import (
    check_egress,
    kill_daemon,
    release_version,
    restart_services,
    rotate_password,
)
from classfeed_dagster_tests.rehearsal.tasks import Task

if TYPE_CHECKING:
    from classfeed_dagster_tests.rehearsal.report import Report


def rehearse_date(env: str, folder: Path, report: Report, image: Image) -> None:
    """Run the short form: start, health, smoke and one date of class_super."""
    template = f"classfeed-{env}-application"
    with world(env, folder, image) as parts:
        create_bigsite(parts)
        grant_privileges(parts)
        only_class_super(parts)
        report.hold("migrate an empty database", template, lambda: migrate(parts, "created"))
        # The daemon last: a date that is simulated before its first tick is not waited for.
        services = sorted(services_of(parts), key=lambda name: name == "daemon")
        running = {name: start_service(parts, name) for name in services[:-1]}
        report.hold("simulated customers", template, lambda: simulate_customers(parts, 1))
        running["daemon"] = start_service(parts, "daemon")
        _services_hold(parts, running, report, template)
        report.hold("first date delivered", template, lambda: check_delivery(parts, "delivered/class_super/", 1))


def rehearse_pipelines(env: str, folder: Path, report: Report, image: Image, *, rounds: int) -> list[Round]:
    """Deploy again and again with every service running, by the old pipeline's nodes and by this one's."""
    template = f"classfeed-{env}-application"
    replayed: list[Round] = []
    with world(env, folder, image) as parts:
        create_bigsite(parts)
        report.hold("migrate an empty database", template, lambda: migrate(parts, "created"))
        running = {name: start_service(parts, name) for name in services_of(parts)}
        for name in running:
            report.hold(f"{name} is healthy", template, partial(check_service, running, name))
        role = f"arn:aws:iam::{parts.stacks.parameters['AWS::AccountId']}:role/classfeed-{env}-deployer"
        steps = start_up(parts.client("sts"), role) | {
            "migration": lambda: migrate(parts, "migrated"),
            "deployment": lambda: restart_services(parts, running),
            "smoke test": lambda: run_smoke(parts),
        }
        pairs = replay(env, rounds, steps)
        for number in range(1, rounds + 1):
            report.hold(f"round {number}", "deploy/baseline.json", lambda: _round(replayed, next(pairs)))
    return replayed


def _round(replayed: list[Round], one: Round) -> str:
    replayed.append(one)
    return f"three nodes {one.old:.1f} s, one node {one.new:.1f} s"


def _services_hold(parts: World, running: dict[str, Task], report: Report, template: str) -> None:
    for name in running:
        report.hold(f"{name} is healthy", template, partial(check_service, running, name))
    report.hold("environment is the template's alone", template, lambda: check_environment(parts, running["code"]))
    report.hold("root is read-only, user has no rights", template, lambda: check_confinement(running["code"]))
    report.hold("smoke", template, lambda: run_smoke(parts))
    report.hold("load balancer's targets are healthy", template, lambda: check_targets(parts))


def rehearse(env: str, folder: Path, report: Report, *, days: int, image: Image) -> None:
    """Run every step; each records its outcome in the report. ``days``: business dates with simulated customers."""
    with world(env, folder, image) as parts:
        template = f"classfeed-{env}-application"
        running: dict[str, Task] = {}
        services = services_of(parts)
        create_bigsite(parts)
        grant_privileges(parts)
        create_metrics(parts)
        report.hold("migrate an empty database", template, lambda: migrate(parts, "created"))
        for name in ("migrate", "code", "worker", "door", "watchdog", *(("steps",) if "steps" in services else ())):
            report.hold(f"preflight of {name}", template, partial(run_preflight, parts, name))
        report.hold("preflight names a revoked grant", template, lambda: refuse_revoked(parts))
        report.hold("missing secret, setting and bigsite refused", template, lambda: refuse_bad_input(parts))
        if "steps" in services:
            only_class_super(parts)
        report.hold("migrate an earlier schema", template, lambda: migrate_earlier(parts))
        for name in services:
            running[name] = start_service(parts, name)
        _services_hold(parts, running, report, template)
        report.hold("support page asks for a signed identity", template, lambda: check_identity(parts, running["door"]))
        if env == "prod":
            report.hold("simulation refuses production", template, lambda: refuse_simulation(parts))
            report.hold("nothing is due before the first date", template, lambda: check_nothing_due(parts))
        else:
            report.hold(
                "simulated customers", template, lambda: f"{simulate_customers(parts, days)}, {publish_figures(parts)}"
            )
            report.hold("first date delivered", template, lambda: check_delivery(parts, "delivered/class_super/", 1))
            if "steps" in running:
                report.hold("steps executed by two Celery workers", template, lambda: check_fan_out(parts))
            report.hold("traces, metrics and logs at the collector", template, lambda: check_collector(parts))
            if env == "stg":  # dev's other feeds are off
                report.hold("a new feed's first day, in shadow", "docs/runbook.md", lambda: start_new_feed(parts))
            report.hold("first date reconciled and loaded", template, lambda: check_proof(parts))
            report.hold("alert with working links", template, lambda: check_alert(parts))
            report.hold("re-run through the support page", template, lambda: request_rerun(parts))
            for day in range(2, days + 1):
                report.hold(
                    f"date {day} delivered", template, partial(check_delivery, parts, "delivered/class_super/", day)
                )
        report.hold("switch turned without a release", template, lambda: turn_switch(parts))
        report.hold(
            "second release migrates, then renews", template, lambda: release_version(parts, running, "release-2")
        )
        report.hold("rollback to the first release", template, lambda: release_version(parts, running, "release-1"))
        report.hold("database password rotated", template, lambda: rotate_password(parts, running))
        report.hold("daemon killed and replaced", template, lambda: kill_daemon(parts, running))
        report.hold("smoke at the end", template, lambda: run_smoke(parts))
        report.hold("egress: only what is declared", template, lambda: check_egress(parts))
