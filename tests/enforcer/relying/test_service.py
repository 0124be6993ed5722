"""Agent's call to relying service, through tool, HTTP and middleware, with a real server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
import uvicorn

from enforcer.credential import Held
from enforcer.record import LogReader
from enforcer.relying.middleware import Receive, Scope, Send
from enforcer.tools.service import RelyingService
from enforcer.tools.tool import Led
from tests.enforcer.host import wait_for
from tests.enforcer.relying.test_middleware import Service
from writ.formats.errors import FormatError, Unavailable
from writ.formats.tlog.merkle import leaf_hash
from writ.verdict.received import judge_received

LED = Led(sha256(b"record").digest(), bytes(range(1, 26)))


class Served:
    """The service on a loopback port."""

    def __init__(self, service: Service) -> None:
        self.service = service
        config = uvicorn.Config(self.dispatch, host="127.0.0.1", port=0, log_level="critical", lifespan="off", interface="asgi3")
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)

    def start(self) -> str:
        """Its URL."""
        self.thread.start()
        wait_for(lambda: self.server.started)
        port = self.server.servers[0].sockets[0].getsockname()[1]
        self.service.app = self.service.wrap(origin=f"http://127.0.0.1:{port}")
        return f"http://127.0.0.1:{port}"

    async def dispatch(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Whatever the middleware is now."""
        await self.service.app(scope, receive, send)

    def stop(self) -> None:
        """The end."""
        self.server.should_exit = True
        self.thread.join(5)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(Service(tmp_path))
    yield made
    made.stop()


def granted(served: Served, url: str) -> Held:
    """A token that reaches this port."""
    from writ.formats.grants import grant_set

    scene = served.service.scene
    grants = grant_set([("http.post", f"{url}/v1/*")])
    scene.ask, scene.subject = replace(scene.ask, grants=grants), replace(scene.subject, grants=grants)
    return scene.renew()


def test_call_passes_with_proof_and_the_body_is_the_arguments(served: Served) -> None:
    url = served.start()
    held = granted(served, url)
    tool = RelyingService("reports", url, served.service.scene.key, served.service.scene.clock)
    action = tool.action("v1/report", b'{"day":"today"}')
    reply = tool.call(action, "v1/report", b'{"day":"today"}', held, LED)

    assert (reply.done, reply.status) == (True, 200)
    assert b"day" in reply.body
    (access,) = served.service.sink.kept
    assert (access.parent, access.trace) == (LED.record, LED.trace), "what led to it is in the proof, and the trace goes on"
    assert [access.resource for access in served.service.sink.kept] == [f"{url}/v1/report"]


def test_record_of_the_permit_led_to_the_request_and_its_log_shows_it(served: Served, tmp_path: Path) -> None:
    url = served.start()
    granted(served, url)
    scene = served.service.scene
    tool = RelyingService("reports", url, scene.key, scene.clock)
    log = scene.log(tmp_path)
    gatekeeper = scene.gatekeeper(log)
    action = tool.action("v1/report", b"{}")
    ruling = gatekeeper.ask(action, b"{}", gate="socket")
    assert ruling.leaf is not None
    reply = tool.call(action, "v1/report", b"{}", ruling.held, Led(ruling.leaf))
    gatekeeper.outcome(ruling, done=reply.done, result=reply.body, status=reply.status)
    log.close()
    leaves = [entry.leaf for entry in LogReader(tmp_path, scene.instance).entries()]
    (access,) = served.service.sink.kept
    assert judge_received([access], {scene.instance: leaves}).proven == (access.reference,)
    forged = replace(access, parent=leaf_hash(leaves[-1]))
    assert [reason.got for reason in judge_received([forged], {scene.instance: leaves}).reasons] == ["no action"]


def test_what_the_service_refuses_is_not_done(served: Served) -> None:
    url = served.start()
    held = granted(served, url)
    tool = RelyingService("reports", url, served.service.scene.key, served.service.scene.clock)
    reply = tool.call(tool.action("v2/report", b"{}"), "v2/report", b"{}", held, LED)

    assert (reply.done, reply.status) == (False, 403)
    assert b"grant-missing" in reply.body


def test_service_that_is_away_or_cut_off_is_unavailable(served: Served) -> None:
    url = served.start()
    held = granted(served, url)
    away = RelyingService("reports", "http://127.0.0.1:9", served.service.scene.key, served.service.scene.clock)
    with pytest.raises(Unavailable):
        away.call(away.action("v1/x", b"{}"), "v1/x", b"{}", held, LED)
    tool = RelyingService("reports", url, served.service.scene.key, served.service.scene.clock)
    tool.close()
    with pytest.raises(Unavailable, match="cut off"):
        tool.call(tool.action("v1/x", b"{}"), "v1/x", b"{}", held, LED)


def test_call_in_flight_is_cut(served: Served) -> None:
    url = served.start()
    held = granted(served, url)

    began, over = threading.Event(), threading.Event()

    async def slow(*_: object) -> None:
        began.set()
        await asyncio.to_thread(over.wait, 20)

    served.service.app = slow  # type: ignore[assignment]  # in the place of the middleware
    tool = RelyingService("reports", url, served.service.scene.key, served.service.scene.clock)
    failed: list[str] = []

    def call() -> None:
        try:
            tool.call(tool.action("v1/x", b"{}"), "v1/x", b"{}", held, LED)
        except (Unavailable, FormatError) as error:
            failed.append(str(error))

    thread = threading.Thread(target=call)
    thread.start()
    assert began.wait(10)
    tool.close()
    thread.join(10)
    over.set()

    assert failed


@pytest.mark.parametrize("url", ["http://example.org", "ftp://127.0.0.1", "https://x/?q=1", "https://", "http://127.0.0.1/#a"])
def test_url_that_would_show_the_token_is_refused(tmp_path: Path, url: str) -> None:
    service = Service(tmp_path)
    with pytest.raises(FormatError):
        RelyingService("reports", url, service.scene.key, service.scene.clock)
