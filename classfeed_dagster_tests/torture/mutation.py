"""Mutation testing of the modules that decide: each small wrong change must be noticed by some quick test.

A mutant exists in the memory of one forked process (an import hook returns the changed source), so no file is
touched and the working tree stays usable. Only the tests that reach the mutated line run, the fastest first.

    python -m classfeed_dagster_tests.torture.mutation --sample 200 --seconds 1800 --out mutants.json
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import functools
import importlib.abc
import importlib.machinery
import io
import json
import multiprocessing
import os
import random
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TESTS = "classfeed_dagster_tests"
# Decision modules by room, and where their tests are. Declarations (columns, mapping tables, manifests' fields) are
# data, for which the contract tests are the judge.
ROOMS: dict[str, tuple[list[str], list[str]]] = {
    "consent": (
        ["bigsite/consent.py", "domains/consented_portfolios.py"],
        ["bigsite/test_consent.py", "domains/test_consented_portfolios.py", "bigsite/test_snapshot.py"],
    ),
    "domains": (
        ["domains/breaches.py", "domains/exact.py", "domains/movement_transactions.py", "domains/investment_holdings.py",
         "domains/account_balances.py", "domains/securities.py", "domains/slice.py", "domains/identifiers.py",
         "schedules.py", "trading_days.py"],
        ["domains", "test_schedules.py", "test_trading_days.py"],
    ),
    "documents": (
        ["documents/epi_value_checks.py", "documents/epi_reader.py", "documents/epi_totals.py", "documents/epi_writer.py",
         "documents/epi_validator.py", "documents/xsd_regex.py", "documents/document_format.py"],
        ["documents/test_epi_value_checks.py", "documents/test_epi_mapping.py", "documents/test_epi_reader.py",
         "documents/test_epi_writer.py", "documents/test_epi_limits.py", "documents/test_xsd_regex.py",
         "documents/test_prevalidation.py", "documents/test_document_format.py"],
    ),
    "delivery": (
        ["delivery/plan.py", "delivery/publish.py", "delivery/chain.py", "delivery/state.py", "delivery/gate.py",
         "delivery/checks.py", "delivery/pages.py", "delivery/quarantine.py", "delivery/approve_removals.py",
         "delivery/verify.py", "delivery/build.py", "delivery/pages.py", "delivery/prevalidation.py", "delivery/shards.py",
         "delivery/shards.py"],
        ["delivery"],
    ),
    "reconciliation": (
        ["reconciliation/compare.py", "reconciliation/rules.py", "reconciliation/explain.py"],
        ["reconciliation"],
    ),
}  # fmt: skip
# What every child would import for itself: half of a short test's time.
PRELOAD = ["pytest", "polars", "sqlalchemy", "lxml.etree", "pydantic", "pyarrow.parquet", "pyarrow.compute", "psycopg",
           "boto3", "classfeed_dagster_tests.torture.calendar", "hypothesis.core", "hypothesis.strategies", "pytest_bdd",
           "structlog.dev", "anyio.pytest_plugin", "xdist.plugin", "pandas", "yaml", "dateutil.parser"]  # fmt: skip

_HARNESS_BROKE = 77
_NOT_FOUND = 4  # pytest's own

_COMPARISONS: dict[type[ast.cmpop], list[type[ast.cmpop]]] = {
    ast.Lt: [ast.LtE, ast.GtE], ast.LtE: [ast.Lt, ast.Gt], ast.Gt: [ast.GtE, ast.LtE], ast.GtE: [ast.Gt, ast.Lt],
    ast.Eq: [ast.NotEq], ast.NotEq: [ast.Eq], ast.Is: [ast.IsNot], ast.IsNot: [ast.Is], ast.In: [ast.NotIn],
    ast.NotIn: [ast.In],
}  # fmt: skip
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult, ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr,
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One change: the ``at``-th place in its module, and what was done there."""

    room: str
    module: str
    at: int
    line: int
    change: str


def _skipped(node: ast.AST) -> bool:
    # Messages and declarations are not decisions.
    if isinstance(node, (ast.Raise, ast.JoinedStr, ast.Assert, ast.AnnAssign, ast.Import, ast.ImportFrom)):
        return True
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return True
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _changes(node: ast.AST) -> Iterator[tuple[str, Any]]:
    """Yield (name, function that changes the node in place) of each mutation of ``node``."""

    def put(**values: Any) -> Any:
        def change(target: ast.AST) -> None:
            for name, value in values.items():
                setattr(target, name, value)

        return change

    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        for other in _COMPARISONS[type(node.ops[0])]:
            yield f"{type(node.ops[0]).__name__} -> {other.__name__}", put(ops=[other()])
    elif isinstance(node, ast.BoolOp):
        other_op = ast.Or if isinstance(node.op, ast.And) else ast.And
        yield f"{type(node.op).__name__} -> {other_op.__name__}", put(op=other_op())
    elif isinstance(node, (ast.BinOp, ast.AugAssign)) and type(node.op) in _ARITHMETIC:
        swapped = _ARITHMETIC[type(node.op)]
        yield f"{type(node.op).__name__} -> {swapped.__name__}", put(op=swapped())
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.Invert, ast.USub)):
        replacement = ast.UAdd() if isinstance(node.op, ast.USub) else None
        if replacement is not None:
            yield "-x -> x", put(op=replacement)
        elif isinstance(node.op, ast.Not):
            yield "not x -> bool(x)", put(operand=ast.UnaryOp(ast.Not(), node.operand))
        else:
            yield "~x -> ~~x", put(operand=ast.UnaryOp(ast.Invert(), node.operand))
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield f"{node.value} -> {not node.value}", put(value=not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int):
        yield f"{node.value} -> {node.value + 1}", put(value=node.value + 1)
    elif isinstance(node, (ast.If, ast.IfExp, ast.While)):
        yield "condition negated", put(test=ast.UnaryOp(ast.Not(), node.test))
    elif isinstance(node, ast.Return) and node.value is not None and not isinstance(node.value, ast.Constant):
        yield "return None", put(value=ast.Constant(None))
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield "statement removed", put(value=ast.Constant(None))
    elif isinstance(node, ast.For):
        yield "loop over nothing", put(iter=ast.Tuple([], ast.Load()))
    elif isinstance(node, ast.Break):
        yield "break -> continue", "continue"
    elif isinstance(node, ast.Continue):
        yield "continue -> break", "break"


def _places(tree: ast.Module) -> list[tuple[ast.AST, str, Any]]:
    matches: list[tuple[ast.AST, str, Any]] = []

    def visit(node: ast.AST, *, inside: bool) -> None:
        if _skipped(node):
            return
        deeper = inside or isinstance(node, (ast.FunctionDef, ast.Lambda))
        if inside:
            matches.extend((node, name, change) for name, change in _changes(node))
        for field, value in ast.iter_fields(node):
            defines = isinstance(node, (ast.FunctionDef, ast.Lambda))
            if field in ("decorator_list", "annotation", "returns") or (field == "args" and defines):
                continue
            children = value if isinstance(value, list) else [value]
            for child in children:
                if isinstance(child, ast.AST):
                    visit(child, inside=deeper)

    visit(tree, inside=False)
    return matches


def mutants(room: str) -> list[Mutant]:
    """Return every mutant of a package, in order of place."""
    listed = []
    for module in ROOMS[room][0]:
        tree = ast.parse((ROOT / "classfeed_dagster" / module).read_text())
        for at, (node, change, _) in enumerate(_places(tree)):
            listed.append(Mutant(room, module, at, getattr(node, "lineno", 0), change))
    return listed


def mutated_source(mutant: Mutant) -> str:
    """Return the module's source with the change."""
    tree = ast.parse((ROOT / "classfeed_dagster" / mutant.module).read_text())
    node, _, change = _places(tree)[mutant.at]
    if isinstance(change, str):
        _replace_statement(tree, node, ast.Continue() if change == "continue" else ast.Break())
    else:
        # put() closures built on this very tree may hold children of the node itself: safe, they are its own.
        change(node)
    return ast.unparse(ast.fix_missing_locations(copy.deepcopy(tree)))


def _replace_statement(tree: ast.AST, old: ast.AST, new: ast.stmt) -> None:
    for parent in ast.walk(tree):
        for _, value in ast.iter_fields(parent):
            if isinstance(value, list) and old in value:
                value[value.index(old)] = ast.copy_location(new, old)
                return


class _Hook(importlib.abc.MetaPathFinder, importlib.abc.SourceLoader):  # type: ignore[misc]  # typeshed's own bases
    def __init__(self, name: str, path: Path, source: str) -> None:
        self.name, self.path, self.source = name, path, source

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != self.name:
            return None
        return importlib.machinery.ModuleSpec(name, self, origin=str(self.path))

    def get_filename(self, fullname: str) -> str:
        return str(self.path)

    def get_data(self, path: Any) -> bytes:
        return self.source.encode()


def _child(mutant: Mutant | None, tests: list[str]) -> None:
    try:
        _run_tests(mutant, tests)
    except BaseException:
        os._exit(_HARNESS_BROKE)


def _run_tests(mutant: Mutant | None, tests: list[str]) -> None:
    os.setsid()
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = tempfile.gettempdir()
    os.environ["CLASSFEED_TEST_EXAMPLES"] = "full"
    assert not [name for name in sys.modules if name.startswith("classfeed_dagster.")]
    if mutant is not None:
        name = "classfeed_dagster." + mutant.module.removesuffix(".py").replace("/", ".")
        sys.meta_path.insert(0, _Hook(name, ROOT / "classfeed_dagster" / mutant.module, mutated_source(mutant)))
    import pytest

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        code = pytest.main(
            [*tests, "-x", "-q", "--no-header", "-p", "no:randomly", "-p", "no:cov", "--tb=no",
             "-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of plugins that are preloaded
        )  # fmt: skip
    os._exit(int(code))


Batch = list[tuple[str, float]]  # tests with their seconds


@dataclass
class Reach:
    """Tests by the line that they reach, with their durations."""

    lines: dict[str, dict[int, list[str]]]
    seconds: dict[str, float]

    def tests(self, mutant: Mutant) -> list[Batch]:
        """Return the tests in batches, the fastest first: tests that reach the line, then the module's others.

        What is computed once and kept is reached by one test alone, and others would notice.
        """
        reached = self.lines.get(mutant.module, {})
        # A statement over several lines is recorded at its first one: look back a little.
        lines = [line for line in range(mutant.line, max(mutant.line - 12, 0), -1) if reached.get(line)]
        nearest = set(reached[lines[0]]) if lines else set()
        everyone = {test for names in reached.values() for test in names}
        near, others = (
            sorted(((test, self.seconds.get(test, 9.0)) for test in some), key=lambda item: (item[1], item[0]))
            for some in (nearest, everyone - nearest)
        )
        # The fastest few kill most.
        return [batch for batch in (near[:25], near[25:], others) if batch]


def measure(room: str) -> Reach:
    """Run the room's quick tests once with coverage by test."""
    import coverage

    with tempfile.TemporaryDirectory(prefix="classfeed-mutation-") as folder:
        data, junit = Path(folder) / "coverage", Path(folder) / "junit.xml"
        config = Path(folder) / "rc"
        config.write_text("[run]\nbranch = False\nconcurrency = thread\nsource = classfeed_dagster\n")
        subprocess.run(
            [sys.executable, "-m", "pytest", *[f"{TESTS}/{name}" for name in ROOMS[room][1]], "-q", "-m",
             "not slow and not torture and not nightly", "-k", "not s3", "--cov=classfeed_dagster",
             f"--cov-config={config}", "--cov-context=test", "--cov-report=", "--cov-fail-under=0",
             f"--junitxml={junit}"],
            cwd=ROOT, env={**os.environ, "COVERAGE_FILE": str(data)}, check=False, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        result = coverage.CoverageData(str(data))
        result.read()
        lines: dict[str, dict[int, list[str]]] = {}
        for module in ROOMS[room][0]:
            contexts = result.contexts_by_lineno(str(ROOT / "classfeed_dagster" / module))
            lines[module] = {
                line: sorted({name.rpartition("|")[0] for name in names if name}) for line, names in contexts.items()
            }
        seconds, failing = {}, _not_collected(room, lines)
        for case in ET.parse(junit).iter("testcase"):
            name = f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}"
            seconds[name] = float(case.get("time", 0))
            if case.find("failure") is not None or case.find("error") is not None:
                failing.add(name)  # it would "notice" every mutant
        lines = {
            module: {line: [name for name in names if name not in failing] for line, names in by_line.items()}
            for module, by_line in lines.items()
        }
        return Reach(lines, seconds)


def _not_collected(room: str, lines: dict[str, dict[int, list[str]]]) -> set[str]:
    # Names in the coverage data that pytest wouldn't find again, such as generated ones.
    command = [sys.executable, "-m", "pytest", *[f"{TESTS}/{name}" for name in ROOMS[room][1]], "--collect-only", "-q"]
    listed = set(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.splitlines())
    return {name for by_line in lines.values() for names in by_line.values() for name in names} - listed


def judge(mutant: Mutant, batches: list[Batch]) -> str:
    """Return the result: killed, survived, timeout (as good as killed), unreached; or unjudged, if the tests changed meanwhile."""
    if not batches:
        return "unreached"
    for some in batches:  # one after the other, until one notices
        names = [name for name, _ in some]
        process = _context().Process(target=_child, args=(mutant, names))
        process.start()
        # Generous: what a busy machine makes late would count as noticed.
        process.join(30 + 10 * sum(seconds for _, seconds in some))
        if process.is_alive():
            os.killpg(process.pid, 9)
            process.join()
            return "timeout"
        # 1: tests failed; 2: they could not even be collected. 4: pytest found none of that name, which means the same
        # if it does find them without the mutant. Any other code proves nothing.
        if process.exitcode in (1, 2) or (process.exitcode == _NOT_FOUND and _exit_code(names) == 0):
            return "killed"
        if process.exitcode != 0:
            return "unjudged"
    return "survived"


def measured(room: str) -> Reach:
    """Return the result of ``measure``. Without a mutant every test must pass, or RuntimeError."""
    reach = measure(room)
    code = _exit_code(sorted({test for lines in reach.lines.values() for names in lines.values() for test in names}))
    if code != 0:
        raise RuntimeError(f"{room}: tests fail without any mutant (exit code {code})")
    return reach


def _exit_code(tests: list[str]) -> int | None:
    # Without a mutant.
    process = _context().Process(target=_child, args=(None, tests))
    process.start()
    process.join()
    code: int | None = process.exitcode
    return code


@functools.cache
def _context() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    return context


def _judged(mutant: Mutant, tests: list[Batch], until: float) -> str | None:
    return judge(mutant, tests) if time.time() < until else None


def run(rooms: list[str], sample: int, seconds: float, seed: int, out: Path | None, jobs: int) -> list[dict[str, Any]]:
    """Judge ``sample`` mutants of the rooms, ``jobs`` at once, in an order fixed by ``seed``, until ``seconds`` are over."""
    everyone = [mutant for room in rooms for mutant in mutants(room)]
    chosen = random.Random(seed).sample(everyone, min(sample, len(everyone)))
    until = time.time() + seconds
    results: list[dict[str, Any]] = []
    # Processes, since the exit codes of multiprocessing's children can't be awaited by several threads.
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        needed = sorted({mutant.room for mutant in chosen})
        reaches = dict(zip(needed, pool.map(measured, needed), strict=True))
        tests = [reaches[mutant.room].tests(mutant) for mutant in chosen]
        for mutant, result in zip(chosen, pool.map(_judged, chosen, tests, repeat(until)), strict=True):
            if result is None:
                break
            source = (ROOT / "classfeed_dagster" / mutant.module).read_text().splitlines()[mutant.line - 1].strip()
            results.append({**asdict(mutant), "result": result, "source": source})
            if out is not None:
                out.write_text(json.dumps({"all": len(everyone), "seed": seed, "results": results}, indent=1))
    return results


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description="mutation testing of the modules that decide")
    parser.add_argument("rooms", nargs="*", default=list(ROOMS))
    parser.add_argument("--sample", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=1800)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="mutants judged at once")
    parser.add_argument("--out", type=Path, help="write every mutant and what became of it here, as JSON")
    parser.add_argument("--require", type=int, default=0, help="fail below this share noticed, in percent")
    options = parser.parse_args()
    results = run(options.rooms, options.sample, options.seconds, options.seed, options.out, options.jobs)
    for room in options.rooms:
        mine = [result for result in results if result["room"] == room and result["result"] != "unjudged"]
        dead = sum(row["result"] in ("killed", "timeout") for row in mine)
        if mine:
            print(f"{room}: {dead} of {len(mine)} mutants noticed ({100 * dead // len(mine)} %)")
    for outcome in results:
        if outcome["result"] in ("survived", "unreached"):
            print(
                f"{outcome['result']}: {outcome['module']}:{outcome['line']} {outcome['change']}: {outcome['source']}"
            )
    noticed = sum(result["result"] in ("killed", "timeout") for result in results)
    if 100 * noticed < options.require * len(results):
        raise SystemExit(f"only {noticed} of {len(results)} mutants were noticed, {options.require} % are required")


if __name__ == "__main__":
    main()
