"""Enrolment over HTTP: who may, what binds, what burns."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from tests.verifier.test_operator import trust_files
from tests.world.authority import crls_of
from tests.world.chip import AK_ATTRIBUTES, Chip, Maker
from tests.world.host import RefusedByVerifier, SimulatedHost
from tests.world.verifier import RunningVerifier
from verifier.ledger.schema import EkRow, HostRow
from writ.formats.exchange import EXCHANGE
from writ.formats.tpm.public import RESTRICTED, SENSITIVE_DATA_ORIGIN


def refused(call: object, *args: object) -> tuple[int, list[str]]:
    with pytest.raises(RefusedByVerifier) as caught:
        call(*args)  # type: ignore[operator] # any bound method
    return caught.value.status, caught.value.codes


def ek_of(chip: Chip) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    from writ.formats.digest import Digest

    return str(Digest.of(chip.ek.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)))


def test_ticket_enrols_a_genuine_tpm(verifier: RunningVerifier) -> None:
    host = verifier.stranger("h1")
    enrolled = host.enrol(verifier.admit("h1"))
    assert (enrolled.host, enrolled.namespace, enrolled.domain, enrolled.issuer) == ("h1", "default", "example.org", verifier.url)
    assert enrolled.decision_key == verifier.made.parts.keys.decision.public
    shown = verifier.client.get("/v1/hosts/h1")
    assert (shown["status"], shown["generation"], shown["tpm"]["class"], shown["tpm"]["endorsed"]) == ("active", 1, "software", True)


def test_host_shows_whether_revocation_was_checked_when_it_enrolled(verifier: RunningVerifier) -> None:
    """What it says holds for the enrolment: a CRL that is imported later changes nothing."""
    verifier.stranger("h1").enrol(verifier.admit("h1"))
    crls = crls_of(Maker(), this=verifier.clock.now())
    held = verifier.client.post("/v1/trust", {"files": trust_files(*((f"{at}.crl", crl) for at, crl in enumerate(crls)))})["crls"]
    assert len(held) == 2
    verifier.stranger("h2", Chip(seed="two")).enrol(verifier.admit("h2"))
    shown = {host: verifier.client.get(f"/v1/hosts/{host}")["tpm"]["revocation"] for host in ("h1", "h2")}
    assert shown == {"h1": "unknown", "h2": "checked"}


def test_unadmitted_tpm_is_refused(verifier: RunningVerifier) -> None:
    assert refused(verifier.stranger("h1").enrol, None) == (403, ["ek-not-admitted"])
    assert refused(verifier.stranger("h1").enrol, "no-such-ticket") == (403, ["ticket-unknown"])


def test_ticket_of_another_host_is_refused(verifier: RunningVerifier) -> None:
    assert refused(verifier.stranger("h2").enrol, verifier.admit("h1")) == (403, ["ticket-unknown"])


def test_ticket_works_once(verifier: RunningVerifier) -> None:
    ticket = verifier.admit("h1")
    verifier.stranger("h1").enrol(ticket)
    assert refused(verifier.stranger("h1").enrol, ticket) == (403, ["ticket-spent"])


def test_ticket_expires(verifier: RunningVerifier) -> None:
    ticket = verifier.admit("h1")
    verifier.clock.advance(86_400)
    assert refused(verifier.stranger("h1").enrol, ticket) == (403, ["ticket-expired"])


def test_tickets_are_stored_as_hashes(verifier: RunningVerifier) -> None:
    ticket = verifier.admit("h1")
    assert (
        ticket.encode()
        not in verifier.config.ledger_file.read_bytes() + verifier.config.ledger_file.with_suffix(".sqlite-wal").read_bytes()
    )


def test_tpm_of_an_unknown_manufacturer_is_refused(verifier: RunningVerifier) -> None:
    host = verifier.stranger("h1", Chip(seed="h1", maker=Maker("forger")))
    assert refused(host.enrol, verifier.admit("h1")) == (403, ["ek-certificate-refused"])


def test_admitted_ek_enrols_without_a_ticket(verifier: RunningVerifier) -> None:
    chip = Chip(seed="known")
    verifier.client.post("/v1/hosts", {"host": "h1", "ek": ek_of(chip)})
    assert verifier.stranger("h1", chip).enrol(None).host == "h1"


def test_another_tpm_than_the_admitted_one_is_refused(verifier: RunningVerifier) -> None:
    verifier.client.post("/v1/hosts", {"host": "h1", "ek": ek_of(Chip(seed="known"))})
    assert refused(verifier.stranger("h1", Chip(seed="another")).enrol, None) == (403, ["ek-not-admitted"])


def test_unendorsed_tpm_is_labelled(verifier: RunningVerifier) -> None:
    chip = Chip(seed="bare")
    verifier.client.post("/v1/hosts", {"host": "h1", "ek": ek_of(chip), "unendorsed": True})
    host = verifier.stranger("h1", chip)
    request = replace(host.enrol_request(None), ek_certificates=())
    challenge = host.ask("/v1/enrol", EXCHANGE.encode(request), uplink=host.anonymous)
    host.ask("/v1/enrol/activate", host.activation(challenge), uplink=host.anonymous)  # type: ignore[arg-type] # a challenge, or the call fails
    shown = verifier.client.get("/v1/hosts/h1")["tpm"]
    assert (shown["endorsed"], shown["revocation"]) == (False, None)


@pytest.mark.parametrize("attributes", [AK_ATTRIBUTES & ~RESTRICTED, AK_ATTRIBUTES & ~SENSITIVE_DATA_ORIGIN])
def test_ak_of_the_wrong_kind_is_refused(verifier: RunningVerifier, attributes: int) -> None:
    host = verifier.stranger("h1", Chip(seed="h1", ak_attributes=attributes))
    assert refused(host.enrol, verifier.admit("h1")) == (403, ["ak-attributes"])


def test_software_ak_with_a_valid_ek_chain_is_refused(verifier: RunningVerifier) -> None:
    """The credential is made for the AK's name: a TPM does not open it for a key it does not hold."""
    genuine, ticket = Chip(seed="h1"), verifier.admit("h1")
    host = verifier.stranger("h1", genuine)
    forged = Chip(seed="software")
    request = replace(host.enrol_request(ticket), ak_public=forged.ak.raw)
    challenge = host.ask("/v1/enrol", EXCHANGE.encode(request), uplink=host.anonymous)
    assert genuine.activate_credential(challenge.credential, challenge.secret) is None  # type: ignore[union-attr] # a challenge


def test_wrong_activation_burns_the_challenge_and_leaks_nothing(verifier: RunningVerifier) -> None:
    host = verifier.stranger("h1")
    challenge = host.challenge(verifier.admit("h1"))
    right = host.activation(challenge)
    wrong = host.say("/v1/enrol/activate", host.activation(challenge, secret=b"w" * 32), uplink=host.anonymous)
    recovered = host.chip.activate_credential(challenge.credential, challenge.secret)
    assert recovered is not None
    assert wrong.status == 403
    assert recovered not in wrong.body
    assert recovered.hex().encode() not in wrong.body
    with pytest.raises(RefusedByVerifier) as caught:
        host.ask("/v1/enrol/activate", right, uplink=host.anonymous)
    assert caught.value.codes == ["challenge-unknown"]


def test_challenge_expires(verifier: RunningVerifier) -> None:
    host = verifier.stranger("h1")
    body = host.activation(host.challenge(verifier.admit("h1")))
    verifier.clock.advance(120)
    with pytest.raises(RefusedByVerifier) as caught:
        host.ask("/v1/enrol/activate", body, uplink=host.anonymous)
    assert caught.value.codes[0] in ("challenge-unknown", "challenge-expired")


def test_newer_challenge_voids_the_older(verifier: RunningVerifier) -> None:
    host, ticket = verifier.stranger("h1"), verifier.admit("h1")
    first = host.activation(host.challenge(ticket))
    second = host.activation(host.challenge(ticket))
    with pytest.raises(RefusedByVerifier):
        host.ask("/v1/enrol/activate", first, uplink=host.anonymous)
    host.ask("/v1/enrol/activate", second, uplink=host.anonymous)


def test_lost_activation_answer_is_given_again_to_the_same_bytes(verifier: RunningVerifier) -> None:
    host = verifier.stranger("h1")
    body = host.activation(host.challenge(verifier.admit("h1")))
    assert host.say("/v1/enrol/activate", body, uplink=host.anonymous) == host.say("/v1/enrol/activate", body, uplink=host.anonymous)


def test_fifty_parallel_registrations_of_one_id_give_one_host(verifier: RunningVerifier) -> None:
    tickets = [verifier.admit("h1") for _ in range(50)]
    hosts = [verifier.stranger("h1", Chip(seed=f"tpm-{i}")) for i in range(50)]

    def attempt(at: int) -> str:
        try:
            hosts[at].enrol(tickets[at])
        except RefusedByVerifier as error:
            return error.codes[0]
        return "enrolled"

    with ThreadPoolExecutor(16) as pool:
        outcomes = list(pool.map(attempt, range(50)))
    assert outcomes.count("enrolled") == 1
    assert set(outcomes) == {"enrolled", "host-already-enrolled"}
    tables = verifier.made.ledger.read()
    row = tables.get(HostRow, "h1")
    assert row is not None
    assert row.ek == ek_of(hosts[outcomes.index("enrolled")].chip)
    assert [ek.ek for ek in tables.select(EkRow)] == [row.ek]


def test_ek_seen_once_starts_no_second_host(verifier: RunningVerifier) -> None:
    verifier.host("h1", Chip(seed="one"))
    assert refused(verifier.stranger("h2", Chip(seed="one")).enrol, verifier.admit("h2")) == (409, ["ek-already-bound"])


def test_second_ek_of_a_burnt_chip_needs_a_ticket_for_another_name(verifier: RunningVerifier) -> None:
    """The limit that docs/threat-model.md states: no certificate says that two EKs are of one chip, so only the ticket keeps it out."""
    verifier.host("h1", Chip(seed="one"))
    verifier.client.post("/v1/hosts/h1/retire")
    second = Chip(seed="one", ek_name="second-ek")
    assert refused(verifier.stranger("h2", second).enrol, None) == (403, ["ek-not-admitted"])
    assert refused(verifier.stranger("h1", second).enrol, None) == (403, ["ek-not-admitted"])
    verifier.client.post("/v1/hosts", {"host": "h3", "ek": ek_of(Chip(seed="three"))})
    assert refused(verifier.stranger("h3", second).enrol, None) == (403, ["ek-not-admitted"])
    verifier.stranger("h2", second).enrol(verifier.admit("h2"))


def test_host_takes_another_tpm_only_by_replace(verifier: RunningVerifier) -> None:
    verifier.host("h1", Chip(seed="old"))
    assert refused(verifier.stranger("h1", Chip(seed="new")).enrol, verifier.admit("h1")) == (409, ["host-already-enrolled"])
    ticket = verifier.client.post("/v1/hosts/h1/replace", {})["ticket"]
    verifier.stranger("h1", Chip(seed="new")).enrol(ticket)
    assert verifier.client.get("/v1/hosts/h1")["generation"] == 2

    assert refused(verifier.stranger("h9", Chip(seed="old")).enrol, verifier.admit("h9")) == (403, ["ek-burnt"])


def test_replaced_host_key_is_of_no_use(verifier: RunningVerifier) -> None:
    old = verifier.host("h1", Chip(seed="old"))
    verifier.client.post("/v1/hosts/h1/replace", {})
    assert refused(old.fetch_nonce) == (401, ["unauthenticated"])


def test_retired_host_and_tpm_are_gone_for_ever(verifier: RunningVerifier) -> None:
    host = verifier.host("h1", Chip(seed="old"))
    verifier.client.post("/v1/hosts/h1/retire")
    assert refused(host.fetch_nonce) == (403, ["host-not-active"])
    assert refused(verifier.stranger("h2", Chip(seed="old")).enrol, verifier.admit("h2")) == (403, ["ek-burnt"])


def test_reinstalled_host_enrols_under_its_own_id_and_stays_contained(verifier: RunningVerifier) -> None:
    host = verifier.host("h1")
    host.launch("one")
    host.attest("one")
    verifier.client.post("/v1/revocations", {"kind": "host", "subject": "h1"})
    again = SimulatedHost("h1", verifier.url, chip=host.chip, clock=verifier.clock)
    again.enrol(verifier.admit("h1"))
    again.records, again.instances, again.measured = host.records, host.instances, host.measured
    assert [reason.code for reason in again.attest("one").reasons if reason.code.startswith("host")] == ["host-contained"]
    again.close()
    assert verifier.client.get("/v1/hosts/h1")["generation"] == 2


def test_enrolment_body_that_is_another_message_is_malformed(verifier: RunningVerifier) -> None:
    host = verifier.stranger("h1")
    request = EXCHANGE.encode(host.enrol_request("x"))
    with pytest.raises(RefusedByVerifier) as caught:
        host.ask("/v1/enrol/activate", request, uplink=host.anonymous)
    assert (caught.value.status, caught.value.codes) == (400, ["malformed"])


def test_i6_instance_of_an_earlier_enrolment_does_not_go_on(verifier: RunningVerifier) -> None:
    """Its checkpoint went with the enrolment, so another history could follow; in the same boot its start is seen again."""
    host = verifier.host("h1")
    host.launch("one")
    verifier.approve(host)
    assert host.attest("one").answers[0].token is not None
    again = SimulatedHost("h1", verifier.url, chip=host.chip, clock=verifier.clock)
    again.enrol(verifier.admit("h1"))
    again.records, again.instances, again.measured = host.records, host.instances, host.measured
    assert {reason.code for reason in again.attest("one").answers[0].reasons} == {"instance-tainted"}
    again.launch("two")
    assert again.attest("two").answers[0].token is not None
    again.close()
