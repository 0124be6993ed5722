"""A web server of HTTP/1.1 that goes on: requests one after another, events, WebSockets, and answers that are none."""

from __future__ import annotations

import base64
import hashlib
import socket
import threading
import time

from tests.world.network import Server

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
go_on = threading.Event()
"""Until it is set, `/events` says its first event only."""
ODD = {
    "/unasked-101": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\nx",
    "/two-lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
    "/huge-head": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000 + b"\r\nContent-Length: 0\r\n\r\n",
    "/short": b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc",
    "/bad-accept": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n",
}


def site(connection: socket.socket, server: Server) -> None:
    """Each request is answered `METHOD TARGET BODY`, until the client has no more. What it heard is kept whole."""
    stream = connection.makefile("rb")
    while True:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            if not (line := stream.readline()):
                return
            head += line
        lines = head.split(b"\r\n")
        method, target, _ = lines[0].decode().split(" ")
        named = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines[1:])}
        body = _body(stream.read, stream.readline, named)
        server.heard += head + body
        path = target.partition("?")[0]
        if path == "/ws":
            _websocket(connection, named, server)
            return
        if path == "/events":
            _events(connection)
        elif path in ODD:
            connection.sendall(ODD[path])
            if path != "/unasked-101":
                return
        elif path == "/late":
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na")
            time.sleep(0.2)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
        elif path == "/extra":
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\naHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
        else:
            said = b"" if method == "HEAD" else b" ".join([method.encode(), target.encode(), body])
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(said), said))


def _body(read, line, named) -> bytes:  # type: ignore[no-untyped-def]  # of a stream
    if named.get(b"transfer-encoding") == b"chunked":
        found = b""
        while size := int(line() or b"0", 16):
            found += read(size)
            line()
        line()
        return found
    return read(int(named.get(b"content-length", b"0")))  # type: ignore[no-any-return]  # of a stream


def _events(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
    for number in range(3):
        if number:
            go_on.wait(10)
        said = b"data: %d\n\n" % number
        connection.sendall(b"%x\r\n%s\r\n" % (len(said), said))
        time.sleep(0.01)
    connection.sendall(b"0\r\n\r\n")


def _websocket(connection: socket.socket, named: dict[bytes, bytes], server: Server) -> None:
    """Agrees, and echoes frames as they are, unmasked: enough for a client that looks at what came back."""
    accept = base64.b64encode(hashlib.sha1(named[b"sec-websocket-key"] + GUID, usedforsecurity=False).digest())
    connection.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n" % accept
    )
    while head := connection.recv(6):  # frames of our clients come whole, and are short
        body = connection.recv(head[1] & 127)
        server.heard += (plain := bytes(byte ^ head[2 + at % 4] for at, byte in enumerate(body)))
        connection.sendall(bytes([head[0], len(plain)]) + plain)
        if head[0] & 15 == 8:
            return
