"""What a host, or whoever reaches the verifier, could do with its challenges, its records, its credentials and its time."""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from tests.verifier.test_access import NONCE, dpop
from tests.verifier.test_attest import codes, decisions, refusal, token_of
from tests.world.chip import Chip, Maker, ca_extensions, ek_extensions, private_key
from tests.world.host import RefusedByVerifier, SimulatedHost
from tests.world.verifier import RunningVerifier, running_verifier
from verifier.ledger.schema import EkRow, HostRow, TokenRow
from writ.formats.eat import parse_token
from writ.formats.errors import Refused
from writ.formats.exchange import EXCHANGE
from writ.formats.trust import ManufacturerRoot, Trust
from writ.verdict.chain import verify_ek_chain

# --- challenges ---------------------------------------------------------------------------------------------------------


def test_constant_nonce_is_never_issued_again(verifier: RunningVerifier, host: SimulatedHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """CVE-2026-6420: should the source of randomness stick, no evidence is accepted twice; the verifier answers no more."""
    stuck = host.fetch_nonce()
    monkeypatch.setattr(verifier.made.parts.attestation, "_random", lambda size: stuck[:size])
    evidence = host.evidence("one")
    for _ in range(3):
        assert host.say("/v1/hosts/h1/nonce", b"").status == 503
        assert host.say("/v1/hosts/h1/attest", evidence).status == 503
    assert decisions(verifier) == 0


def test_nonce_prefetched_before_a_compromise_buys_no_time_after_it(verifier: RunningVerifier, host: SimulatedHost) -> None:
    """Quoted clean, sent dirty: what such evidence gets ends when the nonce's first minute does, and the drift is seen at the next."""
    first = host.evidence("one")
    host.fetch_nonce()
    saved = host.evidence("one")
    issued = verifier.clock.now()
    host.drift("one")
    assert refusal(host, first) == (409, ["nonce-superseded"])
    verifier.clock.advance(59)
    assert parse_token(token_of(host.deliver(saved, "one"))).claims.expires_at == issued + 60
    host.sent -= 1  # the drift did not travel with what was quoted before it
    assert codes(host.attest("one")) == ["instance-drifted"]
    assert [row.revoked for row in verifier.made.ledger.read().select(TokenRow)] == [1]


def test_nonce_prefetched_before_a_compromise_and_quoted_after_it_shows_the_compromise(
    verifier: RunningVerifier, host: SimulatedHost
) -> None:
    host.fetch_nonce()
    host.drift("one")
    verifier.clock.advance(30)
    assert codes(host.attest("one")) == ["instance-drifted"]


# --- records ------------------------------------------------------------------------------------------------------------


def test_fifty_parallel_registrations_of_a_host_that_is_there_leave_its_record(verifier: RunningVerifier, host: SimulatedHost) -> None:
    """CVE-2025-13609: the id is taken, and each of the fifty has a genuine TPM and a ticket of its own."""
    before = verifier.made.ledger.read().get(HostRow, "h1")
    tickets = [verifier.admit("h1") for _ in range(50)]
    others = [verifier.stranger("h1", Chip(seed=f"tpm-{i}")) for i in range(50)]

    def attempt(at: int) -> tuple[int, list[str]]:
        try:
            others[at].enrol(tickets[at])
        except RefusedByVerifier as error:
            return error.status, error.codes
        return 200, []

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(attempt, range(50))) == [(409, ["host-already-enrolled"])] * 50
    tables = verifier.made.ledger.read()
    assert tables.get(HostRow, "h1") == before
    assert [row.host for row in tables.select(EkRow)] == ["h1"]
    token_of(host.attest("one"))


def test_second_ek_of_the_same_tpm_is_refused_and_ends_no_containment(verifier: RunningVerifier, host: SimulatedHost) -> None:
    """A TPM has an EK of each algorithm, each with a genuine certificate: to the verifier they are two TPMs."""
    verifier.client.post("/v1/revocations", {"kind": "host", "subject": "h1"})
    before = verifier.made.ledger.read().get(HostRow, "h1")
    second = replace(host.chip, ek_name="second-ek")
    assert second.ak == host.chip.ak
    assert second.ek != host.chip.ek
    for ticket, expected in ((verifier.admit("h1"), (409, ["host-already-enrolled"])), (None, (403, ["ek-not-admitted"]))):
        with pytest.raises(RefusedByVerifier) as caught:
            verifier.stranger("h1", second).enrol(ticket)
        assert (caught.value.status, caught.value.codes) == expected
    with pytest.raises(RefusedByVerifier) as caught:
        verifier.stranger("h2", second).enrol(None)
    assert caught.value.codes == ["ek-not-admitted"]
    tables = verifier.made.ledger.read()
    assert tables.get(HostRow, "h1") == before
    assert before is not None
    assert before.status == "contained"
    assert len(tables.select(EkRow)) == 1


# --- credentials --------------------------------------------------------------------------------------------------------


def test_revoked_credentials_stay_revoked_after_a_restart(tmp_path: Path) -> None:
    """What is revoked is revoked where it is stored, not only where it is remembered (keylime 2a14b452, 08c0c67c)."""
    key = tmp_path / "reader.key"
    with running_verifier(tmp_path) as verifier:
        verifier.trust(Maker())
        made = verifier.client.post("/v1/api-keys", {"namespace": "default", "role": "reader", "label": "test"})
        key.write_text(made["key"])
        verifier.as_operator(key).get("/v1/hosts")
        retired, replaced = verifier.host("h1"), verifier.host("h2")
        keys = retired.key, replaced.key
        identity = next(row["id"] for row in verifier.client.get("/v1/api-keys")["api_keys"] if row["role"] == "reader")
        verifier.client.post(f"/v1/api-keys/{identity}/revoke")
        verifier.client.post("/v1/hosts/h1/retire")
        verifier.client.post("/v1/hosts/h2/replace", {})
    with running_verifier(tmp_path) as verifier:
        with pytest.raises(Refused, match="unauthenticated"):
            verifier.as_operator(key).get("/v1/hosts")
        for name, signer, status in (("h1", keys[0], 403), ("h2", keys[1], 401)):
            host = verifier.stranger(name)
            host.key = signer
            path = f"/v1/hosts/{name}/nonce"
            proof = dpop(host, path, b"", iat=verifier.clock.now())
            assert post(verifier, path, proof) == status
        assert [row["host"] for row in verifier.client.get("/v1/hosts")["hosts"]] == ["h1", "h2"]
    assert NONCE.endswith("/nonce")


def post(verifier: RunningVerifier, path: str, proof: str) -> int:
    from tests.verifier.test_access import call

    return call(verifier, "POST", path, headers={"DPoP": proof})[0]


# --- time, and other people's servers -----------------------------------------------------------------------------------


def test_nothing_that_a_host_sends_is_fetched(verifier: RunningVerifier) -> None:
    """SPIRE http_challenge: an EK certificate that says where its issuer and its revocations lie makes nobody look there."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        place = x509.UniformResourceIdentifier(f"http://127.0.0.1:{listener.getsockname()[1]}/ca.der")
        access = x509.AuthorityInformationAccess([
            x509.AccessDescription(x509.oid.AuthorityInformationAccessOID.CA_ISSUERS, place),
            x509.AccessDescription(x509.oid.AuthorityInformationAccessOID.OCSP, place),
        ])  # fmt: skip
        lists = x509.CRLDistributionPoints([x509.DistributionPoint([place], None, None, None)])
        extensions = [*ek_extensions(), (access, False), (lists, False)]
        for name, maker, expected in (("h1", Maker(), 200), ("h2", Maker("unknown"), 403)):
            host = verifier.stranger(name)
            leaf = maker.ek_certificate(f"{name}/ek", extensions)
            request = replace(host.enrol_request(verifier.admit(name)), ek_certificates=(leaf,))
            assert host.say("/v1/enrol", EXCHANGE.encode(request), uplink=host.anonymous).status == expected
        listener.settimeout(0.3)
        with pytest.raises(TimeoutError):
            listener.accept()


def test_nothing_is_computed_for_a_host_that_nobody_admitted(verifier: RunningVerifier, monkeypatch: pytest.MonkeyPatch) -> None:
    """SPIRE x509pop: chains and credentials cost something, so an admission comes first."""
    import verifier.enrol as room

    def costly(*_: object, **__: object) -> None:
        raise AssertionError("a chain was judged, or a credential made, for a stranger")

    monkeypatch.setattr(room, "judge_enrolment", costly)
    monkeypatch.setattr(room, "make_credential", costly)
    for ticket, expected in ((None, ["ek-not-admitted"]), ("no-such-ticket", ["ticket-unknown"])):
        with pytest.raises(RefusedByVerifier) as caught:
            verifier.stranger("h1").enrol(ticket)
        assert (caught.value.status, caught.value.codes) == (403, expected)


def test_mesh_of_cas_that_sign_each_other_costs_little() -> None:
    """As many certificates as a request holds, all of one name and key: each could stand above each."""
    maker = Maker()
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "loop ca")])
    leaf = Maker("loop").ek_certificate("chip/ek")
    mesh = []
    for serial in range(1, 8):
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(private_key("loop/ca").public_key())
        born = x509.load_der_x509_certificate(leaf).not_valid_before_utc
        builder = builder.serial_number(serial).not_valid_before(born).not_valid_after(born + timedelta(days=3650))
        for extension, critical in ca_extensions():
            builder = builder.add_extension(extension, critical)
        mesh.append(builder.sign(private_key("loop/ca"), hashes.SHA256()).public_bytes(Encoding.DER))
    trust = Trust("example.org", "https://v", (ManufacturerRoot("maker", "discrete", maker.root()),), (), ())
    begun = time.process_time()
    with pytest.raises(Refused, match="ek-certificate-refused"):
        verify_ek_chain([leaf, *mesh], trust, now=1_790_000_000)
    assert time.process_time() - begun < 1
