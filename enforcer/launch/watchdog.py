"""Outlives the holder and kills its cgroup when it dies. Imports nothing of ours.

Run as `python -I -S watchdog.py CGROUP`, standard input being the read end of a pipe whose only write end is the holder's.
End of file means that the holder is gone, whatever the way: everything in the cgroup is killed, again and again until the
directory itself could be removed, so that a child which had not joined yet cannot join any more.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` with its enums is a third of what a start costs
import os
import sys
import time

GIVE_UP = 30.0
"""Seconds. The daemon sweeps what is then still there."""


def put(path: str, text: str) -> None:
    """Write `text` to a cgroup file; one that is gone is fine."""
    try:
        with open(path, "w", encoding="ascii") as file:
            file.write(text)
    except OSError:
        return


def removed(path: str) -> bool:
    """Remove the cgroup with all below it; whether it is gone."""
    try:
        below = [entry.path for entry in os.scandir(path) if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return True
    except OSError:
        return False
    for child in below:
        removed(child)
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def main(path: str) -> int:
    """Wait for the holder to end, then empty and remove `path`. 0 when it is gone."""
    for number in (_signal.SIGTERM, _signal.SIGINT, _signal.SIGHUP, _signal.SIGQUIT):
        _signal.signal(number, _signal.SIG_IGN)
    while os.read(0, 64):
        pass
    end = time.monotonic() + GIVE_UP
    while not removed(path):
        put(f"{path}/cgroup.kill", "1")
        put(f"{path}/cgroup.freeze", "0")
        if time.monotonic() > end:
            return 1
        time.sleep(0.002)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
