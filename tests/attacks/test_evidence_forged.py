"""T1, T2, T3: an altered quote, another selection, another structure. Under every policy, also the most permissive."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.attacks.policies import SHAPES
from tests.world.scene import Scene, signer
from tests.writ.verdict.refusal import refused
from writ.formats.digest import Digest, extend
from writ.formats.errors import FormatError, Refused
from writ.formats.evidence import Evidence, binding, enrolment_binding
from writ.formats.policy_bundle import PolicyBundle
from writ.formats.strict import encode_cbor
from writ.formats.tpm.attest import encode_attest, parse_attest
from writ.formats.tpm.pcr import PcrSelection, PcrValues

QUOTED = tuple(range(16))


def scene_under(bundle: PolicyBundle) -> Scene:
    scene = Scene(bundle=bundle)
    scene.launch("one")
    return scene


def bound(scene: Scene, evidence: Evidence) -> bytes:
    return binding(signer("decision").public.thumbprint(), scene.host, evidence.nonce, evidence.requests)


@pytest.mark.parametrize("bundle", SHAPES.values(), ids=SHAPES)
def test_t1_every_byte_of_message_and_signature_flipped_is_refused(bundle: PolicyBundle) -> None:
    """Every byte under every policy; each bit of it under the most permissive."""
    scene = scene_under(bundle)
    whole = scene.evidence("one")
    scene.judge(whole)
    flips = [1 << bit for bit in range(8)] if bundle == SHAPES["most permissive"] else [0x01]
    for part in ("attest", "signature"):
        data: bytes = getattr(whole, part)
        for at in range(len(data)):
            for flip in flips:
                spoilt = data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :]
                forged = replace(whole, attest=spoilt) if part == "attest" else replace(whole, signature=spoilt)
                with pytest.raises((Refused, FormatError)):
                    scene.judge(forged)


@pytest.mark.parametrize("bundle", SHAPES.values(), ids=SHAPES)
def test_t1_signature_of_any_other_quote_is_refused(bundle: PolicyBundle) -> None:
    scene = scene_under(bundle)
    first, second = scene.evidence("one"), scene.evidence("one")
    assert refused(lambda: scene.judge(replace(second, signature=first.signature))).code == "signature-invalid"
    assert refused(lambda: scene.judge(replace(second, signature=scene.chip.sign(b"")))).code == "signature-invalid"


SELECTIONS = {
    "short": (("sha256", QUOTED[:15]),),
    "without the runtime PCR": (("sha256", tuple(i for i in QUOTED if i != 14)),),
    "long": (("sha256", tuple(range(24))),),
    "no PCR at all": (),
    "other bank": (("sha384", QUOTED),),
    "both banks": (("sha256", QUOTED), ("sha384", QUOTED)),
}


@pytest.mark.parametrize("bundle", [SHAPES["most permissive"], SHAPES["default settings"]], ids=["permissive", "default"])
@pytest.mark.parametrize("banks", SELECTIONS.values(), ids=SELECTIONS)
def test_t2_selection_short_long_or_of_another_bank_is_refused(
    banks: tuple[tuple[str, tuple[int, ...]], ...], bundle: PolicyBundle
) -> None:
    """The values that travel are those of the enrolled selection: only what was signed differs (CVE-2022-0317, CVE-2024-29039)."""
    scene = scene_under(bundle)
    whole = scene.evidence("one")
    attest, signature = scene.chip.quote(bound(scene, whole), selection=PcrSelection(banks))
    assert refused(lambda: scene.judge(replace(whole, attest=attest, signature=signature))).code == "pcr-selection-mismatch"


def test_t2_relabelled_registers_are_refused() -> None:
    """A good value shown under the index of another register."""
    scene = scene_under(SHAPES["most permissive"])
    whole = scene.evidence("one")
    values = dict(whole.pcrs.values)
    for one, other in ((14, 13), (0, 14), (7, 8)):
        swapped = {**values, one: values[other], other: values[one]}
        if swapped == values:
            continue
        forged = replace(whole, pcrs=PcrValues("sha256", tuple(sorted(swapped.items()))))
        assert refused(lambda forged=forged: scene.judge(forged)).code == "pcr-digest-mismatch"  # type: ignore[misc] # a default binds the loop's value


def test_t2_register_beyond_the_signed_selection_is_not_even_heard() -> None:
    scene = scene_under(SHAPES["most permissive"])
    whole = scene.evidence("one")
    more = PcrValues("sha256", (*whole.pcrs.values, (23, b"\1" * 32)))
    assert refused(lambda: scene.judge(replace(whole, pcrs=more))).code == "pcr-selection-mismatch"


LISTS: dict[str, Callable[[Evidence], Evidence]] = {
    "no register": lambda e: replace(e, pcrs=PcrValues("sha256", ())),
    "one register": lambda e: replace(e, pcrs=PcrValues("sha256", e.pcrs.values[:1])),
    "a register short": lambda e: replace(e, pcrs=PcrValues("sha256", e.pcrs.values[:-1])),
    "the runtime register left out": lambda e: replace(e, pcrs=PcrValues("sha256", tuple(v for v in e.pcrs.values if v[0] != 14))),
    "all registers there are": lambda e: replace(e, pcrs=PcrValues("sha256", (*e.pcrs.values, *((i, bytes(32)) for i in range(16, 24))))),
    "no event": lambda e: replace(e, log=b""),
    "an event short": lambda e: replace(e, log=e.log[: len(e.log) // 2]),
    "a log that begins later": lambda e: replace(e, log_first=1),
    "a log that begins at the end of numbers": lambda e: replace(e, log_first=(1 << 63) - 1),
    "no measurement": lambda e: replace(e, measurements=()),
    "more measurements than requests": lambda e: replace(e, measurements=(*e.measurements, *(bytes([i]) for i in range(200)))),
    "more measurements than are allowed": lambda e: replace(e, measurements=e.measurements * 300),
    "no request": lambda e: replace(e, requests=()),
    "more requests than were bound": lambda e: replace(e, requests=(*e.requests, replace(e.requests[0], instance=bytes(16)))),
    "more requests than are allowed": lambda e: replace(
        e, requests=tuple(replace(e.requests[0], instance=i.to_bytes(16, "big")) for i in range(300))
    ),
    "a proof of a log without end": lambda e: replace(e, requests=(replace(e.requests[0], log_proof=(bytes(32),) * 300),)),
}


@pytest.mark.parametrize("spoil", LISTS.values(), ids=LISTS)
def test_list_short_long_or_empty_is_a_typed_answer_and_no_token(spoil: Callable[[Evidence], Evidence]) -> None:
    """Each list that the sender sizes, as it may come over the wire: refused, malformed, or decided without a token."""
    scene = scene_under(SHAPES["most permissive"])
    whole = scene.evidence("one")
    assert scene.judge(whole).tokens[0].claims is not None
    try:
        verdict = scene.judge(spoil(whole))
    except (Refused, FormatError):
        return
    if spoil is LISTS["more measurements than requests"]:  # what is no preimage of an event is dropped
        assert verdict.tokens == scene.judge(whole).tokens
    else:
        assert all(token.claims is None for token in verdict.tokens)


@pytest.mark.parametrize("bundle", SHAPES.values(), ids=SHAPES)
def test_t3_wrong_magic_signed_by_the_ak_is_refused(bundle: PolicyBundle) -> None:
    scene = scene_under(bundle)
    whole = scene.evidence("one")
    for magic in (0, 0xFF544346, 0x474354FF):
        attest = encode_attest(replace(parse_attest(whole.attest), magic=magic))
        forged = replace(whole, attest=attest, signature=scene.chip.sign(attest))
        assert refused(lambda forged=forged: scene.judge(forged)).code == "not-tpm-generated"  # type: ignore[misc] # a default binds the loop's value


@pytest.mark.parametrize("bundle", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("kind", ["certify", "certify_creation", "certify_nv"])
def test_t3_wrong_type_signed_by_the_ak_is_refused(kind: str, bundle: PolicyBundle) -> None:
    scene = scene_under(bundle)
    whole = scene.evidence("one")
    attest, signature = getattr(scene.chip, kind)(bound(scene, whole))
    assert refused(lambda: scene.judge(replace(whole, attest=attest, signature=signature))).code == "wrong-attest-type"


def test_another_pcr_after_drift_is_refused() -> None:
    """The runtime register says drift; the host shows a clean one of its others instead."""
    scene = scene_under(SHAPES["most permissive"])
    replayed = bytes(32)
    for record in scene.records:
        replayed = extend("sha256", replayed, next(d.value for d in record.digests if d.algorithm == "sha256"))
        scene.chip.extend(13, {d.algorithm: d.value for d in record.digests})
    scene.chip.extend(14, {"sha256": b"\1" * 32, "sha384": b"\1" * 48})
    assert scene.chip.pcrs["sha256"][13] == replayed
    verdict = scene.judge(scene.evidence("one"))
    assert [r.code for r in verdict.entry.reasons] == ["runtime-log-mismatch"]
    assert verdict.tokens[0].claims is None
    elsewhere = [replace(r, pcr=13) for r in scene.records]
    scene.records = elsewhere
    assert [r.code for r in scene.judge(scene.evidence("one")).entry.reasons] == ["runtime-log-malformed"]


def test_another_bank_after_drift_is_refused() -> None:
    """Drift was extended into the enrolled bank alone; the other still looks clean."""
    scene = scene_under(SHAPES["most permissive"])
    whole = scene.evidence("one")
    scene.chip.extend(14, {"sha256": b"\1" * 32})
    attest, signature = scene.chip.quote(bound(scene, whole), selection=PcrSelection((("sha384", QUOTED),)))
    forged = replace(whole, attest=attest, signature=signature, pcrs=scene.chip.values("sha384"))
    assert refused(lambda: scene.judge(forged)).code == "pcr-selection-mismatch"


def test_ak_as_a_signing_oracle_says_nothing_here() -> None:
    """The AK really quoted, for another protocol, another verifier, another host, an enrolment, a bare nonce."""
    scene = scene_under(SHAPES["most permissive"])
    whole = scene.evidence("one")
    key = scene.record.host_key.thumbprint()
    tagged = [
        "writ/attest/v2",
        signer("decision").public.thumbprint(),
        scene.host,
        whole.nonce.value,
        [r.bound() for r in whole.requests],
        [],
    ]
    for said in (
        b"", whole.nonce.value, b"another protocol",
        enrolment_binding(scene.host, key, whole.nonce.value, whole.nonce.value),
        binding(bytes(32), scene.host, whole.nonce, whole.requests),
        binding(signer("decision").public.thumbprint(), "host-2", whole.nonce, whole.requests),
        Digest.of(encode_cbor(tagged)).value, Digest.of(encode_cbor(["writ/attest/v1", *tagged[1:5]])).value,
    ):  # fmt: skip
        attest, signature = scene.chip.quote(said)
        forged = replace(whole, attest=attest, signature=signature)
        assert refused(lambda forged=forged: scene.judge(forged)).code == "extra-data-mismatch"  # type: ignore[misc] # a default binds the loop's value
