"""Devices by CDI: what a name brings into a sandbox, what a specification asks in vain, and that nothing else becomes possible."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from enforcer.launch import devices as module
from enforcer.launch.cgroup import Cgroup
from enforcer.launch.devices import Devices, resolve
from enforcer.launch.image import Image
from enforcer.launch.seccomp import IOCTLS, compiled
from tests.enforcer.host import Host
from tests.enforcer.inside import Inside, fresh_cgroup, inside
from tests.world.root_fs import PYTHON
from writ.formats.errors import Refused, Unavailable

ZERO = {"path": "/dev/imitation/zero", "hostPath": "/dev/zero"}
NAME = "example.com/imitation=0"


@pytest.fixture
def image(tmp_path: Path) -> Image:
    """A root with one library, as if it were mounted."""
    root = tmp_path / "root"
    (root / "usr/lib").mkdir(parents=True)
    (root / "usr/lib/libdriver.so.1").write_bytes(b"driver 1")
    (root / "lib").symlink_to("usr/lib")
    return Image(root, (), ())


@pytest.fixture
def cdi(tmp_path: Path) -> Callable[..., Path]:
    """Writes a specification of one device; the folder."""

    def write(edits: Mapping[str, Any] | None = None, *, file: str = "a.json", folder: str = "cdi", **more: Any) -> Path:
        (tmp_path / folder).mkdir(exist_ok=True)
        device = {"name": "0", "containerEdits": {"deviceNodes": [ZERO]} if edits is None else edits}
        spec = {"cdiVersion": "0.8.0", "kind": "example.com/imitation", "devices": [device], **more}
        (tmp_path / folder / file).write_text(json.dumps(spec))
        (tmp_path / folder / file).chmod(0o644)
        return tmp_path / folder

    return write


def code(error: pytest.ExceptionInfo[Refused]) -> str:
    return error.value.reasons[0].code


@pytest.fixture(autouse=True)
def owner(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who runs the tests is the operator."""
    monkeypatch.setattr(module, "_OWNER", os.getuid())


# --- resolved --------------------------------------------------------------------------------------------------------------


def test_device_brings_its_nodes_files_and_variables(tmp_path: Path, image: Image, cdi: Callable[..., Path]) -> None:
    (tmp_path / "libdriver.so.1").write_bytes(b"driver 1")
    mount = {"hostPath": f"{tmp_path}/libdriver.so.1", "containerPath": "/usr/lib/libdriver.so.1", "options": ["ro", "bind"]}
    full = {"path": "/dev/imitation-ctl", "hostPath": "/dev/full", "type": "c", "major": 1, "minor": 7, "permissions": "rwm"}
    folder = cdi({"deviceNodes": [ZERO], "mounts": [mount]}, containerEdits={"deviceNodes": [full], "env": ["IMITATION_VISIBLE=0"]})
    assert resolve([NAME], [tmp_path / "none", folder], image) == Devices(
        (("/dev/full", "/dev/imitation-ctl"), ("/dev/zero", "/dev/imitation/zero")), (("IMITATION_VISIBLE", "0"),), ()
    )
    assert resolve([], [folder], image) == Devices()


def test_ioctls_are_those_of_the_vendor(image: Image, cdi: Callable[..., Path]) -> None:
    folder = cdi(kind="amd.com/gpu")
    assert resolve(["amd.com/gpu=0"], [folder], image).ioctls == ((0xFF00, 0x4B00), (0xFF00, 0x6400))


def test_no_vendors_ioctls_reach_terminals_sockets_or_files() -> None:
    types = {"terminal": 0x54, "socket": 0x89, "files": 0x66, "clone": 0x94, "namespace": 0xB7, "block": 0x12, "loop": 0x4C}
    for pairs in module.IOCTLS.values():
        for mask, value in pairs:
            for kind in types.values():
                for number in (0x00, 0x12, 0xFF):
                    assert (kind << 8 | number) & mask != value
                    assert (0xC0000000 | 8 << 16 | kind << 8 | number) & mask != value
    assert not [number for number in IOCTLS.values() for pairs in module.IOCTLS.values() for mask, value in pairs if number & mask == value]


def test_later_folder_counts_and_one_folder_names_a_device_once(image: Image, cdi: Callable[..., Path]) -> None:
    other = {"path": "/dev/other", "hostPath": "/dev/full"}
    first, second = cdi(), cdi({"deviceNodes": [other]}, folder="later")
    assert resolve([NAME], [first, second], image).nodes == (("/dev/full", "/dev/other"),)
    assert resolve([NAME], [second, first], image).nodes == (("/dev/zero", "/dev/imitation/zero"),)
    cdi(file="b.json")
    with pytest.raises(Refused, match="expected one specification, got 2 of one folder"):
        resolve([NAME], [first], image)


def test_unknown_device_is_refused_with_what_there_is(tmp_path: Path, image: Image, cdi: Callable[..., Path]) -> None:
    with pytest.raises(Refused, match=f"device-unknown: .*example.com/other=0: expected .* got {NAME}"):
        resolve(["example.com/other=0"], [cdi()], image)
    with pytest.raises(Refused, match=r"device-unknown: .* got none"):
        resolve([NAME], [tmp_path / "none"], image)


NEVER: dict[str, tuple[Mapping[str, Any], str]] = {
    "hook": ({"hooks": [{"hookName": "createContainer", "path": "/bin/x"}]}, "hooks"),
    "group": ({"additionalGids": [44]}, "additionalGids"),
    "cache": ({"intelRdt": {"closID": "x"}}, "intelRdt"),
    "interface": ({"netDevices": [{"hostInterfaceName": "a", "name": "b"}]}, "netDevices"),
    "owner": ({"deviceNodes": [ZERO | {"uid": 0}]}, "deviceNodes with uid"),
    "mode": ({"deviceNodes": [ZERO | {"fileMode": 438}]}, "deviceNodes with fileMode"),
    "block device": ({"deviceNodes": [ZERO | {"type": "b"}]}, "deviceNodes of type b"),
    "read only": ({"deviceNodes": [ZERO | {"permissions": "r"}]}, "permissions r"),
    "tmpfs": ({"mounts": [{"hostPath": "/x", "containerPath": "/x", "type": "tmpfs"}]}, "mounts of type tmpfs"),
    "outside dev": ({"deviceNodes": [ZERO | {"path": "/etc/zero"}]}, "a place of its own below /dev"),
    "dev itself": ({"deviceNodes": [ZERO | {"path": "/dev"}]}, "a place of its own below /dev"),
    "our device": ({"deviceNodes": [ZERO | {"path": "/dev/null"}]}, "a place of its own below /dev"),
    "our folder": ({"deviceNodes": [ZERO | {"path": "/dev/shm/zero"}]}, "a place of its own below /dev"),
    "other number": ({"deviceNodes": [ZERO | {"major": 1, "minor": 3}]}, r"number \(1, 3\)"),
    "no device": ({"deviceNodes": [ZERO | {"hostPath": "/etc/passwd"}]}, "a character device"),
    "link": ({"deviceNodes": [ZERO | {"hostPath": "/dev/stdin"}]}, "a character device"),
    "root's": ({"deviceNodes": [ZERO | {"hostPath": "/dev/console"}]}, "that every uid may read and write"),
    "two at one place": ({"deviceNodes": [ZERO, ZERO | {"hostPath": "/dev/full"}]}, "one device at"),
    "loader": ({"env": ["LD_PRELOAD=/tmp/x.so"]}, "no loader reads, got LD_PRELOAD"),
    "path": ({"env": ["PATH=/tmp"]}, "got PATH"),
    "gate": ({"env": ["WRIT_SOCKET=/tmp/x"]}, "got WRIT_SOCKET"),
    "two values": ({"env": ["A=1", "A=2"]}, "got A"),
}


@pytest.mark.parametrize("case", NEVER)
def test_what_no_agent_gets_is_refused_by_its_name(image: Image, cdi: Callable[..., Path], case: str) -> None:
    edits, message = NEVER[case]
    with pytest.raises(Refused, match=message) as error:
        resolve([NAME], [cdi(edits)], image)
    assert code(error) == "device-refused"
    with pytest.raises(Refused, match=message):
        resolve([NAME], [cdi({}, containerEdits=edits)], image)


def test_missing_node_is_unavailable(image: Image, cdi: Callable[..., Path]) -> None:
    with pytest.raises(Unavailable, match="/dev/none"):
        resolve([NAME], [cdi({"deviceNodes": [ZERO | {"hostPath": "/dev/none"}]})], image)


@pytest.mark.parametrize(
    "host, inside",
    [
        (b"driver 2", "/usr/lib/libdriver.so.1"),
        (b"driver 1", "/usr/lib/libmissing.so"),
        (b"driver 1", "/usr/lib"),
        (b"driver 1", "/lib/libdriver.so.1"),
        (None, "/usr/lib/libdriver.so.1"),
    ],
)
def test_driver_file_that_the_image_has_not_is_refused(
    tmp_path: Path, image: Image, cdi: Callable[..., Path], host: bytes | None, inside: str
) -> None:
    if host is not None:
        (tmp_path / "lib.so").write_bytes(host)
    with pytest.raises(Refused) as error:
        resolve([NAME], [cdi({"mounts": [{"hostPath": f"{tmp_path}/lib.so", "containerPath": inside}]})], image)
    assert code(error) == "driver-not-measured"


def test_specification_that_others_can_write_or_that_is_none_refuses(image: Image, cdi: Callable[..., Path]) -> None:
    folder = cdi()
    (folder / "a.json").chmod(0o664)
    with pytest.raises(Refused, match=r"a file that only root can write, got uid .* mode 664"):
        resolve([NAME], [folder], image)
    (folder / "a.json").chmod(0o644)
    (folder / "b.yaml").write_text("not read")
    assert resolve([NAME], [folder], image).nodes
    (folder / "b.json").write_text("{}")
    (folder / "b.json").chmod(0o644)
    with pytest.raises(Refused, match=r"device-refused: .*cdiVersion"):
        resolve([NAME], [folder], image)
    (folder / "b.json").unlink()
    (folder / "b.json").symlink_to("a.json")
    with pytest.raises(Unavailable, match=r"b\.json"):
        resolve([NAME], [folder], image)


# --- in the sandbox ----------------------------------------------------------------------------------------------------------

LOOK = """
import errno, fcntl, json, os, sys
def tries(act):
    try:
        return act()
    except OSError as error:
        return errno.errorcode[error.errno]
def control(path, number):
    with open(path, "rb") as file:
        return tries(lambda: fcntl.ioctl(file, number))
print(json.dumps({
  "dev": sorted(os.listdir("/dev")), "read": tries(lambda: len(open("/dev/imitation/zero", "rb").read(4))),
  "write": tries(lambda: open("/dev/imitation/zero", "wb", buffering=0).write(b"1")),
  "vendor": tries(lambda: control("/dev/imitation/zero", 0xC0084600)), "other": tries(lambda: control("/dev/imitation/zero", 0xC0084700)),
  "ours": tries(lambda: control("/dev/full", 0xC0084600)), "tiocsti": tries(lambda: control("/dev/imitation/zero", 0x5412)),
  "node": tries(lambda: os.mknod("/dev/imitation/more")), "env": os.environ.get("IMITATION"),
}))
"""


@pytest.fixture(scope="module")
def box() -> Iterator[Inside]:
    with inside() as made:
        yield made


@pytest.fixture
def cgroup(cgroup_mount: Path) -> Iterator[Cgroup]:
    with fresh_cgroup(cgroup_mount) as made:
        yield made


@pytest.mark.cgroup
def test_sandbox_has_exactly_these_devices_and_their_ioctls(box: Inside, cgroup: Cgroup) -> None:
    plain = box.program(PYTHON, "-I", "-S", "-c", LOOK)
    status, said = box.run(plain, cgroup.child("agent"))
    assert status == 0, said.decode()
    without = json.loads(said)
    given = Devices((("/dev/zero", "/dev/imitation/zero"),), (("IMITATION", "1"),), module.IOCTLS["nvidia.com/gpu"])
    status, said = box.run(replace(plain, devices=given), cgroup.child("agent"))
    assert status == 0, said.decode()
    found = json.loads(said)

    assert set(found["dev"]) - set(without["dev"]) == {"imitation"}
    assert (without["read"], without["write"], without["env"]) == ("ENOENT", "ENOENT", None)
    assert (found["read"], found["write"], found["env"]) == (4, 1, "1")
    assert found["vendor"] == "ENOTTY", "it reached the driver, which knows no such number"
    assert found["other"] == "ENOSYS", "the filter"
    assert found["tiocsti"] == "ENOSYS"
    assert found["ours"] == "EACCES", "Landlock: no device but those named is controlled"
    assert without["ours"] == "ENOSYS"
    assert found["node"] in ("EROFS", "EACCES", "ENOSYS")


def test_filter_without_devices_is_what_it_was() -> None:
    assert compiled(new_code=False) is compiled(new_code=False, ioctls=())  # a holder finds the one that its zygote made
    assert compiled(new_code=False) != compiled(new_code=False, ioctls=module.IOCTLS["amd.com/gpu"])


# --- a whole run -------------------------------------------------------------------------------------------------------------


@pytest.mark.cgroup
def test_agent_has_the_devices_of_its_manifest_and_its_tools_have_none(idle_host: Host, cdi: Callable[..., Path]) -> None:
    host = idle_host
    folder = cdi({"deviceNodes": [ZERO], "env": ["IMITATION=1"]})
    host.write_config(cdi_dirs=(str(folder),))
    host.serve()
    host.agent("a", 'print(os.environ["IMITATION"], len(open("/dev/imitation/zero", "rb").read(3)), os.listdir("/dev/imitation"))')
    host.attestor.agents["a"] = replace(host.attestor.agents["a"], devices=(NAME,))
    assert host.finish(host.run("a")) == (0, "1 3 ['zero']\n", "")

    host.attestor.agents["a"] = replace(host.attestor.agents["a"], devices=("example.com/imitation=1",))
    status, out, err = host.finish(host.run("a"))
    assert (status, out) == (1, "")
    assert re.search(r"device-unknown", err)
