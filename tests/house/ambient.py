"""While tests run, pure code that reaches outside is stopped in the act, where the sources cannot show it.

`install()` adds an audit hook to the process: when a file, socket, process or directory is opened and a frame of writ/formats
or writ/verdict is on the stack, AmbientCall is raised. Importing a module from there is allowed: that is how Python loads it.
So is telling of what a destructor warned of, which reads sources: what is collected while pure code runs is no doing of its.
It is a BaseException, so that no `except Exception` of the code under test can swallow it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType

_PURE = tuple(str(Path(__file__).parents[2] / "writ" / room) + "/" for room in ("formats", "verdict"))
_WATCHED = frozenset(
    {"open", "os.listdir", "os.scandir", "os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "sqlite3.connect"}
)
_WATCHED_FAMILIES = ("socket.", "ctypes.", "urllib.", "shutil.", "tempfile.")
_LOADER = "<frozen importlib"
_ENDS = ("/_pytest/unraisableexception.py", "/_pytest/python.py")
"""Files whose frame ends the look: what tells of a destructor's failure, and what calls a test."""
_kinds: dict[str, str] = {}
"""By a frame's file: `pure`, `passed`, or nothing."""


class AmbientCall(BaseException):
    """Pure code reached for something that is not among its arguments."""


def install() -> None:
    """From now on, in this process, pure code cannot reach outside unseen."""
    sys.addaudithook(_refuse)


def _refuse(event: str, arguments: tuple[object, ...]) -> None:
    if event not in _WATCHED and not event.startswith(_WATCHED_FAMILIES):
        return
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - the only way to the caller's stack
    while frame is not None:
        file = frame.f_code.co_filename
        kind = _kinds.get(file)
        if kind is None:
            kind = _kinds[file] = "pure" if file.startswith(_PURE) else "passed" if file.startswith(_LOADER) or file.endswith(_ENDS) else ""
        if kind == "pure":
            raise AmbientCall(f"{file}:{frame.f_lineno}: {event} {arguments[:1]}")
        if kind:
            return
        frame = frame.f_back
