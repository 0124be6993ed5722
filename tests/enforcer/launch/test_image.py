"""The image an agent runs on: what was measured, and nothing that anybody can change any more."""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from attestor.measure.tree import measure_tree
from enforcer.launch import image
from enforcer.launch.image import image_of, sweep
from enforcer.launch.store_root import StoreRoot
from writ.formats.errors import Refused, Unavailable
from writ.formats.measurement import ComponentRoot, Measurement
from writ.formats.spiffe import AgentId
from writ.formats.tree import ComponentKind, component_root

KINDS: dict[str, ComponentKind] = {"system": "image", "code": "code"}


class Site:
    """Trees of two components, and a folder of images."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.images = folder / "images"
        self.trees = folder / "trees"
        self.images.mkdir(mode=0o711)
        self.file("system/usr/bin/true", b"program", 0o555)
        self.file("system/etc/odd \xff\nname", b"odd")
        (self.trees / "system/bin").symlink_to("usr/bin")
        (self.trees / "system/usr/bin/deep").symlink_to("/etc/../usr/bin/true")
        (self.trees / "system/var/empty").mkdir(parents=True)
        (self.trees / "system/proc").mkdir()
        self.file("code/main.py", b"print()")
        self.file("code/lib/a.py", b"a")

    def file(self, path: str, content: bytes, mode: int = 0o444) -> Path:
        """A file in a tree, whatever was there."""
        at = self.trees / path
        at.parent.mkdir(parents=True, exist_ok=True)
        at.unlink(missing_ok=True)
        at.write_bytes(content)
        at.chmod(mode)
        return at

    def measured(self) -> Measurement:
        """What the trees measure to now."""
        parts = tuple(
            ComponentRoot(name, kind, component_root(measure_tree(name, kind, self.trees / name))) for name, kind in KINDS.items()
        )
        return Measurement(AgentId("example.org", "test", "a"), ("/usr/bin/true",), tuple(sorted(parts)), (), "tools", ())

    def image(self, measurement: Measurement | None = None) -> image.Image:
        """The image of what they measure to."""
        return image_of(self.images, StoreRoot(self.trees), measurement or self.measured())

    def mounts(self) -> list[str]:
        """What is mounted below the folder."""
        found = [line.split(" ")[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        return [path for path in found if path.startswith(f"{self.folder}/")]


def measurement_root(measurement: Measurement, name: str) -> str:
    """Of one component."""
    return next(part.root.hex() for part in measurement.components if part.name == name)


@pytest.fixture
def site() -> Iterator[Site]:
    if os.geteuid() != 0:
        pytest.skip("images are mounted by root")
    with tempfile.TemporaryDirectory(prefix="writ-image-", dir="/var/tmp") as folder:
        made = Site(Path(folder))
        yield made
        for path in made.mounts():
            subprocess.run(["umount", "--lazy", path], check=True)


def test_image_holds_each_component_where_it_belongs(site: Site) -> None:
    made = site.image()
    assert (made.path / "usr/bin/true").read_bytes() == b"program"
    assert (dict(made.parts)["code"] / "lib/a.py").read_bytes() == b"a"
    assert os.readlink(made.path / "usr/bin/deep") == "/etc/../usr/bin/true"
    assert {"proc", "dev", "tmp", "agent", "run", "store"} <= set(os.listdir(made.path))
    made.free()


def test_nobody_can_write_into_it_whatever_becomes_of_the_store(site: Site) -> None:
    made = site.image()
    with pytest.raises(OSError, match="Read-only"):
        (dict(made.parts)["code"] / "main.py").write_bytes(b"evil")
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    source = next(line.split(" - ")[1].split()[1] for line in mounts if str(dict(made.parts)["code"]) in line)
    assert source.startswith("/dev/loop")
    with pytest.raises(OSError, match=r"not permitted|Permission|Read-only"), open(source, "r+b", buffering=0) as device:
        device.write(b"evil")
    site.file("code/main.py", b"evil")
    assert (dict(made.parts)["code"] / "main.py").read_bytes() == b"print()"
    made.free()


@pytest.mark.parametrize(
    "path, content, mode",
    [
        ("code/main.py", b"evil", 0o444),
        ("code/more.py", b"more", 0o444),
        ("code/main.py", b"print()", 0o555),
        ("system/usr/bin/true", b"evil", 0o555),
        ("system/etc/more", b"more", 0o444),
    ],
)
def test_store_that_was_changed_after_it_was_measured_is_refused(site: Site, path: str, content: bytes, mode: int) -> None:
    measurement = site.measured()
    site.file(path, content, mode)
    with pytest.raises(Refused, match=rf"component-mismatch: measurement\.{path.partition('/')[0]}"):
        site.image(measurement)
    assert not [one for one in site.mounts() if measurement_root(measurement, path.partition("/")[0]) in one]


@pytest.mark.parametrize("change", ["removed", "linked"])
def test_missing_file_and_another_link_are_refused(site: Site, change: str) -> None:
    measurement = site.measured()
    (site.trees / "code/main.py").unlink()
    if change == "linked":
        (site.trees / "code/main.py").symlink_to("lib/a.py")
    with pytest.raises(Refused, match="component-mismatch"):
        site.image(measurement)


def test_agent_without_an_image_has_no_root(site: Site) -> None:
    measurement = site.measured()
    only = replace(measurement, components=tuple(part for part in measurement.components if part.kind != "image"))
    with pytest.raises(Refused, match=r"component-missing: measurement\.components: expected one of kind image"):
        site.image(only)


@pytest.mark.parametrize("name", ["proc", "dev", "tmp", "agent", "run", "store"])
def test_image_component_leaves_our_places_empty(site: Site, name: str) -> None:
    site.file(f"system/{name}/x", b"x")
    with pytest.raises(Refused, match=f"component-unexpected: image:{name}"):
        site.image()


def test_our_places_may_be_in_the_component_as_empty_directories(site: Site) -> None:
    for name in ("dev", "tmp", "run", "store", "agent"):
        (site.trees / "system" / name).mkdir()
    site.image().free()


def test_link_in_our_place_is_refused(site: Site) -> None:
    (site.trees / "system/tmp").symlink_to("var")
    with pytest.raises(Refused, match="component-unexpected: image:tmp"):
        site.image()


def test_one_image_serves_all_and_is_made_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where all looked before it was there, and the first goes on to hold it."""
    made: list[str] = []
    run, is_ready = image._run, image._is_ready  # noqa: SLF001 - each tool that it starts is counted, and each look
    all_looked, looked = threading.Barrier(4), threading.local()

    def counted(command: list[str], keep: tuple[int, ...] = ()) -> None:
        made.append(command[0])
        run(command, keep)

    def seen(place: Path) -> bool:
        ready = is_ready(place)
        if not hasattr(looked, "once"):
            looked.once = True
            all_looked.wait(30)
        return ready

    monkeypatch.setattr(image, "_run", counted)
    monkeypatch.setattr(image, "_is_ready", seen)
    measurement, found = site.measured(), []
    threads = [threading.Thread(target=lambda: found.append(site.image(measurement)), daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 4, "nobody waits for who holds it"
    assert sorted(made) == 2 * ["/usr/bin/bwrap"] + 2 * ["/usr/bin/mount"], "for each of two components"
    assert {one.path for one in found} == {found[0].path}
    for one in found:
        one.free()


def test_image_is_unmounted_when_nobody_holds_it_for_a_while(site: Site) -> None:
    measurement = site.measured()
    made = site.image(measurement)
    mounted = sorted([str(made.path), *(str(path) for _, path in made.parts)])
    sweep(site.images, 0)
    assert sorted(site.mounts()) == mounted, "it is held"
    made.free()
    sweep(site.images, 60)
    assert sorted(site.mounts()) == mounted, "it was used a moment ago"
    sweep(site.images, 0)
    assert site.mounts() == []
    again = site.image(measurement)
    assert (again.path / "usr/bin/true").read_bytes() == b"program"
    again.free()


def test_half_made_image_is_made_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever made it died between mounting and comparing: what is mounted there is not believed."""
    measurement = site.measured()
    with monkeypatch.context() as patched:
        patched.setattr(image, "_verify", lambda *_, **__: os._exit(9))
        child = os.fork()
        if child == 0:
            site.image(measurement)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert len(site.mounts()) == 1
    site.image(measurement).free()
    assert len(site.mounts()) == 2


def test_missing_tool_is_unavailable_and_leaves_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "MKFS", "/nowhere/mkfs")
    with pytest.raises(Unavailable, match="image"):
        site.image()
    assert site.mounts() == []
    monkeypatch.setattr(image, "BWRAP", "/nowhere/bwrap")
    with pytest.raises(Unavailable, match="/nowhere/bwrap"):
        site.image()


def test_tool_that_hangs_is_given_up(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = site.folder / "slow"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setattr(image, "BWRAP", str(slow))
    monkeypatch.setattr(image, "_WITHIN", 0.2)
    began = time.monotonic()
    with pytest.raises(Unavailable, match="did not end"):
        site.image()
    assert time.monotonic() - began < 30
