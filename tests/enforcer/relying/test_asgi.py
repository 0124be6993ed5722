"""One request, read: a URL with one reading, a body that is whole or none, and what is said of a fault."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from enforcer.relying import asgi
from enforcer.relying.asgi import Message, Room, http_action, read_body, reasons_of, shown
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Refused, Unavailable

NOTHING = Digest.of(b"")


@pytest.mark.parametrize("target", [b"/\xc3\xa4", b"/a%62", b"/a\\b", b"/a#b", b"//a", b"/a/..;b/c", b"/a?b", b"/a?", b"", b"a"])
def test_a_target_with_two_readings_is_no_action(target: bytes) -> None:
    with pytest.raises(FormatError):
        http_action("GET", "https://a.example", target, NOTHING)


def test_parameters_that_are_no_dot_segments_stay() -> None:
    assert http_action("GET", "https://a.example", b"/a;v=1/..b", NOTHING).resource == "https://a.example/a;v=1/..b"


def test_a_room_is_for_so_many_at_once_and_whoever_leaves_makes_room_however_it_ends() -> None:
    room = Room(2)

    def left(number: int) -> None:
        with room:
            raise Unavailable("client", str(number))

    for number in range(3):
        with pytest.raises(Unavailable):
            left(number)
    with room, room, pytest.raises(Refused) as refused:
        left(3)
    assert refused.value.reasons[0].code == "too-many-requests"


SHOWN = [(b"authorization", b"DPoP a.b.c"), (b"dpop", b"d.e.f")]


def test_a_lease_is_shown_beside_token_and_proof_once_or_not_at_all() -> None:
    assert shown({"headers": SHOWN}) == ("a.b.c", "d.e.f", None)
    assert shown({"headers": [*SHOWN, (b"Writ-Lease", b"g")]}) == ("a.b.c", "d.e.f", "g")
    with pytest.raises(FormatError, match="once"):
        shown({"headers": [*SHOWN, (b"writ-lease", b"g"), (b"Writ-Lease", b"h")]})


def receives(*messages: Message) -> Callable[[], Awaitable[Message]]:
    left = list(messages)

    async def receive() -> Message:
        if not left:
            await asyncio.sleep(60)
        return left.pop(0)

    return receive


def test_a_body_is_whole_and_bounded() -> None:
    parts: tuple[Message, ...] = ({"type": "http.request", "body": b"ab", "more_body": True}, {"type": "http.request", "body": b"c"})
    assert asyncio.run(read_body(receives(*parts))) == b"abc"
    with pytest.raises(Refused, match="too-large"):
        asyncio.run(read_body(receives(*parts), most=2))


def test_a_client_that_leaves_or_dawdles_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asgi, "BODY_WITHIN", 0.05)
    begun: Message = {"type": "http.request", "body": b"a", "more_body": True}
    for messages in ((begun, {"type": "http.disconnect"}), (begun,)):
        with pytest.raises(Unavailable) as caught:
            asyncio.run(read_body(receives(*messages)))
        assert [reason.code for reason in reasons_of(caught.value, "here", "r")] == ["unavailable"]
