"""What a site leaves behind: a verifier's log, and the archive of a host whose agents acted between its attestations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.world.scene import ENGINE_ID, Running, Scene, permitted, sign_entry, sign_token
from tests.world.translog import ISSUER, WorldLog, auditors_trust, put
from writ.formats.archive import Archive, InstanceLog, encode_archive
from writ.formats.decision import AttestDecision, Entry, Genesis
from writ.formats.eat import TokenClaims
from writ.formats.policy_bundle import encode_bundle
from writ.formats.record import preimage_of
from writ.formats.trust import encode_trust
from writ.verdict.attestation import AttestationVerdict


@dataclass
class Site:
    """One host; `renew` is an attestation that the log names, `act` what an agent does under the token that came of it."""

    scene: Scene = field(default_factory=Scene)
    entries: list[Entry] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    ended: list[Running] = field(default_factory=list)
    """Instances of other hosts, or gone, whose logs are handed over all the same."""
    last: dict[str, tuple[str, TokenClaims]] = field(default_factory=dict)
    """The token that each got last."""

    def __post_init__(self) -> None:
        self.entries.append(self.scene.enrol_entry)

    def renew(self, *names: str) -> AttestationVerdict:
        """Half a minute passes, and the instances of `names` carry their logs and get tokens."""
        self.scene.now += 30
        verdict = self.scene.attest(*names)
        self.entries.append(verdict.entry)
        self.tokens += [sign_token(permitted(verdict, at)) for at in range(len(names))]
        self.last = {name: (self.tokens[at - len(names)], permitted(verdict, at)) for at, name in enumerate(names)}
        return verdict

    def act(self, name: str, *resources: str) -> None:
        """A second each, under the last token: an action and its outcome."""
        token, claims = self.last[name]
        for resource in resources:
            self.scene.now += 1
            record = self.scene.act(name, token, claims, resource=resource)
            self.scene.outcome(name, record.sequence)

    # --- what is left

    def log(self, entries: list[bytes] | None = None) -> WorldLog:
        """The verifier's log: its genesis, and these entries or all."""
        made = WorldLog([b"", *([sign_entry(entry) for entry in self.entries] if entries is None else entries)])
        first = min(entry.decided_at for entry in self.entries)
        made.entries[0] = sign_entry(Genesis(ENGINE_ID, first, ISSUER, "example.org", made.origin, made.key.public))
        return made

    def logs(self) -> dict[bytes, list[bytes]]:
        """Leaves by instance."""
        return {one.instance: list(one.leaves) for one in (*self.scene.running.values(), *self.ended)}

    def archive(self, logs: dict[bytes, list[bytes]] | None = None) -> Archive:
        """What `enforcer log export` gives."""
        given = self.logs() if logs is None else logs
        shown = {
            part
            for one in self.scene.running.values()
            for context in one.contexts.values()
            for part in (context, preimage_of(bytes(32), context))
        }
        made = tuple(InstanceLog(instance, tuple(leaves)) for instance, leaves in sorted(given.items()) if leaves)
        return Archive((), tuple(sorted(self.tokens)), tuple(sorted({*shown, encode_bundle(self.scene.bundle)})), made)

    def attestations(self) -> Iterator[AttestDecision]:
        """Of the entries those that are."""
        return (entry for entry in self.entries if isinstance(entry, AttestDecision))


def leave(site: Site, place: Path, *, archive: Archive | None = None, log: WorldLog | None = None) -> list[str]:
    """Files below `place`; the arguments of the verb that judges them."""
    made = site.log() if log is None else log
    made.write(place / "log")
    put(place / "trust", encode_trust(auditors_trust(made)))
    put(place / "enforcer", encode_archive(site.archive() if archive is None else archive))
    return ["log", "verify", str(place / "log"), "--trust", str(place / "trust"), "--actions", str(place / "enforcer")]
