"""The register of anchors and its file agree, whatever happened to either; and the daemon's share of it."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from attestor.collect.anchors import AnchorRegister
from attestor.esapi import EsapiTpm
from swtpm import SoftTpm
from tests.attestor.site import Host, VerifierSite, token_ask
from tests.attestor.test_agentd import start, told
from writ.formats.anchor import MAX_BATCHES, MAX_ROWS, AnchorRow, led
from writ.formats.digest import Digest
from writ.formats.errors import Refused, Unavailable
from writ.formats.evidence import parse_evidence
from writ.formats.local import Anchor, Done, LeaseAsk, LeaseGiven, Refusal, Stop, TokenGiven
from writ.formats.strict import decode_cbor, encode_cbor
from writ.formats.tpm.pcr import PcrValues

PCR = 15


def row(number: int, size: int = 1) -> AnchorRow:
    return AnchorRow(bytes([number]) * 16, size, bytes([number]) * 32)


@pytest.fixture
def tpm(soft_tpm: SoftTpm, tmp_path: Path) -> EsapiTpm:
    return EsapiTpm(soft_tpm.tcti, tmp_path / "ak.cbor", allow_software=True)


def opened(tmp_path: Path, tpm: EsapiTpm, pcr: int | None = PCR) -> AnchorRegister:
    register = AnchorRegister(tmp_path, tpm, pcr=pcr, bank="sha256")
    register.open()
    return register


def code(register: AnchorRegister, *rows: AnchorRow) -> str:
    """Why these are not anchored; empty where they are."""
    try:
        return "full" if register.anchor(rows) else ""
    except Refused as refused:
        return refused.reasons[0].code


# --- the register --------------------------------------------------------------------------------------------------------


def test_every_active_bank_is_where_the_batches_lead(tmp_path: Path, tpm: EsapiTpm) -> None:
    tpm.extend(PCR, tuple(Digest.of(b"systemd", bank) for bank in ("sha256", "sha384")))
    before = {bank: tpm.read(bank).get(PCR) for bank in ("sha256", "sha384")}
    register = opened(tmp_path, tpm)
    register.anchor((row(2), row(1)))
    register.anchor((row(1, 9),))
    batches = ((row(1), row(2)), (row(1, 9),))
    for bank in ("sha256", "sha384"):
        assert tpm.read(bank).get(PCR) == led(bank, before[bank], batches)
    sent = register.travelling(tpm.read("sha256"))
    assert sent is not None
    assert (sent.pcr, sent.base, sent.batches) == (PCR, before["sha256"], batches)


def test_only_what_the_verifier_does_not_know_travels_up_to_the_quoted_register(tmp_path: Path, tpm: EsapiTpm) -> None:
    register = opened(tmp_path, tpm)
    first = register.travelling(tpm.read("sha256"))
    assert first is not None
    assert first.batches == (), "the register's first value comes before any anchor"
    register.acknowledge(first)
    assert register.travelling(tpm.read("sha256")) is None
    register.anchor((row(1),))
    quoted = tpm.read("sha256")
    register.anchor((row(2),))
    sent = register.travelling(quoted)
    assert sent is not None
    assert sent.batches == ((row(1),),), "what came after the quote is of the next"
    register.acknowledge(sent)
    rest = register.travelling(tpm.read("sha256"))
    assert rest is not None
    assert (rest.base, rest.batches) == (quoted.get(PCR), ((row(2),),))
    again = opened(tmp_path, tpm)
    assert again.travelling(tpm.read("sha256")) == rest, "a restart forgets nothing"


def test_verifier_that_knows_less_is_served_from_there_and_one_that_knows_more_than_is_kept_is_not(tmp_path: Path, tpm: EsapiTpm) -> None:
    register = opened(tmp_path, tpm)
    values = [tpm.read("sha256").get(PCR)]
    for number in range(3):
        register.anchor((row(number),))
        values.append(tpm.read("sha256").get(PCR))
    sent = register.travelling(tpm.read("sha256"))
    assert sent is not None
    register.acknowledge(sent)
    assert register.travelling(tpm.read("sha256")) is None
    assert register.resume_from(values[1].hex())
    back = register.travelling(tpm.read("sha256"))
    assert back is not None
    assert (back.base, back.batches) == (values[1], ((row(1),), (row(2),)))
    assert not register.resume_from((b"\x55" * 32).hex())


def test_an_interval_has_room_for_so_many_and_the_next_for_as_many_again(tmp_path: Path, tpm: EsapiTpm) -> None:
    register = opened(tmp_path, tpm)
    for number in range(MAX_BATCHES):
        assert code(register, row(number)) == ""
    before = tpm.read("sha256")
    assert code(register, row(99)) == "full"
    assert tpm.read("sha256") == before, "nothing is extended that no evidence would carry"
    sent = register.travelling(before)
    assert sent is not None
    register.acknowledge(sent)
    many = [AnchorRow(number.to_bytes(16, "big"), 1, bytes(32)) for number in range(MAX_ROWS)]
    assert code(register, *many) == ""
    assert code(register, row(200)) == "full"


def test_instance_that_anchors_at_every_moment_leaves_others_their_anchors(tmp_path: Path, tpm: EsapiTpm) -> None:
    register = opened(tmp_path, tpm)
    for size in range(1, 13):
        assert code(register, row(1, size)) == ""
    before = tpm.read("sha256")
    assert code(register, row(1, 13)) == "full"
    assert tpm.read("sha256") == before, "nothing is extended that no evidence would carry"
    assert code(register, row(2)) == "", "who has none yet has room"
    assert register.anchor((row(1, 14), row(3), row(2, 2))) == (), "and others come along"
    assert code(register, row(2, 3), row(1, 15)) == "full", "but have no further batch"
    assert [code(register, row(number)) for number in (4, 5, 6)] == ["", "", "full"], "at most 16 in all"
    sent = register.travelling(tpm.read("sha256"))
    assert sent is not None
    assert len(sent.batches) == MAX_BATCHES
    register.acknowledge(sent)
    assert code(register, row(1, 16)) == "", "the next quote makes room"


def test_checkpoints_of_many_instances_fit_as_far_as_they_go_and_the_first_of_each_comes_first(tmp_path: Path, tpm: EsapiTpm) -> None:
    register = opened(tmp_path, tpm)
    assert register.anchor([row(number) for number in range(60)]) == ()
    left = register.anchor([row(number, 2) for number in range(61)])
    assert left == tuple(row(number, 2) for number in range(35, 60)), "60 in all, one of them new, and 32 stay free for others"
    assert register.anchor([row(number) for number in range(61, 100)]) == tuple(row(number) for number in range(93, 100)), "128 in all"
    assert code(register, row(120)) == "full"


def test_verifier_that_lost_more_than_one_evidence_carries_is_not_followed(tmp_path: Path, tpm: EsapiTpm) -> None:
    """What leads to a quoted register does not come in parts: evidence with more would be malformed, now and again."""
    register = opened(tmp_path, tpm)
    values = [tpm.read("sha256").get(PCR)]
    for number in range(MAX_BATCHES + 1):
        register.anchor((row(number),))
        values.append(tpm.read("sha256").get(PCR))
        sent = register.travelling(tpm.read("sha256"))
        assert sent is not None
        register.acknowledge(sent)
    assert not register.resume_from(values[0].hex())
    assert register.travelling(tpm.read("sha256")) is None, "as before"
    assert register.resume_from(values[1].hex())
    back = register.travelling(tpm.read("sha256"))
    assert back is not None
    assert len(back.batches) == MAX_BATCHES
    many = [AnchorRow(number.to_bytes(16, "big"), 1, bytes(32)) for number in range(MAX_ROWS)]
    register.acknowledge(back)
    register.anchor(many)
    known = register.travelling(tpm.read("sha256"))
    assert known is not None
    register.acknowledge(known)
    assert not register.resume_from(values[-2].hex()), "so many checkpoints, too"
    assert register.resume_from(values[-1].hex())


def test_the_file_does_not_grow_with_the_number_of_anchors(tmp_path: Path, tpm: EsapiTpm) -> None:
    register, sizes = opened(tmp_path, tpm), []
    for number in range(200):
        register.anchor((row(number % 250),))
        sent = register.travelling(tpm.read("sha256"))
        assert sent is not None
        assert len(sent.batches) == 1
        register.acknowledge(sent)
        sizes.append((tmp_path / "anchors.cbor").stat().st_size)
    assert sizes[-1] == sizes[-50] < 6000


@pytest.mark.parametrize("moment", ["before-extend", "after-extend", "before-write"])
def test_killed_at_each_moment_of_an_anchor_file_and_register_agree_again(
    moment: str, tmp_path: Path, soft_tpm: SoftTpm, tpm: EsapiTpm
) -> None:
    opened(tmp_path, tpm).anchor((row(1),))
    child = subprocess.run([sys.executable, "-c", CHILD, soft_tpm.tcti, str(tmp_path), moment], check=False, cwd=Path(__file__).parents[2])
    assert child.returncode == -signal.SIGKILL

    register = opened(tmp_path, tpm)
    sent = register.travelling(tpm.read("sha256"))
    assert sent is not None
    assert sent.batches == (((row(1),),) if moment == "before-write" else ((row(1),), (row(2),)))
    assert tpm.read("sha256").get(PCR) == led("sha256", bytes(32), sent.batches)
    assert code(register, row(3)) == ""


CHILD = """
import os, pathlib, signal, sys
import attestor.collect.anchors as anchors
from attestor.esapi import EsapiTpm
from writ.formats.anchor import AnchorRow

tcti, directory, moment = sys.argv[1:]

class Dying(EsapiTpm):
    def extend(self, pcr, digests):
        if moment == "after-extend":
            super().extend(pcr, digests)
        os.kill(os.getpid(), signal.SIGKILL)

tpm = Dying(tcti, pathlib.Path(directory) / "ak.cbor", allow_software=True)
register = anchors.AnchorRegister(pathlib.Path(directory), tpm, pcr=15, bank="sha256")
register.open()
if moment == "before-write":
    anchors.write_private = lambda path, data: os.kill(os.getpid(), signal.SIGKILL)
register.anchor((AnchorRow(bytes([2]) * 16, 1, bytes([2]) * 32),))
"""


class Failing(EsapiTpm):
    """The TPM, with a line to it that breaks before or behind an extend."""

    def __init__(self, inner: EsapiTpm) -> None:
        self.__dict__.update(inner.__dict__)
        self.breaks = ""

    def extend(self, pcr: int, digests: tuple[Digest, ...]) -> None:
        breaks, self.breaks = self.breaks, ""
        if breaks == "before":
            raise Unavailable("TPM", "no answer")
        super().extend(pcr, digests)
        if breaks == "behind":
            raise Unavailable("TPM", "no answer")


@pytest.mark.parametrize("breaks", ["before", "behind"])
def test_extend_that_may_have_been_is_completed_before_another(breaks: str, tmp_path: Path, tpm: EsapiTpm) -> None:
    failing = Failing(tpm)
    register = opened(tmp_path, failing)
    failing.breaks = breaks
    with pytest.raises(Unavailable):
        register.anchor((row(1),))
    assert code(register, row(2)) == ""
    sent = register.travelling(tpm.read("sha256"))
    assert sent is not None
    assert sent.batches == ((row(1),), (row(2),))


def test_register_that_somebody_else_extended_is_an_alarm_and_nothing_more_is_anchored(tmp_path: Path, tpm: EsapiTpm) -> None:
    register = opened(tmp_path, tpm)
    register.anchor((row(1),))
    tpm.extend(PCR, tuple(Digest.of(b"other", bank) for bank in ("sha256", "sha384")))
    assert register.travelling(tpm.read("sha256")) is None, "the verifier finds a register that moved, and is told nothing false"
    again = opened(tmp_path, tpm)
    assert code(again, row(2)) == "anchor-register-unclean"
    assert again.travelling(tpm.read("sha256")) is None


def test_file_that_is_gone_or_spoilt_goes_on_from_the_register_as_it_is(tmp_path: Path, tpm: EsapiTpm) -> None:
    """The verifier knows better where it was told of the register before: it says `anchor-base`."""
    opened(tmp_path, tpm).anchor((row(1),))
    value = tpm.read("sha256").get(PCR)
    kept = decode_cbor((tmp_path / "anchors.cbor").read_bytes(), "kept")
    assert isinstance(kept, dict)
    bases: tuple[object, ...] = (
        {}, {"sha256": 5}, {"sha256": bytes(32), 7: bytes(32)}, {"sha1": bytes(20)}, {"sha256": bytes(31)}, {7: "x", "y": None},
    )  # fmt: skip
    others: list[dict[str, object]] = [{"base": base} for base in bases]
    others += [{"told": 9}, {"batches": [[]]}]
    wrong = (encode_cbor({**kept, **other}) for other in others)
    cut = (tmp_path / "anchors.cbor").read_bytes()[:-1]
    for spoilt in (None, b"rubbish", b"", cut, *wrong):
        (tmp_path / "anchors.cbor").unlink()
        if spoilt is not None:
            (tmp_path / "anchors.cbor").write_bytes(spoilt)
            (tmp_path / "anchors.cbor").chmod(0o600)
        sent = opened(tmp_path, tpm).travelling(tpm.read("sha256"))
        assert sent is not None
        assert (sent.base, sent.batches) == (value, ())


def test_reset_begins_anew_and_a_resume_goes_on(tmp_path: Path, soft_tpm: SoftTpm, tpm: EsapiTpm) -> None:
    register = opened(tmp_path, tpm)
    register.anchor((row(1),))
    soft_tpm.resume()
    assert code(register, row(2)) == ""
    sent = register.travelling(tpm.read("sha256"))
    assert sent is not None
    assert sent.batches == ((row(1),), (row(2),))
    soft_tpm.reset()
    assert code(register, row(3)) == ""
    sent = register.travelling(tpm.read("sha256"))
    assert sent is not None
    assert (sent.base, sent.batches) == (bytes(32), ((row(3),),))
    assert code(register, row(5)) == ""
    soft_tpm.restart()
    assert code(register, row(4)) == ""
    sent = register.travelling(tpm.read("sha256"))
    assert sent is not None
    assert (sent.base, sent.batches) == (bytes(32), ((row(4),),))


def test_without_a_pcr_nothing_is_anchored_and_nothing_travels(tmp_path: Path, tpm: EsapiTpm) -> None:
    register = opened(tmp_path, tpm, pcr=None)
    assert code(register, row(1)) == "anchors-off"
    assert register.travelling(PcrValues("sha256", ((PCR, bytes(32)),))) is None
    assert not (tmp_path / "anchors.cbor").exists()


# --- the daemon ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def anchoring(enrolled: Host) -> Host:
    """The host with a register of anchors."""
    enrolled.anchor_pcr = PCR
    return enrolled


def test_checkpoints_that_are_asked_for_together_are_one_extend_and_the_next_evidence_shows_it(site: VerifierSite, anchoring: Host) -> None:
    async def story() -> None:
        async with anchoring.running():
            instances = [await start(anchoring) for _ in range(5)]
            for one, _ in instances:
                site.approve(one)
            first = await anchoring.ask(token_ask(*instances[0]), TokenGiven)
            named = parse_evidence(first.evidence).anchors
            assert named is not None
            assert (named.pcr, named.batches) == (PCR, ())
            asks = [anchoring.ask(Anchor(one.instance, 3, bytes(32)), Done) for one, _ in instances[1:]]
            await asyncio.gather(*asks)
            shown = parse_evidence((await anchoring.ask(token_ask(*instances[0]), TokenGiven)).evidence).anchors
            assert shown is not None
            (batch,) = shown.batches
            assert {one.instance for one in batch} == {one.instance for one, _ in instances[1:]}
            assert parse_evidence((await anchoring.ask(token_ask(*instances[0]), TokenGiven)).evidence).anchors is None

    told(story)


def test_verifier_asks_for_what_was_anchored_and_refuses_what_lacks_it(site: VerifierSite, anchoring: Host) -> None:
    async def story() -> None:
        async with anchoring.running():
            one = await start(anchoring)
            site.approve(one[0])
            await anchoring.ask(token_ask(*one), TokenGiven)
            await anchoring.ask(Anchor(one[0].instance, 3, bytes(32)), Done)
            refused = await anchoring.ask(token_ask(*one), Refusal)
            assert [(reason.code, reason.expected) for reason in refused.reasons] == [("anchor-proof-required", "3")]
            assert not refused.final

    told(story)


def test_host_that_is_full_refuses_those_for_whom_there_is_no_room_and_no_others(anchoring: Host) -> None:
    async def story() -> None:
        async with anchoring.running():
            (one, _), (other, _) = await start(anchoring), await start(anchoring)
            for size in range(1, 13):
                await anchoring.ask(Anchor(one.instance, size, bytes(32)), Done)
            full = await anchoring.ask(Anchor(one.instance, 13, bytes(32)), Refusal)
            assert [(reason.code, full.final) for reason in full.reasons] == [("anchors-full", False)]
            await anchoring.ask(Anchor(other.instance, 1, bytes(32)), Done)

    told(story)


def test_who_may_not_anchor(anchoring: Host) -> None:
    async def story() -> None:
        async with anchoring.running():
            one = await start(anchoring)
            none = await anchoring.ask(Anchor(one[0].instance, 0, bytes(32)), Refusal)
            unknown = await anchoring.ask(Anchor(bytes(16), 1, bytes(32)), Refusal)
            await anchoring.ask(Stop(one[0].instance, "exited"), Done)
            stopped = await anchoring.ask(Anchor(one[0].instance, 1, bytes(32)), Refusal)
            assert [r.reasons[0].code for r in (none, unknown, stopped)] == ["malformed", "instance-unknown", "instance-stopped"]
            assert anchoring.tpm.read("sha256").get(PCR) == bytes(32)

    told(story)


def test_host_without_a_register_says_so(enrolled: Host) -> None:
    async def story() -> None:
        async with enrolled.running():
            one = await start(enrolled)
            refused = await enrolled.ask(Anchor(one[0].instance, 1, bytes(32)), Refusal)
            assert [reason.code for reason in refused.reasons] == ["anchors-off"]

    told(story)


def test_in_hardware_mode_nothing_is_anchored_and_leases_live_on(site: VerifierSite, anchoring: Host) -> None:
    """An extend moves a register, and no lease outlives that."""

    async def story() -> None:
        site.publish_policy(hardware=True)
        async with anchoring.running():
            one = await start(anchoring)
            site.approve(one[0])
            await anchoring.ask(token_ask(*one), TokenGiven)
            refused = await anchoring.ask(Anchor(one[0].instance, 1, bytes(32)), Refusal)
            assert [(reason.code, reason.claim) for reason in refused.reasons] == [("anchors-off", "policy.lease_approver")]
            await anchoring.ask(LeaseAsk(one[0].instance), LeaseGiven)

    told(story)


def test_verifier_that_was_told_of_the_register_asks_for_what_it_lacks_and_gets_it(site: VerifierSite, anchoring: Host) -> None:
    """The host forgot that it was told: one more exchange, and no false alarm."""

    async def story() -> None:
        async with anchoring.running():
            one, other = await start(anchoring), await start(anchoring)
            site.approve(one[0])
            site.approve(other[0])
            await anchoring.ask(token_ask(*one), TokenGiven)
            await anchoring.ask(Anchor(other[0].instance, 3, bytes(32)), Done)
            kept = (anchoring.state.log / "anchors.cbor").read_bytes()
            await anchoring.ask(token_ask(*one), TokenGiven)
        (anchoring.state.log / "anchors.cbor").write_bytes(kept)
        async with anchoring.running():
            await anchoring.ask(token_ask(*one), TokenGiven)

    told(story)
