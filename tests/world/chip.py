"""A TPM in memory that speaks in real bytes, wholly determined by its seed: same seed, same calls, same signatures.

It keeps the rules that matter to a verifier: a restricted AK signs only what the chip itself says, PCRs are extended and never
set, counters move as a reset or a resume moves them, and a credential opens only for the key whose name it was made for.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID, ObjectIdentifier

from writ.formats.digest import SIZES, extend
from writ.formats.tpm.attest import TPM_GENERATED, Attest, CertifyInfo, CreationInfo, QuoteInfo, encode_attest
from writ.formats.tpm.credential import kdfa, kdfe
from writ.formats.tpm.pcr import PcrSelection, PcrValues, pcr_digest
from writ.formats.tpm.public import (
    ADMIN_WITH_POLICY,
    DECRYPT,
    FIXED_PARENT,
    FIXED_TPM,
    RESTRICTED,
    RH_ENDORSEMENT,
    SENSITIVE_DATA_ORIGIN,
    SIGN,
    USER_WITH_AUTH,
    EccParameters,
    Public,
    Scheme,
    Symmetric,
    primary_qualified_name,
    qualified_name,
)
from writ.formats.tpm.signature import Signature, encode_signature
from writ.formats.tpm.wire import Reader, sized

EK_ATTRIBUTES = FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN | ADMIN_WITH_POLICY | RESTRICTED | DECRYPT
AK_ATTRIBUTES = FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN | USER_WITH_AUTH | RESTRICTED | SIGN
BANKS = ("sha256", "sha384")
QUOTED = tuple(range(16))

_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_EKU = ObjectIdentifier("2.23.133.8.1")
_BORN = datetime(2026, 1, 1, tzinfo=UTC)


@cache
def private_key(seed: str) -> ec.EllipticCurvePrivateKey:
    """The P-256 key of a seed."""
    scalar = 1 + int.from_bytes(hashlib.sha512(seed.encode()).digest(), "big") % (_ORDER - 1)
    return ec.derive_private_key(scalar, ec.SECP256R1())


def sign_ecdsa(key: ec.EllipticCurvePrivateKey, message: bytes) -> tuple[bytes, bytes]:
    """r and s of a deterministic ECDSA signature (RFC 6979)."""
    r, s = utils.decode_dss_signature(key.sign(message, ec.ECDSA(hashes.SHA256(), deterministic_signing=True)))
    return r.to_bytes(32, "big"), s.to_bytes(32, "big")


def public_area(seed: str, attributes: int, *, scheme: Scheme | None, symmetric: Symmetric | None) -> Public:
    """The public area of the key of `seed`."""
    numbers = private_key(seed).public_key().public_numbers()
    point = EccParameters("p256", None, numbers.x.to_bytes(32, "big"), numbers.y.to_bytes(32, "big"))
    return Public("sha256", attributes, b"", symmetric, scheme, point)


@dataclass(frozen=True)
class Maker:
    """A TPM manufacturer: a root CA, and one that signs EK certificates below it."""

    seed: str = "maker"

    def _certificate(
        self, subject: str, key: str, issuer: str, issuer_key: str, extensions: Sequence[tuple[x509.ExtensionType, bool]], name: bool = True
    ) -> bytes:
        attributes = [x509.NameAttribute(NameOID.COMMON_NAME, subject)] if name else []
        issuer_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)])
        builder = x509.CertificateBuilder().subject_name(x509.Name(attributes)).issuer_name(issuer_name)
        serial = int.from_bytes(hashlib.sha256(f"{key}/{issuer_key}".encode()).digest()[:8], "big") >> 1
        builder = builder.public_key(private_key(key).public_key()).serial_number(serial + 1)
        builder = builder.not_valid_before(_BORN).not_valid_after(_BORN + timedelta(days=3650))
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        signed = builder.sign(private_key(issuer_key), hashes.SHA256(), ecdsa_deterministic=True)
        return signed.public_bytes(Encoding.DER)

    def root(self) -> bytes:
        """The root CA, DER."""
        return self._certificate(f"{self.seed} root", f"{self.seed}/root", f"{self.seed} root", f"{self.seed}/root", ca_extensions())

    def intermediate(self, extensions: Sequence[tuple[x509.ExtensionType, bool]] | None = None) -> bytes:
        """The CA that signs EK certificates, DER."""
        chosen = ca_extensions() if extensions is None else extensions
        return self._certificate(f"{self.seed} ca", f"{self.seed}/ca", f"{self.seed} root", f"{self.seed}/root", chosen)

    def ek_certificate(self, key: str, extensions: Sequence[tuple[x509.ExtensionType, bool]] | None = None) -> bytes:
        """A certificate for the EK of seed `key`, DER: empty subject, critical DirectoryName, EKU of an EK certificate."""
        chosen = ek_extensions() if extensions is None else extensions
        return self._certificate("", key, f"{self.seed} ca", f"{self.seed}/ca", chosen, name=False)


def ca_extensions(*, ca: bool = True, sign: bool = True) -> list[tuple[x509.ExtensionType, bool]]:
    """What a CA certificate says of itself."""
    usage = x509.KeyUsage(True, False, False, False, False, sign, sign, False, False)
    return [(x509.BasicConstraints(ca, None), True), (usage, True)]


def ek_extensions(*, eku: ObjectIdentifier | None = _EKU, named: bool = True) -> list[tuple[x509.ExtensionType, bool]]:
    """What an EK certificate says of itself (TCG EK Credential Profile)."""
    chip = x509.Name([x509.NameAttribute(ObjectIdentifier("2.23.133.2.1"), "id:00001234")])
    name: x509.GeneralName = x509.DirectoryName(chip) if named else x509.DNSName("chip.example")
    usage = x509.KeyUsage(False, False, False, False, True, False, False, False, False)
    found: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(False, None), True), (usage, True), (x509.SubjectAlternativeName([name]), True),
    ]  # fmt: skip
    return found if eku is None else [*found, (x509.ExtendedKeyUsage([eku]), False)]


@dataclass
class Chip:
    """One TPM. `clock` is in milliseconds; `pcrs[bank][index]` are the registers; another `ek_name` is another EK of the same TPM."""

    seed: str = "chip"
    maker: Maker = field(default_factory=Maker)
    ak_attributes: int = AK_ATTRIBUTES
    ek_name: str = "ek"
    clock: int = 1_000
    reset_count: int = 7
    restart_count: int = 0
    safe: bool = True
    ak_generation: int = 0
    firmware_version: int = 0x0001_0002_0003_0004
    pcrs: dict[str, dict[int, bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self.pcrs = {bank: dict.fromkeys(range(24), bytes(SIZES[bank])) for bank in BANKS}

    @property
    def ek(self) -> Public:
        """The EK's public area."""
        return public_area(f"{self.seed}/{self.ek_name}", EK_ATTRIBUTES, scheme=None, symmetric=Symmetric("aes", 128, "cfb"))

    @property
    def _ak_seed(self) -> str:
        return f"{self.seed}/ak" + (f"/{self.ak_generation}" if self.ak_generation else "")

    @property
    def ak(self) -> Public:
        """The AK's public area."""
        return public_area(self._ak_seed, self.ak_attributes, scheme=Scheme("ecdsa", "sha256"), symmetric=None)

    @property
    def ek_certificates(self) -> tuple[bytes, ...]:
        """The EK certificate and the CA above it, DER."""
        return (self.maker.ek_certificate(f"{self.seed}/{self.ek_name}"), self.maker.intermediate())

    @property
    def qualified_name(self) -> bytes:
        """The AK's qualified name, below the EK in the endorsement hierarchy."""
        return qualified_name(primary_qualified_name(RH_ENDORSEMENT, self.ek.name()), self.ak.name())

    def extend(self, index: int, digests: dict[str, bytes]) -> None:
        """TPM2_PCR_Extend in each of the banks named."""
        for bank, digest in digests.items():
            self.pcrs[bank][index] = extend(bank, self.pcrs[bank][index], digest)

    def tick(self, milliseconds: int = 1_000) -> None:
        """Time passes under power."""
        self.clock += milliseconds

    def reboot(self) -> None:
        """TPM2_Startup(CLEAR) after a reset."""
        self.reset_count, self.restart_count = self.reset_count + 1, 0
        self._clear()

    def resume(self) -> None:
        """TPM2_Startup(STATE) after a suspend."""
        self.restart_count += 1

    def restart(self) -> None:
        """TPM2_Startup(CLEAR) after TPM2_Shutdown(STATE): a TPM Restart, which clears the registers and counts no reset."""
        self.restart_count += 1
        self._clear()

    def clear(self) -> None:
        """TPM2_Clear: the counters start from zero, the registers stay, and a new AK is needed."""
        self.clock, self.reset_count, self.restart_count, self.safe = 0, 0, 0, True
        self.ak_generation += 1

    def values(self, bank: str = "sha256", indices: Sequence[int] = QUOTED) -> PcrValues:
        """The registers as they stand."""
        return PcrValues(bank, tuple((index, self.pcrs[bank][index]) for index in indices))

    def quote(self, extra_data: bytes, *, selection: PcrSelection | None = None) -> tuple[bytes, bytes]:
        """TPM2_Quote: TPMS_ATTEST and TPMT_SIGNATURE."""
        chosen = selection or PcrSelection((("sha256", QUOTED),))
        digest = pcr_digest(chosen, tuple(self.values(bank, range(24)) for bank in BANKS), "sha256")
        return self._attest(0x8018, extra_data, QuoteInfo(chosen, digest))

    def certify(self, extra_data: bytes) -> tuple[bytes, bytes]:
        """TPM2_Certify of the AK by itself."""
        return self._attest(0x8017, extra_data, CertifyInfo(self.ak.name(), self.qualified_name))

    def certify_creation(self, extra_data: bytes) -> tuple[bytes, bytes]:
        """TPM2_CertifyCreation of the AK."""
        return self._attest(0x801A, extra_data, CreationInfo(self.ak.name(), bytes(32)))

    def get_time(self, extra_data: bytes) -> tuple[bytes, bytes]:
        """TPM2_GetTime by the AK; its time began with this run of the chip, and runs with its clock."""
        info = self.clock.to_bytes(8, "big") * 2 + self.reset_count.to_bytes(4, "big") + self.restart_count.to_bytes(4, "big")
        return self._attest(0x8019, extra_data, info + bytes([self.safe]) + self.firmware_version.to_bytes(8, "big"))

    def create_lease_key(self, public: Public, qualifying: bytes, *, parent: bytes | None = None) -> tuple[bytes, bytes, bytes]:
        """TPM2_Create below the EK, or `parent` (a qualified name), and TPM2_CertifyCreation: TPMS_CREATION_DATA, attest, signature."""
        below = parent or primary_qualified_name(RH_ENDORSEMENT, self.ek.name())
        creation = bytes(4) + sized(b"", "pcrDigest", most=64) + b"\1\0\x0b" + sized(self.ek.name(), "parentName", most=66)
        creation += sized(below, "parentQualifiedName", most=66) + sized(b"", "outsideInfo", most=66)
        body = CreationInfo(public.name(), hashlib.sha256(creation).digest())
        return creation, *self._attest(0x801A, qualifying, body)

    def certify_nv(self, extra_data: bytes) -> tuple[bytes, bytes]:
        """TPM2_NV_Certify of some index (TPM_ST_ATTEST_NV)."""
        return self._attest(0x8014, extra_data, bytes(40))

    def _attest(self, tag: int, extra_data: bytes, body: QuoteInfo | CertifyInfo | CreationInfo | bytes) -> tuple[bytes, bytes]:
        said = encode_attest(
            Attest(TPM_GENERATED, tag, self.qualified_name, extra_data, self.clock, self.reset_count, self.restart_count, self.safe,
                   self.firmware_version, body)
        )  # fmt: skip
        return said, self.sign(said)

    def sign(self, message: bytes) -> bytes:
        """A signature of the AK over anything: what a chip refuses for a restricted key, and a key in software does not."""
        r, s = sign_ecdsa(private_key(self._ak_seed), message)
        return encode_signature(Signature("ecdsa", "sha256", r=r, s=s))

    def activate_credential(self, credential: bytes, secret: bytes, *, name: bytes | None = None) -> bytes | None:
        """TPM2_ActivateCredential for the AK (or the key of `name`): the secret inside, or None where the chip refuses.

        Source: TPM 2.0 Library Part 1, "Credential Protection", C.6.4.
        """
        blob = Reader(credential, "TPM2B_ID_OBJECT").sized("credential", most=1024)
        reader = Reader(Reader(secret, "TPM2B_ENCRYPTED_SECRET").sized("secret", most=1024), "TPMS_ECC_POINT")
        x, y = reader.sized("x", most=66), reader.sized("y", most=66)
        own = private_key(f"{self.seed}/{self.ek_name}")
        theirs = ec.EllipticCurvePublicNumbers(int.from_bytes(x, "big"), int.from_bytes(y, "big"), ec.SECP256R1()).public_key()
        mine = own.public_key().public_numbers().x.to_bytes(32, "big")
        shared = kdfe("sha256", own.exchange(ec.ECDH(), theirs), b"IDENTITY\0", x, mine, 256)
        inner = Reader(blob, "TPMS_ID_OBJECT")
        integrity, identity = inner.sized("integrity", most=64), inner.rest()
        wanted = name if name is not None else self.ak.name()
        if not hmac.compare_digest(
            integrity, hmac.digest(kdfa("sha256", shared, b"INTEGRITY", b"", b"", 256), identity + wanted, "sha256")
        ):
            return None
        key = kdfa("sha256", shared, b"STORAGE", wanted, b"", 128)
        clear, feedback = b"", bytes(16)
        for start in range(0, len(identity), 16):
            block = identity[start : start + 16]
            clear += Cipher(algorithms.AES(key), modes.CTR(feedback)).encryptor().update(block)
            feedback = block.ljust(16, b"\0")
        return Reader(clear, "credential").sized("secret", most=32)
