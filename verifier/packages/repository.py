"""Snapshots of package repositories: from a signed index down to each package, by SHA-256 all the way.

    apt   dists/SUITE/InRelease (or Release and Release.gpg) -> …/Packages[.xz|.gz] -> FILE.deb
    yum   repodata/repomd.xml (and repomd.xml.asc)           -> …primary.xml[.gz|.xz|.zst] -> FILE.rpm

The signature is verified by `gpgv` under a keyring that the operator names;
what it covers is read from its own output, never from around the signature.
A snapshot may hold a part of its pool: a package that an index names and the
folder lacks is counted, not refused. One that the folder holds and no index
names is not looked at. How old a snapshot is, is the operator's to judge:
`Valid-Until` is not held against a clock.

Source: Debian Wiki, RepositoryFormat; apt-secure(8); gpgv(1); createrepo_c, "repomd.xml", "primary.xml".
"""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final
from xml.parsers import expat

from verifier.packages import Package
from verifier.packages.deb import checked, fields_of, read_deb
from verifier.packages.rpm import read_rpm
from writ.formats.errors import FormatError, Refused, Unavailable
from writ.formats.reason import Reason
from writ.formats.tar import CHUNK
from writ.service.compression import decompressed

MAX_INDEX: Final = 1 << 30
"""Bytes of an index, unpacked."""
MAX_RELEASE: Final = 16 << 20
MAX_PACKAGES: Final = 200_000
_SHA256 = re.compile(r"[0-9a-f]{64}\Z", re.ASCII)
_STRONG: Final = ("8", "9", "10")
"""SHA-256, SHA-384, SHA-512 as OpenPGP numbers them (RFC 9580, section 9.5)."""
_SUFFIXES: Final = ("", ".xz", ".gz", ".zst", ".bz2")


@dataclass(frozen=True, slots=True)
class Listed:
    """A package as an index lists it: its place below the snapshot, and what its file must be."""

    path: Path
    size: int
    sha256: str

    @property
    def is_there(self) -> bool:
        """Whether the snapshot holds the file."""
        return self.path.is_file()


@dataclass(frozen=True, slots=True)
class Repository:
    """What the indexes of a snapshot list; `signed_by` are fingerprints of the keys whose signatures were verified."""

    packages: tuple[Listed, ...]
    signed_by: tuple[str, ...]


def open_repository(root: Path, *, keyring: Path | None) -> Repository:
    """The packages that the apt or yum snapshot below `root` lists.

    With a keyring every index is reached from a signature by one of its keys;
    with None none is looked for, which is the caller's to have been asked for.

    Raises FormatError, Refused `signature-invalid` or `digest-mismatch`, Unavailable.
    """
    if (root / "dists").is_dir():
        return _apt(root, keyring)
    if (root / "repodata" / "repomd.xml").is_file():
        return _yum(root, keyring)
    raise FormatError(str(root), "dists/ of apt or repodata/repomd.xml of yum", "neither")


def read_listed(listed: Listed) -> Package:
    """The package, whose file is the one that the index lists. Raises FormatError, Refused `digest-mismatch`, Unavailable."""
    what = listed.path.name
    try:
        with listed.path.open("rb") as file:
            _check_file(file, listed.sha256, listed.size, what)
            return read_deb(file, what) if listed.path.suffix == ".deb" else read_rpm(file, what)
    except OSError as error:
        raise Unavailable(what, error.strerror or "cannot be read") from None


def _check_file(file: BinaryIO, sha256: str, size: int, what: str) -> None:
    running, left = hashlib.sha256(), size
    while left >= 0 and (part := file.read(CHUNK)):
        running.update(part)
        left -= len(part)
    if left:
        raise Refused(Reason("digest-mismatch", what[:200], f"{size} bytes", "another size"))
    if running.hexdigest() != sha256:
        raise Refused(Reason("digest-mismatch", what[:200], f"sha256:{sha256}", f"sha256:{running.hexdigest()}"))


def _within(root: Path, relative: str, what: str) -> Path:
    """`relative` below `root`, links followed. Raises FormatError for one that leads out."""
    parts = relative.split("/")
    if any(part in ("", "..", ".") for part in parts) or "\0" in relative:
        raise FormatError(what, "a path below the snapshot", ascii(relative)[:120])
    path = root.joinpath(*parts)
    if not path.resolve().is_relative_to(root.resolve()):
        raise FormatError(what, "a path below the snapshot", f"a link out of it: {ascii(relative)[:100]}")
    return path


def _whole(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise Unavailable(str(path), error.strerror or "cannot be read") from None
    if len(data) > most:
        raise FormatError(path.name, f"at most {most} bytes", "more")
    return data


# --- signatures --------------------------------------------------------------------------------------------------------


def _verified(keyring: Path, *signed: Path) -> tuple[bytes, str]:
    """What a clear-signed file says, or a file beside its signature (signature first), and the fingerprint that vouches for it.

    Raises Refused `signature-invalid`, Unavailable without gpgv.
    """
    program = shutil.which("gpgv")
    if program is None:
        raise Unavailable("gpgv", "expected the program gpgv, to verify the snapshot's signature; found none")
    with tempfile.TemporaryDirectory(prefix="writ-gpgv-") as folder:
        ring, output = Path(folder) / "keyring.gpg", Path(folder) / "output"
        ring.write_bytes(_dearmoured(_whole(keyring, MAX_RELEASE)))
        data = [] if len(signed) > 1 else ["--output", str(output)]
        command = [
            program,
            "--homedir",
            folder,
            "--keyring",
            str(ring),
            "--status-fd",
            "1",
            *data,
            *(str(path.resolve()) for path in signed),
        ]
        body = _whole(signed[1], MAX_RELEASE) if len(signed) > 1 else b""
        done = subprocess.run(command, capture_output=True, check=False)
        fingerprint = _good_signature(done.stdout.decode("ascii", "replace"))
        if fingerprint is None:
            raise Refused(
                Reason("signature-invalid", signed[0].name, f"a signature by a key of {keyring.name}"[:200], "none that gpgv accepts")
            )
        if len(signed) > 1:
            if _whole(signed[1], MAX_RELEASE) != body:
                raise Refused(Reason("signature-invalid", signed[1].name, "a file at rest", "one that changed"))
        else:
            body = _whole(output, MAX_RELEASE)
        return body, fingerprint


def _good_signature(status: str) -> str | None:
    """The fingerprint behind a good signature, by a key neither expired nor revoked, over SHA-256 or stronger; None where one is bad.

    Signatures by keys that the keyring lacks are passed over: a release is signed by several.
    """
    found = None
    for one in status.split("[GNUPG:] NEWSIG")[1:]:
        words = [line.split()[1:] for line in one.splitlines() if line.startswith("[GNUPG:] ")]
        kinds = {line[0] for line in words if line}
        if "BADSIG" in kinds:
            return None
        valid = [line for line in words if line[0] == "VALIDSIG" and len(line) > 8 and line[8] in _STRONG]
        if valid and "GOODSIG" in kinds:
            found = found or valid[0][1]
    return found


def _dearmoured(keyring: bytes) -> bytes:
    """The keyring in binary, as gpgv wants it; armour around it is taken off."""
    if not keyring.startswith(b"-----BEGIN PGP PUBLIC KEY BLOCK-----"):
        return keyring
    found = b""
    for block in re.findall(rb"-----BEGIN PGP PUBLIC KEY BLOCK-----\r?\n(.*?)-----END", keyring, re.DOTALL):
        body = block.replace(b"\r", b"").partition(b"\n\n")[2] or block
        lines = [line for line in body.split(b"\n") if line and not line.startswith(b"=")]
        try:
            found += base64.b64decode(b"".join(lines), validate=True)
        except ValueError:
            raise FormatError("keyring", "OpenPGP keys, binary or armoured", "armour that is not base64") from None
    return found


# --- apt ---------------------------------------------------------------------------------------------------------------


def _apt(root: Path, keyring: Path | None) -> Repository:
    """1. Each suite's Release, verified. 2. Each Packages that it lists and the snapshot holds. 3. Each stanza."""
    suites = sorted({path.parent for name in ("InRelease", "Release.gpg") for path in (root / "dists").rglob(name)})
    if keyring is None:
        suites = sorted(
            {*suites, *(path.parent for path in (root / "dists").rglob("Release") if b"\nSHA256:" in _whole(path, MAX_RELEASE))}
        )
    if not suites:
        raise FormatError(str(root / "dists"), "a suite with InRelease, or Release and Release.gpg", "none")
    packages: dict[Path, Listed] = {}
    fingerprints: set[str] = set()
    for suite in suites:
        # 1
        release, fingerprint = _release(suite, keyring)
        fingerprints.update([fingerprint] if fingerprint else [])
        listed = _release_files(release, f"{suite.name}/Release")
        # 2
        for stem in sorted({name.removesuffix(Path(name).suffix) if name.endswith(_SUFFIXES[1:]) else name for name in listed}):
            if stem != "Packages" and not stem.endswith("/Packages"):
                continue
            found = [(stem + suffix, suffix) for suffix in _SUFFIXES if stem + suffix in listed and (suite / (stem + suffix)).is_file()]
            if found:
                name, suffix = found[0]
                path = _within(suite, name, "Release")
                # 3
                for one in _stanzas(root, path, suffix[1:], *listed[name]):
                    _add(packages, one)
    if not packages:
        raise FormatError(str(root / "dists"), f"an index Packages{{{','.join(_SUFFIXES)}}} that a Release lists", "none with a package")
    return Repository(tuple(packages[path] for path in sorted(packages)), tuple(sorted(fingerprints)))


def _add(packages: dict[Path, Listed], listed: Listed) -> None:
    if packages.setdefault(listed.path, listed) != listed:
        raise FormatError("repository", f"one digest for {listed.path.name[:100]}", "two")
    if len(packages) > MAX_PACKAGES:
        raise FormatError("repository", f"at most {MAX_PACKAGES} packages", "more")


def _release(suite: Path, keyring: Path | None) -> tuple[bytes, str | None]:
    inline, plain, detached = suite / "InRelease", suite / "Release", suite / "Release.gpg"
    if keyring is not None:
        return _verified(keyring, inline) if inline.is_file() else _verified(keyring, detached, plain)
    if plain.is_file():
        return _whole(plain, MAX_RELEASE), None
    text = _whole(inline, MAX_RELEASE).replace(b"\r", b"")
    body = text.partition(b"\n\n")[2].partition(b"\n-----BEGIN PGP SIGNATURE-----")[0]
    return re.sub(rb"^- ", b"", body, flags=re.MULTILINE), None


def _release_files(release: bytes, what: str) -> dict[str, tuple[str, int]]:
    """Path -> SHA-256 and size, from the field SHA256. Raises FormatError."""
    found: dict[str, tuple[str, int]] = {}
    inside = False
    for line in release.decode("utf-8", "replace").splitlines():
        if not line.startswith(" "):
            inside = line.rstrip() == "SHA256:"
        elif inside:
            words = line.split()
            if len(words) != 3 or not _SHA256.match(words[0]) or not words[1].isdecimal() or len(words[1]) > 12:
                raise FormatError(f"{what}.SHA256", "lines of digest, size and path", line[:100])
            found[words[2]] = (words[0], int(words[1]))
    if not found:
        raise FormatError(what, "a field SHA256 with files", "none")
    return found


def _stanzas(root: Path, path: Path, compression: str, sha256: str, size: int) -> Iterator[Listed]:
    what = "/".join(path.parts[-3:])
    for stanza in _blocks(path, compression, sha256, size, what):
        fields = checked(fields_of(stanza, what), what)
        place, digest, length = fields.get("Filename", ""), fields.get("SHA256", ""), fields.get("Size", "")
        if not _SHA256.match(digest) or not length.isdecimal() or len(length) > 12 or not place.endswith(".deb"):
            raise FormatError(f"{what} {fields['Package']}", "Filename, Size and SHA256", f"{place[:60]} {length[:20]} {digest[:70]}")
        yield Listed(_within(root, place.removeprefix("./"), what), int(length), digest)


def _blocks(path: Path, compression: str, sha256: str, size: int, what: str) -> Iterator[bytes]:
    """The stanzas of an index, which is first held against what the release says of it."""
    try:
        with path.open("rb") as file:
            _check_file(file, sha256, size, what)
            file.seek(0)
            with decompressed(compression, file.read, what, most=MAX_INDEX) as read:
                rest = b""
                while part := read(CHUNK):
                    *whole, rest = (rest + part).split(b"\n\n")
                    if len(rest) > 4 * CHUNK:
                        raise FormatError(what, f"stanzas of at most {4 * CHUNK} bytes", "a longer one")
                    yield from (stanza for stanza in whole if stanza.strip())
                if rest.strip():
                    yield rest
    except OSError as error:
        raise Unavailable(what, error.strerror or "cannot be read") from None


# --- yum ---------------------------------------------------------------------------------------------------------------


def _yum(root: Path, keyring: Path | None) -> Repository:
    """1. repomd.xml, verified. 2. The primary index that it names. 3. Each package in it."""
    # 1
    repomd = root / "repodata" / "repomd.xml"
    fingerprints: tuple[str, ...] = ()
    if keyring is None:
        data = _whole(repomd, MAX_RELEASE)
    else:
        signature = repomd.with_name("repomd.xml.asc")
        if not signature.is_file():
            raise Refused(Reason("signature-invalid", "repomd.xml", "repomd.xml.asc beside it", "none"))
        data, fingerprint = _verified(keyring, signature, repomd)
        fingerprints = (fingerprint,)
    # 2
    primary = [one for one in _elements([data], "data", "repomd.xml") if one.get("@type") == "primary"]
    if len(primary) != 1:
        raise FormatError("repomd.xml", "one primary index", f"{len(primary)}")
    path = _within(root, primary[0].get("location@href", ""), "repomd.xml")
    sha256, size = _sha256_of(primary[0], "repomd.xml"), _size_of(primary[0].get("size", ""), "repomd.xml")
    # 3
    packages: dict[Path, Listed] = {}
    compression = path.suffix[1:] if path.suffix != ".xml" else ""
    try:
        with path.open("rb") as file:
            _check_file(file, sha256, size, path.name)
            file.seek(0)
            with decompressed(compression, file.read, path.name, most=MAX_INDEX) as read:
                for one in _elements(iter(lambda: read(CHUNK), b""), "package", path.name):
                    place = _within(root, one.get("location@href", ""), path.name)
                    if place.suffix != ".rpm":
                        raise FormatError(path.name, "packages named .rpm", place.name[:100])
                    _add(packages, Listed(place, _size_of(one.get("size@package", ""), path.name), _sha256_of(one, path.name)))
    except OSError as error:
        raise Unavailable(path.name, error.strerror or "cannot be read") from None
    return Repository(tuple(packages[one] for one in sorted(packages)), fingerprints)


def _sha256_of(element: dict[str, str], what: str) -> str:
    if element.get("checksum@type") != "sha256" or not _SHA256.match(element.get("checksum", "")):
        raise FormatError(
            what, "a checksum of type sha256", f"{element.get('checksum@type', 'none')[:20]} {element.get('checksum', '')[:70]}"
        )
    return element["checksum"]


def _size_of(text: str, what: str) -> int:
    if not text.isdecimal() or len(text) > 12:
        raise FormatError(what, "a size in bytes", text[:40])
    return int(text)


def _elements(chunks: Iterator[bytes] | list[bytes], name: str, what: str) -> Iterator[dict[str, str]]:
    """Each element `name` below the root, as a map: its children's text by their names, attributes as `child@attribute`.

    A document type, and with it any entity of its own, is refused. Raises FormatError.
    """
    finished: list[dict[str, str]] = []
    current: dict[str, str] = {}
    path: list[str] = []

    def start(tag: str, attributes: dict[str, str]) -> None:
        path.append(tag)
        if path[1:] == [name]:
            current.clear()
            current.update({f"@{key}": value for key, value in attributes.items()})
        elif len(path) == 3 and path[1] == name:
            current[tag] = ""
            current.update({f"{tag}@{key}": value for key, value in attributes.items()})
        if len(path) > 16:
            raise FormatError(what, "at most 16 levels", "more")

    def text(data: str) -> None:
        if len(path) == 3 and path[1] == name and len(current[path[2]]) < CHUNK:
            current[path[2]] += data.strip()

    def end(_tag: str) -> None:
        if path[1:] == [name]:
            finished.append(dict(current))
        path.pop()

    def doctype(*_: object) -> None:
        raise FormatError(what, "no document type", "one")

    parser = expat.ParserCreate("utf-8")  # whatever the text says of itself
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = text, doctype
    try:
        for chunk in chunks:
            parser.Parse(chunk, False)
            yield from finished
            finished.clear()
        parser.Parse(b"", True)
    except expat.ExpatError:
        raise FormatError(what, "XML", "text that is none", max(parser.ErrorByteIndex, 0)) from None
    yield from finished
