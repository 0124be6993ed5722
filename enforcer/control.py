"""What `enforcer run`, the daemon and the holders say to each other: frames of CBOR on unix sockets, one family of messages.

client  -> daemon   Run with descriptors 0, 1, 2; the daemon hands the connection on to the holder it starts
holder  -> client   Started, then Exited, RefusedRun or CouldNot; client -> holder: Deliver (a signal)
daemon <-> holder   a link that says by its mere being there that the daemon lives: Contain, Stored; Attach on a new one
client  -> daemon   Contain; daemon -> client: Did
client  -> daemon -> holder   Approve; holder -> daemon -> client: Approved
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from writ.formats import message as m
from writ.formats.approval import MAX_APPROVAL
from writ.formats.message import Family
from writ.formats.reason import Reason

MAX_CONTROL: Final = 256 << 10


@dataclass(frozen=True, slots=True)
class Run:
    """Launch `agent`; `command` empty: the manifest's. `parent` names the instance it descends from.

    `child`: as a child instance of it. Standard input is then the line to the parent's holder, and only a holder may ask for it.
    """

    agent: str
    command: tuple[str, ...]
    parent: bytes | None
    child: bool = False


@dataclass(frozen=True, slots=True)
class Started:
    """The agent runs."""

    instance: bytes


@dataclass(frozen=True, slots=True)
class Exited:
    """The agent ended by itself, with this status: its own, or 128 and the signal that ended it."""

    status: int


@dataclass(frozen=True, slots=True)
class RefusedRun:
    """The agent was not started, or was killed, for these reasons. `reference` is what `enforcer why` takes."""

    reference: str
    reasons: tuple[Reason, ...]
    started: bool


@dataclass(frozen=True, slots=True)
class CouldNot:
    """It could not be tried: no attestor, no cgroup. Never a permission."""

    what: str
    detail: str


@dataclass(frozen=True, slots=True)
class Deliver:
    """Deliver a signal to the agent."""

    signal: int


@dataclass(frozen=True, slots=True)
class Attach:
    """From now on this connection is the holder's link to the daemon, which runs `code`.

    A holder of other code comes over: it becomes `command` with this `environment` (`NAME=VALUE`), before it says Attached.
    """

    code: bytes
    command: tuple[str, ...]
    environment: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Attached:
    """The holder accepts the link, and runs `code`."""

    instance: bytes
    state: str
    code: bytes


@dataclass(frozen=True, slots=True)
class Contain:
    """Kill `instance` for these reasons; it is tainted for ever."""

    instance: bytes
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class Did:
    """Done, or there was no such instance."""

    found: bool


@dataclass(frozen=True, slots=True)
class Approve:
    """Take this signed approval (`writ.formats.approval`) of an action that `instance` was refused."""

    instance: bytes
    approval: bytes


@dataclass(frozen=True, slots=True)
class Approved:
    """What became of an Approve, the SHA-256 of whose approval is `approval`: taken where there are no reasons."""

    approval: bytes
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class Stored:
    """The first `size` records of `instance` are in the store off the host: its receipt is kept."""

    instance: bytes
    size: int


Control = Run | Started | Exited | RefusedRun | CouldNot | Deliver | Attach | Attached | Contain | Did | Approve | Approved | Stored

CONTROL: Final[Family[Control]] = Family(
    "control",
    {
        "run": (Run, (m.short_name("agent"), m.texts("command", most=1024), m.optional_raw("parent", size=16), m.flag("child"))),
        "started": (Started, (m.raw("instance", size=16),)),
        "exited": (Exited, (m.uint("status", most=255),)),
        "refused": (RefusedRun, (m.text("reference", most=64), m.reasons("reasons"), m.flag("started"))),
        "could-not": (CouldNot, (m.text("what"), m.text("detail"))),
        "deliver": (Deliver, (m.uint("signal", most=64),)),
        "attach": (Attach, (m.raw("code", size=32), m.texts("command", most=16), m.texts("environment", most=16))),
        "attached": (Attached, (m.raw("instance", size=16), m.text("state", most=16), m.raw("code", size=32))),
        "contain": (Contain, (m.raw("instance", size=16), m.reasons("reasons"))),
        "did": (Did, (m.flag("found"),)),
        "approve": (Approve, (m.raw("instance", size=16), m.raw("approval", most=MAX_APPROVAL))),
        "stored": (Stored, (m.raw("instance", size=16), m.uint("size"))),
        "approved": (Approved, (m.raw("approval", size=32), m.reasons("reasons"))),
    },
    MAX_CONTROL,
)
