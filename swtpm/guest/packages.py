"""Packages of the distribution, resolved against an empty system, fetched by apt and unpacked without being installed."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

WANTED: Final = (
    *("base-files", "busybox-static", "kmod", "dmsetup", "cryptsetup-bin", "fsverity", "python3-minimal", "libpython3-stdlib"),
    *("libtss2-esys-3.0.2-0", "libtss2-fapi1", "libtss2-rc0", "libtss2-tcti-device0"),
    *("bubblewrap", "erofs-utils", "libseccomp2", "mount"),
)
"""What the guest needs by name; apt adds what they rest on. tpm2-pytss links the TPM libraries."""
KERNEL: Final = "linux-image-cloud-amd64"
"""Its TPM drivers, NVMe and ext4 are built in, so that IMA has a TPM from its first entry on."""

_LEFT_OUT: Final = frozenset(
    {"adduser", "apt", "debconf", "dpkg", "libc-dev-bin", "login", "mailcap", "mawk", "media-types", "passwd", "perl-base", "tar", "udev"}
)
"""Tools of installation, which the guest never does."""
_UNPACK_WITHOUT: Final = ("./usr/share/doc", "./usr/share/info", "./usr/share/locale", "./usr/share/man", "./usr/share/bash-completion")
_EMPTY_SYSTEM: Final = (
    *("-o", "Dir::State::status=/dev/null", "-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache="),
    *("-o", "APT::Install-Recommends=0"),
)
_URI = re.compile(r"^'[^']+' (\S+\.deb) \d+ SHA256:([0-9a-f]{64})$", re.MULTILINE)


class BuildError(Exception):
    """The guest could not be built: a tool is missing or did not do what it was told."""


@dataclass(frozen=True, slots=True)
class Package:
    """One version of one package, as the distribution's signed index names it."""

    file: str
    sha256: str


def resolve() -> tuple[tuple[Package, ...], Package]:
    """What the root file tree is unpacked from, and the kernel. Nothing is fetched."""
    planned = tool("apt-get", *_EMPTY_SYSTEM, "--simulate", "install", *WANTED)
    names = sorted(set(re.findall(r"^Inst (\S+)", planned, re.MULTILINE)) - _LEFT_OUT)
    depends = re.search(r"^ +Depends: (linux-image-\S+)$", tool("apt-cache", "depends", KERNEL), re.MULTILINE)
    if depends is None:
        raise BuildError(f"{KERNEL}: expected a kernel among its dependencies, found none")
    tree, kernel = _index(*names), _index(depends.group(1))
    if len(tree) != len(names) or len(kernel) != 1:
        raise BuildError(f"apt-get: expected {len(names)} packages and a kernel, got {len(tree)} and {len(kernel)}")
    return tree, kernel[0]


def _index(*names: str) -> tuple[Package, ...]:
    listed = tool("apt-get", "download", "--print-uris", *names)
    return tuple(Package(file, digest) for file, digest in sorted(_URI.findall(listed)))


def fetch(packages: Sequence[Package], folder: Path) -> tuple[Path, ...]:
    """The files of `packages`, in `folder`; apt has checked each against the signed index."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [package for package in packages if not (folder / package.file).exists()]
    if missing:
        # NAME_VERSION_ARCHITECTURE.deb, where the version's colon is written %3a
        asked = ["=".join(package.file.split("_")[:2]).replace("%3a", ":") for package in missing]
        tool("apt-get", "download", "-o", "APT::Sandbox::User=root", *asked, cwd=folder)
    return tuple(folder / package.file for package in packages)


def unpack(packages: Sequence[Path], tree: Path) -> None:
    """`tree` holds what the packages hold, without documentation; no maintainer script ran."""
    for place in ("usr/bin", "usr/sbin", "usr/lib", "usr/lib64"):
        (tree / place).mkdir(parents=True, exist_ok=True)
        link = tree / place.removeprefix("usr/")
        if not link.is_symlink():
            link.symlink_to(place)
    for package in packages:
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", os.fspath(package)], stdout=subprocess.PIPE) as stream:
            tool(
                *("tar", "--extract", "--keep-directory-symlink", "--no-same-owner", "--directory", os.fspath(tree)),
                *(f"--exclude={path}" for path in _UNPACK_WITHOUT),
                stdin=stream.stdout.fileno() if stream.stdout else None,
            )
        if stream.returncode != 0:
            raise BuildError(f"dpkg-deb {package.name}: expected exit 0, got {stream.returncode}")


def tool(*command: str, cwd: Path | None = None, stdin: int | None = None, env: dict[str, str] | None = None) -> str:
    """What a program of the build printed. Raises BuildError unless it ended well."""
    try:
        done = subprocess.run(
            command, cwd=cwd, stdin=subprocess.DEVNULL if stdin is None else stdin, env={**os.environ, "LC_ALL": "C", **(env or {})},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        raise BuildError(f"expected {command[0]} on PATH, found none; `./run guest` installs it") from None
    if done.returncode != 0:
        raise BuildError(f"{command[0]}: expected exit 0, got {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")
    return done.stdout
