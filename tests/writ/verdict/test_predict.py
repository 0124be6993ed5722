"""Boot values predicted from files are those that the log of the boot shows; what cannot be predicted is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.parsers import assert_parser_is_total
from tests.world.uefi_logs import Boot, image_load, registers, tag
from tests.writ.formats.pe_images import make_pe
from writ.formats.corim import encode_corim, parse_corim
from writ.formats.digest import Digest
from writ.formats.errors import FormatError
from writ.formats.eventlog.uefi import (
    EV_EFI_BOOT_SERVICES_APPLICATION,
    EV_EVENT_TAG,
    EV_IPL,
    EV_SEPARATOR,
    LogKind,
    UefiEvent,
    UefiLog,
    parse_uefi_log,
)
from writ.formats.eventlog.uefi_data import INITRD_TAG, LOAD_OPTIONS_TAG
from writ.formats.pe import parse_pe
from writ.verdict.appraise.boot import BOOT, judge_boot, measured_values
from writ.verdict.predict import MEASURED, Prediction, predict_kernel, predict_uki, prediction_corims
from writ.verdict.registers import replay_registers

KERNEL = make_pe([(".setup", b"s" * 600), (".text", b"t" * 5000)], certificates=bytes(16))
CMDLINE = "console=ttyS0 root=/dev/vda é"
INITRD = b"initrd" * 100
SBAT = b"sbat,1,SBAT Version,sbat,1,https://github.com/rhboot/shim/blob/main/SBAT.md\n"
SYSTEMD_BOOT = make_pe([(".text", b"boot"), (".sbat", SBAT + b"systemd,1,The systemd Developers,systemd,252,https://systemd.io/\n")])
SHIM = make_pe([(".text", b"shim"), (".sbat", SBAT + b"shim,4,UEFI shim,shim,1,https://github.com/rhboot/shim\n")])
GRUB = make_pe([(".text", b"grub"), (".sbat", SBAT + b"grub,4,Free Software Foundation,grub,2.06,https://www.gnu.org/software/grub/\n")])


def make_uki(version: int | None = 252, *, extra: tuple[tuple[str, bytes], ...] = (), cmdline: bytes = CMDLINE.encode()) -> bytes:
    magic = [] if version is None else [(".sdmagic", b"#### LoaderInfo: systemd-stub %d.39-1 ####\0" % version)]
    own = [(".osrel", b"ID=test\n"), (".cmdline", cmdline), (".linux", KERNEL), (".initrd", INITRD)]
    return make_pe([(".text", b"stub"), *magic, *own, *extra])


def values(prediction: Prediction, label: str = "") -> dict[str, Digest]:
    return next(dict(variant.values) for variant in prediction.variants if variant.label == (label or prediction.variants[0].label))


def logged(
    images: list[bytes], sections: tuple[str, ...], uki: bytes | None, *, loader_line: bool = False, bank: str = "sha256"
) -> dict[str, Digest]:
    """What the log of such a boot comes to, as the appraisal reads it."""
    boot = Boot(banks=(bank,))
    boot.add(4, EV_SEPARATOR, bytes(4))
    for data in images:
        digest = parse_pe(data).digest(bank).value
        boot.events.append(UefiEvent(len(boot.events), 4, EV_EFI_BOOT_SERVICES_APPLICATION, ((bank, digest),), image_load("\\x.efi")))
    line = CMDLINE.encode("utf-16-le") + b"\0\0"
    if loader_line:
        boot.add(12, EV_IPL, line)
    for name in sections:
        image = parse_pe(uki or b"")
        section = image.named(name)
        assert section is not None
        boot.add(11, EV_IPL, name.encode("utf-16-le") + b"\0\0", name.encode() + b"\0")
        boot.add(11, EV_IPL, name.encode("utf-16-le") + b"\0\0", image.content(section))
    boot.add(9, EV_EVENT_TAG, tag(LOAD_OPTIONS_TAG, b"LOADED_IMAGE::LoadOptions\0"), line)
    boot.add(9, EV_EVENT_TAG, tag(INITRD_TAG, b"Linux initrd\0"), INITRD)
    log = UefiLog(LogKind.CRYPTO_AGILE, ((bank, {"sha256": 32, "sha384": 48}[bank]),), tuple(boot.events), None, 0)
    claims, reasons = judge_boot(log, registers(log, bank), bank)
    assert reasons == ()
    return measured_values(claims)[BOOT]


# --- the same as the log ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bank", ["sha256", "sha384"])
@pytest.mark.parametrize("loaders", [[], [SYSTEMD_BOOT]], ids=["from the firmware", "through systemd-boot"])
def test_uki_is_predicted_as_its_log_shows_it(loaders: list[bytes], bank: str) -> None:
    uki = make_uki()
    prediction = predict_uki(uki, loaders=loaders, bank=bank)

    assert prediction.missing == ()
    assert values(prediction) == logged([*loaders, uki, KERNEL], (".linux", ".osrel", ".cmdline", ".initrd"), uki, bank=bank)


def test_kernel_is_predicted_as_its_log_shows_it() -> None:
    alone, loaded = (predict_kernel(KERNEL, cmdline=CMDLINE, initrd=INITRD, loaders=loaders) for loaders in ([], [SYSTEMD_BOOT]))

    assert values(alone) == logged([KERNEL], (), None)
    assert values(loaded) == logged([SYSTEMD_BOOT, KERNEL], (), None, loader_line=True)


def test_later_stub_measures_more_sections_and_may_load_the_kernel_itself() -> None:
    uki = make_uki(258, extra=((".uname", b"6.1"), (".sbat", SBAT)))
    prediction = predict_uki(uki)
    sections = (".linux", ".osrel", ".cmdline", ".initrd", ".uname", ".sbat")

    assert [variant.label for variant in prediction.variants] == ["kernel-measured", "kernel-not-measured"]
    assert values(prediction, "kernel-measured") == logged([uki, KERNEL], sections, uki)
    assert values(prediction, "kernel-not-measured") == logged([uki], sections, uki)


@pytest.mark.parametrize(
    "version, labels",
    [
        *((version, {"kernel-measured", "kernel-not-measured"}) for version in (251, 252, 254, 257, 259)),
        (253, {f"kernel-{loaded}.stub-{stub}" for loaded in ("measured", "not-measured") for stub in (252, 254)}),
        (None, {f"kernel-{loaded}.stub-{stub}" for loaded in ("measured", "not-measured") for stub in (252, 254)}),
    ],
)
def test_version_of_the_stub_says_which_variants_there_are(version: int | None, labels: set[str]) -> None:
    assert {variant.label for variant in predict_uki(make_uki(version, extra=((".uname", b"6.1"),))).variants} == labels


def test_command_line_with_spaces_around_it_has_two_ways_before_254_and_one_after() -> None:
    older, newer = (predict_uki(make_uki(version, cmdline=b" quiet\n")) for version in (252, 254))

    assert values(older, "kernel-measured.untrimmed")["cmdline"] == Digest.of(" quiet\n\0".encode("utf-16-le"))
    assert values(older, "kernel-measured.trimmed")["cmdline"] == values(newer)["cmdline"] == Digest.of("quiet\0".encode("utf-16-le"))
    assert values(newer)["uki.cmdline"] == Digest.of(b" quiet\n")


# --- what is missing -----------------------------------------------------------------------------------------------------


def missing(prediction: Prediction) -> list[str]:
    with pytest.raises(FormatError, match="every value that the boot will show"):
        prediction_corims(prediction, namespace="demo", name="boot-1")
    return [name for name, _ in prediction.missing]


def test_shim_and_grub_are_predicted_as_far_as_they_go_and_no_further() -> None:
    prediction = predict_kernel(KERNEL, cmdline=CMDLINE, initrd=INITRD, loaders=[SHIM, GRUB])

    assert [values(prediction)[f"application.{at}"] for at in range(3)] == [parse_pe(data).digest() for data in (SHIM, GRUB, KERNEL)]
    assert missing(prediction) == ["other.14", "other.8"]


@pytest.mark.parametrize("extra", [".ucode", ".pcrsig", ".pcrpkey"])
def test_initrd_that_the_stub_adds_to_is_missing(extra: str) -> None:
    assert missing(predict_uki(make_uki(255, extra=((extra, b"x"),)))) == ["initrd"]


@pytest.mark.parametrize("extra", [".profile", ".dtbauto", ".efifw", ".cmdline"])
def test_section_that_is_chosen_at_boot_is_missing(extra: str) -> None:
    assert f"uki.{extra[1:]}" in missing(predict_uki(make_uki(257, extra=((extra, b"x"),))))


def test_unknown_loader_and_absent_command_line_are_missing() -> None:
    nameless = make_pe([(".text", b"x")])
    assert missing(predict_uki(make_pe([(".linux", KERNEL)]), loaders=[nameless])) == ["cmdline", "other"]


def test_signature_of_the_pcrs_is_not_measured() -> None:
    assert ".pcrsig" not in MEASURED
    assert "uki.pcrsig" not in dict(predict_uki(make_uki(255, extra=((".pcrsig", b"{}"),))).variants[0].values)


# --- as reference values ----------------------------------------------------------------------------------------------


def test_each_variant_is_a_corim_of_its_own() -> None:
    corims = prediction_corims(predict_uki(make_uki(258)), namespace="demo", name="kernel-6.1")

    assert [(corim.id, corim.environment) for corim in corims] == [
        ("kernel-6.1.kernel-measured", "boot"), ("kernel-6.1.kernel-not-measured", "boot"),
    ]  # fmt: skip
    assert [parse_corim(encode_corim(corim)) for corim in corims] == list(corims)


def test_another_command_line_or_initrd_changes_what_is_predicted() -> None:
    whole = values(predict_uki(make_uki()))
    other = values(predict_uki(make_uki(cmdline=b"init=/bin/sh")))
    assert {name for name in whole if whole[name] != other[name]} == {"application.0", "cmdline", "uki.cmdline"}


@pytest.mark.parametrize("uki", [b"", KERNEL, make_pe([(".linux", b"no kernel")]), make_uki(cmdline=b"\xff")])
def test_file_that_is_no_uki_is_refused(uki: bytes) -> None:
    with pytest.raises(FormatError):
        predict_uki(uki)


def test_any_bytes_are_a_uki_or_a_format_error() -> None:
    assert_parser_is_total(predict_uki, make_pe([(".linux", make_pe([(".t", b"t")])), (".cmdline", b"quiet")]), flips=600, open_ended=True)


@given(st.binary(max_size=40), st.sampled_from([None, 252, 253, 258]))
def test_any_command_line_is_predicted_or_refused(cmdline: bytes, version: int | None) -> None:
    try:
        prediction = predict_uki(make_uki(version, cmdline=cmdline))
    except FormatError:
        return
    assert len({variant.label for variant in prediction.variants}) == len(prediction.variants)


def test_real_boot_of_a_uki_has_the_predicted_names(vectors: Path) -> None:
    """The files are not among the vectors; that these names and no others are shown by a stub of 252 is."""
    log = parse_uefi_log((vectors / "measured-boot/uki_esp/binary_bios_measurements").read_bytes())
    claims, _ = judge_boot(log, replay_registers(log, "sha256"), "sha256")
    shown = measured_values(claims)[BOOT]

    assert shown.keys() == values(predict_uki(make_uki(252, extra=((".sbat", SBAT), (".uname", b"6.1"))))).keys()
    line = (vectors / "measured-boot/uki_esp/cmdline.txt").read_text().removesuffix("\n")
    assert shown["cmdline"] == values(predict_uki(make_uki(cmdline=line.encode())))["cmdline"]
