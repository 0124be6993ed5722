"""fs-verity and dm-verity as this kernel has them: its digests are those that our formats compute, and what it holds cannot change."""

from __future__ import annotations

import json

from swtpm.guest import Verity
from tests.guest.site import HELD, Guest
from writ.formats.verity import fsverity_digest

FS_VERITY = """
import json, os
from pathlib import Path
from writ.service.verity import Kernel
kernel, path = Kernel(), Path("/var/held-file")
path.write_bytes(b"weights" * 100_000)
with path.open("rb") as file:
    before = kernel.measure(file.fileno())
    kernel.enable(file.fileno())
    after = kernel.measure(file.fileno())
try:
    path.open("r+b").close()
    written = True
except PermissionError:
    written = False
print(json.dumps({"before": before and str(before), "after": after.hex(), "written": written}))
"""
DM_VERITY = """
import json
from pathlib import Path
from writ.service.verity import Kernel
table = Kernel().device(Path("/tmp/held"))
print(json.dumps({"root": table.root.hex(), "size": table.size, "text": Path("/tmp/held/prompt.txt").read_text()}))
"""

BOUND = """
import json, os, sys
from pathlib import Path
from dataclasses import replace
from enforcer.launch.image import image_of
from enforcer.launch.store_root import StoreRoot
from writ.formats.digest import Digest
from writ.formats.errors import Refused
from writ.formats.measurement import ComponentRoot, Measurement
from writ.formats.spiffe import AgentId
from writ.formats.tree import Component, Entry, component_root, file_entry
from writ.service.verity import Kernel
kernel, folder = Kernel(), Path("/var/tmp/bound")
for made in (folder / "trees/system/etc", folder / "trees/model", folder / "images"):
    made.mkdir(parents=True)
(folder / "trees/system/etc/name").write_text("base")
weights = folder / "trees/model/weights.bin"
weights.write_bytes(b"w" * 10_000)
weights.chmod(0o444)
with weights.open("rb") as file:
    kernel.enable(file.fileno())
    digest = kernel.measure(file.fileno())
(folder / "trees/device").symlink_to("/tmp/held")
table = kernel.device(Path("/tmp/held"))
trees = (
    Component("device", "prompts", (Entry.dm_verity(table.root, table.size),)),
    Component("model", "weights", (Entry.fs_verity("weights.bin", digest, 10_000),)),
    Component("system", "image", (file_entry("etc/name", b"base"),)),
)
parts = tuple(ComponentRoot(tree.name, tree.kind, component_root(tree)) for tree in trees)
measured = Measurement(AgentId("example.org", "test", "a"), ("/bin/true",), parts, (), "tools", ())
image = image_of(folder / "images", StoreRoot(folder / "trees"), measured)
held = dict(image.parts)
weights.unlink()
told = {"weights": len((held["model"] / "weights.bin").read_bytes()), "prompt": (held["device"] / "prompt.txt").read_text()}
weights.write_bytes(b"w" * 10_000)
os.chmod(weights, 0o444)
for at in (0, 1):
    wrong = list(parts)
    wrong[at] = replace(parts[at], root=Digest("sha256", bytes(32)))
    try:
        image_of(folder / "images", StoreRoot(folder / "trees"), replace(measured, components=tuple(wrong)))
        told[parts[at].name] = "made"
    except Refused as refused:
        told[parts[at].name] = refused.reasons[0].claim
print(json.dumps(told))
"""


def test_fs_verity_digest_of_the_kernel_is_the_one_we_compute(guest: Guest) -> None:
    told = json.loads(guest.python(FS_VERITY).output)

    assert told["before"] is None
    assert told["after"] == fsverity_digest([b"weights" * 100_000]).hex()
    assert told["written"] is False


def test_dm_verity_table_names_the_root_hash_of_the_build(guest: Guest, held: Verity) -> None:
    guest.machine.run(
        f"modprobe loop && losetup -r /dev/loop7 /var/{HELD} && dmsetup create --noudevsync --noudevrules --readonly held --table "
        f"'0 {held.blocks * 8} verity 1 /dev/loop7 /dev/loop7 4096 4096 {held.blocks} {held.blocks} sha256 {held.root} {held.salt}' "
        "&& mkdir -p /tmp/held && mount -t ext4 -o ro /dev/dm-1 /tmp/held"
    )
    told = json.loads(guest.python(DM_VERITY).output)

    assert told == {"root": held.root, "size": held.blocks * 4096, "text": "be good"}


def test_sandbox_is_given_what_this_kernel_holds_and_nothing_else(guest: Guest) -> None:
    """After the device of the test before was mounted."""
    told = json.loads(guest.python(BOUND).output)

    assert told == {"weights": 10_000, "prompt": "be good", "device": "measurement.device", "model": "measurement.model"}


def test_a_changed_block_under_dm_verity_is_an_error_never_other_content(guest: Guest, held: Verity) -> None:
    """Every block of a copy is spoilt but the first: what was read before comes from no cache, since the device is another."""
    ran = guest.machine.run(
        f"cp /var/{HELD} /var/spoilt && dd if=/dev/urandom of=/var/spoilt bs=4096 seek=1 count=4 conv=notrunc 2>/dev/null "
        "&& loop=$(losetup -f) && losetup -r $loop /var/spoilt && dmsetup create --noudevsync --noudevrules --readonly spoilt --table "
        f'"0 {held.blocks * 8} verity 1 $loop $loop 4096 4096 {held.blocks} {held.blocks} sha256 {held.root} {held.salt}" '
        "&& spoilt=/dev/dm-$(dmsetup info --columns --noheadings -o minor spoilt | tr -d ' ') "
        "&& dd if=$spoilt bs=4096 count=1 2>/dev/null | wc -c && dd if=$spoilt bs=4096 skip=1 count=1",
        ok=False,
    )

    assert ran.output.split()[:1] == [b"4096"]
    assert ran.status != 0
    assert "I/O error" in ran.errors or "Input/output error" in ran.errors
