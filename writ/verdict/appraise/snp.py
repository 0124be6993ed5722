"""AMD SEV-SNP: is this report by a genuine secure processor, of a guest that nobody outside can look into?

What is proven: a key that AMD certified for this TCB, of this chip (VCEK) or of this cloud (VLEK), signed the report; AMD's firmware
wrote what stands in it, and with it what the guest put into `report_data`. What is not: that the measurement is a good one (compare
with reference values), that the guest still runs, that a chip whose host hides its id is one of ours, or that a cloud to which AMD
leases a VLEK uses it on its own machines only. A signature says the same with s and with n - s: a report is known by what is signed.

The chip has three minds about its TCB. *Current* runs now, *committed* is what it cannot go back behind, *reported* is what its host
chose to show and what the key is derived for; *launch* was current when the guest began. A floor binds all four, or a host could run
good firmware for the report and go back to the old one behind it.

Source: AMD SEV-SNP Firmware ABI Specification (56860) revision 1.58, sections 2.2, 3.3, 4.3, 7.3; VCEK and KDS specification (57230)
revision 1.00, section 3.1.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from writ.formats.crl import Crl
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Refused
from writ.formats.reason import Reason
from writ.formats.tee.snp import HOST, Firmware, SnpReport, Tcb, parse_tcb
from writ.formats.tee.vek import Vek
from writ.formats.trust import ChainRules
from writ.formats.x509 import Certificate
from writ.formats.x509_key import certificate_key
from writ.verdict.path import PathRules, VerifiedPath, verify_path
from writ.verdict.revocation import Statement

REPORT_DATA_SIZE: Final = 64
_DEPTH: Final = 1
"""CAs between a VEK and its ARK."""
_COMMON_NAME: Final = re.compile(r"(?:^|,)CN=([A-Za-z0-9-]+)(?:,|$)")
_CPUS: Final = (
    (0x19, 0x00, 0x0F, "Milan"),
    (0x19, 0x10, 0x1F, "Genoa"),
    (0x19, 0xA0, 0xAF, "Genoa"),
    (0x1A, 0x00, 0x1F, "Turin"),
)
"""Family, first and last model, product line (processor programming references of the families 19h and 1Ah)."""
_UNSTATED: Final = Firmware(0, 0, 0)
"""The version of firmware that did not state it yet."""
_AT_HAND: Final = ChainRules()


@dataclass(frozen=True, slots=True)
class SnpPolicy:
    """Which guests and platforms are accepted. The defaults refuse what lets somebody outside look in, and ask for nothing else.

    `debug` and `migration` accept a guest whose policy permits them. `smt` False, `single_socket` and `page_swap_off` want them so in the
    guest's policy, `ciphertext_hiding` there or in force on the platform; `abi` is the least that the guest's policy may ask for.
    `vmpls` are the levels that a report may be of. `keys` are the kinds of key, `clouds` whose VLEK (None: anybody's). `products` are
    lines or names as certificates state them ("Milan", "Milan-B0"); None for all. `floors` is the least TCB of each line that has one,
    `firmware` the least version; `committed` wants no firmware that could still be taken back; `aliases_checked` and `mitigations` (a
    vector that must be in force at launch and now) are known from versions of the firmware on. `host_data`, `family_id`, `image_id`,
    `measurements`, `id_keys` and `author_keys` (SHA-384 of a key as the firmware has it) are each as wanted, or None; `guest_svn` is the
    least. `revocation` says whether a CRL must be at hand of what certifies the key, and how old it may be.
    """

    debug: bool = False
    migration: bool = False
    smt: bool = True
    single_socket: bool = False
    page_swap_off: bool = False
    ciphertext_hiding: bool = False
    abi: tuple[int, int] = (0, 0)
    vmpls: frozenset[int] = frozenset({0})
    keys: frozenset[str] = frozenset({"VCEK", "VLEK"})
    clouds: frozenset[str] | None = None
    products: frozenset[str] | None = None
    floors: tuple[tuple[str, Tcb], ...] = ()
    firmware: Firmware = _UNSTATED
    committed: bool = False
    aliases_checked: bool = False
    mitigations: int = 0
    guest_svn: int = 0
    host_data: bytes | None = None
    family_id: bytes | None = None
    image_id: bytes | None = None
    measurements: frozenset[bytes] | None = None
    id_keys: frozenset[bytes] | None = None
    author_keys: frozenset[bytes] | None = None
    revocation: ChainRules = _AT_HAND


@dataclass(frozen=True, slots=True)
class AppraisedReport:
    """What `appraise_report` found. `reasons` is empty where the report is accepted.

    `line` is the product line, `chain` the subject of the anchor, `chip_id` the chip of the VCEK (64 bytes) or what a report under a VLEK
    says, None where nobody says it; `cloud` is whose VLEK it is. The TCBs are read in the layout of the line. `notes` say what was not
    known about revocation, `statements` what was, with dates.
    """

    report: SnpReport
    key: str
    product: str
    line: str
    chain: str
    chip_id: bytes | None
    cloud: str | None
    reported: Tcb
    current: Tcb
    committed: Tcb
    launch: Tcb
    statements: tuple[Statement, ...]
    notes: tuple[Reason, ...]
    reasons: tuple[Reason, ...]


def appraise_report(
    report: SnpReport,
    vek: Vek,
    authorities: Sequence[Certificate],
    anchors: Collection[Digest],
    policy: SnpPolicy,
    *,
    at: int,
    report_data: bytes | None,
    crls: Sequence[Crl] = (),
) -> AppraisedReport:
    """AMD's firmware made `report` under the key of `vek`, which leads over `authorities` to one of `anchors`; and how it fits `policy`.

    `report_data` is what the guest was to bind, of at most 64 bytes and followed by zeros; None where nothing is asked for. Up to step 5
    the first fault ends it, from there on every reason is in the result.

    1. The report is signed at all, by a key of the kind that `vek` is (56860 7.3, SIGNING_KEY and MASK_CHIP_KEY).
    2. `vek` chains to an anchor, valid at `at` and not revoked. AMD publishes CRLs of the CAs, and none of VEKs: those go with their TCB.
    3. The CAs are those of the product that `vek` names, and of its kind; the processor in the report is of that line.
    4. `vek` is of the chip (VCEK, where the report names one) and of the reported TCB, byte for byte (57230 3.1).
    5. The signature over the first 0x2a0 bytes verifies: ECDSA on P-384 with SHA-384.
    6. The report answers `report_data`.
    7. The guest's policy, its level, identity and host data (56860 4.3).
    8. The four TCBs and the firmware fit together, and reach the floors (56860 3.3).

    Raises Refused `snp-unsigned`, `snp-key-mismatch` (1), as `verify_path` (2), `snp-product-mismatch` (3), `snp-chip-mismatch` and
    `snp-tcb-mismatch` (4) or `signature-invalid` (5).
    """
    # 1
    _judge_key(report, vek)
    # 2
    rules = PathRules(policy.revocation, issues_crls=False, depth=_DEPTH)
    path = verify_path(vek.certificate, authorities, anchors, at=at, rules=rules, crls=crls)
    # 3
    _judge_product(report, vek, path)
    # 4
    _judge_binding(report, vek)
    # 5
    if not is_signed_by(report, vek):
        raise _refused("signature-invalid", "signature", f"a signature by the {vek.kind}", "another")
    # 6, 7, 8
    judge = _Judge(report, vek, policy)
    judge.answer(report_data)
    judge.platform_accepted()
    judge.guest()
    judge.identity()
    judge.tcbs()
    judge.firmware()
    return AppraisedReport(
        report,
        vek.kind,
        vek.product,
        vek.line,
        path.anchor.subject_text,
        vek.chip_id or (report.chip_id if report.has_chip_id else None),
        vek.csp,
        judge.reported,
        judge.current,
        judge.committed,
        judge.launch,
        path.statements,
        path.notes,
        tuple(sorted(set(judge.reasons))),
    )


def order_veks(report: SnpReport, veks: Iterable[Vek]) -> list[Vek]:
    """Those of `veks` that may have signed `report`, the likeliest first: by kind, chip and TCB. Says nothing of their chains."""

    def misfits(vek: Vek) -> tuple[bool, bool, bool]:
        return vek.kind != report.signing_key, vek.chip_id not in (None, report.chip_id), vek.tcb != report.reported_tcb

    return sorted(veks, key=misfits)


def _refused(code: str, claim: str, expected: str, got: str) -> Refused:
    return Refused(Reason(code, claim, expected, got))


def _judge_key(report: SnpReport, vek: Vek) -> None:
    if report.signing_key == "none" or report.mask_chip_key or not (report.r or report.s):
        got = "none asked for" if report.signing_key == "none" else "MASK_CHIP_KEY" if report.mask_chip_key else "zeros"
        raise _refused("snp-unsigned", "signing_key", "a signature by a VCEK or VLEK", got)
    if vek.kind != report.signing_key:
        raise _refused("snp-key-mismatch", "signing_key", f"the certificate of a {report.signing_key}", f"that of a {vek.kind}")


def _judge_product(report: SnpReport, vek: Vek, path: VerifiedPath) -> None:
    """ASK, ASVK and line are told by the names of the CAs, which nobody but the anchor's holder can give."""
    names = [_common_name(certificate) for certificate in path.certificates[1:]]
    expected = [("SEV-" if vek.kind == "VCEK" else "SEV-VLEK-") + vek.line, f"ARK-{vek.line}"][: len(names)]
    if names != expected:
        raise _refused("snp-product-mismatch", "chain", " below ".join(expected), " below ".join(names))
    if report.cpu is not None:
        family, model, _ = report.cpu
        line = next((name for one, first, last, name in _CPUS if family == one and first <= model <= last), None)
        if line != vek.line:
            raise _refused("snp-product-mismatch", "cpu", f"a processor of {vek.line}", f"family {family:#x} model {model:#x}")


def _common_name(certificate: Certificate) -> str:
    found = _COMMON_NAME.search(certificate.subject_text)
    return "a CA of another name" if found is None else found[1]


def _judge_binding(report: SnpReport, vek: Vek) -> None:
    reasons = []
    if vek.chip_id is not None and report.has_chip_id and report.chip_id != vek.chip_id:
        reasons.append(Reason("snp-chip-mismatch", "chip_id", vek.chip_id.hex(), report.chip_id.hex()))
    if vek.tcb != report.reported_tcb:
        reasons.append(Reason("snp-tcb-mismatch", "reported_tcb", vek.tcb.hex(), report.reported_tcb.hex()))
    if reasons:
        raise Refused(*reasons)


def is_signed_by(report: SnpReport, vek: Vek) -> bool:
    """Whether the key of `vek`, on P-384, signed `report`."""
    try:
        key = certificate_key(vek.certificate.spki)
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
            return False
        key.verify(encode_dss_signature(report.r, report.s), report.signed, ec.ECDSA(hashes.SHA384()))
    except (InvalidSignature, FormatError, ValueError):
        return False
    return True


@dataclass(slots=True)
class _Judge:
    """The steps behind the signature, each of which adds its reasons."""

    report: SnpReport
    vek: Vek
    policy: SnpPolicy
    reasons: list[Reason] = field(default_factory=list)

    def _tcb(self, raw: bytes) -> Tcb:
        return parse_tcb(raw, self.vek.line)

    @property
    def reported(self) -> Tcb:
        return self._tcb(self.report.reported_tcb)

    @property
    def current(self) -> Tcb:
        return self._tcb(self.report.current_tcb)

    @property
    def committed(self) -> Tcb:
        return self._tcb(self.report.committed_tcb)

    @property
    def launch(self) -> Tcb:
        return self._tcb(self.report.launch_tcb)

    def _want(self, holds: bool, code: str, claim: str, expected: str, got: str) -> None:
        if not holds:
            self.reasons.append(Reason(code, claim, expected[:200], got[:200]))

    def answer(self, report_data: bytes | None) -> None:
        """What the guest bound is what it was asked for, and zeros behind it."""
        if report_data is None:
            return
        expected = report_data.ljust(REPORT_DATA_SIZE, b"\0")
        fits = bool(report_data) and expected == self.report.report_data
        self._want(fits, "nonce-mismatch", "report_data", expected.hex(), self.report.report_data.hex())

    def platform_accepted(self) -> None:
        """The product, the kind of key and whose it is."""
        vek, policy = self.vek, self.policy
        self._want(vek.kind in policy.keys, "snp-key-refused", "signing_key", ", ".join(sorted(policy.keys)), vek.kind)
        if policy.products is not None:
            named = {vek.product, vek.line}
            self._want(bool(named & policy.products), "snp-product-refused", "product", ", ".join(sorted(policy.products)), vek.product)
        if vek.csp is not None and policy.clouds is not None:
            self._want(vek.csp in policy.clouds, "snp-key-refused", "cloud", ", ".join(sorted(policy.clouds)), vek.csp)

    def guest(self) -> None:
        """The policy of the guest, and the level that asked for the report."""
        report, wanted, guest = self.report, self.policy, self.report.policy
        self._want(wanted.debug or not guest.debug, "snp-debug", "policy.debug", "a guest that nobody may debug", "one that may be")
        self._want(wanted.migration or not guest.migration, "snp-migration", "policy.migrate_ma", "no migration agent", "one allowed")
        self._want(wanted.smt or not guest.smt, "snp-guest-policy", "policy.smt", "cores of its own", "threads shared")
        single = guest.single_socket or not wanted.single_socket
        self._want(single, "snp-guest-policy", "policy.single_socket", "one socket only", "any")
        kept = guest.page_swap_off or not wanted.page_swap_off
        self._want(kept, "snp-guest-policy", "policy.page_swap_disable", "pages that stay where they are", "any")
        hidden = guest.ciphertext_hiding or report.ciphertext_hidden or not wanted.ciphertext_hiding
        self._want(hidden, "snp-guest-policy", "policy.ciphertext_hiding", "ciphertext hidden from the host", "shown")
        abi = guest.abi >= wanted.abi
        self._want(abi, "snp-guest-policy", "policy.abi", "at least " + _dotted(wanted.abi), _dotted(guest.abi))
        known = guest.reserved and not guest.unknown
        self._want(known, "snp-guest-policy", "policy", "bit 17, and none above 25", f"{guest.raw:#x}")
        level = "the host" if report.vmpl == HOST else str(report.vmpl)
        self._want(report.vmpl in wanted.vmpls, "snp-vmpl", "vmpl", ", ".join(map(str, sorted(wanted.vmpls))), level)

    def identity(self) -> None:
        """Which guest it is: measurement, id block with the keys that signed it, and what the host adds."""
        report, wanted = self.report, self.policy
        for claim, code, value, expected in (
            ("host_data", "snp-host-data", report.host_data, wanted.host_data),
            ("family_id", "snp-id-block", report.family_id, wanted.family_id),
            ("image_id", "snp-id-block", report.image_id, wanted.image_id),
        ):
            self._want(expected in (None, value), code, claim, "" if expected is None else expected.hex(), value.hex())
        author = report.author_key_digest if report.author_key_enabled else bytes(48)
        for claim, code, value, accepted in (
            ("measurement", "snp-measurement", report.measurement, wanted.measurements),
            ("id_key_digest", "snp-id-block", report.id_key_digest, wanted.id_keys),
            ("author_key_digest", "snp-id-block", author, wanted.author_keys),
        ):
            if accepted is not None:
                self._want(any(value) and value in accepted, code, claim, f"one of {len(accepted)} accepted", value.hex())
        consistent = report.author_key_enabled or not any(report.author_key_digest)
        self._want(consistent, "snp-id-block", "author_key_digest", "zeros without AUTHOR_KEY_EN", report.author_key_digest.hex())
        least = f"at least {wanted.guest_svn}"
        self._want(report.guest_svn >= wanted.guest_svn, "snp-id-block", "guest_svn", least, str(report.guest_svn))

    def tcbs(self) -> None:
        """The four TCBs among each other, and each above the floor of the line."""
        current, launch = self.current, self.launch
        below = {"reported_tcb": self.reported, "committed_tcb": self.committed}
        for claim, tcb in below.items():
            self._want(current.reaches(tcb), "snp-tcb-inconsistent", claim, f"at most {current}", str(tcb))
        self._want(current.reaches(launch), "snp-tcb-rolled-back", "launch_tcb", f"at most {current}", str(launch))
        floor = next((tcb for line, tcb in self.policy.floors if line == self.vek.line), None)
        for claim, tcb in {**below, "current_tcb": current, "launch_tcb": launch}.items():
            self._want(floor is None or tcb.reaches(floor), "snp-tcb-old", claim, f"at least {floor}", str(tcb))

    def firmware(self) -> None:
        """The firmware's version against what is committed, what the guest asks for and what the policy does."""
        report, wanted = self.report, self.policy
        current, committed = report.current_firmware, report.committed_firmware
        self._want(committed <= current, "snp-tcb-inconsistent", "committed_firmware", f"at most {current}", str(committed))
        needed = (current.major, current.minor) >= report.policy.abi or current == _UNSTATED
        self._want(needed, "snp-tcb-inconsistent", "policy.abi", f"at most {current}", _dotted(report.policy.abi))
        least = f"at least {wanted.firmware}"
        for claim, version in (("current_firmware", current), ("committed_firmware", committed)):
            self._want(version >= wanted.firmware, "snp-tcb-old", claim, least, str(version))
        if wanted.committed:
            kept = committed == current and report.committed_tcb == report.current_tcb
            self._want(kept, "snp-tcb-provisional", "committed_firmware", f"{current}, which runs", str(committed))
        checked = report.aliases_checked or not wanted.aliases_checked
        self._want(checked, "snp-platform-refused", "platform_info", "memory checked for aliases", f"{report.platform_info:#x}")
        for claim, vector in (("launch_mitigations", report.launch_mitigations), ("current_mitigations", report.current_mitigations)):
            met = (vector or 0) & wanted.mitigations == wanted.mitigations
            self._want(met, "snp-platform-refused", claim, f"{wanted.mitigations:#x}", "none" if vector is None else f"{vector:#x}")


def _dotted(abi: tuple[int, int]) -> str:
    return ".".join(map(str, abi))
