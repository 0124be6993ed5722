"""A software TPM as slow as a real chip: a proxy on the command socket that sleeps before the slow commands.

A TPM does one command at a time, so the sleep is held under one lock, whoever asks.

Source: TPM 2.0 Library Part 2, 6.5.2 (command codes) and 6.9 (command header: tag, size, code).
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_QUOTE: Final = 0x158
_EXTEND: Final = (0x182, 0x13C)
"""TPM2_PCR_Extend and TPM2_PCR_Event."""

_HEADER: Final = struct.Struct(">HII")
_LARGEST: Final = 4096
"""Bytes of a TPM command or response: swtpm's own buffer."""


@dataclass(frozen=True, slots=True)
class Delays:
    """Seconds that a command takes longer than in software; the defaults are those of a discrete chip."""

    quote: float = 0.3
    extend: float = 0.02

    def of(self, code: int) -> float:
        """Seconds to wait before the command `code`."""
        if code == _QUOTE:
            return self.quote
        return self.extend if code in _EXTEND else 0.0


class SlowSocket:
    """Listens at `path` and relays to the TPM at `behind`, slowly, until closed. The control socket is the TPM's own."""

    def __init__(self, path: Path, behind: Path, delays: Delays) -> None:
        self._behind = behind
        self._delays = delays
        self._one_command = threading.Lock()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(os.fspath(path))
        self._listener.listen()
        path.with_name(path.name + ".ctrl").symlink_to(behind.with_name(behind.name + ".ctrl"))
        threading.Thread(target=self._accept, name=f"slow TPM {path.name}", daemon=True).start()

    def close(self) -> None:
        """No new connection is accepted; open ones end with their next command."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):  # a peer that goes away ends its connection, nothing else
            while command := read_message(client):
                _, _, code = _HEADER.unpack_from(command)
                with self._one_command, socket.socket(socket.AF_UNIX) as tpm:
                    time.sleep(self._delays.of(code))
                    tpm.connect(os.fspath(self._behind))
                    tpm.sendall(command)
                    answer = read_message(tpm)
                client.sendall(answer)


def read_message(connection: socket.socket) -> bytes:
    """One whole TPM command or response, or nothing when the peer has closed. Raises OSError on a size no TPM uses."""
    data = b""
    size = _HEADER.size
    while len(data) < size:
        more = connection.recv(size - len(data))
        if not more:
            return b""
        data += more
        if len(data) == _HEADER.size:
            size = _HEADER.unpack(data)[1]
            if not _HEADER.size <= size <= _LARGEST:
                raise OSError(f"TPM message: expected {_HEADER.size} to {_LARGEST} bytes, got {size}")
    return data
