"""The documents of an OCI image: read as far as they are used, and any other bytes refused."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.parsers import assert_parser_is_total
from tests.world.oci import OCI
from writ.formats.digest import Digest
from writ.formats.errors import FormatError
from writ.formats.oci import (
    MAX_LAYERS,
    Descriptor,
    ImageConfig,
    ImageManifest,
    Platform,
    check_layout,
    parse_image_config,
    parse_image_manifest,
    parse_index,
)

DIGEST = Digest.of(b"x")
CONFIG: Mapping[str, Any] = {
    "os": "linux", "architecture": "arm64", "variant": "v8", "created": "2026-01-01T00:00:00Z", "history": [{"created_by": "a\nb"}],
    "rootfs": {"type": "layers", "diff_ids": [str(DIGEST)]},
    "config": {"Entrypoint": ["/a"], "Cmd": ["b\n"], "Env": ["A=1=2"], "WorkingDir": "/w", "User": "u", "Volumes": {"/v": {}},
               "ExposedPorts": None},
}  # fmt: skip


def described(media_type: str, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": str(DIGEST), "size": 1, **more}


MANIFEST: Mapping[str, Any] = {
    "schemaVersion": 2, "config": described(f"{OCI}config.v1+json"), "layers": [described(f"{OCI}layer.v1.tar+zstd")], "annotations": {},
}  # fmt: skip
INDEX: Mapping[str, Any] = {
    "schemaVersion": 2,
    "manifests": [
        described(f"{OCI}manifest.v1+json", platform={"os": "linux", "architecture": "arm64", "os.version": "x"}),
        described(f"{OCI}index.v1+json", annotations={"org.opencontainers.image.ref.name": "v1", "other": "x"}),
    ],
}


def spelt(value: object) -> bytes:
    return json.dumps(value).encode()


def test_documents_are_read() -> None:
    check_layout(b'{"imageLayoutVersion":"1.0.0","more":1}')
    platform = Platform("linux", "arm64")
    assert parse_index(spelt(INDEX)) == (
        Descriptor(f"{OCI}manifest.v1+json", DIGEST, 1, platform), Descriptor(f"{OCI}index.v1+json", DIGEST, 1, None, "v1"),
    )  # fmt: skip
    config, one = Descriptor(f"{OCI}config.v1+json", DIGEST, 1), Descriptor(f"{OCI}layer.v1.tar+zstd", DIGEST, 1)
    assert parse_image_manifest(spelt(MANIFEST)) == ImageManifest(config, ((one, "zst"),))
    assert parse_image_config(spelt(CONFIG)) == ImageConfig(
        Platform("linux", "arm64", "v8"), (DIGEST,), ("/a",), ("b\n",), (("A", "1=2"),), "/w", "u", ("/v",)
    )


def test_platform_that_leaves_the_variant_open_is_served_by_any() -> None:
    assert Platform("linux", "arm64", "v8").serves(Platform.parse("linux/arm64"))
    assert not Platform("linux", "arm64").serves(Platform.parse("linux/arm64/v8"))
    assert not Platform("linux", "amd64").serves(Platform.parse("linux/arm64"))
    assert str(Platform.parse("linux/arm64/v8")) == "linux/arm64/v8"
    for text in ("linux", "linux/arm64/v8/x", "linux/", "Linux/amd64"):
        with pytest.raises(FormatError):
            Platform.parse(text)


def test_descriptor_is_of_these_bytes_only() -> None:
    one = Descriptor("x", DIGEST, 1)
    one.check(1, DIGEST)
    with pytest.raises(FormatError, match="expected 1 bytes"):
        one.check(2, DIGEST)
    with pytest.raises(FormatError, match=f"expected {DIGEST}"):
        one.check(1, Digest.of(b"y"))


@pytest.mark.parametrize(
    "parse, document, changed",
    [
        (parse_image_config, CONFIG, {"rootfs": {"type": "other", "diff_ids": []}}),
        (parse_image_config, CONFIG, {"rootfs": {"type": "layers", "diff_ids": ["md5:00"]}}),
        (parse_image_config, CONFIG, {"rootfs": {"type": "layers", "diff_ids": [7]}}),
        (parse_image_config, CONFIG, {"rootfs": {"type": "layers", "diff_ids": [str(DIGEST)] * (MAX_LAYERS + 1)}}),
        (parse_image_config, CONFIG, {"os": 7}),
        (parse_image_config, CONFIG, {"config": {"Env": ["A"]}}),
        (parse_image_config, CONFIG, {"config": {"Env": ["=A"]}}),
        (parse_image_config, CONFIG, {"config": {"Cmd": "sh"}}),
        (parse_image_config, CONFIG, {"config": {"User": "\ud800"}}),
        (parse_image_config, CONFIG, {"config": {"Volumes": {"\ud800": {}}}}),
        (parse_image_config, CONFIG, {"config": []}),
        (parse_image_manifest, MANIFEST, {"schemaVersion": 1}),
        (parse_image_manifest, MANIFEST, {"mediaType": f"{OCI}index.v1+json"}),
        (parse_image_manifest, MANIFEST, {"layers": [described("text/plain")]}),
        (parse_image_manifest, MANIFEST, {"config": described("text/plain")}),
        (parse_image_manifest, MANIFEST, {"layers": [{"mediaType": "x"}]}),
        (parse_index, INDEX, {"manifests": [described("x", size=-1)]}),
        (parse_index, INDEX, {"manifests": [described("x", digest=f"sha384:{'0' * 96}")]}),
        (parse_index, INDEX, {"manifests": [described("x", platform="linux")]}),
        (parse_index, INDEX, {"manifests": [described("x", annotations={"org.opencontainers.image.ref.name": 1})]}),
    ],
)  # fmt: skip
def test_document_that_says_something_else_is_refused(
    parse: Callable[[bytes], object], document: Mapping[str, Any], changed: Mapping[str, Any]
) -> None:
    parse(spelt(document))
    with pytest.raises(FormatError):
        parse(spelt({**document, **changed}))


@pytest.mark.parametrize("parse, document", [(parse_image_config, CONFIG), (parse_image_manifest, MANIFEST), (parse_index, INDEX)])
def test_no_bytes_are_an_error_of_another_kind(parse: Callable[[bytes], object], document: Mapping[str, Any]) -> None:
    assert_parser_is_total(parse, spelt(document), flips=800)


keys = st.sampled_from(["config", "rootfs", "diff_ids", "Env", "os", "layers", "manifests", "digest", "platform"])
values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)


@given(values, st.sampled_from(["config", "rootfs", "layers", "manifests", "annotations", "os"]))
def test_any_json_is_a_document_or_a_format_error(value: object, key: str) -> None:
    for parse, document in ((parse_image_config, CONFIG), (parse_image_manifest, MANIFEST), (parse_index, INDEX)):
        for given_ in (value, {**document, key: value}):
            with contextlib.suppress(FormatError):
                parse(spelt(given_))
