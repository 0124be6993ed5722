"""One side of an exchange: what the end of it means depends on who made it."""

from __future__ import annotations

import socket
from collections.abc import Callable

import h11
import pytest

from enforcer.gates.egress.side import Http1
from enforcer.wire.limits import Ended
from enforcer.wire.stream import Stream
from writ.formats.errors import FormatError

BEGUN = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("ends, said", [("here", Ended), ("there", FormatError)])
def test_an_answer_that_we_cut_short_is_no_fault_of_the_host(ends: str, said: type[Exception]) -> None:
    ours, host = socket.socketpair()
    with ours, host:
        side = Http1(Stream(ours))
        side.send(h11.Request(method="GET", target="/events", headers=[("Host", "a.example")]))
        side.send(h11.EndOfMessage())
        host.recv(4096)
        host.sendall(BEGUN)
        assert isinstance(side.next(), h11.Response)
        end: Callable[[], object] = side.stop if ends == "here" else host.close
        end()
        with pytest.raises(said):
            side.next()
