"""`enforcer approve`, with a real daemon and holder: a person says yes to one action of a running agent, here or with a key elsewhere."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from enforcer.explain import export
from tests.enforcer.host import ROOT, Host, wait_for
from tests.enforcer.records import entries_of
from tests.world.approvals import BOB, POLICIES, SCHEMA
from writ.formats.record import ActionRecord
from writ.service.signers import create_signer
from writ.verdict.approval import consent_of

pytestmark = pytest.mark.cgroup

ASKS = """
told = None
while True:
    got = ask("notes", "send", to="alice")
    if got.get("refusal") is None or got["refusal"]["reasons"][0]["code"] != "approval-required":
        break
    if told is None:
        print(got["reference"], flush=True)
        told = got
    time.sleep(0.05)
print(json.dumps([got, ask("notes", "send", to="alice")]), flush=True)
"""


def approve(host: Host, *words: str) -> tuple[int, str]:
    done = subprocess.run(host.command("approve", *words), cwd=ROOT, capture_output=True, check=False, timeout=30, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_person_approves_an_action_which_passes_once(host: Host, tmp_path: Path, where: str) -> None:
    key, stranger = create_signer(tmp_path / "alice.pem"), create_signer(tmp_path / "mallory.pem")
    host.attestor.schema, host.attestor.policies = SCHEMA, POLICIES
    host.attestor.settings = replace(host.attestor.settings, approvers=(("alice", key.public), ("bob", BOB.public)))
    host.agent("a", ASKS)
    run = host.run("a")
    assert run.stdout is not None
    reference = run.stdout.readline().decode().strip()
    why = host.show("why", reference)
    assert [reason["expected"] for reason in why["reasons"]] == ["an approval by alice or bob"]
    assert why["approval"]["policy"] == why["policy"]
    assert why["content"] == '{"to":"alice"}'

    status, told = approve(host, reference, "--key", str(stranger.path))
    assert (status, "approval-refused" in told) == (1, True), told
    assert approve(host, reference)[0] == 2
    public = tmp_path / "alice.pub"
    public.write_bytes(b"-----BEGIN PUBLIC KEY-----\n")
    status, told = approve(host, reference, "--key", str(public))
    assert (status, "a public key, which signs nothing" in told) == (2, True), told
    if where == "here":
        status, told = approve(host, reference, "--key", str(key.path), "--within", "60")
    else:
        to_sign, signature = tmp_path / "to-sign", tmp_path / "signature"
        assert approve(host, reference, "--by", "mallory", "--out", str(to_sign))[0] == 1
        status, told = approve(host, reference, "--by", "alice", "--out", str(to_sign))
        assert status == 0, told
        private = load_pem_private_key(key.path.read_bytes(), None)
        signature.write_bytes(private.sign(to_sign.read_bytes()))  # type: ignore[union-attr, call-arg] # it is one of Ed25519
        status, told = approve(host, reference, "--request", str(to_sign), "--signature", str(signature))
    assert status == 0, told
    status, out, err = host.finish(run)
    passed, again = json.loads(out)

    assert (status, err) == (0, "")
    assert passed["ok"] is False, "the tool knows no such method, and was asked"
    assert "result" in passed
    assert [reason["code"] for reason in again["refusal"]["reasons"]] == ["approval-required"]
    instance = host.instance("a")
    entries = entries_of(host.config.instance_dir(instance), instance)
    (context,) = [one.context for one in entries if isinstance(one.record, ActionRecord) and one.record.permit]
    assert context is not None
    consent = consent_of(context)
    assert consent is not None
    assert consent.approver == "alice"
    assert consent.approval in {str(name) for name in export(host.config, [instance]).by_digest()}
    status, told = approve(host, reference, "--key", str(key.path))
    assert (status, "instance-stopped" in told, "--namespace" in told) == (1, True, False), told


def test_approval_reaches_a_holder_that_came_over_only_for_what_it_refused_itself(host: Host, tmp_path: Path) -> None:
    key = create_signer(tmp_path / "alice.pem")
    host.attestor.schema, host.attestor.policies = SCHEMA, POLICIES
    host.attestor.settings = replace(host.attestor.settings, approvers=(("alice", key.public),))
    host.agent("a", """
        def code():
            got = ask("notes", "send", to="alice")
            return got["reference"], got.get("refusal", {"reasons": [{"code": "passed"}]})["reasons"][0]["code"]
        print(*code(), flush=True)
        while True:
            reference, got = code()
            print(reference, got, flush=True)
            time.sleep(0.2)
        """)  # fmt: skip
    run = host.run("a")
    assert run.stdout is not None
    first = run.stdout.readline().decode().split()[0]
    instance = host.instance("a")
    host.kill_daemon()
    host.install("v2")
    host.serve()
    wait_for(lambda: host.standing(instance).get("moves") == 1 and host.standing(instance)["state"] == "running", 60)
    status, told = approve(host, first, "--key", str(key.path))
    assert (status, "approval-unknown" in told) == (1, True), told
    latest = ""

    def refused_afresh() -> bool:
        nonlocal latest
        assert run.stdout is not None
        latest, code = run.stdout.readline().decode().split()
        return code == "approval-required" and approve(host, latest, "--key", str(key.path))[0] == 0

    wait_for(refused_afresh, 60)
    wait_for(lambda: run.stdout is not None and run.stdout.readline().decode().split()[1] == "passed", 30)
    host.show("kill", instance.hex())
    host.finish(run)
