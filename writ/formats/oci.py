"""OCI images as they are described: layout, index, manifest and configuration, each as far as Writ reads it.

    oci-layout            {"imageLayoutVersion": "1.0.0"}
    index.json            an index: descriptors of manifests, or of further indexes
    blobs/sha256/<hex>    indexes, manifests, configurations and layers, each named by its digest

Keys that the specification does not know are passed over, as it asks. A descriptor says what bytes should be; `Descriptor.check`
says whether these are they. Docker's media types of the same documents are read as synonyms.

Source: OCI image-spec 1.1: image-layout.md, image-index.md, manifest.md, config.md, descriptor.md; media-types.md, "Compatibility Matrix".

>>> Platform.parse("linux/arm64/v8")
Platform(os='linux', architecture='arm64', variant='v8')
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from writ.formats.digest import Digest
from writ.formats.errors import FormatError
from writ.formats.strict import Fields, decode_json, name

MAX_DOCUMENT: Final = 4 << 20
"""Bytes of an index, a manifest or a configuration: what registries have to take (distribution-spec, "Pushing Manifests")."""
MAX_MANIFESTS: Final = 1024
MAX_LAYERS: Final = 512
MAX_WORDS: Final = 1024
"""Items of a list in a configuration."""
_MAX_TEXT: Final = 1 << 16
TAG: Final = "org.opencontainers.image.ref.name"
_OCI, _DOCKER = "application/vnd.oci.image.", "application/vnd.docker."
INDEXES: Final = frozenset({f"{_OCI}index.v1+json", f"{_DOCKER}distribution.manifest.list.v2+json"})
MANIFESTS: Final = frozenset({f"{_OCI}manifest.v1+json", f"{_DOCKER}distribution.manifest.v2+json"})
_CONFIGS: Final = frozenset({f"{_OCI}config.v1+json", f"{_DOCKER}container.image.v1+json"})
_LAYERS: Final = {
    f"{_OCI}layer.v1.tar": "",
    f"{_OCI}layer.v1.tar+gzip": "gz",
    f"{_OCI}layer.v1.tar+zstd": "zst",
    f"{_DOCKER}image.rootfs.diff.tar": "",
    f"{_DOCKER}image.rootfs.diff.tar.gzip": "gz",
    f"{_DOCKER}image.rootfs.diff.tar.zstd": "zst",
}
"""Compression by media type. Layers that may not be distributed lie elsewhere, and are refused."""


@dataclass(frozen=True, slots=True)
class Platform:
    """What an image runs on, in Go's words: `linux`, `amd64`, perhaps `v8`."""

    os: str
    architecture: str
    variant: str | None = None

    @classmethod
    def parse(cls, text: str) -> Platform:
        """Read `OS/ARCHITECTURE[/VARIANT]`. Raises FormatError."""
        parts = [name(part, "platform") for part in text.split("/")]
        if not 2 <= len(parts) <= 3:
            raise FormatError("platform", "OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT", repr(text)[:80])
        return cls(*parts)

    def serves(self, wanted: Platform) -> bool:
        """Whether an image for this platform is one for `wanted`, which may leave the variant open."""
        same = (self.os, self.architecture) == (wanted.os, wanted.architecture)
        return same and wanted.variant in (None, self.variant)

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What a blob should be: its media type, digest (SHA-256 or SHA-512) and size in bytes. `tag` is its name in an index."""

    media_type: str
    digest: Digest
    size: int
    platform: Platform | None = None
    tag: str | None = None

    def check(self, size: int, digest: Digest) -> None:
        """Return if a blob of this size and digest is the one described. Raises FormatError."""
        if size != self.size:
            raise FormatError(f"blob {self.digest}", f"{self.size} bytes", f"{size}")
        if digest != self.digest:
            raise FormatError(f"blob {self.digest}", str(self.digest), str(digest))


@dataclass(frozen=True, slots=True)
class ImageManifest:
    """The configuration and the layers, lowest first, each with its compression (`""`, `gz`, `zst`)."""

    config: Descriptor
    layers: tuple[tuple[Descriptor, str], ...]


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """How the image is to run, as its maker wrote it. `diff_ids` are the digests of the layers' tars, lowest first.

    Texts may hold any character; `unread` names what is set and asks for something that is not in the other fields.
    """

    platform: Platform
    diff_ids: tuple[Digest, ...]
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    directory: str = ""
    user: str = ""
    volumes: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()


def check_layout(data: bytes) -> None:
    """Return if `data` is the file `oci-layout` of a layout that we read. Raises FormatError."""
    f = Fields(decode_json(data, "oci-layout", max_size=1024), "oci-layout")
    if (version := f.text("imageLayoutVersion", most=32)) != "1.0.0":
        raise FormatError("oci-layout.imageLayoutVersion", "1.0.0", repr(version))


def parse_index(data: bytes) -> tuple[Descriptor, ...]:
    """What an index names, in its order. Raises FormatError."""
    f = _document(data, "index", INDEXES)
    return tuple(_descriptor(item, "index.manifests") for item in f.items("manifests", most=MAX_MANIFESTS))


def parse_image_manifest(data: bytes) -> ImageManifest:
    """Read the manifest of an image; one of another artifact is refused. Raises FormatError."""
    f = _document(data, "manifest", MANIFESTS)
    config = _descriptor(f.any("config"), "manifest.config")
    if config.media_type not in _CONFIGS:
        raise FormatError("manifest.config.mediaType", "the configuration of an image", config.media_type)
    layers = tuple(_descriptor(item, "manifest.layers") for item in f.items("layers", most=MAX_LAYERS))
    for layer in layers:
        if layer.media_type not in _LAYERS:
            raise FormatError("manifest.layers.mediaType", "a layer of tar, gzip or zstd that lies in the layout", layer.media_type)
    return ImageManifest(config, tuple((layer, _LAYERS[layer.media_type]) for layer in layers))


def parse_image_config(data: bytes) -> ImageConfig:
    """Read a configuration. Raises FormatError."""
    f = Fields(decode_json(data, "config", max_size=MAX_DOCUMENT), "config")
    rootfs = f.fields("rootfs")
    if (kind := rootfs.text("type", most=32)) != "layers":
        raise FormatError("config.rootfs.type", "layers", repr(kind))
    diff_ids = tuple(_digest(item, "config.rootfs.diff_ids") for item in rootfs.items("diff_ids", most=MAX_LAYERS))
    platform = _platform(f)
    run = f.fields("config") if f.has("config") and not f.is_null("config") else Fields({}, "config.config")
    return ImageConfig(
        platform, diff_ids, _words(run, "Entrypoint"), _words(run, "Cmd"), _environment(run), _text(run, "WorkingDir"), _text(run, "User"),
        _keys(run, "Volumes"), _keys(run, "ExposedPorts"),
        tuple(key for key in ("Healthcheck", "OnBuild", "Shell", "StopSignal") if run.has(key) and run.any(key)),
    )  # fmt: skip


def _document(data: bytes, what: str, types: frozenset[str]) -> Fields:
    """The map of an index or a manifest of schema version 2; a media type that it names is one of `types`."""
    f = Fields(decode_json(data, what, max_size=MAX_DOCUMENT), what)
    if (version := f.uint("schemaVersion")) != 2:
        raise FormatError(f"{what}.schemaVersion", "2", str(version))
    if f.has("mediaType") and (said := f.text("mediaType", most=255)) not in types:
        raise FormatError(f"{what}.mediaType", " or ".join(sorted(types)), said)
    return f


def _descriptor(value: object, what: str) -> Descriptor:
    f = Fields(value, what)
    platform = _platform(f.fields("platform")) if f.has("platform") and not f.is_null("platform") else None
    annotations = f.mapping("annotations", most=1024) if f.has("annotations") and not f.is_null("annotations") else {}
    tag = annotations.get(TAG)
    if tag is not None and (not isinstance(tag, str) or not 1 <= len(tag) <= 255 or not tag.isprintable()):
        raise FormatError(f"{what}.annotations", f"a printable text under {TAG}", repr(tag)[:80])
    return Descriptor(f.text("mediaType", least=1, most=255), _digest(f.any("digest"), f"{what}.digest"), f.uint("size"), platform, tag)


def _platform(f: Fields) -> Platform:
    variant = f.text("variant", most=63) if f.has("variant") and not f.is_null("variant") else ""
    return Platform(f.text("os", most=63), f.text("architecture", most=63), variant or None)


def _digest(value: object, what: str) -> Digest:
    digest = Digest.parse(value if isinstance(value, str) else "")
    if digest.algorithm not in ("sha256", "sha512"):
        raise FormatError(what, "sha256 or sha512", digest.algorithm)
    return digest


def _plain(value: Any, what: str) -> str:
    if not isinstance(value, str) or len(value) > _MAX_TEXT or any("\ud800" <= char <= "\udfff" for char in value):
        raise FormatError(what, f"text of at most {_MAX_TEXT} characters, without lone surrogates", type(value).__name__)
    return value


def _text(f: Fields, key: str) -> str:
    return _plain(f.any(key), f"config.{key}") if f.has(key) and not f.is_null(key) else ""


def _words(f: Fields, key: str) -> tuple[str, ...]:
    found = f.items(key, most=MAX_WORDS) if f.has(key) and not f.is_null(key) else []
    return tuple(_plain(item, f"config.{key}") for item in found)


def _keys(f: Fields, key: str) -> tuple[str, ...]:
    found = f.mapping(key, most=MAX_WORDS) if f.has(key) and not f.is_null(key) else {}
    return tuple(sorted(_plain(item, f"config.{key}") for item in found))


def _environment(f: Fields) -> tuple[tuple[str, str], ...]:
    found = [item.partition("=") for item in _words(f, "Env")]
    if any(not key or not equals for key, equals, _ in found):
        raise FormatError("config.Env", "texts NAME=VALUE", "another")
    return tuple((key, value) for key, _, value in found)
