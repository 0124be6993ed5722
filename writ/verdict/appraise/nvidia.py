"""NVIDIA GPUs and NVSwitches: genuine, fresh, in a confidential mode, and measured as their vendor says?

What a report proves is that a device, whose identity NVIDIA certified, measured these values after it was asked with this nonce. What it
does not prove: that the device is in this host (nothing in it names the host; the nonce is bound where it is derived), that anything uses
it, or that it runs no DevTools mode: a report has no field for that. A device in debug is refused by its certificate where that speaks, and
one whose host says so; that its firmware is the released one is for the RIMs.

Source: NVIDIA attestation-sdk (gpu and switch verify.cpp, evidence.cpp) and nvtrust (local_gpu_verifier); DMTF DSP0274 1.1.1; TCG DICE
Attestation Architecture 1.1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias, TypeVar

from writ.formats.crl import Crl
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Misuse, Refused
from writ.formats.ocsp import OcspResponse
from writ.formats.reason import Reason
from writ.formats.tee.dice import DEBUG, NOT_SECURE, RECOVERY, TcbInfo, tcb_info
from writ.formats.tee.nvidia import DeviceEvidence, Field, Opaque, gpu_vbios
from writ.formats.tee.rim import Rim, SvnFloor
from writ.formats.trust import ChainRules
from writ.formats.x509 import Certificate
from writ.verdict.path import PathRules, VerifiedPath, verify_path
from writ.verdict.revocation import PathReasons, Statement
from writ.verdict.rim import VerifiedRim, is_p384_signed, verify_rim

_T = TypeVar("_T")
_Compared: TypeAlias = tuple[tuple[str, ...], tuple[int, ...]]

LEVELS: Final = 5
"""Certificates of a device chain: attestation key, device, provisioner, architecture, root. A device certifies no CA."""
MODES: Final = {0: "SPT", 1: "MPT", 2: "PPCIE"}
"""Feature flag -> the confidential mode: single or multi GPU passthrough, protected PCIe."""

_ENABLED: Final = b"\xaa"
_DISABLED: Final = b"\x55"
_NVDEC0_INDEX: Final = 35
"""Measured only where NVDEC0 is enabled."""
_SVN_KIND: Final = 0x87
_FAULTS: Final = {DEBUG: "debug", RECOVERY: "recovery", NOT_SECURE: "not secure"}
_COMMON_NAME: Final = re.compile(r"(?:\A|(?<!\\),)CN=([^,+\\]{1,64})(?:\Z|,)")


@dataclass(frozen=True, slots=True)
class _Architecture:
    """A generation: how the certificates of its devices are named, and its RIMs. `driver` is None where there is no driver to measure."""

    name: str
    model: re.Pattern[str]
    product: str
    driver: str | None


_ARCHITECTURES: Final = (
    _Architecture("HOPPER", re.compile(r"GH1\d\d [A-Z]\d\d [FG]SP BROM\Z"), "GH", "NV_GPU_DRIVER_GH100"),
    _Architecture("BLACKWELL", re.compile(r"GB[12]\d\d [A-Z]\d\d [FG]SP BROM\Z"), "GB", "NV_GPU_CC_DRIVER_GB100"),
    _Architecture("LS10", re.compile(r"LS_10 [A-Z]\d\d FSP BROM\Z"), "", None),
)
_RULES: Final = ChainRules()
_SWITCH_BIOS: Final = "NV_SWITCH_BIOS_5612_0002_890"


@dataclass(frozen=True, slots=True)
class NamedRim:
    """A RIM under the id by which it is kept; the id is no part of what is signed."""

    name: str
    rim: Rim


@dataclass(frozen=True, slots=True)
class NvidiaPolicy:
    """What is asked of a set of devices.

    `nonce` is the one that all answer; None: freshness is not judged. `modes` are the confidential modes that are taken; `mode_required`:
    a GPU whose report says none is refused, otherwise a note says so. `rims_required`: without RIMs no device is taken. `distinct`: a
    report that comes twice is refused, otherwise it counts once and a note says so.
    """

    device_roots: tuple[Certificate, ...]
    rim_roots: tuple[Certificate, ...]
    nonce: bytes | None
    rules: ChainRules = _RULES
    modes: frozenset[str] = frozenset(MODES.values())
    mode_required: bool = True
    rims_required: bool = True
    distinct: bool = True


@dataclass(frozen=True, slots=True)
class NvidiaCollateral:
    """What was fetched before, parsed: RIMs, and what says what is revoked."""

    rims: tuple[NamedRim, ...] = ()
    crls: tuple[Crl, ...] = ()
    responses: tuple[OcspResponse, ...] = ()


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """What is known of one device, as far as it was judged. `device` is the digest of its identity's key, by which it is one and the same.

    `measurements` are by the index of the SPDM block, from 1. `mode` is None where the report does not say. `rims` are the ids of those
    that it was compared with, and `differing` the blocks that are not as they say. `root` is None where no path led to one.
    """

    measurements: Mapping[int, bytes]
    nonce: bytes
    model: str | None = None
    architecture: str | None = None
    driver: str | None = None
    vbios: str | None = None
    firmware: bytes | None = None
    mode: str | None = None
    device: Digest | None = None
    root: str | None = None
    rims: tuple[str, ...] = ()
    differing: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class NvidiaAppraisal:
    """The verdict on a set: no reason means that all are accepted. `statements` is what was known about revocation, `notes` what was not
    judged; both are sorted and each stands once."""

    devices: tuple[DeviceFacts, ...]
    reasons: tuple[Reason, ...]
    notes: tuple[Reason, ...]
    statements: tuple[Statement, ...]


def judge_nvidia(devices: Sequence[DeviceEvidence], collateral: NvidiaCollateral, policy: NvidiaPolicy, *, at: int) -> NvidiaAppraisal:
    """Every one of `devices` is a genuine device that answered `policy.nonce`, in a confidential mode and measured as NVIDIA says, at `at`.

    Each on its own (DSP0274 1.1.1 for 1 to 3, DICE for 4):

    1. The chain leads to a root of `policy.device_roots`: five certificates, none expired or revoked (`verify_path`). Its lowest is no CA.
    2. The signature over request and response is by the key of that one.
    3. The nonce of the request is `policy.nonce`, and the one that the file states.
    4. The firmware that the key was certified for is the one that the report names; it is neither insecure, in recovery nor in debug.
    5. Model, driver and VBIOS are what the file states.
    6. The mode of a GPU is one of `policy.modes`, and the host says nothing else.
    7. Of the RIMs for this driver and this VBIOS the signature holds (`verify_rim`), no block is named by both, and each block that they
       name has a value that they name; a security version is at least theirs. Where 1 or 2 fails nothing is compared.

    And together:

    8. All answer one nonce.
    9. No device stands twice, under one report or two.
    """
    if not devices:
        raise Misuse("judge_nvidia needs a device")
    judge = _Judge(collateral, policy, at)
    facts = [judge.device(device, f"devices[{index}]") for index, device in enumerate(devices)]
    # 8
    if len(nonces := {one.nonce for one in facts}) > 1:
        judge.refuse("nonce-mismatch", "devices", "one nonce for all devices", f"{len(nonces)}")
    # 9
    first: dict[Digest, int] = {}
    for index, one in enumerate(facts):
        if one.device is None or (earlier := first.setdefault(one.device, index)) == index:
            continue
        same = devices[index].report.measurements.signed == devices[earlier].report.measurements.signed
        reason = Reason("nvidia-device-repeated", f"devices[{index}]", "each device once", f"the one of devices[{earlier}]")
        (judge.notes if same and not policy.distinct else judge.reasons).add(reason)
    statements = sorted(judge.statements, key=lambda one: (str(one.digest), one.this_update))
    return NvidiaAppraisal(tuple(facts), tuple(sorted(judge.reasons)), tuple(sorted(judge.notes)), tuple(statements))


@dataclass(slots=True)
class _Judge:
    """One appraisal: what it found so far. A RIM is verified once, however many devices it is for."""

    collateral: NvidiaCollateral
    policy: NvidiaPolicy
    at: int
    reasons: set[Reason] = field(default_factory=set)
    notes: set[Reason] = field(default_factory=set)
    statements: set[Statement] = field(default_factory=set)
    verified: dict[int, VerifiedRim | Refused] = field(default_factory=dict)

    def refuse(self, code: str, claim: str, expected: str, got: str) -> None:
        self.reasons.add(Reason(code, claim, expected[:200], got[:200]))

    def device(self, device: DeviceEvidence, claim: str) -> DeviceFacts:
        """Steps 1 to 7 for one device."""
        measured, opaque = device.report.measurements, device.report.opaque
        measurements = {block.index: block.value for block in measured.blocks}
        leaf = next((one for one in device.chain if not one.is_ca), device.chain[0])
        # 1
        path = self._path(leaf, device.chain, claim)
        above = path.certificates[1] if path else next((one for one in device.chain if one.subject == leaf.issuer), None)
        # 2
        signed = is_p384_signed(measured.signed, measured.signature, leaf)
        if not signed:
            self.refuse("signature-invalid", f"{claim}.signature", "a signature of the report by the attestation key", "another")
        # 3
        for wanted in (self.policy.nonce, device.nonce):
            if wanted is not None and wanted != measured.nonce:
                self.refuse("nonce-mismatch", f"{claim}.nonce", wanted.hex(), measured.nonce.hex())
        # 4
        firmware = self._firmware(leaf, opaque, claim)
        # 5
        model = _model(above)
        architecture = self._architecture(model, claim)
        driver, vbios = self._names(device, architecture, claim)
        # 6
        mode = self._mode(device, architecture, claim)
        # 7
        compared: _Compared = ((), ())
        if path is not None and signed and architecture is not None:
            compared = self._compare(measurements, _wanted(driver, vbios, opaque, architecture), opaque, claim)
        return DeviceFacts(
            measurements, measured.nonce, model, None if architecture is None else architecture.name, driver, vbios, firmware, mode,
            None if above is None else Digest.of(above.spki), None if path is None else path.anchor.subject_text, *compared,
        )  # fmt: skip

    def _path(self, leaf: Certificate, chain: Sequence[Certificate], claim: str) -> VerifiedPath | None:
        claim = f"{claim}.cert_chain"
        if leaf.is_ca or leaf.signs_certificates:
            self.refuse("certificate-refused", claim, "the certificate of an attestation key, which is no CA", "CAs alone")
            return None
        reasons = PathReasons("certificate-refused", "certificate-expired", "certificate-revoked", claim)
        roots = self.policy.device_roots
        rules = PathRules(self.policy.rules, issues_crls=False, depth=LEVELS - 2, reasons=reasons)
        try:
            path = verify_path(
                leaf, (*chain, *roots), {Digest.of(root.der) for root in roots}, at=self.at, rules=rules, crls=self.collateral.crls,
                responses=self.collateral.responses,
            )  # fmt: skip
        except Refused as refused:
            self.reasons.update(refused.reasons)
            return None
        self.notes.update(Reason(note.code, "cert_chain", note.expected, note.got) for note in path.notes)
        self.statements.update(path.statements)
        return path

    def _firmware(self, leaf: Certificate, opaque: Opaque, claim: str) -> bytes | None:
        """The firmware that the key was certified for, held against the report."""
        try:
            info = tcb_info(leaf) or TcbInfo((), frozenset())
        except FormatError as error:
            self.refuse("nvidia-firmware-mismatch", f"{claim}.cert_chain", error.expected, error.got)
            return None
        firmware = info.firmware[0] if info.firmware else None
        named = opaque.value(Field.FWID)
        if firmware is None or named not in (None, firmware):
            expected = "a digest in the certificate" if named is None else named.hex()
            self.refuse("nvidia-firmware-mismatch", f"{claim}.firmware", expected, "none" if firmware is None else firmware.hex())
        if faults := [name for bit, name in _FAULTS.items() if bit in info.flags]:
            self.refuse("nvidia-debug", f"{claim}.flags", "none of debug, recovery, not secure", ", ".join(faults))
        return firmware

    def _architecture(self, model: str | None, claim: str) -> _Architecture | None:
        found = next((one for one in _ARCHITECTURES if one.model.match(model or "")), None)
        if found is None:
            names = ", ".join(one.name for one in _ARCHITECTURES)
            self.refuse("nvidia-model-mismatch", f"{claim}.model", f"a device of {names}", model or "none")
        return found

    def _names(self, device: DeviceEvidence, architecture: _Architecture | None, claim: str) -> tuple[str | None, str | None]:
        """Driver and VBIOS as the report names them, held against what the file states."""
        opaque = device.report.opaque
        driver = self._read(claim, lambda: opaque.text(Field.DRIVER_VERSION))
        is_gpu = architecture is None or architecture.driver is not None
        vbios = self._read(claim, lambda: gpu_vbios(opaque) if is_gpu else opaque.text(Field.VBIOS_VERSION))
        found = architecture and architecture.name
        for name, stated, reported in (("model", device.arch, found), ("driver", device.driver, driver), ("vbios", device.vbios, vbios)):
            if stated is not None and stated.upper() != (reported or "").upper():
                self.refuse("nvidia-model-mismatch", f"{claim}.{name}", reported or "none, as the device says", stated)
        return driver, vbios

    def _mode(self, device: DeviceEvidence, architecture: _Architecture | None, claim: str) -> str | None:
        """The mode of a GPU by its feature flag; before there was one, by the protected PCIe status alone. A switch has none."""
        claim = f"{claim}.mode"
        if device.cc_mode in ("off", "devtools"):
            self.refuse("nvidia-mode-refused", claim, "CC mode on", device.cc_mode)
        if architecture is None or architecture.driver is None:
            return None
        opaque = device.report.opaque
        flag, status = self._read(claim, lambda: opaque.number(Field.FEATURE)), opaque.value(Field.PROTECTED_PCIE)
        if status not in (None, _ENABLED, _DISABLED) or (flag is not None and flag not in MODES):
            self.refuse("nvidia-mode-refused", claim, "a mode that is known", f"feature {flag}, protected PCIe {(status or b'').hex()}")
            return None
        mode = MODES[flag] if flag is not None else MODES[2] if status == _ENABLED else None
        if status == _ENABLED and mode != MODES[2]:
            self.refuse("nvidia-mode-refused", claim, f"{MODES[2]}, as protected PCIe is enabled", mode or "none")
        if mode is None:
            unproven = Reason("nvidia-mode-unproven", claim, "a feature flag in the report", device.cc_mode or "none")
            (self.reasons if self.policy.mode_required else self.notes).add(unproven)
        elif mode not in self.policy.modes:
            self.refuse("nvidia-mode-refused", claim, " or ".join(sorted(self.policy.modes)), mode)
        return mode

    def _read(self, claim: str, read: Callable[[], _T]) -> _T | None:
        """What `read` reads of the opaque data; None, and a reason, where it is not as it should be."""
        try:
            return read()
        except FormatError as error:
            self.refuse("malformed", f"{claim}.{error.what}", error.expected, error.got)
            return None

    # --- RIMs -------------------------------------------------------------------------------------------------------------

    def _compare(self, measurements: Mapping[int, bytes], wanted: Iterable[_Wanted], opaque: Opaque, claim: str) -> _Compared:
        """The RIMs that the device was compared with, and the blocks that differ."""
        if not self.collateral.rims and not self.policy.rims_required:
            self.notes.add(Reason("nvidia-rim-missing", "measurements", "RIMs, to judge what was measured", "none"))
            return (), ()
        skipped = {_NVDEC0_INDEX} if opaque.value(Field.NVDEC0_STATUS) == _DISABLED else set()
        chosen = [found for one in wanted if (found := self._chosen(one, measurements, skipped, claim))]
        differing: set[int] = set()
        for one in chosen:
            if wrong := _differing(one.rim, measurements, skipped):
                differing |= wrong
                shown = ", ".join(map(str, sorted(wrong)))
                self.refuse("nvidia-measurement-mismatch", f"{claim}.measurements", f"what {one.name} names", f"others in blocks {shown}")
            for floor in one.rim.floors:
                if not _holds(floor, opaque):
                    shown = (opaque.value(floor.field) or b"").hex() or "none"
                    self.refuse("nvidia-svn-low", f"{claim}.{floor.name}", f"at least {floor.least}, as {one.name} says", shown)
        if len(chosen) == 2 and (both := _common(chosen[0].rim, chosen[1].rim)):
            self.refuse("nvidia-rim-refused", f"{claim}.rims", "no index in two RIMs", ", ".join(map(str, both)))
        return tuple(one.name for one in chosen), tuple(sorted(differing))

    def _chosen(self, wanted: _Wanted, measurements: Mapping[int, bytes], skipped: set[int], claim: str) -> NamedRim | None:
        """The RIM for a driver or VBIOS: of those that are named best one that holds, and rather one that the values are of.

        RIMs of one version for several boards differ by their id alone, which nobody signs: each is the vendor's word about that version.
        One that does not hold is compared as well, so that the reasons say what differs.
        """
        rims = self.collateral.rims
        fitting = [index for index, one in enumerate(rims) if wanted.fits(one.rim)]
        if not fitting:
            self.refuse("nvidia-rim-missing", f"{claim}.{wanted.what}", wanted.id, "none for it")
            return None
        best = min(wanted.rank(rims[index].name) for index in fitting)
        fitting = [index for index in fitting if wanted.rank(rims[index].name) == best]
        fitting.sort(key=lambda index: len(_differing(rims[index].rim, measurements, skipped)))
        for index in fitting:
            if isinstance(verified := self._verified(index), VerifiedRim):
                self.notes.update(Reason(note.code, "rims", note.expected, note.got) for note in verified.notes)
                self.statements.update(verified.statements)
                return rims[index]
        if isinstance(refused := self._verified(fitting[0]), Refused):
            self.reasons.update(refused.reasons)
        return rims[fitting[0]]

    def _verified(self, index: int) -> VerifiedRim | Refused:
        if index not in self.verified:
            one = self.collateral.rims[index]
            try:
                self.verified[index] = verify_rim(
                    one.rim, self.policy.rim_roots, at=self.at, claim=f"rims.{one.name}", rules=self.policy.rules,
                    crls=self.collateral.crls, responses=self.collateral.responses,
                )  # fmt: skip
            except Refused as refused:
                self.verified[index] = refused
        return self.verified[index]


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A RIM that a report asks for: of which driver or VBIOS, under which id, for which product ("" for any)."""

    what: str
    id: str
    version: str | None
    product: str

    def fits(self, rim: Rim) -> bool:
        """Whether what is signed says that it is for this version and product."""
        return self.version is not None and rim.version.upper() == self.version.upper() and rim.product.upper().startswith(self.product)

    def rank(self, name: str) -> int:
        """How well a RIM is named: by the id, with more or less beside it, or otherwise. Lower is better."""
        if name.upper() == self.id.upper():
            return 0
        return 1 if self.id.upper().removeprefix("NV_GPU_VBIOS_") in name.upper() else 2


def _model(above: Certificate | None) -> str | None:
    """The common name of the device's certificate, which the vendor made: "GH100 A01 GSP BROM"."""
    match = None if above is None else _COMMON_NAME.search(above.subject_text)
    return match[1] if match else None


def _wanted(driver: str | None, vbios: str | None, opaque: Opaque, architecture: _Architecture) -> Iterator[_Wanted]:
    compact = (vbios or "none").replace(".", "").upper()
    if architecture.driver is None:
        yield _Wanted("vbios", f"{_SWITCH_BIOS}_{compact}", vbios, "")
        return
    yield _Wanted("driver", f"{architecture.driver}_{driver or 'none'}", driver, architecture.product)
    board = "_".join(_board_part(opaque, part) for part in (Field.PROJECT, Field.PROJECT_SKU, Field.CHIP_SKU))
    yield _Wanted("vbios", f"NV_GPU_VBIOS_{board}_{compact}", vbios, architecture.product)


def _board_part(opaque: Opaque, part: int) -> str:
    try:
        return opaque.text(part) or "none"
    except FormatError:
        return "none"


def _differing(rim: Rim, measurements: Mapping[int, bytes], skipped: set[int]) -> set[int]:
    """The blocks, from 1, that have no value that `rim` names for them."""
    return {index + 1 for index, values in rim.measurements.items() if index not in skipped and measurements.get(index + 1) not in values}


def _common(one: Rim, other: Rim) -> list[int]:
    fields = {floor.field for floor in one.floors} & {floor.field for floor in other.floors}
    return sorted((set(one.measurements) & set(other.measurements)) | fields)


def _holds(floor: SvnFloor, opaque: Opaque) -> bool:
    """Whether the field states a security version, and one that is no less."""
    found = opaque.fields.get(floor.field)
    return found is not None and found.kind == _SVN_KIND and len(found.value) == 2 and int.from_bytes(found.value, "little") >= floor.least
