"""`./run mutate MODULE`: does a test notice when a check of the module is weakened?

Each mutant is the module with one change (a comparison turned, a guard removed, an operand dropped, a number one higher), compiled
in memory and given to the pure tests in a process of its own: the tree is never touched. Results go to .mutants/ as they come, so
that an interrupted run goes on where it stopped; a changed module or test starts anew. A survivor that weakens nothing is listed
with its reason in tools/mutants.toml.

Exit status: 0 no survivor but the listed ones, 1 survivors, 2 misuse, 3 could not.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import hashlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import resource
import signal
import sys
import time
import tomllib
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
RESULTS: Final = ROOT / ".mutants"
ACCEPTED: Final = ROOT / "tools" / "mutants.toml"
PLUGINS_LEFT_OUT: Final = ("cacheprovider", "xdist", "anyio", "schemathesis")
"""They cost more than the tests of one mutant."""
PYTEST: Final = (
    *("-x", "-q", "--hypothesis-profile=mutate", "-W", "ignore::pytest.PytestAssertRewriteWarning"),
    *(word for plugin in PLUGINS_LEFT_OUT for word in ("-p", f"no:{plugin}")),
)
PURE: Final = ("-m", "not swtpm and not cgroup", "-o", "addopts=--import-mode=importlib --strict-markers")
MEMORY: Final = 4 << 30
"""Bytes of address space for one mutant."""

_COMPARISONS: Final[dict[type[ast.cmpop], type[ast.cmpop]]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
_OPERATORS: Final[dict[type[ast.operator], type[ast.operator]]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.FloorDiv: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
_NOT_BEHAVIOUR: Final = frozenset({"annotation", "returns", "decorator_list", "type_params"})
"""Fields of nodes under which no mutant is made."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change: `make` turns the child at (`node` in walk order, `field`, `index`) into another."""

    line: int
    change: str
    node: int
    field: str
    index: int | None
    make: Callable[[ast.AST], ast.AST]

    def label(self, source: list[str]) -> str:
        """Its name in results and in the list of accepted ones: free of line numbers, which move."""
        return f"{source[self.line - 1].strip()} :: {self.change}"

    def code(self, source: str, path: Path) -> types.CodeType:
        """The module with this change, compiled."""
        tree = ast.parse(source)
        parent = list(ast.walk(tree))[self.node]
        if self.index is None:
            setattr(parent, self.field, self.make(getattr(parent, self.field)))
        else:
            children = getattr(parent, self.field)
            children[self.index] = self.make(children[self.index])
        return compile(ast.fix_missing_locations(tree), str(path), "exec")


# --- which changes ------------------------------------------------------------------------------------------------------


def mutants_of(source: str) -> list[Mutant]:
    """Every mutant of a module, in the order of its lines."""
    tree = ast.parse(source)
    silent = _under_silence(tree)
    found = [
        Mutant(getattr(child, "lineno", 0), change, number, field, index, make)
        for number, parent in enumerate(ast.walk(tree))
        if id(parent) not in silent
        for field, index, child in _children(parent)
        if id(child) not in silent
        for change, make in _changes(parent, field, child)
    ]
    return sorted(found, key=lambda mutant: mutant.line)


def _children(parent: ast.AST) -> Iterator[tuple[str, int | None, ast.AST]]:
    for field, value in ast.iter_fields(parent):
        if field in _NOT_BEHAVIOUR:
            continue
        if isinstance(value, ast.AST):
            yield field, None, value
        elif isinstance(value, list):
            yield from ((field, index, child) for index, child in enumerate(value) if isinstance(child, ast.AST))


def _under_silence(tree: ast.Module) -> set[int]:
    """Nodes whose change no verdict sees: annotations, decorators, what a raised error says, text."""
    silent: set[int] = set()
    for node in ast.walk(tree):
        subtrees: list[ast.AST] = []
        for field in _NOT_BEHAVIOUR:
            value = getattr(node, field, None)
            subtrees += [value] if isinstance(value, ast.AST) else value or []
        match node:
            case ast.Raise(exc=ast.AST() as error):
                subtrees.append(error)
            case ast.JoinedStr():
                subtrees.append(node)
        silent |= {id(inner) for subtree in subtrees for inner in ast.walk(subtree)}
    return silent


def _changes(parent: ast.AST, field: str, child: ast.AST) -> Iterator[tuple[str, Callable[[ast.AST], ast.AST]]]:
    if field == "test" and isinstance(parent, ast.If | ast.IfExp | ast.While):
        yield "condition is false", lambda _: ast.Constant(False)
        if not isinstance(parent, ast.While):
            yield "condition is true", lambda _: ast.Constant(True)
    if field == "ifs":
        yield "filter is dropped", lambda _: ast.Constant(True)
    match child:
        case ast.Compare(ops=operators):
            yield from ((f"{type(op).__name__} turned", _turned_comparison(at)) for at, op in enumerate(operators))
        case ast.BoolOp(op=operator, values=values):
            yield f"{type(operator).__name__} turned", _turned_boolean
            yield from ((f"operand {at + 1} dropped", _without_operand(at)) for at in range(len(values)))
        case ast.UnaryOp(op=ast.Not()):
            yield "not dropped", _operand
        case ast.BinOp(op=operator) if type(operator) in _OPERATORS:
            yield f"{type(operator).__name__} turned", _turned_operator
        case ast.Constant(value=bool()):
            yield "truth turned", lambda node: ast.Constant(not getattr(node, "value", None))
        case ast.Constant(value=int()):
            yield "number one higher", lambda node: ast.Constant(getattr(node, "value", 0) + 1)
        case ast.Raise() | ast.Expr(value=ast.Call()) | ast.Continue() | ast.Break() | ast.AugAssign():
            yield f"{type(child).__name__} removed", lambda _: ast.Pass()
        case ast.Return() if not isinstance(parent, ast.FunctionDef):
            yield "Return removed", lambda _: ast.Pass()


def _turned_comparison(at: int) -> Callable[[ast.AST], ast.AST]:
    def make(node: ast.AST) -> ast.AST:
        assert isinstance(node, ast.Compare)
        node.ops[at] = _COMPARISONS[type(node.ops[at])]()
        return node

    return make


def _without_operand(at: int) -> Callable[[ast.AST], ast.AST]:
    def make(node: ast.AST) -> ast.AST:
        assert isinstance(node, ast.BoolOp)
        del node.values[at]
        return node.values[0] if len(node.values) == 1 else node

    return make


def _turned_boolean(node: ast.AST) -> ast.AST:
    assert isinstance(node, ast.BoolOp)
    return ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)


def _turned_operator(node: ast.AST) -> ast.AST:
    assert isinstance(node, ast.BinOp)
    return ast.BinOp(node.left, _OPERATORS[type(node.op)](), node.right)


def _operand(node: ast.AST) -> ast.AST:
    assert isinstance(node, ast.UnaryOp)
    return node.operand


# --- trying one ---------------------------------------------------------------------------------------------------------


class _InMemory(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives `code` to whoever imports `name`."""

    def __init__(self, name: str, path: Path, code: types.CodeType) -> None:
        self._name, self._path, self._code = name, path, code

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._name:
            return None
        return importlib.util.spec_from_file_location(fullname, self._path, loader=self)

    def exec_module(self, module: types.ModuleType) -> None:
        exec(self._code, module.__dict__)  # noqa: S102 - a mutant is code


def preload() -> None:
    """Import what is heavy once, shared by every fork; of ours nothing, or a mutant would not be the one that is imported."""
    for heavy in ("pytest", "hypothesis", "cryptography.x509", "cbor2", "cedarpy"):
        with contextlib.suppress(ImportError):
            importlib.import_module(heavy)


def start(name: str, path: Path, code: types.CodeType, tests: list[str], cpu_seconds: int) -> int:
    """Forks a process that runs `tests` against `code`; its pid. It exits with pytest's status."""
    pid = os.fork()
    if pid:
        return pid
    try:
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))
        sys.meta_path.insert(0, _InMemory(name, path, code))
        import pytest

        os._exit(int(pytest.main([*PYTEST, *PURE, *tests])))
    finally:
        os._exit(70)


def outcomes(
    name: str, path: Path, codes: list[tuple[str, types.CodeType]], tests: list[str], jobs: int, seconds: float
) -> Iterator[tuple[str, str]]:
    """(label, "killed", "survived" or "timeout") as they come; a mutant that hangs or dies is noticed, hence not a survivor."""
    waiting = list(reversed(codes))
    running: dict[int, tuple[str, float]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                label, code = waiting.pop()
                running[start(name, path, code, tests, int(seconds) + 5)] = (label, time.monotonic() + seconds)
            for pid, (label, deadline) in list(running.items()):
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    del running[pid]
                    yield label, "survived" if os.waitstatus_to_exitcode(status) == 0 else "killed"
                elif time.monotonic() > deadline:
                    _end(pid)
                    del running[pid]
                    yield label, "timeout"
            time.sleep(0.005)
    finally:
        for pid in running:
            _end(pid)


def _end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


# --- the command --------------------------------------------------------------------------------------------------------


def tests_for(module: str) -> list[str]:
    """The test files of the module itself, then, where it gives verdicts, those of its room and the attacks."""
    *packages, leaf = module.split(".")
    own = sorted(ROOT.joinpath("tests", *packages).glob(f"test_{leaf}*.py"))
    rest = [ROOT / "tests" / "writ" / "verdict", ROOT / "tests" / "attacks"] if module.startswith("writ.verdict.") else []
    return [str(path.relative_to(ROOT)) for path in [*own, *(folder for folder in rest if folder.is_dir())]]


def digest_of(path: Path, tests: list[str]) -> str:
    """Of all that a result depends on: the module, its package and the tests."""
    state = hashlib.sha256(" ".join(tests).encode())
    for file in [path, Path(__file__), *sorted((ROOT / "writ").rglob("*.py")), *sorted((ROOT / "tests").rglob("*.py"))]:
        state.update(hashlib.sha256(file.read_bytes()).digest())
    return state.hexdigest()


def results_so_far(file: Path, digest: str) -> dict[str, str]:
    """Outcomes by label of an earlier run over the same bytes."""
    if not file.exists():
        return {}
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return {row["mutant"]: row["outcome"] for row in rows if row["of"] == digest}


def labelled(source: str) -> list[tuple[str, Mutant]]:
    """Mutants with distinct labels: the same change on the same text a second time gets a number."""
    lines = source.splitlines()
    seen: dict[str, int] = {}
    rows = []
    for mutant in mutants_of(source):
        label = mutant.label(lines)
        seen[label] = seen.get(label, 0) + 1
        rows.append((label if seen[label] == 1 else f"{label} #{seen[label]}", mutant))
    return rows


def main(arguments: list[str] | None = None) -> int:
    """Try every mutant of one module; print the survivors and the figure."""
    parser = argparse.ArgumentParser(prog="./run mutate", description="Does a test notice when a check of the module is weakened?")
    parser.add_argument("module", help="for example writ.verdict.quote")
    parser.add_argument("tests", nargs="*", help="test files or folders; default: the module's own, then its room's")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--restart", action="store_true", help="forget the results so far")
    asked = parser.parse_args(arguments)
    os.chdir(ROOT)
    path = ROOT.joinpath(*asked.module.split(".")).with_suffix(".py")
    if not path.exists():
        print(f"mutate: expected a module of this tree, got {asked.module}", file=sys.stderr)
        return 2
    tests = asked.tests or tests_for(asked.module)
    if not tests:
        print(f"mutate: expected tests/{asked.module.replace('.', '/')}, found none; name the tests", file=sys.stderr)
        return 2
    source = path.read_text()
    rows = labelled(source)
    file = RESULTS / f"{asked.module}.jsonl"
    RESULTS.mkdir(exist_ok=True)
    if asked.restart:
        file.unlink(missing_ok=True)
    digest = digest_of(path, tests)
    known = results_so_far(file, digest)

    preload()
    started = time.monotonic()
    [(_, plain)] = outcomes(asked.module, path, [("unchanged", compile(source, str(path), "exec"))], tests, 1, 600)
    took = time.monotonic() - started
    if plain != "survived":
        print(f"mutate: expected the tests to pass on the unchanged module, got {plain}: {' '.join(tests)}", file=sys.stderr)
        return 3

    todo = [(label, mutant.code(source, path)) for label, mutant in rows if label not in known]
    with file.open("a") as log:
        for count, (label, outcome) in enumerate(outcomes(asked.module, path, todo, tests, asked.jobs, 10 + 4 * took), 1):
            known[label] = outcome
            log.write(json.dumps({"of": digest, "mutant": label, "outcome": outcome}) + "\n")
            log.flush()
            if sys.stderr.isatty():
                print(f"\r{asked.module}: {count}/{len(todo)}", end="", file=sys.stderr, flush=True)
    return report(asked.module, rows, known)


def report(module: str, rows: list[tuple[str, Mutant]], known: dict[str, str]) -> int:
    """Print each survivor that is not accepted, stale acceptances, and the figure."""
    accepted: dict[str, str] = tomllib.loads(ACCEPTED.read_text()).get(module, {}) if ACCEPTED.exists() else {}
    survivors = [(label, mutant) for label, mutant in rows if known[label] == "survived"]
    open_ones = [(label, mutant) for label, mutant in survivors if label not in accepted]
    stale = accepted.keys() - {label for label, _ in survivors}
    for label, mutant in open_ones:
        print(f"{module}:{mutant.line}: survived: {label}")
    for label in sorted(stale):
        print(f"{ACCEPTED.name}: no such survivor of {module}: {label}")
    noticed = len(rows) - len(survivors)
    print(f"{module}: {len(rows)} mutants, {noticed} noticed, {len(survivors) - len(open_ones)} accepted, {len(open_ones)} survived")
    return 1 if open_ones or stale else 0


if __name__ == "__main__":
    sys.exit(main())
