"""What the kernel holds is in the sandbox without a copy, is what was measured, and stays so whatever becomes of the store."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from enforcer.launch.cgroup import Cgroup
from enforcer.launch.image import image_of
from enforcer.launch.mounts import mount_tmpfs, unmount
from enforcer.launch.rooms import clear_rooms, make_room
from enforcer.launch.store_root import StoreRoot
from tests.enforcer.inside import FILES, ROOM, UID, Inside, fresh_cgroup
from tests.world.root_fs import lay_out
from tests.world.verity import FakeKernel
from writ.formats.errors import Refused
from writ.formats.measurement import ComponentRoot, Measurement
from writ.formats.spiffe import AgentId
from writ.formats.tree import Component, Entry, component, component_root
from writ.service.verity import Kernel

pytestmark = pytest.mark.cgroup

LOOK = """
import json, os
def tried(act):
    try:
        act()
        return "done"
    except OSError as error:
        return error.strerror
model, device = "/store/model", "/store/device"
print(json.dumps({
    "there": sorted(os.path.join(folder, name)[len(model):] for folder, _, names in os.walk(model) for name in names),
    "weights": open(f"{model}/deep/weights.bin").read(), "link": open(f"{model}/latest").read(), "prompt": open(f"{device}/prompt").read(),
    "write": tried(lambda: open(f"{model}/deep/weights.bin", "r+b")), "make": tried(lambda: open(f"{model}/new", "w")),
    "remove": tried(lambda: os.unlink(f"{model}/run")), "write device": tried(lambda: open(f"{device}/prompt", "r+b")),
}))
"""


class Store:
    """A store with an image, weights by fs-verity and a device by dm-verity; `kernel` says what holds."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.trees, self.images, self.mounted = folder, folder / "trees", folder / "images", folder / "mounted"
        for made in (self.trees, self.images, self.mounted):
            made.mkdir(mode=0o755)
        self.kernel = FakeKernel()
        parts = lay_out(self.trees, {"code": ("code", {"main.py": b"print('main')\n"})})
        entries = [
            self.file("deep/weights.bin", b"weights"),
            self.file("run", b"#!", executable=True),
            Entry.link("latest", "deep/weights.bin"),
            Entry.dir("empty"),
        ]
        (self.trees / "model/latest").symlink_to("deep/weights.bin")
        (self.trees / "model/empty").mkdir()
        self.model = ComponentRoot("model", "weights", component_root(component("model", "weights", entries)))
        mount_tmpfs(self.mounted, size=1 << 20, files=16)
        self.mounted.chmod(0o755)
        (self.mounted / "prompt").write_text("be good")
        self.kernel.mount(self.mounted, bytes(8192))
        table = self.kernel.device(self.mounted)
        device = component_root(Component("device", "prompts", (Entry.dm_verity(table.root, table.size),)))
        self.device = ComponentRoot("device", "prompts", device)
        (self.trees / "device").symlink_to(self.mounted)
        self.parts = (*parts, self.model, self.device)

    def file(self, path: str, content: bytes, *, executable: bool = False) -> Entry:
        """A file of the model, held."""
        at = self.trees / "model" / path
        at.parent.mkdir(parents=True, exist_ok=True)
        at.write_bytes(content)
        at.chmod(0o555 if executable else 0o444)
        return Entry.fs_verity(path, self.kernel.enable_path(at), len(content), executable=executable)

    def measured(self) -> Measurement:
        """As it was measured."""
        return Measurement(AgentId("example.org", "test", "a"), ("/usr/bin/python3",), tuple(sorted(self.parts)), (), "tools", ())

    def box(self) -> Inside:
        """A sandbox on it."""
        image = image_of(self.images, StoreRoot(self.trees), self.measured(), self.kernel)
        (self.folder / "rooms").mkdir(mode=0o711, exist_ok=True)
        room = make_room(self.folder / "rooms" / "a", UID, size=ROOM, files=FILES)
        return Inside(self.folder, image, room, room)

    def close(self) -> None:
        clear_rooms(self.folder / "rooms")
        for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
            if (path := line.split(" ")[4]).startswith(f"{self.folder}/"):
                subprocess.run(["umount", "--lazy", path], check=False, capture_output=True)


@pytest.fixture
def store() -> Iterator[Store]:
    with tempfile.TemporaryDirectory(prefix="writ-held-", dir="/var/tmp") as folder:
        Path(folder).chmod(0o711)
        made = Store(Path(folder))
        yield made
        made.close()


@pytest.fixture
def cgroup(cgroup_mount: Path) -> Iterator[Cgroup]:
    with fresh_cgroup(cgroup_mount) as made:
        yield made


def test_agent_finds_what_is_held_and_can_change_nothing(store: Store, cgroup: Cgroup) -> None:
    box = store.box()
    status, said = box.run(box.program("/usr/bin/python3", "-I", "-c", LOOK), cgroup)
    assert status == 0, said
    assert json.loads(said) == {
        "there": ["/deep/weights.bin", "/latest", "/run"],
        "weights": "weights", "link": "weights", "prompt": "be good",
        "write": "Permission denied", "make": "Read-only file system", "remove": "Read-only file system",
        "write device": "Permission denied",
    }  # fmt: skip
    box.image.free()


def test_host_that_changes_the_stores_names_later_changes_nothing(store: Store) -> None:
    image = store.box().image
    held = dict(image.parts)
    store.trees.joinpath("model/deep/weights.bin").unlink()
    store.trees.joinpath("model/deep/weights.bin").write_bytes(b"evil")
    store.trees.joinpath("model/more").write_bytes(b"evil")
    unmount(store.mounted)
    (store.mounted / "prompt").write_text("be evil")

    assert (held["model"] / "deep/weights.bin").read_bytes() == b"weights"
    assert not (held["model"] / "more").exists()
    assert (held["device"] / "prompt").read_text() == "be good"
    with pytest.raises(OSError, match="Read-only"):
        (held["model"] / "more").write_bytes(b"root")
    with pytest.raises(OSError, match="Read-only"):
        (held["model"] / "deep/weights.bin").write_bytes(b"root")
    image.free()


@pytest.mark.parametrize("change", ["replaced", "unheld", "more", "fewer", "executable", "link"])
def test_model_that_is_not_what_was_measured_is_refused(store: Store, change: str) -> None:
    model = store.trees / "model"
    if change == "replaced":
        (model / "run").unlink()
        store.file("run", b"other", executable=True)
    elif change == "unheld":
        (model / "fresh").write_bytes(b"#!")  # another inode than that which the kernel holds
        (model / "fresh").chmod(0o555)
        (model / "fresh").rename(model / "run")
    elif change == "more":
        store.file("more", b"more")
    elif change == "fewer":
        (model / "run").unlink()
    elif change == "executable":
        (model / "deep/weights.bin").chmod(0o555)
    else:
        (model / "latest").unlink()
        (model / "latest").symlink_to("run")
    with pytest.raises(Refused, match=r"(component-mismatch|verity-unavailable): measurement\.model"):
        store.box()
    assert f"/{store.model.root.hex()}." not in Path("/proc/self/mountinfo").read_text()


def test_device_with_another_root_or_none_is_refused(store: Store) -> None:
    store.kernel.mount(store.mounted, bytes(4096))
    with pytest.raises(Refused, match=r"component-mismatch: measurement\.device"):
        store.box()
    store.kernel.devices.clear()
    with pytest.raises(Refused, match=r"verity-unavailable: measurement\.device"):
        store.box()


def test_this_kernel_holds_no_tree_that_is_no_device(store: Store) -> None:
    store.kernel = Kernel()  # type: ignore[assignment]  # the real one
    with pytest.raises(Refused, match=r"(component-mismatch|verity-unavailable): measurement\.(model|device)"):
        store.box()


def test_too_many_files_to_hold_are_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("enforcer.launch.held.MOST_FILES", 1)
    with pytest.raises(Refused, match="2 files, of at most 1"):
        store.box()
    assert os.listdir(store.images)
