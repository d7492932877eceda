"""Branch names and commit subjects follow CONTRIBUTING.md, and hooks and pipeline check them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
_spec = importlib.util.spec_from_file_location("git_names", ROOT / "scripts" / "git_names.py")
assert _spec is not None
assert _spec.loader is not None
git_names = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(git_names)


@pytest.mark.parametrize(
    "subject",
    ["Add a recipient", "Pass the digest on", "Embed PostgreSQL", "Focus the page", 'Revert "added it."', "A" * 72],
)
def test_subject_in_the_imperative_is_accepted(subject: str) -> None:
    assert list(git_names.subject_problems(subject)) == []


@pytest.mark.parametrize(
    ("subject", "problem"),
    [
        ("A" * 73, "73 characters"),
        ("Add a recipient.", "full stop"),
        ("wip", "prefix"),
        ("feat: add a recipient", "prefix"),
        ("fix(cli)!: add it", "prefix"),
        ("add a recipient", "capital letter"),
        ("Added a recipient", "not imperative"),
        ("Adding a recipient", "not imperative"),
        ("Adds a recipient", "not imperative"),
        ("", "capital letter"),
    ],
)
def test_subject_that_breaks_a_convention_is_refused(subject: str, problem: str) -> None:
    (result,) = git_names.subject_problems(subject)
    assert problem in result


@pytest.mark.parametrize("branch", ["main", "fix/412-late-reversal", "release/7-cut-over"])
def test_branch_with_type_and_ticket_is_accepted(branch: str) -> None:
    assert list(git_names.branch_problems(branch)) == []


@pytest.mark.parametrize("branch", ["late-reversal", "fix/late", "fix/412", "Fix/412-late", "hotfix/1-a", "fix/412-A"])
def test_branch_without_type_or_ticket_is_refused(branch: str) -> None:
    assert "fix/412-late-reversal" in next(git_names.branch_problems(branch))


def test_message_file_with_text_below_its_subject_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "message"
    path.write_text("# a comment\nAdd a recipient\nat once\n")
    assert git_names.main([str(path)]) == 1
    assert "second line is not blank" in capsys.readouterr().err
    path.write_text("Add a recipient\n\nBecause it is asked for.\n")
    assert git_names.main([str(path)]) == 0
    path.write_text("# nothing\n")
    assert git_names.main([str(path), "--branch", "x"]) == 1


def test_commits_of_a_range_are_checked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(git_names, "subjects", lambda commits: ["Add it", f"added {commits}"])
    assert git_names.main(["--commits", "a..b"]) == 1
    assert capsys.readouterr().err.count("commit 'added a..b'") == 1


def test_hooks_and_pipeline_run_the_check() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    entries = {hook["id"]: hook for hook in hooks["repos"][0]["hooks"]}
    assert entries["commit-message"]["stages"] == ["commit-msg"]
    assert entries["branch-name"]["stages"] == ["pre-push"]
    assert {"pre-commit", "commit-msg", "pre-push"} == set(hooks["default_install_hook_types"])
    pipeline = yaml.safe_load((ROOT / ".github" / "workflows" / "pipeline.yml").read_text())
    steps = [step for step in pipeline["jobs"]["check"]["steps"] if "git_names.py" in step.get("run", "")]
    assert [step["if"] for step in steps] == ["github.event_name == 'pull_request'"]
