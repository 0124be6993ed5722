"""Measured boot: a claim follows from a quoted digest, and from nothing that a log merely says."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.world.uefi_logs import Boot, encode_log, image_load, registers, renumbered, tag, uefi_logs
from writ.formats.digest import Digest
from writ.formats.errors import Misuse
from writ.formats.eventlog.cel_json import UserspaceEvent
from writ.formats.eventlog.uefi import (
    EV_ACTION,
    EV_EFI_ACTION,
    EV_EFI_BOOT_SERVICES_APPLICATION,
    EV_EFI_VARIABLE_AUTHORITY,
    EV_EFI_VARIABLE_DRIVER_CONFIG,
    EV_IPL,
    EV_NO_ACTION,
    EV_POST_CODE,
    EV_SEPARATOR,
    LogKind,
    UefiEvent,
    UefiLog,
    parse_uefi_log,
)
from writ.formats.eventlog.uefi_data import (
    GLOBAL_VARIABLE,
    IMAGE_SECURITY,
    LOAD_OPTIONS_TAG,
    Variable,
    encode_variable,
    parse_signature_lists,
)
from writ.verdict.appraise.boot import BOOT, FIRMWARE, PHASES, SECURE_BOOT, BootClaims, judge_boot, measured_values
from writ.verdict.registers import replay_registers, replay_rtmrs, replayed_banks

SB_ON = encode_variable(Variable(GLOBAL_VARIABLE, "SecureBoot", b"\x01"))
SB_OFF = encode_variable(Variable(GLOBAL_VARIABLE, "SecureBoot", b"\0"))


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def judged(log: UefiLog, quoted: dict[int, bytes] | None = None) -> tuple[BootClaims, list[tuple[str, str]]]:
    """The claims, and (code, claim) of each reason; `quoted` is what the log leads to unless given."""
    claims, reasons = judge_boot(log, registers(log) if quoted is None else quoted, "sha256")
    return claims, [(reason.code, reason.claim) for reason in reasons]


def edited(log: UefiLog, number: int, **changes: object) -> UefiLog:
    """The log with one event's type or data changed, and its digests left as they are."""
    events = list(log.events)
    events[number] = replace(events[number], **changes)  # type: ignore[arg-type] # any field
    return replace(log, events=tuple(events))


def find(log: UefiLog, pcr: int, kind: int, data: bytes = b"") -> int:
    """The number of the first such event whose data begins so."""
    return next(event.number for event in log.events if event.pcr == pcr and event.type == kind and event.data.startswith(data))


def measured(*rows: tuple[int, int, bytes, bytes]) -> UefiLog:
    """A log of (pcr, type, data, what was hashed)."""
    events = (UefiEvent(0, pcr, kind, (("sha256", sha(hashed)),), data) for pcr, kind, data, hashed in rows)
    return UefiLog(LogKind.CRYPTO_AGILE, (("sha256", 32),), renumbered(events), None, 0)


# --- what a boot gives -------------------------------------------------------------------------------------------------


def test_boot_gives_its_claims() -> None:
    boot = Boot(secure_boot=b"\x01", db=(b"a certificate",), dbx=3)
    log = parse_uefi_log(encode_log(boot.measure()))

    claims, reasons = judged(log)

    assert reasons == []
    assert claims.secure_boot is True
    variables = dict(claims.variables)
    assert set(variables) == {"pk", "kek", "db", "dbx"}
    assert [entry.digest for entry in parse_signature_lists(variables["db"].data)] == [sha(b"a certificate")]
    assert len(parse_signature_lists(variables["dbx"].data)) == 3
    assert [(authority.variable, authority.data) for authority in claims.authorities] == [("db", bytes(16) + b"a certificate")]
    assert [(app.digest, app.path) for app in claims.applications] == [(sha(boot.loader), "\\EFI\\BOOT\\BOOTX64.EFI")]
    assert [(line.digest, line.given_by) for line in claims.command_lines] == [(sha(boot.cmdline.encode("utf-16-le") + b"\0\0"), "kernel")]
    assert claims.initrds == (sha(boot.initrd),)
    assert claims.sections == (("linux", sha(boot.kernel)), ("initrd", sha(boot.initrd)))
    assert claims.firmware_version == "1.0"
    assert claims.others == ()


def test_boot_gives_its_reference_values() -> None:
    boot = Boot()
    log = boot.measure()
    quoted = registers(log)

    values = measured_values(judged(log)[0])

    keys = {name: Digest.of(variable.data) for name, variable in judged(log)[0].variables}
    assert values == {
        FIRMWARE: {"pcr0": Digest("sha256", quoted[0]), "pcr2": Digest("sha256", quoted[2])},
        SECURE_BOOT: {"secure-boot": Digest.of(b"on"), **keys},
        BOOT: {
            "application.0": Digest.of(boot.loader),
            "cmdline": Digest.of(boot.cmdline.encode("utf-16-le") + b"\0\0"),
            "initrd": Digest.of(boot.initrd),
            "uki.linux": Digest.of(boot.kernel),
            "uki.initrd": Digest.of(boot.initrd),
        },
    }


def test_environment_that_the_quote_does_not_cover_is_absent() -> None:
    log = Boot().measure()

    assert measured_values(judged(log, {7: registers(log)[7]})[0]).keys() == {SECURE_BOOT}
    assert measured_values(judged(log, {0: registers(log)[0]})[0]) == {}


@pytest.mark.parametrize(
    "change, environment, name",
    [
        (Boot(firmware=b"firmware 2.0"), FIRMWARE, "pcr0"),
        (Boot(secure_boot=b"\0"), SECURE_BOOT, "secure-boot"),
        (Boot(db=(b"another certificate",)), SECURE_BOOT, "db"),
        (Boot(dbx=1), SECURE_BOOT, "dbx"),
        (Boot(loader=b"another loader"), BOOT, "application.0"),
        (Boot(cmdline="root=/dev/vda1 rw init=/bin/sh"), BOOT, "cmdline"),
        (Boot(initrd=b"another initrd"), BOOT, "initrd"),
        (Boot(kernel=b"another kernel"), BOOT, "uki.linux"),
        (Boot(grub_commands=3), BOOT, "other.8"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_change_of_the_machine_changes_its_reference_value(change: Boot, environment: str, name: str) -> None:
    before, after = (measured_values(judged(boot.measure())[0])[environment] for boot in (Boot(), change))

    assert before.get(name) != after.get(name)


def test_second_of_a_kind_has_a_number() -> None:
    rows = [(4, EV_SEPARATOR, bytes(4), bytes(4))]
    rows += [(9, 6, tag(LOAD_OPTIONS_TAG, b"LoadOptions\0"), line) for line in (b"one", b"two")]
    for content in (b"a", b"b"):
        wide = ".dtb".encode("utf-16-le") + b"\0\0"
        rows += [(11, EV_IPL, wide, b".dtb\0"), (11, EV_IPL, wide, content)]

    assert measured_values(judged(measured(*rows))[0])[BOOT] == {
        "cmdline": Digest.of(b"one"), "cmdline.1": Digest.of(b"two"), "uki.dtb": Digest.of(b"a"), "uki.dtb.1": Digest.of(b"b"),
    }  # fmt: skip


def test_command_lines_of_loaders_are_read() -> None:
    wide = "root=/dev/vda".encode("utf-16-le") + b"\0\0"
    log = measured(
        (8, EV_IPL, b"kernel_cmdline: /vmlinuz ro\0", b"/vmlinuz ro"), (8, EV_IPL, b"grub_cmd: boot\0", b"boot"), (12, EV_IPL, wide, wide)
    )

    claims, reasons = judged(log)

    assert [(line.text, line.given_by) for line in claims.command_lines] == [("/vmlinuz ro", "grub"), ("root=/dev/vda", "stub")]
    assert reasons == []
    assert measured_values(replace(claims, registers=((4, bytes(32)),)))[BOOT] == {
        "cmdline.loader.0": Digest.of(b"/vmlinuz ro"), "cmdline.loader.1": Digest.of(wide), "other.8": Digest.of(sha(b"boot")),
    }  # fmt: skip


def test_phases_of_systemd_are_found_without_its_log() -> None:
    log = Boot().measure()
    for words in (PHASES[:4], PHASES[2:4], PHASES[2:3]):
        quoted = registers(log)
        for word in words:
            quoted[11] = sha(quoted[11] + sha(word))

        claims, reasons = judged(log, quoted)

        assert reasons == []
        assert claims.phases == tuple(word.decode() for word in words)
        assert [name for name, _ in claims.sections] == ["linux", "initrd"]


def test_userspace_log_explains_what_was_extended_since() -> None:
    log = Boot().measure()
    quoted = registers(log)
    quoted[9] = sha(quoted[9] + sha(b"nvpcr-init"))
    logged = UserspaceEvent(9, (("sha256", sha(b"nvpcr-init")),), "nvpcr-init:x", "nvpcr-init", "")

    assert judged(log, quoted)[1] == [("uefi-log-mismatch", "uefi_log.sha256.pcr9")]
    claims, reasons = judge_boot(log, quoted, "sha256", (logged,))
    assert reasons == ()
    assert claims.others == ((9, sha(b"nvpcr-init")),)


def test_confidential_guest_is_read_by_its_rtmrs() -> None:
    rows = [
        (1, EV_EFI_VARIABLE_DRIVER_CONFIG, SB_ON, SB_ON), (1, EV_SEPARATOR, bytes(4), bytes(4)),
        (1, 0x8000_0002, encode_variable(Variable(GLOBAL_VARIABLE, "BootOrder", b"\1\0\0\0")), b"\1\0\0\0"),  # hashed like an error
        (2, EV_EFI_ACTION, b"Calling EFI Application from Boot Option", b"Calling EFI Application from Boot Option"),
        (2, 0x8000_0006, b"EFI PART", b"EFI PART"), (2, EV_EFI_BOOT_SERVICES_APPLICATION, image_load("\\a"), b"a loader"),
        (3, 6, tag(LOAD_OPTIONS_TAG, b"LoadOptions\0"), b"a command line"),
    ]  # fmt: skip
    events = renumbered(UefiEvent(0, r, k, (("sha384", hashlib.sha384(hashed).digest()),), d) for r, k, d, hashed in rows)
    log = UefiLog(LogKind.CCEL, (("sha384", 48),), events, None, 0)

    claims, reasons = judge_boot(log, dict(enumerate(replay_rtmrs(log))), "sha384")

    assert reasons == ()
    assert (claims.secure_boot, len(claims.applications), len(claims.command_lines)) == (True, 1, 1)
    values = measured_values(claims)
    assert values[FIRMWARE].keys() == {"rtmr0"}
    assert values[BOOT].keys() == {"application.0", "cmdline"}


# --- Secure Boot -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "events, state",
    [
        ([SB_ON, bytes(4)], True),
        ([SB_OFF, bytes(4)], False),
        ([encode_variable(Variable(GLOBAL_VARIABLE, "SecureBoot", b"")), bytes(4)], False),  # the firmware has no such variable
        ([encode_variable(Variable(GLOBAL_VARIABLE, "SecureBoot", b"\x02")), bytes(4)], False),
        ([encode_variable(Variable(IMAGE_SECURITY, "SecureBoot", b"\x01")), bytes(4)], None),  # a variable of that name elsewhere
        ([bytes(4)], None),
        ([bytes(4), SB_ON], None),  # behind the separator the firmware no longer measures it: anyone can
        ([b"\xff" * 4, SB_ON], None),
        ([SB_OFF, bytes(4), SB_ON], False),
        ([SB_ON, bytes(4), SB_OFF], False),
        ([SB_ON, SB_ON, bytes(4)], True),
        ([SB_ON, SB_OFF, bytes(4)], False),
        ([SB_OFF, SB_ON, bytes(4)], False),
    ],
)
def test_secure_boot_is_what_the_firmware_measured(events: list[bytes], state: bool | None) -> None:
    log = measured(*((7, EV_SEPARATOR if len(data) == 4 else EV_EFI_VARIABLE_DRIVER_CONFIG, data, data) for data in events))

    assert judged(log)[0].secure_boot is state


def test_first_of_a_key_counts_and_a_second_is_among_the_others() -> None:
    first, second = (encode_variable(Variable(IMAGE_SECURITY, "db", data)) for data in (b"", b"x"))
    rows = [(7, EV_EFI_VARIABLE_DRIVER_CONFIG, data, data) for data in (first, first, second)]

    claims, reasons = judged(measured(*rows, (7, EV_SEPARATOR, bytes(4), bytes(4))))

    assert claims.variables == (("db", Variable(IMAGE_SECURITY, "db", b"")),)
    assert claims.others == ((7, sha(second)),)
    assert reasons == []


def test_authority_whose_digest_is_not_over_its_data_has_no_name() -> None:
    data = encode_variable(Variable(IMAGE_SECURITY, "db", b"a certificate"))
    claims, reasons = judged(measured((7, EV_SEPARATOR, bytes(4), bytes(4)), (7, EV_EFI_VARIABLE_AUTHORITY, data, b"something else")))

    assert [(authority.digest, authority.variable, authority.data) for authority in claims.authorities] == [
        (sha(b"something else"), "", b"")
    ]
    assert reasons == []


def test_error_separator_is_a_reason() -> None:
    log = measured((2, EV_SEPARATOR, bytes(4), bytes(4)), (7, EV_SEPARATOR, b"out of resources", b"\x01\0\0\0"))

    assert judged(log)[1] == [("uefi-measurement-error", "uefi_log.event1")]


# --- attacks -----------------------------------------------------------------------------------------------------------


def test_data_edited_beside_its_digest_is_refused() -> None:
    log = Boot(secure_boot=b"\0").measure()
    number = find(log, 7, EV_EFI_VARIABLE_DRIVER_CONFIG)

    claims, reasons = judged(edited(log, number, data=SB_ON))

    assert claims.secure_boot is False  # the digest says so
    assert reasons == [("event-digest-mismatch", f"uefi_log.event{number}")]


@pytest.mark.parametrize("kind", [EV_POST_CODE, EV_EFI_VARIABLE_AUTHORITY, EV_SEPARATOR, EV_EFI_ACTION, EV_IPL])
def test_secure_boot_off_is_not_hidden_by_another_type(kind: int) -> None:
    log = Boot(secure_boot=b"\0").measure()
    number = find(log, 7, EV_EFI_VARIABLE_DRIVER_CONFIG)

    assert judged(edited(log, number, type=kind))[0].secure_boot is False
    claims, reasons = judged(edited(log, number, type=kind, data=b"nothing"))
    assert claims.secure_boot is False
    assert reasons == [("event-digest-mismatch", f"uefi_log.event{number}")]


def test_secure_boot_is_not_turned_on_behind_a_hidden_separator() -> None:
    """Root extends SecureBoot = 1 later, and relabels the firmware's separator."""
    log = Boot(secure_boot=b"\0").measure()
    events = [*log.events, UefiEvent(len(log.events), 7, EV_EFI_VARIABLE_DRIVER_CONFIG, (("sha256", sha(SB_ON)),), SB_ON)]
    forged = replace(log, events=tuple(events))

    for number in (find(log, 7, EV_SEPARATOR), find(log, 7, EV_EFI_VARIABLE_DRIVER_CONFIG)):
        forged = edited(forged, number, type=EV_EFI_VARIABLE_AUTHORITY, data=b"x")

    assert judged(forged)[0].secure_boot is False


def test_event_turned_into_no_action_is_a_mismatch() -> None:
    log = Boot().measure()
    number = find(log, 4, EV_EFI_BOOT_SERVICES_APPLICATION)

    assert judged(edited(log, number, type=EV_NO_ACTION), registers(log))[1] == [("uefi-log-mismatch", "uefi_log.sha256.pcr4")]


@pytest.mark.parametrize("kind", [EV_EFI_ACTION, EV_ACTION, EV_SEPARATOR])
def test_application_is_not_hidden_as_an_action(kind: int) -> None:
    program = b"MZ" + bytes(300) + b"evil"
    log = Boot(loader=program).measure()
    number = find(log, 4, EV_EFI_BOOT_SERVICES_APPLICATION)

    claims, reasons = judged(edited(log, number, type=kind, data=b"Calling EFI Application from Boot Option"))
    assert [app.digest for app in claims.applications] == [sha(program)]
    assert reasons == [("event-digest-mismatch", f"uefi_log.event{number}")]

    claims, _ = judged(edited(log, number, type=kind, data=program))  # what was hashed explains the digest, and is no action
    assert [app.digest for app in claims.applications] == [sha(program)]


def test_command_line_is_not_swapped_for_one_extended_later() -> None:
    """Root boots another command line, extends the approved one later, and swaps the labels: one is too many."""
    good = Boot()
    evil = replace(good, cmdline="init=/bin/sh").measure()
    number = next(e.number for e in evil.events if e.pcr == 9 and b"LoadOptions" in e.data)
    approved = sha(good.cmdline.encode("utf-16-le") + b"\0\0")
    later = UefiEvent(len(evil.events), 9, 6, (("sha256", approved),), evil.events[number].data)
    forged = edited(replace(evil, events=(*evil.events, later)), number, type=EV_IPL, data=b"(hd0)/harmless\0")

    claims, reasons = judged(forged)

    assert reasons == []
    values = measured_values(claims)[BOOT]
    assert values["cmdline"] == Digest("sha256", approved)
    assert "other.9" in values
    assert values != measured_values(judged(good.measure())[0])[BOOT]


def test_section_is_not_given_another_name() -> None:
    log = Boot().measure()
    number = find(log, 11, EV_IPL, ".linux".encode("utf-16-le"))

    claims, _ = judged(edited(log, number, data=".initrd".encode("utf-16-le") + b"\0\0"))

    assert ("initrd", sha(b"a kernel")) not in claims.sections
    assert (11, sha(b".linux\0")) in claims.others


def test_edited_text_of_a_command_line_is_not_shown() -> None:
    claims, reasons = judged(measured((8, EV_IPL, b"kernel_cmdline: quiet ima_appraise=enforce\0", b"quiet ima_appraise=off")))

    assert [(line.digest, line.text) for line in claims.command_lines] == [(sha(b"quiet ima_appraise=off"), "")]
    assert reasons == []


def test_action_may_end_with_a_nul() -> None:
    rows = [
        (4, EV_EFI_ACTION, b"Entering ROM Based Setup\0", hashed) for hashed in (b"Entering ROM Based Setup", b"Entering ROM Based Setup\0")
    ]

    claims, reasons = judged(measured(*rows))

    assert (claims.applications, reasons) == ((), [])


def test_payload_that_is_none_leaves_the_digest() -> None:
    wide = ".linux".encode("utf-16-le") + b"\0\0"
    log = measured(
        (4, EV_EFI_BOOT_SERVICES_APPLICATION, b"no image load", b"a loader"), (9, 6, b"tag", b"a"), (9, 6, tag(1, b""), b"b"),
        (9, EV_IPL, b"a\0b\0", b"c"), (11, EV_IPL, wide, b".linux\0"),
    )  # fmt: skip

    claims, reasons = judged(log)

    assert claims.applications[0].path == ""
    assert claims.others == ((9, sha(b"a")), (9, sha(b"b")), (9, sha(b"c")), (11, sha(b".linux\0")))  # a name without its section
    assert (claims.sections, reasons) == ((), [])


def test_reordered_events_are_a_mismatch() -> None:
    log = Boot().measure()
    events = list(log.events)
    first, second = (event.number for event in events if event.pcr == 9)
    events[first], events[second] = events[second], events[first]

    assert judged(replace(log, events=renumbered(events)), registers(log))[1] == [("uefi-log-mismatch", "uefi_log.sha256.pcr9")]


def test_cut_log_is_a_mismatch_in_each_register_that_lost_events() -> None:
    log = Boot().measure()

    claims, reasons = judged(replace(log, events=log.events[:-4]), registers(log))

    assert {claim for _, claim in reasons} == {f"uefi_log.sha256.pcr{pcr}" for pcr in (5, 11)}
    assert [register for register, _ in claims.silent] == [9]  # it lost all


def test_log_without_the_events_of_a_firmware_register_is_a_mismatch() -> None:
    log = Boot().measure()
    without = replace(log, events=renumbered(event for event in log.events if event.pcr != 4))

    claims, reasons = judged(without, registers(log))

    assert reasons == [("uefi-log-mismatch", "uefi_log.sha256.pcr4")]
    assert claims.unreplayed == (4,)


def test_register_whose_events_were_cut_out_is_a_reference_value_too_many() -> None:
    """A command line that a loader passed on is measured only if there is one: without its event the log would look approved."""
    good = measured((4, EV_SEPARATOR, bytes(4), bytes(4)))
    wide = "init=/bin/sh".encode("utf-16-le") + b"\0\0"
    evil = measured((4, EV_SEPARATOR, bytes(4), bytes(4)), (12, EV_IPL, wide, wide))

    claims, reasons = judged(good, registers(evil))

    assert reasons == []
    assert claims.silent == ((12, registers(evil)[12]),)
    assert measured_values(claims)[BOOT] == {"other.12": Digest.of(registers(evil)[12])}
    assert measured_values(judged(good)[0])[BOOT] == {}


def test_added_events_are_refused_or_not_believed() -> None:
    log = Boot().measure()
    for pcr, refused in ((4, True), (9, False)):
        added = UefiEvent(len(log.events), pcr, EV_EFI_BOOT_SERVICES_APPLICATION, (("sha256", bytes(32)),), b"")
        claims, reasons = judged(replace(log, events=(*log.events, added)), registers(log))

        assert reasons == ([("uefi-log-mismatch", f"uefi_log.sha256.pcr{pcr}")] if refused else [])
        assert claims.others == ()


def test_log_for_the_quote_of_another_machine_is_a_mismatch() -> None:
    log, other = Boot().measure(), Boot(firmware=b"other", loader=b"other").measure()

    reasons = judged(log, registers(other))[1]

    assert reasons == [("uefi-log-mismatch", f"uefi_log.sha256.pcr{pcr}") for pcr in (0, 4)]


def test_other_bank_proves_nothing() -> None:
    log = Boot(banks=("sha1",)).measure()

    with pytest.raises(Misuse):
        judge_boot(log, registers(Boot().measure()), "sha256")


@given(uefi_logs(most=20), st.data())
def test_any_log_is_judged(log: UefiLog, data: st.DataObject) -> None:
    for bank in replayed_banks(log):
        quoted = dict(enumerate(replay_rtmrs(log))) if log.kind is LogKind.CCEL else replay_registers(log, bank)
        spoilt = data.draw(st.sets(st.sampled_from(sorted(quoted)))) if quoted else set()
        claims, reasons = judge_boot(log, {**quoted, **{index: b"\x01" * dict(log.banks)[bank] for index in spoilt}}, bank)

        assert {index for index, _ in claims.registers}.isdisjoint(spoilt)
        unheard = {index for index, _ in claims.silent}
        free = {3} if log.kind is LogKind.CCEL else set()  # RTMR 3 belongs to whoever runs later
        assert spoilt - free <= {*claims.unreplayed, *unheard} <= spoilt
        assert len([reason for reason in reasons if reason.code == "uefi-log-mismatch"]) == len(claims.unreplayed)
