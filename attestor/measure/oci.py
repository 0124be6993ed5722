"""An OCI image layout, a directory or a tar, unpacked into a tree of ours: no daemon, no registry, nothing of it run.

Every blob is held against size and digest before it is read, and what is unpacked of a layer against the configuration's diff_id, so a
tree stands for exactly one image. The chain begins at `index.json`, which nothing names by digest: where the layout comes from is the
operator's to know, and what was unpacked is measured like every other component.

Source: OCI image-spec 1.1, image-layout.md; config.md, "Layer DiffID".
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, NoReturn

from attestor.measure.layers import Layers
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Unavailable
from writ.formats.oci import (
    INDEXES,
    MANIFESTS,
    MAX_DOCUMENT,
    Descriptor,
    ImageConfig,
    ImageManifest,
    Platform,
    check_layout,
    parse_image_config,
    parse_image_manifest,
    parse_index,
)
from writ.formats.tar import CHUNK, Read, limited, tar_entries
from writ.service.compression import MAX_UNPACKED, decompressed

_MACHINES: Final = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}
"""Architectures that Go and the kernel call by different names."""
_MOST_INDEXES: Final = 3
_MOST_FILES: Final = 4096
_INDEX: Final = "index.json"


@dataclass(frozen=True, slots=True)
class OciImage:
    """One image of a layout, its documents verified: manifest and configuration, and the digest of the manifest."""

    descriptor: Descriptor
    manifest: ImageManifest
    config: ImageConfig


def this_platform() -> Platform:
    """What this machine runs."""
    machine = os.uname().machine
    return Platform("linux", _MACHINES.get(machine, machine))


class Layout:
    """A layout, open for reading; `close` ends it. Raises FormatError where it is none, Unavailable where it cannot be read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._places: dict[str, tuple[int, int]] = {}
        self._tar: BinaryIO | None = None
        with contextlib.ExitStack() as undone:
            undone.callback(self.close)
            try:
                if not path.is_dir():
                    self._tar = _open(path)
                    try:
                        self._places = _places(self._tar)
                    except FormatError as error:
                        raise FormatError(str(path), "an OCI layout, as a directory or a tar", f"another file ({error})"[:200]) from None
            except OSError as error:
                raise Unavailable("layout", f"{path}: {error.strerror}") from None
            check_layout(self._document("oci-layout", 1024))
            undone.pop_all()

    def close(self) -> None:
        """Nothing is read any more."""
        if self._tar is not None:
            self._tar.close()

    @contextlib.contextmanager
    def _file(self, name: str) -> Iterator[tuple[Read, int]]:
        """A file of the layout and its size. Raises Unavailable."""
        try:
            if self._tar is None:
                with _open(self._path / name) as file:
                    yield file.read, os.fstat(file.fileno()).st_size
                return
            if name not in self._places:
                raise Unavailable("layout", f"{self._path}: no {name} in it")
            at, size = self._places[name]
            self._tar.seek(at)
            yield limited(self._tar, size), size
        except OSError as error:
            raise Unavailable("layout", f"{self._path / name}: {error.strerror}") from None

    def _document(self, name: str, most: int = MAX_DOCUMENT) -> bytes:
        with self._file(name) as (read, size):
            if size > most:
                raise FormatError(name, f"at most {most} bytes", f"{size}")
            return b"".join(iter(lambda: read(CHUNK), b""))

    def blob(self, descriptor: Descriptor) -> bytes:
        """The document that is described, and no other bytes. Raises FormatError."""
        data = self._document(_blob(descriptor))
        descriptor.check(len(data), Digest.of(data, descriptor.digest.algorithm))
        return data

    def image(self, platform: Platform, tag: str | None) -> OciImage:
        """The one image for `platform` with this tag, or with any.

        Raises FormatError where there is none, or several, naming what there is.
        """
        found = parse_index(self._document(_INDEX))
        if tag is not None:
            tagged = tuple(one for one in found if one.tag == tag)
            if not tagged:
                _none(found, f"an image with the tag {tag}")
            found = tagged
        descriptor = self._choose(found, platform, 1)
        manifest = parse_image_manifest(self.blob(descriptor))
        config = parse_image_config(self.blob(manifest.config))
        if not config.platform.serves(platform):
            raise FormatError("config.platform", str(platform), str(config.platform))
        if len(config.diff_ids) != len(manifest.layers):
            raise FormatError("config.rootfs.diff_ids", f"one for each of {len(manifest.layers)} layers", f"{len(config.diff_ids)}")
        return OciImage(descriptor, manifest, config)

    def _choose(self, found: tuple[Descriptor, ...], platform: Platform, depth: int) -> Descriptor:
        known = [one for one in found if one.media_type in INDEXES | MANIFESTS]
        fitting = [one for one in known if one.platform is None or one.platform.serves(platform)]
        if len({one.digest for one in fitting}) != 1:
            _none(found, f"one image for {platform}")
        one = fitting[0]
        if one.media_type in MANIFESTS:
            return one
        if depth >= _MOST_INDEXES:
            raise FormatError("index", f"at most {_MOST_INDEXES} indexes within each other", "more")
        return self._choose(parse_index(self.blob(one)), platform, depth + 1)

    def unpack(self, image: OciImage, place: Path, *, drop_setuid: bool = False) -> None:
        """The image's tree is at `place`, where nothing was; where it cannot be, nothing is left there.

        1. Each layer's blob is the one that the manifest names.
        2. Its content is the one that the configuration names; of all layers at most `MAX_UNPACKED` bytes.
        3. The tree appears whole. Raises FormatError, Unavailable.
        """
        if os.path.lexists(place):
            raise Unavailable("output", f"{place}: expected nothing there, to unpack into")
        work = place.with_name(f".{place.name}.{secrets.token_hex(8)}")
        try:
            (work / "staged").mkdir(parents=True, mode=0o700)
            layers, left = Layers(work / "staged", drop_setuid=drop_setuid), MAX_UNPACKED
            for (layer, compression), diff_id in zip(image.manifest.layers, image.config.diff_ids, strict=True):
                self._check(layer)  # 1
                left -= self._add(layers, layer, compression, diff_id, left)  # 2
            layers.lay_out(work / "tree")  # 3
            (work / "tree").rename(place)
        except OSError as error:
            raise Unavailable("output", f"{place}: {error.strerror}") from None
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _check(self, layer: Descriptor) -> None:
        with self._file(_blob(layer)) as (read, _):
            running, size = hashlib.new(layer.digest.algorithm), 0
            while part := read(CHUNK):
                running.update(part)
                size += len(part)
        layer.check(size, Digest(layer.digest.algorithm, running.digest()))

    def _add(self, layers: Layers, layer: Descriptor, compression: str, diff_id: Digest, left: int) -> int:
        """The layer is added; how many bytes its tar has."""
        running, size = hashlib.new(diff_id.algorithm), 0
        what = f"layer {str(layer.digest)[:19]}"
        with self._file(_blob(layer)) as (read, _), decompressed(compression, read, what, most=left) as inflate:

            def hashed(most: int) -> bytes:
                nonlocal size
                part = inflate(most)
                running.update(part)
                size += len(part)
                return part

            layers.add(hashed)
        if (got := Digest(diff_id.algorithm, running.digest())) != diff_id:
            raise FormatError(what, f"the content {diff_id}", str(got))
        return size


def _blob(descriptor: Descriptor) -> str:
    return f"blobs/{descriptor.digest.algorithm}/{descriptor.digest.hex()}"


def _none(found: tuple[Descriptor, ...], expected: str) -> NoReturn:
    there = sorted({f"{one.tag or 'no tag'} for {one.platform or 'any platform'}" for one in found})
    raise FormatError("index", expected, ", ".join(there) or "an empty index")


def _open(path: Path) -> BinaryIO:
    """A regular file, open for reading. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    file = os.fdopen(descriptor, "rb")
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        file.close()
        raise OSError(0, "no regular file")
    return file


def _places(file: BinaryIO) -> dict[str, tuple[int, int]]:
    """Where each regular file of a tar begins, and its size; links and what else lies there are not read. Raises FormatError."""
    found: dict[str, tuple[int, int]] = {}
    for entry, _ in tar_entries(file.read, "layout", pax=True):
        if entry.flag == "0":
            name = entry.path.removeprefix(b"./").decode("utf-8", "replace")
            if name in found or len(found) >= _MOST_FILES:
                raise FormatError("layout", f"at most {_MOST_FILES} files, each once", repr(name)[:80])
            found[name] = file.tell(), entry.size
    return found
