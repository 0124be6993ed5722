"""The attempts of `escapes.py`, made in a sandbox of this machine: on the build machine by the tests beside this file, and in the guest."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tests.enforcer.inside import FILES, ROOM, Inside, fresh_cgroup
from tests.world.root_fs import PYTHON
from writ.formats.measurement import UNMEASURED, Profile

ESCAPES = (Path(__file__).with_name("escapes.py")).read_text()
PROCESSES = 64
LIBRARY = next(Path("/usr/lib/x86_64-linux-gnu").glob("libz.so.1"), None)

NEW_CODE = {
    "code_anonymous_writable_and_executable", "code_anonymous_executable", "code_written_then_made_executable",
    "code_of_a_private_file_mapping_made_executable", "code_writable_mapping_of_a_measured_file_that_is_executable",
    "code_in_shared_memory", "code_pkey_mprotect",
}  # fmt: skip
"""What the jit profiles allow, and say that they do."""
IN_WORK = {"work_program", "work_script", "work_library", "work_code_mapped_from_a_file"}
"""What a child instance is for: it executes what lies in /work, whoever wrote it. Nothing else there gains it anything."""
OWN_INIT = {"signal_to_init"}
"""Under Landlock 2 an agent can end its own init, and itself with it: the profiles for Linux 6.1 say so."""


@contextlib.contextmanager
def _victims(folder: Path) -> Iterator[dict[str, object]]:
    """What there is on the host to be reached: listeners by port, abstract name and path, a file, processes."""
    abstract, path = f"writ-{secrets.token_hex(8)}", str(folder / "host.sock")
    with socket.socket() as tcp, socket.socket(socket.AF_UNIX) as named, socket.socket(socket.AF_UNIX) as unnamed:
        tcp.bind(("127.0.0.1", 0))
        named.bind(path)
        unnamed.bind("\0" + abstract)
        for listener in (tcp, named, unnamed):
            listener.listen(8)
        os.chmod(path, 0o777)  # noqa: S103 - anybody may: what keeps the agent out is that it cannot get there
        secret = folder / "trust.cbor"
        secret.write_bytes(b"trust")
        yield {
            "port": tcp.getsockname()[1], "abstract": abstract, "socket": path, "path": str(secret), "folder": str(folder),
            "pids": [os.getpid(), os.getppid()], "exe": os.path.realpath("/proc/self/exe"), "library": str(LIBRARY),
            "room": ROOM, "files": FILES, "processes": PROCESSES, "harness": [],
        }  # fmt: skip


def attempts(box: Inside, mount: Path, profile: Profile, inside_uid: int) -> dict[str, str]:
    with _victims(box.folder) as given, fresh_cgroup(mount) as cgroup:
        arguments = json.dumps({**given, "root": inside_uid == 0})
        program = box.program(PYTHON, "-I", "-S", "-c", ESCAPES, arguments, profile=profile, processes=PROCESSES)
        status, said = box.run(replace(program, inside_uid=inside_uid), cgroup.child("agent"))
    (box.folder / "host.sock").unlink()
    assert status == 0, said.decode()[-2000:]
    found: dict[str, str] = json.loads(said)
    return found


def worked(found: dict[str, str], profile: Profile) -> dict[str, str]:
    """The attempts that worked and ought not to, and those that the profile allows and that did not."""
    did = {name for name, said in found.items() if not said.startswith(("refused", "killed"))}
    allowed = (set() if profile.startswith("strict") else NEW_CODE) | (OWN_INIT if profile.endswith("-6.1") else set())
    allowed |= IN_WORK if profile in UNMEASURED else set()
    return {name: found[name] for name in did ^ allowed}
