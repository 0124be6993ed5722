"""What one code leaves to the next: one spelling, sealed, and refused where a word of it is not known."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest

from enforcer.code_id import code_digest
from enforcer.credential import Credential
from enforcer.estate import Estate, HeldConnection, HeldTool, encode_estate, parse_estate, sealed, unsealed
from enforcer.gates.egress.instance_ca import InstanceCa
from enforcer.launch.process import Inherited
from enforcer.wire.destination import parse_authority
from tests.enforcer.scene import Scene
from tests.parsers import assert_parser_is_total
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Refused, Unavailable
from writ.formats.reason import Reason
from writ.service.clock import SystemClock
from writ.service.signers import MemorySigner

ESTATE = Estate(
    code=bytes(32), moves=1, config=b"{}", run=b"r", launched=b"l", key=b"k", ca=None, log_size=3, log_root=bytes(32), carried=2,
    lost=(Reason("verifier-rolled-back", "a", "b", "c"),),
    last=None, left=5, seen=("t1", "t2"), placeholders=("p1",), reasons=(Reason("hold", "code", "a", "b"),),
    held_since=12, hold_max=600, agent=100, init=101,
    cgroup="/sys/fs/cgroup/x", image="/run/x", uid=61000,
    tools=(HeldTool("notes", 102, 103, (5, 6), 7, b"rest"), HeldTool("out", 1, 2, (), 0, b"")),
    connections=(HeldConnection(9, b"{"),), link=10, client=11, server=12, gate=13, watchdog=104, watchdog_pipe=14, slot=15,
    image_locks=(16, 17),
)  # fmt: skip
SPELT = "998c9a3f9baedc0d9cafa43e98668eccc7414aeba4b6384ae9dcb0a62c3b1a9a"
"""The digest of ESTATE as this version spells it. A change of it is another version of the format, and the one before must be read, too."""


def test_estate_is_read_as_it_was_left_and_spelt_as_ever() -> None:
    data = encode_estate(ESTATE)

    assert parse_estate(data) == ESTATE
    assert Digest.of(data).hex() == SPELT
    assert_parser_is_total(parse_estate, data)


def test_estate_names_every_descriptor_that_goes_over() -> None:
    assert sorted(ESTATE.descriptors()) == [5, 6, 9, 10, 11, 12, 13, 14, 15, 16, 17]


def test_no_token_is_in_an_estate() -> None:
    assert not {"token", "held", "credential"} & {field.name for field in fields(Estate)}


@pytest.mark.parametrize("pipes", [(5,), (5, 6, 7), (-1, 6)])
def test_tool_with_other_pipes_is_refused(pipes: tuple[int, ...]) -> None:
    data = encode_estate(replace(ESTATE, tools=(HeldTool("notes", 1, 2, pipes, 0, b""),)))
    with pytest.raises(FormatError):
        parse_estate(data)


def test_memory_of_an_estate_cannot_be_changed_and_is_gone_once_read() -> None:
    memory = sealed(b"estate")

    assert not os.get_inheritable(memory)
    for change in (lambda: os.pwrite(memory, b"x", 0), lambda: os.ftruncate(memory, 0), lambda: fcntl.fcntl(memory, fcntl.F_ADD_SEALS, 0)):
        with pytest.raises(OSError, match="not permitted"):
            change()
    assert unsealed(memory) == b"estate"
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(memory)


def test_estate_in_what_somebody_could_change_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"estate")
    for descriptor in (os.open(tmp_path / "file", os.O_RDWR), os.memfd_create("open", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)):
        with pytest.raises(FormatError):
            unsealed(descriptor)


def test_session_key_and_ca_are_the_same_after_a_takeover() -> None:
    key, hosts = MemorySigner.generate(), (parse_authority("a.test:443"),)
    ca = InstanceCa(hosts, SystemClock())

    assert MemorySigner.taken(key.left()).sign(b"m") == key.sign(b"m")
    assert InstanceCa(hosts, SystemClock(), ca.left()).certificate == ca.certificate
    with pytest.raises(FormatError):
        MemorySigner.taken(b"no key")
    with pytest.raises(FormatError):
        InstanceCa(hosts, SystemClock(), ca.left().partition(b"-----BEGIN CERT")[0] + InstanceCa(hosts, SystemClock()).certificate)


def test_token_that_was_held_before_does_not_thaw_after_a_takeover(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    held = scene.renew()
    with pytest.raises(Refused):
        Credential(scene.clock, scene.credential.seen).take(held)


def test_child_started_by_the_code_before_is_reaped_once_with_its_status() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(7)
    child = Inherited(pid)

    assert (child.wait(timeout=10), child.wait(), child.poll()) == (7, 7, 7)
    child.kill()
    with pytest.raises(Unavailable):
        Inherited(pid)
    with pytest.raises(Unavailable):
        Inherited(1)


def test_child_that_does_not_end_in_time_is_told_so() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    child = Inherited(process.pid)
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(timeout=0.05)
    child.kill()
    assert child.wait(timeout=10) == -9
    process.wait()


def test_code_is_another_where_a_byte_a_name_or_a_library_is(tmp_path: Path) -> None:
    for room in ("enforcer", "writ"):
        (tmp_path / room).mkdir()
        (tmp_path / room / "a.py").write_text("x")
    first = code_digest(tmp_path, {"python": "3.11.2"})
    (tmp_path / "writ" / "__pycache__").mkdir()
    (tmp_path / "writ" / "__pycache__" / "a.py").write_text("y")
    assert code_digest(tmp_path, {"python": "3.11.2"}) == first
    found = {first, code_digest(tmp_path, {"python": "3.11.3"})}
    (tmp_path / "enforcer" / "a.py").write_text("y")
    found.add(code_digest(tmp_path, {"python": "3.11.2"}))
    (tmp_path / "enforcer" / "launch").mkdir()
    (tmp_path / "enforcer" / "launch" / "shim").write_bytes(b"program")
    found.add(code_digest(tmp_path, {"python": "3.11.2"}))
    assert len(found) == 4
