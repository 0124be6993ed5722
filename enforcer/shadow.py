"""A candidate policy beside the one in force: what it would decide otherwise is kept, and nothing waits for it.

The candidate is a signed bundle in the file that `shadow_policy` names, verified
like any: by a decision key of the trust file, and by what a policy must be to be
published. It may be one of another namespace, which is how a candidate is signed
before it is in force. No token names it, so it decides nothing; it is no version
that this host has held. The gatekeeper says what it decided when that is durable,
and does not wait: a thread of its own compares, what does not fit its queue is
counted, and what fails here is written down and ends here.

    shadow.jsonl       beside the action log, a JSON object a line, each durable before the next is looked at:
    {"candidate": …, "namespace": …, "version": …, "since": seconds}      it stands beside, from now on
    {"failed": …, "since": seconds}                                       it could not
    {"sequence": …, "action": …, "resource": …, "was": …, "would": …, …}  a difference; `sequence` is the record's
    {"compared": n, "missed": n}                                          so many since the candidate stood there
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from queue import Full, Queue
from typing import Any, Final

from enforcer.bundles import verify_signed
from enforcer.config import EnforcerConfig
from writ.formats.action import Action
from writ.formats.eat import TokenClaims
from writ.formats.errors import FormatError, Unavailable, WritError
from writ.formats.policy_bundle import CONTENT_TYPE, MAX_BUNDLE, PolicyBundle, parse_bundle
from writ.formats.reason import Reason
from writ.formats.trust import Trust
from writ.verdict.approval import Consent
from writ.verdict.lint import publishable
from writ.verdict.rehearsal import by_policy, otherwise

SHADOW_FILE: Final = "shadow.jsonl"
MAX_WAITING: Final = 1024
MAX_BYTES: Final = 8 << 20
"""Of an instance's differences; what comes after is counted as missed."""
TALLY_EVERY: Final = 1000
CLOSES_WITHIN: Final = 2.0
"""Seconds in which what waits is still compared at the end."""


@dataclass(frozen=True, slots=True)
class Decided:
    """One action as it was decided under a token, its record durable."""

    action: Action
    claims: TokenClaims
    gate: str
    now: int
    reasons: tuple[Reason, ...]
    sequence: int
    consent: Consent | None = None
    used: int | None = None


def candidate_of(path: Path, trust: Trust) -> PolicyBundle:
    """The bundle of the file: signed by a decision key of the trust file, and one that could be published.

    Raises Unavailable, FormatError, Refused.
    """
    try:
        with path.open("rb") as file:
            signed = file.read(2 * MAX_BUNDLE + 1)
    except OSError as error:
        raise Unavailable("shadow policy", f"{path}: {error.strerror}") from None
    bundle = parse_bundle(verify_signed(signed, CONTENT_TYPE, trust.decision_keys, "shadow policy"))
    publishable(bundle)
    return bundle


def shadow_of(config: EnforcerConfig, trust: Trust, folder: Path, now: int) -> Shadow | None:
    """The candidate that the configuration names, beside the log in `folder`; None where there is none, or it cannot stand there.

    Why it cannot is written where its differences would be. Raises nothing: an instance runs with or without.
    """
    if config.shadow_policy is None:
        return None
    try:
        bundle = candidate_of(config.shadow_policy, trust)
    except WritError as error:
        _note(folder, {"failed": str(error)[:400], "since": now})
        return None
    return Shadow(bundle, folder, now)


class Shadow:
    """One candidate beside one gatekeeper. Thread-safe."""

    def __init__(self, candidate: PolicyBundle, folder: Path, now: int) -> None:
        self._candidate, self._folder = candidate, folder
        self._waiting: Queue[Decided | None] = Queue(MAX_WAITING)
        self._lock = threading.Lock()
        self._missed = self._compared = 0
        head = {"candidate": str(candidate.digest), "namespace": candidate.namespace, "version": candidate.version, "since": now}
        self._writes = _note(folder, head)
        self._thread = threading.Thread(target=self._compare, name="shadow", daemon=True)
        self._thread.start()

    def saw(self, decided: Decided) -> None:
        """It will be compared, or counted as missed. Returns at once."""
        try:
            self._waiting.put_nowait(decided)
        except Full:
            with self._lock:
                self._missed += 1

    def close(self) -> None:
        """What was seen is compared, as far as there is time for it, and how many is written down."""
        with contextlib.suppress(Full):
            self._waiting.put(None, timeout=CLOSES_WITHIN)
        self._thread.join(timeout=CLOSES_WITHIN)

    def _compare(self) -> None:
        while (decided := self._waiting.get()) is not None:
            try:
                self._one(decided)
            except Exception as error:  # noqa: BLE001 - whatever fails here is no concern of the instance, and is written down
                self._note({"failed": type(error).__name__, "sequence": decided.sequence})
        self._tally()

    def _one(self, decided: Decided) -> None:
        if not by_policy(decided.reasons):
            return
        self._compared += 1
        if self._compared % TALLY_EVERY == 0:
            self._tally()
        action = decided.action
        found = otherwise(
            action, decided.claims, self._candidate, gate=decided.gate, now=decided.now, reasons=decided.reasons, consent=decided.consent,
            used=decided.used,
        )  # fmt: skip
        if found is None:
            return
        self._note({
            "sequence": decided.sequence, "at": decided.now, "action": action.name, "resource": action.resource, "gate": decided.gate,
            "was": "permit" if found.permit else "refuse", "would": "permit" if found.candidate.permit else "refuse",
            "rules": list(found.candidate.determining), "reasons": [reason.to_json() for reason in found.candidate.reasons],
        })  # fmt: skip

    def _tally(self) -> None:
        with self._lock:
            missed = self._missed
        _note(self._folder, {"compared": self._compared, "missed": missed})

    def _note(self, line: dict[str, Any]) -> None:
        """Durable, or counted as missed."""
        self._writes = self._writes and _note(self._folder, line)
        if not self._writes:
            with self._lock:
                self._missed += 1


def _note(folder: Path, line: dict[str, Any]) -> bool:
    """The line is durable in the folder's file. False where it cannot be, or the file is full."""
    try:
        descriptor = os.open(folder / SHADOW_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            data = json.dumps(line).encode() + b"\n"
            tally = "compared" in line  # small, and due when the rest is full
            if os.fstat(descriptor).st_size + len(data) > MAX_BYTES * (2 if tally else 1):
                return False
            os.write(descriptor, data)
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
    except OSError:
        return False
    return True


def differences(folder: Path) -> dict[str, Any] | None:
    """What was written beside the log in `folder`, of the candidate that stood there last; None where none ever did.

    `compared` and `missed` are those of the last count, so more may have been seen since. Raises Unavailable, FormatError.
    """
    try:
        data = (folder / SHADOW_FILE).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unavailable("shadow", f"{folder}: {error.strerror}") from None
    told: dict[str, Any] = {}
    before = (0, 0)
    for text in data.split(b"\n")[:-1]:  # behind the last newline is nothing, or what was being written when the holder died
        try:
            line = json.loads(text)
        except ValueError:
            line = None
        match line:
            case {"since": _}:
                same = bool(told) and told.get("candidate") == line.get("candidate")
                before = (told["compared"], told["missed"]) if same else (0, 0)
                told = {**line, "compared": before[0], "missed": before[1], "differences": told["differences"] if same else []}
            case {"compared": int(compared), "missed": int(missed)} if told:
                told |= {"compared": before[0] + compared, "missed": before[1] + missed}
            case {"failed": _, "sequence": _} if told:
                told.setdefault("faults", []).append(line)
            case {"sequence": _} if told:
                told["differences"].append(line)
            case _:
                raise FormatError("shadow", "a line of a shadow", ascii(text)[:80])
    return told or None
