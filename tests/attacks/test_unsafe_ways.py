"""Ways that others took, and that led to holes: tpm2-tools as a judge, a reader that runs what it reads, a parser that nobody fuzzed."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house.test_house import ROOT, place, product

UNSAFE_MODULES = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "jsonpickle", "yaml", "ruamel", "xml", "lxml"}
EXPAT = ["verifier/packages/repository.py xml.parsers", "writ/formats/xmldsig.py xml.parsers"]
"""The readers of XML: expat itself, and a document type declaration, without which there is no entity to expand, is refused by both."""
UNSAFE_CALLS = {"eval", "exec", "__import__"}


def unsafe_readers(tree: ast.Module) -> Iterator[tuple[ast.AST, str]]:
    """Every import of a reader that can run what it reads, or that expands without bound; every call that runs text."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from ((node, alias.name) for alias in names if alias.name.split(".")[0] in UNSAFE_MODULES)
            case ast.ImportFrom(module=str(module)) if module.split(".")[0] in UNSAFE_MODULES:
                yield node, module
            case ast.Name(id=name, ctx=ast.Load()) if name in UNSAFE_CALLS:
                yield node, name


def tpm_programs(tree: ast.Module) -> Iterator[tuple[ast.AST, str]]:
    """Every text that names a program of tpm2-tools."""
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(text) | bytes(text)) if (
                str(text).strip("b'\"").split("/")[-1].startswith("tpm2_") and text != "tpm2_pytss"
            ):
                yield node, str(text)


def test_no_product_code_asks_a_program_of_tpm2_tools() -> None:
    """CVE-2024-29039: `tpm2_checkquote` of Debian 12 does not compare the selection in the file with the signed one."""
    assert [f"{place(path, node)} {what}" for path, tree in product().items() for node, what in tpm_programs(tree)] == []


def test_no_product_code_reads_with_what_runs_what_it_reads() -> None:
    """CVE-2017-18342."""
    found = [
        (f"{path.relative_to(ROOT)} {what}", place(path, node)) for path, tree in product().items() for node, what in unsafe_readers(tree)
    ]
    assert [where for what, where in found if what not in EXPAT] == []
    assert sorted(what for what, _ in found) == EXPAT


@pytest.mark.parametrize("code", ["run(['tpm2_checkquote', '-u', ak])", "x = '/usr/bin/tpm2_eventlog'", "x = b'tpm2_quote'"])
def test_a_program_of_tpm2_tools_is_found(code: str) -> None:
    assert len(list(tpm_programs(ast.parse(code)))) == 1


@pytest.mark.parametrize("code", ["import pickle", "import xml.sax as s", "from yaml import load", "eval(text)", "f = exec"])
def test_an_unsafe_reader_is_found(code: str) -> None:
    assert len(list(unsafe_readers(ast.parse(code)))) == 1


# --- parsers ------------------------------------------------------------------------------------------------------------


def parsers(tree: ast.Module) -> list[str]:
    """The functions of a module that read bytes or text: named parse or parse_…, their first argument bytes or str."""
    return [
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
        and (node.name == "parse" or node.name.startswith("parse_"))
        and node.args.args
        and ast.unparse(node.args.args[0].annotation or ast.Constant("")) in ("bytes", "str", "bytes | str", "str | bytes")
    ]


def fuzzed(folder: Path) -> set[str]:
    """Every name in the tests that call on `assert_parser_is_total` or hypothesis, and in the specimens that they read."""
    found: set[str] = set()
    for path in sorted(folder.rglob("*.py")):
        text = path.read_text()
        if "assert_parser_is_total(" in text or "@given(" in text or path.name == "specimens.py":
            found |= {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
    return found


def test_every_parser_is_fuzzed() -> None:
    """CVE-2017-18342, go-attestation 1bd9b0f: a new parser comes with the test that feeds it rubbish."""
    known = fuzzed(ROOT / "tests")
    found = {
        f"{path.relative_to(ROOT)} {name}": name for path, tree in product().items() if "formats" in path.parts for name in parsers(tree)
    }
    assert len(found) > 40
    assert [where for where, name in found.items() if name not in known] == []


def test_a_parser_without_a_test_is_found(tmp_path: Path) -> None:
    (tmp_path / "test_one.py").write_text("assert_parser_is_total(parse_one, b'')")
    (tmp_path / "test_two.py").write_text("parse_two(b'')")
    assert [
        name
        for name in parsers(ast.parse("def parse_one(data: bytes): ...\ndef parse_two(text: str): ..."))
        if name not in fuzzed(tmp_path)
    ] == ["parse_two"]
