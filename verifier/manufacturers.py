"""TPM manufacturers: whose roots are pinned by fingerprint, and which files of a folder may be believed for it.

The list (`manufacturers.toml`) holds fingerprints and addresses, never a
certificate. A file is believed as a root because its bytes are those that are
pinned; as an intermediate because a pinned root certifies it; as a CRL because
its issuer signed it; an OCSP response because the issuer or its responder did.
Everything else is refused with a reason, one by one.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from writ.formats.crl import Crl, kept_crl, parse_crl
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Refused
from writ.formats.ocsp import OcspResponse, kept_ocsp, parse_ocsp
from writ.formats.reason import Reason
from writ.formats.state import TPM_CLASSES
from writ.formats.strict import Fields
from writ.formats.trust import ChainRules, ManufacturerRoot, Trust
from writ.formats.x509 import Certificate, parse_pem_certificates, parse_stored_certificate, to_pem
from writ.verdict.chain import verify_chain
from writ.verdict.revocation import judge_crl, judge_response, newest_crl

OCSP_FILES: Final = (".ocsp", ".ors")
"""How files with an OCSP response are named; a CRL in PEM is known by its first line, a response has none."""
OFFERED: Final = (".pem", ".crt", ".cer", ".der", ".crl", *OCSP_FILES)
"""How files are named that a directory is searched for."""
LIST: Final = Path(__file__).parent / "manufacturers.toml"
MOST_ROOTS: Final = 512


@dataclass(frozen=True, slots=True)
class PinnedRoot:
    """A root by the SHA-256 of its DER. `manufacturer` is the TCG vendor id; `addresses` are where it is published, best first."""

    name: str
    manufacturer: str
    tpm_class: str
    fingerprint: Digest
    addresses: tuple[str, ...]
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Offered:
    """One file that somebody offers as a certificate, CRL or OCSP response: its name, which says if it is the last, and its bytes."""

    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Taken:
    """What of the offered files may be believed; `refused` says which may not, and why."""

    roots: tuple[ManufacturerRoot, ...]
    intermediates: tuple[bytes, ...]
    crls: tuple[bytes, ...]
    ocsp: tuple[bytes, ...]
    refused: tuple[tuple[str, Reason], ...]


@cache
def pinned_roots() -> tuple[PinnedRoot, ...]:
    """The product's list. Raises FormatError if the file is not what it should be."""
    return parse_pinned_roots(LIST.read_text("utf-8"))


def parse_pinned_roots(text: str) -> tuple[PinnedRoot, ...]:
    """Read the list: every key known, names and fingerprints each once. Raises FormatError."""
    try:
        document = Fields(tomllib.loads(text), "manufacturers")
    except tomllib.TOMLDecodeError:
        raise FormatError("manufacturers", "TOML", "something else") from None
    found = tuple(_pinned(item) for item in document.items("root", most=MOST_ROOTS))
    document.done()
    for what, values in (("name", [one.name for one in found]), ("sha256", [str(one.fingerprint) for one in found])):
        if len(set(values)) != len(values):
            raise FormatError(f"manufacturers.{what}", "each once", "one twice")
    return found


def _pinned(item: object) -> PinnedRoot:
    f = Fields(item, "manufacturers.root")
    root = PinnedRoot(
        f.text("name", least=1, most=255), f.text("manufacturer", least=2, most=4), f.text("tpm_class"),
        Digest.parse("sha256:" + f.text("sha256")), _texts(f, "addresses"), _texts(f, "sources"),
    )  # fmt: skip
    f.done()
    if root.tpm_class not in TPM_CLASSES:
        raise FormatError("manufacturers.tpm_class", f"one of {', '.join(TPM_CLASSES)}", root.tpm_class)
    for address in root.addresses:
        if urlsplit(address).scheme not in ("http", "https") or not urlsplit(address).hostname:
            raise FormatError("manufacturers.addresses", "http or https addresses", address[:80])
    if not root.sources:
        raise FormatError("manufacturers.sources", "at least one", "none")
    return root


def _texts(f: Fields, key: str) -> tuple[str, ...]:
    given = f.items(key, most=16)
    items = Fields(dict(enumerate(given)), f"manufacturers.{key}")
    return tuple(items.text(index, least=1, most=1024) for index in range(len(given)))


def take(
    offered: Sequence[Offered],
    pinned: Sequence[PinnedRoot],
    *,
    believed: Sequence[ManufacturerRoot] = (),
    below: Sequence[bytes] = (),
    held: Sequence[bytes] = (),
    answers: Sequence[bytes] = (),
    rules: ChainRules,
    now: int,
) -> Taken:
    """What of `offered` may be believed, given what is pinned, and what is already: roots, intermediates (`below`), CRLs (`held`), OCSP
    responses (`answers`).

    1. Every file is read as certificates (PEM, DER, or as an NV index holds it), as a CRL or as an OCSP response.
    2. A certificate with a pinned fingerprint is a root, of the class that the list says.
    3. A CA that chains to one of those, or to a root believed already, is an intermediate.
    4. A CRL that a root or an intermediate signed is taken, fresh or not: how old it may be is asked when it is used. But none takes the
       place of a later one of its issuer.
    5. So is an OCSP response about a certificate of one of them, by it or by its responder; none takes the place of a later one.

    A self-issued CA without a pinned fingerprint is refused as `fingerprint-mismatch`, also where it bears the name of one.
    """
    refused: list[tuple[str, Reason]] = []
    # 1
    certificates: dict[bytes, tuple[str, Certificate]] = {}
    crls: list[tuple[str, Crl]] = []
    responses: list[tuple[str, OcspResponse]] = []
    for file in offered:
        try:
            if _is_crl(file):
                crls.append((file.name, parse_crl(file.data)))
                continue
            if _is_ocsp(file):
                responses.append((file.name, parse_ocsp(file.data)))
                continue
            for one in _certificates(file):
                certificates.setdefault(one.der, (file.name, one))
        except FormatError as error:
            refused.append((file.name, Reason("malformed", error.what[:200], error.expected, error.got)))
    # 2
    by_fingerprint: Mapping[Digest, PinnedRoot] = {one.fingerprint: one for one in pinned}
    roots: list[ManufacturerRoot] = list(believed)
    candidates: list[tuple[str, Certificate]] = []
    for name, one in certificates.values():
        if (pin := by_fingerprint.get(Digest.of(one.der))) is not None:
            roots.append(ManufacturerRoot(pin.name, pin.tpm_class, one.der))
        elif one.is_self_issued:
            refused.append((name, Reason("fingerprint-mismatch", "certificate", "a pinned fingerprint", str(Digest.of(one.der)))))
        else:
            candidates.append((name, one))
    # 3
    trust = Trust("import", "import", tuple(sorted(set(roots))), tuple(sorted(set(below))), (), (), replace(rules, crl_required=False))
    others = tuple(one.der for _, one in candidates)
    intermediates: list[Certificate] = []
    for name, one in candidates:
        if not one.is_ca:
            refused.append((name, Reason("ek-certificate-refused", "certificate", "a CA", "a certificate that is none")))
            continue
        try:
            verify_chain((one.der, *others), trust, now=now)
            intermediates.append(one)
        except Refused as error:
            refused.extend((name, reason) for reason in error.reasons)
    # 4
    issuers = (
        *(one for _, one in certificates.values() if Digest.of(one.der) in by_fingerprint),
        *intermediates,
        *authorities(believed, below),
    )
    known = [kept_crl(der) for der in held]
    taken: list[bytes] = []
    for name, crl in sorted(crls, key=lambda one: one[1].this_update, reverse=True):
        if not any(newest_crl((crl,), issuer, rules, now=max(now, crl.this_update)) for issuer in issuers):
            refused.append((name, Reason("trust-root-unknown", "crl", "a CRL signed by a CA that is believed", "another")))
        elif (reason := judge_crl(crl, known, issuers, now=now)) is not None:
            refused.append((name, reason))
        else:
            taken.append(crl.der)
            known.append(crl)
    # 5
    told = [kept_ocsp(der) for der in answers]
    answered: set[bytes] = set()
    for name, response in sorted(responses, key=lambda one: one[1].this_update, reverse=True):
        if (reason := judge_response(response, told, known, issuers, rules, now=now)) is not None:
            refused.append((name, reason))
        else:
            answered.add(response.der)
            told.append(response)
    new = tuple(sorted({root for root in roots if root not in believed}))
    below_them = tuple(sorted({one.der for one in intermediates}))
    return Taken(new, below_them, tuple(sorted(set(taken))), tuple(sorted(answered)), tuple(refused))


def authorities(roots: Iterable[ManufacturerRoot], below: Iterable[bytes]) -> tuple[Certificate, ...]:
    """The certificates of roots and intermediates, read. Raises FormatError."""
    return tuple(parse_stored_certificate(der) for der in (*(root.certificate for root in roots), *below))


def vouched(files: Sequence[Offered]) -> tuple[str, list[Offered]]:
    """The certificates among `files` in PEM, for which an operator vouches; and what nobody can vouch for: CRLs and OCSP responses.

    Raises FormatError.
    """
    others = [file for file in files if _is_crl(file) or _is_ocsp(file)]
    found = [one for file in files if file not in others for one in _certificates(file)]
    return "".join(to_pem(one) for one in found), others


def _is_crl(file: Offered) -> bool:
    return b"-----BEGIN X509 CRL" in file.data[:4096] or file.name.lower().endswith(".crl")


def _is_ocsp(file: Offered) -> bool:
    return file.name.lower().endswith(OCSP_FILES)


def _certificates(file: Offered) -> tuple[Certificate, ...]:
    if b"-----BEGIN" in file.data:
        return parse_pem_certificates(file.data, file.name)
    try:
        return (parse_stored_certificate(file.data),)
    except FormatError as error:
        raise FormatError(file.name, "a certificate, in PEM or DER", f"none ({error})"[:200]) from None
