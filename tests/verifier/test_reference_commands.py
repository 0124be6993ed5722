"""`verifier reference` as a command: files signed and compared, proposed by one and approved by another, delegated and published."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

from tests.signers import new_signer
from tests.verifier.packages.builders import build_deb
from tests.world.chip import Maker
from tests.world.host import SimulatedHost
from tests.world.ima_logs import certificate
from tests.world.verifier import RunningVerifier
from tools import release
from verifier.__main__ import main
from verifier.commands import duration, moment
from verifier.http.wire import to_base64
from verifier.operate import Client
from verifier.policy_commands import DEFAULT_POLICY
from writ.formats.corim import Corim, encode_corim, parse_corim, parse_signed_corim
from writ.formats.digest import Digest
from writ.formats.keys import ES256
from writ.formats.measurement import Governance, encode_governance
from writ.formats.tlog.merkle import leaf_hash
from writ.formats.x509 import parse_certificate, to_pem
from writ.service.signers import load_signer

AGENT = "spiffe://example.org/default/agent/a"


def corim(value: bytes = b"1", environment: str = AGENT, code: bytes = b"code") -> Corim:
    return Corim(f"v-{value.decode()}", "default", environment, (("code", Digest.of(code)), ("prompts", Digest.of(value))))


class Desk:
    """Runs the command as one of several operators, on files of a folder."""

    def __init__(self, verifier: RunningVerifier, folder: Path) -> None:
        self.verifier, self.folder = verifier, folder
        self.keys = {"root": verifier.key_file}

    def operator(self, name: str, role: str = "operator") -> None:
        self.run("key", "create", "--role", role, "--for-namespace", "default", "--out", self.folder / f"{name}.key")
        self.keys[name] = self.folder / f"{name}.key"

    def run(self, *argv: object, by: str = "root", code: int = 0) -> dict[str, Any]:
        out, err = io.StringIO(), io.StringIO()
        remote = ["--url", self.verifier.url, "--api-key-file", str(self.keys[by])]
        offline = "--sign-key" in argv or argv[:2] == ("policy", "check")
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            got = main([*map(str, argv), *([] if offline else remote), "--json"])
        assert got == code, f"{argv}: {got} {out.getvalue()} {err.getvalue()}"
        shown: dict[str, Any] = json.loads(out.getvalue())
        return shown

    def file(self, name: str, one: Corim) -> Path:
        path = self.folder / name
        path.write_bytes(encode_corim(one))
        return path

    def key_pairs(self, *names: str) -> None:
        """New keys as openssl makes them, NAME.pem and NAME.pub each."""
        for name in names:
            private = self.folder / f"{name}.pem"
            subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", private], check=True, capture_output=True)
            private.chmod(0o600)
            subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", private.with_suffix(".pub")], check=True)


@pytest.fixture
def desk(verifier: RunningVerifier, tmp_path: Path) -> Desk:
    return Desk(verifier, tmp_path)


def verbs(*words: str) -> list[str]:
    """The verbs that the usage of a command names."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        main([*words, "--help"])
    found = re.findall(r"^    ([a-z-]+) {2,}", out.getvalue(), re.MULTILINE)
    return [str(one) for one in found]


def test_no_command_has_more_than_twelve_verbs() -> None:
    top = verbs()
    assert {"reference", "host", "why"} <= set(top)
    assert len(top) <= 12
    for name in ("config", "host", "reference", "policy", "trust", "key"):
        assert 1 <= len(verbs(name)) <= 12, name


def test_files_are_compared_with_each_other_and_with_what_is_in_force(desk: Desk) -> None:
    one, two = desk.file("1", corim(b"1")), desk.file("2", corim(b"2"))
    assert desk.run("reference", "diff", one, one)["versions"][0]["differences"] == {}
    differs = desk.run("reference", "diff", one, two, code=1)["versions"][0]["differences"]
    assert differs == {"prompts": {"other": str(Digest.of(b"2")), "file": str(Digest.of(b"1"))}}
    booted = desk.file("3", Corim("b", "default", "boot", (), ((4, Digest.of(b"x")),)))
    other = desk.file("4", Corim("b", "default", "boot", (), ((4, Digest.of(b"y")),)))
    assert list(desk.run("reference", "diff", booted, other, code=1)["versions"][0]["differences"]) == ["PCR 4 sha256"]
    assert desk.run("reference", "diff", one, booted, code=2)["error"] == "malformed"
    desk.run("reference", "import", one)
    assert desk.run("reference", "diff", two, code=1)["versions"][0]["differences"]["prompts"]["in_force"] == str(Digest.of(b"1"))


def test_packages_that_are_more_than_a_set_are_imported_in_no_part(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    debs = [build_deb(desk.folder, name, {f"usr/bin/{name}": b"x"}) for name in ("one", "two")]
    asked = ("reference", "import", "--namespace", "default", "--deb", *debs)
    monkeypatch.setattr("verifier.reference.MAX_IMPORT", 1)
    monkeypatch.setattr("writ.verdict.reference.MOST_CORIMS", 1)
    refused = desk.run(*asked, code=1)["reasons"]
    assert [(one["code"], one["expected"]) for one in refused] == [("too-large", "at most 1 CoRIMs")]
    assert desk.run("reference", "list")["references"] == []
    assert len(desk.run(*asked, "--out", desk.folder / "out")["packages"]) == 2, "to choose from"
    monkeypatch.setattr("writ.verdict.reference.MOST_CORIMS", 2)
    assert len(desk.run(*asked)["packages"]) == 2


@pytest.mark.parametrize(
    "argv",
    [
        ("reference", "import", "FILE"),
        ("reference", "dry-run", "FILE"),
        ("reference", "retire", "zz"),
        ("trust", "import", "FILE"),
        ("trust", "import", "FILE", "--tpm-class", "software"),
        ("policy", "publish", "--policies", "FILE"),
    ],
)
def test_what_is_not_understood_is_a_misuse_whoever_says_so(desk: Desk, argv: tuple[str, ...]) -> None:
    (desk.folder / "FILE").write_bytes(b"rubbish")
    shown = desk.run(*(desk.folder / word if word == "FILE" else word for word in argv), code=2)
    said = shown.get("refused", shown.get("reasons", [{"code": shown.get("error")}]))
    assert [one["code"] for one in said] == ["malformed"]


@pytest.mark.parametrize(
    "argv, said",
    [
        (("reference", "retire", "sha256:zz"), "as `reference list` shows it, got 'sha256:zz'"),
        (("reference", "show", "zz"), "as `reference list` shows it"),
        (("reference", "dry-run", "--retire", "zz"), "as `reference list` shows it"),
        (("reference", "diff", "MEASUREMENT"), "MEASUREMENT: expected reference values (a CoRIM), got a measurement"),
        (("reference", "import", "EMPTY"), "EMPTY: expected reference values (a CoRIM), got another file"),
        (("reference", "except", "zz", "--for", "4h", "--reason", "r"), "claim     reference\n  expected  12 to 64 lower-case hex digits"),
        (("host", "admit", "H"), "claim     host\n  expected  1 to 63 of a-z"),
        (("trust", "import", "FOLDER"), "expected a file, a folder with files of .cer"),
        (("trust", "import", "TEXT", "--tpm-class", "software"), "TEXT: expected a certificate, in PEM or DER, got none"),
        (("policy", "publish", "--ima", "EMPTY"), "EMPTY: expected a JSON object with exclude, violations,"),
        (("policy", "publish", "--policies", "TEXT"), "unexpected end of input"),
        (("policy", "publish", "--policies", "PART"), "a permit that can concern token.issue"),
        (("policy", "check", "--policies", "PART"), "a permit that can concern token.issue"),
        (("policy", "publish", "--policies", "UNKNOWN"), 'unrecognized action `Writ::Action::"tool.cal"`'),
    ],
)  # fmt: skip
def test_mistake_is_told_in_the_words_of_who_made_it(
    desk: Desk, argv: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {
        "EMPTY": b"", "TEXT": b"rubbish", "MEASUREMENT": encode_governance(Governance((("attestor", Digest.of(b"a")),))),
        "PART": b'forbid(principal, action == Writ::Action::"tool.call", resource);',
        "UNKNOWN": b'permit(principal, action == Writ::Action::"tool.cal", resource);',
    }  # fmt: skip
    for name, data in files.items():
        (desk.folder / name).write_bytes(data)
    (desk.folder / "FOLDER").mkdir()
    words = [str(desk.folder / word) if word in files or word == "FOLDER" else word for word in argv]
    asked = () if argv[1] == "check" else ("--url", desk.verifier.url, "--api-key-file", str(desk.keys["root"]))
    assert main([*words, *asked]) == 2
    assert said in capsys.readouterr().err


def test_ticket_or_key_that_could_not_be_written_is_not_asked_for(desk: Desk) -> None:
    known = desk.run("key", "list")
    made = ("--role", "reader", "--for-namespace", "default", "--out", desk.folder / "nowhere" / "key")
    desk.run("key", "create", *made, code=3)
    assert desk.run("key", "list") == known
    desk.run("host", "admit", "late", "--ticket-file", desk.folder / "nowhere" / "ticket", code=3)
    assert "late" not in {one["host"] for one in desk.run("host", "list")["hosts"]}


def test_import_of_trust_shows_what_came_of_it(desk: Desk) -> None:
    (desk.folder / "rubbish").write_bytes(b"rubbish")
    maker = desk.folder / "maker.pem"
    maker.write_text("".join(to_pem(parse_certificate(der)) for der in (Maker("new").root(), Maker("new").intermediate())))
    nothing = {"roots": [], "intermediates": 0, "crls": [], "ocsp": [], "rules": None}
    shown = desk.run("trust", "import", desk.folder / "rubbish", code=2)
    assert (list(shown), shown["added"]) == (["digest", "added", "refused"], nothing)
    shown = desk.run("trust", "import", maker, "--tpm-class", "software")
    assert ([one["tpm_class"] for one in shown["added"]["roots"]], shown["added"]["intermediates"]) == (["software"], 1)
    assert desk.run("trust", "import", maker, "--tpm-class", "software")["added"] == nothing
    assert desk.run("trust", "import", maker, desk.folder / "rubbish", code=1)["added"] == nothing


def test_version_is_imported_with_an_end_and_retired(desk: Desk) -> None:
    row = desk.run("reference", "import", desk.file("1", corim()), "--valid-until", "2027-01-31")["references"][0]
    assert row["valid_until"] == moment("2027-01-31T23:59:59Z")
    written = desk.run("reference", "export", "--out", desk.folder / "out")["written"]
    signed = parse_signed_corim(Path(written[0]["file"]).read_bytes())
    assert (signed.corim.valid_until, signed.signer_name) == (row["valid_until"], "writ verifier")
    assert desk.run("reference", "import", written[0]["file"], "--valid-until", "2027-01-31", code=2)["error"] == "malformed"
    assert desk.run("reference", "import", written[0]["file"])["state"] == "in force", "what was exported comes in again"
    desk.run("reference", "retire", row["digest"])
    assert desk.run("reference", "list")["references"] == []


def test_one_proposes_and_another_approves(desk: Desk) -> None:
    desk.run(
        "policy", "publish", "--accept-runtime-only", "--tpm-class", "software", "--approvals", "governance=2", "--approvals", "rooted/*=2"
    )
    for name in ("alice", "bob"):
        desk.operator(name)
    answer = desk.run("reference", "import", desk.file("g", corim(environment="governance")), by="alice")
    assert answer["state"] == "proposed"
    shown = desk.run("reference", "list", by="bob")["proposals"][0]
    assert shown["proposal"] == answer["proposal"]
    short = answer["proposal"].removeprefix("sha256:")[:12]
    assert desk.run("reference", "approve", short, by="alice", code=1)["reasons"][0]["code"] == "approval-repeated"
    assert desk.run("reference", "approve", short[:8], by="bob", code=1)["reasons"][0]["code"] == "not-found"
    assert desk.run("reference", "approve", short, by="bob")["proposals"][0]["state"] == "in force"
    lifted = desk.run("policy", "publish", "--approvals", "governance=1", by="alice")
    assert (lifted["state"], lifted["missing"]) == ("proposed", ["1 of 2 people"])
    short = lifted["proposal"].removeprefix("sha256:")[:12]
    assert desk.run("reference", "approve", "--withdraw", short, by="bob")["proposals"] == [
        {"withdrawn": lifted["proposal"], "proposal": lifted["proposal"], "state": "withdrawn"}
    ]
    assert desk.run("reference", "approve", lifted["proposal"], by="bob", code=1)["reasons"][0]["code"] == "proposal-closed"


def test_a_bound_on_the_lag_is_set_kept_and_lifted(desk: Desk) -> None:
    desk.run("policy", "publish", "--record-lag-most", "30")
    assert desk.run("policy", "publish", "--token-life", "20")["version"]
    assert desk.run("policy", "show")["settings"]["record_lag_most"] == 30
    desk.run("policy", "publish", "--record-lag-most", "0")
    assert desk.run("policy", "show")["settings"]["record_lag_most"] is None


def test_policy_keeps_what_is_not_said(desk: Desk) -> None:
    """Whoever changes one thing loosens nothing else by not naming it."""
    keys = [to_base64(certificate("vendor"))]
    rules = {"exclude": ["/var/log/.*", "/tmp/.*"], "violations": "label", "keyrings": keys, "learn_keys": False}
    (desk.folder / "ima.json").write_text(json.dumps(rules))
    cedar = desk.folder / "mine.cedar"
    cedar.write_text((DEFAULT_POLICY / "default.cedar").read_text() + "// ours\n")
    first = desk.run(
        "policy", "publish", "--accept-runtime-only", "--tpm-class", "software", "--token-life", "20", "--policies", cedar,
        "--approvals", "governance=2", "--approvals", "rooted/*=2", "--ima", desk.folder / "ima.json",
    )  # fmt: skip
    kept = desk.run("policy", "show")
    assert kept["settings"] == first["settings"]
    assert kept["settings"] == {
        "accept_runtime_only": True, "tpm_classes": ["software"], "token_life": 20, "nonce_life": 120, "clock_skew": 5, "hold_max": 600,
        "approvals": {"governance": 2, "rooted/*": 2}, "ima": {**rules, "exclude": ["/tmp/.*", "/var/log/.*"]}, "approvers": {},
        "hardware": False, "record_lag_most": None, "witness_lag_most": None,
    }  # fmt: skip
    alice, bob = new_signer().public, new_signer(ES256).public
    for name, key in (("alice", alice), ("bob", bob)):
        (desk.folder / f"{name}.jwk").write_text(json.dumps(key.to_jwk()))
    for wrong in ("alice", "=alice.jwk"):
        assert desk.run("policy", "publish", "--approver", wrong, code=2)
    changes: tuple[tuple[tuple[object, ...], dict[str, object]], ...] = (
        ((), {}),
        (("--hardware",), {"hardware": True}),
        (("--hold-max", "60"), {"hold_max": 60}),
        (("--tpm-class", "discrete", "--tpm-class", "software"), {"tpm_classes": ["discrete", "software"]}),
        (("--no-accept-runtime-only",), {"accept_runtime_only": False}),
        (("--no-hardware",), {"hardware": False}),
        (("--witness-lag-most", "60"), {"witness_lag_most": 60}),
        (("--hold-max", "61"), {"hold_max": 61}),
        (("--approvals", "boot=3"), {"approvals": {"boot": 3, "governance": 2, "rooted/*": 2}}),
        (("--approver", f"alice={desk.folder / 'alice.jwk'}"), {"approvers": {"alice": alice.to_jwk()}}),
        (("--approver", "bob=" + str(desk.folder / "bob.jwk")), {"approvers": {"alice": alice.to_jwk(), "bob": bob.to_jwk()}}),
        (("--approver", "alice="), {"approvers": {"bob": bob.to_jwk()}}),
    )
    for said, changed in changes:
        kept["settings"] |= changed
        published = desk.run("policy", "publish", *said)
        if published["state"] == "proposed":
            desk.operator("second")
            desk.run("reference", "approve", published["proposal"], by="second")
        shown = desk.run("policy", "show")
        assert (shown["settings"], shown["policies"]) == (kept["settings"], kept["policies"]), said
    assert desk.run("policy", "publish", "--default-policy")["settings"] == kept["settings"]
    assert desk.run("policy", "show")["policies"] == (DEFAULT_POLICY / "default.cedar").read_text()
    assert desk.run("policy", "publish", "--approvals", "rooted/*=1")["settings"]["approvals"] == {"boot": 3, "governance": 2}


def test_policy_published_meanwhile_is_not_put_back(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was read is what is changed: whose policy came between loses nothing."""
    desk.run("policy", "publish", "--tpm-class", "software")
    read = Client.get

    def overtaken(self: Client, path: str, **query: str | int) -> dict[str, Any]:
        answer = read(self, path, **query)
        monkeypatch.setattr(Client, "get", read)
        desk.run("policy", "publish", "--hold-max", "10")
        return answer

    monkeypatch.setattr(Client, "get", overtaken)
    assert desk.run("policy", "publish", "--token-life", "30", code=1)["reasons"][0]["code"] == "policy-rollback"
    assert desk.run("policy", "show")["settings"]["hold_max"] == 10


@pytest.mark.parametrize(
    "said, wrong",
    [
        (["--approvals", "governance"], "--approvals"),
        (["--approvals", "=2"], "--approvals"),
        (["--approvals", "boot="], "--approvals"),
        (["--approvals", "boot=2", "--approvals", "boot=1"], "--approvals"),
        (["--ima", '{"exclude": [], "violations": "refuse", "learn_keys": false}'], "ima.json"),
        (["--ima", '{"exclude": [], "violations": "refuse", "keyrings": ["x"], "learn_keys": false}'], "ima.json.keyrings"),
        (["--ima", '{"exclude": [], "violations": "no", "keyrings": [], "learn_keys": false}'], "IMA rules.violations"),
        (["--ima", '{"exclude": [1], "violations": "refuse", "keyrings": [], "learn_keys": false}'], "ima.json.exclude.0"),
        (["--ima", '{"exclude": [], "violations": "refuse", "keyrings": [], "learn_keys": false, "x": 1}'], "ima.json"),
        (["--ima", "{"], "ima.json"),
    ],
)
def test_policy_that_says_what_is_no_setting_is_a_misuse(desk: Desk, said: list[str], wrong: str) -> None:
    if said[0] == "--ima":
        (desk.folder / "ima.json").write_text(said[1])
        said = ["--ima", str(desk.folder / "ima.json")]
    for verb in ("publish", "check"):
        shown = desk.run("policy", verb, *said, code=2)
        assert (shown["error"], shown["what"]) == ("malformed", wrong)
    assert desk.run("policy", "show")["version"] == 1


def test_difference_is_excepted_by_the_reference_of_its_refusal(desk: Desk) -> None:
    host = desk.verifier.host("h1")
    host.launch("one")
    desk.verifier.approve(host)
    host.launch("two", prompt=b"be brave")
    reference = leaf_hash(host.attest("two").decision).hex()[:16]
    for name in ("alice", "bob"):
        desk.operator(name)
    made = desk.run("reference", "except", reference, "--for", "4h", "--reason", "hotfix", "--component", "prompts", by="alice")
    desk.run("reference", "approve", made["proposal"], by="bob")
    assert host.attest("two").answers[0].token is not None
    assert desk.run("reference", "list")["exemptions"][0]["state"] == "in force"


def test_team_signs_and_publishes_under_the_roles_of_a_file(desk: Desk) -> None:
    folder = desk.folder
    desk.key_pairs("a", "b")
    roles = folder / "roles.toml"
    roles.write_text(
        '[[role]]\nname = "prompts"\nenvironments = ["spiffe://example.org/default/agent/*"]\ncomponents = ["prompts"]\n'
        'publishers = ["a.pub", "b.pub"]\nthreshold = 2\nnot_after = 2030-01-01\n'
    )
    made = desk.run("reference", "delegate", roles)
    assert desk.run("reference", "delegate") == made
    assert made["roles"][0]["not_after"] == moment("2030-01-01")
    desk.operator("team", "publisher")
    desk.run("reference", "import", desk.file("1", corim(b"1")))
    files = []
    for key in ("a", "b"):
        signed = desk.run(
            "reference", "export", desk.file("2", corim(b"2")), "--sign-key", folder / f"{key}.pem", "--out", folder / "signed"
        )
        files.append(signed["written"][0]["file"])
    assert parse_signed_corim(Path(files[0]).read_bytes()).signer_name == "publisher"
    assert desk.run("reference", "import", "--delegated", files[0], by="team")["published"][0]["state"] == "proposed"
    assert desk.run("reference", "import", "--delegated", *files, by="team")["published"][0]["state"] == "in force"
    assert len(desk.run("reference", "list")["references"]) == 2
    assert desk.run("reference", "import", "--delegated", "--replace", files[0], by="team", code=2)["error"] == "malformed"
    assert desk.run("reference", "list", by="team", code=1)["reasons"][0]["code"] == "forbidden"


@pytest.mark.parametrize(
    "text", ["role = 1", "[[role]]\npublishers = 1", "colour = 1", "[[role]]\nname = 'a'\npublishers = []\nnot_after = 'soon'", "[["]
)
def test_file_of_roles_that_is_none_is_refused(desk: Desk, text: str) -> None:
    (desk.folder / "roles.toml").write_text(text)
    assert desk.run("reference", "delegate", desk.folder / "roles.toml", code=2)["error"] == "malformed"
    assert desk.run("reference", "delegate", code=1)["reasons"][0]["code"] == "not-found"


def test_key_file_that_is_none_is_refused(desk: Desk) -> None:
    (desk.folder / "roles.toml").write_text("[[role]]\nname = 'a'\npublishers = ['key']\nnot_after = 1\n")
    for data in (b"", b"{}", b"-----BEGIN PUBLIC KEY-----\n!\n-----END PUBLIC KEY-----\n", b"-----BEGIN PUBLIC KEY-----\nAAAA\n"):
        (desk.folder / "key").write_bytes(data)
        assert desk.run("reference", "delegate", desk.folder / "roles.toml", code=2)["error"] == "malformed"
    (desk.folder / "key").write_bytes(b"-----BEGIN PRIVATE KEY-----\n")
    shown = desk.run("reference", "delegate", desk.folder / "roles.toml", code=2)
    assert (shown["expected"], shown["got"].partition(":")[0]) == ("a public key, in PEM or as a JWK", "a private one")


def test_captured_measurement_is_given_its_end(desk: Desk) -> None:
    host = desk.verifier.host("h1")
    host.launch("one")
    host.attest("one")
    desk.run("reference", "capture", "--host", "h1", "--agent", "reporter", "--valid-until", "1900000000", "--out", desk.folder / "out")
    assert {parse_corim(file.read_bytes()).valid_until for file in (desk.folder / "out").iterdir()} == {1_900_000_000}


@pytest.mark.parametrize("text, seconds", [("4h", 14_400), ("90m", 5400), ("2d", 172_800), ("3600", 3600), ("60s", 60)])
def test_duration_is_read(text: str, seconds: int) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "-1h", "4 h", "1.5h", "4w", "9" * 10])
def test_duration_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        duration(text)


def test_moment_is_utc_and_a_date_ends_with_its_day() -> None:
    assert moment("1970-01-01") == 86_399
    assert moment("1970-01-01T00:01") == moment("1970-01-01T00:01:00Z") == moment("1970-01-01T01:01:00+01:00") == 60
    assert moment("12345678901") == 12_345_678_901
    for text in ("", "tomorrow", "2027-13-01", "2027-01-01T25:00"):
        with pytest.raises(argparse.ArgumentTypeError):
            moment(text)


def test_values_of_a_release_are_taken_over_after_their_signature_was_checked(desk: Desk) -> None:
    folder = desk.folder
    desk.key_pairs("release", "other")
    vendor = Corim("writ-1.0", "writ", "governance", (("attestor", Digest.of(b"1.0")),))
    with_key = ("--sign-key", folder / "release.pem", "--signer", "Writ 1.0", "--out", folder / "signed")
    file = desk.run("reference", "export", desk.file("v", vendor), *with_key)["written"][0]["file"]
    adopt = ("reference", "import", "--adopt", file, "--publisher")
    assert desk.run("reference", "import", file, "--publisher", folder / "release.pub", code=1)["reasons"][0]["code"] == "forbidden"
    assert desk.run(*adopt, folder / "release.pub", code=2)["error"] == "malformed", "into which namespace"
    other = desk.run(*adopt, folder / "other.pub", "--namespace", "default", code=1)
    assert other["reasons"][0]["code"] == "signature-invalid"
    taken = desk.run(*adopt, folder / "release.pub", "--namespace", "default")["references"][0]
    assert desk.run("reference", "show", taken["digest"])["corim"]["components"] == {"attestor": str(Digest.of(b"1.0"))}
    file = desk.run("reference", "export", desk.file("a", corim()), *with_key)["written"][0]["file"]
    agent = desk.run("reference", "import", "--adopt", file, "--publisher", folder / "release.pub", "--namespace", "default", code=1)
    assert agent["reasons"][0]["code"] == "forbidden"


GOVERNED = Corim(
    "old", "default", "governance", (("attestor", Digest.of(b"1.0")), ("interpreter", Digest.of(b"3.11"))), valid_until=1 << 40
)
OTHER_HOSTS = replace(GOVERNED, id="other", components=(("attestor", Digest.of(b"1.0")), ("interpreter", Digest.of(b"3.13"))))


def governance_in_force(desk: Desk) -> set[tuple[tuple[str, Digest], ...]]:
    rows = [row for row in desk.run("reference", "list")["references"] if row["environment"] == "governance"]
    shown = [desk.run("reference", "show", row["digest"])["corim"] for row in rows]
    assert len({one["id"] for one in shown}) == len(shown), "the nearest version is told by its id"
    assert all(one["valid_until"] == 1 << 40 for one in shown), "a release is valid no longer than what it rests on"
    found = [tuple(sorted((name, Digest.parse(digest)) for name, digest in one["components"].items())) for one in shown]
    assert len(set(found)) == len(found), "each version once"
    return set(found)


def test_a_part_of_the_governance_is_laid_over_each_version_in_force(desk: Desk) -> None:
    folder, new = desk.folder, Digest.of(b"1.1")
    desk.key_pairs("release")
    with_key = ("--sign-key", folder / "release.pem", "--out", folder / "signed")
    parts = [Corim("w", "writ", "governance", (("attestor", new),)), Corim("f", "writ", "files/writ", (("/opt/a.py", new),))]
    signed = desk.run("reference", "export", *(desk.file(part.id, part) for part in parts), *with_key)["written"]
    files = [one["file"] for one in signed]
    over = ("reference", "import", *files, "--adopt", "--over", "--publisher", folder / "release.pub", "--namespace", "default")
    assert desk.run(*over, code=1)["reasons"][0]["code"] == "not-found", "no governance to lay it over"
    assert desk.run("reference", "import", files[0], "--over", "--publisher", folder / "release.pub", code=2)["expected"] == "--adopt"
    desk.run("reference", "import", desk.file("old", GOVERNED), desk.file("other", OTHER_HOSTS))
    after = {tuple(sorted({**dict(one.components), "attestor": new}.items())) for one in (GOVERNED, OTHER_HOSTS)}
    desk.run(*over)
    assert governance_in_force(desk) == {GOVERNED.components, OTHER_HOSTS.components} | after, "old and new"
    desk.run(*over)
    assert len(governance_in_force(desk)) == 4, "the same once more changes nothing"
    desk.run(*over, "--replace")
    assert governance_in_force(desk) == after
    assert {row["environment"] for row in desk.run("reference", "list")["references"]} == {"governance", "files/writ"}


def test_a_publisher_releases_writ_and_nothing_beside_it(desk: Desk, host: SimulatedHost) -> None:
    """`./run release --over` gives what a delegation takes: old and new are in force, and no operator measured a machine."""
    folder = desk.folder
    host.attest("one")
    desk.key_pairs("release")
    desk.operator("releases", "publisher")
    roles = (
        'name="writ"\nenvironments=["governance"]\ncomponents=["attestor"]\npublishers=["release.pub"]\nthreshold=1\nnot_after=2099-01-01'
    )
    (folder / "roles.toml").write_text(f"[[role]]\n{roles}\n")
    desk.run("reference", "delegate", folder / "roles.toml")
    old = next(row["digest"] for row in desk.run("reference", "list")["references"] if row["environment"] == "governance")
    base = desk.run("reference", "export", old, "--out", folder / "in-force")["written"][0]["file"]
    signed = {}
    for name in ("attestor", "cbor2"):
        with ZipFile(folder / f"{name}-1.1-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{name}/__init__.py", "new = 1\n")
        options = ["--wheel", wheel.filename, "--sign-key", folder / "release.pem", "--namespace", "default", "--over", base]
        assert release.main([*map(str, options), "--out", str(folder / name)]) == 0
        signed[name] = folder / name / f"{name}-1.1-py3-none-any.governance.corim"
    assert desk.run("reference", "dry-run", signed["attestor"])["pass"] == 1, "old and new"
    assert desk.run("reference", "dry-run", signed["attestor"], "--retire", old, code=1)["refused"] == 1, "the new alone"
    import_it = ("reference", "import", "--delegated", "--namespace", "default")
    desk.run(*import_it, signed["attestor"], by="releases")
    new, before = (dict(parse_signed_corim(Path(file).read_bytes()).corim.components) for file in (signed["attestor"], base))
    assert (new.keys(), new["enforcer"]) == (before.keys(), before["enforcer"])
    assert new["attestor"] != before["attestor"]
    assert sum(row["environment"] == "governance" for row in desk.run("reference", "list")["references"]) == 2
    assert desk.run(*import_it, signed["cbor2"], by="releases", code=1)["reasons"][0]["claim"] == "governance.library-cbor2"


def test_publisher_whom_an_operator_vouches_for_is_named_by_jwk_or_pem(desk: Desk) -> None:
    folder = desk.folder
    desk.key_pairs("k")
    (folder / "k.jwk").write_text(json.dumps(load_signer(folder / "k.pem").public.to_jwk()))
    for at, key in enumerate(("k.pub", "k.jwk")):
        with_key = ("--sign-key", folder / "k.pem", "--out", folder / "signed")
        file = desk.run("reference", "export", desk.file("f", corim(str(at).encode())), *with_key)["written"][0]["file"]
        assert desk.run("reference", "import", file, "--publisher", folder / key)["state"] == "in force"
