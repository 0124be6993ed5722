"""One connection's way through a gate: each action asked for, what it leads to on the line, and its outcome."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from enforcer.gatekeeper import Gatekeeper, Ruling
from enforcer.gates.egress.answer import Answer
from enforcer.gates.egress.exchange import Exchange
from enforcer.gates.egress.tunnel import Traffic
from enforcer.wire.addresses import Resolver
from enforcer.wire.destination import Destination
from enforcer.wire.dial import addresses_of, dialled
from enforcer.wire.limits import Ended, Limits
from enforcer.wire.line import ListeningLine
from writ.formats.action import Action
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Refused, Unavailable
from writ.formats.reason import Reason
from writ.formats.strict import encode_json
from writ.service import observe

GATE: Final = "egress"
CONNECT: Final = "net.connect"
"""The action on a place, where what passes is opaque."""
_LOG = observe.get_logger(__name__)


@dataclass(slots=True)
class Passage:
    """What was permitted, and what became of it. `opaque` where nobody looked inside; a reset is a good end of what is `loose`."""

    rulings: list[Ruling]
    opaque: bool
    loose: bool = False
    traffic: Traffic = field(default_factory=Traffic)
    address: str | None = None
    ended: str = "internal"
    status: int | None = None
    """What the agent was told, where it was HTTP and an answer came."""
    contents: Mapping[str, str] = field(default_factory=dict)
    """The digests of what passed, where it was HTTP."""

    def passed(self, exchange: Exchange) -> None:
        """What came of an exchange, whole or broken off."""
        self.loose, self.status, self.contents = exchange.switched, exchange.status, exchange.contents


@dataclass(frozen=True, slots=True)
class Way:
    """What a connection of the era `era` of `line` needs."""

    gatekeeper: Gatekeeper
    resolver: Resolver
    limits: Limits
    line: ListeningLine
    era: int
    short: str
    trace: bytes | None = None
    """What the agent said of its trace, in the request that is under way (`formats.trace`)."""

    def of(self, trace: bytes | None) -> Way:
        """The same, for a request that says this of its trace."""
        return self if trace == self.trace else replace(self, trace=trace)

    def ask(self, action: str, resource: str, arguments: bytes, against: Reason | None = None) -> Ruling:
        """Whether it may pass, recorded."""
        asked = Action(action, resource, Digest.of(arguments))
        return self.gatekeeper.ask(asked, arguments, gate=GATE, against=against, trace=self.trace)

    @contextlib.contextmanager
    def reached(self, destination: Destination, passage: Passage, beyond: str, arguments: bytes) -> Iterator[socket.socket]:
        """A connection with the destination. An address behind a name that is not public is the action `beyond`, too.

        Raises Refused, Unavailable, Ended.
        """
        addresses = addresses_of(
            destination, self.resolver, lambda address: self.ask(beyond, address.resource, arguments), passage.rulings
        )  # fmt: skip
        with dialled(self.line, self.era, addresses, destination.port, self.limits.dial_within) as far:
            passage.address = far.getpeername()[0]
            yield far

    @contextlib.contextmanager
    def passing(self, ruling: Ruling, answer: Answer, *, opaque: bool) -> Iterator[Passage]:
        """What is done within is what `ruling` permitted. However it ends, that is its outcome, and where it can be told, it is told."""
        passage = Passage([ruling], opaque)
        try:
            yield passage
            passage.ended = "closed"
        except Refused as refused:
            passage.ended = "refused"
            answer.refused(refused.reasons, passage.rulings[-1].sequence)
        except Unavailable as error:
            passage.ended = "unavailable"
            answer.failed(ruling.sequence, error.what, error.detail)
        except FormatError as error:
            passage.ended = "malformed"
            _LOG.warning("egress-malformed", sequence=ruling.sequence, what=error.what, expected=error.expected)  # what came is content
            answer.failed(ruling.sequence, "http", str(error))
        except Ended as end:
            passage.ended = str(end)
            answer.failed(ruling.sequence, "http", passage.ended)
        except OSError:
            passage.ended = "reset"
            answer.failed(ruling.sequence, "http", passage.ended)
        finally:
            self._outcome(passage)

    def _outcome(self, passage: Passage) -> None:
        if self.line.is_cut_since(self.era):
            passage.ended = "cut"
        # TLS clients end by a reset: whoever closes with an alert unread sends one.
        done = passage.ended == "closed" or (passage.ended == "reset" and passage.loose and passage.traffic.sent > 0)
        result = {
            "address": passage.address, "ended": passage.ended, "opaque": passage.opaque,
            "received": passage.traffic.received, "sent": passage.traffic.sent, **passage.contents,
        }  # fmt: skip
        for ruling in passage.rulings:
            kept = not ruling.permit or self.gatekeeper.outcome(ruling, done=done, result=encode_json(result), status=passage.status)
            if not kept:
                _LOG.error("outcome-not-durable", sequence=ruling.sequence)
