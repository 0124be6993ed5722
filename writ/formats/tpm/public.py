"""TPMT_PUBLIC: the public area of a key, its attributes and its name.

A TPM key is named by the hash of its whole public area, so whoever recomputes
the name has checked every attribute at once. Keys are taken from here, never
from a PEM that a host sends beside it.

The parser accepts RSA and ECC keys. `public_key` turns the area into a key of
`cryptography` and is where sizes and the curve equation are checked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey, RSAPublicNumbers
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from writ.formats.digest import SIZES, Digest, hash_bytes
from writ.formats.errors import FormatError
from writ.formats.tpm.wire import ALG_NULL, HASH_IDS, HASHES, Reader, hash_id, sized, uint

ALG_RSA: Final = 0x0001
ALG_ECC: Final = 0x0023

FIXED_TPM: Final = 1 << 1
ST_CLEAR: Final = 1 << 2
FIXED_PARENT: Final = 1 << 4
SENSITIVE_DATA_ORIGIN: Final = 1 << 5
USER_WITH_AUTH: Final = 1 << 6
ADMIN_WITH_POLICY: Final = 1 << 7
FIRMWARE_LIMITED: Final = 1 << 8
SVN_LIMITED: Final = 1 << 9
NO_DA: Final = 1 << 10
ENCRYPTED_DUPLICATION: Final = 1 << 11
RESTRICTED: Final = 1 << 16
DECRYPT: Final = 1 << 17
SIGN: Final = 1 << 18
X509_SIGN: Final = 1 << 19
KNOWN_ATTRIBUTES: Final = (
    FIXED_TPM | ST_CLEAR | FIXED_PARENT | SENSITIVE_DATA_ORIGIN | USER_WITH_AUTH | ADMIN_WITH_POLICY | FIRMWARE_LIMITED
    | SVN_LIMITED | NO_DA | ENCRYPTED_DUPLICATION | RESTRICTED | DECRYPT | SIGN | X509_SIGN
)  # fmt: skip
"""TPMA_OBJECT, Library Part 2 (firmwareLimited and svnLimited since version 184). The other bits are reserved: zero."""

RH_ENDORSEMENT: Final = 0x4000000B
"""TPM_RH_ENDORSEMENT, the hierarchy of EKs."""

_SYMMETRIC: Final = {0x0006: "aes", 0x0013: "sm4", 0x0026: "camellia"}
_MODES: Final = {0x0040: "ctr", 0x0041: "ofb", 0x0042: "cbc", 0x0043: "cfb", 0x0044: "ecb"}
_RSA_SCHEMES: Final = {0x0014: "rsassa", 0x0015: "rsaes", 0x0016: "rsapss", 0x0017: "oaep"}
_ECC_SCHEMES: Final = {0x0018: "ecdsa", 0x0019: "ecdh"}
_KDFS: Final = {0x0007: "mgf1", 0x0020: "kdf1_sp800_56a", 0x0021: "kdf2", 0x0022: "kdf1_sp800_108"}
_CURVE_NAMES: Final = {0x0003: "p256", 0x0004: "p384", 0x0005: "p521"}
CURVES: Final[dict[str, type[ec.EllipticCurve]]] = {"p256": ec.SECP256R1, "p384": ec.SECP384R1, "p521": ec.SECP521R1}
_NUMBERS: Final = {
    name: number for table in (_SYMMETRIC, _MODES, _RSA_SCHEMES, _ECC_SCHEMES, _KDFS, _CURVE_NAMES) for number, name in table.items()
}

MAX_RSA_BYTES: Final = 512
MAX_ECC_BYTES: Final = 66
MIN_RSA_BITS: Final = 2048
MAX_RSA_BITS: Final = 8 * MAX_RSA_BYTES
DEFAULT_EXPONENT: Final = 65537


@dataclass(frozen=True, slots=True)
class Symmetric:
    """The cipher with which a storage key protects its children: e.g. aes, 128, cfb."""

    algorithm: str
    bits: int
    mode: str


@dataclass(frozen=True, slots=True)
class Scheme:
    """A signing, encryption or key derivation scheme with its hash; `rsaes` alone has none. Raises FormatError otherwise."""

    name: str
    hash: str | None

    def __post_init__(self) -> None:
        if (self.hash is None) != (self.name == "rsaes"):
            raise FormatError("scheme", "a hash, except for rsaes", f"{self.name} with {self.hash}")


@dataclass(frozen=True, slots=True)
class RsaParameters:
    """TPMS_RSA_PARMS and the modulus as they stand; exponent 0 means 65537."""

    bits: int
    exponent: int
    modulus: bytes


@dataclass(frozen=True, slots=True)
class EccParameters:
    """TPMS_ECC_PARMS and the point as they stand; nothing says yet that it is on `curve` (p256, p384 or p521)."""

    curve: str
    kdf: Scheme | None
    x: bytes
    y: bytes


@dataclass(frozen=True, slots=True)
class Public:
    """A TPMT_PUBLIC as parsed. Does not say that any TPM holds the private part: credential activation does.

    `attributes` is the TPMA_OBJECT; `symmetric` and `scheme` are None where
    the TPM has TPM_ALG_NULL. Raises FormatError for a reserved attribute bit,
    an unknown name algorithm, or a policy digest of the wrong size.
    """

    name_algorithm: str
    attributes: int
    auth_policy: bytes
    symmetric: Symmetric | None
    scheme: Scheme | None
    parameters: RsaParameters | EccParameters

    def __post_init__(self) -> None:
        size = SIZES.get(self.name_algorithm)
        if size is None:
            raise FormatError("TPMT_PUBLIC.nameAlg", f"one of {', '.join(SIZES)}", repr(self.name_algorithm)[:40])
        if reserved := self.attributes & ~KNOWN_ATTRIBUTES:
            raise FormatError("TPMT_PUBLIC.objectAttributes", "reserved bits zero", f"0x{reserved:x}")
        if len(self.auth_policy) not in (0, size):
            raise FormatError("TPMT_PUBLIC.authPolicy", f"0 or {size} bytes", f"{len(self.auth_policy)} bytes")

    @property
    def type(self) -> str:
        """rsa or ecc."""
        return "rsa" if isinstance(self.parameters, RsaParameters) else "ecc"

    @property
    def raw(self) -> bytes:
        """The TPMT_PUBLIC itself: exactly the bytes that were parsed."""
        return encode_public(self)

    @property
    def rsa(self) -> RsaParameters | None:
        """The parameters of an RSA key."""
        return self.parameters if isinstance(self.parameters, RsaParameters) else None

    @property
    def ecc(self) -> EccParameters | None:
        """The parameters of an ECC key."""
        return self.parameters if isinstance(self.parameters, EccParameters) else None

    @property
    def fixed_tpm(self) -> bool:
        """The key cannot leave its TPM, nor can any parent of it."""
        return bool(self.attributes & FIXED_TPM)

    @property
    def st_clear(self) -> bool:
        """The key cannot be loaded from a context saved before TPM2_Startup(CLEAR)."""
        return bool(self.attributes & ST_CLEAR)

    @property
    def fixed_parent(self) -> bool:
        """The key cannot be duplicated to another parent."""
        return bool(self.attributes & FIXED_PARENT)

    @property
    def sensitive_data_origin(self) -> bool:
        """The TPM generated the private part; it was not imported."""
        return bool(self.attributes & SENSITIVE_DATA_ORIGIN)

    @property
    def user_with_auth(self) -> bool:
        """The password alone suffices for use; a policy is no protection then."""
        return bool(self.attributes & USER_WITH_AUTH)

    @property
    def admin_with_policy(self) -> bool:
        """Administration needs the policy."""
        return bool(self.attributes & ADMIN_WITH_POLICY)

    @property
    def no_da(self) -> bool:
        """Wrong passwords do not count towards lock-out."""
        return bool(self.attributes & NO_DA)

    @property
    def encrypted_duplication(self) -> bool:
        """Duplication needs an inner wrapper and a new parent."""
        return bool(self.attributes & ENCRYPTED_DUPLICATION)

    @property
    def restricted(self) -> bool:
        """A signing key signs only what the TPM made or hashed itself; a decryption key is a storage parent."""
        return bool(self.attributes & RESTRICTED)

    @property
    def decrypt(self) -> bool:
        """The private part may decrypt."""
        return bool(self.attributes & DECRYPT)

    @property
    def sign(self) -> bool:
        """The private part may sign."""
        return bool(self.attributes & SIGN)

    def name(self) -> bytes:
        """The TPM name: nameAlg || H(TPMT_PUBLIC). Source: TPM 2.0 Library Part 1, "Names"."""
        return hash_id(self.name_algorithm, "nameAlg") + hash_bytes(self.name_algorithm, encode_public(self))

    def public_key(self) -> RSAPublicKey | ec.EllipticCurvePublicKey:
        """The key for `cryptography`: RSA of 2048 to 4096 bits, or a point on P-256, P-384 or P-521. Raises FormatError."""
        if isinstance(self.parameters, RsaParameters):
            return _rsa_key(self.parameters)
        return _ecc_key(self.parameters)


def spki_digest(public: Public) -> Digest:
    """SHA-256 over the key's SubjectPublicKeyInfo in DER: how an EK is named where an operator lists it. Raises FormatError."""
    return Digest.of(public.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def _rsa_key(key: RsaParameters) -> RSAPublicKey:
    """An RSA key whose modulus has exactly the stated size, is odd, and whose exponent is odd and at least 3."""
    modulus = int.from_bytes(key.modulus, "big")
    exponent = key.exponent or DEFAULT_EXPONENT
    if not MIN_RSA_BITS <= key.bits <= MAX_RSA_BITS:
        raise FormatError("RSA key", f"{MIN_RSA_BITS} to {MAX_RSA_BITS} bits", f"{key.bits} bits")
    if modulus.bit_length() != key.bits or 8 * len(key.modulus) != key.bits:
        raise FormatError("RSA modulus", f"{key.bits} bits", f"{modulus.bit_length()} bits in {len(key.modulus)} bytes")
    if modulus % 2 == 0:
        raise FormatError("RSA modulus", "an odd number", "an even one")
    if exponent < 3 or exponent % 2 == 0:
        raise FormatError("RSA exponent", "an odd number from 3", str(exponent))
    return RSAPublicNumbers(exponent, modulus).public_key()


def _ecc_key(key: EccParameters) -> ec.EllipticCurvePublicKey:
    """The point on its curve; coordinates may lack leading zeros, as older TPMs strip them, and are never longer than the field."""
    curve = CURVES[key.curve]()
    size = (curve.key_size + 7) // 8
    if len(key.x) > size or len(key.y) > size:
        raise FormatError("ECC point", f"coordinates of at most {size} bytes", f"{len(key.x)} and {len(key.y)} bytes")
    try:
        return ec.EllipticCurvePublicNumbers(int.from_bytes(key.x, "big"), int.from_bytes(key.y, "big"), curve).public_key()
    except ValueError:
        raise FormatError("ECC point", f"a point on {key.curve}", "a point that is not") from None


# --- bytes -----------------------------------------------------------------------------------------------------------


def parse_public(data: bytes) -> Public:
    """Read exactly one TPMT_PUBLIC of an RSA or ECC key. Raises FormatError.

    Source: TPM 2.0 Library Part 2, TPMT_PUBLIC, TPMS_RSA_PARMS, TPMS_ECC_PARMS.
    """
    reader = Reader(data, "TPMT_PUBLIC")
    kind = reader.one_of({ALG_RSA: "rsa", ALG_ECC: "ecc"}, "type")
    name_algorithm = reader.hash_algorithm("nameAlg")
    attributes = reader.uint(4, "objectAttributes")
    auth_policy = reader.sized("authPolicy", most=64)
    symmetric = _parse_symmetric(reader)
    parameters: RsaParameters | EccParameters
    if kind == "rsa":
        scheme = _parse_scheme(reader, _RSA_SCHEMES, "scheme")
        bits, exponent = reader.uint(2, "keyBits"), reader.uint(4, "exponent")
        parameters = RsaParameters(bits, exponent, reader.sized("unique", most=MAX_RSA_BYTES))
    else:
        scheme = _parse_scheme(reader, _ECC_SCHEMES, "scheme")
        curve = reader.one_of(_CURVE_NAMES, "curveID")
        kdf = _parse_scheme(reader, _KDFS, "kdf")
        parameters = EccParameters(curve, kdf, reader.sized("x", most=MAX_ECC_BYTES), reader.sized("y", most=MAX_ECC_BYTES))
    reader.done()
    return Public(name_algorithm, attributes, auth_policy, symmetric, scheme, parameters)


def _parse_symmetric(reader: Reader) -> Symmetric | None:
    algorithm = reader.one_of({ALG_NULL: "null", **_SYMMETRIC}, "symmetric")
    if algorithm == "null":
        return None
    return Symmetric(algorithm, reader.uint(2, "symmetric.keyBits"), reader.one_of(_MODES, "symmetric.mode"))


def _parse_scheme(reader: Reader, table: dict[int, str], field: str) -> Scheme | None:
    name = reader.one_of({ALG_NULL: "null", **table}, field)
    if name == "null":
        return None
    return Scheme(name, None if name == "rsaes" else reader.hash_algorithm(f"{field}.hashAlg"))


def encode_public(public: Public) -> bytes:
    """The TPMT_PUBLIC of `public`. Raises FormatError where a field does not fit."""
    key = public.parameters
    head = (
        uint(ALG_RSA if isinstance(key, RsaParameters) else ALG_ECC, 2, "type")
        + hash_id(public.name_algorithm, "nameAlg")
        + uint(public.attributes, 4, "objectAttributes")
        + sized(public.auth_policy, "authPolicy", most=64)
        + _encode_symmetric(public.symmetric)
    )
    if isinstance(key, RsaParameters):
        return (
            head
            + _encode_scheme(public.scheme, _RSA_SCHEMES)
            + uint(key.bits, 2, "keyBits")
            + uint(key.exponent, 4, "exponent")
            + sized(key.modulus, "unique", most=MAX_RSA_BYTES)
        )
    return (
        head
        + _encode_scheme(public.scheme, _ECC_SCHEMES)
        + _number(key.curve, _CURVE_NAMES)
        + _encode_scheme(key.kdf, _KDFS)
        + sized(key.x, "x", most=MAX_ECC_BYTES)
        + sized(key.y, "y", most=MAX_ECC_BYTES)
    )


def _number(name: str, table: dict[int, str]) -> bytes:
    if name not in table.values():
        raise FormatError("TPMT_PUBLIC", "one of " + ", ".join(table.values()), repr(name)[:40])
    return uint(_NUMBERS[name], 2, name)


def _encode_symmetric(symmetric: Symmetric | None) -> bytes:
    if symmetric is None:
        return uint(ALG_NULL, 2, "symmetric")
    return _number(symmetric.algorithm, _SYMMETRIC) + uint(symmetric.bits, 2, "keyBits") + _number(symmetric.mode, _MODES)


def _encode_scheme(scheme: Scheme | None, table: dict[int, str]) -> bytes:
    if scheme is None:
        return uint(ALG_NULL, 2, "scheme")
    return _number(scheme.name, table) + (b"" if scheme.hash is None else hash_id(scheme.hash, "hashAlg"))


def parse_tpm2b_public(data: bytes) -> Public:
    """Read exactly one TPM2B_PUBLIC: a TPMT_PUBLIC behind its size. Raises FormatError."""
    reader = Reader(data, "TPM2B_PUBLIC")
    area = reader.sized("publicArea", most=len(data))
    reader.done()
    return parse_public(area)


def encode_tpm2b_public(public: Public) -> bytes:
    """The TPM2B_PUBLIC of `public`."""
    return sized(encode_public(public), "TPM2B_PUBLIC", most=0xFFFF)


def parse_any_public(data: bytes) -> Public:
    """Read a TPM2B_PUBLIC or a TPMT_PUBLIC, whichever it is. Raises FormatError.

    Never ambiguous: a TPM2B has a key type where a TPMT_PUBLIC has its name
    algorithm, and no number is both.
    """
    if int.from_bytes(data[2:4], "big") in (ALG_RSA, ALG_ECC):
        return parse_tpm2b_public(data)
    return parse_public(data)


# --- qualified names -------------------------------------------------------------------------------------------------


def qualified_name(parent_qualified_name: bytes, name: bytes) -> bytes:
    """The qualified name of the key `name` under its parent: nameAlg || H(parent's qualified name || name).

    Raises FormatError if `name` is not an algorithm and a digest of its size.

    Source: TPM 2.0 Library Part 1, "Qualified Names".
    """
    algorithm = HASHES.get(int.from_bytes(name[:2], "big"))
    if algorithm is None or len(name) != 2 + SIZES[algorithm]:
        raise FormatError("TPM name", "a hash algorithm and its digest", f"{len(name)} bytes")
    return HASH_IDS[algorithm].to_bytes(2, "big") + hash_bytes(algorithm, parent_qualified_name, name)


def primary_qualified_name(hierarchy: int, name: bytes) -> bytes:
    """The qualified name of the primary key `name` in a hierarchy such as RH_ENDORSEMENT, whose own name is its handle."""
    return qualified_name(uint(hierarchy, 4, "hierarchy"), name)
