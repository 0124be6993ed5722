"""The daemon: one a host. It has a holder forked for each run, watches drift, and sweeps up after holders that died.

It holds no session key, no token and no log, but the key that signs checkpoints for the
store of records: its death costs no agent its life. Each
holder has a link to it; when that breaks, the holder holds, and a new daemon
finds the living holders by their sockets and attaches to them; those of other
code come over to its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import socket
import threading
import time
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final

from enforcer import frames
from enforcer.code_id import installed_code
from enforcer.config import EnforcerConfig
from enforcer.control import (
    CONTROL,
    MAX_CONTROL,
    Approve,
    Approved,
    Attach,
    Attached,
    Contain,
    Control,
    CouldNot,
    Did,
    Exited,
    RefusedRun,
    Run,
    Stored,
)
from enforcer.launch.cgroup import Cgroup, instances_below, parent_of
from enforcer.launch.image import sweep
from enforcer.launch.rooms import clear_rooms
from enforcer.relay import Relay, next_drift
from enforcer.shipping import Shipping
from enforcer.zygote import Zygote, environment, takeover
from writ.formats.errors import FormatError, Unavailable
from writ.formats.local import Drift, Stop, Unreachable
from writ.formats.reason import Reason
from writ.service import observe
from writ.service.clock import SystemClock

_LOG = observe.get_logger(__name__)
MAX_CLIENTS: Final = 64
REQUEST_WITHIN: Final = 5.0
WATCH_AGAIN: Final = 0.5
SWEEP_AGAIN: Final = 30.0
APPROVED_WITHIN: Final = 5.0
"""Seconds for a holder to say what it makes of an approval."""
COME_OVER_WITHIN: Final = 300.0
"""Seconds for a holder of other code to come over to ours, frozen, among hundreds that do so at once."""


class Supervisor:
    """The daemon of one host. `serve` returns only when its socket is closed."""

    def __init__(self, config: EnforcerConfig) -> None:
        """Everything that a launch needs is there. Raises Unavailable, FormatError."""
        self._config = config
        config.make_folders()
        config.trust()
        installed_code()
        self._parent = parent_of(config.cgroup)
        self._sole = _only_daemon(config.run_dir / "daemon.lock")
        self._relay = Relay(str(config.attestor_socket))
        self._links: dict[bytes, socket.socket] = {}
        self._approving: dict[bytes, SimpleQueue[Approved]] = {}
        self._lock = threading.Lock()
        self._room = threading.BoundedSemaphore(MAX_CLIENTS)
        self._shipping = Shipping(config, SystemClock(), self._living, self._tell_stored) if config.record_store else None
        self._find_holders()
        self._zygote = Zygote(config)
        gid = config.operator_gid if config.operator_gid >= 0 else os.getgid()
        self._server = frames.listen(str(config.control_socket), uid=os.getuid(), gid=gid, mode=0o660)

    def serve(self) -> None:
        """Accept clients, watch drift, until `close`."""
        threading.Thread(target=self._watch_drift, name="drift", daemon=True).start()
        threading.Thread(target=self._sweep_images, name="images", daemon=True).start()
        if self._shipping is not None:
            self._shipping.begin()
        _LOG.info("serving", socket=str(self._config.control_socket))
        for connection in frames.connections(self._server):
            peer = frames.peer_of(connection)
            allowed = peer.uid in (0, os.getuid()) or (self._config.operator_gid >= 0 and self._config.operator_gid in peer.gids)
            if not allowed or not self._room.acquire(blocking=False):
                _LOG.warning("client-refused", uid=peer.uid, pid=peer.pid)
                connection.close()
                continue
            threading.Thread(target=self._attend, args=(connection,), name="client", daemon=True).start()

    def close(self) -> None:
        """No client is accepted any more, and no record shipped. Holders hold until another daemon attaches."""
        self._server.close()
        if self._shipping is not None:
            self._shipping.close()

    # --- clients -------------------------------------------------------------------------------------------------------

    def _attend(self, connection: socket.socket) -> None:
        """One request. The connection of a run lives on in its holder."""
        try:
            got = frames.receive_with_descriptors(connection, MAX_CONTROL, REQUEST_WITHIN)
            if got is None:
                return
            data, descriptors = got
            try:
                self._answer(connection, CONTROL.parse(data), data, descriptors)
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)
        except (FormatError, Unavailable) as error:
            with contextlib.suppress(Unavailable):
                frames.send(connection, CONTROL.encode(CouldNot("request", str(error)[:1000])))
        except Exception as error:  # noqa: BLE001 - one client's fault is not another's end
            _LOG.error("client-failed", exception=error)
        finally:
            connection.close()
            self._room.release()

    def _answer(self, connection: socket.socket, message: Control, data: bytes, descriptors: tuple[int, ...]) -> None:
        if isinstance(message, Run):
            if len(descriptors) != 3:
                raise FormatError("run", "three descriptors: standard input, output, error", f"{len(descriptors)}")
            if message.child and frames.peer_of(connection).uid != os.getuid():
                raise FormatError("run", "a child instance asked for by its parent's holder", "an operator")
            self._start_holder(connection, data, descriptors)
        elif isinstance(message, Contain):
            _LOG.warning("kill-asked", instance=message.instance.hex(), rules=[r.code for r in message.reasons])
            frames.send(connection, CONTROL.encode(Did(self._contain(message))))
        elif isinstance(message, Approve):
            frames.send(connection, CONTROL.encode(self._hand_on(message)))
        else:
            raise FormatError("request", "run, contain or approve", type(message).__name__)

    def _start_holder(self, client: socket.socket, run: bytes, stdio: tuple[int, ...]) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        frames.bound_sends(ours)
        try:
            self._zygote.fork(run, client.fileno(), theirs.fileno(), stdio)
        except Unavailable:
            ours.close()
            raise
        finally:
            theirs.close()
        threading.Thread(target=self._follow, args=(ours,), name="holder", daemon=True).start()

    # --- holders -------------------------------------------------------------------------------------------------------

    def _follow(self, link: socket.socket, instance: bytes | None = None) -> None:
        """Know the holder by its link until the link ends; one that ends without saying so has died, and is swept up after.

        `instance` is known of one that was there before us: it has `COME_OVER_WITHIN` to run our code, or is swept up as if it had died.
        """
        ended, within = False, None if instance is None else COME_OVER_WITHIN
        with contextlib.suppress(Unavailable, FormatError):
            while (data := frames.receive(link, MAX_CONTROL, within)) is not None:
                message = CONTROL.parse(data)
                if isinstance(message, Attached):
                    if within is not None and message.code != installed_code():
                        raise FormatError("attached", "a holder that came over to our code", message.code.hex()[:16])
                    instance, within = message.instance, None
                    with self._lock:
                        self._links[instance] = link
                    if self._shipping is not None:
                        self._tell_stored(instance, self._shipping.size_of(instance))
                if isinstance(message, Approved):
                    with self._lock:
                        waiting = self._approving.get(message.approval)
                    if waiting is not None:
                        waiting.put(message)
                ended = ended or isinstance(message, Exited | RefusedRun | CouldNot)
        if instance is not None:
            with self._lock:
                if self._links.get(instance) is link:
                    del self._links[instance]
            if not ended:
                self._sweep(instance)
        link.close()

    def _living(self) -> list[bytes]:
        with self._lock:
            return list(self._links)

    def _tell_stored(self, instance: bytes, size: int) -> None:
        """The holder knows how many of its records are off the host. One that is gone need not."""
        with self._lock:
            link = self._links.get(instance)
        if link is not None:
            with contextlib.suppress(Unavailable):
                frames.send(link, CONTROL.encode(Stored(instance, size)))

    def _contain(self, message: Contain) -> bool:
        """Tell the holder to kill; where it cannot be told, kill the cgroup."""
        with self._lock:
            link = self._links.get(message.instance)
        if link is not None:
            try:
                frames.send(link, CONTROL.encode(message))
                return True
            except Unavailable:
                pass
        if not Cgroup.find(self._parent, message.instance.hex()).exists():
            return False
        self._sweep(message.instance)
        return True

    def _hand_on(self, message: Approve) -> Control:
        """What the holder makes of an approval; Did where no such instance is held here. It is not judged here.

        One that is being judged already is refused. Raises Unavailable where the holder says nothing.
        """
        name = hashlib.sha256(message.approval).digest()
        answer: SimpleQueue[Approved] = SimpleQueue()
        with self._lock:
            link = self._links.get(message.instance)
            if link is None:
                return Did(False)
            if name in self._approving:
                return Approved(name, (Reason("conflict", "approval", "one that is not being judged", name.hex()),))
            self._approving[name] = answer
        try:
            frames.send(link, CONTROL.encode(message))
            said = answer.get(timeout=APPROVED_WITHIN)
        except Empty:
            raise Unavailable("holder", f"no answer within {APPROVED_WITHIN:.0f} s; ask for the action to see") from None
        finally:
            with self._lock:
                del self._approving[name]
        _LOG.info("approval", instance=message.instance.hex(), approval=name.hex(), rules=[reason.code for reason in said.reasons])
        return said

    def _sweep(self, instance: bytes) -> None:
        """After a holder that died: nothing of its instance runs, its names are gone, and the attestor knows."""
        cgroup = Cgroup.find(self._parent, instance.hex())
        if cgroup.exists() and not (cgroup.kill() and cgroup.remove()):
            _LOG.error("sweep-incomplete", instance=instance.hex())
        self._config.holder_socket(instance).unlink(missing_ok=True)
        _LOG.warning("holder-lost", instance=instance.hex())
        if isinstance(self._relay.ask(Stop(instance, "lost")), Unreachable):
            _LOG.warning("stop-not-told", instance=instance.hex(), outcome="lost")
        if not (cgroup.exists() or clear_rooms(self._config.agent_dir(instance))):
            _LOG.warning("home-left", path=str(self._config.agent_dir(instance)))

    def _find_holders(self) -> None:
        """Attach to every holder that lives, so that it comes over to our code; sweep up after every one that does not."""
        living: set[str] = set()
        attach = CONTROL.encode(Attach(installed_code(), takeover(), tuple(f"{name}={value}" for name, value in environment().items())))
        for path in sorted((self._config.run_dir / "holders").glob("*.sock")):
            instance = bytes.fromhex(path.stem)
            try:
                link = frames.connect(str(path))
                frames.send(link, attach)
            except Unavailable:
                self._sweep(instance)
                continue
            frames.bound_sends(link)
            living.add(path.stem)
            with self._lock:
                self._links[instance] = link
            threading.Thread(target=self._follow, args=(link, instance), name="holder", daemon=True).start()
        for instance in instances_below(self._parent):
            if instance.hex() not in living:
                self._sweep(instance)

    def _sweep_images(self) -> None:
        """An image that no instance has used for a while gives its memory back."""
        while True:
            try:
                sweep(self._config.images_dir, self._config.image_keep)
            except (Unavailable, OSError) as error:
                _LOG.warning("images-left", detail=str(error)[:200])
            time.sleep(SWEEP_AGAIN)

    # --- drift -----------------------------------------------------------------------------------------------------------

    def _watch_drift(self) -> None:
        """Every drift the attestor reports kills that instance and no other. While the attestor is away tokens lapse instead."""
        told = False
        while True:
            try:
                connection = self._relay.watch()
                with connection:
                    told = False
                    while True:
                        self._drifted(next_drift(connection))
            except Unavailable as error:
                if not told:
                    _LOG.warning("drift-watch-lost", detail=error.detail)
                told = True
                time.sleep(WATCH_AGAIN)

    def _drifted(self, drift: Drift) -> None:
        got = "none" if drift.got is None else str(drift.got)
        reason = Reason("instance-drifted", f"{drift.component}:{drift.path}"[:200], str(drift.expected), got)
        _LOG.warning("drift", instance=drift.instance.hex(), component=drift.component, path=drift.path)
        self._contain(Contain(drift.instance, (reason,)))


def _only_daemon(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise Unavailable("daemon", f"another one serves in {path.parent}") from None
    return descriptor
