"""The daemon: launches, tokens, stops and drift, over the host's unix socket.

    Launch       measure, store, extend the start event, answer where the tree lies
    TokenAsk     join the next quote; one quote covers all that wait for it
    Anchor       the checkpoint of an action log into the register of anchors; one extend for all that wait for it
    LeaseAsk     the TPM signs that the last token lives on, if it is as was approved
    ExchangeAsk  the verifier is asked for a token for elsewhere
    Stop         the stop event
    Watch        from now on every drift is pushed, and first those that nobody was told of
    Status       how things stand

It decides nothing: it passes on what the verifier decided, and the enforcer
verifies all of that again. Without verifier or TPM the answer is Unreachable,
which permits nothing.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar, cast, get_args

from attestor.collect.instances import Instance, Instances
from attestor.collect.runtime_log import RuntimeLog
from attestor.config import Enrolment
from attestor.evidence import Attestation, Attested, reasons_for
from attestor.exchange import ask as ask_verifier
from attestor.measure.governance import not_said
from attestor.measure.manifest import Measured, find_manifest, measure_manifest
from attestor.measure.store import Store
from attestor.measure.watch import Watch
from writ.formats.anchor import MAX_BATCHES, MAX_ROWS, AnchorRow
from writ.formats.digest import Digest
from writ.formats.eat import parse_token
from writ.formats.errors import FormatError, Refused, Unavailable
from writ.formats.eventlog.runtime import ComponentEvent, DriftEvent, Outcome, RuntimeEvent, StartEvent, StopEvent, command_digest
from writ.formats.evidence import MAX_REQUESTS, InstanceRequest
from writ.formats.exchange import ExchangeAnswer, ExchangeRequest
from writ.formats.local import (
    LOCAL,
    MAX_FRAME,
    Anchor,
    Done,
    Drift,
    ExchangeAsk,
    ExchangeGiven,
    Launch,
    Launched,
    LeaseAsk,
    LeaseGiven,
    Local,
    Refusal,
    Status,
    StatusAnswer,
    Stop,
    TokenAsk,
    TokenGiven,
    Unreachable,
)
from writ.formats.local import (
    Watch as WatchAsk,
)
from writ.formats.measurement import encode_measurement
from writ.formats.reason import Reason
from writ.service import cli
from writ.service.observe import get_logger
from writ.service.peers import Connection, PeerServer, serve
from writ.service.uplink import Uplink

T = TypeVar("T")

_LOG: Final = get_logger(__name__)
_FINAL: Final = frozenset(
    {"action-log-inconsistent", "anchor-inconsistent", "instance-drifted", "instance-tainted", "instance-stopped", "token-revoked"}
)
_MAX_SHOWN_PATH: Final = 4096
_COLLECT_SECONDS: Final = 3600.0
_HASHING_THREADS: Final = 2
_ANCHORS_WITHIN: Final = 0.1
"""Seconds that an extend waits for other instances: they anchor at the same moments, and one extend does for all."""
_LINGER: Final = 1.0
_ASKS_WITHIN: Final = 0.3
"""Seconds that a quote waits for launches under way, and after each for its holder to ask: a burst costs one or two quotes, not four."""


class AgentDaemon:
    """One attestor at work. `run` serves until cancelled; what it is made of is given to it."""

    def __init__(
        self, *, enrolment: Enrolment, log: RuntimeLog, attestation: Attestation, exchange: Uplink, store: Store, watch: Watch,
        manifests: Path, governance: Callable[[], tuple[ComponentEvent, ...]],
    ) -> None:  # fmt: skip
        """`exchange` is a line to the verifier of its own, so that no quote waits for a token that goes elsewhere."""
        self._enrolment, self._log, self._attestation = enrolment, log, attestation
        self._store, self._watch, self._manifests, self._governance = store, watch, manifests, governance
        self._instances = Instances()
        self._boots = 0
        self._exchange_line, self._exchanging = exchange, asyncio.Lock()
        self._logging = asyncio.Lock()
        self._gate = asyncio.Lock()
        self._launching = 0
        self._expected: dict[bytes, float] = {}
        self._owed: list[RuntimeEvent] = []
        self._waiting: list[tuple[TokenAsk, asyncio.Future[Local]]] = []
        self._asked = asyncio.Event()
        self._rows: dict[bytes, tuple[AnchorRow, asyncio.Future[None]]] = {}
        self._anchoring = asyncio.Lock()
        self._watchers: set[Connection] = set()
        self._verdict = "none"
        self._hashing = ThreadPoolExecutor(_HASHING_THREADS, thread_name_prefix="hash")
        self._hashers = asyncio.Semaphore(_HASHING_THREADS)  # who came first is done first: its event goes to the TPM while others hash

    # --- life --------------------------------------------------------------------------------------------------------

    async def run(self, socket: Path, uids: frozenset[int], ready: Callable[[], None] = lambda: None) -> None:
        """Serve on `socket` until cancelled; `ready` is called once it listens.

        1. Logs and registers agree; a clean log begins with what governs the host, and one of other code goes on with it.
        2. Instances of this boot that still run are followed again; what drifted meanwhile is found in the first turn.
        3. Listen, attest, watch. The end of one of these is the end of all: then nothing is answered. Trees that no instance uses go
           meanwhile, before the first launch: a token waits for none of them.
        """
        # 1, 2
        async with self._logging:
            await asyncio.to_thread(self._log.open)
            await self._begin()
        await asyncio.to_thread(self._attestation.open_anchors)
        await self._look_at_ak()
        # 3
        server: PeerServer = await serve(
            socket, self._attend, allowed_uids=uids, max_frame=MAX_FRAME, mode=0o666 if len(uids) > 2 else 0o600
        )
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._attest())
                tasks.create_task(self._watch.run(self._notice))
                tasks.create_task(self._collect())
                ready()
        finally:
            server.close()
            await server.wait_closed()
            self._hashing.shutdown(wait=False, cancel_futures=True)
            self._attestation.close()
            self._exchange_line.close()
            self._log.close()

    async def _look_at_ak(self) -> None:
        """A TPM that was cleared since the enrolment is said at once, with its remedy; what runs is watched all the same."""
        try:
            await asyncio.to_thread(self._attestation.check_ak)
        except Refused as refused:
            self._verdict = refused.reasons[0].code
            _LOG.error(self._verdict, detail=str(refused.reasons[0]), next=refused.reasons[0].remedy)
        except Unavailable as error:
            self._verdict = "unreachable"
            _LOG.warning("unreachable", detail=str(error))

    async def _begin(self) -> None:
        """The log of this boot says what governs it now, and its running instances are followed. Holds `_logging`."""
        for event in not_said(await asyncio.to_thread(self._governance), self._log.events):
            await asyncio.to_thread(self._log.append, event)
        self._boots = self._log.boots
        for gone in self._instances.in_phase("running", "drifted"):
            self._watch.leave(gone.start.instance)
        self._instances = Instances(self._log.events)
        for instance in self._instances.in_phase("running"):
            await self._follow(instance)
        _LOG.info("log-open", events=len(self._log), instances=len(self._instances))

    async def _follow(self, instance: Instance) -> None:
        """The instance's tree is watched; where nothing is left to compare it with, that is drift."""
        start = instance.start
        known = await asyncio.to_thread(self._store.recall, start.manifest_root)
        if known is not None:
            self._watch.follow(start.instance, start.manifest_root, known[1])
            return
        await self._append(DriftEvent(start.instance, "store", start.manifest_root.hex(), start.manifest_root, None))

    async def _collect(self) -> None:
        """Unused trees go, at once and then each hour, while nothing is being launched."""
        while True:
            async with self._gate:
                if self._launching == 0:
                    gone = await asyncio.to_thread(self._store.collect, self._instances.roots())
                    _LOG.info("store-collected", trees=gone)
            await asyncio.sleep(_COLLECT_SECONDS)

    # --- the socket --------------------------------------------------------------------------------------------------

    async def _attend(self, connection: Connection) -> None:
        """One peer: each message is answered before the next is read."""
        try:
            while (data := await connection.receive(None)) is not None:
                message = LOCAL.parse(data)
                if isinstance(message, WatchAsk):
                    await self._begin_watch(connection)
                    continue
                await connection.send(LOCAL.encode(await self._answer(message)))
        finally:
            self._watchers.discard(connection)

    async def _answer(self, message: Local) -> Local:
        try:
            if isinstance(message, Launch):
                return await self._launch(message)
            if isinstance(message, TokenAsk):
                return await self._token(message)
            if isinstance(message, LeaseAsk):
                return await self._lease(message)
            if isinstance(message, Anchor):
                return await self._anchor(message)
            if isinstance(message, ExchangeAsk):
                return await self._exchange(message)
            if isinstance(message, Stop):
                return await self._stop(message)
        except Refused as refused:
            return Refusal(refused.reasons, final=False)
        except FormatError as error:
            return Refusal((Reason("malformed", error.what[:200], error.expected, error.got),), False)
        except Unavailable as error:
            return _unreachable(error)
        if isinstance(message, Status):
            return StatusAnswer(self._enrolment.host, True, len(self._log), len(self._instances), self._verdict)
        asks = "launch, token-ask, anchor, lease-ask, exchange-ask, stop, watch or status"
        return Refusal((Reason("malformed", "message", asks, type(message).__name__),), False)

    async def _begin_watch(self, connection: Connection) -> None:
        self._watchers.add(connection)
        await connection.send(LOCAL.encode(Done()))
        for instance in self._instances.in_phase("drifted"):
            if instance.drift is not None:
                await connection.send(LOCAL.encode(_drift(instance.drift)))

    # --- launch and stop ---------------------------------------------------------------------------------------------

    async def _launch(self, launch: Launch) -> Launched:
        """1. Measure into the store. 2. A false tree of this root is drift. 3. Assemble. 4. Follow, then log: none runs unwatched."""
        async with self._gate:
            self._launching += 1
        try:
            async with self._hashers:
                # 1
                measured = await self._hashed(lambda: self._measure(launch))
                root = measured.measurement.root()
                # 2
                for drift in await self._hashed(lambda: self._watch.scan(only=frozenset((root,)))):
                    await self._notice(drift)
                # 3
                place = await self._hashed(lambda: self._store.assemble(measured.measurement, measured.trees))
            # 4
            instance = os.urandom(16)
            self._watch.follow(instance, root, measured.trees)
            try:
                await self._started(launch, measured, root, instance)
            except BaseException:
                self._watch.leave(instance)
                raise
        finally:
            self._launching -= 1
        self._expected[instance] = asyncio.get_running_loop().time()
        manifest, command = measured.manifest, measured.measurement.command
        _LOG.info("launched", agent=launch.agent, instance=instance.hex(), root=root.hex())
        return Launched(instance, encode_measurement(measured.measurement), str(place), command, manifest.audience, manifest.grants)

    def _measure(self, launch: Launch) -> Measured:
        manifest, path = find_manifest(self._manifests, launch.agent)
        store = self._store
        return measure_manifest(
            manifest, path.parent, domain=self._enrolment.domain, command=launch.command, read=store.read, held=store
        )  # fmt: skip

    async def _started(self, launch: Launch, measured: Measured, root: Digest, instance: bytes) -> None:
        event = StartEvent(
            instance=instance,
            agent=str(measured.measurement.agent),
            manifest_root=root,
            command=command_digest(measured.measurement.command),
            session_key=launch.session_key.thumbprint(),
            parent=launch.parent,
            mutable=(),
        )
        async with self._logging:
            await self._settle()
            self._instances.may_start(event.session_key, event.parent)
            await self._append(event)

    async def _stop(self, stop: Stop) -> Done:
        async with self._logging:
            await self._settle()
            if self._instances.get(stop.instance).phase != "stopped":
                if stop.outcome not in get_args(Outcome):
                    raise FormatError("stop.outcome", "exited, killed or lost", repr(stop.outcome)[:40])
                self._watch.leave(stop.instance)
                self._attestation.over(stop.instance)
                self._expected.pop(stop.instance, None)
                await self._append(StopEvent(stop.instance, cast(Outcome, stop.outcome)))
        return Done()

    async def _settle(self) -> None:
        """Nothing is owed: the log is that of this boot, and every event that happened is in it and in the register. Holds `_logging`."""
        await asyncio.to_thread(self._log.complete)
        if self._boots != self._log.boots or len(self._log) == 0:
            await self._begin()
        while self._owed:
            event = self._owed.pop(0)
            if self._instances.knows(event):
                await self._append(event)

    async def _append(self, event: RuntimeEvent) -> None:
        """The event is in log and register. Raises Unavailable if not: then it is owed, or, for a start, its stop. Holds `_logging`."""
        before = self._log.written
        try:
            await asyncio.to_thread(self._log.append, event)
        except Unavailable:
            if self._log.written == before and not isinstance(event, StartEvent):
                self._owed.append(event)
            elif self._log.written > before:
                self._instances.note(event)
                if isinstance(event, StartEvent):
                    self._owed.append(StopEvent(event.instance, "lost"))
            raise
        self._instances.note(event)

    # --- drift -------------------------------------------------------------------------------------------------------

    async def _notice(self, drift: DriftEvent) -> None:
        """The drift is in the log, and every watcher is told; without a TPM they are told all the same."""
        _LOG.warning("drift", instance=drift.instance.hex(), component=drift.component, path=drift.path)
        self._instances.note(drift)  # from now on no token is passed on, whatever becomes of the log
        try:
            async with self._logging:
                await self._append(drift)
        except (Unavailable, Refused) as error:
            _LOG.error("drift-not-extended", detail=str(error))
        data = LOCAL.encode(_drift(drift))
        await asyncio.gather(*(self._push(connection, data) for connection in tuple(self._watchers)))

    async def _push(self, connection: Connection, data: bytes) -> None:
        try:
            await connection.send(data)
        except Unavailable:
            self._watchers.discard(connection)

    # --- tokens ------------------------------------------------------------------------------------------------------

    async def _token(self, ask: TokenAsk) -> Local:
        self._instances.get(ask.instance)
        self._expected.pop(ask.instance, None)
        answer: asyncio.Future[Local] = asyncio.get_running_loop().create_future()
        self._waiting.append((ask, answer))
        self._asked.set()
        return await answer

    async def _lease(self, ask: LeaseAsk) -> Local:
        """What the TPM says for a running instance; it is not asked for one that drifted or stopped, though it would refuse by itself."""
        if (gone := self._not_running(ask.instance)) is not None:
            return gone
        return LeaseGiven(await asyncio.to_thread(self._attestation.lease, ask.instance))

    async def _anchor(self, ask: Anchor) -> Local:
        """The checkpoint is in the register, beside those of all that asked meanwhile; one of an instance at a time."""
        if (gone := self._not_running(ask.instance)) is not None:
            return gone
        if ask.instance in self._rows or ask.size == 0:
            raise FormatError("anchor", "a log with records, and no anchor of it under way", f"{ask.size} records")
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._rows[ask.instance] = AnchorRow(ask.instance, ask.size, ask.root), done
        async with self._anchoring:
            while not done.done():
                await asyncio.sleep(_ANCHORS_WITHIN)
                await self._extend_rows()
        await done
        return Done()

    async def _extend_rows(self) -> None:
        """All that wait are in one extend, and hear of it; as many as there is room for, who came first. Holds `_anchoring`."""
        taken = [self._rows.pop(name) for name in list(self._rows)[:MAX_ROWS]]
        try:
            left = await asyncio.to_thread(self._attestation.anchor, tuple(row for row, _ in taken))
        except (Refused, Unavailable) as error:
            for _, waits in taken:
                waits.set_exception(error)
        except BaseException:
            for _, waits in taken:
                waits.cancel()
            raise
        else:
            limit = f"{MAX_BATCHES} batches of {MAX_ROWS} checkpoints between two quotes"
            full = Refused(Reason("anchors-full", "anchors", limit, "one more"))
            for row, waits in taken:
                waits.set_exception(full) if row in left else waits.set_result(None)

    async def _exchange(self, ask: ExchangeAsk) -> Local:
        """The verifier's token for elsewhere, of a running instance; one question at a time. Of drift we may know before it does."""
        request = ExchangeRequest(ask.audience, ask.token, ask.proof, ask.lease)
        if (shown := parse_token(ask.token).claims.instance) != ask.instance:
            raise FormatError("exchange-ask.token", f"a token of {ask.instance.hex()}", shown.hex())
        async with self._exchanging:
            if (gone := self._lineage_gone(ask.instance)) is not None:
                return gone
            path = f"/v1/hosts/{self._enrolment.host}/exchange"
            answer = await asyncio.to_thread(ask_verifier, self._exchange_line, path, request, ExchangeAnswer)
        return self._lineage_gone(ask.instance) or ExchangeGiven(answer.token, answer.decision, answer.key)

    def _lineage_gone(self, instance: bytes) -> Refusal | None:
        """None while the instance runs and whatever it descends from."""
        gone, above = self._not_running(instance), self._instances.get(instance).start.parent
        while gone is None and above is not None:
            parent = self._instances.get(above)
            if parent.phase != "running":
                gone = Refusal((Reason("parent-refused", f"instance.{instance.hex()}.parent", "running", parent.phase),), False)
            above = parent.start.parent
        return gone

    def _not_running(self, instance: bytes) -> Refusal | None:
        phase = self._instances.get(instance).phase
        if phase == "running":
            return None
        return Refusal((Reason(f"instance-{phase}", f"instance.{instance.hex()}", "running", phase),), True)

    async def _attest(self) -> None:
        """One attestation after another, while anyone waits; each covers all that asked before its quote.

        What is owed to the log comes first, since no quote may miss a drift; who asks while it is written is in time.
        """
        while True:
            await self._asked.wait()
            await self._linger()
            fault = await self._settled()
            batch = self._next_batch()
            try:
                answers = await self._attested(tuple(ask for ask, _ in batch), fault)
            except asyncio.CancelledError:
                for _, answer in batch:
                    answer.cancel()
                raise
            for ask, answer in batch:
                if not answer.done():
                    answer.set_result(answers[ask.instance])

    async def _linger(self) -> None:
        """No launch is under way, and whoever was launched a moment ago has asked; or `_LINGER` seconds have passed."""
        clock = asyncio.get_running_loop().time
        until = clock() + _LINGER
        while clock() < until:
            self._expected = {instance: at for instance, at in self._expected.items() if clock() - at < _ASKS_WITHIN}
            if self._launching == 0 and not self._expected:
                return
            await asyncio.sleep(0.01)

    def _next_batch(self) -> list[tuple[TokenAsk, asyncio.Future[Local]]]:
        """Those who wait, one request an instance; a second of the same instance waits for the next quote."""
        batch: list[tuple[TokenAsk, asyncio.Future[Local]]] = []
        left: list[tuple[TokenAsk, asyncio.Future[Local]]] = []
        taken: set[bytes] = set()
        for ask, answer in self._waiting:
            if answer.done():  # its peer is gone
                continue
            if ask.instance in taken or len(batch) >= MAX_REQUESTS:
                left.append((ask, answer))
            else:
                taken.add(ask.instance)
                batch.append((ask, answer))
        self._waiting = left
        if not left:
            self._asked.clear()
        return batch

    async def _settled(self) -> Exception | None:
        """Nothing is owed to the log; or why that could not be brought about."""
        try:
            async with self._logging:
                await self._settle()
        except Exception as error:  # noqa: BLE001 - raised again where each who waits is answered
            return error
        return None

    async def _attested(self, asks: tuple[TokenAsk, ...], fault: Exception | None) -> Mapping[bytes, Local]:
        """The answer to each instance, whatever happens; `fault` is what stands against the log."""
        unknown: dict[bytes, Local] = {}
        try:
            if fault is not None:
                raise fault
            requests = tuple(_request(ask) for ask in sorted(asks, key=lambda ask: ask.instance))
            for request in requests:
                try:
                    self._instances.get(request.instance)
                except Refused as refused:
                    unknown[request.instance] = Refusal(refused.reasons, False)
            requests = tuple(request for request in requests if request.instance not in unknown)
            if not requests:
                return unknown
            measurements = await asyncio.to_thread(self._measurements, requests)
            attested = await asyncio.to_thread(self._attestation.attest, requests, measurements)
        except Refused as refused:
            self._verdict = refused.reasons[0].code
            return {ask.instance: Refusal(refused.reasons, final=False) for ask in asks}  # no decision says so
        except (Unavailable, FormatError) as error:
            self._verdict = "unreachable"
            _LOG.warning("unreachable", detail=str(error))
            return {ask.instance: _unreachable(error) for ask in asks}
        except Exception as error:  # noqa: BLE001 - a bug must not leave the others waiting for ever, nor permit anything
            self._verdict = "internal"
            _LOG.error("attest-failed", exception=error)
            return {ask.instance: Unreachable("internal fault of the attestor; see its log") for ask in asks}
        self._verdict = attested.verdict
        return {ask.instance: self._told(ask, attested) for ask in asks if ask.instance not in unknown} | unknown

    def _measurements(self, requests: tuple[InstanceRequest, ...]) -> dict[bytes, bytes]:
        found: dict[bytes, bytes] = {}
        for request in requests:
            known = self._store.recall_measurement(self._instances.get(request.instance).start.manifest_root)
            if known is not None:
                found[request.instance] = encode_measurement(known)
        return found

    def _told(self, ask: TokenAsk, attested: Attested) -> Local:
        answer = attested.answer
        token, reasons = reasons_for(answer, ask.instance)
        decided = token is None
        if token is not None and (phase := self._instances.get(ask.instance).phase) != "running":
            # It drifted or stopped after the quote: the verifier does not know yet, we do.
            token, reasons = None, (Reason(f"instance-{phase}", f"instance.{ask.instance.hex()}", "running", phase),)
        if token is None:
            return Refusal(reasons, any(reason.code in _FINAL for reason in reasons), decided)
        return TokenGiven(
            token=token,
            decision=answer.decision,
            result=answer.result,
            policy=answer.policy,
            token_keys=answer.token_keys,
            decision_key=self._enrolment.decision_key,
            evidence=attested.evidence,
            receipt=attested.receipt,
        )

    async def _hashed(self, work: Callable[[], T]) -> T:
        running: Awaitable[T] = asyncio.get_running_loop().run_in_executor(self._hashing, work)
        return await running


def _request(ask: TokenAsk) -> InstanceRequest:
    return InstanceRequest(
        ask.instance, ask.session_key, ask.audience, ask.grants, ask.log_size, ask.log_root, ask.log_from, ask.log_proof,
        ask.anchored,
    )  # fmt: skip


def _drift(event: DriftEvent) -> Drift:
    return Drift(event.instance, event.component, event.path[:_MAX_SHOWN_PATH], event.expected, event.got)


def _unreachable(error: Exception) -> Unreachable:
    return Unreachable(cli.printable(str(error))[:1000])
