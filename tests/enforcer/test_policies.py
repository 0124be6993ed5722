"""`enforcer policy`: what a candidate says of cases and of what was recorded, told from what it does not say."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from enforcer.__main__ import main
from enforcer.config import EnforcerConfig
from enforcer.papers import keep
from tests.enforcer.scene import Scene
from verifier.policy_commands import DEFAULT_POLICY
from writ.formats.action import Action
from writ.formats.digest import Digest
from writ.formats.policy_bundle import CONTENT_TYPE, encode_bundle
from writ.verdict.schema import cedar_schema

TOOLS: Final = """@id("tools") permit(principal, action == Writ::Action::"tool.call", resource) when { context.attest_age <= 30 };
@id("no-wipe") forbid(principal, action == Writ::Action::"tool.call", resource == Writ::Resource::"mcp:notes/wipe");
@id("tokens") permit(principal, action == Writ::Action::"token.issue", resource == Writ::Audience::"tools");
"""
CASES: Final = """
[defaults]
agent = "spiffe://example.org/billing/agent/reporter"
context = { attest_age = 10 }

[[case]]
name = "notes are read"
action = "tool.call"
resource = "mcp:notes/read"
expect = "permit"
rule = "tools"

[[case]]
action = "tool.call"
resource = "mcp:notes/wipe"
expect = "refuse"
rule = "no-wipe"

[[case]]
action = "tool.call"
resource = "mcp:notes/read"
context = { attest_age = 31 }
expect = "refuse"

[[case]]
action = "token.issue"
resource = "tools"
context = { tpm_class = "software", attest_age = 1 }
expect = "error"
"""

Told = tuple[int, dict[str, Any]]
Run = Callable[..., Told]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """`enforcer policy …` with files of these contents, answered in JSON."""

    def made(*words: str, **files: str) -> Told:
        for name, text in files.items():
            (tmp_path / name.replace("_", ".")).write_text(text)
        paths = [str(tmp_path / word) if (tmp_path / word).is_file() else word for word in words]
        code = main(["policy", *paths, "--json"])
        out = capsys.readouterr().out
        return code, json.loads(out)

    return made


NOTES = json.dumps({"v": 1, "protocol": "2026-07-28", "tools": {"read": "00" * 32}, "prompts": {}, "resources": False, "completions": False,
                    "instructions": None})  # fmt: skip


def test_a_policy_that_names_a_tool_in_no_catalogue_is_among_the_findings(run: Run, tmp_path: Path) -> None:
    (tmp_path / "notes.mcp.json").write_text(NOTES)
    policy = 'permit(principal, action == Writ::Action::"tool.call", resource == Writ::Resource::"mcp:notes/raed");'
    code, told = run("test", "--catalogue", "notes.mcp.json", "--policies", "p.cedar", p_cedar=policy)
    assert (code, [one["code"] for one in told["findings"]]) == (0, ["no-tokens", "not-in-catalogue"])
    assert [one["code"] for one in run("test", "--policies", "p.cedar")[1]["findings"]] == ["no-tokens"]
    named = run("test", "--catalogue", "notes.mcp.json", "--policies", "p.cedar", p_cedar=policy.replace("raed", "read"))[1]["findings"]
    assert [one["code"] for one in named] == ["no-tokens"]
    (tmp_path / "notes.json").write_text(NOTES)
    assert run("test", "--catalogue", "notes.json", "--policies", "p.cedar")[0] == 2


def test_cases_that_hold_are_accepted(run: Run) -> None:
    code, told = run("test", "cases.toml", "--policies", "p.cedar", cases_toml=CASES, p_cedar=TOOLS)
    assert (code, told["verdict"], told["cases"], told["failed"]) == (0, "accepted", 4, [])
    assert (told["unexercised"], told["findings"]) == (["tokens"], [])
    assert run("test", "cases.toml", "--policies", "p.cedar", "--every-policy")[0] == 1


def test_case_that_does_not_hold_is_shown_with_what_came(run: Run) -> None:
    wrong = CASES.replace('expect = "permit"\nrule = "tools"', 'expect = "refuse"')
    code, told = run("test", "cases.toml", "--policies", "p.cedar", cases_toml=wrong, p_cedar=TOOLS)
    (failed,) = told["failed"]
    assert (code, failed["case"], failed["expected"], failed["got"]) == (
        1, "notes are read", {"answer": "refuse"}, {"answer": "permit", "rules": ["tools"]},
    )  # fmt: skip


def test_case_that_holds_by_another_rule_does_not_hold(run: Run) -> None:
    code, told = run("test", "c.toml", "--policies", "p.cedar", c_toml=CASES.replace('"no-wipe"', '"tools"'), p_cedar=TOOLS)
    assert (code, [one["expected"]["rule"] for one in told["failed"]]) == (1, ["tools"])


def test_request_outside_the_schema_is_an_error_and_no_refusal(run: Run) -> None:
    """Else a case with a typing error would pass as a refusal, and show nothing."""
    wrong = CASES.replace("context = { attest_age = 31 }", 'context = { attest_age = "31" }')
    code, told = run("test", "c.toml", "--policies", "p.cedar", c_toml=wrong, p_cedar=TOOLS)
    assert (code, told["failed"][0]["got"]["answer"]) == (1, "error")


def test_cases_in_json_are_the_same(run: Run) -> None:
    case = {"agent": "spiffe://e/b/agent/a", "action": "tool.call", "resource": "mcp:notes/read", "expect": "permit"}
    assert run("test", "c.json", "--policies", "p.cedar", c_json=json.dumps({"case": [case]}), p_cedar=TOOLS)[0] == 0


@pytest.mark.parametrize(
    "fault",
    [
        ("[[case]]", "[case]"), ("expect", "expects"), ('expect = "permit"', 'expect = "yes"'), ("spiffe://", ""), ("tool.call", "Tool"),
        ("attest_age = 10", "attest_age = 1.5"), ('name = "notes are read"', "name = 5"), ("[defaults]", "[default]"), ("=", "=="),
    ],
)  # fmt: skip
def test_file_that_is_no_cases_is_a_misuse(run: Run, fault: tuple[str, str]) -> None:
    code, told = run("test", "c.toml", "--policies", "p.cedar", c_toml=CASES.replace(*fault), p_cedar=TOOLS)
    assert (code, told["error"]) == (2, "malformed")


def test_policies_that_could_not_be_published_are_a_misuse_and_files_that_are_not_there_could_not(run: Run) -> None:
    assert run("test", "--policies", "p.cedar", p_cedar="permit(principal, action, resource);")[0] == 2
    unguarded = TOOLS.replace("context.attest_age", "context.attest_aeg")
    assert "attest_aeg" in run("test", "--policies", "p.cedar", p_cedar=unguarded)[1]["got"], "in Cedar's own words"
    assert run("test", "--policies", "nowhere")[0] == 3
    assert run("test", "nowhere", "--policies", "p.cedar", p_cedar=TOOLS)[0] == 3


def test_part_of_a_policy_is_tried_and_told_that_it_gives_no_token(run: Run) -> None:
    part = '@id("none") forbid(principal, action == Writ::Action::"tool.call", resource);'
    asked = {"agent": "spiffe://example.org/billing/agent/a", "action": "tool.call", "resource": "x", "expect": "refuse", "rule": "none"}
    code, told = run("test", "cases.json", "--policies", "p.cedar", cases_json=json.dumps({"case": [asked]}), p_cedar=part)
    assert (code, told["verdict"], [one["code"] for one in told["findings"]]) == (0, "accepted", ["no-tokens"])


def test_signed_bundle_brings_its_own_schema(run: Run, tmp_path: Path) -> None:
    attestor = Scene(tmp_path).attestor
    bundle = replace(attestor.bundle(), policies=TOOLS, schema=cedar_schema())
    (tmp_path / "p.cose").write_bytes(attestor.sign(encode_bundle(bundle), CONTENT_TYPE))
    assert run("test", "c.toml", "--policies", "p.cose", c_toml=CASES)[0] == 0
    assert run("test", "c.toml", "--policies", "p.cose", "--schema", "c.toml")[0] == 2


def test_default_policy_is_without_findings(run: Run) -> None:
    code, told = run("test", "--policies", str(DEFAULT_POLICY / "default.cedar"))
    assert (code, told["findings"], len(told["unexercised"])) == (0, [], 6)


def test_schema_is_printed_as_it_is_and_with_kinds_of_ones_own(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("schema") == (0, {"schema": cedar_schema()})
    assert '"reports.render"' in run("schema", "--action", "reports.render")[1]["schema"]
    assert run("schema", "--action", "tool.call")[0] == 2
    assert main(["policy", "schema"]) == 0
    assert capsys.readouterr().out == cedar_schema()


# --- what if -------------------------------------------------------------------------------------------------------------


class Host:
    """A host whose one instance has acted: read, and was refused to wipe and what it has no grant for; then without a token."""

    def __init__(self, folder: Path) -> None:
        scratch = folder / "scratch"
        scratch.mkdir()
        self.scene = Scene(scratch)
        self.config = EnforcerConfig(state_dir=folder / "state")
        self.folder = self.config.instance_dir(self.scene.instance)
        self.folder.mkdir(parents=True)
        self.file = folder / "enforcer.toml"
        self.file.write_text(f'state_dir = "{folder}/state"\n')
        given = self.scene.give()
        log = self.scene.log(self.folder, keys=self.config.namespace_keys)
        gatekeeper = self.scene.gatekeeper(log)
        self.scene.credential.take(self.scene.accept(given))
        keep(self.folder, given)
        for resource in ("mcp:notes/read", "mcp:notes/wipe", "mcp:other/read"):
            ruling = gatekeeper.ask(Action("tool.call", resource, Digest.of(b"{}")), b"{}", gate="socket")
            if ruling.permit:
                gatekeeper.outcome(ruling, done=True, result=b"")
        self.scene.credential.drop()
        gatekeeper.ask(Action("tool.call", "mcp:notes/read", Digest.of(b"{}")), b"{}", gate="socket")
        log.close()


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def what_if(host: Host, tmp_path: Path, capsys: pytest.CaptureFixture[str], policies: str, *references: str) -> Told:
    (tmp_path / "p.cedar").write_text(policies)
    words = ["--config", str(host.file), "policy", "what-if", *references, "--policies", str(tmp_path / "p.cedar"), "--json"]
    code = main(words)
    return code, json.loads(capsys.readouterr().out)


def test_only_what_would_be_decided_otherwise_is_shown(host: Host, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    turned = TOOLS.replace("mcp:notes/wipe", "mcp:notes/read")
    code, told = what_if(host, tmp_path, capsys, turned)
    short = host.scene.instance.hex()[:8]
    assert (code, told["decided"], told["not_decided_by_policy"]) == (1, 3, 1)
    assert [(one["reference"], one["was"], one["would"], one["rules"]) for one in told["differences"]] == [
        (f"{short}-1", "permit", "refuse", ["no-wipe"]), (f"{short}-3", "refuse", "permit", ["tools"]),
    ]  # fmt: skip
    assert told["differences"][0]["reasons"][0]["code"] == "policy-refused"
    assert told["unexercised"] == ["tokens"]


def test_candidate_that_says_the_same_differs_in_nothing(host: Host, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert what_if(host, tmp_path, capsys, TOOLS)[0] == 0
    instance = host.scene.instance.hex()
    code, told = what_if(host, tmp_path, capsys, TOOLS, f"{instance[:12]}-3")
    assert (code, told["decided"]) == (0, 1)
    assert what_if(host, tmp_path, capsys, TOOLS, instance)[1]["decided"] == 3


def test_candidate_that_could_not_be_published_is_a_misuse(host: Host, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    part = '@id("none") forbid(principal, action == Writ::Action::"tool.call", resource);'
    code, told = what_if(host, tmp_path, capsys, part)
    assert (code, "token.issue" in told["expected"]) == (2, True)


def test_where_nothing_was_decided_nothing_can_be_said(host: Host, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = host.scene.instance.hex()[:8]
    assert what_if(host, tmp_path, capsys, TOOLS, f"{short}-5")[0] == 3, "a hold"
    assert what_if(host, tmp_path, capsys, TOOLS, f"{short}-99")[0] == 2
    assert what_if(host, tmp_path, capsys, TOOLS, f"{short}-x")[0] == 2
    assert what_if(host, tmp_path, capsys, TOOLS, "0000")[0] == 1, "no such instance"
    (host.folder / "papers.sqlite").unlink()
    assert what_if(host, tmp_path, capsys, TOOLS)[0] == 3, "the token of a record is gone"
