"""Anchors of action logs: what one costs the TPM beside a quote, and what those between two renewals cost the verifier.

The TPM is swtpm, which answers in milliseconds at most: a discrete TPM takes some ten for an extend and some hundred for a quote, so the
ratio is what carries over. An anchor is file, sync and extend in both banks; the quote beside it is of the AK, over PCRs 0 to 15.

Beside evidence with sixteen anchors of one instance (proofs of each, and one of the checkpoint) stands the same without any.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attestor.collect.anchors import AnchorRegister
from attestor.esapi import EsapiTpm
from benchmarks.measure import Case
from swtpm import Manufacturer
from tests.world.scene import Scene, permitted, sign_token
from writ.formats.anchor import MAX_BATCHES, AnchorRow

INSTANCES = (1, 16)
MOMENTS = 6
"""Anchors of each between two renewals: one in five seconds."""
RECORDS = 10_000


@contextmanager
def chip(folder: Path) -> Iterator[EsapiTpm]:
    """A software TPM with an AK."""
    with Manufacturer(folder / "maker").tpm() as tpm:
        made = EsapiTpm(tpm.tcti, folder / "ak.cbor", allow_software=True)
        try:
            made.create_ak()
            yield made
        finally:
            made.close()


class Anchoring:
    """One host that anchors, and whose verifier takes each anchor at once."""

    def __init__(self, folder: Path, tpm: EsapiTpm, instances: int) -> None:
        folder.mkdir()
        self._tpm, self._instances, self._size = tpm, instances, 0
        self._register = AnchorRegister(folder, tpm, pcr=15, bank="sha256")
        self._register.open()
        self._since = 0

    def anchor(self) -> None:
        """One more of each instance; what the verifier is told is told once in six."""
        self._size, self._since = self._size + 1, self._since + 1
        left = self._register.anchor([AnchorRow(at.to_bytes(16, "big"), self._size, bytes(32)) for at in range(self._instances)])
        assert not left
        if self._since == MOMENTS:
            sent = self._register.travelling(self._tpm.read("sha256"))
            if sent is not None:
                self._register.acknowledge(sent)
            self._since = 0


def anchors(folder: Path, records: int = RECORDS) -> Iterator[Case]:
    """The attestor's share, then the verifier's."""
    with chip(folder) as tpm:
        for count in INSTANCES:
            host = Anchoring(folder / f"of-{count}", tpm, count)
            of = "an action log" if count == 1 else f"{count} action logs"
            yield Case(f"anchor of {of} in the TPM", "quote", host.anchor, lambda: tpm.quote(bytes(32), "sha256"), per=count, unit="log")
    scene = Scene()
    scene.launch("one")
    claims = permitted(scene.attest("one"))
    token = sign_token(claims)
    scene.act("one", token, claims)
    leaves = scene.running["one"].leaves
    leaves += [leaves[-1]] * records
    plain = scene.evidence("one")
    for _ in range(MAX_BATCHES):
        leaves.append(leaves[-1])
        scene.anchor("one")
    shown = scene.evidence("one")
    yield Case(
        f"attestation with {MAX_BATCHES} anchors decided", "without anchors", lambda: scene.judge(shown), lambda: scene.judge(plain)
    )  # fmt: skip
