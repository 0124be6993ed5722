"""A verifier as a process that can be killed, hosts that press on it, and what its ledger must say afterwards."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from examples import thief
from examples.stage import free_port
from tests.faults.fault import ROOT, Step
from tests.world.chip import Chip, Maker
from tests.world.host import RefusedByVerifier, SimulatedHost
from tests.world.verifier import DEFAULT_POLICY
from verifier import compose
from verifier.config import VerifierConfig
from verifier.http.wire import to_base64
from verifier.keys import LOG_FILE
from verifier.ledger.schema import AnswerRow, EntryRow, HostRow, NonceRow, TokenRow
from verifier.ledger.sequencer import MAX_GROUP
from verifier.ledger.sqlite import SqliteTables, connect
from verifier.ledger.translog import agrees, look, standing
from verifier.operate import Client, Server
from verifier.reference import captured, captured_governance
from writ.formats.archive import parse_archive
from writ.formats.corim import encode_corim
from writ.formats.cose import parse_sign1, verify_sign1
from writ.formats.decision import AttestDecision, parse_entry
from writ.formats.digest import Digest
from writ.formats.eat import parse_token
from writ.formats.errors import Unavailable
from writ.formats.eventlog.runtime import ComponentEvent, parse_event
from writ.formats.exchange import EXCHANGE, AttestAnswer
from writ.formats.measurement import parse_measurement
from writ.formats.tlog.note import PLAIN, NoteKey
from writ.formats.x509 import parse_certificate, to_pem
from writ.service.signers import load_signer

READY_WITHIN = 60.0
DEAD_WITHIN = 60.0


class KilledVerifier:
    """`verifier serve` on one state directory: started, killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.config = VerifierConfig(folder / "state", "example.org", self.url, listen=f"127.0.0.1:{port}")
        self.config_file = folder / "verifier.toml"
        self.config_file.write_text(
            f'state_dir = "{self.config.state_dir}"\ndomain = "example.org"\nissuer = "{self.url}"\nlisten = "127.0.0.1:{port}"\n'
            "requests_per_second = 5000\nrequests_burst = 5000\n"
        )
        self.armed = folder / "armed"
        self.key_file = folder / "operator.key"
        compose.init(self.config, self.key_file)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, step: Step | None = None, skip: int = 0) -> None:
        """It answers, and no other does; once `arm` was called it dies at `step`."""
        self.kill()
        self.armed.unlink(missing_ok=True)
        environment = {"PATH": "/usr/bin:/bin", **({} if step is None else step.environment(self.armed, skip))}
        with (self.folder / "verifier.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "verifier", "--config", str(self.config_file), "serve"],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + READY_WITHIN
        while not thief.answers(self.url, "/readyz"):
            assert self.process.poll() is None, (self.folder / "verifier.log").read_text()[-2000:]
            assert time.monotonic() < deadline, "the verifier did not start"
            time.sleep(0.02)

    def arm(self) -> None:
        """From now on it dies when it comes to its step."""
        self.armed.touch()

    def died(self, within: float = DEAD_WITHIN) -> bool:
        """Whether it ended by SIGKILL in time."""
        assert self.process is not None
        try:
            return self.process.wait(within) == -signal.SIGKILL
        except subprocess.TimeoutExpired:
            return False

    def ended(self) -> int | None:
        """Its exit status."""
        return None if self.process is None else self.process.returncode

    def kill(self) -> None:
        """It is gone, if it was not."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def operator(self) -> Client:
        """The operator's client; close it."""
        return Client(Server(self.url, self.key_file, None, None))


@dataclass
class Visitor:
    """One simulated host with one instance; it remembers every token that ever reached it, and what was not answered."""

    host: SimulatedHost
    dice: random.Random
    tokens: list[str] = field(default_factory=list)
    pending: bytes | None = None
    refused: list[str] = field(default_factory=list)

    @property
    def path(self) -> str:
        """Where it attests."""
        return f"/v1/hosts/{self.host.name}/attest"

    def press(self, until: threading.Event) -> None:
        """Attest again and again, now and then with a newly fetched nonce, until the verifier is gone."""
        while not until.is_set():
            try:
                if self.dice.random() < 0.25:
                    self.host.nonce = None
                self.host.instances["one"].leaves.append(self.dice.randbytes(8))
                self.pending = None
                body = self.host.evidence("one")
                self.pending = body
                self._take(self.host.deliver(body, "one"))
                self.pending = None
            except Unavailable:
                return
            except RefusedByVerifier as refused:
                self.refused += refused.codes
                return

    def _take(self, answer: AttestAnswer) -> None:
        token = answer.answers[0].token
        assert token is not None, (answer.answers[0].reasons, answer.reasons)
        self.tokens.append(token)

    def go_on(self, spent_by: bytes | None, stored: bytes | None) -> str:
        """After the restart: the nonce in question is good for exactly one evidence, and the host renews. What the case was.

        `spent_by` and `stored` are what the ledger on disk says of that nonce.
        """
        case = "nothing pending"
        if self.pending is not None:
            body, nonce = self.pending, self.host.nonce
            assert nonce is not None
            other = self.host.evidence("one", nonce=nonce)
            assert other != body
            if spent_by is not None:
                case = "decided, answer lost"
                assert spent_by == Digest.of(body).value
                winner, loser = body, other
            elif self.dice.random() < 0.5:
                case, winner, loser = "not decided, resent", body, other
            else:
                case, winner, loser = "not decided, other evidence sent", other, body
            first = self.host.say(self.path, winner)
            again = self.host.say(self.path, winner)
            assert (first.status, again.status, first.body) == (200, 200, again.body), (case, first, again)
            assert stored is None or first.body == stored
            assert self._refusal(loser) == ["nonce-spent"]
            message = EXCHANGE.parse(first.body)
            assert isinstance(message, AttestAnswer)
            self._take(message)
            self.host.nonce, self.host.sent = message.nonce, len(self.host.records)
            self.host.instances["one"].carried = len(self.host.instances["one"].leaves)
            self.pending = None
        self._take(self.host.attest("one"))
        return case

    def _refusal(self, body: bytes) -> list[str]:
        try:
            self.host.deliver(body)
        except RefusedByVerifier as refused:
            return refused.codes
        return []


class Campaign:
    """Hosts, a verifier, and a check of its ledger after each death."""

    def __init__(self, folder: Path, hosts: int, seed: int) -> None:
        self.verifier = KilledVerifier(folder)
        self.dice = random.Random(seed)
        self.visitors: list[Visitor] = []
        self.cases: Counter[str] = Counter()
        self.deaths = 0
        self.verifier.start()
        with closing(self.verifier.operator()) as operator:
            maker = Maker()
            pem = "".join(to_pem(parse_certificate(der)) for der in (maker.root(), maker.intermediate()))
            operator.post("/v1/trust", {"pem": pem, "tpm_class": "software"})
            texts = {n: (DEFAULT_POLICY / f).read_text() for n, f in (("schema", "schema.cedarschema"), ("policies", "default.cedar"))}
            operator.post("/v1/policies", {"settings": {"accept_runtime_only": True, "tpm_classes": ["software"]}, **texts})
            for number in range(hosts):
                self._admit(operator, f"host-{number}")
            self._approve(operator, self.visitors[0].host)
        key = self.visitors[0].host.decision_key
        assert key is not None
        self.decision_key = key

    def _admit(self, operator: Client, name: str) -> None:
        ticket = operator.post("/v1/hosts", {"host": name})["ticket"]
        host = SimulatedHost(name, self.verifier.url, chip=Chip(seed=name))
        self.visitors.append(Visitor(host, random.Random(self.dice.random())))
        host.enrol(str(ticket))
        host.govern()
        host.launch("one")

    def _approve(self, operator: Client, host: SimulatedHost) -> None:
        events = [parse_event(record.content) for record in host.records]
        governance = [(e.name, e.root) for e in events if isinstance(e, ComponentEvent)]
        corims = [captured_governance(host.namespace, governance), *(captured(parse_measurement(item)) for item in host.measured)]
        operator.post("/v1/references", {"corims": sorted({to_base64(encode_corim(c)) for c in corims}), "replace": False})

    def close(self) -> None:
        """The verifier has ended and every connection is closed."""
        self.verifier.kill()
        for visitor in self.visitors:
            visitor.host.close()

    def die_at(self, step: Step | None, skip: int) -> None:
        """One round: the verifier starts, what the last death left is settled, then it dies under load; the ledger is checked.

        `step` None: it dies at any moment, `skip` milliseconds after the load began.
        """
        self.verifier.start(step, skip)
        self._settle()
        done = threading.Event()
        threads = [threading.Thread(target=v.press, args=(done,)) for v in self.visitors]
        self.verifier.arm()
        for thread in threads:
            thread.start()
        try:
            if step is None:
                time.sleep(skip / 1000)
                self.verifier.kill()
            assert self.verifier.died(), f"the verifier did not come to: {step}; exit {self.verifier.ended()}"
        finally:
            done.set()
            self.verifier.kill()
            for thread in threads:
                thread.join(30)
        self.deaths += 1
        assert [v.refused for v in self.visitors if v.refused] == []
        self.check_ledger()

    def _settle(self) -> None:
        with tempfile.TemporaryDirectory() as room:
            tables = self._copy(Path(room))
            facts = []
            for visitor in self.visitors:
                nonce = b"" if visitor.pending is None or visitor.host.nonce is None else visitor.host.nonce
                row, answer = tables.get(NonceRow, nonce), tables.get(AnswerRow, nonce)
                facts.append((None if row is None else row.spent_by, None if answer is None else answer.answer))
            tables.close()
        for visitor, (spent_by, stored) in zip(self.visitors, facts, strict=True):
            self.cases[visitor.go_on(spent_by, stored)] += 1

    def _copy(self, room: Path) -> LedgerCopy:
        """The ledger as a restart would find it: the file and its write-ahead log, copied."""
        for name in ("ledger.sqlite", "ledger.sqlite-wal"):
            if (self.verifier.config.state_dir / name).exists():
                shutil.copy(self.verifier.config.state_dir / name, room / name)
        return LedgerCopy(room / "ledger.sqlite")

    def check_ledger(self) -> None:
        """What is on disk is whole, and says everything that anyone was told; the log goes on from its head, which is read first."""
        config = self.verifier.config
        log_key = NoteKey(config.origin, PLAIN, load_signer(config.key_dir / LOG_FILE).public)
        head = look(config.head_file, log_key)
        with tempfile.TemporaryDirectory() as room:
            tables = self._copy(Path(room))
            try:
                self._check(tables)
                size = standing(tables, log_key).edge.size
                agrees(tables, size, head)
                assert size - (0 if head is None else head.size) <= MAX_GROUP, "no more than the group that was under way"
            finally:
                tables.close()

    def _check(self, tables: LedgerCopy) -> None:
        """1. The file is sound. 2. The log is gapless and signed. 3. State, nonces, answers and tokens are those of the log. 4. Tokens."""
        # 1
        assert tables.integrity() == "ok"
        # 2
        rows = tables.select(EntryRow)
        assert [row.sequence for row in rows] == list(range(len(rows)))
        signed = [parse_sign1(row.entry) for row in rows]
        assert all(verify_sign1(one, self.decision_key) for one in signed)
        decisions = [d for d in (parse_entry(one.payload or b"") for one in signed) if isinstance(d, AttestDecision)]
        # 3
        for visitor in self.visitors:
            host = tables.get(HostRow, visitor.host.name)
            mine = [d for d in decisions if d.host == visitor.host.name]
            assert host is not None
            assert host.version == len(mine) - 1
            assert host.state is None if not mine else Digest.of(host.state or b"") == mine[-1].state_after
        spent = {row.nonce: row.spent_by for row in tables.select(NonceRow) if row.spent_by is not None}
        assert len({d.nonce for d in decisions}) == len(decisions)
        assert spent == {d.nonce: dict(d.inputs)["evidence"].value for d in decisions}
        assert {row.nonce for row in tables.select(AnswerRow)} == set(spent)
        claims = [o.claims for d in decisions for o in d.outcomes if o.claims is not None]
        assert {row.token_id for row in tables.select(TokenRow)} == {i for d in decisions for i, _ in d.issued}
        assert len(tables.select(TokenRow)) == len(claims)
        # 4
        told = {Digest.of(parse_token(token).jws.payload) for visitor in self.visitors for token in visitor.tokens}
        assert told <= set(claims)

    def check_export(self) -> int:
        """Every token that anyone was given has its decision in what `verifier export` gives; how many tokens."""
        with closing(self.verifier.operator()) as operator:
            archive = parse_archive(operator.export())
        decisions = [parse_entry(parse_sign1(entry).payload or b"") for entry in archive.entries]
        claims = {o.claims for d in decisions if isinstance(d, AttestDecision) for o in d.outcomes}
        tokens = {token for visitor in self.visitors for token in visitor.tokens}
        assert {Digest.of(parse_token(token).jws.payload) for token in tokens} <= claims
        return len(tokens)

    def end(self) -> int:
        """The last restart: what was left is settled, the export holds it all; how many tokens were given in the whole campaign."""
        self.verifier.start()
        self._settle()
        tokens = self.check_export()
        self.check_ledger()
        return tokens


class LedgerCopy(SqliteTables):
    """The tables of a copy of a ledger's file."""

    def __init__(self, path: Path) -> None:
        self._opened = connect(path)
        super().__init__(self._opened)

    def integrity(self) -> str:
        """What SQLite says of the file: ok, or what is wrong."""
        return str(self._opened.execute("PRAGMA integrity_check").fetchone()[0])

    def close(self) -> None:
        """The copy is closed."""
        self._opened.close()
