"""What happens to an instance, as its holder hears of it."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from enforcer.control import Attach, Deliver
from enforcer.renewal import Verdict
from writ.formats.reason import Reason


@dataclass(frozen=True, slots=True)
class Heard:
    """The attestor answered, or did not, a question that was asked while `link` was the daemon's."""

    verdict: Verdict
    link: socket.socket


@dataclass(frozen=True, slots=True)
class LinkLost:
    """The daemon is gone."""

    link: socket.socket
    noticed: int


@dataclass(frozen=True, slots=True)
class LinkUp:
    """A daemon is there."""

    link: socket.socket


@dataclass(frozen=True, slots=True)
class ComeOver:
    """A daemon of other code is there, and says how to come over to it."""

    link: socket.socket
    attach: Attach


@dataclass(frozen=True, slots=True)
class Killed:
    """Someone who may, wants it killed: the daemon for drift, an operator."""

    reasons: tuple[Reason, ...]
    noticed: int


@dataclass(frozen=True, slots=True)
class AgentEnded:
    """The agent's process ended, with this exit status."""

    status: int


@dataclass(frozen=True, slots=True)
class FromClient:
    """The client says something; None: it is gone."""

    message: Deliver | None


@dataclass(frozen=True, slots=True)
class ParentHeld:
    """The parent of this child instance was cut and frozen."""

    noticed: int


@dataclass(frozen=True, slots=True)
class ParentRuns:
    """The parent of this child instance runs again."""


Event = Heard | LinkLost | LinkUp | ComeOver | Killed | AgentEnded | FromClient | ParentHeld | ParentRuns
