"""Names are looked up in a bounded time, by so many threads and no more; what is not known in time leads nowhere."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from enforcer.wire.addresses import MAX_ADDRESSES, SystemResolver
from tests.enforcer.host import wait_for
from writ.formats.errors import Unavailable

FOUND = ["192.0.2.1"]


class Silent:
    """A name server that answers once it is told to, and counts who waits for it."""

    def __init__(self) -> None:
        self.answers, self.asked = threading.Event(), list[str]()

    def __call__(self, name: str) -> list[str]:
        self.asked.append(name)
        self.answers.wait(60)
        return FOUND


@pytest.fixture
def silent() -> Iterator[Silent]:
    made = Silent()
    yield made
    made.answers.set()


def test_a_name_that_nobody_answers_for_leads_nowhere_in_time(silent: Silent) -> None:
    with pytest.raises(Unavailable, match=r"name: a\.test: no answer within 0\.1 s"):
        SystemResolver(silent, within=0.1).addresses("a.test")
    assert silent.asked == ["a.test"]


def test_those_that_nobody_waits_for_any_more_are_bounded_and_give_their_places_back(silent: Silent) -> None:
    resolver = SystemResolver(silent, within=0.1, most=2)
    for name in ("a.test", "b.test"):
        with pytest.raises(Unavailable, match="no answer within"):
            resolver.addresses(name)
    with pytest.raises(Unavailable, match=r"c\.test: 2 others are looked up and have no answer"):
        resolver.addresses("c.test")
    assert silent.asked == ["a.test", "b.test"]

    silent.answers.set()
    wait_for(lambda: not any(thread.name == "look-up" for thread in threading.enumerate()))
    assert resolver.addresses("c.test") == (ip_address("192.0.2.1"),)


def test_a_name_that_leads_nowhere_says_so_and_gives_its_place_back() -> None:
    def unknown(_: str) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    resolver = SystemResolver(unknown, most=1)
    for _ in range(3):
        with pytest.raises(Unavailable, match=r"a\.test: Name or service not known"):
            resolver.addresses("a.test")


def test_no_thread_left_is_no_answer_and_takes_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    resolver = SystemResolver(lambda _: FOUND, most=1)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", none_left)
        for _ in range(2):
            with pytest.raises(Unavailable, match="no thread is left"):
                resolver.addresses("a.test")
    assert resolver.addresses("a.test") == (ip_address("192.0.2.1"),)


def test_addresses_come_once_each_and_not_without_bound() -> None:
    many = [f"192.0.2.{at // 2}" for at in range(40)]
    assert SystemResolver(lambda _: many).addresses("a.test") == tuple(ip_address(f"192.0.2.{at}") for at in range(MAX_ADDRESSES))


def test_a_name_that_no_resolver_takes_leads_nowhere() -> None:
    with pytest.raises(Unavailable, match=r"\.test: "):
        SystemResolver().addresses("a" * 64 + ".test")
