"""An OCI layout becomes a tree and a manifest: each byte of it checked, and nothing dropped in silence."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attestor.__main__ import main
from attestor.measure import oci
from attestor.measure.manifest import measure_manifest
from attestor.measure.oci import this_platform
from attestor.measure.oci_manifest import EMPTIED, EMPTY
from enforcer.launch import image as launched
from tests.world.oci import OCI, Entry, Layout, directory, layer, link
from writ.formats.manifest import Manifest, parse_manifest
from writ.formats.tree import component_root

HERE = (this_platform().os, this_platform().architecture)
BASE: list[Entry] = [
    directory("tmp"), ("usr/bin/env", b"env", 0o755), ("usr/bin/sh", b"sh", 0o755), link("bin", "usr/bin"),
    ("opt/py/bin/python3.11", b"python", 0o755), link("usr/bin/python3", "/opt/py/bin/python3.11"),
]  # fmt: skip
RUN = {"Entrypoint": ["python3", "-I"], "Cmd": ["main.py"], "Env": ["PATH=/opt/py/bin:/usr/bin", "GREETING=hi there"], "WorkingDir": "/app"}


class Said:
    """What a command said and how it ended."""

    def __init__(self, status: int, out: str) -> None:
        self.status, self.out = status, out

    @property
    def manifest(self) -> Manifest:
        """The proposal."""
        return parse_manifest(self.out.encode())

    @property
    def fault(self) -> str:
        """What it says of a fault, as JSON."""
        return json.dumps(json.loads(self.out))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., Said]:
    def run(layout: Path, *words: str) -> Said:
        out = tmp_path / "tree"
        status = main(["manifest", "oci", str(layout), "--out", str(out), *words])
        captured = capsys.readouterr()
        return Said(status, captured.out or captured.err)

    return run


def simple(packing: str = "+gzip", **run: Any) -> Layout:
    """Two layers, the second with the agent and a whiteout."""
    made = Layout()
    made.image(
        [layer(*BASE, ("etc/old", b"1")), layer(("app/main.py", b"print()"), ("etc/.wh.old", b""))],
        RUN | run,
        packing=packing,
        platform=HERE,
    )
    return made


@pytest.mark.parametrize("packing", ["", "+gzip", "+zstd"])
@pytest.mark.parametrize("as_tar", [False, True])
def test_layout_becomes_a_tree_and_a_manifest(run: Callable[..., Said], tmp_path: Path, packing: str, as_tar: bool) -> None:
    made = simple(packing)
    where = made.write_tar(tmp_path / "image.tar") if as_tar else made.write(tmp_path / "layout")
    said = run(where)
    assert said.status == 0
    assert (tmp_path / "tree/app/main.py").read_bytes() == b"print()"
    assert os.readlink(tmp_path / "tree/bin") == "usr/bin"
    assert sorted(os.listdir(tmp_path / "tree")) == ["app", "bin", "etc", "opt", "tmp", "usr"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({where.name, "tree"}), "nothing is left beside it"
    manifest = said.manifest
    assert manifest.command == (
        "/usr/bin/env", "PATH=/opt/py/bin:/usr/bin", "GREETING=hi there",
        "/bin/sh", "-c", 'cd "$0" && exec "$@"', "/app", "/usr/bin/python3", "-I", "main.py",
    )  # fmt: skip
    assert [(part.name, part.kind, part.source) for part in manifest.components] == [("system", "image", str(tmp_path / "tree"))]
    digest = made.index["manifests"][0]["digest"]
    config = json.loads(made.blobs[f"blobs/sha256/{digest[7:]}"])["config"]["digest"]
    assert f"# Image {digest}, configuration {config}, {HERE[0]}/{HERE[1]}, tag 'latest'.\n" in said.out
    measured = measure_manifest(manifest, tmp_path, domain="example.org")
    assert f"# Its tree is the component system: {component_root(measured.trees[0])}.\n" in said.out


def test_file_that_is_no_layout_is_named(run: Callable[..., Said], tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("not a tar" * 100)
    said = run(tmp_path / "notes")
    assert said.status == 2
    assert f"{tmp_path}/notes: expected an OCI layout, as a directory or a tar, got another file" in said.out


def test_same_image_is_the_same_component_each_time(run: Callable[..., Said], tmp_path: Path) -> None:
    roots = set()
    for packing in ("", "+gzip"):
        for umask in (0o022, 0o077):
            before = os.umask(umask)
            try:
                roots.add(json.loads(run(simple(packing).write(tmp_path / f"layout{packing}"), "--json").out)["component"]["root"])
            finally:
                os.umask(before)
            assert (tmp_path / "tree/app").stat().st_mode & 0o777 == 0o755
            (tmp_path / "tree").rename(tmp_path / f"before{packing}{umask}")
    assert len(roots) == 1


def test_what_is_not_honoured_is_said(run: Callable[..., Said], tmp_path: Path) -> None:
    asked: dict[str, Any] = {
        "User": "app\n",
        "Volumes": {"/data": {}},
        "ExposedPorts": {"80/tcp": {}},
        "StopSignal": "SIGINT",
        "Healthcheck": {"Test": ["x"]},
    }
    env = ["HOME=/root", "http_proxy=x", "MULTI=a\nb", "KEPT=1"]
    said = run(simple(Env=env, **asked).write(tmp_path / "layout"))
    assert said.manifest.command[:2] == ("/usr/bin/env", "KEPT=1")
    left_out = [line.removeprefix("# Not honoured: ").split(": ")[0] for line in said.out.splitlines() if "Not honoured" in line]
    assert left_out == [
        "Env 'HOME'", "Env 'http_proxy'", "Env 'MULTI'", "User 'app\\n'", "Volumes '/data'", "ExposedPorts '80/tcp'", "Healthcheck",
        "StopSignal",
    ]  # fmt: skip


def test_image_without_shell_and_env_says_so_and_a_missing_program_too(run: Callable[..., Said], tmp_path: Path) -> None:
    made = Layout()
    made.image([layer(("app", b"x", 0o755), ("data", b"x"))], RUN | {"Entrypoint": ["/data"]}, platform=HERE)
    said = run(made.write(tmp_path / "layout"))
    assert said.manifest.command == ("/data", "main.py")
    left_out = [line for line in said.out.splitlines() if "Not honoured" in line]
    assert [line.split(": ")[1].split(" ")[0] for line in left_out] == ["the", "WorkingDir", "Env"]


def test_command_may_be_given_and_is_looked_up(run: Callable[..., Said], tmp_path: Path) -> None:
    made = Layout()
    made.image([layer(*BASE)], platform=HERE)
    layout = made.write(tmp_path / "layout")
    assert "an Entrypoint or Cmd" in run(layout, "--json").fault
    assert not (tmp_path / "tree").exists(), "what cannot be proposed is not left there"
    assert run(layout, "--agent", "x", "--command", "sh", "-c", "true").manifest.command == ("/usr/bin/sh", "-c", "true")


def test_places_of_the_sandbox_are_left_out_or_refused(run: Callable[..., Said], tmp_path: Path) -> None:
    assert set(launched._OURS) == {*EMPTIED, *EMPTY}  # noqa: SLF001 - the two lists are one
    made = Layout()
    made.image([layer(*BASE, ("run/lock/x", b""), ("dev/note", b""))], RUN, platform=HERE)
    said = run(made.write(tmp_path / "layout"))
    assert said.manifest.components[0].exclude == ("dev/*", "run/*")
    assert "what is in /dev, /run: the sandbox mounts its own there" in said.out
    tree = measure_manifest(said.manifest, tmp_path, domain="example.org").trees[0]
    assert not [entry.path for entry in tree.entries if entry.path.startswith(("run/", "dev/"))]


@pytest.mark.parametrize(
    "entry", [("agent/x", b""), ("store/x", b""), ("tmp", b""), link("run", "var")], ids=["agent", "store", "file", "link"]
)
def test_image_with_something_in_our_places_is_refused(run: Callable[..., Said], tmp_path: Path, entry: Entry) -> None:
    made = Layout()
    made.image([layer(("sh", b"", 0o755), entry)], RUN, platform=HERE)
    said = run(made.write(tmp_path / "layout"), "--json")
    assert (said.status, "component-unexpected" in said.fault) == (1, True)
    assert not (tmp_path / "tree").exists()


# --- which image -------------------------------------------------------------------------------------------------------


def test_image_is_chosen_by_tag_and_platform(run: Callable[..., Said], tmp_path: Path) -> None:
    made = Layout()
    for tag in ("one", "two"):
        for machine in (HERE[1], "other"):
            made.image([layer(*BASE, (f"{tag}-{machine}", b""))], RUN, tag=tag, platform=("linux", machine))
    layout = made.write(tmp_path / "layout")
    assert f"one for linux/{HERE[1]}, one for linux/other, two for linux/{HERE[1]}" in run(layout, "--json").fault
    assert "an image with the tag three" in run(layout, "--tag", "three", "--json").fault
    assert "one image for linux/none" in run(layout, "--tag", "one", "--platform", "linux/none", "--json").fault
    assert run(layout, "--tag", "two", "--platform", "linux/other").status == 0
    assert (tmp_path / "tree/two-other").exists()


def test_nested_indexes_are_followed_as_far_as_is_bounded(run: Callable[..., Said], tmp_path: Path) -> None:
    made = simple()
    for depth in range(3):
        made.index = {"schemaVersion": 2, "manifests": [made.document(made.index, f"{OCI}index.v1+json")]}
        if depth == 2:
            break
        assert run(made.write(tmp_path / str(depth)), "--json").status == 0
        (tmp_path / "tree").rename(tmp_path / f"before{depth}")
    assert "at most 3 indexes" in run(made.write(tmp_path / "deep"), "--json").fault


def test_configuration_says_the_platform_too(run: Callable[..., Said], tmp_path: Path) -> None:
    made = Layout()
    made.image([layer(*BASE)], RUN, platform=("linux", "other"))
    del made.index["manifests"][0]["platform"]
    assert "config.platform" in run(made.write(tmp_path / "layout"), "--json").fault


# --- what is not what it should be ---------------------------------------------------------------------------------------


def spoil(made: Layout, which: str, change: Callable[[bytes], bytes]) -> Layout:
    """One blob is other bytes than its digest names."""
    descriptor = made.index["manifests"][0]
    document = json.loads(made.blobs[f"blobs/sha256/{descriptor['digest'][7:]}"])
    digest = {"manifest": descriptor, "config": document["config"], "layer": document["layers"][1]}[which]["digest"]
    path = f"blobs/sha256/{digest[7:]}"
    made.blobs[path] = change(made.blobs[path])
    return made


@pytest.mark.parametrize("which", ["manifest", "config", "layer"])
@pytest.mark.parametrize("change", ["longer", "other"])
def test_blob_that_is_not_the_one_named_is_refused(run: Callable[..., Said], tmp_path: Path, which: str, change: str) -> None:
    acts: dict[str, Callable[[bytes], bytes]] = {
        "longer": lambda data: data + b" ",
        "other": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    }
    said = run(spoil(simple(), which, acts[change]).write(tmp_path / "layout"), "--json")
    assert (said.status, "blob sha256:" in said.fault) == (2, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["layout"]


def test_layer_that_unpacks_to_another_content_is_refused(run: Callable[..., Said], tmp_path: Path) -> None:
    made = Layout()
    config = {"os": HERE[0], "architecture": HERE[1], "rootfs": {"type": "layers", "diff_ids": [f"sha256:{'0' * 64}"]}, "config": RUN}
    made.image([layer(*BASE)], platform=HERE, config=made.document(config, f"{OCI}config.v1+json"))
    assert "the content sha256:00" in run(made.write(tmp_path / "layout"), "--json").fault
    assert sorted(path.name for path in tmp_path.iterdir()) == ["layout"]


def test_sha512_is_a_digest_too_and_md5_is_none(run: Callable[..., Said], tmp_path: Path) -> None:
    made = Layout()
    tar = layer(*BASE)
    made.image([tar], RUN, platform=HERE, layers=[made.put(tar, f"{OCI}layer.v1.tar", "sha512")])
    assert run(made.write(tmp_path / "layout")).status == 0


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda made: setattr(made, "marker", b'{"imageLayoutVersion": "2.0.0"}'), "imageLayoutVersion"),
        (lambda made: made.index.update(schemaVersion=1), "schemaVersion"),
        (lambda made: made.index.update(mediaType="text/plain"), "index.mediaType"),
        (lambda made: made.index.update(manifests=[]), "an empty index"),
        (lambda made: made.index["manifests"][0].update(mediaType="application/x"), "one image for"),
        (lambda made: made.index["manifests"][0].update(digest="sha1:" + "0" * 40), "sha256 or sha512"),
        (lambda made: made.index["manifests"][0].update(digest="sha256:../../etc"), "algorithm:lower-case hex"),
        (lambda made: made.index["manifests"][0].update(annotations={"org.opencontainers.image.ref.name": "a\n"}), "printable"),
    ],
)  # fmt: skip
def test_document_that_says_something_else_is_refused(
    run: Callable[..., Said], tmp_path: Path, change: Callable[[Layout], None], message: str
) -> None:
    made = simple()
    change(made)
    assert message in run(made.write(tmp_path / "layout"), "--json").fault


@pytest.mark.parametrize(
    "changed, message",
    [
        (
            {"layers": [{"mediaType": f"{OCI}layer.nondistributable.v1.tar", "digest": f"sha256:{'0' * 64}", "size": 1}]},
            "lies in the layout",
        ),
        (
            {"config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": f"sha256:{'0' * 64}", "size": 2}},
            "configuration of an image",
        ),
        ({"layers": []}, "one for each of 0 layers"),
    ],
)
def test_artifact_that_is_no_image_is_refused(run: Callable[..., Said], tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    made = Layout()
    made.image([layer(*BASE)], RUN, platform=HERE, **changed)
    assert message in run(made.write(tmp_path / "layout"), "--json").fault


def test_missing_blob_link_in_its_place_and_no_layout_are_could_not(run: Callable[..., Said], tmp_path: Path) -> None:
    layout = simple().write(tmp_path / "layout")
    blob = next(path for path in (layout / "blobs/sha256").iterdir() if path.read_bytes()[:1] == b"\x1f")
    blob.rename(tmp_path / "elsewhere")
    assert run(layout, "--json").status == 3
    blob.symlink_to(tmp_path / "elsewhere")
    assert run(layout, "--json").status == 3
    assert run(tmp_path / "none", "--json").status == 3
    (tmp_path / "text").write_bytes(b"no tar")
    assert run(tmp_path / "text", "--json").status == 2


def test_what_is_there_is_not_overwritten(run: Callable[..., Said], tmp_path: Path) -> None:
    (tmp_path / "tree").symlink_to("nowhere")
    assert "expected nothing there" in run(simple().write(tmp_path / "layout"), "--json").fault
    assert os.readlink(tmp_path / "tree") == "nowhere"


def test_image_that_grows_beyond_the_bound_is_refused(run: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oci, "MAX_UNPACKED", 30_000)
    assert run(simple().write(tmp_path / "small")).status == 0
    (tmp_path / "tree").rename(tmp_path / "before")
    made = Layout()
    made.image([layer(("a", bytes(15_000))), layer(("b", bytes(15_000)))], RUN, platform=HERE)
    assert "bytes unpacked" in run(made.write(tmp_path / "large"), "--json").fault


def test_file_twice_in_a_tar_of_a_layout_is_refused(run: Callable[..., Said], tmp_path: Path) -> None:
    files = [*simple().files().items(), ("./index.json", b"{}")]
    (tmp_path / "image.tar").write_bytes(layer(*files))
    assert "each once" in run(tmp_path / "image.tar", "--json").fault
