"""Boot reference values, predicted from the files that a host will boot, before it boots them.

The values are those of `writ.verdict.appraise.boot` (environment `boot`), by the same names, and are compared whole. So a prediction
says what it could not predict (`missing`), and is of use only where that is nothing.

Predicted:
    application.N   Authenticode digests: the loaders in their order, then the UKI or kernel, then the kernel inside the UKI
    uki.NAME        the sections that systemd-stub measures
    cmdline         what the kernel's EFI stub measures of its command line: UTF-16 with its NUL
    cmdline.loader.0  what systemd-boot passes on for a kernel of its own (a Type 1 entry)
    initrd          the initrd as the kernel receives it

Versions differ, and where the files do not say which it is, each way is a variant:
    systemd-stub 252 to 257 has the firmware load the kernel inside, which measures it (application.N), but under Secure Boot takes the
    firmware's check out of the way and the measurement with it (seen with 252 and OVMF); later ones load it themselves unless Secure
    Boot is on and shim is there; earlier ones hand over. `.uname` and `.sbat` are measured from 254 on; 253 is both.
    A command line with control characters or spaces around it is passed on without them from 254 on; earlier is both.

Not predictable from these files, and named in `missing`:
    GRUB (each command into PCR 8, each file into PCR 9) and shim (MOK variables into PCR 14);
    loaders that no SBAT section names; UKIs with profiles, or with sections that the machine chooses among (.dtbauto, .efifw);
    an initrd to which the stub adds an archive of its own (.ucode, .pcrsig, .pcrpkey).
Taken for granted, since no file says it:
    a kernel whose EFI stub measures (initrd since Linux 5.18, command line in Debian 12's 6.1), no credentials, extensions or
    add-ons beside the UKI, no option typed or set in the loader's menu, and no drivers that the firmware starts before the loader.
QEMU's `-kernel` patches the kernel's header before the firmware hashes it: that digest is not the file's.

`firmware` and `secure-boot` are the machine's, not the files': they are captured, not predicted.

Source: systemd 252 and 257, src/boot/efi/stub.c, linux.c, fundamental/uki.h, measure.c; Linux, libstub/efi-stub-helper.c,
"efi_measure_tagged_event"; shim, README.tpm; GRUB manual, "Measured Boot"; UAPI Group, "Unified Kernel Image", SBAT.md of shim.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

from writ.formats.corim import Corim
from writ.formats.digest import Digest
from writ.formats.errors import FormatError
from writ.formats.pe import Image, parse_pe
from writ.verdict.appraise.boot import BOOT

BANKS: Final = ("sha256", "sha384")
MEASURED: Final = (".linux", ".osrel", ".cmdline", ".initrd", ".ucode", ".splash", ".dtb", ".uname", ".sbat", ".pcrpkey")
"""Sections that systemd-stub measures, in its order; `.pcrsig` signs the result and is not."""
_SINCE_254: Final = (".uname", ".sbat")
_CHOSEN: Final = (".profile", ".dtbauto", ".efifw", ".hwids")
_ADDED: Final = (".ucode", ".pcrsig", ".pcrpkey")
_STUB = re.compile(rb"#### LoaderInfo: systemd-stub ([0-9]{3})\b")
_CONTROL = re.compile("[\x01-\x1f\x7f]")
_LOADERS: Final = {
    "shim": ("other.14", "shim measures MOK variables of the machine"),
    "grub": ("other.8", "GRUB measures its commands, and the files that it reads"),
}


@dataclass(frozen=True, slots=True)
class Variant:
    """One way in which the files may be measured: values sorted by name. `label` tells it from the others, "" where it is the only one."""

    label: str
    values: tuple[tuple[str, Digest], ...]


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a boot will show, in at least one variant. `missing` is (name, why) of values that it will show and that are not predicted."""

    variants: tuple[Variant, ...]
    missing: tuple[tuple[str, str], ...]


def predict_uki(uki: bytes, *, loaders: Sequence[bytes] = (), bank: str = "sha256") -> Prediction:
    """What booting a unified kernel image will show, started by the firmware or through `loaders` in their order.

    1. Loaders and UKI, as the firmware hashes them.
    2. The sections that the stub measures, by its version.
    3. Command line and initrd, as the kernel inside receives them.
    4. The kernel inside, where the stub has the firmware load it.

    Raises FormatError for a file that is no PE image, or no UKI.
    """
    image = parse_pe(uki, "UKI")
    kernel = image.named(".linux")
    if kernel is None:
        raise FormatError("UKI", "a section .linux", "none")
    version = _stub_version(image)
    # 1
    values, missing = _applications(loaders, bank)
    values[f"application.{len(loaders)}"] = image.digest(bank)
    # 2
    names = [section.name for section in image.sections]
    chosen = sorted({name for name in names if name in _CHOSEN or (name in MEASURED and names.count(name) > 1)})
    missing += [(f"uki.{name[1:]}", "the machine, or whoever boots it, chooses among sections") for name in chosen]
    sections = {name: image.content(section) for name in MEASURED if (section := image.named(name)) is not None}
    values |= {f"uki.{name[1:]}": Digest.of(content, bank) for name, content in sections.items()}
    # 3
    line = sections.get(".cmdline")
    if line is None:
        missing.append(("cmdline", "the UKI has no command line of its own"))
    if ".initrd" in sections:
        values["initrd"] = Digest.of(sections[".initrd"], bank)
    if added := [name for name in _ADDED if name in names]:
        missing.append(("initrd", f"the stub adds an archive for {' '.join(added)}"))
    # 4
    inner = parse_pe(sections[".linux"], "kernel in the UKI").digest(bank)
    variants = []
    for label, loaded, recent, trimmed in _ways(version, sections):
        made = dict(values)
        if line is not None:
            made["cmdline"] = command_line(_text(line, trimmed=trimmed), bank)
        if loaded:
            made[f"application.{len(loaders) + 1}"] = inner
        for name in _SINCE_254 if not recent else ():
            made.pop(f"uki.{name[1:]}", None)
        variants.append(Variant(label, tuple(sorted(made.items()))))
    return Prediction(tuple(variants), tuple(sorted(missing)))


def predict_kernel(
    kernel: bytes, *, cmdline: str, initrd: bytes | None = None, loaders: Sequence[bytes] = (), bank: str = "sha256"
) -> Prediction:
    """What booting a kernel with an EFI stub will show: started by the firmware, or through `loaders` in their order.

    `cmdline` is exactly what the kernel is given. Through GRUB the command line
    and initrd are measured by GRUB as well, which is missing. Raises FormatError.
    """
    values, missing = _applications(loaders, bank)
    values[f"application.{len(loaders)}"] = parse_pe(kernel, "kernel").digest(bank)
    values["cmdline"] = command_line(cmdline, bank)
    if initrd is not None:
        values["initrd"] = Digest.of(initrd, bank)
    if loaders and not missing and cmdline:
        values["cmdline.loader.0"] = values["cmdline"]
    return Prediction((Variant("", tuple(sorted(values.items()))),), tuple(sorted(missing)))


def prediction_corims(prediction: Prediction, *, namespace: str, name: str, valid_until: int | None = None) -> tuple[Corim, ...]:
    """One CoRIM for each variant, named `name` and the variant's label. Raises FormatError where something is missing."""
    if prediction.missing:
        raise FormatError(
            "prediction", "every value that the boot will show", f"none for {prediction.missing[0][0]}: {prediction.missing[0][1]}"
        )
    return tuple(
        Corim(f"{name}.{variant.label}" if variant.label else name, namespace, BOOT, variant.values, valid_until=valid_until)
        for variant in prediction.variants
    )


def command_line(text: str, bank: str = "sha256") -> Digest:
    """What the kernel extends for its command line: UTF-16LE with its NUL. Raises FormatError for text that has no such form."""
    try:
        return Digest.of(text.encode("utf-16-le") + b"\0\0", bank)
    except UnicodeEncodeError:
        raise FormatError("command line", "text without lone surrogates", "one") from None


def _applications(loaders: Sequence[bytes], bank: str) -> tuple[dict[str, Digest], list[tuple[str, str]]]:
    """The digests of the loaders, and what they measure that is not predicted."""
    if bank not in BANKS:
        raise FormatError("bank", " or ".join(BANKS), bank[:40])
    values: dict[str, Digest] = {}
    missing: list[tuple[str, str]] = []
    for number, data in enumerate(loaders):
        image = parse_pe(data, f"loader {number}")
        values[f"application.{number}"] = image.digest(bank)
        sbat = image.named(".sbat")
        makers = {line.split(b",")[0] for line in image.content(sbat).splitlines()} if sbat is not None else set()
        found = [row for maker, row in _LOADERS.items() if maker.encode() in makers]
        missing += found
        if not found and b"systemd-boot" not in makers and b"systemd" not in makers:
            missing.append(("other", f"no SBAT section says what loader {number} is, and what it measures"))
    return values, missing


def _stub_version(image: Image) -> int | None:
    magic = image.named(".sdmagic")
    found = _STUB.search(image.content(magic)) if magic is not None else None
    return int(found[1]) if found else None


def _ways(version: int | None, sections: dict[str, bytes]) -> Iterator[tuple[str, bool, bool, bool]]:
    """(label, kernel inside measured, `.uname` and `.sbat` measured, command line trimmed) for each way that may be."""
    older = version is None or version < 254
    recents = (True, False) if version in (None, 253) and any(name in sections for name in _SINCE_254) else (not older or version is None,)
    line = sections.get(".cmdline", b"")
    trims = (True, False) if older and _text(line) != _text(line, trimmed=True) else (True,)
    for loaded, recent, trimmed in product((True, False), recents, trims):
        words = [
            "kernel-measured" if loaded else "kernel-not-measured",
            *(["stub-254" if recent else "stub-252"] if len(recents) > 1 else []),
            *(["trimmed" if trimmed else "untrimmed"] if len(trims) > 1 else []),
        ]
        yield ".".join(words), loaded, recent, trimmed


def _text(content: bytes, *, trimmed: bool = False) -> str:
    """A command line as the stub passes it on: to its NUL; trimmed, with spaces for control characters and none around it.

    Raises FormatError for bytes that are not UTF-8.
    """
    try:
        text = content.partition(b"\0")[0].decode("utf-8")
    except UnicodeDecodeError:
        raise FormatError("UKI section .cmdline", "UTF-8", "bytes that are not") from None
    return _CONTROL.sub(" ", text).strip(" ") if trimmed else text
