"""The runtime log: a CEL file and a PCR that say the same, through any crash.

An event is durable in the file before it is extended, and extended before
anyone hears that it happened. So after a crash the file is at most one event
ahead of the register, and `open` completes that one: an event is never lost,
and at worst a launch is on record that no one was told of.

    runtime.cel            the log of this boot
    boot.cbor              resetCount and restartCount of the TPM in that boot
    archive/<resetCount>-<restartCount>.cel   logs of earlier boots

A register that holds what the log does not say is `register-unclean`: someone
extended it, and only a reboot heals that. Not safe against a second process;
`open` takes a lock on the directory.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from attestor.config import read_private, sync_directory, write_private
from attestor.tpm import Clock, Tpm
from writ.formats.digest import SIZES, extend
from writ.formats.errors import FormatError, Refused, Unavailable
from writ.formats.eventlog.cel import MAX_LOG_SIZE, MAX_RECORDS, CelRecord, encode_record, parse_cel
from writ.formats.eventlog.runtime import RuntimeEvent, event_digests, parse_record, record_event
from writ.formats.reason import Reason
from writ.formats.strict import Fields, decode_cbor, encode_cbor


class RuntimeLog:
    """The log of this boot, of PCR `pcr`, every active bank extended; `bank` is the one that quotes cover.

    `boots` rises by one each time a clean log begins. Methods may be called
    from any thread; appends are serialised.
    """

    def __init__(self, directory: Path, tpm: Tpm, *, pcr: int, bank: str) -> None:
        self._directory, self._tpm, self._pcr, self._bank = directory, tpm, pcr, bank
        self._path: Final = directory / "runtime.cel"
        self._lock = threading.RLock()
        self._banks: tuple[str, ...] = ()
        self._records: list[bytes] = []
        self._events: list[RuntimeEvent] = []
        self._registers: list[dict[str, bytes]] = []
        self._pending = False
        self._size = 0
        self._held: int | None = None
        self._counters = (-1, -1)
        self.boots = 0

    # --- reading -----------------------------------------------------------------------------------------------------

    @property
    def events(self) -> tuple[RuntimeEvent, ...]:
        """Every event that is in the log and in the register."""
        with self._lock:
            return tuple(self._events[: len(self._registers) - 1])

    @property
    def written(self) -> int:
        """How many events are durable in the file, in the register or not yet."""
        return len(self._records)

    def __len__(self) -> int:
        """How many events are in the log and in the register."""
        return max(0, len(self._registers) - 1)

    def since(self, first: int, upto: int) -> bytes:
        """The records from number `first` to before `upto`, as CEL."""
        with self._lock:
            return b"".join(self._records[first:upto])

    @property
    def directory(self) -> Path:
        """Where the log lies."""
        return self._directory

    def register(self, count: int) -> bytes | None:
        """The value of the quoted bank's register behind `count` events; None where there are not so many."""
        with self._lock:
            return self._registers[count][self._bank] if count < len(self._registers) else None

    def position(self, register: bytes) -> int | None:
        """After how many events the register of the quoted bank had this value; the last such, or None."""
        with self._lock:
            for count in range(len(self._registers) - 1, -1, -1):
                if self._registers[count][self._bank] == register:
                    return count
        return None

    # --- opening -----------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Log and register agree.

        1. Read the file; a torn last record was never extended and is cut off.
        2. Replay it in every active bank.
        3. Compare with the register: equal; or one event behind, which is extended now; or clean in a new boot,
           where the old log is archived and a new one begins.

        Raises Refused `register-unclean` for any other register, Unavailable if TPM or disk do not answer.
        """
        with self._lock:
            self._hold()
            self._banks = self._tpm.banks()
            if self._bank not in self._banks:
                raise Unavailable("TPM", f"expected the bank {self._bank} to be active, got {', '.join(self._banks)}")
            # 1, 2
            records, clock = self._read(), self._tpm.clock()
            boot = self._boot()
            if records and records[0].pcr != self._pcr and boot not in (None, (clock.reset_count, clock.restart_count)):
                self._archive(boot)  # another enrolment's register, of an earlier boot
                records = ()
            self._load(records)
            # 3
            self._agree(clock)

    def close(self) -> None:
        """The directory's lock is given up."""
        with self._lock:
            if self._held is not None:
                os.close(self._held)
                self._held = None

    def _hold(self) -> None:
        if self._held is not None:
            return
        try:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise Unavailable("runtime log", f"{self._directory}: {error.strerror}") from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            raise Unavailable("runtime log", f"{self._directory}: another attestor holds it") from None
        self._held = fd

    def _read(self) -> tuple[CelRecord, ...]:
        try:
            data = self._path.read_bytes() if self._path.exists() else b""
        except OSError as error:
            raise Unavailable("runtime log", f"{self._path}: {error.strerror}") from None
        try:
            return parse_cel(data)
        except FormatError:
            whole = _whole_records(data)
        try:
            records = parse_cel(data[:whole])
        except FormatError as error:
            raise Unavailable("runtime log", f"{self._path}: {error}") from None
        with self._path.open("rb+") as file:
            file.truncate(whole)
            os.fsync(file.fileno())
        return records

    def _load(self, records: Iterable[CelRecord]) -> None:
        self._records, self._events, self._registers, self._pending, self._size = [], [], [self._clean()], False, 0
        for record in records:
            try:
                event = parse_record(record)
            except FormatError as error:
                raise Unavailable("runtime log", f"{self._path}: {error}") from None
            if record.pcr != self._pcr:
                raise Unavailable("runtime log", f"{self._path}: expected events of PCR {self._pcr}, got PCR {record.pcr}")
            self._records.append(encode_record(record))
            self._size += len(self._records[-1])
            self._events.append(event)
            self._registers.append(self._after(self._registers[-1], record.content))

    def _clean(self) -> dict[str, bytes]:
        return {bank: bytes(SIZES[bank]) for bank in self._banks}

    def _after(self, registers: dict[str, bytes], content: bytes) -> dict[str, bytes]:
        return {d.algorithm: extend(d.algorithm, registers[d.algorithm], d.value) for d in event_digests(content, self._banks)}

    def _register(self) -> dict[str, bytes]:
        return {bank: self._tpm.read(bank).get(self._pcr) for bank in self._banks}

    def _agree(self, clock: Clock) -> None:
        register, boot = self._register(), self._boot()
        self._counters = now = (clock.reset_count, clock.restart_count)
        if self._records and register == self._clean() and boot != now:
            self._archive(boot)
        elif register == self._registers[-1]:
            self._note_boot(now)  # a resume from suspend keeps the registers and moves the counters
        elif self._records and register == self._registers[-2]:
            self._registers.pop()
            self._pending = True
            self._complete()
        else:
            got = register[self._bank].hex()
            raise Refused(Reason("register-unclean", f"pcr{self._pcr}", self._registers[-1][self._bank].hex(), got))
        if not self._records:
            self._note_boot(now)
            self.boots += 1

    def _boot(self) -> tuple[int, int] | None:
        data = read_private(self._directory / "boot.cbor")
        if data is None:
            return None
        f = Fields(decode_cbor(data, "boot file"), "boot file")
        f.version(1)
        boot = f.uint("reset_count"), f.uint("restart_count")
        f.done()
        return boot

    def _note_boot(self, boot: tuple[int, int]) -> None:
        write_private(self._directory / "boot.cbor", encode_cbor({"v": 1, "reset_count": boot[0], "restart_count": boot[1]}))

    def _archive(self, boot: tuple[int, int] | None) -> None:
        """The old log is kept under the counters of its boot, and an empty one stands in its place."""
        archive = self._directory / "archive"
        archive.mkdir(exist_ok=True, mode=0o700)
        name = "unknown" if boot is None else f"{boot[0]}-{boot[1]}"
        place, more = archive / f"{name}.cel", 1
        while place.exists():
            place, more = archive / f"{name}.{more}.cel", more + 1
        if self._path.exists():
            self._path.rename(place)
            sync_directory(archive)
            sync_directory(self._directory)
        self._load(())

    # --- writing -----------------------------------------------------------------------------------------------------

    def append(self, event: RuntimeEvent) -> int:
        """The event is durable in the log, then in the register; its record number.

        Raises Unavailable if it is not, or not known to be, in the register:
        it is completed before anything else is appended. FormatError for an
        event that has no bytes, and then nothing happened.
        """
        with self._lock:
            self.complete()
            number = len(self._records)
            record = record_event(event, record_number=number, pcr=self._pcr, banks=self._banks)
            data = encode_record(record)
            if number >= MAX_RECORDS or self._size + len(data) > MAX_LOG_SIZE:
                raise Unavailable("runtime log", f"expected at most {MAX_RECORDS} events and {MAX_LOG_SIZE} bytes in a boot, got more")
            self._write(data)
            self._records.append(data)
            self._events.append(event)
            self._size += len(data)
            self._pending = True
            self._complete(known=True)
            return number

    def complete(self) -> None:
        """What is in the file is in the register, and both are of this boot; `boots` tells if another one began.

        Raises Unavailable if the TPM does not answer, or where this boot is another than the log's and `boots` was raised.
        """
        with self._lock:
            clock = self._tpm.clock()
            if (clock.reset_count, clock.restart_count) != self._counters:
                boots = self.boots
                self.open()
                if self.boots != boots:
                    raise Unavailable("runtime log", "the TPM was reset; a clean log begins")
            self._complete()

    def _write(self, data: bytes) -> None:
        """The record lies durably behind the others; what a failed attempt left there is overwritten."""
        size = self._size
        try:
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.ftruncate(fd, size)
                if os.pwrite(fd, data, size) != len(data):
                    raise Unavailable("runtime log", f"{self._path}: the disk took a part of a record")
                os.fsync(fd)
            finally:
                os.close(fd)
            if not self._records:
                sync_directory(self._directory)
        except OSError as error:
            raise Unavailable("runtime log", f"{self._path}: {error.strerror}") from None

    def _complete(self, *, known: bool = False) -> None:
        """The last record is in the register. Unless it is `known` to be missing there, the register is read first."""
        if not self._pending:
            return
        record = parse_cel(self._records[-1], first=len(self._records) - 1)[0]
        after = self._after(self._registers[-1], record.content)
        if not known:
            register = self._register()
            if register not in (self._registers[-1], after):
                got = register[self._bank].hex()
                raise Refused(Reason("register-unclean", f"pcr{self._pcr}", self._registers[-1][self._bank].hex(), got))
            if register == after:
                self._registers.append(after)
                self._pending = False
                return
        self._tpm.extend(self._pcr, event_digests(record.content, self._banks))
        self._registers.append(after)
        self._pending = False


def _whole_records(data: bytes) -> int:
    """Where the last whole record ends: a crash leaves at most a torn one behind it."""
    at, end, fields = 0, 0, 0
    while at + 5 <= len(data):
        at += 5 + int.from_bytes(data[at + 1 : at + 5], "big")
        if at > len(data):
            break
        fields += 1
        if fields % 4 == 0:
            end = at
    return end
