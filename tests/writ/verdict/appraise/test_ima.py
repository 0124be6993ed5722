"""The IMA list judged: what passes, what does not and why, and every way to send another list than the quoted one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.world.ima_logs import BOOT, Kernel, certificate, d_ng, key_id, module_signed, signed
from writ.formats.corim import Corim
from writ.formats.digest import Digest
from writ.formats.eventlog.ima import replay
from writ.formats.ima_rules import ImaRules
from writ.formats.ima_state import MAX_REASONS, ImaState
from writ.verdict.appraise import ima
from writ.verdict.appraise.ima import ImaReferences, ImaResult, appraise_ima, index_files, judge_rows

GOOD, OTHER = Digest.of(b"good"), Digest.of(b"other")


def corim(components: Mapping[str, Digest], *, id: str = "os", environment: str = "files/os", until: int | None = None) -> Corim:  # noqa: A002
    return Corim(id, "test", environment, tuple(sorted(components.items())), (), until)


def references(components: Mapping[str, Digest] | None = None, **more: Digest) -> ImaReferences:
    return index_files([corim({"/bin/a": GOOD, **(components or {}), **more})])


@dataclass
class Host:
    """A kernel whose list is attested to one verifier."""

    kernel: Kernel = field(default_factory=Kernel)
    references: ImaReferences = field(default_factory=references)
    rules: ImaRules = field(default_factory=ImaRules)
    boot: Mapping[int, bytes] = field(default_factory=lambda: BOOT)
    state: ImaState | None = None

    def log_from(self, entry: int) -> bytes:
        return self.kernel.binary[([0, *self.kernel.ends])[entry] :]

    def judge(self, *, first: int | None = None, log: bytes | None = None, quoted: bytes | None = None, bank: str = "sha256") -> ImaResult:
        """What a verifier with the recorded state says; nothing is recorded."""
        at = (self.state.entries if self.state else 0) if first is None else first
        sent = self.log_from(at) if log is None else log
        quote = self.kernel.pcr10[bank] if quoted is None else quoted
        return appraise_ima(self.state, sent, at, quote, bank, self.references, self.rules, boot=self.boot)

    def attest(self) -> ImaResult:
        """The same, and recorded."""
        result = self.judge()
        self.state = result.state
        return result


def codes(result: ImaResult) -> list[tuple[str, str]]:
    return [(reason.code, reason.claim) for reason in result.reasons]


@pytest.fixture
def host() -> Host:
    made = Host()
    made.kernel.measure("/bin/a", GOOD)
    return made


# --- files ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", ["ima-ng", "ima-ngv2", "ima-sig", "ima-sigv2", "ima-modsig", "evm-sig", "d-ng|n-ng"])
def test_approved_file_passes_in_every_template(template: str) -> None:
    host = Host()
    host.kernel.measure("/bin/a", GOOD, template=template)
    result = host.judge()
    assert (result.reasons, result.count, result.covered, result.tail) == ((), 0, 2, 0)
    assert result.state is not None
    assert (result.state.entries, result.state.register, result.state.violations) == (2, host.kernel.pcr10["sha256"], 0)


def test_unknown_and_changed_files_are_named_with_what_was_expected(host: Host) -> None:
    host.kernel.measure("/bin/a", OTHER)
    host.kernel.measure("/bin/new one", GOOD)
    result = host.judge()
    assert [str(reason) for reason in result.reasons] == [
        f"file-mismatch: ima./bin/a: expected {GOOD}, got {OTHER}",
        f"file-unknown: ima./bin/new_one: expected a reference value, an exclusion or a signature, got {GOOD}",
    ]
    assert result.count == 2
    assert result.state is not None


def test_any_of_several_approved_versions_passes() -> None:
    third = Digest.of(b"third", "sha512")
    host = Host(references=index_files([corim({"/bin/a": GOOD}), corim({"/bin/a": OTHER}, id="b"), corim({"/bin/a": third}, id="c")]))
    for digest in (GOOD, OTHER, third):
        host.kernel.measure("/bin/a", digest)
    assert host.judge().reasons == ()
    host.kernel.measure("/bin/a", Digest.of(b"fourth"))
    assert host.judge().reasons[0].expected == f"{min(GOOD, OTHER)} or 2 more"


def test_name_with_a_space_is_found_as_the_kernel_writes_it() -> None:
    host = Host(references=references({"/opt/my file": GOOD}))
    host.kernel.measure("/opt/my file", GOOD)
    assert host.judge().reasons == ()


def test_references_of_another_environment_do_not_count(host: Host) -> None:
    host.references = index_files([corim({"/bin/a": GOOD}, environment="governance"), corim({"/bin/b": GOOD})])
    assert codes(host.judge()) == [("file-unknown", "ima./bin/a")]


def test_nothing_is_compared_where_nothing_was_ever_approved(host: Host) -> None:
    host.kernel.measure("/bin/a", OTHER)
    host.kernel.measure("/bin/a", OTHER, violation=True)
    host.references = index_files([])
    result = host.judge()
    assert (result.reasons, result.covered) == ((), 4)
    host.rules = KEYRING
    assert {code for code, _ in codes(host.judge(first=0))} == {"file-unknown", "ima-violation"}


def test_same_files_are_one_set_however_they_are_published() -> None:
    both = index_files([corim({"/bin/a": GOOD, "/bin/b": OTHER})])
    apart = index_files([corim({"/bin/b": OTHER}), corim({"/bin/a": GOOD}, id="2")])
    assert both.digest == apart.digest
    assert both.digest != index_files([corim({"/bin/a": GOOD, "/bin/b": GOOD})]).digest
    assert both.digest != index_files([corim({"/bin/a": GOOD, "verity:/bin/b": OTHER})]).digest


@pytest.mark.parametrize("digest", [Digest.of(b"good", "sha1"), "md5:" + "ab" * 16, "sm3:" + "ab" * 32, "sha256-new:abcd"])
def test_digest_of_a_weak_or_unknown_algorithm_satisfies_nothing(digest: Digest | str) -> None:
    host = Host()
    host.kernel.measure("/bin/a", digest)
    assert codes(host.judge()) == [("algorithm-refused", "ima./bin/a")]


def test_legacy_template_satisfies_nothing_since_it_holds_sha1() -> None:
    host = Host()
    host.kernel.measure("/bin/a", Digest.of(b"good", "sha1"), template="ima")
    assert codes(host.judge()) == [("algorithm-refused", "ima./bin/a")]


def test_verity_digest_and_content_digest_are_not_taken_for_each_other() -> None:
    host = Host(references=references({"verity:/bin/v": GOOD}))
    host.kernel.measure("/bin/v", GOOD, template="ima-ngv2", kind="verity")
    assert host.judge().reasons == ()
    for template in ("ima-ng", "ima-sig", "ima-ngv2"):
        host.kernel.measure("/bin/v", GOOD, template=template)
    host.kernel.measure("/bin/a", GOOD, template="ima-ngv2", kind="verity")
    result = host.judge()
    assert codes(result) == [("file-unknown", "ima./bin/a"), ("file-unknown", "ima./bin/v")]
    assert result.reasons[0].got == f"verity:{GOOD}"
    assert result.count == 4


def test_excluded_path_passes_whole_and_not_in_part() -> None:
    host = Host(rules=ImaRules(exclude=("/tmp", "/var/log/.*")))
    for name in ("/tmp", "/var/log/a", "/tmp/x", "/srv/var/log/a"):
        host.kernel.measure(name, OTHER)
    assert codes(host.judge()) == [("file-unknown", "ima./srv/var/log/a"), ("file-unknown", "ima./tmp/x")]


def test_unreadable_entry_and_unknown_template_are_refused() -> None:
    host = Host()
    host.kernel.measure("/bin/a", GOOD, template="n-ng|other")
    host.kernel.measure("/bin/a", "sha256:ab")
    result = host.judge()
    assert codes(result) == [("ima-log-malformed", "ima.entry"), ("ima-template-unknown", "ima.template")]
    assert (result.count, result.reasons[1].got) == (2, "n-ng|other")


def test_unreadable_entry_leaves_a_state_that_can_be_read_again() -> None:
    host = Host()
    host.kernel.measure("/bin/\0\x01a", GOOD)
    result = host.judge()
    assert [(reason.code, reason.got) for reason in result.reasons] == [("ima-log-malformed", "/bin/\\x00\\x01a\\x00")]
    assert result.state is not None
    assert ImaState.from_cbor(result.state.to_cbor()) == result.state


def test_reasons_are_sorted_and_bounded_and_their_count_is_not(host: Host) -> None:
    for number in range(MAX_REASONS + 10):
        host.kernel.measure(f"/bin/{number:03}", OTHER)
    result = host.judge()
    assert result.count == MAX_REASONS + 10
    assert [reason.claim for reason in result.reasons] == [f"ima./bin/{number:03}" for number in range(MAX_REASONS)]


def test_name_in_a_reason_is_printable_and_short() -> None:
    assert ima.shown(b"/bin/\x1b[2J\xff\n") == "/bin/\\x1b[2J\\xff\\x0a"
    assert len(ima.shown(b"x" * 4096)) == 400


# --- violations, buffers, keys -----------------------------------------------------------------------------------------------


def test_violation_is_refused_unless_the_rules_label_it_or_leave_the_file_out(host: Host) -> None:
    host.kernel.measure("/bin/a", GOOD, violation=True)
    result = host.judge()
    assert codes(result) == [("ima-violation", "ima./bin/a")]
    assert (result.count, result.state.violations if result.state else None) == (1, 1)
    host.rules = ImaRules(violations="label")
    assert host.judge().reasons == ()
    host.rules = ImaRules(exclude=("/bin/a",))
    assert host.judge().reasons == ()
    host.rules = ImaRules(exclude=("/bin/b",))
    assert codes(host.judge()) == [("ima-violation", "ima./bin/a")]


def test_violation_whose_digest_has_the_old_length_is_named() -> None:
    host = Host()
    host.kernel.measure("/bin/a", "sha256:" + "00" * 20, violation=True)
    assert codes(host.judge()) == [("ima-violation", "ima./bin/a")]


def test_signature_is_not_judged_without_keys() -> None:
    host = Host(references=references({"/bin/b": OTHER}))
    host.kernel.measure("/bin/b", OTHER, template="ima-sig", sig=b"no signature")
    assert host.judge().reasons == ()


def test_violation_of_a_file_that_cannot_be_read_is_refused(host: Host) -> None:
    host.kernel.measure("/bin/a", GOOD, violation=True, template="n-ng|other")
    host.kernel.measure("/bin/a\0b", GOOD, violation=True)
    assert codes(host.judge()) == [("ima-violation", "ima.entry")]
    assert host.judge().count == 2


def test_buffer_passes_by_its_own_bytes() -> None:
    host = Host(references=references({"kexec-cmdline": Digest.of(b"quiet", "sha384")}))
    host.kernel.measure("kexec-cmdline", Digest.of(b"quiet", "sha1"), template="ima-buf", buf=b"quiet")
    assert host.judge().reasons == ()
    host.kernel.measure("kexec-cmdline", Digest.of(b"quiet"), template="ima-buf", buf=b"loud")
    host.kernel.measure("dm_table", Digest.of(b"x"), template="ima-buf", buf=b"x")
    result = host.judge()
    assert codes(result) == [("file-mismatch", "ima.kexec-cmdline"), ("file-unknown", "ima.dm_table")]
    assert result.reasons[0].got == str(Digest.of(b"loud"))


KEYRING = ImaRules(keyrings=(certificate("vendor"),))


@pytest.mark.parametrize("kind", ["ec", "rsa"])
@pytest.mark.parametrize("version, type_, measured", [(2, 3, "ima"), (3, 3, "ima"), (3, 6, "verity")])
def test_signature_by_a_key_of_the_policy_serves_a_file_without_reference(kind: str, version: int, type_: int, measured: str) -> None:
    host = Host(rules=ImaRules(keyrings=(certificate("vendor", kind),)))
    signature = signed(OTHER, "vendor", kind, version=version, type_=type_)
    host.kernel.measure("/bin/signed", OTHER, template="ima-sigv2", kind=measured, sig=signature)
    assert host.judge().reasons == ()
    host.rules = ImaRules()
    assert codes(host.judge()) == [("file-unknown", "ima./bin/signed")]


def test_signature_does_not_serve_a_file_that_a_reference_names(host: Host) -> None:
    host.rules = KEYRING
    host.kernel.measure("/bin/a", OTHER, template="ima-sig", sig=signed(OTHER, "vendor"))
    assert codes(host.judge()) == [("file-mismatch", "ima./bin/a")]


def test_signature_by_another_key_serves_nothing() -> None:
    host = Host(rules=KEYRING)
    host.kernel.measure("/bin/b", OTHER, template="ima-sig", sig=signed(OTHER, "stranger"))
    assert codes(host.judge()) == [("file-unknown", "ima./bin/b")]
    host.kernel.measure("/bin/c", OTHER, template="ima-sig", sig=signed(OTHER, "stranger", claimed=key_id("vendor")))
    assert codes(host.judge()) == [("file-unknown", "ima./bin/b"), ("ima-signature-invalid", "ima./bin/c")]


GOOD_SIGNATURE = signed(OTHER, "vendor")


@pytest.mark.parametrize(
    "signature",
    [
        signed(GOOD, "vendor"),
        GOOD_SIGNATURE[:-1],
        GOOD_SIGNATURE + b"\0",
        GOOD_SIGNATURE[:8],
        GOOD_SIGNATURE[:2] + b"\x06" + GOOD_SIGNATURE[3:],
        GOOD_SIGNATURE[:2] + b"\x63" + GOOD_SIGNATURE[3:],
        b"\x05" + GOOD_SIGNATURE[1:],
        GOOD_SIGNATURE[:1] + b"\x03" + GOOD_SIGNATURE[2:],
        signed(OTHER, "vendor", version=3, type_=6),
        signed(OTHER, "vendor", type_=6),
    ],
)
def test_signature_that_does_not_hold_is_refused_even_on_an_approved_digest(signature: bytes) -> None:
    host = Host(references=references({"/bin/b": OTHER}), rules=KEYRING)
    host.kernel.measure("/bin/b", OTHER, template="ima-sig", sig=signature)
    assert codes(host.judge()) == [("ima-signature-invalid", "ima./bin/b")]


def test_signature_over_sha1_or_by_a_short_key_serves_nothing() -> None:
    old = Digest.of(b"old", "sha1")
    host = Host(rules=ImaRules(keyrings=tuple(sorted((certificate("vendor"), certificate("short", "rsa1024"))))))
    host.kernel.measure("/bin/old", old, template="ima-sig", sig=signed(old, "vendor"))
    host.kernel.measure("/bin/short", OTHER, template="ima-sig", sig=signed(OTHER, "short", "rsa1024"))
    assert codes(host.judge()) == [("file-unknown", "ima./bin/short"), ("ima-signature-invalid", "ima./bin/old")]


MODULE = module_signed(b"module", "vendor")


def with_module(*, modsig: bytes, d_modsig: bytes, sig: bytes = b"") -> Host:
    host = Host(rules=KEYRING, references=references({"/lib/approved.ko": OTHER}))
    for name in ("/lib/other.ko", "/lib/approved.ko"):
        host.kernel.measure(name, OTHER, template="ima-modsig", modsig=modsig, d_modsig=d_modsig, sig=sig)
    return host


@pytest.mark.parametrize("kind", ["ec", "rsa"])
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_module_signature_by_a_key_of_the_rules_passes(kind: str, algorithm: str) -> None:
    host = with_module(**module_signed(b"module", "vendor", kind, algorithm))
    host.rules = ImaRules(keyrings=(certificate("vendor", kind),))
    assert host.judge().reasons == ()


@pytest.mark.parametrize(
    "fields",
    [
        MODULE | {"d_modsig": d_ng(OTHER)},
        MODULE | {"d_modsig": d_ng(Digest.of(b"module", "sha512"))},
        MODULE | {"d_modsig": b""},
        MODULE | {"modsig": MODULE["modsig"][:-1] + bytes((MODULE["modsig"][-1] ^ 1,))},
    ],
)
def test_module_signature_that_does_not_hold_is_refused_even_on_an_approved_digest(fields: dict[str, bytes]) -> None:
    refused = [("ima-signature-invalid", "ima./lib/approved.ko"), ("ima-signature-invalid", "ima./lib/other.ko")]
    assert codes(with_module(**fields).judge()) == refused


@pytest.mark.parametrize("fields", [MODULE | {"modsig": b"pkcs7"}, MODULE | {"modsig": b""}, module_signed(b"module", "stranger")])
def test_module_signature_of_another_kind_or_key_serves_nothing(fields: dict[str, bytes]) -> None:
    assert codes(with_module(**fields).judge()) == [("file-unknown", "ima./lib/other.ko")]


@pytest.mark.parametrize("field", [b"sha256", b"sha256:\0short"])
def test_digest_under_a_module_signature_that_is_none_is_refused(field: bytes) -> None:
    found = codes(with_module(**MODULE | {"d_modsig": field}).judge())
    assert found == [("ima-log-malformed", "ima.entry")]


def test_module_signature_is_asked_where_no_key_made_the_signature_of_the_file() -> None:
    for signature, expected in (
        (signed(OTHER, "stranger"), []),
        (signed(GOOD, "vendor"), [("ima-signature-invalid", "ima./lib/approved.ko"), ("ima-signature-invalid", "ima./lib/other.ko")]),
    ):
        assert codes(with_module(sig=signature, **MODULE).judge()) == expected
    wrong = MODULE | {"d_modsig": d_ng(GOOD)}
    assert codes(with_module(sig=signed(OTHER, "vendor"), **wrong).judge()) == []


def learnt(kernel: Kernel, keyring: str = ".ima", name: str = "learnt") -> None:
    der = certificate(name)
    kernel.measure(keyring, Digest.of(der), template="ima-buf", buf=der)
    kernel.measure("/bin/signed", OTHER, template="ima-sig", sig=signed(OTHER, name))


def test_learnt_key_counts_only_where_the_rules_say_so() -> None:
    host = Host(rules=ImaRules(learn_keys=True))
    learnt(host.kernel)
    result = host.attest()
    assert result.reasons == ()
    assert host.state is not None
    assert host.state.keys == (certificate("learnt"),)
    host.kernel.measure("/bin/later", GOOD, template="ima-sig", sig=signed(GOOD, "learnt"))
    assert host.attest().reasons == ()
    host.rules = ImaRules(learn_keys=False)
    assert codes(host.judge(first=0)) == [
        ("file-unknown", "ima..ima"),
        ("file-unknown", "ima./bin/later"),
        ("file-unknown", "ima./bin/signed"),
    ]


def test_key_on_another_keyring_and_bytes_that_are_no_key_are_not_learnt() -> None:
    host = Host(rules=ImaRules(learn_keys=True))
    learnt(host.kernel, ".evm")
    host.kernel.measure(".ima", Digest.of(b"x"), template="ima-buf", buf=b"x")
    assert codes(host.judge()) == [("file-unknown", "ima..evm"), ("file-unknown", "ima..ima"), ("file-unknown", "ima./bin/signed")]


def test_key_serves_only_what_was_measured_after_it() -> None:
    host = Host(rules=ImaRules(learn_keys=True))
    host.kernel.measure("/bin/early", OTHER, template="ima-sig", sig=signed(OTHER, "learnt"))
    learnt(host.kernel)
    assert codes(host.judge()) == [("file-unknown", "ima./bin/early")]


def test_number_of_learnt_keys_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ima, "MAX_KEYS", 1)
    host = Host(rules=ImaRules(learn_keys=True))
    learnt(host.kernel)
    learnt(host.kernel, name="second")
    assert codes(host.judge()) == [("file-unknown", "ima..ima"), ("file-unknown", "ima./bin/signed")]


# --- the boot ---------------------------------------------------------------------------------------------------------------


def aggregate(boot: Mapping[int, bytes], last: int) -> Digest:
    return Digest.of(b"".join(boot[index] for index in range(last + 1)))


def test_aggregate_over_eight_registers_of_an_older_kernel_passes() -> None:
    host = Host(Kernel(aggregate=False))
    host.kernel.measure("boot_aggregate", aggregate(BOOT, 7))
    assert host.judge().reasons == ()


@pytest.mark.parametrize("changed", range(10))
def test_list_of_another_boot_is_refused(host: Host, changed: int) -> None:
    host.boot = {**BOOT, changed: bytes(32)}
    result = host.attest()
    assert codes(result) == [("boot-aggregate-mismatch", "ima.boot_aggregate")]
    assert result.reasons[0].got == str(aggregate(BOOT, 9))
    assert codes(host.attest()) == [("boot-aggregate-mismatch", "ima.boot_aggregate")]
    host.boot = {}
    assert codes(host.attest()) == [("boot-aggregate-mismatch", "ima.boot_aggregate")]


def test_list_without_a_good_aggregate_is_refused() -> None:
    without = Host(Kernel(aggregate=False))
    without.kernel.measure("/bin/a", GOOD)
    assert codes(without.judge()) == [("boot-aggregate-mismatch", "ima.boot_aggregate")]
    assert without.judge().reasons[0].got == "none"
    weak = Host(Kernel(aggregate=False))
    weak.kernel.measure("boot_aggregate", Digest.of(b"x", "sha1"))
    assert codes(weak.judge()) == [("algorithm-refused", "ima.boot_aggregate")]
    void = Host(Kernel(aggregate=False))
    void.kernel.measure("boot_aggregate", GOOD, violation=True)
    assert codes(void.judge()) == [("boot-aggregate-mismatch", "ima.boot_aggregate"), ("ima-violation", "ima.boot_aggregate")]
    broken = Host(Kernel(aggregate=False))
    broken.kernel.measure("boot_aggregate", "sha256:ab")
    assert codes(broken.judge()) == [("boot-aggregate-mismatch", "ima.boot_aggregate"), ("ima-log-malformed", "ima.entry")]


def test_second_aggregate_is_the_first_one_or_a_file(host: Host) -> None:
    host.attest()
    host.kernel.measure("boot_aggregate", aggregate(BOOT, 9), template="ima-sig")
    assert host.attest().reasons == ()
    host.kernel.measure("/bin/b", aggregate(BOOT, 9))
    assert codes(host.judge()) == [("file-unknown", "ima./bin/b")]
    host.kernel.measure("boot_aggregate", OTHER)
    host.rules = ImaRules(exclude=("/bin/b",))
    assert codes(host.judge(first=0)) == [("file-unknown", "ima.boot_aggregate")]


# --- another list than the quoted one ------------------------------------------------------------------------------------------


def entries_of(kernel: Kernel) -> list[bytes]:
    return [kernel.binary[start:end] for start, end in zip([0, *kernel.ends], kernel.ends, strict=False)]


def three() -> Host:
    host = Host(references=references({"/bin/b": GOOD, "/bin/c": OTHER}))
    for name, digest in (("/bin/a", GOOD), ("/bin/b", GOOD), ("/bin/c", OTHER)):
        host.kernel.measure(name, digest)
    return host


@pytest.mark.parametrize("gone", range(4))
def test_removed_entry_is_noticed(gone: int) -> None:
    host = three()
    parts = entries_of(host.kernel)
    result = host.judge(log=b"".join(parts[:gone] + parts[gone + 1 :]))
    assert codes(result) == [("ima-log-mismatch", "ima.pcr10")]
    assert (result.state, result.covered) == (None, 0)


def test_reordered_path_changed_and_digest_changed_entries_are_noticed() -> None:
    host = three()
    one, two, three_, four = entries_of(host.kernel)
    for log in (
        one + three_ + two + four,
        host.kernel.binary.replace(b"/bin/c", b"/bin/d"),
        host.kernel.binary.replace(OTHER.value, GOOD.value),
        host.kernel.binary.replace(OTHER.value, OTHER.value[:-1] + b"\0"),
        one + two + two + three_ + four,
    ):
        assert codes(host.judge(log=log)) == [("ima-log-mismatch", "ima.pcr10")]


def test_hidden_and_invented_violations_are_noticed_and_another_template_hash_changes_nothing(host: Host) -> None:
    host.kernel.measure("/bin/a", GOOD, violation=True)
    parts = entries_of(host.kernel)
    hidden = parts[0] + parts[1] + parts[2][:4] + b"\1" * 20 + parts[2][24:]
    invented = parts[0] + parts[1][:4] + bytes(20) + parts[1][24:] + parts[2]
    other = parts[0] + parts[1][:4] + b"\1" * 20 + parts[1][24:] + parts[2]
    for log in (hidden, invented):
        assert codes(host.judge(log=log)) == [("ima-log-mismatch", "ima.pcr10")]
    # The SHA-1 of the list is nobody's proof in another bank: the register holds SHA-256.
    assert host.judge(log=other) == host.judge()


def test_truncated_list_is_noticed_at_every_byte(host: Host) -> None:
    for size in range(1, len(host.kernel.binary)):
        assert codes(host.judge(log=host.kernel.binary[:size]))[0][0] in ("ima-log-mismatch", "ima-log-malformed")


def test_entries_behind_the_quote_are_neither_trusted_nor_an_error(host: Host) -> None:
    quoted, size = host.kernel.pcr10["sha256"], len(host.kernel.binary)
    host.kernel.measure("/bin/evil", OTHER)
    for log in (host.kernel.binary, host.kernel.binary + b"\xff"):
        result = host.judge(log=log, quoted=quoted)
        assert (result.reasons, result.covered, result.tail) == ((), 2, len(log) - size)
    assert codes(host.judge()) == [("file-unknown", "ima./bin/evil")]


def test_list_that_breaks_before_the_quote_says_where(host: Host) -> None:
    log = host.kernel.binary[: host.kernel.ends[0]] + b"\x0a\0\0\0"
    result = host.judge(log=log)
    assert codes(result) == [("ima-log-malformed", f"ima.byte {host.kernel.ends[0]}")]
    assert (result.count, result.covered, result.tail) == (0, 0, len(log))


def test_entries_of_all_parts_together_are_bounded(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ima, "MAX_ENTRIES", 3)
    host.attest()
    host.kernel.measure("/bin/a", GOOD, template="ima-sig")
    assert host.judge().reasons == ()
    host.kernel.measure("/bin/a", GOOD, template="ima-modsig")
    assert codes(host.judge()) == codes(host.judge(first=0)) == [("ima-log-mismatch", "ima.pcr10")]


def test_register_that_nothing_extended_vouches_for_nothing(host: Host) -> None:
    assert codes(host.judge(quoted=bytes(32))) == [("ima-log-mismatch", "ima.pcr10")]


def test_list_of_a_kernel_that_pads_sha1_is_recognised_and_refused(host: Host) -> None:
    assert codes(host.judge(quoted=host.kernel.padded)) == [("algorithm-refused", "ima.hash")]
    sha1 = Host(host.kernel)
    assert codes(sha1.judge(bank="sha1", quoted=b"\1" * 20)) == [("ima-log-mismatch", "ima.pcr10")]


def test_other_bank_replays_in_its_own_hash() -> None:
    boot = {index: bytes(48) for index in range(10)}
    host = Host(Kernel(aggregate=False), boot=boot)
    host.kernel.measure("boot_aggregate", Digest.of(bytes(480), "sha384"))
    host.kernel.measure("/bin/a", GOOD)
    result = host.judge(bank="sha384")
    assert (result.reasons, result.covered) == ((), 2)


# --- from one attestation to the next --------------------------------------------------------------------------------------------


def test_only_new_entries_are_sent_and_judged(host: Host) -> None:
    assert host.attest().reasons == ()
    host.kernel.measure("/bin/b", OTHER)
    assert codes(host.attest()) == [("file-unknown", "ima./bin/b")]
    host.kernel.measure("/bin/c", OTHER)
    result = host.attest()
    assert codes(result) == [("file-unknown", "ima./bin/b"), ("file-unknown", "ima./bin/c")]
    assert (result.count, result.covered) == (2, 4)


@given(st.lists(st.sampled_from(["/bin/a", "/bin/b", "!/bin/a", "sig", "/bin/c"]), max_size=12), st.data())
def test_parts_and_a_full_resend_give_one_state(names: list[str], data: st.DataObject) -> None:
    host = Host(rules=ImaRules(learn_keys=True))
    host.attest()
    for name in names:
        if name == "sig":
            learnt(host.kernel)
        else:
            host.kernel.measure(name.removeprefix("!"), GOOD, violation=name.startswith("!"))
        if data.draw(st.booleans()):
            host.attest()
    parts = host.attest()
    resent = host.judge(first=0)
    fresh = Host(host.kernel, host.references, host.rules).judge()
    assert parts == resent == fresh
    assert parts.state is not None
    assert ImaState.from_cbor(parts.state.to_cbor()) == parts.state


def test_nothing_new_needs_no_list(host: Host) -> None:
    host.kernel.measure("/bin/b", OTHER)
    before = host.attest()
    for tail in (b"", b"behind the quote"):
        result = host.judge(log=tail)
        assert (result.reasons, result.state, result.count, result.covered, result.tail) == (before.reasons, before.state, 1, 3, len(tail))


def test_changed_references_or_rules_ask_for_the_whole_list_and_judge_it_anew(host: Host) -> None:
    host.kernel.measure("/bin/b", OTHER)
    host.attest()
    for changed in (Host(references=references({"/bin/b": OTHER})), Host(rules=ImaRules(exclude=("/bin/b",)))):
        host.references, host.rules = changed.references, changed.rules
        result = host.attest()
        assert (codes(result), result.state) == ([("ima-log-required", "ima.references")], host.state)
        host.kernel.measure("/bin/a", GOOD, template="ima-sig")
        assert codes(host.judge()) == [("ima-log-required", "ima.references")]
        host.state = host.judge(first=0).state
        assert host.attest().reasons == ()


def test_file_whose_approval_is_withdrawn_is_refused(host: Host) -> None:
    host.attest()
    host.references = index_files([corim({"/bin/b": OTHER})])
    assert codes(host.judge(first=0)) == [("file-unknown", "ima./bin/a")]


def test_gap_and_overlap_are_refused(host: Host) -> None:
    host.kernel.measure("/bin/a", GOOD, template="ima-sig")
    host.kernel.measure("/bin/a", GOOD, template="ima-modsig")
    assert codes(host.judge(first=1)) == [("ima-log-required", "ima.first")]
    host.attest()
    host.kernel.measure("/bin/a", GOOD, template="ima-ngv2")
    for first in (1, 5):
        result = host.judge(first=first)
        assert [str(reason) for reason in result.reasons] == [f"ima-log-rewound: ima.first: expected entry 0 or 4, got entry {first}"]
        assert result.state == host.state
    skipped = host.log_from(host.kernel.entries)
    assert codes(host.judge(log=skipped)) == [("ima-log-mismatch", "ima.pcr10")]


def test_rewound_list_is_refused(host: Host) -> None:
    quoted = host.kernel.pcr10["sha256"]
    host.kernel.measure("/bin/a", GOOD, template="ima-sig")
    host.attest()
    result = host.judge(first=0, quoted=quoted)
    assert codes(result) == [("ima-log-rewound", "ima.entries")]
    assert result.state == host.state
    assert codes(host.judge(first=0, log=host.kernel.binary[: host.kernel.ends[1]], quoted=quoted)) == [("ima-log-rewound", "ima.entries")]
    assert codes(host.judge(quoted=quoted)) == [("ima-log-mismatch", "ima.pcr10")]


def test_list_of_another_boot_or_host_does_not_continue_this_one(host: Host) -> None:
    host.attest()
    other = Host(references=host.references, state=host.state)
    other.kernel.measure("/bin/b", GOOD)
    other.kernel.measure("/bin/a", GOOD)
    assert codes(other.judge(first=0)) == [("ima-log-rewound", "ima.entries")]
    assert codes(other.judge()) == [("ima-log-mismatch", "ima.pcr10")]
    other.state = None
    assert codes(other.judge()) == [("file-unknown", "ima./bin/b")]


def test_state_that_counts_other_entries_is_not_continued(host: Host) -> None:
    host.kernel.measure("/bin/a", GOOD, template="ima-sig")
    host.attest()
    assert host.state is not None
    for entries in (2, 4):
        host.state = replace(host.state, entries=entries)
        assert codes(host.judge(first=0)) == [("ima-log-rewound", "ima.entries")]


def test_state_of_another_bank_is_not_resumed(host: Host) -> None:
    host.attest()
    result = host.judge(bank="sha384", first=2)
    assert codes(result) == [("ima-log-rewound", "ima.first")]
    assert host.judge(bank="sha384", first=0).covered == 2
    assert host.state is not None
    host.state = replace(host.state, bank="sha384", register=b"\1" * 48)
    assert host.judge(first=0).covered == 2


# --- the files that root a runtime -----------------------------------------------------------------------------------------------


def rooted(components: Mapping[str, Digest]) -> ImaReferences:
    return index_files([corim({"/bin/a": GOOD}), corim(components, id="attestor", environment="rooted/attestor")])


def test_required_files_are_approved_and_seen_in_every_template(host: Host) -> None:
    host.references = rooted({"/bin/my tool": GOOD, "verity:/bin/v": OTHER, "/bin/a": GOOD, "/bin/never": GOOD})
    host.rules = KEYRING
    host.attest()
    host.kernel.measure("/bin/my tool", GOOD, template="ima-sig", sig=signed(GOOD, "vendor"))
    host.kernel.measure("/bin/v", OTHER, template="ima-ngv2", kind="verity")
    result = host.attest()
    assert result.reasons == ()
    assert result.state is not None
    assert result.state.seen == (("/bin/a", str(GOOD)), ("/bin/my tool", str(GOOD)), ("verity:/bin/v", str(OTHER)))
    assert host.judge(first=0).state == result.state


def test_other_version_of_a_required_file_is_not_seen(host: Host) -> None:
    host.references = rooted({"/bin/b": GOOD, "/bin/buffer": Digest.of(b"x"), "/bin/v": GOOD})
    host.kernel.measure("/bin/b", OTHER)
    host.kernel.measure("/bin/buffer", Digest.of(b"x"), template="ima-buf", buf=b"x")
    host.kernel.measure("/bin/v", GOOD, template="ima-ngv2", kind="verity")
    result = host.judge()
    assert result.state is not None
    assert result.state.seen == ()
    assert ("file-mismatch", "ima./bin/b") in codes(result)


def test_violation_of_a_required_file_is_refused_whatever_the_rules_say(host: Host) -> None:
    host.references, host.rules = rooted({"/bin/b": GOOD}), ImaRules(violations="label", exclude=("/bin/b",))
    host.kernel.measure("/bin/a", GOOD, violation=True)
    assert host.judge().reasons == ()
    host.kernel.measure("/bin/b", GOOD, violation=True)
    assert codes(host.judge()) == [("ima-violation", "ima./bin/b")]


@pytest.mark.parametrize("violations", ["refuse", "label"])
def test_exclusion_and_label_cover_no_violation_of_a_required_file(host: Host, violations: str) -> None:
    host.references, host.rules = rooted({"/bin/b": GOOD}), ImaRules(violations=violations, exclude=("/bin/.*",))
    host.kernel.measure("/bin/a", GOOD, violation=True)
    assert codes(host.judge()) == []
    host.kernel.measure("/bin/b", GOOD, violation=True)
    assert codes(host.judge()) == [("ima-violation", "ima./bin/b")]


def test_required_file_of_a_version_that_ran_out_is_approved_by_no_other(host: Host) -> None:
    host.references = index_files(
        [corim({"/bin/a": GOOD, "/bin/b": OTHER})], [corim({"/bin/b": GOOD}, id="attestor", environment="rooted/attestor")]
    )
    host.rules = ImaRules(violations="label", exclude=("/bin/b",))
    host.kernel.measure("/bin/b", OTHER)
    host.kernel.measure("/bin/b", GOOD, violation=True)
    assert codes(host.judge()) == [("file-unknown", "ima./bin/b"), ("ima-violation", "ima./bin/b")]


@pytest.mark.parametrize(
    "others, passes",
    [
        ({"rooted/launcher": {"/bin/b": OTHER}}, []),
        ({"rooted/launcher": {"/bin/b": OTHER}, "rooted/attestor": {"/bin/b": GOOD}}, None),
        ({"rooted/launcher": {"/bin/b": OTHER}, "rooted/attestor": {"/bin/b": OTHER, "/bin/c": GOOD}}, []),
        ({"rooted/launcher": {"/bin/b": OTHER}, "rooted/attestor": {"verity:/bin/b": OTHER}}, None),
        ({"rooted/launcher": {"/bin/b": OTHER}, "files/os": {"/bin/b": GOOD}}, []),
        ({"rooted/attestors": {"/bin/b": OTHER}}, None),
        ({"rooted/": {"/bin/b": OTHER}}, None),
    ],
)
def test_file_is_approved_by_each_part_that_names_it(host: Host, others: dict[str, dict[str, Digest]], passes: list[str] | None) -> None:
    host.references = index_files([corim({"/bin/a": GOOD}), *(corim(known, environment=name) for name, known in others.items())])
    host.kernel.measure("/bin/b", OTHER)
    result = host.judge()
    assert [claim for _, claim in codes(result)] == (["ima./bin/b"] if passes is None else passes)
    assert result.state is not None
    assert bool(result.state.seen) == (passes is not None and "rooted/launcher" in others)


def test_part_whose_version_ran_out_leaves_its_file_to_no_other_part(host: Host) -> None:
    launcher, attestor = (corim({"/bin/b": GOOD}, environment=f"rooted/{part}") for part in ("launcher", "attestor"))
    host.kernel.measure("/bin/b", GOOD)
    for gone, found in ([], []), ([attestor], [("file-unknown", "ima./bin/b")]):
        host.references = index_files([corim({"/bin/a": GOOD}), launcher], gone)
        assert codes(host.judge()) == found


@pytest.mark.parametrize(
    "odd",
    [corim({"/bin/b": GOOD}, environment="rooted/zz"), replace(corim({"/bin/b": GOOD}), registers=((7, GOOD),))],
    ids=["of no part", "with a PCR"],
)
def test_version_that_no_rule_reads_stands_among_those_that_ran_out(host: Host, odd: Corim) -> None:
    host.references, host.rules = index_files([corim({"/bin/a": GOOD}), odd]), KEYRING
    assert host.references.digest == index_files([corim({"/bin/a": GOOD})], [corim({"/bin/b": GOOD})]).digest
    assert index_files([odd]).compared
    host.kernel.measure("/bin/b", GOOD, template="ima-sig", sig=signed(GOOD, "vendor"))
    assert codes(host.judge()) == [("file-unknown", "ima./bin/b")]


def test_only_names_of_parts_and_of_what_ran_out_are_pinned() -> None:
    valid = [corim({"/bin/a": GOOD}), corim({"/bin/b": GOOD}, environment="rooted/launcher")]
    assert index_files(valid).pinned == {b"/bin/b"}
    assert index_files(valid, [corim({"/bin/c": GOOD})]).pinned == {b"/bin/b", b"/bin/c"}


def test_signature_that_does_not_hold_is_refused_where_none_serves_too(host: Host) -> None:
    host.references, host.rules = index_files([corim({"/bin/a": GOOD, "/bin/b": GOOD})], [corim({"/bin/b": OTHER})]), KEYRING
    host.kernel.measure("/bin/b", GOOD, template="ima-sig", sig=signed(OTHER, "vendor"))
    assert codes(host.judge()) == [("ima-signature-invalid", "ima./bin/b")]


def test_files_are_compared_although_all_that_was_approved_ran_out(host: Host) -> None:
    never, gone = index_files([]), index_files([], [corim({"/bin/a": GOOD})])
    assert never.digest != gone.digest
    host.references = gone
    host.kernel.measure("/bin/a", GOOD)
    assert codes(host.judge()) == [("file-unknown", "ima./bin/a")]


def test_version_that_ran_out_makes_another_set_only_by_what_it_is_of() -> None:
    valid = [corim({"/bin/a": GOOD})]
    files, other = corim({"/bin/b": GOOD}, id="2"), corim({"x": GOOD}, environment="governance")
    part = corim({"/bin/b": GOOD}, environment="rooted/attestor")
    assert index_files(valid, [other]).digest == index_files(valid).digest
    assert len({index_files(valid, gone).digest for gone in ([], [files], [part])}) == 3


def test_files_that_the_kernel_spells_alike_are_seen_both(host: Host) -> None:
    host.references = rooted({"/bin/a b": OTHER, "/bin/a_b": OTHER})
    host.kernel.measure("/bin/a b", OTHER)
    result = host.judge()
    assert result.state is not None
    assert result.state.seen == (("/bin/a b", str(OTHER)), ("/bin/a_b", str(OTHER)))


def test_requiring_a_file_makes_another_set() -> None:
    assert rooted({"/bin/b": OTHER}).digest != index_files([corim({"/bin/a": GOOD, "/bin/b": OTHER})]).digest


def test_rows_can_be_asked_what_other_references_would_say_of_them(host: Host) -> None:
    host.kernel.measure("/bin/b", OTHER)
    found = replay(host.kernel.binary, bytes(32), "sha256", host.kernel.pcr10["sha256"])
    assert found is not None
    reasons, seen = judge_rows(found.rows, found.violated, host.references, host.rules)
    assert [reason.claim for reason in reasons] == ["ima./bin/b"]
    assert judge_rows(found.rows, found.violated, rooted({"/bin/b": OTHER}), host.rules) == ((), (("/bin/b", str(OTHER)),))
    assert seen == ()
