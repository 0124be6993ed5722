"""OCI image layouts, put together from the specification: layers as lists of entries, documents around them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

Entry = tarfile.TarInfo | tuple[str, bytes] | tuple[str, bytes, int]
"""A file as path, content and perhaps mode; anything else as tarfile has it."""

OCI: Final = "application/vnd.oci.image."
PACKERS: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "": lambda data: data,
    "+gzip": lambda data: gzip.compress(data, mtime=0),
    "+zstd": lambda data: subprocess.run(["zstd", "-q", "-c"], input=data, capture_output=True, check=True).stdout,
}


def directory(path: str) -> tarfile.TarInfo:
    """A directory."""
    return made(path, tarfile.DIRTYPE, mode=0o755)


def link(path: str, target: str) -> tarfile.TarInfo:
    """A symbolic link."""
    return made(path, tarfile.SYMTYPE, target)


def hard(path: str, target: str) -> tarfile.TarInfo:
    """A hard link."""
    return made(path, tarfile.LNKTYPE, target)


def made(path: str, kind: bytes, target: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    """An entry of any type, without content."""
    info = tarfile.TarInfo(path)
    info.type, info.linkname, info.mode = kind, target, mode
    return info


def layer(*entries: Entry, kind: int = tarfile.PAX_FORMAT) -> bytes:
    """The tar of these entries, in this order."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as tar:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                tar.addfile(entry)
                continue
            info = tarfile.TarInfo(entry[0])
            info.size, info.mode = len(entry[1]), entry[2] if len(entry) == 3 else 0o644
            tar.addfile(info, io.BytesIO(entry[1]))
    return buffer.getvalue()


def layer_of(tree: Path) -> bytes:
    """The tar of a tree on disk."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in sorted(os.listdir(tree)):
            tar.add(tree / name, arcname=name)
    return buffer.getvalue()


@dataclass
class Layout:
    """A layout in memory: `blobs` and `index` may be changed before it is written."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    index: dict[str, Any] = field(default_factory=lambda: {"schemaVersion": 2, "manifests": []})
    marker: bytes = b'{"imageLayoutVersion": "1.0.0"}'

    def put(self, data: bytes, media_type: str, algorithm: str = "sha256") -> dict[str, Any]:
        """A blob; its descriptor."""
        digest = hashlib.new(algorithm, data).hexdigest()
        self.blobs[f"blobs/{algorithm}/{digest}"] = data
        return {"mediaType": media_type, "digest": f"{algorithm}:{digest}", "size": len(data)}

    def image(
        self, tars: Sequence[bytes], run: Mapping[str, Any] | None = None, *, tag: str | None = "latest", packing: str = "+gzip",
        platform: tuple[str, str] = ("linux", "amd64"), **changed: Any,
    ) -> dict[str, Any]:  # fmt: skip
        """An image of these tars; its descriptor, which the index has too. `changed` keys of the manifest are another value."""
        diff_ids = [f"sha256:{hashlib.sha256(tar).hexdigest()}" for tar in tars]
        config = {"os": platform[0], "architecture": platform[1], "rootfs": {"type": "layers", "diff_ids": diff_ids}, "config": run or {}}
        document = {
            "schemaVersion": 2, "mediaType": f"{OCI}manifest.v1+json", "config": self.document(config, f"{OCI}config.v1+json"),
            "layers": [self.put(PACKERS[packing](tar), f"{OCI}layer.v1.tar{packing}") for tar in tars], **changed,
        }  # fmt: skip
        descriptor = self.document(document, f"{OCI}manifest.v1+json")
        descriptor["platform"] = {"os": platform[0], "architecture": platform[1]}
        if tag is not None:
            descriptor["annotations"] = {"org.opencontainers.image.ref.name": tag}
        self.index["manifests"].append(descriptor)
        return descriptor

    def document(self, value: object, media_type: str) -> dict[str, Any]:
        """A blob of JSON; its descriptor."""
        return self.put(json.dumps(value).encode(), media_type)

    def files(self) -> dict[str, bytes]:
        """Every file of the layout by its path."""
        return {"oci-layout": self.marker, "index.json": json.dumps(self.index).encode(), **self.blobs}

    def write(self, folder: Path) -> Path:
        """The layout as a directory."""
        for path, data in self.files().items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
        return folder

    def write_tar(self, path: Path) -> Path:
        """The layout as a tar."""
        path.write_bytes(layer(directory("blobs"), *self.files().items()))
        return path
