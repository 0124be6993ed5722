"""What engine 1 says, and how each format of ours is spelt: recomputed from fixed inputs, compared with the bytes beside this file.

`python -m tests.golden.record` writes the files anew. A line that changes in engine-N.txt demands a new engine number and a new
file; a line that changes in formats-N.txt demands a new version of that format. Lines may be added.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.world.scene import DEMO, NAMESPACE, POLICIES, Scene, measurement, permitted, policy, sign_token, sixteen
from tests.world.specimens import specimens
from writ.formats.action import Action
from writ.formats.corim import Corim
from writ.formats.decision import encode_entry
from writ.formats.digest import Digest
from writ.formats.eat import encode_claims
from writ.formats.eventlog.runtime import DriftEvent
from writ.formats.state import encode_host_record, encode_host_state
from writ.formats.strict import encode_cbor
from writ.verdict.attestation import AttestationVerdict
from writ.verdict.decide import judge_recorded
from writ.verdict.engine import ENGINE
from writ.verdict.proof import prove
from writ.verdict.reference import measured_values

HERE = Path(__file__).parent


def _verdict(name: str, verdict: AttestationVerdict) -> dict[str, bytes]:
    claims = [encode_claims(t.claims) if t.claims else b"" for t in verdict.tokens]
    return {
        f"{name}/entry": encode_entry(verdict.entry),
        f"{name}/result": verdict.result,
        f"{name}/state": encode_host_state(verdict.state_after),
        f"{name}/claims": encode_cbor(claims),
    }


def engine() -> dict[str, bytes]:
    """Decisions by name: permits and refusals of every kind, before any signature."""
    out: dict[str, bytes] = {}
    scene = Scene()
    out["enrolment/record"] = encode_host_record(scene.record)
    scene.launch("one")
    first = scene.attest("one")
    out |= _verdict("first", first)
    scene.launch("two", parent="one", grants=(("tool.call", "files/reports/*"),))
    scene.launch("three", parent="one", grants=(("tool.call", "everything/*"),))
    out |= _verdict("family", scene.attest("one", "two", "three"))
    claims, token = permitted(first), sign_token(permitted(first))
    for resource, action in (("files/a", "tool.call"), ("mail/delete", "tool.call"), ("files/a", "file.read")):
        answer = judge_recorded(Action(action, resource, Digest.of(b"")), claims, scene.bundle, gate="socket", now=scene.now + 7)
        said = [answer.permit, [r.to_cbor() for r in answer.reasons], list(answer.determining), answer.context]
        out[f"action/{action} {resource}"] = encode_cbor(said)
    scene.act("one", token, claims)
    scene.event(DriftEvent(sixteen("one"), "prompts", "a.txt", Digest.of(b"x"), None))
    out |= _verdict("drift", scene.attest("one", "two"))
    scene.reboot()
    scene.launch("four")
    out |= _verdict("reboot", scene.attest("four"))
    out |= _verdict("rewound", scene.judge(scene.evidence("four", first=2)))
    scene.chip.clock = 0
    out |= _verdict("fork", scene.attest("four"))
    out |= _verdict("contained", scene.attest("four"))
    strict = Scene(bundle=policy(replace(DEMO, accept_runtime_only=False), policies=POLICIES))
    strict.launch("one")
    out |= _verdict("not-rooted", strict.attest("one"))
    above = Scene()
    above.launch("one")
    coder = measurement("coder", profile="sandboxed")
    named = str(coder.agent)
    above.references = (*above.references, Corim("coder-1", NAMESPACE, named, tuple(sorted(measured_values(coder).items()))))
    above.launch("two", agent="coder", parent="one", what=coder)
    out |= _verdict("child", above.attest("one", "two"))
    out |= anchored()
    whole = Scene()
    proven = prove(whole.proof_bundle(), whole.trust)
    out["proof/steps"] = encode_cbor(
        [
            [[step.number, step.what, step.checked] for step in proven.steps],
            proven.chain.enrolled_at,
            proven.chain.attested_at,
            proven.carried_at,
        ]
    )
    return out


def anchored() -> dict[str, bytes]:
    """Logs that extend what was anchored of them, one that does not, and a register that is not where the anchors lead."""
    out: dict[str, bytes] = {}
    scene = Scene()
    scene.launch("one")
    scene.anchor()
    first = scene.attest("one")
    out |= _verdict("anchors/begun", first)
    claims, token = permitted(first), sign_token(permitted(first))
    for number in range(2):
        scene.act("one", token, claims)
        scene.anchor("one")
        out |= _verdict(f"anchors/owed-{number}", scene.judge(scene.evidence()))
    scene.act("one", token, claims)
    out |= _verdict("anchors/proven", scene.judge(scene.evidence("one")))
    unproven = replace(scene.running["one"].request(), anchored=())
    out |= _verdict("anchors/unproven", scene.judge(scene.evidence(requests=(unproven,))))
    out |= _verdict("anchors/kept-back", scene.judge(replace(scene.evidence("one"), anchors=None)))
    del scene.running["one"].leaves[1:]
    for _ in range(3):
        scene.act("one", token, claims, resource="files/b")
    out |= _verdict("anchors/dropped", scene.attest("one"))
    return out


def formats() -> dict[str, bytes]:
    """One encoding of each format of ours, by name."""
    return {name: specimen.data for name, specimen in specimens().items()}


FILES = {f"engine-{ENGINE}.txt": engine, "formats-1.txt": formats}


def read(name: str) -> dict[str, bytes]:
    """The recorded lines of a file."""
    rows = (line.rsplit(" ", 1) for line in (HERE / name).read_text().splitlines())
    return {label: bytes.fromhex(digits) for label, digits in rows}


def main() -> None:
    """Write the files anew."""
    for name, make in FILES.items():
        (HERE / name).write_text("".join(f"{label} {data.hex()}\n" for label, data in sorted(make().items())))


if __name__ == "__main__":
    main()
