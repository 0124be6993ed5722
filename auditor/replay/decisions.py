"""Every decision in the archives, made again from what it was made of, by the engine that made it.

Four numbered steps a decision, as in docs/formats.md, "Replay". A decision on an action is no better than its log, and that a log is the
one that a TPM quoted is for `auditor verify` to say; here it is only whether these are the answers that the engine gives.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from auditor.engines import Engines
from auditor.objects import Objects, missing, tokens_of
from writ.formats.archive import Archive, InstanceLog
from writ.formats.cose import parse_sign1
from writ.formats.decision import AttestDecision, EnrolDecision, Entry, ExchangeDecision, Genesis, OperatorAct, encode_entry, parse_entry
from writ.formats.digest import Digest
from writ.formats.eat import SignedToken, encode_claims
from writ.formats.engine import EngineId, parse_engine
from writ.formats.errors import FormatError, Refused, Unavailable
from writ.formats.jose import b64url
from writ.formats.reason import Reason
from writ.formats.record import ActionRecord, Opening, opening_of, parse_log
from writ.formats.rerun import APPROVAL, Made, Rerun
from writ.formats.tlog.inclusion import parse_inclusion
from writ.formats.tlog.merkle import leaf_hash
from writ.formats.trust import Trust
from writ.verdict.replay import Reruns, demand_same, judged, refused, said, within_token
from writ.verdict.signed_entry import by_thumbprint, decision_key, verify_entry
from writ.verdict.transparency import verify_logged

IDENTICAL: Final = "identical"
DIFFERING: Final = "differing"
ERASED: Final = "erased"
NOT_REPLAYED: Final = "not replayed"
INCOMPLETE: Final = "incomplete"
NOT_BY_POLICY: Final = "not decided by policy"
NOTHING_TO_DECIDE: Final = "signed only"
OUTCOMES: Final = (IDENTICAL, DIFFERING, ERASED, NOT_REPLAYED, INCOMPLETE, NOT_BY_POLICY, NOTHING_TO_DECIDE)
"""What becomes of a decision. Only `identical` is one that was made again with the same bytes; see docs/operations.md."""

_DOMAIN: Final = frozenset({"engine", "policy", "reference", "references", "trust"})
"""What the verifier keeps for its whole domain, in the clear: erasing a namespace leaves it (`verifier.ledger.blobs`)."""
ACCEPTED: Final = "accepted"
_EXIT: Final = {ACCEPTED: 0, "refused": 1, "incomplete": 3}


@dataclass(slots=True)
class Replayed:
    """One decision: what it is, the steps that were taken (number, what was checked against what), and what came of it."""

    what: str
    outcome: str = ""
    steps: list[tuple[int, str]] = field(default_factory=list)
    reasons: tuple[Reason, ...] = ()
    recorded: Digest | None = None
    made: Digest | None = None
    by: tuple[str, str] | None = None
    """The engine that was asked, and where it was."""

    def to_json(self, *, steps: bool) -> dict[str, object]:
        """As `--json` prints it."""
        shown: dict[str, object] = {
            "decision": self.what, "outcome": self.outcome, "recorded": None if self.recorded is None else str(self.recorded),
            "made": None if self.made is None else str(self.made), "reasons": [reason.to_json() for reason in self.reasons],
        }  # fmt: skip
        return {**shown, "steps": [f"{number}. {text}" for number, text in self.steps]} if steps else shown


@dataclass(slots=True)
class _Asked:
    """A decision with all its inputs, and the bytes that it must come to."""

    told: Replayed
    engine: EngineId
    recorded: bytes
    rerun: Rerun


class Replay:
    """The decisions of an archive, each judged once."""

    def __init__(self, archive: Archive, trust: Trust, engines: Engines, here: EngineId) -> None:
        """`here` is the engine that this process has; any other is looked for in `engines`."""
        self._archive, self._trust, self._engines, self._here = archive, trust, engines, here
        self._objects, self._keys = Objects(archive), by_thumbprint(trust.decision_keys)
        self._tokens = {token.digest: token for token in tokens_of(archive.tokens)}
        self._reruns = Reruns()
        self._issued: set[Digest] = set()
        """The claims, by digest, of all tokens that a trusted decision in the archives issued."""
        self._places: dict[bytes, list[bytes]] = {}
        for one in archive.places:
            self._places.setdefault(one.leaf, []).append(one.inclusion)
        self._erased = self._erasures()

    def judged(self) -> Iterator[Replayed]:
        """Every decision with its outcome: first the verifier's, then the enforcers', then those of other engines."""
        elsewhere: dict[bytes, list[_Asked]] = {}
        for one in self._found():
            if isinstance(one, Replayed):
                yield one
            elif one.engine.tree == self._here.tree:
                _asked(one, HERE)
                yield _compared(one, self._reruns.made(one.rerun))
            else:
                elsewhere.setdefault(one.engine.tree.value, []).append(one)
        for asked in elsewhere.values():
            yield from self._confined(asked)

    def _found(self) -> Iterator[_Asked | Replayed]:
        for signed in self._archive.entries:
            yield self._entry(signed)
        for log in self._archive.logs:
            yield from self._log(log)

    # --- the verifier's decisions

    def _entry(self, signed: bytes) -> _Asked | Replayed:
        told = Replayed(f"entry {Digest.of(signed)}")
        try:
            told.what = _name(parse_entry(parse_sign1(signed).payload or b""))
            # 1
            entry = verify_entry(signed, self._keys, "decision")
            key = decision_key(parse_sign1(signed), self._keys).thumbprint()
            told.steps.append((1, f"signed by the trusted decision key {b64url(key)}"))
            if isinstance(entry, OperatorAct | Genesis):
                told.outcome = NOTHING_TO_DECIDE
                return told
            if isinstance(entry, AttestDecision):
                self._issued.update(one.claims for one in entry.outcomes if one.claims is not None)
            # 2
            engine = self._engine(entry.engine)
        except (Refused, FormatError) as error:
            return _failed(told, error)
        try:
            rerun = self._inputs(entry, key)
        except (Refused, FormatError) as error:
            _failed(told, error)
            sealed = not {reason.claim for reason in told.reasons} & _DOMAIN
            if told.outcome == INCOMPLETE and sealed and self._was_erased(entry, signed):
                told.outcome = ERASED
            return told
        told.steps.append((2, _listed(rerun)))
        return _Asked(told, engine, encode_entry(entry), rerun)

    def _was_erased(self, entry: AttestDecision | EnrolDecision | ExchangeDecision, signed: bytes) -> bool:
        """Whether an erasure of its namespace came after it: by their places in a trusted log, where both are shown, or by their times."""
        place = self._place(signed)
        for at, other in self._erased.get(entry.namespace, ()):
            if place is not None and other is not None and place[0] == other[0]:
                if place[1] < other[1]:
                    return True
            elif entry.decided_at <= at:
                return True
        return False

    def _place(self, signed: bytes) -> tuple[str, int] | None:
        """The log that an entry is in, and its index there; None where the archives prove none by a key of the trust file."""
        leaf = leaf_hash(signed)
        for inclusion in self._places.get(leaf, ()):
            try:
                logged = verify_logged(leaf, parse_inclusion(inclusion), self._trust.log_keys, None, "entry")
            except (Refused, FormatError):
                continue
            return logged.origin, logged.index
        return None

    def _erasures(self) -> dict[str, list[tuple[int, tuple[str, int] | None]]]:
        """When what decisions of each namespace rest on was erased, and where in a log, as trusted operators' acts say."""
        found: dict[str, list[tuple[int, tuple[str, int] | None]]] = {}
        for signed in self._archive.entries:
            try:
                entry = verify_entry(signed, self._keys, "decision")
            except (Refused, FormatError):
                continue
            if isinstance(entry, OperatorAct) and entry.act == "content-erase":
                found.setdefault(entry.namespace, []).append((entry.decided_at, self._place(signed)))
        return found

    def _engine(self, named: Digest) -> EngineId:
        """The engine of that digest. Raises Refused where the archives lack it, or it is this one by another number."""
        return self._numbered(parse_engine(self._objects.get(named, "engine")))

    def _numbered(self, engine: EngineId) -> EngineId:
        if engine.tree == self._here.tree and engine.number != self._here.number:
            raise refused("decision-mismatch", "engine.number", str(self._here.number), str(engine.number))
        return engine

    def _inputs(self, entry: AttestDecision | EnrolDecision | ExchangeDecision, key: bytes) -> Rerun:
        """Raises Refused where the archives lack one: first of what the domain keeps, since no erasure of a namespace takes that."""
        get, decision = self._objects.get, encode_entry(entry)
        if isinstance(entry, EnrolDecision):
            trust = get(entry.trust, "trust")
            get(entry.record, "record")  # what came of it: a signed record that nobody has seen would replay all the same
            return Rerun("enrol", decision, {"evidence": get(entry.evidence, "enrolment"), "trust": trust})
        named = dict(entry.inputs)
        references = self._objects.references(named.pop("references"))
        inputs = {"issuer": self._trust.issuer.encode()}
        for name in sorted(named, key=lambda name: (name not in _DOMAIN, name)):
            inputs[name] = get(named[name], name)
        if isinstance(entry, AttestDecision):
            return Rerun("attest", decision, {**inputs, "verifier": key}, references)
        return Rerun("exchange", decision, inputs, references)

    # --- an enforcer's

    def _log(self, log: InstanceLog) -> Iterator[_Asked | Replayed]:
        try:
            records = parse_log(log.leaves)
        except FormatError as error:
            yield _failed(Replayed(f"action log of {log.instance.hex()}"), error)
            return
        if records and isinstance(first := records[0], Opening) and first.instance != log.instance:
            differs = Reason("digest-mismatch", "opening.instance", log.instance.hex(), first.instance.hex())
            yield Replayed(f"action log of {log.instance.hex()}", DIFFERING, reasons=(differs,))
            return
        for record in records:
            if isinstance(record, ActionRecord):
                yield self._action(record, opening_of(records, record), log)

    def _action(self, record: ActionRecord, opening: Opening, log: InstanceLog) -> _Asked | Replayed:
        told = Replayed(f"action {log.instance.hex()}-{record.sequence} {record.action} on {record.resource}")
        if not judged(record):
            told.outcome, told.reasons = NOT_BY_POLICY, record.reasons
            return told
        try:
            # 1
            token = self._token(record, opening)
            told.steps.append((1, f"under opening {record.opening}; a trusted decision issued the claims of its token {token.digest}"))
            # 2
            opened = self._objects.context(record)
            if opened is None:
                within_token(record, token.claims)
                told.outcome = ERASED
                told.steps.append((2, f"nothing opens the commitment {record.context.hex()} to its context"))
                return told
            approval = self._objects.approval(opened.context)
            engine = self._numbered(opening.engine)
            inputs = {
                "context": opened.context, "salt": opened.salt, "token": token.jws.compact.encode("ascii"),
                "policy": self._objects.get(record.bundle or token.claims.policy, "policy"),
                **({} if approval is None else {APPROVAL: approval}),
            }  # fmt: skip
        except (Refused, FormatError) as error:
            return _failed(told, error)
        rerun = Rerun("action", log.leaves[record.sequence], inputs)
        told.steps.append((2, _listed(rerun)))
        return _Asked(told, engine, said(record.reasons, opened.context), rerun)

    def _token(self, record: ActionRecord, opening: Opening) -> SignedToken:
        """The record's token, of the log's instance and agent, with claims that a decision in the archives issued."""
        if record.token is None:
            raise refused("decision-mismatch", "action.token", "no permit without a token", "a permit")
        token = self._tokens.get(record.token)
        if token is None:
            raise missing("token", str(record.token))
        if (token.claims.instance, str(token.claims.agent)) != (opening.instance, opening.agent):
            raise refused("digest-mismatch", "opening.instance", token.claims.instance.hex(), opening.instance.hex())
        claims = Digest.of(encode_claims(token.claims))
        if claims not in self._issued:
            raise missing("attest_decision", f"one that issued the claims {claims}")
        return token

    # --- other engines

    def _confined(self, asked: list[_Asked]) -> Iterator[Replayed]:
        engine = asked[0].engine
        name = _engine(engine)
        lacks = self._engines.lacks(engine)
        if lacks is not None:
            yield from (_not_replayed(one, name, lacks) for one in asked)
            return
        left = iter(asked)
        try:
            for answers in self._engines.ask(engine, [one.rerun for one in asked]):
                if isinstance(answers, Unavailable):
                    break
                for made in answers:
                    one = next(left)
                    _asked(one, WHEEL)
                    yield _compared(one, made)
            why = "it gave no answer" if not isinstance(answers, Unavailable) else answers.detail
        except (FormatError, Unavailable) as error:
            why = str(error)
        yield from (_not_replayed(one, name, why) for one in left)


HERE: Final = "the one that runs here"
WHEEL: Final = "its recorded wheel, confined"


def _engine(engine: EngineId) -> str:
    return f"engine {engine.number} {engine.tree}"


def _asked(one: _Asked, where: str) -> None:
    """The engine that was asked is told, and is told of in the end."""
    one.told.by = _engine(one.engine), where
    one.told.steps.append((3, f"{_engine(one.engine)}: {where}"))


def _name(entry: Entry) -> str:
    if isinstance(entry, AttestDecision | EnrolDecision | ExchangeDecision):
        kind = {AttestDecision: "attest", EnrolDecision: "enrol", ExchangeDecision: "exchange"}[type(entry)]
        return f"{kind} {Digest.of(encode_entry(entry))} of {entry.host}"
    return f"{'genesis' if isinstance(entry, Genesis) else entry.act} {Digest.of(encode_entry(entry))}"


def _listed(rerun: Rerun) -> str:
    named = [f"{name} {Digest.of(data)}" for name, data in sorted(rerun.inputs.items()) if name not in ("issuer", "salt", "verifier")]
    return ", ".join(named) + (f", {len(rerun.references)} reference values" if rerun.kind in ("attest", "exchange") else "")


def _failed(told: Replayed, error: Refused | FormatError) -> Replayed:
    """What is not there leaves it incomplete; anything else is a difference."""
    if isinstance(error, FormatError):
        told.reasons = (Reason("malformed", error.what[:200], error.expected, error.got),)
    else:
        told.reasons = error.reasons
    lacking = {reason.code for reason in told.reasons} == {"proof-bundle-incomplete"}
    told.outcome = INCOMPLETE if lacking else DIFFERING
    return told


def _not_replayed(one: _Asked, name: str, why: str) -> Replayed:
    one.told.outcome = NOT_REPLAYED
    one.told.steps.append((3, f"{name}: {why}"))
    one.told.reasons = (Reason("unavailable", "engine", str(one.engine.tree), why[:1000]),)
    return one.told


def _compared(one: _Asked, made: Made) -> Replayed:
    told = one.told
    told.recorded = Digest.of(one.recorded)
    told.made = None if made.data is None else Digest.of(made.data)
    try:
        if made.data is None:
            raise Refused(*made.reasons)
        demand_same("decision", one.recorded, made.data)
    except Refused as no:
        told.outcome, told.reasons = DIFFERING, no.reasons
    else:
        told.outcome = IDENTICAL
    told.steps.append((4, f"recorded {told.recorded}, made {told.made or 'nothing'}"))
    return told


# --- what is said of it -----------------------------------------------------------------------------------------------------


def lines(one: Replayed, *, explain: bool) -> Iterator[str]:
    """One decision for people: what came of it and why, with every step where they are asked for."""
    yield f"{one.outcome}: {one.what}"
    for number, text in one.steps if explain else ():
        yield f"  {number}. {text}"
    for reason in one.reasons:
        yield f"  {reason}"


@dataclass(slots=True)
class Summary:
    """How many decisions came to what, and the digest of all bytes that were made again (each by its SHA-256, sorted)."""

    counts: Counter[str] = field(default_factory=Counter)
    engines: Counter[tuple[str, str]] = field(default_factory=Counter)
    """The engines that were asked, where each was, and of how many decisions."""
    _made: list[bytes] = field(default_factory=list)

    def add(self, one: Replayed) -> None:
        """`one` is counted."""
        self.counts[one.outcome] += 1
        if one.by is not None:
            self.engines[one.by] += 1
        if one.made is not None:
            self._made.append(one.made.value)

    @property
    def verdict(self) -> str:
        """`accepted` where all that could be made again was the same, and there was something; what was erased is no fault."""
        if self.counts[DIFFERING]:
            return "refused"
        lacking = self.counts[NOT_REPLAYED] or self.counts[INCOMPLETE] or not self.counts[IDENTICAL]
        return "incomplete" if lacking else ACCEPTED

    @property
    def exit_code(self) -> int:
        """0 accepted, 1 refused, 3 where something could not be made again."""
        return _EXIT[self.verdict]

    def to_json(self) -> Mapping[str, object]:
        """As `--json` prints it."""
        made = sha256(b"".join(sorted(self._made))).hexdigest()
        counts = {name: self.counts[name] for name in OUTCOMES}
        return {"verdict": self.verdict, "counts": counts, "made": made, "engines": list(self.used())}

    def used(self) -> Iterator[str]:
        """By which engine how many were made again: who trusts the answer trusts these."""
        for (name, where), count in sorted(self.engines.items()):
            yield f"{name} ({where}): {count} decisions"

    def __str__(self) -> str:
        return ", ".join(f"{self.counts[name]} {name}" for name in OUTCOMES)
