"""Eight GPUs of one machine, parsed and judged against verified RIMs, beside the signatures over their reports that must be verified."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.measure import Case
from tests.world.nvidia import DEVICE_ROOTS, DRIVER_RIM, NONCE, RIM_ROOTS, VBIOS_RIM, Device, evidence
from writ.formats.tee.nvidia import parse_evidence
from writ.formats.tee.rim import parse_rim
from writ.verdict.appraise.nvidia import NamedRim, NvidiaCollateral, NvidiaPolicy, judge_nvidia
from writ.verdict.rim import is_p384_signed

GPUS = 8
_AT = 1_790_000_000


def gpus() -> Iterator[Case]:
    """One case: a file of eight GPUs. RIMs and CAs are held from before, as they are between two attestations."""
    data = evidence(*(Device(number).entry() for number in range(1, GPUS + 1)))
    rims = tuple(NamedRim(name, parse_rim(maker.document())) for name, maker in (("driver", DRIVER_RIM), ("vbios", VBIOS_RIM)))
    collateral, policy = NvidiaCollateral(rims), NvidiaPolicy(DEVICE_ROOTS, RIM_ROOTS, NONCE)
    signed = [(one.report.measurements, one.chain[0]) for one in parse_evidence(data)]

    def ours() -> object:
        return judge_nvidia(parse_evidence(data), collateral, policy, at=_AT).reasons

    def bare() -> object:
        return [is_p384_signed(one.signed, one.signature, leaf) for one, leaf in signed]

    yield Case(f"{GPUS} GPUs judged", "ECDSA P-384 alone", ours, bare, GPUS, "GPU")
