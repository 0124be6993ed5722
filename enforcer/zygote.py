"""The zygote: a process of the daemon that has imported what a holder needs, and becomes one, by fork, for each run.

A holder started afresh costs a third of a second of CPU before its first
line; twenty at once cost a burst of launches its three seconds. A fork costs
milliseconds. So that the holders share nothing which matters, the zygote has

- no secret: session keys and salts are made after the fork, from the operating system;
- no thread, and no socket but the one to the daemon, which a holder closes first of all;
- no part in any holder's life: a holder is in a session of its own, and lives on when zygote and daemon are gone.

What holders do share is the layout of their memory, as all forks do: docs/adr/0007.

daemon -> zygote   the bytes of a Run, with five descriptors: client, link, and standard input, output, error
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Final, NoReturn

import enforcer
from enforcer import frames
from enforcer.config import EnforcerConfig
from enforcer.control import MAX_CONTROL
from enforcer.secrets.sealed import KEY_PLACE
from writ.formats.errors import FormatError, Unavailable
from writ.service import observe

DESCRIPTORS: Final = 5
RECEIVE_WITHIN: Final = 5.0
"""Seconds for the rest of a request whose first byte is there."""
_CONFIG: Final = "WRIT_ENFORCER"
"""The variable with the configuration: every user of the host reads command lines, and it says where secrets lie."""
_SET_DUMPABLE: Final = 4
"""linux/prctl.h"""
HOLDER_NAME: Final = "writ-holder"
"""What /proc/PID/comm calls a holder."""

_LOG = observe.get_logger("enforcer.zygote")


# --- in the daemon -------------------------------------------------------------------------------------------------------


class Zygote:
    """The daemon's hold on its zygote: one that died is replaced at the next run. Thread-safe."""

    def __init__(self, config: EnforcerConfig) -> None:
        """It runs. Raises Unavailable."""
        self._config = config.to_json()
        self._lock = threading.Lock()
        self._line, self._process = self._start()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def fork(self, run: bytes, client: int, link: int, stdio: tuple[int, ...]) -> None:
        """A holder gets `run` and copies of these descriptors; what becomes of it is seen on the link. Raises Unavailable."""
        with self._lock:
            if self._process.poll() is not None:
                self._replace()
            try:
                frames.send(self._line, run, (client, link, *stdio))
            except Unavailable:
                self._replace()
                frames.send(self._line, run, (client, link, *stdio))

    def _replace(self) -> None:
        _LOG.warning("zygote-lost", pid=self._process.pid)
        self._line.close()
        self._process.kill()
        self._process.wait()
        self._line, self._process = self._start()

    def _start(self) -> tuple[socket.socket, subprocess.Popen[bytes]]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "enforcer.zygote", str(theirs.fileno())],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=(theirs.fileno(),),
                env={**environment(), _CONFIG: self._config.decode()}, cwd="/", start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            ours.close()
            raise Unavailable("zygote", f"{error.strerror}") from None
        finally:
            theirs.close()
        return ours, process


def takeover() -> tuple[str, ...]:
    """How a holder of other code becomes one of ours: the number of its estate follows."""
    return (sys.executable, "-P", "-m", "enforcer.takeover")


def environment() -> dict[str, str]:
    """A holder finds our code, its bytecode where the daemon's is (not beside the measured code), the place of the machine's own key, and
    nothing else of ours."""
    caches = {} if sys.pycache_prefix is None else {"PYTHONPYCACHEPREFIX": sys.pycache_prefix}
    key = {KEY_PLACE: os.environ[KEY_PLACE]} if KEY_PLACE in os.environ else {}
    return {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONPATH": str(Path(enforcer.__path__[0]).parent), **caches, **key}


# --- in the zygote -------------------------------------------------------------------------------------------------------


def main(number: int, config: EnforcerConfig) -> int:
    """Fork a holder for each run that comes, until the daemon is gone.

    1. Import, read the digests of engine and code, compile the filters: what every holder runs is what was read here.
    2. Wait for a run. The end of the line is the end of the zygote, and of it alone.
    3. Fork: the child becomes the holder, the parent closes its copies.
    """
    # 1
    gc.disable()  # there is no garbage among what is imported, and looking for it costs an eighth of the time
    from enforcer import holder
    from enforcer.code_id import installed_code
    from enforcer.launch.seccomp import compiled

    observe.configure(sys.stderr)
    for ignored in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)  # the daemon's and the terminal's signals are not ours
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries our children
    installed_code()
    with contextlib.suppress(Unavailable):  # a holder that needs one makes it again, and says why it cannot
        for new_code in (False, True):
            compiled(new_code=new_code)
    gc.collect()
    gc.freeze()
    gc.enable()
    line = socket.socket(fileno=number)
    line.set_inheritable(False)
    while True:
        # 2
        select.select([line], [], [])
        try:
            got = frames.receive_with_descriptors(line, MAX_CONTROL, RECEIVE_WITHIN, DESCRIPTORS)
        except (FormatError, Unavailable):
            got = None
        if got is None:
            return 0
        run, descriptors = got
        # 3
        try:
            if len(descriptors) == DESCRIPTORS and os.fork() == 0:
                line.close()
                _become(holder.main, config, run, descriptors)
        except OSError as error:
            _LOG.error("fork-failed", detail=error.strerror)  # the client's and the daemon's ends close below: nothing runs
        for descriptor in descriptors:
            os.close(descriptor)


def keep_from_cores() -> None:
    """Session keys and secrets are in no core file of this process, whoever would take one. An execve undoes it."""
    ctypes.CDLL(None).prctl(_SET_DUMPABLE, 0, 0, 0, 0)


def _become(live: Any, config: EnforcerConfig, run: bytes, descriptors: tuple[int, ...]) -> NoReturn:
    """This process is a holder, and ends as one."""
    status = 1
    try:
        os.setsid()
        keep_from_cores()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        with contextlib.suppress(OSError):
            Path("/proc/self/comm").write_text(HOLDER_NAME)
        client, link, *stdio = descriptors
        status = live(config, run, client, link, (stdio[0], stdio[1], stdio[2]))
    except BaseException as error:  # noqa: BLE001 - a holder never returns into the zygote's loop
        _LOG.error("holder-failed", exception=error)
    finally:
        os._exit(status)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), EnforcerConfig.from_json(os.environ.pop(_CONFIG).encode())))
