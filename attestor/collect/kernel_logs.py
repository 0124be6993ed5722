"""The logs that firmware, systemd and the kernel keep of what they measured, and how much of them the verifier has seen.

The logs of the boot travel whole, once; of the IMA list only what is new, up to
the quoted PCR 10, and in parts where that is more than `MAX_PART`. What is remembered here is a saving and nothing else: after a
restart, or when the verifier asks, everything travels again.

Source: Linux drivers/char/tpm/eventlog (binary_bios_measurements), security/integrity/ima/ima_fs.c
(binary_runtime_measurements); systemd docs/TPM2_PCR_MEASUREMENTS (tpm2-measure.log).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from attestor.config import LogPaths
from writ.formats.digest import SIZES
from writ.formats.errors import FormatError, Unavailable
from writ.formats.eventlog.ima import MAX_LOG_SIZE, entry_end, replay
from writ.formats.evidence import ImaLog

MAX_BOOT_LOG: Final = 4 << 20
"""Bytes."""
MAX_PART: Final = 16 << 20
"""Bytes of the IMA list in one evidence."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """How far the verifier has followed the IMA list: entries, their end in bytes, and the register there."""

    entries: int
    end: int
    register: bytes


@dataclass(frozen=True, slots=True)
class Travelling:
    """What goes beside one quote, and what to remember once it was appraised."""

    uefi: bytes | None
    systemd: bytes | None
    ima: ImaLog | None
    seen: _Seen | None


class KernelLogs:
    """The logs of this boot. Not for several threads at once."""

    def __init__(self, paths: LogPaths, bank: str) -> None:
        self._paths, self._bank = paths, bank
        self._start = _Seen(0, 0, bytes(SIZES[bank]))
        self.forget()

    def forget(self) -> None:
        """Everything travels again."""
        self._boot_told = False
        self._seen = self._start

    def travelling(self, quoted: bytes) -> Travelling:
        """What the verifier has not seen, up to `quoted`, the value of PCR 10.

        A register that did not move leads to no entry that is not known: the list is not read. Where the IMA list does
        not lead there it travels whole: to judge it is the verifier's. Raises Unavailable.
        """
        uefi = systemd = None
        if not self._boot_told:
            uefi, systemd = _read(self._paths.uefi, MAX_BOOT_LOG), _read(self._paths.systemd, MAX_BOOT_LOG)
        seen = self._seen
        if seen.entries and quoted == seen.register:
            return Travelling(uefi, systemd, ImaLog(seen.entries, b""), seen)
        listed = _read(self._paths.ima, MAX_LOG_SIZE)
        if not listed:  # a kernel that measures begins with boot_aggregate
            return Travelling(uefi, systemd, None, None)
        fresh = listed[seen.end :]
        try:
            found = replay(fresh, seen.register, self._bank, quoted)
        except FormatError:
            found = None
        if found is None:
            return Travelling(uefi, systemd, ImaLog(0, listed), None)
        fresh, more = _part(fresh[: found.end])
        if more:
            found = replay(fresh, seen.register, self._bank, None) or found
        upto = _Seen(seen.entries + found.entries, seen.end + found.end, found.register)
        return Travelling(uefi, systemd, ImaLog(seen.entries, fresh, more), upto)

    def acknowledge(self, sent: Travelling) -> None:
        """The verifier has appraised what travelled."""
        self._boot_told = True
        if sent.seen is not None:
            self._seen = sent.seen


def _part(fresh: bytes) -> tuple[bytes, bool]:
    """The entries that lie within the first `MAX_PART` bytes of a list that was replayed, and whether others follow."""
    end = len(fresh) if len(fresh) <= MAX_PART else 0
    while end < len(fresh) and (after := entry_end(fresh, end)) <= MAX_PART:
        end = after
    return fresh[:end], end < len(fresh)


def _read(path: Path | None, most: int) -> bytes | None:
    """The log, or None without a path or a log there. Such files say nothing of their size. Raises Unavailable."""
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unavailable(f"log {path}", error.strerror or "cannot be read") from None
    if len(data) > most:
        raise Unavailable(f"log {path}", f"expected at most {most} bytes, got more")
    return data
