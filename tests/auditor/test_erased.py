"""An enforcer's own log, before and after its content is erased: `verify` proves the action both times, `replay` says what is gone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from auditor.__main__ import main as auditor
from enforcer.__main__ import main as enforcer
from enforcer.record import ActionLog, LogReader
from tests.world.recorded import Recorded
from tests.world.scene import Scene, permitted, sign_entry, sign_token
from writ.formats.action import Action
from writ.formats.archive import encode_archive, parse_archive
from writ.formats.corim import encode_corim
from writ.formats.cose import parse_sign1
from writ.formats.decision import AttestDecision, OperatorAct, parse_entry
from writ.formats.digest import Digest
from writ.formats.engine import encode_engine
from writ.formats.evidence import encode_evidence
from writ.formats.policy_bundle import encode_bundle
from writ.formats.reason import NO_TOKEN
from writ.formats.record import ActionDraft, OutcomeDraft
from writ.formats.spiffe import AgentId
from writ.formats.state import encode_host_record, encode_host_state
from writ.formats.trust import encode_trust
from writ.service.engine_id import installed_engine
from writ.verdict.decide import judge_recorded
from writ.verdict.reference import reference_set

HERE = installed_engine()


class Site:
    """A verifier that attested an agent, and an enforcer that decided three of its actions, and refused one on hold."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "enforcer.toml").write_text(f'state_dir = "{folder}/state"\n')
        scene = Scene(engine=HERE)
        one = scene.launch("one")
        made = Recorded(trust=scene.trust)
        evidence = scene.evidence("one")
        verdict = scene.judge(evidence)
        claims = permitted(verdict)
        token, before = sign_token(claims), verdict.state_after
        self.instance = one.instance
        place = folder / "state" / "instances" / one.instance.hex()
        place.mkdir(parents=True)
        log = ActionLog(place, one.instance, AgentId.parse(str(claims.agent)), HERE, scene.now, folder / "state" / "namespaces")
        for resource in ("files/a", "mail/delete", "files/b"):
            action = Action("tool.call", resource, Digest.of(b"arguments"))
            answer = judge_recorded(action, claims, scene.bundle, gate="socket", now=scene.now)
            draft = ActionDraft(
                scene.now, action, Digest.of(token.encode()), scene.bundle.digest, answer.context, answer.reasons, None, "socket"
            )
            done = log.append(draft, b"arguments of " + resource.encode())
            if answer.permit:
                log.append(OutcomeDraft(scene.now, done.sequence, True), b"result")
        held = ActionDraft(scene.now, Action("tool.call", "files/c", Digest.of(b"")), None, None, b"\xa0", (NO_TOKEN,), None, "socket")
        log.append(held, b"")
        log.close()
        one.leaves = [entry.leaf for entry in LogReader(place, one.instance).entries()]
        scene.state, scene.now = before, scene.now + 30
        carrier = scene.evidence("one")
        carried = scene.judge(carrier)
        for entry in (scene.enrol_entry, verdict.entry, carried.entry):
            made.sign(entry)
        made.objects |= {
            encode_engine(HERE),
            scene.enrolment,
            encode_trust(scene.trust),
            encode_host_record(scene.record),
            encode_bundle(scene.bundle),
        }
        made.objects |= {encode_evidence(evidence), encode_evidence(carrier), encode_host_state(before), verdict.result, carried.result}
        made.objects |= {reference_set(scene.references).listed, *map(encode_corim, scene.references)}
        made.tokens.add(token)
        (folder / "trust").write_bytes(encode_trust(scene.trust))
        verifiers = made.verifier().merged(made.enforcer())
        (folder / "verifier").write_bytes(encode_archive(verifiers))

    def said(self, capsys: pytest.CaptureFixture[str], command: Any, *words: str) -> tuple[int, Any]:
        """The exit status of a command, and what it printed."""
        capsys.readouterr()
        code = command([*words, "--json"])
        return code, json.loads(capsys.readouterr().out)

    def looked_at(self, capsys: pytest.CaptureFixture[str], name: str) -> tuple[tuple[int, Any], list[tuple[int, Any]]]:
        """What `replay` says of an archive exported now, and `verify` of each bundle out of it."""
        config, trust, out = str(self.folder / "enforcer.toml"), str(self.folder / "trust"), self.folder / name
        assert self.said(capsys, enforcer, "--config", config, "log", "export", "--output", str(out))[0] == 0
        archives = (str(self.folder / "verifier"), str(out))
        replayed = self.said(capsys, auditor, "replay", *archives, "--trust", trust)
        bundles = self.folder / f"{name}.proofs"
        _, exported = self.said(capsys, auditor, "export", *archives, "--out", str(bundles))
        verified = [self.said(capsys, auditor, "verify", str(bundles / one), "--trust", trust) for one in exported["written"]]
        return replayed, verified


def test_erased_content_is_said_by_replay_while_verify_still_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site = Site(tmp_path)
    (code, told), verified = site.looked_at(capsys, "before")
    assert (code, told["verdict"]) == (0, "accepted")
    assert {name: count for name, count in told["counts"].items() if count} == {"identical": 6, "not decided by policy": 1}
    assert [(code, one["rerun"]) for code, one in verified] == [(0, True)] * 3

    config = str(tmp_path / "enforcer.toml")
    assert site.said(capsys, enforcer, "--config", config, "log", "erase", site.instance.hex())[1]["erased"] is True

    (code, told), verified = site.looked_at(capsys, "after")
    assert (code, told["verdict"]) == (0, "accepted")
    assert {name: count for name, count in told["counts"].items() if count} == {"identical": 3, "erased": 3, "not decided by policy": 1}
    assert [(code, one["verdict"], one["rerun"]) for code, one in verified] == [(0, "accepted", False)] * 3


def test_what_the_verifier_erased_is_said_so_where_a_logged_act_says_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site = Site(tmp_path)
    whole = parse_archive((tmp_path / "verifier").read_bytes())
    decisions = [parse_entry(parse_sign1(signed).payload or b"") for signed in whole.entries]
    attested = [one for one in decisions if isinstance(one, AttestDecision)]
    gone = {dict(one.inputs)["evidence"] for one in attested}
    left = tuple(one for one in whole.objects if Digest.of(one) not in gone)
    last = max(one.decided_at for one in attested)

    def replayed(*acts: OperatorAct) -> dict[str, int]:
        entries = tuple(sorted({*whole.entries, *map(sign_entry, acts)}))
        (tmp_path / "verifier").write_bytes(encode_archive(replace(whole, objects=left, entries=entries)))
        (_, told), _ = site.looked_at(capsys, "after")
        return {name: count for name, count in told["counts"].items() if count and name in ("erased", "incomplete")}

    act = OperatorAct(HERE.digest, last, attested[0].namespace, "alice", "content-erase", attested[0].namespace, None)
    assert replayed() == {"incomplete": 2}
    assert replayed(replace(act, namespace="another")) == {"incomplete": 2}
    assert replayed(replace(act, decided_at=last - 1)) == {"erased": 1, "incomplete": 1}
    assert replayed(act) == {"erased": 2}
    assert replayed(replace(act, act="content-hold")) == {"incomplete": 2}
    for kept in ("policy", "references"):  # the domain's, which no erasure of a namespace takes
        withheld = {dict(one.inputs)[kept] for one in attested}
        left = tuple(one for one in whole.objects if Digest.of(one) not in gone | withheld)
        assert "erased" not in replayed(act)
    left = tuple(one for one in whole.objects if Digest.of(one) != HERE.digest)
    assert "erased" not in replayed(act)
