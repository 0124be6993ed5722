"""What a holder leaves to the code that takes its place: the estate of one instance, a CBOR map in a sealed memfd.

    {"v": 1, "kind": "estate", "run": …, "launched": …, "key": …, "log_size": 12, "link": 7, "client": 5, …}

A holder comes over to new code without its instance ending:

    the daemon, newly started    says on attaching which code it is, and how to start it
    a holder of other code       cut and frozen; leaves: everything read, answered and written, its estate sealed; execve
    the new code, in its place   `takeover`: reads the estate or ends, and then the watchdog kills; held until a fresh token

It is one process from end to end: the agent stays its child, the watchdog's pipe stays open in it and its cgroup stays frozen, so there is
no moment at which its death, at whatever step, leaves anything able to act (docs/adr/0024).

Numbers of descriptors are those of the process, which stays the same. No token is among it: what comes over has none. It holds the session
key and is in memory only; whoever reads it is root, or the process itself.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

from enforcer.quota import BYTES_IN_ALL
from writ.formats import message as m
from writ.formats.errors import FormatError
from writ.formats.measurement import MAX_COMPONENTS
from writ.formats.message import Family, Field
from writ.formats.reason import Reason
from writ.formats.secret import MAX_SECRETS
from writ.formats.strict import Fields

MAX_ESTATE: Final = 32 << 20
MAX_SEEN: Final = 1024
"""Ids of tokens held before: of so many none can be alive any more."""
_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_MAX_DESCRIPTOR: Final = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class HeldTool:
    """A local tool that runs: `pipes` are where requests go and where answers come from, none where it is out of use; `rest` was read of
    the latter already."""

    name: str
    pid: int
    init: int
    pipes: tuple[int, ...]
    asked: int
    rest: bytes


@dataclass(frozen=True, slots=True)
class HeldConnection:
    """A connection of the agent at its gate, on which no answer is owed; `rest` was read of it already."""

    descriptor: int
    rest: bytes


Held = HeldTool | HeldConnection


@dataclass(frozen=True, slots=True)
class Since:
    """Where an instance stands that has acted before: ids of the tokens it held, leaf hash of its last action's record, bytes it may still
    write, how many records the verifier has a checkpoint of, the placeholders that its agent holds, in the order of their secrets, and why
    the verifier is not followed any more."""

    seen: tuple[str, ...] = ()
    last: bytes | None = None
    left: int = BYTES_IN_ALL
    carried: int = 0
    placeholders: tuple[str, ...] = ()
    lost: Reason | None = None


@dataclass(frozen=True, slots=True)
class Estate:
    """One instance, cut and frozen, between two codes.

    `config` is the holder's configuration as JSON; `run` and `launched` are the messages that began it; `key` is the session key in PKCS#8,
    `ca` key and certificate of the egress gate, if it has one. `lost` says why the verifier is not followed any more, or nothing. `last`
    and `left` are as in `Since`. `held_since` is boot time in milliseconds. `moves` counts the codes before the next one, `code` is the
    last of them.
    """

    code: bytes
    moves: int
    config: bytes
    run: bytes
    launched: bytes
    key: bytes
    ca: bytes | None
    log_size: int
    log_root: bytes
    carried: int
    lost: tuple[Reason, ...]
    last: bytes | None
    left: int
    seen: tuple[str, ...]
    placeholders: tuple[str, ...]
    reasons: tuple[Reason, ...]
    held_since: int
    hold_max: int
    agent: int
    init: int
    cgroup: str
    image: str
    uid: int
    tools: tuple[HeldTool, ...]
    connections: tuple[HeldConnection, ...]
    link: int
    client: int
    server: int
    gate: int
    watchdog: int
    watchdog_pipe: int
    slot: int
    image_locks: tuple[int, ...]

    @property
    def since(self) -> Since:
        """Where it stands."""
        return Since(self.seen, self.last, self.left, self.carried, self.placeholders, self.lost[0] if self.lost else None)

    def descriptors(self) -> tuple[int, ...]:
        """Every descriptor that is named here."""
        own = (self.link, self.client, self.server, self.gate, self.watchdog_pipe, self.slot)
        return (*own, *self.image_locks, *(fd for tool in self.tools for fd in tool.pipes), *(one.descriptor for one in self.connections))


def _descriptor(name: str) -> Field:
    return m.uint(name, most=_MAX_DESCRIPTOR)


def _pipes(name: str) -> Field:
    def read(f: Fields, key: str) -> tuple[int, ...]:
        found = f.items(key, most=2)
        if len(found) == 1 or not all(type(one) is int and 0 <= one <= _MAX_DESCRIPTOR for one in found):
            raise FormatError(key, "two descriptors or none", repr(found)[:40])
        return tuple(found)

    return Field(name, read, list)


def _locks(name: str) -> Field:
    def read(f: Fields, key: str) -> tuple[int, ...]:
        found = f.items(key, most=MAX_COMPONENTS)
        if not all(type(one) is int and 0 <= one <= _MAX_DESCRIPTOR for one in found):
            raise FormatError(key, "descriptors", repr(found)[:40])
        return tuple(found)

    return Field(name, read, list)


_HELD: Final[Family[Held]] = Family(
    "estate",
    {
        "tool": (
            HeldTool, (m.short_name("name"), m.uint("pid"), m.uint("init"), _pipes("pipes"), m.uint("asked"), m.raw("rest", most=2 << 20)),
        ),
        "connection": (HeldConnection, (_descriptor("descriptor"), m.raw("rest", most=2 << 20))),
    },
    4 << 20,
)  # fmt: skip


def _held(name: str, kind: type[Held], most: int) -> Field:
    def read(f: Fields, key: str) -> tuple[Held, ...]:
        found = tuple(_HELD.parse(one) if isinstance(one, bytes) else None for one in f.items(key, most=most))
        if not all(type(one) is kind for one in found):
            raise FormatError(key, kind.__name__, "another")
        return tuple(one for one in found if one is not None)

    return Field(name, read, lambda value: [_HELD.encode(one) for one in value])


_ESTATE: Final[Family[Estate]] = Family(
    "estate",
    {
        "estate": (
            Estate,
            (
                m.raw("code", size=32), m.uint("moves"), m.raw("config"), m.raw("run"), m.raw("launched", most=8 << 20),
                m.raw("key", most=1024), m.optional_raw("ca", most=8192),
                m.uint("log_size"), m.raw("log_root", size=32), m.uint("carried"), m.reasons("lost"),
                m.optional_raw("last", size=32), m.uint("left"),
                m.texts("seen", most=MAX_SEEN), m.texts("placeholders", most=MAX_SECRETS),
                m.reasons("reasons"), m.uint("held_since"), m.uint("hold_max"),
                m.uint("agent"), m.uint("init"), m.text("cgroup", most=4096), m.text("image", most=4096), m.uint("uid"),
                _held("tools", HeldTool, 32), _held("connections", HeldConnection, 64),
                *map(_descriptor, ("link", "client", "server", "gate")), m.uint("watchdog"),
                *map(_descriptor, ("watchdog_pipe", "slot")), _locks("image_locks"),
            ),
        )
    },
    MAX_ESTATE,
)  # fmt: skip


def encode_estate(estate: Estate) -> bytes:
    """The one spelling of `estate`."""
    return _ESTATE.encode(estate)


def parse_estate(data: bytes) -> Estate:
    """Read an estate. Raises FormatError for what this version does not know, whole."""
    return _ESTATE.parse(data)


def sealed(data: bytes) -> int:
    """A memfd with `data` that nobody can change any more, closed on exec."""
    descriptor = os.memfd_create("writ-estate", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(data)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    return descriptor


def unsealed(descriptor: int) -> bytes:
    """What a sealed memfd holds; it is closed, and so gone. Raises FormatError for another file, OSError."""
    with open(descriptor, "rb") as file:
        file.seek(0)
        try:
            seals = fcntl.fcntl(file, fcntl.F_GET_SEALS)
        except OSError:
            seals = 0
        if seals != _SEALS:
            raise FormatError("estate", "a sealed memfd", "another file")
        return file.read(MAX_ESTATE + 1)


def leave(estate: Estate, command: Sequence[str], environment: Mapping[str, str]) -> NoReturn:
    """This process is `command`, given the number of the estate, from here on. For the thread whose children agent and tools are: each
    bubblewrap ends with the thread that started it.

    1. The estate is in memory, sealed; its number, and nothing else of it, is in the command line.
    2. Only what it names stays open across execve.
    3. execve. Every other thread ends there.

    Raises OSError where the command cannot be started.
    """
    # 1
    memory = sealed(encode_estate(estate))
    # 2
    for descriptor in (memory, *estate.descriptors()):
        os.set_inheritable(descriptor, True)
    # 3
    os.execve(command[0], [*command, str(memory)], environment)  # noqa: S606 - no shell is the point
