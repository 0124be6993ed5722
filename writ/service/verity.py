"""What the kernel itself holds: fs-verity on a file, dm-verity under a mounted tree. Asked in constant time, believed over any timestamp.

fs-verity: once it is enabled, no one can write to the file, and every read is
checked against a Merkle tree; the kernel's digest of it stands for the content.
dm-verity: every read of the device is checked against the tree whose root hash
its table names. A tree is held by one if the device's filesystem is mounted at
exactly that place, whole, with nothing mounted beneath it.

Where kernel, filesystem or device cannot hold, the answer is NotHeld, never a digest made some other way.

Source: Linux, include/uapi/linux/fsverity.h, include/uapi/linux/dm-ioctl.h; Documentation/filesystems/fsverity.rst,
"FS_IOC_ENABLE_VERITY", "FS_IOC_MEASURE_VERITY"; admin-guide/device-mapper/verity.rst; proc_pid_mountinfo(5).
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import struct
from pathlib import Path
from typing import Final, Protocol

from writ.formats.digest import SIZES, Digest
from writ.formats.errors import FormatError
from writ.formats.verity import BLOCK, FS_ALGORITHM_NAMES, FS_ALGORITHMS, SECTOR, VerityTable, parse_table

_ENABLE: Final = 0x40806685
"""_IOW('f', 133, struct fsverity_enable_arg), 128 bytes."""
_MEASURE: Final = 0xC0046686
"""_IOWR('f', 134, struct fsverity_digest), 4 bytes and the digest."""
_ABSENT: Final = (errno.ENOTTY, errno.EOPNOTSUPP, errno.ENODATA, errno.EINVAL)

_TABLE_STATUS: Final = 0xC138FD0C
"""_IOWR(0xfd, 12, struct dm_ioctl), 312 bytes."""
_DM: Final = struct.Struct("<3I2I2I2I4xQ128s129s7x")
_TARGET: Final = struct.Struct("<2QiI16s")
_READ_ONLY, _WANT_TABLE, _BUFFER_FULL = 1 << 0, 1 << 4, 1 << 8
_ANSWER: Final = 16_384
_CONTROL: Final = "/dev/mapper/control"


class NotHeld(Exception):
    """The kernel does not hold this file or tree; `got` says what it answered instead."""

    def __init__(self, got: str) -> None:
        self.got = got
        super().__init__(got)


class Verity(Protocol):
    """What is asked of a kernel."""

    def measure(self, fd: int) -> Digest | None:
        """The fs-verity digest of the open file, None where it has none. Raises NotHeld for one that is not over SHA-256."""
        ...

    def enable(self, fd: int) -> None:
        """The file, open for reading only and by no one for writing, has fs-verity. Raises NotHeld."""
        ...

    def device(self, place: Path) -> VerityTable:
        """The dm-verity device whose filesystem is mounted at `place`. Raises NotHeld."""
        ...


# --- fs-verity ---------------------------------------------------------------------------------------------------------


class Kernel:
    """The kernel that runs this process."""

    def __init__(self, *, mounts: Path = Path("/proc/self/mountinfo"), control: str = _CONTROL) -> None:
        self._mounts, self._control = mounts, control

    def measure(self, fd: int) -> Digest | None:
        """As `Verity.measure`."""
        size = max(SIZES.values())
        answer = bytearray(struct.pack("=HH", 0, size) + bytes(size))
        try:
            fcntl.ioctl(fd, _MEASURE, answer)
        except OSError as error:
            if error.errno in _ABSENT:
                return None
            raise NotHeld(named(error)) from None
        number, length = struct.unpack_from("=HH", answer)
        algorithm = FS_ALGORITHM_NAMES.get(number)
        if algorithm != "sha256" or length != SIZES["sha256"]:
            raise NotHeld(f"fs-verity over {algorithm or f'algorithm {number}'}")
        return Digest("sha256", bytes(answer[4 : 4 + length]))

    def enable(self, fd: int) -> None:
        """As `Verity.enable`: SHA-256, blocks of 4096 bytes, no salt. A file that has it already keeps its own."""
        argument = struct.pack("=4IQ2IQ", 1, FS_ALGORITHMS["sha256"], BLOCK, 0, 0, 0, 0, 0).ljust(128, b"\0")
        try:
            fcntl.ioctl(fd, _ENABLE, argument)
        except OSError as error:
            if error.errno != errno.EEXIST:
                raise NotHeld(named(error)) from None

    def device(self, place: Path) -> VerityTable:
        """As `Verity.device`.

        1. The place is where exactly one filesystem is mounted, whole, with nothing beneath.
        2. Its device is a device-mapper one with one target, verity, that starts at 0 and is as long as its table says.
        3. The target has met no corruption.
        """
        # 1
        try:
            number = os.stat(place).st_dev
            lines = self._mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        except OSError as error:
            raise NotHeld(named(error)) from None
        _check_mount(lines, os.path.realpath(place), f"{os.major(number)}:{os.minor(number)}")
        # 2
        flags, length, parameters = self._target(number, _WANT_TABLE)
        try:
            table = parse_table(parameters)
        except FormatError as error:
            raise NotHeld(f"a table with {error.got}") from None
        if table.root.algorithm != "sha256" or length * SECTOR != table.size or not flags & _READ_ONLY:
            raise NotHeld(f"{length * SECTOR} bytes over {table.root.algorithm} for a table of {table.size}")
        # 3
        _, _, status = self._target(number, 0)
        if status.split()[:1] != ["V"]:
            raise NotHeld(f"status {status[:20]}")
        return table

    def _target(self, device: int, flags: int) -> tuple[int, int, str]:
        """Flags, length in sectors and text of the one verity target of the device."""
        try:
            control = os.open(self._control, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise NotHeld(f"{self._control}: {named(error)}") from None
        try:
            question = bytearray(encode_question(device, flags))
            fcntl.ioctl(control, _TABLE_STATUS, question)
        except OSError as error:
            raise NotHeld(f"no device-mapper device: {named(error)}") from None
        finally:
            os.close(control)
        return read_answer(bytes(question))


def encode_question(device: int, flags: int) -> bytes:
    """A `dm_ioctl` that asks DM_TABLE_STATUS of a device number, with room for the answer."""
    major, minor = os.major(device), os.minor(device)
    encoded = (minor & 0xFF) | major << 8 | (minor & ~0xFF) << 12
    head = _DM.pack(4, 0, 0, _ANSWER, _DM.size, 0, 0, flags, 0, encoded, b"", b"")
    return head.ljust(_ANSWER, b"\0")


def read_answer(answer: bytes) -> tuple[int, int, str]:
    """Flags of the device, and length in sectors and text of its one target, which is verity. Raises NotHeld."""
    fields = _DM.unpack_from(answer)
    start, targets, flags = fields[4], fields[5], fields[7]
    if flags & _BUFFER_FULL or targets != 1 or not _DM.size <= start <= len(answer) - _TARGET.size:
        raise NotHeld(f"a device of {targets} targets")
    first, length, _, _, kind = _TARGET.unpack_from(answer, start)
    name = kind.rstrip(b"\0").decode("ascii", "replace")
    if name != "verity" or first != 0:
        raise NotHeld(f"a device-mapper target {name!a}")
    return flags, length, answer[start + _TARGET.size :].partition(b"\0")[0].decode("ascii", "replace")


def _check_mount(lines: list[str], place: str, device: str) -> None:
    """`place` is where the whole filesystem of `device` is mounted, with nothing over or beneath it. Raises NotHeld."""
    here: list[tuple[str, str]] = []
    for line in lines:
        words = line.split(" ")
        if len(words) < 6:
            raise NotHeld("a list of mounts that cannot be read")
        point = _unescaped(words[4])
        if point == place:
            here.append((words[2], words[3]))
        elif point.startswith(place.rstrip("/") + "/"):
            raise NotHeld(f"a mount beneath it, at {point[:120]!a}")
    if not here:
        raise NotHeld("no mount point")
    if here[-1] != (device, "/"):
        raise NotHeld(f"{here[-1][1][:80]!a} of device {here[-1][0]} mounted there")


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def named(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, "an error")
