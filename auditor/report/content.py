"""What a report says, collected: hosts and their times, agents and their actions, and what was refused, excepted and erased."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from writ.formats.eat import SignedToken
from writ.formats.record import ActionRecord, Opening, OutcomeRecord
from writ.verdict.action_log import ReadLog
from writ.verdict.carried import Carriage


@dataclass(slots=True)
class Host:
    """What the verifier's log says of a host: attestations by their times (seconds), instances, and how often one was refused a token."""

    namespace: str
    times: list[int] = field(default_factory=list)
    instances: set[bytes] = field(default_factory=set)
    issued: int = 0
    refused: int = 0
    tpm_classes: set[str] = field(default_factory=set)

    def spans(self, silence: int) -> list[tuple[int, int]]:
        """When it attested, with no longer a silence within than `silence`."""
        found: list[tuple[int, int]] = []
        for at in sorted(self.times):
            if found and at - found[-1][1] <= silence:
                found[-1] = (found[-1][0], at)
            else:
                found.append((at, at))
        return found


@dataclass(slots=True)
class Agent:
    """What the action logs say of an agent."""

    instances: set[bytes] = field(default_factory=set)
    permitted: int = 0
    refused: int = 0
    unknown: int = 0
    """Permitted actions without an outcome."""
    last: int = 0


@dataclass(frozen=True, slots=True)
class Refusal:
    """An action that was refused."""

    at: int
    agent: str
    name: str
    action: str
    resource: str
    codes: tuple[str, ...]


class Hosts:
    """All hosts of a log, told as it is read."""

    def __init__(self, tokens: Iterable[SignedToken]) -> None:
        self.of: dict[str, Host] = {}
        self._classes: dict[str, set[str]] = {}
        for token in tokens:
            self._classes.setdefault(token.claims.host, set()).add(token.claims.tpm_class)

    def take(self, carriage: Carriage) -> None:
        """The next attestation."""
        host = self.of.setdefault(carriage.host, Host(carriage.namespace, tpm_classes=self._classes.get(carriage.host, set())))
        host.times.append(carriage.at)
        for one in carriage.brought:
            host.instances.add(one.instance)
            host.issued += one.claims is not None
            host.refused += one.claims is None


class Actions:
    """All actions of the logs that are sound, up to the last checkpoint of each that was carried: for what comes behind nobody vouches."""

    def __init__(self, logs: Mapping[bytes, ReadLog], vouched: Mapping[bytes, int]) -> None:
        self.agents: dict[str, Agent] = {}
        self.kinds: dict[str, Counter[str]] = {}
        self.codes: Counter[str] = Counter()
        self.refusals: list[Refusal] = []
        for instance, log in sorted(logs.items()):
            self._log(instance, log, vouched[instance])
        self.refusals.sort(key=lambda one: (one.at, one.name))

    def _log(self, instance: bytes, log: ReadLog, size: int) -> None:
        ended = {one.of for one in log.records if isinstance(one, OutcomeRecord)}
        for at, record in enumerate(log.records[:size]):
            if not isinstance(record, ActionRecord):
                continue
            opening = log.records[record.opening]
            name = opening.agent if isinstance(opening, Opening) else ""
            agent = self.agents.setdefault(name, Agent())
            agent.instances.add(instance)
            agent.last = max(agent.last, record.decided_at)
            self.kinds.setdefault(record.action, Counter())["permitted" if record.permit else "refused"] += 1
            if record.permit:
                agent.permitted += 1
                agent.unknown += at not in ended
                continue
            agent.refused += 1
            codes = tuple(sorted({reason.code for reason in record.reasons}))
            self.codes.update(codes)
            self.refusals.append(Refusal(record.decided_at, name, f"{instance.hex()}-{at}", record.action, record.resource, codes))


def exceptions(tokens: Iterable[SignedToken]) -> Counter[tuple[str, str, str]]:
    """Under what each agent got tokens on each host that was not as approved, and how many."""
    return Counter((claims.host, str(claims.agent), one) for claims in (token.claims for token in tokens) for one in claims.exceptions)
