"""Erasure from end to end: what agents did goes through a verifier and an enforcer, is erased, and is in no file, page or export then.

What is looked for are the bytes themselves, of arguments, results, contexts, evidence and keys, in every file that verifier, enforcer and
store have written, whole as they lie there: databases with their free pages and write-ahead logs, keys, papers and logs.
"""

from __future__ import annotations

import base64
import json
import secrets
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from auditor.__main__ import main as auditor
from auditor.serving import folder as store_folder
from auditor.store import records, serve
from auditor.store.keeper import Keeper
from enforcer.__main__ import main as enforcer
from enforcer.bundles import HeldBundles
from enforcer.config import EnforcerConfig
from enforcer.content_keys import ContentKeys
from enforcer.credential import Credential, Subject, accept
from enforcer.gatekeeper import Gatekeeper
from enforcer.holds import Holds, Said
from enforcer.papers import keep
from enforcer.record import ActionLog, Entry, LogReader
from enforcer.shipping import Shipping, host_key
from tests.auditor.served import ServedStore
from tests.enforcer.host import Host, wait_for
from tests.signers import new_signer
from tests.world.clock import HandClock
from tests.world.host import SimulatedHost
from tests.world.store import sent
from tests.world.verifier import RunningVerifier
from verifier.ledger.blobs import FOLDER
from verifier.ledger.schema import EntryRow
from verifier.ledger.transaction import blob
from writ.formats.action import Action
from writ.formats.archive import parse_archive
from writ.formats.cose import parse_sign1
from writ.formats.decision import AttestDecision, OperatorAct, parse_entry
from writ.formats.digest import Digest
from writ.formats.errors import Refused
from writ.formats.grants import grant_set
from writ.formats.keys import ED25519
from writ.formats.local import TokenGiven
from writ.formats.operator_log import OPERATOR_LOG, of_namespace
from writ.formats.record import ActionRecord, commit, preimage_of
from writ.formats.tlog.merkle import leaf_hash
from writ.formats.tlog.note import COSIGNATURE, NoteKey, parse_vkey
from writ.formats.trust import parse_trust
from writ.service.engine_id import installed_engine
from writ.service.key_files import destroy_key
from writ.service.signers import create_signer
from writ.service.uplink import Answer

SAID = Said("dave", "contract ended")
FILE = "patient-4711"
"""A file that the kernel measured: its name is in the evidence."""


class Site:
    """A verifier with one host in each of two namespaces, whose enforcer and record store are real, too."""

    def __init__(self, verifier: RunningVerifier, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.verifier, self.folder = verifier, folder
        serve.init(folder / "store", "store.example")
        self.store_key, self._store_signer = store_folder.load(folder / "store")
        self.config = EnforcerConfig(
            run_dir=folder / "run", state_dir=folder / "enforcer", record_store="http://127.0.0.1:1",
            record_store_key=str(self.store_key), record_log="records.example/host-1",
        )  # fmt: skip
        self.config.make_folders()
        (folder / "enforcer.toml").write_text(f'state_dir = "{self.config.state_dir}"\nrun_dir = "{self.config.run_dir}"\n')
        self.holds = Holds(self.config, verifier.clock)
        self.shown = folder / "shown"
        self.shown.mkdir()
        monkeypatch.setattr(Shipping, "_post", lambda _, body: self._stored(body))
        self.answered: dict[str, list[bytes]] = {}
        """Tokens and results that the verifier keeps for a retry."""
        self.receipts: list[bytes] = []
        self.secrets: dict[str, list[bytes]] = {}
        """Of each namespace, what nobody may find once it is erased."""
        self.hosts = {name: self._host(name) for name in ("default", "billing")}
        for namespace, host in self.hosts.items():
            self._acts(namespace, host)
        self.ship()

    def _host(self, namespace: str) -> SimulatedHost:
        operator = self.verifier.as_operator(self.verifier.key_file, namespace)
        policy = self.verifier.client.get("/v1/policies/current")
        operator.post("/v1/policies", {name: policy[name] for name in ("settings", "schema", "policies")})
        host = SimulatedHost(f"h-{namespace}", self.verifier.url, namespace=namespace, clock=self.verifier.clock)
        self.verifier.closing.callback(host.close)
        host.enrol(str(operator.post("/v1/hosts", {"host": host.name})["ticket"]))
        host.govern()
        host.boot()
        host.measure(**{FILE: Digest.of(secrets.token_bytes(8))})
        host.launch("one")
        host.attest("one")
        host.reboot()
        host.boot()
        host.launch("one")
        whole, self.verifier.client = self.verifier.client, operator
        self.verifier.approve(host)
        self.verifier.client = whole
        return host

    def _acts(self, namespace: str, host: SimulatedHost) -> None:
        """Two actions under a token of this very verifier, and an attestation that carries their records."""
        trust = parse_trust(base64.b64decode(self.verifier.client.get("/v1/trust")["file"]))
        one, clock = host.instances["one"], self.verifier.clock
        folder = self.config.instance_dir(one.instance)
        folder.mkdir()
        evidence = host.evidence("one")
        answer = host.deliver(evidence, "one")
        token = answer.answers[0].token
        assert token is not None, answer
        assert host.decision_key is not None
        receipt = host.anonymous.get(f"/log/receipt/{leaf_hash(answer.decision).hex()}").body
        self.receipts.append(receipt)
        self.answered[namespace] = [token.encode(), answer.result]
        given = TokenGiven(token, answer.decision, answer.result, answer.policy, answer.token_keys, host.decision_key, evidence, receipt)
        log = ActionLog(
            folder, one.instance, one.measurement.agent, installed_engine(), clock.now(), self.config.namespace_keys
        )  # fmt: skip
        subject = Subject(one.instance, one.measurement.agent, one.key.public, one.audience, grant_set(one.grants), None)
        credential = Credential(clock)
        keep(folder, given, logged=True)
        bundles = HeldBundles(folder / "policies")
        credential.take(accept(given, subject, trust, bundles, wall=clock.wall, boot=clock.since_boot))
        gate = Gatekeeper(credential=credential, log=log, clock=clock)
        said = self.secrets.setdefault(namespace, [])
        for resource in ("files/a", "files/b"):
            argument, result = (f"{what} {secrets.token_hex(12)}".encode() for what in ("argument", "result"))
            ruling = gate.ask(Action("tool.call", resource, Digest.of(argument)), argument, gate="socket")
            assert ruling.permit, ruling.reasons
            gate.outcome(ruling, done=True, result=result)
            said += [argument, result]
        log.close()
        entries = LogReader(folder, one.instance, self.config.namespace_keys).entries()
        said += [entry.context for entry in entries if entry.context is not None]
        one.leaves = [entry.leaf for entry in entries]
        clock.advance(30)
        host.attest("one")

    def _stored(self, body: bytes) -> Answer:
        host, signer = host_key(self.config)
        kept = records.open_records(self.folder / "store")
        store = Keeper(self.store_key, self._store_signer, [host], kept, HandClock(), quota=1 << 30)
        answer = sent(store, signer, body)
        kept.close()
        return Answer(answer.status, answer.content_type, answer.body)

    def ship(self) -> None:
        """All that the host has is in the store."""
        shipping = Shipping(self.config, HandClock(), list, lambda *_: None)
        assert shipping.round({OPERATOR_LOG, *(host.instances["one"].instance for host in self.hosts.values())}) == set()

    # --- what is looked at

    def entries(self, namespace: str) -> tuple[Entry, ...]:
        """Of the namespace's one instance, as its host reads them."""
        instance = self.hosts[namespace].instances["one"].instance
        return LogReader(self.config.instance_dir(instance), instance, self.config.namespace_keys).entries()

    def records(self, namespace: str) -> list[ActionRecord]:
        """Its actions."""
        return [entry.record for entry in self.entries(namespace) if isinstance(entry.record, ActionRecord)]

    def salts(self, namespace: str) -> list[bytes]:
        """Every salt that is still to be had, those of actions first."""
        hidden = [entry.hidden for entry in self.entries(namespace) if entry.hidden is not None]
        return [salt for one in hidden for salt in (one.salt, one.context_salt) if salt is not None]

    def hidden(self, namespace: str) -> list[bytes]:
        """Salts and what they open."""
        both = [(entry.hidden.salt, entry.hidden.content) for entry in self.entries(namespace) if entry.hidden is not None]
        return [*self.salts(namespace), *(preimage_of(salt, content) for salt, content in both)]

    def keys(self, namespace: str) -> list[bytes]:
        """Every key that opens what is of the namespace, as it is now."""
        keys, instance = ContentKeys(self.config.namespace_keys, namespace), self.hosts[namespace].instances["one"].instance
        held = keys.held(self.config.instance_dir(instance), instance)
        assert held is not None
        files = (self.config.namespace_keys / f"{namespace}.key", self.verifier.config.ledger_file.parent / FOLDER / f"{namespace}.key")
        return [held, *(path.read_bytes() for path in files)]

    def files(self) -> Iterator[tuple[Path, bytes]]:
        """Every file that was written, whole; not what an auditor was shown."""
        for path in sorted(self.folder.rglob("*")):
            if path.is_file() and self.shown not in path.parents:
                yield path.relative_to(self.folder), path.read_bytes()

    def found(self, *sought: bytes) -> list[tuple[str, bytes]]:
        """In which files these bytes stand, in any of their spellings."""
        spelt = {
            spelling: one for one in sought for spelling in (one, one.hex().encode(), base64.b64encode(one), base64.urlsafe_b64encode(one))
        }
        return [(str(path), one) for path, data in self.files() for spelling, one in spelt.items() if spelling in data]

    def said(self, capsys: pytest.CaptureFixture[str], command: Any, *words: str) -> tuple[int, Any]:
        """The exit status of a command and what it printed, which has no secret in it."""
        capsys.readouterr()
        code = command([*words, "--json"])
        out, err = capsys.readouterr()
        assert not [one for every in self.secrets.values() for one in every if one in out.encode() or one in err.encode()]
        return code, json.loads(out)

    def audited(self, capsys: pytest.CaptureFixture[str], name: str) -> tuple[dict[str, int], list[tuple[int, bool]]]:
        """What `replay` counts over archives made now; of each action's bundle what `verify` answers, and whether it was decided again."""
        place = self.shown / name
        place.mkdir()
        (place / "trust").write_bytes(base64.b64decode(self.verifier.client.get("/v1/trust")["file"]))
        archives = [str(place / "verifier"), str(place / "host"), str(place / "store")]
        exports = [self.verifier.client, *(self.verifier.as_operator(self.verifier.key_file, one) for one in self.hosts)]
        whole = [one.export() for one in exports]
        for at, data in enumerate(whole):
            (place / f"verifier-{at}").write_bytes(data)
        archives[:1] = [str(place / f"verifier-{at}") for at in range(len(whole))]
        assert enforcer(["--config", str(self.folder / "enforcer.toml"), "log", "export", "--output", archives[-2]]) == 0
        assert auditor(["store", "export", str(self.folder / "store"), "--output", archives[-1]]) == 0
        _, told = self.said(capsys, auditor, "replay", *archives, "--trust", str(place / "trust"))
        _, made = self.said(capsys, auditor, "export", *archives, "--out", str(place / "proofs"))
        proven = [
            self.said(capsys, auditor, "verify", str(place / "proofs" / one), "--trust", str(place / "trust")) for one in made["written"]
        ]
        counts = {name: count for name, count in told["counts"].items() if count}
        return counts, [(code, bool(one.get("rerun"))) for code, one in proven]


@pytest.fixture
def site(verifier: RunningVerifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(verifier, tmp_path, monkeypatch)


TOOL = """
import json, sys
for line in sys.stdin:
    said = json.loads(line)
    text = said["params"]["arguments"]["name"][::-1]
    print(json.dumps({"jsonrpc": "2.0", "id": said["id"], "result": {"text": text}}), flush=True)
"""
AGENT = """
    import hashlib
    name = hashlib.sha256(b"seed").hexdigest()
    print(ask("notes", "read", name=name)["result"]["text"] == name[::-1], flush=True)
    print(ask("notes", "wipe", name=name)["ok"], flush=True)
    time.sleep(600)
"""


@pytest.mark.cgroup
def test_a_daemon_writes_no_content_in_the_clear_and_ships_what_operators_do(
    idle_host: Host, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A whole host: what an agent asked with and was told is in no file of it, while it runs and when it has ended, nor in the store."""
    host, argument = idle_host, sha256(b"seed").hexdigest().encode()
    named = {"record_store": "http://127.0.0.1:1", "record_log": "records.example/host-1"}
    host.write_config(**named, record_store_key=str(NoteKey("store.example", COSIGNATURE, new_signer().public)))
    store = ServedStore(tmp_path / "s", [parse_vkey(host.show("log", "vkey")["vkey"])], name="store.example")
    places = [host.folder / name for name in ("state", "daemon.log", "enforcer.toml")] + [tmp_path]

    def found() -> list[Path]:
        files = [one for place in places for one in ((place, *place.rglob("*"))) if one.is_file()]
        assert len(files) > 10
        return [one for one in files if argument in (data := one.read_bytes()) or argument[::-1] in data]

    try:
        host.write_config(**named | {"record_store": store.url}, record_store_key=str(store.key))
        host.serve()
        host.agent("a", AGENT, tool=TOOL)
        run = host.run("a")
        assert run.stdout is not None
        assert [run.stdout.readline() for _ in range(2)] == [b"True\n", b"False\n"]
        instance = host.instance("a")
        assert host.show("log", "erase", "--namespace", "test")["error"] == "unavailable", "an instance of it runs"
        wait_for(lambda: host.show("status", instance.hex())["instances"][0]["stored"] >= 4)
        assert found() == []
        host.show("kill", instance.hex())
        host.finish(run)
        wait_for(lambda: not host.holders())
        shown = host.show("log", "show", instance.hex())["records"]
        assert [argument.decode() in (one["content"] or "") for one in shown] == [False, True, False, True], "it was there to be found"
        host.show("log", "hold", "--namespace", "test", "--by", "bob", "--why", "litigation 7")
        assert host.show("log", "erase", "--namespace", "test")["reasons"][0]["code"] == "held"
        host.show("log", "lift", "--namespace", "test", "--by", "bob", "--why", "settled")
        assert host.show("log", "erase", "--namespace", "test")["erased"] is True
        assert {one["content"] for one in host.show("log", "show", instance.hex())["records"]} == {None}
        assert found() == []

        def acts() -> list[tuple[str, str | None]]:
            capsys.readouterr()
            assert auditor(["store", "acts", str(tmp_path / "s"), "--json"]) == 0
            hosts = json.loads(capsys.readouterr().out)["hosts"]
            return [(one["act"], one.get("outcome")) for one in (hosts[0]["acts"] if hosts else ())]

        wanted = [("log.erase", "failed"), ("log.hold", None), ("log.lift", None), ("log.erase", "done")]
        wait_for(lambda: acts() == wanted)
    finally:
        store.kill()


def erase(site: Site, namespace: str) -> None:
    """On both, by whoever may."""
    operator = site.verifier.as_operator(site.verifier.key_file, namespace)
    assert operator.post("/v1/contents/erase", {"why": SAID.why})["erased"] is True
    assert site.holds.erase_namespace(namespace, SAID) is True


def test_what_was_erased_is_nowhere_and_every_proof_holds(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    """Not even before is a content in any file; afterwards no key is, and so nothing opens what is sealed, for ever."""
    counts, proven = site.audited(capsys, "before")
    assert counts == {"identical": 12, "signed only": 12}
    assert proven == [(0, True)] * 4
    keys, others = site.keys("default"), site.keys("billing")
    hidden = site.hidden("default")
    assert site.found(*site.secrets["default"], *site.secrets["billing"], *hidden) == []
    assert {place for place, _ in site.found(*keys)} == {"enforcer/namespaces/default.key", "state/blob-keys/default.key"}
    answered = site.answered["default"]
    assert any(place.startswith("state/ledger") for place, _ in site.found(*answered)), "a retry is answered from there"

    assert site.holds.erase_namespace("default", SAID) is True
    site.ship()
    counts, proven = site.audited(capsys, "host")
    assert counts == {"identical": 10, "erased": 2, "signed only": 12}
    assert sorted(proven) == [(0, False), (0, False), (0, True), (0, True)], "bundles made now, of what the verifier still has"

    site.verifier.as_operator(site.verifier.key_file, "default").post("/v1/contents/erase", {"why": SAID.why})
    assert site.found(*site.secrets["default"], *hidden, *keys) == []
    assert not [place for place, _ in site.found(*answered) if place.startswith("state/")]
    assert site.keys("billing") == others
    counts, proven = site.audited(capsys, "after")
    assert counts == {"identical": 6, "erased": 6, "signed only": 13}
    assert proven == [(0, True)] * 2, "a bundle takes evidence: that of the other namespace"
    for bundle in (*(site.shown / "before" / "proofs").iterdir(), *(site.shown / "host" / "proofs").iterdir()):
        assert site.said(capsys, auditor, "verify", str(bundle), "--trust", str(site.shown / "after" / "trust"))[0] == 0


def test_a_guess_at_an_argument_is_confirmed_by_nothing_that_is_public(site: Site) -> None:
    """Who knows an argument, and has every leaf: the commitment takes a salt, and the salt went with the key."""
    [record, *_] = site.records("default")
    [salt, *_] = site.salts("default")
    argument = site.secrets["default"][0]
    assert commit(salt, argument) == record.arguments, "so it would be confirmed"
    erase(site, "default")
    assert site.found(salt, preimage_of(salt, argument), sha256(argument).digest()) == []
    assert not site.salts("default")
    with (site.folder / "guess").open("wb") as file:
        file.write(salt)
    assert site.found(salt) == [("guess", salt)], "it is seen where it is"


def test_nothing_public_says_what_was_hidden(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    """Tiles, receipts, leaves, TRACE record and report: nothing of a TPM's EK, of an argument or result, no file, no operator's reason."""
    erase(site, "billing")
    site.audited(capsys, "shown")
    place, verifier = site.shown / "shown", site.verifier
    log = f"{verifier.url}/log"
    assert site.said(capsys, auditor, "log", "mirror", log, str(place / "mirror"), "--trust", str(place / "trust"))[0] == 0
    [bundle, *_] = sorted((place / "proofs").iterdir())
    create_signer(place / "key", ED25519)
    trace = ["trace", str(bundle), "--trust", str(place / "trust"), "--key", str(place / "key"), "--model", "example/small"]
    assert site.said(capsys, auditor, *trace, "--data-class", "internal", "--out", str(place / "trace"))[0] == 0
    sources = [str(one) for one in sorted(place.glob("verifier-*"))] + [str(place / "host")]
    report = ["report", *sources, "--log", str(place / "mirror"), "--trust", str(place / "trust"), "--output", str(place / "page")]
    assert site.said(capsys, auditor, *report)[0] in (0, 3)
    public = {name: (place / name).read_bytes() for name in ("trace", "page")}
    public |= {str(path): path.read_bytes() for path in (place / "mirror").rglob("*") if path.is_file()}
    assert len(public) > 4
    leaves = [leaf for log_of in parse_archive((place / "store").read_bytes()).logs for leaf in log_of.leaves]
    public["leaves"] = b"".join(leaves)
    public["receipts"] = b"".join(site.receipts)
    sought = [FILE.encode(), SAID.why.encode(), *(one for every in site.secrets.values() for one in every)]
    for host in site.hosts.values():
        sought += [host.chip.ek.raw, *host.chip.ek_certificates]
    for one in sought:
        for spelt in (one, sha256(one).digest(), commit(bytes(32), one)):
            for spelling in (spelt, spelt.hex().encode(), base64.b64encode(spelt), base64.urlsafe_b64encode(spelt).rstrip(b"=")):
                assert not [name for name, data in public.items() if spelling in data], one


def test_a_hold_refuses_on_both_after_a_restart_and_with_clocks_put_back(site: Site) -> None:
    namespace, clock = "default", site.verifier.clock
    operator = site.verifier.as_operator(site.verifier.key_file, namespace)
    operator.post("/v1/contents/hold", {"why": "litigation 7"})
    site.holds.hold(of_namespace(namespace), Said("bob", "litigation 7"))
    before = site.keys(namespace)
    for moved in (0, -100_000, 200_000):
        clock.wall += moved
        again = Holds(site.config, clock)
        for erasing in (
            lambda: operator.post("/v1/contents/erase", {"why": "x"}),
            lambda holds=again: holds.erase_namespace(namespace, SAID),
            lambda holds=again: holds.erase_instance(site.hosts[namespace].instances["one"].instance, SAID),
        ):
            with pytest.raises(Refused) as refused:
                erasing()
            assert [one.code for one in refused.value.reasons] == ["held"]
    assert site.keys(namespace) == before


def test_a_verifier_holds_what_is_there_when_it_says_so_and_seals_nothing_with_a_key_that_goes(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Destroying takes its time, and meanwhile another erasure, an attestation and a hold are asked for: each comes wholly after it."""
    verifier, host = site.verifier, site.hosts["default"]
    tables = verifier.made.ledger.read
    began = threading.Event()

    def slowly(path: Path) -> bool:
        began.set()
        time.sleep(0.4)
        return destroy_key(path)

    monkeypatch.setattr("verifier.ledger.blobs.destroy_key", slowly)
    operators = [verifier.as_operator(verifier.key_file, "default") for _ in range(3)]
    evidence, before = host.evidence("one"), len(tables().select(EntryRow))
    with ThreadPoolExecutor(4) as pool:
        done = [pool.submit(operators[0].post, "/v1/contents/erase", {"why": "first"})]
        assert began.wait(10)
        done.append(pool.submit(operators[1].post, "/v1/contents/erase", {"why": "second"}))
        time.sleep(0.1)
        attesting = pool.submit(host.deliver, evidence, "one")
        time.sleep(0.1)
        operators[2].post("/v1/contents/hold", {"why": "litigation 7"})
        held = [_kept(site, decision) for decision in _attested(site)]
        attesting.result(20)
        for one in done:
            one.result(20)
    acts = [parse_entry(parse_sign1(row.entry).payload or b"") for row in tables().select(EntryRow)[before:]]
    assert [one.act if isinstance(one, OperatorAct) else type(one) for one in acts] == [
        "content-erase", "content-erase", AttestDecision, "content-hold",
    ]  # fmt: skip
    assert [_kept(site, decision) for decision in _attested(site)] == held, "what was there when the hold was answered still is"
    assert held == [False, False, False, True]


def _attested(site: Site) -> list[AttestDecision]:
    """The attestations of the namespace, in the order of the log."""
    rows = site.verifier.made.ledger.read().select(EntryRow, namespace="default")
    read = [parse_entry(parse_sign1(row.entry).payload or b"") for row in rows]
    return [one for one in read if isinstance(one, AttestDecision)]


def _kept(site: Site, decision: AttestDecision) -> bool:
    """Whether its evidence is still to be read."""
    return blob(site.verifier.made.ledger.read(), decision.namespace, dict(decision.inputs)["evidence"]) is not None


def test_replay_says_erased_also_where_the_verifiers_clock_was_put_back(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    """By its time the erasure came before what it erased; by its place in the log it came behind."""
    site.verifier.clock.wall -= 100_000
    erase(site, "default")
    counts, _ = site.audited(capsys, "after")
    assert counts == {"identical": 6, "erased": 6, "signed only": 13}
