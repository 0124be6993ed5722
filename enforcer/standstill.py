"""A word to every thread that reads from somebody: stop, before you take another byte."""

from __future__ import annotations

import os
import select
import socket


class Standstill:
    """Once called it stays so. What a reader that waited here did not take is there for whoever reads next."""

    def __init__(self) -> None:
        self.descriptor = os.eventfd(0, os.EFD_CLOEXEC)
        """It can be read from once there is a standstill."""
        self._called = False

    @property
    def called(self) -> bool:
        """Whether it was called."""
        return self._called

    def call(self) -> None:
        """Every reader stops."""
        self._called = True
        os.eventfd_write(self.descriptor, 1)

    def readable(self, source: socket.socket | int) -> bool:
        """Waits until something, or the end, can be read from `source`. False once there is a standstill, or nothing to read from."""
        poll = select.poll()
        try:
            poll.register(self.descriptor, select.POLLIN)
            poll.register(source, select.POLLIN)
        except (OSError, ValueError):
            return False
        poll.poll()
        return not self._called
