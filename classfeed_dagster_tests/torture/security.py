"""Rules of security that a reader of the source can check: SQL, pickles, parsers, and where files may be written."""

from __future__ import annotations

import ast
import contextlib
import datetime as dt
import random
from collections.abc import Iterator
from pathlib import Path

from classfeed_dagster.store import InvalidKeyError, LocalStore, check_key
from classfeed_dagster.stored_records import quarantine_key
from classfeed_dagster_tests.torture.outcome import Budget, Row

PACKAGE = Path(__file__).parents[2] / "classfeed_dagster"
# Rooms whose SQL reaches bigsite, with values that customers or other systems chose.
ON_THE_WAREHOUSE = "warehouse"  # its own tables; every other package may query bigsite
FORBIDDEN = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
ASKS = {"execute", "text", "exec_driver_sql", "executemany", "scalar", "scalars", "copy"}
_SQL = ("SELECT ", "INSERT ", "UPDATE ", "DELETE ", "COPY ", "WITH ", "MERGE ", "TRUNCATE ")

Found = tuple[str, int, str]  # file, line, what


def sources() -> Iterator[tuple[str, ast.Module]]:
    """Return every module of the package, parsed."""
    for path in sorted(PACKAGE.rglob("*.py")):
        yield str(path.relative_to(PACKAGE)), ast.parse(path.read_text())


def pickles() -> list[Found]:
    """Return the imports of anything that runs code out of data, and ``eval``, ``exec`` and unsafe YAML."""
    matches: list[Found] = []
    for name, tree in sources():
        for node in ast.walk(tree):
            modules: list[str] = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [node.module or ""]
            matches += [
                (name, getattr(node, "lineno", 0), module)
                for module in modules
                if module.partition(".")[0] in FORBIDDEN
            ]
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                unsafe = called == "yaml.load" and not any("Safe" in ast.unparse(arg) for arg in node.args[1:])
                if called in ("eval", "exec", "yaml.unsafe_load", "yaml.full_load") or unsafe:
                    matches.append((name, node.lineno, called))
    return matches


def values_in_sql() -> list[Found]:
    """Return texts of SQL with a value of the run time in them, where bigsite is asked. Names in capitals are constants."""
    matches: list[Found] = []
    for name, tree in sources():
        if name.partition("/")[0] == ON_THE_WAREHOUSE:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                first = node.values[0]
                text = str(first.value).lstrip() if isinstance(first, ast.Constant) else ""
                if str(text).upper().startswith(_SQL):
                    inside = [value.value for value in node.values if isinstance(value, ast.FormattedValue)]
                    matches += [(name, node.lineno, ast.unparse(item)) for item in inside if not _constant(item)]
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ASKS:
                for argument in node.args[:1]:
                    if isinstance(argument, ast.BinOp) and isinstance(argument.op, (ast.Mod, ast.Add)):
                        matches.append((name, node.lineno, ast.unparse(argument)))
                    if isinstance(argument, ast.Call) and ast.unparse(argument.func).endswith(".format"):
                        matches.append((name, node.lineno, ast.unparse(argument)))
    return matches


def _constant(node: ast.expr) -> bool:
    name = ast.unparse(node).rpartition(".")[2]
    return isinstance(node, (ast.Name, ast.Attribute)) and name.lstrip("_").isupper()


# Files that put SQL together at run time, looked at by a person: what they put in.
_OWN_WORDS = "fragments and names that this very file declares"
_RECONCILES = "its own names; recipient and audience match a pattern first, days and instants are typed"
REVIEWED = {
    "acknowledgements/warehouse.py": "the feed's name and a date as checked literals; asked of the warehouse",
    "tracing/numbers.py": "declared columns and checked literals; asked of the warehouse, not of bigsite",
    "cli/preflight.py": "the name of the data team's table, a setting; asked of Snowflake, not of bigsite",
    "reconciliation/evidence.py": "names that this very file declares by ledger",
    "reconciliation/other_deliveries.py": "files of its own temporary folder",
    "bigsite/ledgers.py": _OWN_WORDS,
    "bigsite/source_connection.py": "the query of a module constant; values travel as parameters",
    "source_contract/live_schema.py": _OWN_WORDS,
    "reconciliation/source_queries.py": _RECONCILES,
    "reconciliation/compare.py": "columns named by rule files, quoted; data only in tables",
    "reconciliation/data_team.py": _RECONCILES,
    "reconciliation/expected_sql.py": _RECONCILES,
    "reconciliation/result.py": "files of its own temporary folder",
    "reconciliation/landing.py": _RECONCILES,
    "reconciliation/metrics.py": "files of its own temporary folder",
    "reconciliation/movements_sql.py": _RECONCILES,
    "reconciliation/three_way.py": "files of its own temporary folder; snapshot ids are ours",
    "reconciliation/sent_identity.py": "queries of a module constant; path and numbers travel as parameters",
    "reconciliation/source.py": _RECONCILES,
    "simulation/writing.py": "names of bigsite's declared tables",
}

HOSTILE = [
    "../../etc/passwd", "..", ".", "/etc/passwd", "a/../../b", "a\\..\\b", "C:\\x", "a\x00b", "", " ", "a b", "%2e%2e%2f",
    "..%2f", "~root", "$HOME", "`id`", "a\nb", ".part-x", "é", "\u2215\u2215", "..\u2044x", "x" * 5000, "a//b", "-rf", "\u202e", "CON",
    "manifest.json", "SW1/../SW2", "\ud800", "*", "?", "<", "|",
]  # fmt: skip


def escapes(folder: Path, tries: int) -> tuple[int, list[str]]:
    """Write quarantine records, and keys, named by hostile portfolio numbers; whatever lands outside the root."""
    root, canary = folder / "inside" / "root", folder / "inside"
    store, chance, broken = LocalStore(root), random.Random(7), []
    store.put("x", b"x")
    alphabet = "./\\:%~ \x00aA9_-=\n\u2215é"
    numbers = HOSTILE + ["".join(chance.choices(alphabet, k=chance.randint(1, 12))) for _ in range(tries)]
    for number in numbers:
        keys = [f"delivered/{number}"]
        with contextlib.suppress(UnicodeEncodeError):  # no such text comes out of a database
            keys.append(quarantine_key("feed", dt.date(2023, 1, 3), number))
        for key in keys:
            try:
                name = check_key(key)
            except InvalidKeyError:
                continue
            path = Path(store.location(name))
            if root not in Path(str(path)).resolve().parents:
                broken.append(f"{number[:40]!r} becomes {path}")
                continue
            with contextlib.suppress(OSError):  # the folder of another key; a name too long for this disk
                store.put(name, b"x")
    outside = [path for path in canary.iterdir() if path != root] + [
        path for path in folder.iterdir() if path != canary
    ]
    return len(numbers), broken + [f"{path} lies outside the root" for path in outside]


def attack(budget: Budget, folder: Path) -> Iterator[Row]:
    """Check all rules, in seconds."""
    count = sum(1 for _ in sources())
    yield Row("security", "pickles, eval, unsafe YAML", count, "none in the package", [f"{f}" for f in pickles()])
    yield Row(
        "security", "values inside SQL where bigsite is asked", count, "bound parameters only; texts are constants",
        [str(place) for place in values_in_sql() if place[0] not in REVIEWED],
    )  # fmt: skip
    tried, broken = escapes(folder, 3000)
    yield Row("security", "portfolio numbers that try to leave the store's root", tried, "none does", broken)
