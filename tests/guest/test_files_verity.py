"""fs-verity and dm-verity as this kernel has them: its digests are those that our formats compute, and what it holds cannot change."""

from __future__ import annotations

import json

from swtpm.guest import Verity
from tests.guest.site import HELD, Guest
from writ.formats.verity import fsverity_digest

FS_VERITY = """
import json, os
from pathlib import Path
from attestor.measure.verity import Kernel
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
from attestor.measure.verity import Kernel
table = Kernel().device(Path("/tmp/held"))
print(json.dumps({"root": table.root.hex(), "size": table.size, "text": Path("/tmp/held/prompt.txt").read_text()}))
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


def test_a_changed_block_under_dm_verity_is_an_error_never_other_content(guest: Guest, held: Verity) -> None:
    """Every block of a copy is spoilt but the first: what was read before comes from no cache, since the device is another."""
    ran = guest.machine.run(
        f"cp /var/{HELD} /var/spoilt && dd if=/dev/urandom of=/var/spoilt bs=4096 seek=1 count=4 conv=notrunc 2>/dev/null "
        "&& losetup -r /dev/loop1 /var/spoilt && dmsetup create --noudevsync --noudevrules --readonly spoilt --table "
        f"'0 {held.blocks * 8} verity 1 /dev/loop1 /dev/loop1 4096 4096 {held.blocks} {held.blocks} sha256 {held.root} {held.salt}' "
        "&& dd if=/dev/dm-2 bs=4096 count=1 2>/dev/null | wc -c && dd if=/dev/dm-2 bs=4096 skip=1 count=1",
        ok=False,
    )

    assert ran.output.split()[:1] == [b"4096"]
    assert ran.status != 0
    assert "I/O error" in ran.errors or "Input/output error" in ran.errors
