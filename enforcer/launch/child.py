"""What runs between fork and exec of an agent or a tool server, as root, and becomes its sandbox. Imports nothing of ours.

Run as `python -I -S child.py SPEC`, SPEC being JSON: {cgroup, gate, report, keep, uid, gid, limits, argv}.

1. Join the cgroup, and say so on `report`.
2. Wait at the gate: one byte lets it pass; end of file (the holder died) ends it. The gate fails closed.
3. Close every descriptor but 0, 1, 2, the report and those to keep.
4. A new session, limits, no supplementary groups, gid, uid, no_new_privs, umask.
5. Exec with an empty environment: bubblewrap, which makes the sandbox; in it the shim, which becomes the program.

Whatever fails is written to `report` as text and ends with status 125.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import resource
import signal
import sys

PR_SET_NO_NEW_PRIVS = 38


def main(spec: dict[str, object]) -> None:
    """Become the program of `spec`, or raise OSError."""
    gate, report = int(str(spec["gate"])), int(str(spec["report"]))
    # 1
    with open(f"{spec['cgroup']}/cgroup.procs", "w", encoding="ascii") as procs:
        procs.write(str(os.getpid()))
    os.write(report, b"joined\n")
    # 2
    if os.read(gate, 1) != b"G":
        raise OSError("the gate closed: the holder is gone")
    # 3
    keep = spec["keep"]
    kept = {report, *(int(str(number)) for number in (keep if isinstance(keep, list) else []))}
    for number in kept:
        os.set_inheritable(number, True)
    for low, high in itertools.pairwise([2, *sorted(kept), 65536]):
        os.closerange(low + 1, high)
    # 4
    os.setsid()
    limits = spec["limits"]
    for name, value in sorted(limits.items()) if isinstance(limits, dict) else []:
        resource.setrlimit(getattr(resource, name), (value, value))
    os.setgroups([])
    uid, gid = int(str(spec["uid"])), int(str(spec["gid"]))
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    if os.getresuid() != (uid, uid, uid) or os.getgroups() or uid == 0:
        raise OSError(f"expected uid {uid} without groups, got {os.getresuid()} {os.getgroups()}")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "no_new_privs")
    os.umask(0o077)
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    # 5
    argv = spec["argv"]
    if not isinstance(argv, list):
        raise OSError("expected a list in the specification")
    os.execve(argv[0], argv, {})  # noqa: S606 - this is what we are for


if __name__ == "__main__":
    given: dict[str, object] = json.loads(sys.argv[1])
    try:
        main(given)
    except (OSError, ValueError, TypeError) as error:
        os.write(int(str(given["report"])), f"{type(error).__name__}: {error}".encode())
    os._exit(125)
