"""The trust file: whom an auditor or a verifier believes, and nothing else.

TPM manufacturer roots with the class of TPM they vouch for, lists of revoked
certificates, OCSP responses and the rules under which a chain is believed, the verifier's
decision keys and the keys of its log, and the domain they speak for. A file of public keys and
certificates: it needs integrity, not secrecy.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from writ.formats.crl import MAX_CRL
from writ.formats.digest import Digest
from writ.formats.errors import FormatError
from writ.formats.keys import PublicKey, parse_cose_key
from writ.formats.ocsp import MAX_OCSP
from writ.formats.state import TPM_CLASSES
from writ.formats.strict import Fields, decode_cbor, encode_cbor
from writ.formats.tlog.note import PLAIN, NoteKey, parse_vkey

MAX_TRUST: Final = 8 << 20
MOST_CERTIFICATES: Final = 2048
"""Roots, and as many intermediates."""
MOST_CRLS: Final = 256
MOST_OCSP: Final = 2048
"""OCSP responses, of which each certificate takes one of its own."""
MOST_LOG_KEYS: Final = 16
WEEK: Final = 7 * 86_400


@dataclass(frozen=True, slots=True, order=True)
class ManufacturerRoot:
    """A CA certificate (DER) whose EK certificates are believed, and the class of TPM that follows from it."""

    name: str
    tpm_class: str
    certificate: bytes

    def __post_init__(self) -> None:
        if self.tpm_class not in TPM_CLASSES:
            raise FormatError("trust.tpm_class", f"one of {', '.join(TPM_CLASSES)}", repr(self.tpm_class))


@dataclass(frozen=True, slots=True)
class ChainRules:
    """Under which rules a manufacturer's chain is believed.

    `crl_required`: a chain without a fresh CRL of each issuer on it, or a
    fresh OCSP response about what it issued, is refused; otherwise it is
    believed, and the want of one is noted. Either is fresh from its thisUpdate
    to its nextUpdate, and for at most `crl_max_age` seconds. `sha1` believes
    old chains that are signed with SHA-1, and the result says so. A certificate
    that one of them calls revoked is refused under any rule.
    """

    crl_required: bool = False
    crl_max_age: int = WEEK
    sha1: bool = False


@dataclass(frozen=True, slots=True)
class Trust:
    """Trust anchors. `intermediates` help to build chains and are believed below a root only, `crls` and `ocsp` under their issuer."""

    domain: str
    issuer: str
    roots: tuple[ManufacturerRoot, ...]
    intermediates: tuple[bytes, ...]
    decision_keys: tuple[PublicKey, ...]
    crls: tuple[bytes, ...] = ()
    rules: ChainRules = ChainRules()
    ocsp: tuple[bytes, ...] = ()
    log_keys: tuple[NoteKey, ...] = ()

    @property
    def digest(self) -> Digest:
        """The name of this set of anchors."""
        return Digest.of(encode_trust(self))

    def beside(self, *, intermediates: tuple[bytes, ...], crls: tuple[bytes, ...], ocsp: tuple[bytes, ...]) -> Trust:
        """The same anchors, with these beside what is held of what stands below a root: no root, key or rule is another."""
        return replace(
            self, intermediates=(*self.intermediates, *intermediates), crls=(*self.crls, *crls), ocsp=(*self.ocsp, *ocsp)
        )  # fmt: skip


def encode_trust(trust: Trust) -> bytes:
    """The one spelling of a trust file."""
    rules, ocsp, log_keys = trust.rules, sorted(set(trust.ocsp)), sorted({str(key) for key in trust.log_keys})
    return encode_cbor(
        {
            "v": 1,
            "domain": trust.domain,
            "issuer": trust.issuer,
            "roots": [[r.name, r.tpm_class, r.certificate] for r in sorted(set(trust.roots))],
            "intermediates": sorted(set(trust.intermediates)),
            "crls": sorted(set(trust.crls)),
            "rules": {"crl_required": rules.crl_required, "crl_max_age": rules.crl_max_age, "sha1": rules.sha1},
            "decision_keys": [k.to_cose_key() for k in trust.decision_keys],
        }
        | ({"ocsp": ocsp} if ocsp else {})
        | ({"log_keys": log_keys} if log_keys else {})
    )


def parse_trust(data: bytes) -> Trust:
    """Read a trust file. Raises FormatError."""
    f = Fields(decode_cbor(data, "trust", max_size=MAX_TRUST), "trust")
    f.version(1)
    rules = f.fields("rules")
    trust = Trust(
        domain=f.text("domain", least=1, most=255),
        issuer=f.text("issuer", least=1, most=255),
        roots=tuple(_root(item) for item in f.items("roots", most=MOST_CERTIFICATES)),
        intermediates=tuple(_der(item, "intermediates", 16384) for item in f.items("intermediates", most=MOST_CERTIFICATES)),
        decision_keys=tuple(parse_cose_key(item) for item in f.items("decision_keys", most=64)),
        crls=tuple(_der(item, "crls", MAX_CRL) for item in f.items("crls", most=MOST_CRLS)),
        rules=ChainRules(rules.flag("crl_required"), rules.uint("crl_max_age"), rules.flag("sha1")),
        ocsp=_responses(f) if f.has("ocsp") else (),
        log_keys=_log_keys(f) if f.has("log_keys") else (),
    )
    rules.done()
    f.done()
    if list(trust.roots) != sorted(set(trust.roots)):
        raise FormatError("trust", "roots as a sorted set", "another order")
    for name, items in (("intermediates", trust.intermediates), ("crls", trust.crls), ("ocsp", trust.ocsp)):
        if list(items) != sorted(set(items)):
            raise FormatError("trust", f"{name} as a sorted set", "another order")
    return trust


def _root(value: object) -> ManufacturerRoot:
    if not isinstance(value, list) or len(value) != 3:
        raise FormatError("trust.roots", "[name, class, certificate]", type(value).__name__)
    f = Fields(dict(enumerate(value)), "trust.roots")
    return ManufacturerRoot(f.text(0, least=1, most=255), f.text(1), f.raw(2, most=16384))


def _responses(f: Fields) -> tuple[bytes, ...]:
    """What is absent where there is nothing to say."""
    items = f.items("ocsp", most=MOST_OCSP)
    if not items:
        raise FormatError("trust.ocsp", "one or more, or no such key", "none")
    return tuple(_der(item, "ocsp", MAX_OCSP) for item in items)


def _log_keys(f: Fields) -> tuple[NoteKey, ...]:
    """Absent, too, where there is nothing to say."""
    items = f.items("log_keys", most=MOST_LOG_KEYS)
    named = Fields(dict(enumerate(items)), "trust.log_keys")
    keys = tuple(parse_vkey(named.text(at, most=512)) for at in range(len(items)))
    spelt = [str(key) for key in keys]
    if not keys or spelt != sorted(set(spelt)) or any(key.kind != PLAIN for key in keys):
        raise FormatError("trust.log_keys", "one or more plain keys as a sorted set, or no such key", f"{len(keys)}")
    return keys


def _der(value: object, what: str, most: int) -> bytes:
    if not isinstance(value, bytes) or len(value) > most:
        raise FormatError(f"trust.{what}", f"DER of at most {most} bytes", type(value).__name__)
    return value
