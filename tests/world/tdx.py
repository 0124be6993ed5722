"""A platform with TDX and whoever vouches for it, made for tests: a root of our own, PCKs, quotes of every version, and collateral."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID, ObjectIdentifier

from tests.world.authority import Ca
from tests.world.chip import private_key, sign_ecdsa
from tests.world.der import element
from writ.formats.digest import Digest
from writ.formats.tee.tdx import INTEL_QE
from writ.formats.tee.tdx_collateral import Collateral, parse_collateral
from writ.formats.x509 import parse_certificate, to_pem

AT = 1_790_000_000
"""When everything here is valid: 2026-09-21T14:13:20Z."""
DAY = 86_400
ROOT = Ca("Intel SGX Root CA", path_length=1)
PCK_CA = Ca("Intel SGX PCK Platform CA", ROOT, path_length=0)
TD_QE_SIGNER = bytes.fromhex("dc9e2a7c6f948f17474e34a7fc43ed030f7c1563f1babddf6340c82e0e54a8c5")
QE_SIGNER = bytes.fromhex("8c4f5775d796503e96137f77c68a829a0056ac8ded70140b081b094490c57bff")
TDX_10, TDX_15, TDX_15_MIGRATED, ENCLAVE = 2, 3, 4, 1
_LEAF = ((x509.BasicConstraints(False, None), True), (x509.KeyUsage(True, True, *[False] * 7), True))
_ARC = "1.2.840.113741.1.13.1"
_ARC_DER = bytes.fromhex("2a864886f84d010d01")


def raw_signature(key: str, message: bytes) -> bytes:
    """r and s, of 32 bytes each, by the key of that seed."""
    return b"".join(sign_ecdsa(private_key(key), message))


def point(key: str) -> bytes:
    """x and y of the public key of that seed."""
    return private_key(key).public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]


def named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def item(arc: str, value: bytes) -> bytes:
    """One item of the SGX extensions, below their OID."""
    return element(0x30, element(0x06, _ARC_DER + bytes(map(int, arc.split(".")))) + value)


def number(value: int) -> bytes:
    return element(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def octets(value: bytes) -> bytes:
    return element(0x04, value)


def sgx_extensions(components: Sequence[int], pce_svn: int, pce_id: bytes, fmspc: bytes, *more: bytes) -> bytes:
    """The value of the SGX extensions of a multi-package platform."""
    tcb = b"".join(item(f"2.{place}", number(svn)) for place, svn in enumerate(components, 1))
    tcb += item("2.17", number(pce_svn)) + item("2.18", octets(bytes(components)))
    flags = b"".join(item(f"7.{place}", element(0x01, value)) for place, value in ((1, b"\xff"), (2, b"\0"), (3, b"\xff")))
    items = (
        item("1", octets(b"\x50" * 16)), item("2", element(0x30, tcb)), item("3", octets(pce_id)), item("4", octets(fmspc)),
        item("5", element(0x0A, b"\x01")), item("6", octets(b"\x60" * 16)), item("7", element(0x30, flags)), *more,
    )  # fmt: skip
    return element(0x30, b"".join(items))


def shown(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def enclave_report(
    *, report_data: bytes, signer: bytes, product: int, svn: int, attributes: bytes = b"\x15" + bytes(7) + b"\xe7" + bytes(7),
    misc: bytes = bytes(4),
) -> bytes:  # fmt: skip
    return b"".join(
        (
            b"\x0c" * 16, misc, bytes(28), attributes, b"\xee" * 32, bytes(32), signer, bytes(96), struct.pack("<HH", product, svn),
            bytes(60), report_data.ljust(64, b"\0"),
        )
    )  # fmt: skip


@dataclass(frozen=True)
class Platform:
    """One host with TDX, its quoting enclave, and what Intel says of it. `dataclasses.replace` makes it another."""

    name: str = "one"
    root: Ca = ROOT
    pck_ca: Ca = PCK_CA
    components: tuple[int, ...] = (5, 5, 2, 2, 3, 1, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0)
    pce_svn: int = 11
    fmspc: bytes = bytes.fromhex("00806f050000")
    pce_id: bytes = b"\0\0"
    qe_signer: bytes = TD_QE_SIGNER
    qe_product: int = 2
    qe_svn: int = 4
    qe_attributes: bytes = b"\x11" + bytes(7) + b"\xe7" + bytes(7)
    qe_misc: bytes = bytes(4)
    serial: int = 0x1234

    # --- a TD
    tee_tcb_svn: bytes = bytes((6, 1, 5)) + bytes(13)
    tee_tcb_svn2: bytes = bytes((6, 1, 5)) + bytes(13)
    mr_signer_seam: bytes = bytes(48)
    seam_attributes: bytes = bytes(8)
    td_attributes: int = 1 << 28
    xfam: int = 0x0006_02E7
    mr_td: bytes = b"\xd7" * 48
    rtmrs: tuple[bytes, ...] = (b"\x01" * 48, b"\x02" * 48, b"\x03" * 48, bytes(48))
    report_data: bytes = b"challenge".ljust(64, b"\0")
    mr_service_td: bytes = bytes(48)
    enclave_attributes: bytes = b"\x05" + bytes(7) + b"\xe7" + bytes(7)

    # --- collateral
    issued: int = AT - DAY
    replaced: int = AT + 29 * DAY
    evaluation: int = 17
    platform_levels: tuple[tuple[tuple[int, ...], int, tuple[int, ...], str, tuple[str, ...]], ...] = (
        ((5, 5, 2, 2, 3, 1, 0, 3), 11, (6, 0, 5), "UpToDate", ()),
        ((4, 4, 2, 2, 3, 1, 0, 3), 10, (5, 0, 4), "OutOfDate", ("INTEL-SA-00002", "INTEL-SA-00001")),
    )
    module_levels: tuple[tuple[int, str, tuple[str, ...]], ...] = ((6, "UpToDate", ()), (4, "OutOfDate", ("INTEL-SA-00010",)))
    qe_levels: tuple[tuple[int, str, tuple[str, ...]], ...] = ((4, "UpToDate", ()), (2, "OutOfDate", ("INTEL-SA-00020",)))
    tcb_changes: dict[str, Any] = field(default_factory=dict, hash=False)
    qe_changes: dict[str, Any] = field(default_factory=dict, hash=False)

    @property
    def anchors(self) -> set[Digest]:
        return {Digest.of(self.root.certificate())}

    @property
    def pck_key(self) -> str:
        return f"tdx/pck/{self.name}"

    @property
    def attestation_key(self) -> str:
        return f"tdx/attestation/{self.name}"

    def pck(self, **changes: Any) -> bytes:
        """The PCK certificate, DER."""
        value = sgx_extensions(self.components, self.pce_svn, self.pce_id, self.fmspc)
        extensions = (*_LEAF, (x509.UnrecognizedExtension(ObjectIdentifier(_ARC), value), False))
        given: dict[str, Any] = {"serial": self.serial} | changes
        return self.pck_ca.sign(named("Intel SGX PCK Certificate"), self.pck_key, extensions, **given)

    def tcb_signer(self, **changes: Any) -> bytes:
        """The certificate of the TCB signer, DER."""
        return self.root.sign(named("Intel SGX TCB Signing"), "tdx/tcb signing", _LEAF, **({"serial": 0x7E} | changes))

    def chain(self) -> bytes:
        """The PCK's chain in PEM, as quotes carry it."""
        return "".join(to_pem(parse_certificate(one)) for one in (self.pck(), self.pck_ca.certificate(), self.root.certificate())).encode()

    # --- quotes

    def body(self, version: int, body_type: int) -> bytes:
        """Header and body."""
        header = struct.pack("<HHIHH", version, 2, 0 if body_type == ENCLAVE else 0x81, 0, 0) + INTEL_QE + b"\x75" * 20
        if body_type == ENCLAVE:
            report = enclave_report(
                report_data=self.report_data, signer=b"\xab" * 32, product=3, svn=4, attributes=self.enclave_attributes
            )  # fmt: skip
        else:
            report = b"".join(
                (
                    self.tee_tcb_svn, b"\x5e" * 48, self.mr_signer_seam, self.seam_attributes, self.td_attributes.to_bytes(8, "little"),
                    self.xfam.to_bytes(8, "little"), self.mr_td, bytes(144), *self.rtmrs, self.report_data,
                )
            )  # fmt: skip
            if body_type >= TDX_15:
                report += self.tee_tcb_svn2 + self.mr_service_td
            if body_type == TDX_15_MIGRATED:
                report += b"\x02" + bytes(range(32)) + b"\xde" * 48 + b"\x11" * 48 + bytes(8 + 16 + 16 + 12) + b"\x22" * 48 + bytes(8)
        return header + (struct.pack("<HI", body_type, len(report)) if version == 5 else b"") + report

    def quote(
        self, version: int = 4, body_type: int = TDX_10, *, certification: tuple[int, bytes] | None = None,
        authentication: bytes = b"\xaa" * 32, signed: bytes | None = None, bound: bytes | None = None, qe_signed: bytes | None = None,
    ) -> bytes:  # fmt: skip
        """A quote. `signed` is signed in place of header and body, `qe_signed` in place of the QE's report; `bound` are its data."""
        body, key = self.body(version, body_type), point(self.attestation_key)
        report = enclave_report(
            report_data=sha256(key + authentication).digest() if bound is None else bound, signer=self.qe_signer, product=self.qe_product,
            svn=self.qe_svn, attributes=self.qe_attributes, misc=self.qe_misc,
        )  # fmt: skip
        kind, data = (5, self.chain()) if certification is None else certification
        qe = report + raw_signature(self.pck_key, report if qe_signed is None else qe_signed) + struct.pack("<H", len(authentication))
        qe += authentication + struct.pack("<HI", kind, len(data)) + data
        auth = raw_signature(self.attestation_key, body if signed is None else signed) + key
        auth += qe if version == 3 else struct.pack("<HI", 6, len(qe)) + qe
        return body + struct.pack("<I", len(auth)) + auth

    # --- collateral

    def tcb_info(self, tee: str = "TDX") -> bytes:
        """The value of `tcbInfo`."""
        levels = []
        for sgx, pce_svn, tdx, status, advisories in self.platform_levels:
            tcb: dict[str, Any] = {"sgxtcbcomponents": _components(sgx), "pcesvn": pce_svn}
            if tee == "TDX":
                tcb["tdxtcbcomponents"] = _components(tdx)
            levels.append({"tcb": tcb} | _level(status, advisories))
        module = {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8}
        info: dict[str, Any] = {
            "id": tee, "version": 3, "issueDate": shown(self.issued), "nextUpdate": shown(self.replaced), "fmspc": self.fmspc.hex().upper(),
            "pceId": self.pce_id.hex(), "tcbType": 0, "tcbEvaluationDataNumber": self.evaluation, "tcbLevels": levels,
        }  # fmt: skip
        if tee == "TDX":
            rows = [{"tcb": {"isvsvn": svn}} | _level(status, advisories) for svn, status, advisories in self.module_levels]
            info |= {"tdxModule": module, "tdxModuleIdentities": [{"id": "TDX_01", **module, "tcbLevels": rows}]}
        return json.dumps(info | self.tcb_changes).encode()

    def identity(self, name: str = "TD_QE") -> bytes:
        """The value of `enclaveIdentity`."""
        rows = [{"tcb": {"isvsvn": svn}} | _level(status, advisories) for svn, status, advisories in self.qe_levels]
        signer, product = (TD_QE_SIGNER, 2) if name == "TD_QE" else (QE_SIGNER, 1)
        identity: dict[str, Any] = {
            "id": name, "version": 2, "issueDate": shown(self.issued), "nextUpdate": shown(self.replaced),
            "tcbEvaluationDataNumber": self.evaluation, "miscselect": "00000000", "miscselectMask": "FFFFFFFF",
            "attributes": "11000000000000000000000000000000", "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
            "mrsigner": signer.hex().upper(), "isvprodid": product, "tcbLevels": rows,
        }  # fmt: skip
        return json.dumps(identity | self.qe_changes).encode()

    def crls(self, *, revoked: Sequence[int] = (), root_revoked: Sequence[int] = (), this: int = AT - DAY) -> tuple[bytes, bytes]:
        """The CRLs of the PCK CA and of the root, DER."""
        return _crl(self.pck_ca, revoked, this), _crl(self.root, root_revoked, this)

    def collateral_json(
        self, tee: str = "TDX", *, signer: str = "tdx/tcb signing", crls: tuple[bytes, bytes] | None = None, tcb_signer: bytes | None = None
    ) -> dict[str, Any]:
        """All collateral as one JSON object, as libraries keep it."""
        info, identity = self.tcb_info(tee), self.identity("TD_QE" if tee == "TDX" else "QE")
        pck_crl, root_crl = self.crls() if crls is None else crls
        root = to_pem(parse_certificate(self.root.certificate()))
        signing = to_pem(parse_certificate(self.tcb_signer() if tcb_signer is None else tcb_signer)) + root
        return {
            "pck_crl_issuer_chain": to_pem(parse_certificate(self.pck_ca.certificate())) + root, "root_ca_crl": root_crl.hex(),
            "pck_crl": pck_crl.hex(), "tcb_info_issuer_chain": signing, "tcb_info": info.decode(),
            "tcb_info_signature": raw_signature(signer, info).hex(), "qe_identity_issuer_chain": signing, "qe_identity": identity.decode(),
            "qe_identity_signature": raw_signature(signer, identity).hex(),
        }  # fmt: skip

    def collateral(self, tee: str = "TDX", **changes: Any) -> Collateral:
        """The same as the verdict takes it."""
        return parse_collateral(json.dumps(self.collateral_json(tee, **changes)).encode())

    def of_sgx(self) -> Platform:
        """The same platform, of which an enclave is quoted by the QE of SGX."""
        return replace(self, qe_signer=QE_SIGNER, qe_product=1)


def _crl(issuer: Ca, revoked: Sequence[int], this: int) -> bytes:
    key = x509.AuthorityKeyIdentifier.from_issuer_public_key(private_key(issuer.seed).public_key())
    return issuer.crl(*revoked, this=this, extensions=((x509.CRLNumber(1), False), (key, False)))


def _components(svns: Sequence[int]) -> list[dict[str, int]]:
    return [{"svn": svn} for svn in (*svns, *[0] * (16 - len(svns)))]


def _level(status: str, advisories: Sequence[str]) -> dict[str, Any]:
    return {"tcbDate": "2026-03-13T00:00:00Z", "tcbStatus": status} | ({"advisoryIDs": list(advisories)} if advisories else {})
