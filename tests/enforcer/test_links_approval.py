"""A daemon's link on which an approval is handed on: judged, answered, and heard on whatever comes of it."""

from __future__ import annotations

import socket
from queue import SimpleQueue

from enforcer import frames
from enforcer.control import CONTROL, MAX_CONTROL, Approve, Approved, Attached, Contain, Control
from enforcer.events import Event, Killed, LinkLost
from enforcer.links import Links
from writ.formats.digest import Digest
from writ.formats.reason import Reason

ONE, OTHER = bytes(16), bytes(range(16))
REASON = Reason("approval-unknown", "approval.refused", "a refused action that waits", "none")


def judge(signed: bytes) -> Approved:
    if signed == b"fault":
        raise ValueError("a bug")
    return Approved(Digest.of(signed).value, (REASON,))


def said(daemon: socket.socket) -> Control:
    data = frames.receive(daemon, MAX_CONTROL, 5.0)
    assert data is not None
    return CONTROL.parse(data)


def test_approval_is_judged_and_a_fault_of_ours_refuses_it_and_ends_nothing() -> None:
    (daemon, link), (client, kept), (near, far) = (socket.socketpair() for _ in range(3))
    events: SimpleQueue[Event] = SimpleQueue()
    links = Links(client, link, events)
    links.approve_by(judge)
    links.open("", ONE, lambda: "running", near)
    assert isinstance(said(daemon), Attached)
    for message in (Approve(OTHER, b"of another"), Approve(ONE, b"fault"), Approve(ONE, b"any"), Contain(ONE, (REASON,))):
        frames.send(daemon, CONTROL.encode(message))
    first, second = said(daemon), said(daemon)
    assert isinstance(first, Approved)
    assert (first.approval, [reason.code for reason in first.reasons]) == (Digest.of(b"fault").value, ["internal"])
    assert second == Approved(Digest.of(b"any").value, (REASON,))
    assert isinstance(events.get(timeout=5.0), Killed)
    daemon.close()
    assert isinstance(events.get(timeout=5.0), LinkLost)
    for one in (link, client, kept, near, far):
        one.close()
