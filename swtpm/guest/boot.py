"""What the firmware boots: a unified kernel image, signed or not, as \\EFI\\BOOT\\BOOTX64.EFI on a FAT file system.

Debian 12 has no ukify: sections are added to systemd's stub with objcopy. The stub measures them into PCR 11, and hands over kernel,
initrd and command line, which firmware and kernel measure into PCR 4 and 9.

Source: UAPI.5 Unified Kernel Image; systemd-stub(7); UEFI 2.10, 3.5.1.1 (removable media boot).
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from swtpm.guest.packages import BuildError, tool

STUB: Final = Path("/usr/lib/systemd/boot/efi/linuxx64.efi.stub")
SNAKEOIL_KEY: Final = Path("/usr/share/ovmf/PkKek-1-snakeoil.key")
SNAKEOIL_CERTIFICATE: Final = Path("/usr/share/ovmf/PkKek-1-snakeoil.pem")
"""The distribution's test key: PK, KEK and db in OVMF_VARS_4M.snakeoil.fd. Its passphrase is published: it shows the mechanism, no more."""
_SNAKEOIL_PASSPHRASE: Final = b"snakeoil"
_OS_RELEASE: Final = b'ID=writ-guest\nVERSION_ID=1\nPRETTY_NAME="Writ measured-boot guest"\n'
_MEGABYTE: Final = 1 << 20


def make_uki(kernel: Path, initrd: bytes, command_line: str, target: Path) -> None:
    """`target` is a unified kernel image."""
    sections = {".osrel": _OS_RELEASE, ".cmdline": command_line.encode("ascii"), ".linux": kernel.read_bytes(), ".initrd": initrd}
    at = _end_of(STUB)
    with tempfile.TemporaryDirectory(prefix="uki-", dir=target.parent) as room:
        arguments = []
        for name, data in sections.items():
            part = Path(room) / name[1:]
            part.write_bytes(data)
            at = -(-at // _MEGABYTE) * _MEGABYTE
            arguments += ["--add-section", f"{name}={part}", "--change-section-vma", f"{name}={at:#x}"]
            at += len(data)
        tool("objcopy", *arguments, os.fspath(STUB), os.fspath(target))


def _end_of(program: Path) -> int:
    """The first address behind the sections of a PE file, relative to its base."""
    listed = tool("objdump", "--section-headers", "--wide", os.fspath(program))
    rows = re.findall(r"^ +\d+ \S+ +([0-9a-f]+) +([0-9a-f]+) ", listed, re.MULTILINE)
    if not rows:
        raise BuildError(f"{program}: expected sections, found none")
    return max(int(size, 16) + int(address, 16) for size, address in rows)


def sign(program: Path) -> None:
    """`program` is signed with the distribution's test key."""
    key = load_pem_private_key(SNAKEOIL_KEY.read_bytes(), _SNAKEOIL_PASSPHRASE)
    with tempfile.NamedTemporaryFile(suffix=".pem", dir=program.parent) as plain:
        plain.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        plain.flush()
        name = os.fspath(program)
        tool("sbsign", "--key", plain.name, "--cert", os.fspath(SNAKEOIL_CERTIFICATE), "--output", name, name)


def make_esp(program: Path, target: Path) -> None:
    """`target` is a FAT file system, without a partition table, from which firmware boots `program`."""
    size = program.stat().st_size // _MEGABYTE + 12
    with target.open("wb") as file:
        file.truncate(size * _MEGABYTE)
    image = os.fspath(target)
    tool("mkfs.vfat", "-F", "16", "-i", "57524954", image)
    tool("mmd", "-i", image, "::/EFI", "::/EFI/BOOT")
    tool("mcopy", "-i", image, os.fspath(program), "::/EFI/BOOT/BOOTX64.EFI")
