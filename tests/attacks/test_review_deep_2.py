"""Deep evidence, reviewed from outside a second time: ways round the closings of the first. Each test names what it breaks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from tests.verifier.test_references import AGENT, People, approve, governance, import_, listed
from tests.verifier.test_trust import digests, offer, vouch
from tests.world.authority import Ca
from tests.world.ima_logs import certificate, key_of, signed
from tests.world.machine import FILES, STRICT, Machine
from tests.world.scene import DEMO, GOVERNED, NAMESPACE, NOW, Scene, codes, permitted, reference
from tests.world.uefi_logs import image_load
from tests.world.verifier import RunningVerifier
from verifier.http.wire import to_base64
from writ.formats.archive import parse_archive
from writ.formats.corim import Corim
from writ.formats.cose import parse_sign1
from writ.formats.decision import encode_entry, parse_entry
from writ.formats.digest import Digest
from writ.formats.ear import parse_ear_cbor
from writ.formats.errors import FormatError, Refused
from writ.formats.eventlog.uefi import EV_EFI_BOOT_SERVICES_APPLICATION
from writ.formats.ima_rules import ImaRules
from writ.formats.proof_bundle import MOST_CORIMS, encode_proof_bundle, parse_proof_bundle
from writ.formats.state import encode_host_state, parse_host_state
from writ.verdict.attestation import AttestationVerdict

EVIL = Digest.of(b"another file, which a vendor signed")
VENDOR = ImaRules(keyrings=(certificate("vendor"),))


def accepted(verdict: AttestationVerdict) -> bool:
    return verdict.tokens[0].claims is not None


def ending(references: Iterable[Corim], *environments: str) -> tuple[Corim, ...]:
    """The reference values, of which those of `environments` end in 100 seconds."""
    return tuple(replace(one, valid_until=NOW + 100) if one.environment in environments else one for one in references)


def resent(machine: Machine) -> AttestationVerdict:
    """An attestation with the IMA list in full, as the attestor sends it when other reference values ask for it."""
    machine.acknowledged = 0
    return machine.attest(uefi_log=None)


# --- a signature of the vendor, where a reference value was to decide -----------------------------------------------------------


def vendor_signed(machine: Machine, path: str) -> None:
    machine.kernel.measure(path, EVIL, template="ima-sig", sig=signed(EVIL, "vendor"))


def test_i6_attestor_refused_for_its_digest_is_not_let_in_by_a_signature_when_its_reference_values_run_out() -> None:
    """Under keys of a distribution any file it ever signed (an old, vulnerable attestor) passes at the attestor's path once the approved
    version ran out: the attacker waits, and `file-mismatch` ends by itself. The closing keeps the name among the parts and no digest of
    it, and a name without a digest is for the signature to decide."""
    machine = Machine(settings=replace(DEMO, ima=VENDOR))
    machine.scene.references = ending(machine.scene.references, "rooted/attestor")
    del machine.parts["attestor"]  # only the other one runs in this boot
    machine.reboot()
    vendor_signed(machine, FILES["attestor"])
    assert codes(machine.attest()) == {"file-mismatch"}
    machine.scene.now += 101
    assert not accepted(resent(machine)), "what was refused is trusted 101 seconds later"


def test_i6_file_refused_for_its_digest_is_not_let_in_by_a_signature_when_its_reference_values_run_out() -> None:
    """The same for any file: `/bin/sh` was pinned to one digest, and after `valid_until` whatever the vendor signed will do."""
    machine = Machine(settings=replace(DEMO, ima=VENDOR))
    machine.scene.references = ending(machine.scene.references, "files/os")
    machine.attest()
    vendor_signed(machine, "/bin/sh")
    assert codes(machine.attest()) == {"file-mismatch"}
    machine.scene.now += 101
    assert not accepted(resent(machine))


def test_attestor_measured_by_its_verity_digest_is_not_let_in_by_a_signature() -> None:
    """The names of parts are kept whatever the kind, the digests by kind: `verity:` at the attestor's path has none, so the vendor's
    signature decides. Root runs any signed program there, and the token still says `affirming` if the approved one ran before."""
    machine = Machine(settings=replace(STRICT, ima=VENDOR))
    machine.attest()
    sig = signed(EVIL, "vendor", version=3, type_=6)
    machine.kernel.measure(FILES["attestor"], EVIL, template="ima-sigv2", kind="verity", sig=sig)
    verdict = machine.attest()
    assert not accepted(verdict), f"runtime {permitted(verdict).runtime}"


def test_i6_retiring_a_pinned_file_ends_no_refusal(verifier: RunningVerifier, tmp_path: Path) -> None:
    """`reference-last` counts all of `files/` as one, but with keys in the policy each pin refuses by itself: one person retires
    `files/openssl`, for which two had to approve, and the version that the vendor signed and they refused is let in."""
    people = People(verifier, tmp_path)
    path = "/usr/lib/libssl.so.3"
    host = verifier.host("h1")
    kernel = host.boot()
    host.launch("one")
    verifier.approve(host)
    verifier.publish(approvals={"files/openssl": 2}, ima={"keyrings": [to_base64(certificate("vendor"))]})
    pin = Corim("openssl-3.0.17", "default", "files/openssl", ((path, Digest.of(b"fixed")),))
    approve(people("bob"), import_(people("alice"), pin)["proposal"])
    import_(people("mallory"), Corim("harmless", "default", "files/other", (("/usr/bin/true", Digest.of(b"true")),)))
    kernel.measure(path, EVIL, template="ima-sig", sig=signed(EVIL, "vendor"))
    host.measure()
    assert [r.code for r in host.attest("one").reasons] == ["file-mismatch"]
    with contextlib.suppress(Refused):
        people("mallory").post("/v1/retirements", {"digests": [digest_by_id(verifier, pin.id)]})
    host.listed = 0  # the list in full, as the attestor sends it when asked
    assert host.attest("one").answers[0].token is None, "one person let in what two people's pin refused"


# --- reference-last ----------------------------------------------------------------------------------------------------------------


def boots(*names: str) -> tuple[Corim, ...]:
    return tuple(Corim(name, "default", "boot", (("application.0", Digest.of(name.encode())),)) for name in names)


def digest_by_id(verifier: RunningVerifier, wanted: str) -> str:
    return next(str(row["digest"]) for row in listed(verifier.client) if row["id"] == wanted)


def test_i6_approving_an_import_takes_no_last_boot_out_of_force(verifier: RunningVerifier, tmp_path: Path) -> None:
    """Mallory proposes governance and the boot in force with `--replace`, which retires the other boot; then retires the one kept, which
    he may alone, since the other is left. When Bob approves the governance, no boot is left: every boot that was refused passes.
    A proposal says what it retires and not what it keeps, and `settle` does not ask `judge_retirement`."""
    people = People(verifier, tmp_path)
    verifier.publish(approvals={"boot": 2, "governance": 2})
    host = verifier.host("h1")
    host.boot()
    host.launch("one")
    approve(people("bob"), import_(people("alice"), *boots("kept", "old"))["proposal"])
    proposal = import_(people("mallory"), boots("kept")[0], governance(), replace=True)["proposal"]
    people("mallory").post("/v1/retirements", {"digests": [digest_by_id(verifier, "kept")]})
    with pytest.raises(Refused, match=r"reference-last|conflict"):
        approve(people("bob"), proposal)
    assert [row["id"] for row in listed(verifier.client) if row["environment"] == "boot"] == ["old"]


def test_import_that_replaces_with_what_is_in_force_already_can_be_approved(verifier: RunningVerifier, tmp_path: Path) -> None:
    """The honest half of the former: `export`, add the new governance, `import --replace` the folder. It is proposed, and then refused
    for ever with `conflict`, because the version that stays is taken for one that the proposal ought to retire."""
    people = People(verifier, tmp_path)
    verifier.publish(approvals={"governance": 2})
    import_(verifier.client, *boots("kept", "old"))
    proposal = import_(people("alice"), boots("kept")[0], governance(), replace=True)["proposal"]
    assert approve(people("bob"), proposal)["state"] == "in force"


def test_i6_files_that_name_no_file_do_not_stand_for_the_last_that_do() -> None:
    """A CoRIM may hold PCRs and no component. As `files/nothing` it counts as a version that is left, and compares nothing: whoever may
    import it retires the last real one alone, past `reference-last`, and every file passes."""
    machine = Machine(settings=DEMO)
    machine.attest()
    machine.kernel.measure("/usr/bin/evil", Digest.of(b"evil"))
    assert codes(machine.attest()) == {"file-unknown"}
    kept = tuple(one for one in machine.scene.references if not one.environment.startswith(("files/", "rooted/")))
    nothing = Corim("nothing", NAMESPACE, "files/nothing", (), ((16, Digest.of(b"no file")),))
    machine.scene.references = (*kept, nothing)
    assert not accepted(resent(machine))


def test_i6_one_person_retires_the_last_files_behind_an_empty_version(verifier: RunningVerifier, tmp_path: Path) -> None:
    """The same over HTTP: two people for `files/os`, and one ends the comparison of files."""
    people = People(verifier, tmp_path)
    verifier.publish(approvals={"files/os": 2})
    approve(people("bob"), import_(people("alice"), Corim("os", "default", "files/os", (("/bin/sh", Digest.of(b"sh")),)))["proposal"])
    with pytest.raises(Refused, match=r"malformed: CoRIM\.components: expected at least one, got none"):
        import_(people("mallory"), Corim("nothing", "default", "files/nothing", (), ((16, Digest.of(b"no file")),)))
    with pytest.raises(Refused, match="reference-last"):
        people("mallory").post("/v1/retirements", {"digests": [digest_by_id(verifier, "os")]})


def test_rooted_part_that_names_no_file_roots_nothing() -> None:
    """The same for `rooted/<part>`: a version without components is measured whole by any list, so the part need not have run at all."""
    machine = Machine(settings=STRICT)
    kept = tuple(one for one in machine.scene.references if one.environment != "rooted/launcher")
    shown = Corim("launcher", NAMESPACE, "files/launcher", ((FILES["launcher"], EVIL),))
    machine.scene.references = (*kept, shown, Corim("nothing", NAMESPACE, "rooted/launcher", (), ((16, Digest.of(b"x")),)))
    machine.parts = {part: version for part, version in machine.parts.items() if part != "launcher"}
    machine.reboot()
    machine.kernel.measure(FILES["launcher"], EVIL)
    verdict = machine.attest()
    assert not accepted(verdict), f"runtime {permitted(verdict).runtime}, and no approved launcher was ever measured"


def test_i6_policy_put_back_after_a_retirement_lets_no_refused_boot_in(verifier: RunningVerifier, tmp_path: Path) -> None:
    """Mallory publishes the policy without `runtime-only` (it asks for more: one person), retires the last boot (it refuses more: one
    person), and proposes the former policy again. Who approves that, sees nothing but the policy that was in force for a year; with it
    every boot passes that two people's reference values refused."""
    people = People(verifier, tmp_path)
    host = verifier.host("h1")
    host.boot()
    host.launch("one")
    verifier.approve(host)
    verifier.publish(approvals={"boot": 2})
    approve(people("bob"), import_(people("alice"), *boots("another"))["proposal"])
    assert host.attest("one").answers[0].token is None
    shown = verifier.client.get("/v1/policies/current")
    texts = {"schema": shown["schema"], "policies": shown["policies"]}
    usual = {"accept_runtime_only": True, "tpm_classes": ["software"], "approvals": {"boot": 2}}
    mallory = people("mallory")
    mallory.post("/v1/policies", {"settings": {**usual, "accept_runtime_only": False}, **texts})
    mallory.post("/v1/retirements", {"digests": [digest_by_id(verifier, "another")]})
    with pytest.raises(Refused, match=r"reference-last: .* none in force of boot"):
        mallory.post("/v1/policies", {"settings": usual, **texts})
    assert host.attest("one").answers[0].token is None, "the boot that was refused"


# --- what is approved and not judged ------------------------------------------------------------------------------------------------


def test_i3_registers_of_reference_values_are_held_against_the_quote() -> None:
    """`formats.md` has PCRs in a CoRIM, publishers may not change them, two people approve them, and no line of the verdict reads them: an
    operator who pins PCR 7 beside the governance believes that another PCR 7 is refused."""
    scene = Scene(references=(replace(GOVERNED, registers=((7, Digest.of(b"the approved PCR 7")),)), reference()))
    scene.launch("one")
    assert not accepted(scene.attest("one"))


@pytest.mark.parametrize("part", ["zz", "launcher"])
def test_file_of_one_part_is_not_approved_as_a_file_of_another(part: str) -> None:
    """Files are approved as `rooted/…` of any name, so who may approve (or publish) `rooted/launcher`, or a part `rooted/zz` that is none,
    approves another attestor: `--approvals rooted/attestor=2` is one person's after all."""
    machine = Machine(settings=STRICT)
    machine.attest()
    machine.scene.references = (
        *machine.scene.references,
        Corim("hotfix", NAMESPACE, f"rooted/{part}", ((FILES["attestor"], Digest.of(b"an evil attestor")),)),
    )
    machine.kernel.measure(FILES["attestor"], Digest.of(b"an evil attestor"))
    verdict = resent(machine)
    assert not accepted(verdict), f"runtime {permitted(verdict).runtime}"


# --- accepted, and then not to be read or judged ------------------------------------------------------------------------------------


def crowded(machine: Machine, count: int) -> None:
    """The firmware starts so many programs more."""
    measure = machine.boot.measure

    def more() -> Any:
        log = measure()
        for number in range(count):
            machine.boot.add(4, EV_EFI_BOOT_SERVICES_APPLICATION, image_load(f"\\{number}.EFI"), b"program %d" % number)
        return replace(log, events=tuple(machine.boot.events))

    machine.boot.measure = more  # type: ignore[method-assign]  # this one machine boots so


def test_i10_refusal_for_a_crowded_boot_can_be_read_again() -> None:
    """A boot state holds 1024 values an environment, a decision 1024 reasons: root who boots a thousand programs and turns Secure Boot off
    has an entry signed into the log that `parse_entry` refuses, and with it `GET /v1/decisions`, `why`, exports and audits of all hosts."""
    machine = Machine(settings=STRICT)
    machine.attest()
    crowded(machine, 1018)
    machine.boot.secure_boot, machine.boot.firmware, machine.boot.loader = b"\0", b"evil", b"evil"
    machine.boot.cmdline, machine.boot.initrd, machine.boot.kernel = "evil", b"evil", b"evil"
    machine.reboot()
    machine.kernel.measure("/usr/bin/evil", Digest.of(b"evil"))
    verdict = machine.judge()
    parse_host_state(encode_host_state(verdict.state_after))
    parse_ear_cbor(verdict.result)
    parse_entry(encode_entry(verdict.entry))


def test_i10_i11_governance_of_many_components_leaves_a_log_that_can_be_read(verifier: RunningVerifier) -> None:
    """The same by one import: governance of 1100 files, which the format allows. Each host that differs is refused with 1100 reasons,
    signed and committed, and then nobody reads the decisions of the namespace any more."""
    host = verifier.host("h1")
    host.launch("one")
    verifier.approve(host)
    many = tuple((f"library.{number:04d}", Digest.of(b"%d" % number)) for number in range(1100))
    try:
        import_(verifier.client, Corim("many", "default", "governance", many), replace=True)
    except (Refused, FormatError):
        return
    with contextlib.suppress(FormatError):  # nor can the host read the answer
        host.attest("one")
    assert verifier.client.get("/v1/hosts")["hosts"]
    assert verifier.client.get("/v1/decisions")["decisions"]
    assert [parse_entry(parse_sign1(one).payload or b"") for one in parse_archive(verifier.client.export()).entries]


def test_i10_refusal_of_many_instances_can_be_read_again() -> None:
    """Below every count: what stands against the host is written down once more for each instance that asks. Root of one host asks for 60
    instances after a boot of 500 programs, and the entry is larger than the megabyte that `parse_entry` reads."""
    machine = Machine(settings=STRICT)
    machine.attest()
    crowded(machine, 500)
    machine.reboot()
    names = tuple(f"n{number}" for number in range(60))
    for name in names:
        machine.scene.launch(name)
    machine.scene.chip.pcrs["sha256"][10] = machine.kernel.pcr10["sha256"]
    verdict = machine.scene.judge(replace(machine.scene.evidence(*names), uefi_log=machine.log, ima_log=machine.sent()))
    parse_host_state(encode_host_state(verdict.state_after))
    parse_entry(encode_entry(verdict.entry))


def test_i11_agent_that_differs_in_much_costs_its_neighbour_no_token(verifier: RunningVerifier) -> None:
    """A decision holds 1024 reasons for an instance, an answer to a host 512: where `payments` differs from its reference values in 600
    components (any publisher of that agent may sign such a version), the host cannot read its answer, and all its agents are held."""
    host = verifier.host("h1")
    host.launch("one")
    verifier.approve(host)
    host.launch("two", agent="payments")
    many = tuple((f"prompts.{number:04d}", Digest.of(b"%d" % number)) for number in range(600))
    import_(verifier.client, Corim("payments-1", "default", AGENT.replace("reporter", "payments"), many))
    mine, other = host.attest("one", "two").answers
    assert (mine.token is not None, other.token) == (True, None)


@pytest.mark.parametrize("count", [4096, MOST_CORIMS])
def test_i10_action_under_a_set_of_many_packages_can_be_proven(count: int) -> None:
    """`reference import --repo` makes one CoRIM of each package, and a snapshot of a distribution has tens of thousands. Each import is
    bounded and the set is not, but a proof bundle holds 4096: tokens are given, agents act, and no action of theirs can ever be audited."""
    scene = Scene()
    packages = (Corim(f"p{n:04d}", NAMESPACE, f"files/p{n:04d}", ((f"/usr/bin/p{n:04d}", Digest.of(b"%d" % n)),)) for n in range(count))
    scene.references = (*scene.references, *packages)
    try:
        bundle = scene.proof_bundle()
    except FormatError:
        return  # such a set is none
    parse_proof_bundle(encode_proof_bundle(bundle))


def unusable_certificate() -> bytes:
    """A certificate that is well formed, of a kind of key that nothing here verifies with."""
    der = certificate("odd")
    ec_public_key = bytes.fromhex("06072a8648ce3d0201")
    assert der.count(ec_public_key) == 1
    return der.replace(ec_public_key, bytes.fromhex("06072a8648ce3d027f"))


def test_i11_policy_with_a_key_that_nothing_can_use_is_refused_and_does_not_stop_every_host() -> None:
    """`ImaRules` reads a keyring's certificate with one parser, the appraisal with another that refuses more: the policy is published, and
    from then on no IMA list of any host can be judged; each is answered `malformed`, with nothing in the log."""
    try:
        rules = ImaRules(keyrings=(unusable_certificate(),))
    except FormatError:
        return
    machine = Machine(settings=replace(DEMO, ima=rules))
    assert machine.attest() is not None


def large_certificate(size: int) -> bytes:
    """A certificate of more than `size` bytes, as the kernel measures it onto its keyring."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "large")])
    key = key_of("large", "ec")
    old = x509.load_der_x509_certificate(certificate("vendor"))
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, old.not_valid_before_utc, old.not_valid_after_utc)
    padding = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), bytes(size))
    return builder.add_extension(padding, critical=False).sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def test_i10_learnt_key_of_any_size_leaves_no_unreadable_state() -> None:
    """With `learn_keys`, root of one host measures a certificate above 16 KiB as the kernel would: the state is committed and never read
    again. That host cannot even be told so, and `host list`, dry runs and captures, which read all states, fail for the namespace."""
    machine = Machine(settings=replace(DEMO, ima=ImaRules(learn_keys=True)))
    large = large_certificate(17_000)
    machine.kernel.measure(".ima", Digest.of(large), template="ima-buf", buf=large)
    parse_host_state(encode_host_state(machine.judge().state_after))


# --- CRLs ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "narrow, stands",
    [(x509.IssuingDistributionPoint(None, None, True, False, None, False, False), True), (x509.DeltaCRLIndicator(1), False)],
    ids=["partial", "delta"],
)
def test_i6_crl_of_some_certificates_takes_no_place_of_the_one_of_all(
    verifier: RunningVerifier, narrow: x509.ExtensionType, stands: bool
) -> None:
    """Only critical extensions are held to narrow a CRL. Issuers that mark these as not critical, against RFC 5280, exist; their partial or
    delta list is later, takes the place of the whole one, and a revoked EK enrols. A partial one stands beside the whole one."""
    one, now = Ca("one"), verifier.clock.now()
    vouch(verifier, one)
    whole, some = one.crl(0x77, this=now - 100), one.crl(this=now - 50, extensions=[(narrow, False)])
    assert offer(verifier, whole) == (digests(whole), [])
    held, refused = offer(verifier, some)
    assert (held, len(refused)) == (digests(whole) | (digests(some) if stands else set()), 0 if stands else 1)


def test_i6_crl_of_the_future_keeps_no_crl_of_today_out(verifier: RunningVerifier) -> None:
    """`crl-early` is asked only where a CRL is held. In the other order the one of the future is taken, counts for nothing, and today's,
    which revokes, is refused as `crl-rollback`: the same two files, and the revoked EK enrols or not."""
    one, now = Ca("one"), verifier.clock.now()
    vouch(verifier, one)
    early, today = one.crl(this=now + 86_400), one.crl(0x77, this=now)
    offer(verifier, early)
    held, refused = offer(verifier, today)
    assert digests(today) <= held, refused
