"""Ends the process it is started in by SIGKILL, at one line of one function. Found on PYTHONPATH by `tests.faults.fault`, and only there.

WRIT_FAULT is JSON: {file, function, line, skip, armed}. The process dies just before line number `line` of `function` in `file` runs,
when that happens for the time after `skip` others while the file `armed` exists. What kills is os.kill: no handler, no clean-up, no flush.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
import threading
from types import FrameType
from typing import Any


def install(fault: dict[str, Any]) -> None:
    """Every thread of this process is watched from now on."""
    file, function, line, skip, armed = (fault[name] for name in ("file", "function", "line", "skip", "armed"))
    reached = itertools.count()

    def at_line(frame: FrameType, event: str, _: object) -> Any:
        if event == "line" and frame.f_lineno == line and os.path.exists(armed) and next(reached) >= skip:
            os.kill(os.getpid(), signal.SIGKILL)
        return at_line

    def at_call(frame: FrameType, _: str, __: object) -> Any:
        code = frame.f_code
        return at_line if code.co_name == function and code.co_filename.endswith(file) else None

    threading.settrace(at_call)
    sys.settrace(at_call)


if "WRIT_FAULT" in os.environ:
    install(json.loads(os.environ["WRIT_FAULT"]))
