"""The house, where import-linter cannot see: allow-lists, ambient calls, proof types, assertions in the product."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("writ", "attestor", "verifier", "enforcer", "auditor")
ALLOWED = {  # third party, by room; the longest prefix wins. A new name here is an ADR.
    "writ.formats": {"cryptography", "cbor2"},
    "writ.verdict": {"cryptography", "cbor2", "cedarpy"},
    "writ.service": {"cryptography"},
    "attestor": {"cryptography", "tpm2_pytss", "watchfiles"},
    "verifier": {"cryptography", "fastapi", "starlette", "pydantic", "uvicorn"},
    "enforcer": {"cryptography", "h11", "h2", "httptools", "uvicorn"},
    "enforcer.adapters": {"agents", "claude_agent_sdk", "langchain", "langchain_core"},  # each in one file, which the enforcer never loads
    "auditor": {"cryptography"},
}
TYPES_ONLY = {"_typeshed"}  # exists for type checkers only
AMBIENT = {"open", "print", "input", "eval", "exec", "compile", "__import__", "hash", "id", "globals", "setattr", "breakpoint"}
AMBIENT_ATTRIBUTES = {"now", "utcnow", "today", "fromtimestamp", "astimezone", "from_private_bytes"}
RESULTS = {"AttestationResult", "Decision"}
"""Proof types whose names do not begin with Verified, Proven or Enrolled."""
COPIERS = {("dataclasses", "replace"), ("copy", "replace"), ("copy", "copy"), ("copy", "deepcopy")}


@cache
def product() -> dict[Path, ast.Module]:
    return {path: ast.parse(path.read_bytes()) for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))}


def is_pure(path: Path) -> bool:
    return path.relative_to(ROOT).parts[:2] in (("writ", "formats"), ("writ", "verdict"))


def place(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"


# --- what the rules find, as functions of a tree, so that each is shown to find a planted fault --------------------------


def ambient(tree: ast.Module) -> Iterator[tuple[ast.AST, str]]:
    """Every reach for a clock, a file, randomness, identity or a float; naming is enough, calling is not needed."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Load()) if name in AMBIENT:
                yield node, name
            case ast.Call(func=ast.Attribute(attr=name)) if name in AMBIENT_ATTRIBUTES or name.startswith("generate"):
                yield node, name
            case ast.Attribute(value=ast.Name(id="datetime" | "date"), attr=name) if name in AMBIENT_ATTRIBUTES:
                yield node, name
            case ast.Global():
                yield node, "global"
            case ast.Constant(value=float()):
                yield node, "float"


def proof_types(tree: ast.Module) -> set[str]:
    """Names of the proof types that a module of writ/verdict defines."""
    return {
        node.name
        for node in tree.body
        if isinstance(node, ast.ClassDef) and (node.name.startswith(("Verified", "Proven", "Enrolled")) or node.name in RESULTS)
    }


def mentions(tree: ast.Module, names: set[str]) -> bool:
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.ClassDef(name=name) | ast.alias(name=name) if name in names:
                return True
    return False


def constructions(tree: ast.Module, names: set[str]) -> Iterator[tuple[ast.AST, str]]:
    """Every call that makes a value of one of `names`, by its name or inside its class by `cls`."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)) if name in names:
                yield node, name
            case ast.ClassDef(name=name) if name in names:
                for inner in ast.walk(node):
                    match inner:
                        case ast.Call(func=ast.Name(id="cls")):
                            yield inner, name


def side_doors(tree: ast.Module, names: set[str]) -> Iterator[tuple[ast.AST, str]]:
    """Ways round the constructor in a module that handles one of `names`: copies with other fields, new names, raw allocation."""
    if not mentions(tree, names):
        return
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module="dataclasses" | "copy" as module, names=imported):
                yield from ((node, f"{module}.{alias.name}") for alias in imported if (module, alias.name) in COPIERS)
            case ast.Attribute(value=ast.Name(id="dataclasses" | "copy" as module), attr=name) if (module, name) in COPIERS:
                yield node, f"{module}.{name}"
            case ast.Attribute(attr="__replace__" | "__new__" | "__class__" as name):
                yield node, name
            case ast.alias(name=name, asname=str(other)) if name in names:
                yield node, f"{name} as {other}"
            case ast.Assign(value=ast.Name(id=name)) if name in names:
                yield node, f"another name for {name}"


# --- the house ----------------------------------------------------------------------------------------------------------


def test_third_party_imports_are_on_the_list() -> None:
    graph = grimp.build_graph(*ROOMS, include_external_packages=True, cache_dir=None)
    found = {}
    for room, allowed in ALLOWED.items():
        inside = {module for module in graph.modules if room_of(module) == room}
        used = {other.split(".")[0] for module in inside for other in graph.find_modules_directly_imported_by(module)}
        if extra := used - allowed - set(ROOMS) - set(sys.stdlib_module_names) - TYPES_ONLY:
            found[room] = extra

    assert found == {}


def room_of(module: str) -> str:
    """The longest name in `ALLOWED` that `module` is or lies in, or nothing."""
    return max((room for room in ALLOWED if module == room or module.startswith(room + ".")), key=len, default="")


def test_pure_code_reaches_for_nothing_ambient() -> None:
    found = [f"{place(path, node)} {what}" for path, tree in product().items() if is_pure(path) for node, what in ambient(tree)]

    assert found == []


def test_each_proof_type_is_made_in_one_place() -> None:
    """One constructor call in the product for each class of writ/verdict named Verified*, Proven*, Enrolled*, or a result."""
    trees = product()
    names = {name for path, tree in trees.items() if "verdict" in path.parts for name in proof_types(tree)}
    calls: dict[str, list[str]] = {name: [] for name in names}
    for path, tree in trees.items():
        for node, name in constructions(tree, names):
            calls[name].append(place(path, node))

    assert {name: places for name, places in calls.items() if len(places) != 1} == {}


def test_nothing_goes_round_the_constructor_of_a_proof_type() -> None:
    trees = product()
    names = {name for path, tree in trees.items() if "verdict" in path.parts for name in proof_types(tree)}
    found = [f"{place(path, node)} {what}" for path, tree in trees.items() for node, what in side_doors(tree, names)]

    assert found == []


def test_proof_types_are_frozen_and_slotted() -> None:
    loose = []
    for path, tree in product().items():
        for node in tree.body:
            if "verdict" in path.parts and isinstance(node, ast.ClassDef) and node.name in proof_types(tree):
                marks = {ast.unparse(keyword) for call in node.decorator_list if isinstance(call, ast.Call) for keyword in call.keywords}
                if not {"frozen=True", "slots=True"} <= marks:
                    loose.append(f"{place(path, node)} {node.name}")

    assert loose == []


def test_no_check_of_the_product_is_an_assertion() -> None:
    """`python -O` drops assert statements."""
    found = [place(path, node) for path, tree in product().items() for node in ast.walk(tree) if isinstance(node, ast.Assert)]

    assert found == []


def test_no_module_is_a_drawer() -> None:
    drawers = {"utils", "util", "helpers", "common", "manager", "misc"}

    assert [str(path.relative_to(ROOT)) for path in product() if drawers & {path.stem, *path.parts}] == []


# --- each rule finds its fault ------------------------------------------------------------------------------------------

PROOFS = {"VerifiedQuote"}


@pytest.mark.parametrize(
    "code, what",
    [
        ("open('x')", "open"),
        ("f = open", "open"),
        ("map(hash, x)", "hash"),
        ("datetime.now(UTC)", "now"),
        ("f = datetime.now", "now"),
        ("datetime.datetime.fromtimestamp(5)", "fromtimestamp"),
        ("ec.generate_private_key(curve)", "generate_private_key"),
        ("Ed25519PrivateKey.generate()", "generate"),
        ("def f():\n    global x\n    x = 1", "global"),
        ("x = 0.5", "float"),
    ],
)
def test_an_ambient_reach_is_found(code: str, what: str) -> None:
    assert [name for _, name in ambient(ast.parse(code))][:1] == [what]


@pytest.mark.parametrize(
    "code", ["VerifiedQuote(1)", "quote.VerifiedQuote(1)", "class VerifiedQuote:\n    def make(cls):\n        return cls(1)"]
)
def test_a_construction_is_found(code: str) -> None:
    assert [name for _, name in constructions(ast.parse(code), PROOFS)] == ["VerifiedQuote"]


@pytest.mark.parametrize(
    "code",
    [
        "from dataclasses import replace",
        "from dataclasses import replace as other",
        "dataclasses.replace(quote, pcrs=1)",
        "copy.replace(quote, pcrs=1)",
        "from copy import replace",
        "quote.__replace__(pcrs=1)",
        "object.__new__(VerifiedQuote)",
        "quote.__class__(1)",
        "from writ.verdict.quote import VerifiedQuote as Other",
        "Other = VerifiedQuote",
    ],
)
def test_a_way_round_the_constructor_is_found(code: str) -> None:
    tree = ast.parse(f"def handles(quote: VerifiedQuote) -> None: pass\n{code}")

    assert [what for _, what in side_doors(tree, PROOFS)] != []


def test_replacing_text_is_no_fault() -> None:
    assert list(side_doors(ast.parse("def f(q: VerifiedQuote) -> str:\n    return q.name.replace('a', 'b')"), PROOFS)) == []


def test_proof_types_are_recognised_by_name() -> None:
    tree = ast.parse("class VerifiedQuote: ...\nclass ProvenEntry: ...\nclass EnrolledHost: ...\nclass Decision: ...\nclass Quote: ...")

    assert proof_types(tree) == {"VerifiedQuote", "ProvenEntry", "EnrolledHost", "Decision"}
