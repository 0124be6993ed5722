"""Frames between client, daemon and holder: bounded, in time, and no descriptor leaks."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from enforcer import frames
from enforcer.control import CONTROL, Attach, Attached, Contain, CouldNot, Deliver, Did, Exited, RefusedRun, Run, Started
from tests.parsers import assert_parser_is_total
from writ.formats.errors import FormatError, Unavailable
from writ.formats.reason import Reason

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    yield ours, theirs
    ours.close()
    theirs.close()


def test_frame_arrives_whole_with_its_descriptors(pair: Pair) -> None:
    read, write = os.pipe()
    frames.send(pair[0], b"hello" * 1000, (read, write))
    got = frames.receive_with_descriptors(pair[1], 10_000, 2)
    assert got is not None
    data, descriptors = got
    os.write(descriptors[1], b"through")
    assert (data, os.read(read, 10)) == (b"hello" * 1000, b"through")
    for descriptor in (read, write, *descriptors):
        os.close(descriptor)


def test_end_of_stream_is_none(pair: Pair) -> None:
    pair[0].close()
    assert frames.receive(pair[1], 100, 1) is None
    assert frames.receive_with_descriptors(pair[1], 100, 1) is None


def test_frame_above_the_bound_or_cut_off_is_malformed(pair: Pair) -> None:
    frames.send(pair[0], b"x" * 101)
    with pytest.raises(FormatError, match="at most 100"):
        frames.receive(pair[1], 100, 1)
    ours, theirs = socket.socketpair()
    ours.sendall(b"\0\0\0\5abc")
    ours.close()
    with pytest.raises(FormatError, match="5 bytes"):
        frames.receive(theirs, 100, 1)
    theirs.close()


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_descriptors_of_a_frame_that_is_refused_are_closed(pair: Pair) -> None:
    before = open_descriptors()
    for data in (b"x" * 101, b""):
        frames.send(pair[0], data, (0, 1))
        if data:
            with pytest.raises(FormatError):
                frames.receive_with_descriptors(pair[1], 100, 1)
            pair[1].recv(200)
    got = frames.receive_with_descriptors(pair[1], 100, 1)
    assert got is not None
    for descriptor in got[1]:
        os.close(descriptor)

    assert open_descriptors() == before


def test_more_descriptors_than_three_are_refused_and_closed(pair: Pair) -> None:
    before = open_descriptors()
    frames.send(pair[0], b"x", (0, 1, 2, 0, 1))
    with pytest.raises(FormatError, match="at most 3"):
        frames.receive_with_descriptors(pair[1], 100, 1)

    assert open_descriptors() == before


def test_slow_sender_is_given_up_within_the_deadline(pair: Pair) -> None:
    stop = threading.Event()

    def drip() -> None:
        while not stop.wait(0.05):
            pair[0].sendall(b"\0")

    pair[0].sendall(b"\0\0\1\0")
    thread = threading.Thread(target=drip)
    thread.start()
    with pytest.raises(Unavailable):
        frames.receive(pair[1], 1000, 0.5)
    stop.set()
    thread.join()


def test_send_that_nobody_takes_fails_and_a_reader_of_the_same_socket_does_not(pair: Pair) -> None:
    heard: list[object] = []

    def listen() -> None:
        try:
            heard.append(frames.receive(pair[0], 100, None))
        except Unavailable as error:
            heard.append(error)

    reader = threading.Thread(target=listen)
    reader.start()
    frames.bound_sends(pair[0], 1)
    with pytest.raises(Unavailable):
        frames.send(pair[0], b"x" * (8 << 20))
    reader.join(0.5)
    assert heard == []
    pair[1].sendall(b"\0\0\0\2hi")
    reader.join(5)

    assert heard == [b"hi"]


def test_peer_is_who_the_kernel_says(pair: Pair) -> None:
    peer = frames.peer_of(pair[0])

    assert (peer.pid, peer.uid) == (os.getpid(), os.getuid())
    assert os.getgid() in peer.gids


def test_nobody_listening_is_unavailable() -> None:
    with pytest.raises(Unavailable):
        frames.connect("/nowhere/at/all.sock")


@pytest.mark.parametrize(
    "message",
    [
        Run("a", ("x", "y"), bytes(16)), Run("a", (), None), Started(bytes(16)), Exited(255), CouldNot("a", "b"), Deliver(15),
        Attach(bytes(32), ("python3", "-m"), ("A=b",)),
        RefusedRun("r00000000", (Reason("hold", "a", "b", "c"),), True), Attached(bytes(16), "held", bytes(32)), Did(False),
        Contain(bytes(16), (Reason("hold", "a", "b", "c"),)),
    ],
)  # fmt: skip
def test_messages_are_read_as_they_were_written(message: object) -> None:
    data = CONTROL.encode(message)  # type: ignore[arg-type]  # each is of the family

    assert CONTROL.parse(data) == message
    assert_parser_is_total(CONTROL.parse, data, flips=100)
