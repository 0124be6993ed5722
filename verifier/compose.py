"""The only place of the verifier that builds things."""

from __future__ import annotations

import os
import resource
import secrets
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fastapi import FastAPI
from uvicorn import Config as ServerConfig

from verifier.access import ApiKeys, HostProofs, Operator, OperatorLog
from verifier.approval import Approvals
from verifier.attest import Attestation, ReferenceSets
from verifier.config import VerifierConfig
from verifier.contents import Contents
from verifier.cosigning import ASKS_FOR, Cosigning
from verifier.dry_runs import DryRuns
from verifier.enrol import Enrolment
from verifier.hosts import Hosts
from verifier.http.app import build
from verifier.http.limits import bounded, connections_within
from verifier.http.route import Parts
from verifier.keys import LOG_FILE, Keys, log_signer, make_decision_key
from verifier.ledger import Began, EngineInstalled, Ledger, Noted
from verifier.ledger.schema import ApiKeyRow, EntryRow, ExchangeKeyRow, KeyRow
from verifier.ledger.sequencer import SqliteLedger
from verifier.ledger.sqlite import SqliteTables, connect, hold
from verifier.ledger.translog import TransparencyLog, replace_head
from verifier.policy import Policies
from verifier.publications import Publications
from verifier.reference import References
from verifier.revocation import Revocations
from verifier.rotation import Rotation
from verifier.token_exchange import TokenExchange
from verifier.trust import Anchors
from verifier.witnesses import Witnesses, uplinks
from writ.formats.decision import Genesis
from writ.formats.digest import Digest
from writ.formats.engine import EngineId, encode_engine
from writ.formats.errors import FormatError, Unavailable
from writ.formats.tlog.checkpoint import Checkpoint, parse_signed_checkpoint
from writ.formats.tlog.cosignature import parse_policy
from writ.formats.tlog.note import PLAIN, NoteKey
from writ.service.clock import Clock, SystemClock
from writ.service.engine_id import installed_engine
from writ.service.observe import Counters
from writ.service.signers import load_signer

INIT: Final = Operator("init", "*", "operator", "verifier init")
"""Who acts before there is an API key."""


@dataclass(frozen=True, slots=True)
class Verifier:
    """A verifier, built. `close` it when done."""

    app: FastAPI
    parts: Parts
    ledger: SqliteLedger

    def close(self) -> None:
        """No witness is asked any more, and the ledger is closed."""
        if self.parts.cosigning is not None:
            self.parts.cosigning.close()
        self.ledger.close()


def parts(
    config: VerifierConfig, ledger: Ledger, *, clock: Clock, engine: EngineId, random: Callable[[int], bytes] = secrets.token_bytes,
    translog: TransparencyLog | None = None, cosigning: Cosigning | None = None,
) -> Parts:  # fmt: skip
    """Everything the routes need, over any ledger, clock and source of randomness; the ledger has the engine that entries will name."""
    ledger.commit(EngineInstalled(encode_engine(engine)))
    named = engine.digest
    keys = Keys(config.key_dir, ledger)
    log = OperatorLog(keys, named)
    references, policies = References(ledger, keys, log, clock), Policies(ledger, keys, log, clock)
    publications = Publications(ledger, keys, log, clock)
    sets = ReferenceSets()
    anchors = Anchors(ledger, keys, log, clock, config.domain, config.issuer, None if translog is None else translog.key)
    return Parts(
        ledger=ledger,
        translog=translog,
        cosigning=cosigning,
        keys=keys,
        clock=clock,
        counters=Counters(),
        attestation=Attestation(ledger, keys, clock, named, config.issuer, random, sets),
        exchange=TokenExchange(ledger, keys, clock, named, config.issuer, random, sets),
        enrolment=Enrolment(ledger, keys, anchors, clock, named, config.domain, config.issuer, random),
        hosts=Hosts(ledger, log, clock, random),
        references=references,
        publications=publications,
        policies=policies,
        approvals=Approvals(ledger, log, clock, references, publications, policies),
        dry_runs=DryRuns(ledger, clock, sets),
        revocations=Revocations(ledger, keys, log, clock, config.issuer),
        anchors=anchors,
        rotation=Rotation(ledger, keys, log, clock),
        contents=Contents(ledger, log, clock, random),
        api_keys=ApiKeys(ledger, log, clock, random),
        proofs=HostProofs(ledger, clock),
        requests_per_second=config.requests_per_second,
        requests_burst=config.requests_burst,
    )


def verifier(config: VerifierConfig, clock: Clock | None = None, application: Callable[[Parts], FastAPI] = build) -> Verifier:
    """The verifier of a state directory that `init` made, served by `application`. Raises Unavailable where it did not."""
    if not config.ledger_file.exists():
        raise Unavailable("state directory", f"no ledger in {config.state_dir}; run `verifier init`")
    ledger, translog = _opened(config)
    try:
        clock = clock or SystemClock()
        cosigning = _cosigning(config, translog, ledger, clock)
        made = parts(config, ledger, clock=clock, engine=installed_engine(), translog=translog, cosigning=cosigning)
        made.keys.current()
        made.keys.exchange_signer(made.clock.now())
        if cosigning is not None:
            cosigning.start()
        return Verifier(application(made), made, ledger)
    except BaseException:
        ledger.close()
        raise


def init(config: VerifierConfig, key_file: Path, clock: Clock | None = None, *, after: bytes | None = None) -> ApiKeyRow | None:
    """State directory, keys and ledger are there; where no API key was, the first one is in `key_file` (0600). Safe to repeat.

    `after` is the last checkpoint of a log that was lost, as its keepers have it: the new log, under a name of its own, says so behind its
    genesis. Raises FormatError where that is not a checkpoint of another log, or this one has entries.
    """
    lost = None if after is None else parse_signed_checkpoint(after).checkpoint
    if lost is not None and lost.origin == config.origin:
        raise FormatError("--after", "a checkpoint of another log: a new one takes another log_name", f"one of {lost.origin}")
    if lost is not None and config.ledger_file.exists() and (entries := _entries(config)) > 1:
        raise FormatError("--after", f"a state directory without a log, to begin one after {lost.origin}", f"{entries} entries")
    config.key_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.chmod(config.key_dir, 0o700)
    make_decision_key(config.key_dir)
    if config.ledger_file.exists() and _is_initialised(config):
        return None  # also beside a verifier that serves, and holds its ledger
    ledger, translog = _opened(config)
    try:
        made = parts(config, ledger, clock=clock or SystemClock(), engine=installed_engine(), translog=translog)
        if ledger.read().last(EntryRow) is None:
            ledger.commit(Began(made.keys.sign_entry(_genesis(config, translog, made.clock.now()))))
        if after is not None and lost is not None:
            ledger.commit(_noted(made, "log-succeed", lost.origin, after))
        if not any(row.retired_at is None for row in ledger.read().select(KeyRow)):
            made.rotation.rotate(INIT)
        if not ledger.read().select(ExchangeKeyRow):
            made.rotation.rotate_exchange(INIT)
        if ledger.read().select(ApiKeyRow):
            return None
        handle = os.open(key_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "w", encoding="ascii") as file:
            secret, row = made.api_keys.create(INIT, namespace="*", role="operator", label="made by verifier init")
            file.write(secret + "\n")
        return row
    finally:
        ledger.close()


def resume(config: VerifierConfig, note: bytes, clock: Clock | None = None) -> Checkpoint:
    """The head file, which was gone, has `note`; the ledger goes on from it, and the log says that it was resumed so. That checkpoint.

    Raises Refused where the ledger does not go on from it, or nothing was gone; then as `verifier` does. Raises FormatError.
    """
    if not config.ledger_file.exists():
        raise Unavailable("state directory", f"no ledger in {config.state_dir}; a log that is lost is begun again: `verifier init --after`")
    key = NoteKey(config.origin, PLAIN, load_signer(config.key_dir / LOG_FILE).public)
    held = hold(config.ledger_file)
    try:
        replace_head(config.head_file, key, note)
    finally:
        os.close(held)
    ledger, translog = _opened(config)
    try:
        made = parts(config, ledger, clock=clock or SystemClock(), engine=installed_engine(), translog=translog)
        ledger.commit(_noted(made, "log-resume", config.origin, note))
    finally:
        ledger.close()
    return parse_signed_checkpoint(note).checkpoint


def _noted(made: Parts, act: str, subject: str, note: bytes) -> Noted:
    """What was done about a log's head, with the checkpoint that was taken for it."""
    log = OperatorLog(made.keys, installed_engine().digest)
    return Noted(log.entry(INIT, act, subject, namespace=INIT.namespace, at=made.clock.now(), detail=Digest.of(note)), (note,))


def _entries(config: VerifierConfig) -> int:
    looked = connect(config.ledger_file)
    try:
        last = SqliteTables(looked).last(EntryRow)
        return 0 if last is None else last.sequence + 1
    finally:
        looked.close()


def _opened(config: VerifierConfig) -> tuple[SqliteLedger, TransparencyLog]:
    """The ledger with its log. Raises Unavailable, and Refused where one of them was put back."""
    translog = TransparencyLog(config.origin, log_signer(config.key_dir), config.head_file)
    try:
        return SqliteLedger(config.ledger_file, log=translog), translog
    except BaseException:
        translog.close()
        raise


def _cosigning(config: VerifierConfig, translog: TransparencyLog, ledger: Ledger, clock: Clock) -> Cosigning | None:
    """What asks the witnesses of the configured policy. Raises FormatError, Unavailable."""
    path = config.witness_policy_file
    if path is None:
        return None
    try:
        policy = parse_policy(path.read_bytes())
    except OSError as error:
        raise Unavailable("witness_policy_file", f"{path}: {error.strerror}") from None
    if config.witness_within and policy.satisfied(frozenset()):
        raise FormatError("witness_policy_file", "a quorum of witnesses, as witness_within demands one", "a policy that asks for none")
    if all(key != translog.key for key, _ in policy.logs):
        raise FormatError("witness_policy_file", f"a policy with the line `log {translog.key}`", "one of other logs")
    witnesses = Witnesses(policy, uplinks(config.witness_ca_file, ASKS_FOR))
    return Cosigning(translog, ledger, policy, witnesses, clock, every=config.witness_every, within=config.witness_within)


def _genesis(config: VerifierConfig, translog: TransparencyLog, now: int) -> Genesis:
    return Genesis(installed_engine(), now, config.issuer, config.domain, config.origin, translog.key.key)


def _is_initialised(config: VerifierConfig) -> bool:
    looked = connect(config.ledger_file)
    try:
        tables = SqliteTables(looked)
        made = bool(tables.select(ExchangeKeyRow)) and bool(tables.select(ApiKeyRow))
        return made and any(row.retired_at is None for row in tables.select(KeyRow))
    finally:
        looked.close()


def _tls(_: ServerConfig, default: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    """TLS 1.3 and nothing older, no session tickets."""
    context = default()
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    return context


def _descriptors() -> int:
    """How many this process may have open at once."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 1 << 20 if soft == resource.RLIM_INFINITY else soft


def server_config(app: FastAPI, config: VerifierConfig) -> ServerConfig:
    """How uvicorn serves: HTTP/1.1, TLS 1.3 where there is a certificate, no access log (observe logs), no server header."""
    host, port = config.address
    return ServerConfig(
        app,
        host=host,
        port=port,
        http=bounded(connections_within(_descriptors())),
        ws="none",
        lifespan="off",
        access_log=False,
        server_header=False,
        log_config=None,
        proxy_headers=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=10,
        ssl_certfile=None if config.tls_cert_file is None else str(config.tls_cert_file),
        ssl_keyfile=None if config.tls_key_file is None else str(config.tls_key_file),
        ssl_context_factory=None if config.tls_cert_file is None else _tls,
    )
