"""What the kernel holds is measured by asking it, in constant time; what it does not hold is refused, never measured some other way."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from pathlib import Path

import pytest

from attestor.measure import store as store_module
from attestor.measure.manifest import Measured, measure_manifest, read_manifest
from attestor.measure.store import Store
from attestor.measure.verity import Artefacts
from tests.world.verity import FakeKernel
from writ.formats.digest import Digest
from writ.formats.errors import Refused
from writ.formats.tree import Component, Entry, component_root, encode_tree, parse_tree
from writ.formats.verity import fsverity_digest
from writ.service import verity
from writ.service.verity import Kernel, NotHeld, encode_question, read_answer

HEAD = 'version = 1\nagent = "a"\nnamespace = "n"\naudience = "x"\ncommand = ["run"]\n[components.model]\nkind = "weights"\n'
ROOT = "ab" * 32


@pytest.fixture
def source(tmp_path: Path) -> Path:
    place = tmp_path / "source"
    (place / "model/deep").mkdir(parents=True)
    (place / "model/weights.bin").write_bytes(b"w" * 10_000)
    (place / "model/deep/run").write_bytes(b"")
    (place / "model/deep/run").chmod(0o755)
    for at in range(4):
        (place / f"model/deep/more{at}").write_bytes(b"more")
    (place / "model/link").symlink_to("weights.bin")
    (place / "image").write_bytes(b"i" * 8192)
    return place


def manifest(source: Path, text: str) -> None:
    (source / "a.toml").write_text(HEAD + text)


def measured(source: Path, store: Store | None) -> Measured:
    read = read_manifest(source / "a.toml")
    if store is None:
        return measure_manifest(read, source, domain="example.org")
    return measure_manifest(read, source, domain="example.org", read=store.read, held=store)


def refusal(source: Path, store: Store | None) -> tuple[str, str, str]:
    with pytest.raises(Refused) as caught:
        measured(source, store)
    (reason,) = caught.value.reasons
    return reason.code, reason.claim, reason.got


# --- fs-verity ---------------------------------------------------------------------------------------------------------

FS = 'source = "model"\nhold = "fs-verity"\n'


def enable_all(kernel: FakeKernel, source: Path) -> None:
    for path in (source / "model").rglob("*"):
        if path.is_file() and not path.is_symlink():
            kernel.enable_path(path)


@pytest.mark.parametrize("already", [False, True], ids=["copied and enabled", "adopted"])
def test_root_is_the_same_offline_and_on_a_host(tmp_path: Path, source: Path, already: bool) -> None:
    manifest(source, FS)
    kernel = FakeKernel()
    if already:
        enable_all(kernel, source)
    store = Store(tmp_path / "store", kernel)
    here, offline = measured(source, store), measured(source, None)

    assert here.measurement.root() == offline.measurement.root()
    assert here.trees[0].entries == (
        *(Entry.fs_verity(f"deep/more{at}", fsverity_digest([b"more"]), 4) for at in range(4)),
        Entry.fs_verity("deep/run", fsverity_digest([]), 0, executable=True),
        Entry.link("link", "weights.bin"),
        Entry.fs_verity("weights.bin", fsverity_digest([b"w" * 10_000]), 10_000),
    )
    assert parse_tree(encode_tree(here.trees[0])) == here.trees[0]
    place = store.assemble(here.measurement, here.trees)
    assert (place / "model/weights.bin").read_bytes() == b"w" * 10_000
    assert (place / "model/weights.bin").samefile(source / "model/weights.bin") is already
    assert store.check(place, here.trees) == store.check(place, here.trees, rehash=True) == ()


def test_root_differs_from_the_same_content_in_the_store(source: Path) -> None:
    manifest(source, FS)
    held = measured(source, None)
    manifest(source, 'source = "model"\n')
    assert held.measurement.root() != measured(source, None).measurement.root()


def test_a_digest_of_one_kind_cannot_be_taken_for_another() -> None:
    digest, roots = Digest.of(b"x"), set()
    for entry in (Entry.file("device", digest, 4096), Entry.fs_verity("device", digest, 4096), Entry.dm_verity(digest, 4096)):
        roots.add(component_root(Component("model", "weights", (entry,))))
    assert len(roots) == 3


def test_what_the_kernel_holds_is_never_read_again(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest(source, FS)
    kernel = FakeKernel()
    enable_all(kernel, source)

    def forbidden(*_: object) -> bytes:
        raise AssertionError("content was read")

    monkeypatch.setattr(store_module, "_copy_bytes", forbidden)
    monkeypatch.setattr(store_module, "hash_file", forbidden)
    store = Store(tmp_path / "store", kernel)
    here = measured(source, store)
    place = store.assemble(here.measurement, here.trees)
    os.utime(source / "model/weights.bin", (1, 1))
    assert store.check(place, here.trees, rehash=True) == ()
    assert measured(source, store).measurement.root() == here.measurement.root()


def test_file_that_was_replaced_by_one_that_is_not_held_is_a_difference(tmp_path: Path, source: Path) -> None:
    manifest(source, FS)
    store = Store(tmp_path / "store", FakeKernel())
    here = measured(source, store)
    place = store.assemble(here.measurement, here.trees)
    target = place / "model/weights.bin"
    target.parent.chmod(0o755)
    target.unlink()
    target.write_bytes(b"w" * 10_000)

    (found,) = store.check(place, here.trees)
    assert (found.path, found.expected, found.got) == ("weights.bin", fsverity_digest([b"w" * 10_000]), None)
    again = store.assemble(here.measurement, here.trees)
    assert store.check(again, here.trees) == ()


def test_file_that_was_replaced_by_another_that_is_held_is_a_difference(tmp_path: Path, source: Path) -> None:
    manifest(source, FS)
    kernel = FakeKernel()
    store = Store(tmp_path / "store", kernel)
    here = measured(source, store)
    place = store.assemble(here.measurement, here.trees)
    target = place / "model/weights.bin"
    target.parent.chmod(0o755)
    target.unlink()
    target.write_bytes(b"other")
    other = kernel.enable_path(target)

    (found,) = store.check(place, here.trees)
    assert (found.path, found.got) == ("weights.bin", other)


def test_host_without_fs_verity_refuses_and_names_the_file(tmp_path: Path, source: Path) -> None:
    manifest(source, FS)
    store = Store(tmp_path / "store", FakeKernel(able=False))
    code, claim, got = refusal(source, store)
    assert (code, got) == ("verity-unavailable", "EOPNOTSUPP")
    assert claim.startswith("model:")
    assert list((tmp_path / "store/staging").iterdir()) == []


def test_source_whose_verity_has_other_parameters_is_refused(tmp_path: Path, source: Path) -> None:
    """Where it cannot be adopted: a copy has our parameters, and a digest that nobody could compute offline is not answered."""
    manifest(source, FS)
    kernel = FakeKernel()
    info = (source / "model/weights.bin").stat()
    kernel.enabled[info.st_dev, info.st_ino] = fsverity_digest([b"w" * 10_000], salt=b"salt")
    os.chown(source / "model/weights.bin", 12345, -1) if os.geteuid() == 0 else pytest.skip("needs root, to give a file away")

    code, claim, got = refusal(source, Store(tmp_path / "store", kernel))
    assert (code, claim) == ("verity-unavailable", "model:weights.bin")
    assert "a copy of it" in got


def test_this_kernel_answers_or_says_that_it_cannot(tmp_path: Path, source: Path) -> None:
    """The real ioctls on whatever disk this is: a digest as it is computed, or the refusal."""
    manifest(source, FS)
    store = Store(tmp_path / "store")
    try:
        here = measured(source, store)
    except Refused as refused:
        assert [reason.code for reason in refused.reasons] == ["verity-unavailable"]  # noqa: PT017 - either is right, by the kernel
    else:
        assert here.measurement.root() == measured(source, None).measurement.root()


@pytest.mark.parametrize("number, length, expected", [(1, 32, "digest"), (2, 64, "over sha512"), (3, 32, "algorithm 3"), (1, 20, "sha256")])
def test_answer_of_the_kernel_is_read(monkeypatch: pytest.MonkeyPatch, number: int, length: int, expected: str) -> None:
    def answer(_fd: int, request: int, buffer: bytearray) -> int:
        assert (request, len(buffer), struct.unpack_from("=HH", buffer)) == (0xC0046686, 68, (0, 64))
        buffer[:4] = struct.pack("=HH", number, length)
        buffer[4 : 4 + length] = b"\x07" * length
        return 0

    monkeypatch.setattr(fcntl, "ioctl", answer)
    if expected == "digest":
        assert Kernel().measure(0) == Digest("sha256", b"\x07" * 32)
    else:
        with pytest.raises(NotHeld, match=expected):
            Kernel().measure(0)


def test_enabling_asks_for_sha256_and_blocks_of_4096(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, bytes]] = []

    def ioctl(_fd: int, request: int, argument: bytes) -> int:
        asked.append((request, argument))
        raise OSError(errno.EEXIST if len(asked) == 1 else errno.EROFS, "")

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    Kernel().enable(0)
    assert asked == [(0x40806685, struct.pack("<4I", 1, 1, 4096, 0) + bytes(112))]
    with pytest.raises(NotHeld, match="EROFS"):
        Kernel().enable(0)


# --- dm-verity ---------------------------------------------------------------------------------------------------------

DM = 'source = "mounted"\nhold = "dm-verity"\nimage = "image"\nsalt = "00ff"\n'


def mounted(source: Path) -> FakeKernel:
    """A kernel that holds the image where the manifest says."""
    manifest(source, DM)
    (source / "mounted").mkdir()
    kernel = FakeKernel()
    kernel.mount(source / "mounted", b"i" * 8192, b"\x00\xff")
    return kernel


def test_device_has_the_root_of_its_image(tmp_path: Path, source: Path) -> None:
    kernel = mounted(source)
    store = Store(tmp_path / "store", kernel)
    here = measured(source, store)

    assert here.measurement.root() == measured(source, None).measurement.root()
    assert [entry.kind for entry in here.trees[0].entries] == ["dm-verity"]
    place = store.assemble(here.measurement, here.trees)
    assert (place / "model").samefile(source / "mounted")
    assert store.check(place, here.trees) == ()
    assert Store(tmp_path / "store", kernel).check(place, here.trees) == (), "a daemon that starts again knows it"


def test_device_that_was_exchanged_or_went_away_is_a_difference(tmp_path: Path, source: Path) -> None:
    kernel = mounted(source)
    store = Store(tmp_path / "store", kernel)
    here = measured(source, store)
    place = store.assemble(here.measurement, here.trees)

    kernel.mount(source / "mounted", b"j" * 8192, b"\x00\xff")
    (found,) = store.check(place, here.trees)
    assert (found.path, found.expected) == ("device", here.trees[0].entries[0].digest)
    assert found.got not in (None, found.expected)
    kernel.devices.clear()
    (found,) = store.check(place, here.trees)
    assert found.got is None


def test_device_with_the_same_root_and_another_size_is_a_difference(tmp_path: Path, source: Path) -> None:
    kernel = mounted(source)
    store = Store(tmp_path / "store", kernel)
    here = measured(source, store)
    place = store.assemble(here.measurement, here.trees)
    table = kernel.devices[source / "mounted"]
    kernel.devices[source / "mounted"] = type(table)(table.root, 4096, 4096, 4096, table.salt)

    assert len(store.check(place, here.trees)) == 1


def test_place_that_no_device_holds_is_refused(tmp_path: Path, source: Path) -> None:
    manifest(source, DM)
    assert refusal(source, Store(tmp_path / "store", FakeKernel())) == ("verity-unavailable", "model:mounted", "no mount point")
    (source / "mounted").mkdir()
    assert refusal(source, Store(tmp_path / "real"))[:2] == ("verity-unavailable", "model:mounted")


@pytest.mark.parametrize(
    "text, got", [('image = "none"\n', "ENOENT"), ("", "no image"), ('image = "model"\n', "EISDIR"), ('image = "odd"\n', "5000")]
)
def test_image_that_cannot_be_measured_is_refused(source: Path, text: str, got: str) -> None:
    (source / "odd").write_bytes(bytes(5000))
    manifest(source, 'source = "mounted"\nhold = "dm-verity"\n' + text)
    code, claim, said = refusal(source, None)
    assert (code, claim) == ("verity-unavailable", "model:mounted")
    assert got in said


MOUNTS = r"""21 1 8:1 / / rw - ext4 /dev/sda1 rw
30 21 253:0 / /srv/my\040models ro - ext4 /dev/dm-0 ro
31 21 253:1 /sub /srv/part ro - ext4 /dev/dm-1 ro
32 21 253:2 / /srv/under ro - ext4 /dev/dm-2 ro
33 32 0:40 / /srv/under/inner rw - tmpfs tmpfs rw
34 21 253:3 / /srv/twice ro - ext4 /dev/dm-3 ro
35 34 0:41 / /srv/twice rw - tmpfs tmpfs rw""".splitlines()


def test_filesystem_mounted_whole_with_nothing_over_or_beneath_it_is_accepted() -> None:
    verity._check_mount(MOUNTS, "/srv/my models", "253:0")  # noqa: SLF001 - the rule has no other door without a kernel


@pytest.mark.parametrize(
    "place, device, got",
    [
        ("/srv/other", "8:1", "no mount point"),
        ("/srv/my models/inner", "253:0", "no mount point"),
        ("/srv/my models", "253:9", "mounted there"),
        ("/srv/part", "253:1", "mounted there"),
        ("/srv/under", "253:2", "beneath"),
        ("/srv/twice", "253:3", "mounted there"),
        ("/", "8:1", "beneath"),
    ],
)
def test_part_of_a_filesystem_or_one_with_mounts_over_or_beneath_it_is_refused(place: str, device: str, got: str) -> None:
    with pytest.raises(NotHeld, match=got):
        verity._check_mount(MOUNTS, place, device)  # noqa: SLF001 - as above


def answer(text: str, *, kind: bytes = b"verity", targets: int = 1, flags: int = 1, first: int = 0, length: int = 16) -> bytes:
    question = encode_question(os.makedev(253, 300), 0)
    head = bytearray(question[:312])
    struct.pack_into("<2I", head, 16, 312, targets)
    struct.pack_into("<I", head, 28, flags)
    return (bytes(head) + struct.pack("<2QiI16s", first, length, 0, 0, kind) + text.encode() + b"\0").ljust(len(question), b"\0")


def test_question_is_a_dm_ioctl() -> None:
    question = encode_question(os.makedev(253, 300), 1 << 4)
    version, size, start = struct.unpack_from("<3I2I", question)[:3], *struct.unpack_from("<2I", question, 12)
    assert (version, size, start) == ((4, 0, 0), len(question), 312)
    assert struct.unpack_from("<I", question, 28) == (16,)
    assert struct.unpack_from("<Q", question, 40) == ((300 & 0xFF) | 253 << 8 | (300 & ~0xFF) << 12,)


def test_answer_of_one_verity_target_is_read() -> None:
    assert read_answer(answer("V")) == (1, 16, "V")


@pytest.mark.parametrize(
    "false",
    [answer("V", kind=b"linear"), answer("V", targets=2), answer("V", targets=0), answer("V", flags=1 | 1 << 8), answer("V", first=8)],
    ids=["linear", "two targets", "none", "cut", "not from the start"],
)
def test_answer_of_another_device_is_refused(false: bytes) -> None:
    with pytest.raises(NotHeld):
        read_answer(false)


@pytest.mark.parametrize(
    "table, status, flags, got",
    [
        (f"1 7:0 7:1 4096 4096 2 1 sha256 {ROOT} -", "V", 1, ""),
        (f"1 7:0 7:1 4096 4096 2 1 sha256 {ROOT} -", "C", 1, "status C"),
        (f"1 7:0 7:1 4096 4096 2 1 sha256 {ROOT} -", "V", 0, "8192 bytes"),
        (f"1 7:0 7:1 4096 4096 3 1 sha256 {ROOT} -", "V", 1, "12288"),
        (f"1 7:0 7:1 4096 4096 2 1 sha512 {ROOT * 2} -", "V", 1, "sha512"),
        (f"1 7:0 7:1 4096 4096 2 1 sha256 {ROOT} - 1 ignore_corruption", "V", 1, "ignore_corruption"),
    ],
)
def test_device_is_held_only_as_its_table_and_status_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str, status: str, flags: int, got: str
) -> None:
    device, place = os.stat(tmp_path).st_dev, tmp_path.resolve()
    mounts, control = tmp_path / "mountinfo", tmp_path / "control"
    mounts.write_text(f"1 0 {os.major(device)}:{os.minor(device)} / {place} ro - ext4 x ro\n")
    control.touch()

    def ioctl(_fd: int, request: int, buffer: bytearray) -> int:
        assert request == 0xC138FD0C
        asked = struct.unpack_from("<I", buffer, 28)[0] & 16
        buffer[:] = answer(table if asked else status, flags=flags)
        return 0

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    kernel = Kernel(mounts=mounts, control=str(control))
    if got:
        with pytest.raises(NotHeld, match=got):
            kernel.device(tmp_path)
    else:
        assert kernel.device(tmp_path).root == Digest("sha256", bytes.fromhex(ROOT))


def test_artefact_reader_says_how_far_it_is(source: Path) -> None:
    seen: list[int] = []
    Artefacts(seen.append).device(source, source / "image", b"")
    assert sum(seen) == 8192
