"""Packages and snapshots made by the distributions' own tools."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.conftest import missing
from writ.formats.digest import Digest


def program(name: str, package: str) -> str:
    found = shutil.which(name)
    if found is None:
        missing(f"{name} (Debian: {package})")
    return found or name


def sha256(data: bytes) -> Digest:
    return Digest.of(data)


def build_deb(
    folder: Path, name: str, files: Mapping[str, bytes], *, version: str = "1.0-1", links: Mapping[str, str] | None = None,
    hard: Mapping[str, str] | None = None, compression: str = "xz",
) -> Path:  # fmt: skip
    """A .deb by dpkg-deb; `hard` is new name -> the file that it links."""
    tree = folder / f"{name}.tree"
    (tree / "DEBIAN").mkdir(parents=True)
    control = f"Package: {name}\nVersion: {version}\nArchitecture: amd64\nMaintainer: T <t@example.org>\nDescription: test\n more\n"
    (tree / "DEBIAN/control").write_text(control)
    for path, content in files.items():
        place = tree / path.removeprefix("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    for path, target in (links or {}).items():
        (tree / path.removeprefix("/")).symlink_to(target)
    for path, target in (hard or {}).items():
        (tree / path.removeprefix("/")).hardlink_to(tree / target.removeprefix("/"))
    made = folder / f"{name}_{version.replace(':', '%3a')}_amd64.deb"
    command = [program("dpkg-deb", "dpkg"), f"-Z{compression}", "--root-owner-group", "--build", str(tree), str(made)]
    subprocess.run(command, check=True, capture_output=True)
    shutil.rmtree(tree)
    return made


SPEC = """Name: {name}
Version: 2.5
Release: 3
Epoch: 1
Summary: test
License: none
BuildArch: noarch
{head}
%description
test
%install
{install}
%files
{files}
"""


def build_rpm(folder: Path, name: str, files: Mapping[str, bytes], *, algorithm: int = 8, ghost: str | None = None) -> Path:
    """A .rpm by rpmbuild, its file digests of PGP hash `algorithm` (1 MD5, 8 SHA-256, 10 SHA-512)."""
    top = folder / f"{name}.rpmbuild"
    top.mkdir()
    install, listed = [], []
    for at, (path, content) in enumerate(files.items()):
        (top / str(at)).write_bytes(content)
        install.append(f'mkdir -p "%{{buildroot}}{os.path.dirname(path)}"; cp "{top / str(at)}" "%{{buildroot}}{path}"')
        listed.append(f'"{path}"')
    first = next(iter(files))
    install.append(f'ln -s "{os.path.basename(first)}" "%{{buildroot}}{first}.link"')
    listed.append(f'"{first}.link"')
    if ghost:
        listed.append(f"%ghost {ghost}")
        install.append(f'mkdir -p "%{{buildroot}}{os.path.dirname(ghost)}"; touch "%{{buildroot}}{ghost}"')
    spec = top / "test.spec"
    spec.write_text(SPEC.format(name=name, head="", install="\n".join(install), files="\n".join(listed)))
    command = [
        program("rpmbuild", "rpm"), "-bb", "--quiet", "--define", f"_topdir {top}", "--define", "debug_package %{nil}",
        "--define", f"_binary_filedigest_algorithm {algorithm}", "--define", "__os_install_post %{nil}", str(spec),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "HOME": str(top)})
    (made,) = (top / "RPMS").rglob("*.rpm")
    return made.rename(folder / made.name)


class Signer:
    """An OpenPGP key in a home of its own; `close` ends the agent that gpg started for it."""

    def __init__(self, home: Path) -> None:
        self._home, self._gpg = home, program("gpg", "gnupg")
        home.chmod(0o700)
        self._run("--quick-generate-key", "--passphrase", "", "snapshot@example.org", "ed25519", "sign", "never")
        self.keyring = home / "exported.gpg"
        self.keyring.write_bytes(self._run("--export"))
        self.armoured = home / "exported.asc"
        self.armoured.write_bytes(self._run("--armor", "--export"))
        lines = self._run("--list-keys", "--with-colons").decode().splitlines()
        self.fingerprint = next(line.split(":")[9] for line in lines if line.startswith("fpr:"))

    def _run(self, *arguments: str) -> bytes:
        command = [self._gpg, "--homedir", str(self._home), "--batch", "--quiet", "--pinentry-mode", "loopback", *arguments]
        return subprocess.run(command, check=True, capture_output=True).stdout

    def clear_sign(self, file: Path, output: Path) -> None:
        self._run("--yes", "--output", str(output), "--clearsign", str(file))

    def detach_sign(self, file: Path, output: Path) -> None:
        self._run("--yes", "--armor", "--output", str(output), "--detach-sign", str(file))

    def close(self) -> None:
        subprocess.run(["gpgconf", "--homedir", str(self._home), "--kill", "all"], check=False, capture_output=True)


def build_apt(root: Path, debs: Sequence[Path], signer: Signer | None, *, suffix: str = ".xz", inline: bool = True) -> Path:
    """An apt snapshot of one suite, one component and one architecture. The packages move into its pool."""
    pool, suite = root / "pool", root / "dists/stable"
    index = suite / "main/binary-amd64" / f"Packages{suffix}"
    pool.mkdir(parents=True)
    index.parent.mkdir(parents=True)
    stanzas = []
    for deb in debs:
        moved = deb.rename(pool / deb.name)
        data = moved.read_bytes()
        control = subprocess.run([program("dpkg-deb", "dpkg"), "-f", str(moved)], check=True, capture_output=True, text=True).stdout
        stanzas.append(f"{control}Filename: pool/{moved.name}\nSize: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n")
    text = "\n".join(stanzas).encode()
    index.write_bytes(lzma.compress(text) if suffix == ".xz" else gzip.compress(text) if suffix == ".gz" else text)
    sign_release(suite, signer, inline=inline)
    return root


def sign_release(suite: Path, signer: Signer | None, *, inline: bool = True) -> None:
    lines = []
    for path in sorted(suite.rglob("Packages*")):
        data = path.read_bytes()
        lines.append(f" {hashlib.sha256(data).hexdigest()} {len(data)} {path.relative_to(suite)}\n")
    release = suite / "Release"
    release.write_text("Origin: test\nSuite: stable\nMD5Sum:\n 00 1 main/x\nSHA256:\n" + "".join(lines))
    if signer and inline:
        signer.clear_sign(release, suite / "InRelease")
        release.unlink()
    elif signer:
        signer.detach_sign(release, suite / "Release.gpg")


REPOMD = """<?xml version="1.0" encoding="UTF-8"?>
<repomd xmlns="http://linux.duke.edu/metadata/repo">
  <revision>1</revision>
  <data type="filelists"><checksum type="sha256">00</checksum><location href="repodata/none.xml"/></data>
  <data type="primary">
    <checksum type="sha256">{digest}</checksum>
    <open-checksum type="sha256">00</open-checksum>
    <location href="repodata/primary.xml.gz"/>
    <size>{size}</size>
  </data>
</repomd>
"""
PACKAGE = """<package type="rpm">
  <name>x</name><arch>noarch</arch><version epoch="1" ver="2.5" rel="3"/>
  <checksum type="sha256" pkgid="YES">{digest}</checksum>
  <size package="{size}" installed="1" archive="1"/>
  <location href="Packages/{name}"/>
  <format><license>none</license></format>
</package>
"""


def build_yum(root: Path, rpms: Sequence[Path], signer: Signer | None) -> Path:
    """A yum snapshot. The packages move into it."""
    (root / "repodata").mkdir(parents=True)
    (root / "Packages").mkdir()
    packages = []
    for rpm in rpms:
        data = rpm.rename(root / "Packages" / rpm.name).read_bytes()
        packages.append(PACKAGE.format(digest=hashlib.sha256(data).hexdigest(), size=len(data), name=rpm.name))
    primary = gzip.compress(('<metadata packages="1">' + "".join(packages) + "</metadata>").encode())
    (root / "repodata/primary.xml.gz").write_bytes(primary)
    repomd = root / "repodata/repomd.xml"
    repomd.write_text(REPOMD.format(digest=hashlib.sha256(primary).hexdigest(), size=len(primary)))
    if signer:
        signer.detach_sign(repomd, root / "repodata/repomd.xml.asc")
    return root
