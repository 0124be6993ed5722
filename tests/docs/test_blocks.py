"""Every fenced block of README.md and docs/ is run, or read by the loader it is written for. What is not known fails."""

from __future__ import annotations

import doctest
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any, Final

import pytest
import yaml  # type: ignore[import-untyped]  # PyYAML carries no types

from attestor.config import AttestorConfig
from enforcer import policies
from enforcer.config import EnforcerConfig
from enforcer.relying import config as relying_config
from enforcer.relying.config import RelyingConfig
from enforcer.relying.forward_auth import ENDPOINT
from tests.docs.blocks import ROOT, Block, all_blocks, blocks_of, commands, pages
from verifier.config import VerifierConfig
from verifier.reference_commands import roles_of
from writ.formats.errors import Unavailable
from writ.formats.manifest import parse_manifest
from writ.formats.policy_bundle import PolicyBundle, PolicySettings
from writ.formats.reason import REMEDIES
from writ.service import config
from writ.verdict import cedar

LANGUAGES: Final = {
    "sh": "run here, or one of the long verbs of ./run; those of docs/operations.md by test_operations.py",
    "sh host": "needs root, cgroup v2 and a TPM: the commands are held against the roles' own parsers; ./run demo runs the like",
    "sh peers": "needs Go and Node: tests/peers/test_relying.py runs it",
    "python": "a doctest",
    "toml": "read by the loader of its role, or as a manifest",
    "toml traefik": "read as TOML; no Traefik is at hand to run it",
    "nginx": "run by nginx in tests/peers/test_forward_auth.py",
    "yaml": "run by Envoy there",
    "yaml inventory": "held against the settings of the playbook and the loader of the role",
    "caddyfile": "run by Caddy there",
    "abnf": "test_texts.py",
    "cddl": "test_formats.py",
    "cedar": "loaded under the default schema",
    "text": "output and drawings, not run",
}
LONG_VERBS: Final = ("demo", "test", "lint")
"""Each has a test, or is one."""
ROLES: Final[dict[str, tuple[Any, str]]] = {
    "verifier": (VerifierConfig, "VERIFIER"),
    "attestor": (AttestorConfig, "ATTESTOR"),
    "enforcer": (EnforcerConfig, "ENFORCER"),
    "relying": (RelyingConfig, relying_config.PREFIX),
}
STORY: Final = "docs/operations.md"
BLOCKS: Final = all_blocks()


def of(info: str) -> pytest.MarkDecorator:
    found = [block for block in BLOCKS if block.info == info]
    return pytest.mark.parametrize("block", found, ids=str)


def test_every_block_names_a_language_that_is_known() -> None:
    assert [str(block) for block in BLOCKS if block.info not in LANGUAGES] == []


def test_every_known_language_is_used() -> None:
    assert {block.info for block in BLOCKS} == set(LANGUAGES)


def test_a_block_without_a_language_and_an_open_block_are_noticed() -> None:
    assert [block.info for block in blocks_of("page", "a\n```\nb\n```\n~~~sh\nc\n~~~\n")] == ["", "sh"]
    with pytest.raises(ValueError, match="page:2"):
        blocks_of("page", "a\n```sh\nb\n")


def test_the_links_between_our_pages_lead_somewhere() -> None:
    for page in pages():
        prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
        for target in re.findall(r"\]\(([^)#\s]+)", prose):
            assert "://" in target or (page.parent / target).exists(), f"{page.name}: {target}"


def verbs_of_run() -> set[str]:
    done = subprocess.run(["./run", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(re.findall(r"^  ([a-z]+) ", done.stdout, re.MULTILINE))


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.info == "sh" and block.page != STORY], ids=str)
def test_a_shell_block_runs(block: Block, tmp_path: Path) -> None:
    verbs = verbs_of_run()
    for line in commands(block):
        words = shlex.split(line)
        if words[0] == "./run" and words[1] in LONG_VERBS:
            assert words[1] in verbs, line
            continue
        (tmp_path / "run").write_text(f'#!/bin/sh\nexec {shlex.quote(str(ROOT / "run"))} "$@"\n')
        (tmp_path / "run").chmod(0o755)
        env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        done = subprocess.run(["sh", "-euc", line], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, (line, done.stderr)


@of("sh host")
def test_a_block_for_a_host_names_verbs_and_options_that_exist(block: Block, capsys: pytest.CaptureFixture[str]) -> None:
    for line in commands(block):
        role, *words = shlex.split(line)
        words = words[: words.index("--")] if "--" in words else words  # what stands behind is another program's
        assert os.access(Path(sys.executable).parent / role, os.X_OK), line
        assert help_of(role, words) == 0, (line, capsys.readouterr().err)
        shown = capsys.readouterr().out
        assert [word for word in words if word.startswith("--") and word not in ("--config", "--") and word not in shown] == [], line


def help_of(role: str, words: list[str]) -> int:
    """The exit code of `ROLE WORDS --help`, called in this process: an interpreter for each line costs a third of a second."""
    code: int = importlib.import_module(f"{role}.__main__").main([*words, "--help"])
    return code


@of("python")
def test_a_python_block_does_what_it_shows(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    test = doctest.DocTestParser().get_doctest(block.text, {}, str(block), block.page, block.line)
    assert test.examples, block
    report: list[str] = []
    assert doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=report.append).failed == 0, "".join(report)


@of("toml")
def test_a_toml_block_is_accepted_by_its_loader(block: Block, tmp_path: Path) -> None:
    named = re.match(r"# /etc/writ/([a-z]+)\.toml\n", block.text)
    if named is None:
        assert parse_manifest(block.text.encode()).components
        return
    path = tmp_path / "role.toml"
    path.write_text(block.text)
    if named[1] == "roles":
        with pytest.raises(Unavailable, match=r"prompts\.pub"):  # all of it is read but the key, which is made further down the page
            roles_of(path)
        return
    if named[1] == "cases":
        assert policies.cases([path])
        return
    kind, prefix = ROLES[named[1]]
    assert config.check(kind, path, {"CREDENTIALS_DIRECTORY": str(tmp_path)}, prefix) == []


@of("toml traefik")
def test_a_block_for_traefik_hands_on_what_we_answer(block: Block) -> None:
    asked = tomllib.loads(block.text)["http"]["middlewares"]["writ"]["forwardAuth"]
    assert asked["address"].endswith(ENDPOINT.decode())
    assert asked["trustForwardHeader"] is False
    assert asked["authResponseHeaders"] == ["X-Writ-Agent", "X-Writ-Instance", "X-Writ-Reference", "Content-Digest"]


@of("yaml inventory")
def test_a_block_for_an_inventory_is_of_settings_that_there_are(block: Block, tmp_path: Path) -> None:
    given = yaml.safe_load(block.text)
    assert set(given) <= set(yaml.safe_load((ROOT / "ansible/roles/release/defaults/main.yml").read_text()))
    made = {"issuer": "https://verifier.example.org", "policy_file": "/etc/writ/relying/policy.cose", **given["writ_relying_config"]}
    path = tmp_path / "relying.toml"
    path.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in made.items()))
    assert config.load(RelyingConfig, path, {}, relying_config.PREFIX).body == "claimed"


def test_each_role_has_its_configuration_shown() -> None:
    shown = {found[1] for block in BLOCKS if (found := re.match(r"# /etc/writ/([a-z]+)\.toml\n", block.text))}
    assert shown == {*ROLES, "roles", "cases"}


@of("cedar")
def test_a_cedar_block_is_a_policy_that_would_be_published(block: Block) -> None:
    schema = (ROOT / "verifier" / "default_policy" / "schema.cedarschema").read_text()
    loaded = cedar.load(PolicyBundle("billing", 1, 0, PolicySettings(), schema, block.text))
    assert len(loaded.ids) == block.text.count("@id(")


@of("cddl")
def test_a_cddl_block_stands_on_the_page_that_is_checked(block: Block) -> None:
    assert block.page == "docs/formats.md"


@of("abnf")
def test_an_abnf_block_stands_on_the_page_that_is_checked(block: Block) -> None:
    assert block.page == "docs/formats.md"


def commands_of_remedies() -> set[tuple[str, ...]]:
    quoted = [text for remedy in REMEDIES.values() for text in re.findall(r"`([^`]+)`", remedy)]
    words = [text.split() for text in quoted]
    return {(role, *(word for word in rest if word.startswith("--") or word.islower())) for role, *rest in words if role in ROLES}


@pytest.mark.parametrize("named", sorted(commands_of_remedies()), ids=" ".join)
def test_a_command_that_a_remedy_names_exists(named: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    role, *words = named
    assert help_of(role, [word for word in words if not word.startswith("--")]) == 0, capsys.readouterr().err
    shown = capsys.readouterr().out
    assert [word for word in words if word.startswith("--") and word not in shown] == []
