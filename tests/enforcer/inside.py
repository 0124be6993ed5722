"""Programs in a sandbox, without daemon, holder or token: an image of this host's Python, a room, a cgroup."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from enforcer.launch.cgroup import Cgroup, parent_of
from enforcer.launch.image import Image, image_of
from enforcer.launch.mounts import unmount
from enforcer.launch.process import Program, Running, start
from enforcer.launch.removal import remove_tree
from enforcer.launch.rooms import clear_rooms, make_room, with_work
from enforcer.launch.sandbox import Room, environment_of
from enforcer.launch.store_root import StoreRoot
from tests.world.root_fs import lay_out
from writ.formats.measurement import UNMEASURED, Measurement, Profile
from writ.formats.spiffe import AgentId

UID = 62_000 + os.getpid() % 3000
"""Of this process of the tests, and hardly of another: the kernel counts processes by uid."""


ROOM, FILES = 16 << 20, 1000


@dataclass
class Inside:
    """A folder with an image in it; `room` belongs to UID, and `work` is the same with the tree of a child instance."""

    folder: Path
    image: Image
    room: Room
    work: Room
    rooms: list[Path] = field(default_factory=list)

    def program(
        self, *argv: str, profile: Profile = "strict", uid: int = UID, processes: int = 512, environment: Mapping[str, str] | None = None
    ) -> Program:
        """A program of the image; one of a child instance has a tree to work in."""
        room = self.work if profile in UNMEASURED else self.room
        return Program(argv, profile, self.image, room, uid, environment or environment_of(), processes)

    def run(self, program: Program, cgroup: Cgroup) -> tuple[int, bytes]:
        """Its status and what it says on standard output and error, once it and all it left has ended."""
        with tempfile.TemporaryFile() as said, open(os.devnull, "rb") as nothing:
            running = start(program, cgroup, (nothing.fileno(), said.fileno(), said.fileno()))
            status = running.outer.wait(timeout=60)
            said.seek(0)
            return status, said.read()

    def spawn(self, program: Program, cgroup: Cgroup) -> Running:
        """It runs, with nothing to read and nobody to hear it."""
        null = os.open(os.devnull, os.O_RDWR)
        try:
            return start(program, cgroup, (null, null, null))
        finally:
            os.close(null)


@contextlib.contextmanager
def inside(*programs: str) -> Iterator[Inside]:
    """An image of Python, and of `programs`."""
    folder = Path(tempfile.mkdtemp(prefix="writ-inside-", dir="/var/tmp"))
    folder.chmod(0o711)
    (folder / "trees").mkdir(mode=0o755)
    (folder / "images").mkdir(mode=0o711)
    components = lay_out(folder / "trees", {"code": ("code", {"main.py": b"print('main')\n"})}, *programs)
    measurement = Measurement(AgentId("example.org", "test", "a"), ("/usr/bin/python3",), components, (), "tools", ())
    image = image_of(folder / "images", StoreRoot(folder / "trees"), measurement)
    (folder / "rooms").mkdir(mode=0o711)
    room = make_room(folder / "rooms" / "a", UID, size=ROOM, files=FILES)
    try:
        work = with_work(room, folder / "rooms" / "work", UID, size=ROOM, files=FILES)
        yield Inside(folder, image, room, work)
    finally:
        image.free()
        assert clear_rooms(folder / "rooms")
        for path in (image.path, *(part for _, part in image.parts)):
            unmount(path)
        assert remove_tree(folder)


@contextlib.contextmanager
def fresh_cgroup(mount: Path, name: str = "0" * 32) -> Iterator[Cgroup]:
    """A cgroup of its own, gone afterwards with whatever is left in it."""
    parent = parent_of(f"/writ-unit-{os.getpid()}", mount)
    made = Cgroup.fresh(parent, name, "agent", "tools")
    try:
        yield made
    finally:
        made.kill()
        made.remove()
        Cgroup(parent).remove()
