"""The register of anchors: checkpoints of action logs, and a PCR of their own that says the same, through any crash.

A batch is durable in the file before it is extended, and extended before
anyone hears of it. So after a crash the file is at most one batch ahead of the
register, and the start completes that one: at most one extend is without its
entry, whatever happens. A register that the file does not explain is
`anchor-register-unclean`: nothing more is anchored in this boot, and the
verifier, which follows the register from quote to quote, says so by itself.

    anchors.cbor    beside the runtime log: the boot, what the register held first, the batches since, and how many the verifier knows

Batches that the verifier knows go in time: the file holds a few intervals,
whatever the number of anchors. No batch is made beyond what one quote's
evidence carries; the next comes after the next quote. Part of that room is for
instances that have no anchor since the last quote, so that one that anchors at
every moment leaves the others theirs.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from attestor.config import read_private, write_private
from attestor.tpm import Clock, Tpm
from writ.formats.anchor import MAX_BATCHES, MAX_ROWS, AnchorRow, Anchors, Batch, batches_out, encode_batch, read_batches
from writ.formats.digest import SIZES, Digest, extend
from writ.formats.errors import FormatError, Refused
from writ.formats.eventlog.runtime import event_digests
from writ.formats.reason import Reason
from writ.formats.strict import Fields, decode_cbor, encode_cbor
from writ.formats.tpm.pcr import PcrValues
from writ.service.observe import get_logger

_LOG = get_logger("attestor.anchors")
_FILE: Final = "anchors.cbor"
_MAX_FILE: Final = 1 << 20
_KEPT: Final = 4 * MAX_BATCHES
"""Batches kept that the verifier knows: it may have lost what it answered last."""
_FIRST_BATCHES: Final = MAX_BATCHES // 4
_FIRST_ROWS: Final = MAX_ROWS // 4
"""Batches and checkpoints between two quotes that are for instances without an anchor since the first of them."""
_UNCLEAN: Final = "anchor-register-unclean"


@dataclass(frozen=True, slots=True)
class _Anchored:
    """A boot's register: its value before `batches` in each bank. `told` of them are known to the verifier; -1: not even the register."""

    pcr: int
    boot: tuple[int, int]
    base: tuple[tuple[str, bytes], ...]
    batches: tuple[Batch, ...]
    told: int

    def registers(self, bank: str) -> list[bytes]:
        """The values in `bank`: before the first batch, and behind each."""
        values = [dict(self.base)[bank]]
        for batch in self.batches:
            values.append(extend(bank, values[-1], Digest.of(encode_batch(batch), bank).value))
        return values

    def at(self, count: int) -> tuple[tuple[str, bytes], ...]:
        """The register behind `count` batches, in each bank."""
        return tuple((bank, self.registers(bank)[count]) for bank, _ in self.base)


class AnchorRegister:
    """The anchors of one host in PCR `pcr`; None: there are none, and whoever asks for one is refused.

    Methods may be called from any thread; they block until TPM and disk have answered.
    """

    def __init__(self, directory: Path, tpm: Tpm, *, pcr: int | None, bank: str) -> None:
        self._path: Final = directory / _FILE
        self._tpm, self._pcr, self._bank = tpm, pcr, bank
        self._lock = threading.Lock()
        self._known: _Anchored | None = None
        self._behind = False
        self._said: Reason | None = None

    # --- opening -----------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """File and register agree; or nothing is anchored in this boot, and the log says why. Raises Unavailable."""
        with self._lock, suppress(Refused):
            if self._pcr is not None:
                self._open(self._pcr, self._tpm.clock())

    def _open(self, pcr: int, clock: Clock) -> _Anchored:
        """1. Another boot's file says nothing of this one: the register as it is now is the first value. 2. Equal; or one batch behind."""
        self._known, self._behind = None, False
        known, boot = self._read(), (clock.reset_count, clock.restart_count)
        register = self._register(pcr)
        # 1
        if known is None or known.boot[0] != boot[0] or known.pcr != pcr or [bank for bank, _ in known.base] != [b for b, _ in register]:
            return self._keep(_Anchored(pcr, boot, register, (), -1))
        # 2
        count = len(known.batches)
        if register == known.at(count):
            return self._keep(replace(known, boot=boot))
        if count and register == known.at(count - 1):
            kept = self._keep(replace(known, boot=boot))
            self._extend(kept)
            return kept
        if known.boot != boot:  # a TPM Restart clears the registers; after a Resume they are as they were
            return self._keep(_Anchored(pcr, boot, register, (), -1))
        unclean = Reason(_UNCLEAN, f"pcr{pcr}", dict(known.at(count))[self._bank].hex(), dict(register)[self._bank].hex())
        if unclean != self._said:
            _LOG.error(_UNCLEAN, detail=str(unclean), next=unclean.remedy)
        self._said = unclean
        raise Refused(unclean)

    def _register(self, pcr: int) -> tuple[tuple[str, bytes], ...]:
        return tuple((bank, self._tpm.read(bank).get(pcr)) for bank in sorted(self._tpm.banks()))

    def _read(self) -> _Anchored | None:
        data = read_private(self._path, most=_MAX_FILE)
        try:
            return None if data is None else _parse(data)
        except FormatError as error:
            _LOG.error("anchors-unreadable", detail=str(error))
            return None

    def _keep(self, known: _Anchored) -> _Anchored:
        if known != self._known or not self._path.exists():
            write_private(self._path, _encode(known))
        self._known = known
        return known

    # --- anchoring ---------------------------------------------------------------------------------------------------

    def anchor(self, rows: Sequence[AnchorRow]) -> tuple[AnchorRow, ...]:
        """The checkpoints are in the file and in the register, as one batch; but for those returned, for which there is no room.

        `rows` are of as many instances. Raises Refused `anchors-off`, `anchor-register-unclean`; Unavailable where they are not known to
        be in the register: that is completed before anything else is extended.
        """
        with self._lock:
            known = self._settled()
            batch = _fitting(known.batches[max(0, known.told) :], rows)
            if batch:
                self._extend(self._keep(replace(known, batches=(*known.batches, batch))))
        return tuple(row for row in rows if row not in batch)

    def _settled(self) -> _Anchored:
        """What is known, of this boot, and in the register. Raises Refused, Unavailable."""
        if self._pcr is None:
            raise Refused(Reason("anchors-off", "anchor_pcr", "a PCR", "none"))
        clock, known = self._tpm.clock(), self._known
        if known is None or self._behind or known.boot != (clock.reset_count, clock.restart_count):
            return self._open(self._pcr, clock)
        return known

    def _extend(self, known: _Anchored) -> None:
        """The last batch is in the register, which has the others; where that is not known, it is compared before anything else."""
        self._behind = True
        self._tpm.extend(known.pcr, event_digests(encode_batch(known.batches[-1]), [bank for bank, _ in known.base]))
        self._behind = False

    # --- with evidence -----------------------------------------------------------------------------------------------

    def travelling(self, quoted: PcrValues) -> Anchors | None:
        """What the verifier does not know yet of the anchors up to the quoted register; None where there is nothing.

        Of a register that the file does not explain nothing travels: the verifier finds it by itself. Raises Unavailable.
        """
        with self._lock:
            if self._pcr is None:
                return None
            try:
                known = self._known or self._open(self._pcr, self._tpm.clock())
            except Refused:
                return None
            registers = known.registers(self._bank)
            value = quoted.get(known.pcr)
            if value not in registers:
                self._known = None  # another boot, or somebody else: compared anew before the next
                return None
            upto, first = registers.index(value), max(0, known.told)
            if known.told >= 0 and upto <= first:
                return None
            return Anchors(known.pcr, registers[first], known.batches[first:upto])

    def acknowledge(self, anchors: Anchors) -> None:
        """The verifier has taken these. Raises Unavailable."""
        with self._lock:
            known = self._known
            if known is None or known.pcr != anchors.pcr:
                return
            registers = known.registers(self._bank)
            if anchors.base in registers:
                told = registers.index(anchors.base) + len(anchors.batches)
                if told <= len(known.batches):
                    self._tell(known, told)

    def resume_from(self, register: str) -> bool:
        """Whether the verifier's register, in hex, is one that the file leads on from in one evidence; then the next does.

        Raises Unavailable.
        """
        with self._lock:
            known = self._known
            values = [] if known is None else [value.hex() for value in known.registers(self._bank)]
            if known is None or register not in values:
                return False
            told = values.index(register)
            behind = known.batches[told:]
            if len(behind) > MAX_BATCHES or sum(map(len, behind)) > MAX_ROWS:
                return False  # no evidence carries them, and what leads to a quoted register is not sent in parts
            self._tell(known, told)
            return True

    def _tell(self, known: _Anchored, told: int) -> None:
        gone = max(0, told - _KEPT)
        self._keep(replace(known, base=known.at(gone), batches=known.batches[gone:], told=told - gone))


def _fitting(waiting: Sequence[Batch], rows: Sequence[AnchorRow]) -> Batch:
    """Of `rows` those that make the next batch behind those that wait for their quote: nothing where there is no room.

    1. Instances without an anchor among those come first, in their order.
    2. Of the others who has fewest: beside those or in a batch that is not kept for them, and as many as leave them checkpoints.
    """
    had = Counter(row.instance for batch in waiting for row in batch)
    batches, room = MAX_BATCHES - len(waiting), MAX_ROWS - sum(map(len, waiting))
    if batches <= 0:
        return ()
    # 1
    taken = [row for row in rows if not had[row.instance]][:room]
    # 2
    if taken or batches > _FIRST_BATCHES:
        again = sorted((row for row in rows if had[row.instance]), key=lambda row: had[row.instance])
        taken += again[: max(0, room - len(taken) - _FIRST_ROWS)]
    return tuple(sorted(taken))


def _encode(known: _Anchored) -> bytes:
    return encode_cbor(
        {
            "v": 1, "pcr": known.pcr, "reset_count": known.boot[0], "restart_count": known.boot[1], "base": dict(known.base),
            "batches": batches_out(known.batches), "told": known.told + 1,
        }
    )  # fmt: skip


def _parse(data: bytes) -> _Anchored:
    what = "anchors file"
    f = Fields(decode_cbor(data, what, max_size=_MAX_FILE), what)
    f.version(1)
    pcr, boot = f.uint("pcr", most=23), (f.uint("reset_count"), f.uint("restart_count"))
    base = tuple(f.mapping("base", most=len(SIZES)).items())
    most = _KEPT + 2 * MAX_BATCHES
    batches, told = read_batches(f.any("batches"), most=most, rows=most * MAX_ROWS), f.uint("told") - 1
    f.done()
    sized = all(isinstance(value, bytes) and SIZES.get(bank) == len(value) for bank, value in base)
    if not base or not sized or told > len(batches):
        raise FormatError(what, "values of banks, and no more batches told than there are", f"{len(base)} banks, {told} told")
    return _Anchored(pcr, boot, tuple(sorted(base)), batches, told)
