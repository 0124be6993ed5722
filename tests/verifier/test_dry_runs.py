"""A machine captured, an update asked about before it is approved, and what was foreseen then happening: over HTTP, on a real ledger."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.world.host import SimulatedHost
from tests.world.ima_logs import certificate, signed
from tests.world.uefi_logs import Boot
from tests.world.verifier import RunningVerifier
from verifier.__main__ import main
from verifier.http.wire import to_base64
from writ.formats.corim import Corim, encode_corim, read_corim
from writ.formats.digest import Digest
from writ.formats.errors import Refused
from writ.formats.exchange import AttestAnswer
from writ.verdict.appraise.ima import PARTS

FILES = {part.replace("-", "_"): Digest.of(part.encode()) for part in PARTS}
NEW = Digest.of(b"new shell")


@pytest.fixture
def host(verifier: RunningVerifier) -> SimulatedHost:
    """A machine with firmware, a kernel that measures files, and an agent that is approved."""
    made = verifier.host("h1")
    made.boot()
    made.measure(**FILES, sh=Digest.of(b"shell"))
    made.launch("one")
    verifier.approve(made)
    return made


def codes(answer: AttestAnswer) -> set[str]:
    return {reason.code for reason in answer.reasons}


def command(verifier: RunningVerifier, *words: str) -> tuple[int, str]:
    """Exit status and what a `verifier reference` command prints."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(["reference", *words, "--url", verifier.url, "--api-key-file", str(verifier.key_file), "--json"])
    return status, out.getvalue() + err.getvalue()


def capture(verifier: RunningVerifier, *words: str) -> dict[str, Any]:
    status, said = command(verifier, "capture", "--host", "h1", *words)
    assert status == 0, said
    found: dict[str, Any] = json.loads(said)
    return found


def whole(verifier: RunningVerifier) -> None:
    """The machine as it is, approved: boot, files, and the parts that root its runtime."""
    rooted = [word for part in PARTS for word in ("--rooted", f"{part}=/usr/bin/{part.replace('-', '_')}")]
    captured = capture(verifier, "--boot", "--files", "os", *rooted, "--approve")
    environments = {one["environment"] for one in captured["captured"]}
    assert environments == {"boot", "firmware", "secure-boot", "files/os", *(f"rooted/{part}" for part in PARTS)}


def ask(verifier: RunningVerifier, *corims: Corim, **more: Any) -> dict[str, Any]:
    items = [to_base64(encode_corim(corim)) for corim in corims]
    return verifier.client.post("/v1/dry-runs", {"corims": items, **more})


def shell(digest: Digest) -> Corim:
    return Corim(f"shell-{digest.hex()[:8]}", "default", "files/shell", (("/usr/bin/sh", digest),))


def again(host: SimulatedHost) -> AttestAnswer:
    """As an attestor does it: the list in full where the verifier asks for it."""
    answer = host.attest("one")
    if "ima-log-required" in codes(answer):
        host.listed = 0
        answer = host.attest("one")
    return answer


def test_captured_machine_is_affirming_and_any_other_is_foreseen_refused(verifier: RunningVerifier, host: SimulatedHost) -> None:
    host.attest("one")
    whole(verifier)
    answer = again(host)
    assert (codes(answer), answer.answers[0].token is not None) == (set(), True)

    asked = ask(verifier)
    assert (asked["pass"], asked["refused"], asked["never_attested"]) == (1, 0, [])
    assert asked["hosts"][0]["instances"][0]["agent"].endswith("/agent/reporter")
    retired = [row["digest"] for row in verifier.client.get("/v1/references")["references"] if row["environment"] == "files/os"]
    refused = ask(verifier, retire=retired)
    assert (refused["pass"], refused["refused"]) == (0, 1)
    assert {(r["code"], r["claim"]) for r in refused["hosts"][0]["reasons"]} == {("file-unknown", "ima./usr/bin/sh")}

    verifier.client.post("/v1/retirements", {"digests": retired})
    assert codes(again(host)) == {"file-unknown"}


def test_list_that_came_in_parts_is_put_together_again(verifier: RunningVerifier, host: SimulatedHost) -> None:
    host.attest("one")
    whole(verifier)
    again(host)
    for number in range(3):
        host.measure(**{f"tool{number}": NEW})
        host.attest("one")
    found = {reason["claim"] for reason in ask(verifier)["hosts"][0]["reasons"]}
    assert found == {f"ima./usr/bin/tool{number}" for number in range(3)}
    tools = Corim("tools", "default", "files/tools", tuple((f"/usr/bin/tool{number}", NEW) for number in range(3)))
    assert ask(verifier, tools)["pass"] == 1
    assert ask(verifier, tools)["hosts"][0]["reasons"] == []


def test_list_that_was_longer_than_one_evidence_is_put_together_again(verifier: RunningVerifier, host: SimulatedHost) -> None:
    host.attest("one")
    whole(verifier)
    again(host)
    host.measure(**{f"tool{number}": NEW for number in range(3)})
    host.listed = 0
    for cut in (2, 5):
        host.cut = cut
        assert codes(host.attest("one")) == {"ima-log-partial"}
        assert {reason["code"] for reason in ask(verifier)["hosts"][0]["reasons"]} == {"ima-log-required"}, "of a part nothing is foreseen"
    host.cut = None
    host.attest("one")
    found = {reason["claim"] for reason in ask(verifier)["hosts"][0]["reasons"]}
    assert found == {f"ima./usr/bin/tool{number}" for number in range(3)}


def test_update_is_staged_rolled_out_and_shrunk_to(verifier: RunningVerifier, host: SimulatedHost) -> None:
    host.attest("one")
    whole(verifier)
    again(host)
    assert ask(verifier, shell(NEW))["pass"] == 1
    verifier.client.post("/v1/references", {"corims": [to_base64(encode_corim(shell(NEW)))]})
    host.measure(sh=NEW)
    assert codes(again(host)) == set()
    host.uefi_log = None
    host.reboot()
    host.boot(Boot(cmdline="init=/bin/sh"))
    host.measure(**FILES, sh=NEW)
    host.launch("one")
    assert codes(again(host)) == {"boot-mismatch"}
    assert {(r["code"], r["claim"]) for r in ask(verifier)["hosts"][0]["reasons"]} == {("boot-mismatch", "boot.cmdline")}


def test_host_that_never_attested_is_named_and_a_retired_one_is_silent(verifier: RunningVerifier, host: SimulatedHost) -> None:
    verifier.client.post("/v1/hosts", {"host": "h2"})
    asked = ask(verifier)
    assert (asked["never_attested"], [row["host"] for row in asked["hosts"]]) == (["h1", "h2"], [])
    host.attest("one")
    assert ask(verifier)["never_attested"] == ["h2"]
    verifier.client.post("/v1/hosts/h1/retire")
    assert ask(verifier)["never_attested"] == ["h1", "h2"]


def test_dry_run_of_what_is_not_in_force_or_of_another_namespace_is_refused(verifier: RunningVerifier, host: SimulatedHost) -> None:
    assert host.name
    other = Corim("x", "other", "files/x", (("/x", NEW),))
    for body, code in (
        ({"retire": [str(Digest.of(b"x"))]}, "not-found"),
        ({"corims": [to_base64(encode_corim(other))]}, "forbidden"),
        ({"corims": [to_base64(b"no CoRIM")]}, "malformed"),
    ):
        with pytest.raises(Refused) as refused:
            verifier.client.post("/v1/dry-runs", body)
        assert [reason.code for reason in refused.value.reasons] == [code]


def test_dry_run_says_by_its_exit_status_whether_all_would_pass(verifier: RunningVerifier, host: SimulatedHost, tmp_path: Path) -> None:
    host.attest("one")
    whole(verifier)
    again(host)
    path = tmp_path / "shell.corim"
    path.write_bytes(encode_corim(shell(NEW)))
    assert command(verifier, "dry-run", str(path))[0] == 0
    digest = next(row["digest"] for row in verifier.client.get("/v1/references")["references"] if row["environment"] == "files/os")
    status, said = command(verifier, "dry-run", "--retire", digest)
    assert status == 1
    assert "file-unknown" in said


def test_machine_whose_files_changed_while_it_ran_is_not_captured(verifier: RunningVerifier, host: SimulatedHost) -> None:
    host.measure(sh=NEW)
    host.attest("one")
    status, said = command(verifier, "capture", "--host", "h1", "--files", "os")
    assert status == 1
    assert "/usr/bin/sh" in said


def test_host_without_logs_has_neither_boot_nor_files_to_capture(verifier: RunningVerifier) -> None:
    made = verifier.host("h1")
    made.launch("one")
    verifier.approve(made)
    made.attest("one")
    for words in (("--boot",), ("--files", "os"), ("--rooted", "attestor=/usr/bin/attestor")):
        assert command(verifier, "capture", "--host", "h1", *words)[0] == 1


# --- PCRs, and names that are kept -----------------------------------------------------------------------------------------------


def test_pcr_is_captured_compared_and_shown(verifier: RunningVerifier, host: SimulatedHost, tmp_path: Path) -> None:
    host.attest("one")
    whole(verifier)
    (captured,) = capture(verifier, "--governance", "--pcr", "7", "--pcr", "0", "--pcr", "7", "--out", str(tmp_path / "out"))["captured"]
    quoted = {index: str(Digest("sha256", host.chip.pcrs["sha256"][index])) for index in (0, 7)}
    assert captured["registers"] == [{"index": index, "digest": digest} for index, digest in quoted.items()]
    (file,) = (tmp_path / "out").iterdir()
    _, said = command(verifier, "diff", str(file))
    assert json.loads(said)["versions"][0]["differences"] == {
        f"PCR {index} sha256": {"in_force": None, "file": digest} for index, digest in quoted.items()
    }
    corim = read_corim(file.read_bytes())
    assert ask(verifier, corim, replace=True)["pass"] == 1
    other = replace(corim, registers=((7, NEW),))
    (refused,) = ask(verifier, other, replace=True)["hosts"]
    assert [(r["code"], r["claim"], r["got"]) for r in refused["reasons"]] == [("governance-mismatch", "governance.registers.7", quoted[7])]
    verifier.client.post("/v1/references", {"corims": [to_base64(encode_corim(other))], "replace": True})
    assert codes(again(host)) == {"governance-mismatch"}


@pytest.mark.parametrize(
    "words, said",
    [(("--pcr", "16"), "host.boot.registers"), (("--boot", "--pcr", "7"), "--host, and its governance")],
)
def test_pcr_is_captured_where_it_is_known(verifier: RunningVerifier, host: SimulatedHost, words: tuple[str, ...], said: str) -> None:
    host.attest("one")
    status, shown = command(verifier, "capture", "--host", "h1", *words)
    assert (status != 0, said in shown) == (True, True), shown


def test_dry_run_keeps_the_names_of_files_that_would_be_retired(verifier: RunningVerifier, host: SimulatedHost) -> None:
    verifier.publish(ima={"keyrings": [to_base64(certificate("vendor"))]})
    editor = Corim("editor", "default", "files/editor", (("/usr/bin/vi", Digest.of(b"vi")),))
    verifier.client.post("/v1/references", {"corims": [to_base64(encode_corim(one)) for one in (editor, shell(Digest.of(b"shell")))]})
    assert host.kernel is not None
    host.kernel.measure("/usr/bin/vi", NEW, template="ima-sig", sig=signed(NEW, "vendor"))
    host.measure()
    host.attest("one")
    retired = [row["digest"] for row in verifier.client.get("/v1/references")["references"] if row["id"] == "editor"]
    other = replace(editor, id="other", components=(("/usr/bin/nano", NEW),))
    for asked in (ask(verifier), ask(verifier, retire=retired), ask(verifier, other, replace=True)):
        assert ("ima./usr/bin/vi", f"sha256:{NEW.hex()}") in {(r["claim"], r["got"]) for r in asked["hosts"][0]["reasons"]}


def test_diff_is_with_versions_and_not_with_names_that_are_kept(verifier: RunningVerifier, tmp_path: Path) -> None:
    verifier.publish(accept_runtime_only=False)
    part = Corim("launcher", "default", "rooted/launcher", (("/usr/bin/bwrap", NEW),))
    verifier.client.post("/v1/references", {"corims": [to_base64(encode_corim(part))]})
    (digest,) = [row["digest"] for row in verifier.client.get("/v1/references")["references"]]
    verifier.client.post("/v1/retirements", {"digests": [digest]})
    assert [row["id"] for row in verifier.client.get("/v1/references")["references"]] == ["retired-0"]
    (tmp_path / "one.corim").write_bytes(encode_corim(part))
    status, said = command(verifier, "diff", str(tmp_path / "one.corim"))
    assert (status, json.loads(said)["versions"]) == (1, [])


# --- what the commands refuse ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rooted",
    [
        ("attestor=/usr/bin/attestor", "attestor=/usr/bin/enforcer"),
        ("attestor=",),
        ("attestor=/",),
        ("attestor=//",),
        ("attestor",),
        ("zz=/usr/bin/attestor",),
        ("attestor=/usr/bin/other",),
    ],
)
def test_place_of_a_part_is_one_path_that_was_measured(verifier: RunningVerifier, host: SimulatedHost, rooted: tuple[str, ...]) -> None:
    host.attest("one")
    words = [word for one in rooted for word in ("--rooted", one)]
    status, said = command(verifier, "capture", "--host", "h1", *words)
    fault = json.loads(said)
    assert (status, fault["what"], fault["got"]) == (2, "--rooted", rooted[-1])


def test_dry_run_says_whether_every_host_would_pass(verifier: RunningVerifier, host: SimulatedHost) -> None:
    """0 where all would, 1 where one would not, 3 where no host was there to be asked about."""
    status, said = command(verifier, "dry-run")
    assert (status, "no host of the namespace ever attested" in said, "1 wait" in said) == (3, True, True)
    host.attest("one")
    assert command(verifier, "dry-run")[0] == 0
    (digest,) = [row["digest"] for row in verifier.client.get("/v1/references")["references"] if row["environment"] == "governance"]
    assert command(verifier, "dry-run", "--retire", digest)[0] == 1
