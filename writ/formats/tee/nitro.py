"""AWS Nitro: the attestation document of an enclave, or of an instance with a NitroTPM, as the Nitro hypervisor signs it.

    COSE_Sign1, tagged or not: protected { 1: -35 }, unprotected {}, payload, 96 bytes of ES384
    payload { "module_id": text, "digest": "SHA384", "timestamp": ms, "pcrs" or "nitrotpm_pcrs": { 0..31 => 32, 48 or 64 bytes },
              "certificate": DER, "cabundle": [ root, …, issuer ], "public_key", "user_data", "nonce": bytes or null }

The payload is kept as it was signed: its CBOR is read with any lengths and orders, and each key once. What the hypervisor may add is passed
over. Some services carry a document as hexadecimal in a name of their TLS certificate, whose key it binds (`document_in_names`).

Source: AWS nitro-enclaves-nsm-api, attestation_process.md; Amazon EC2 user guide, "Validate a NitroTPM Attestation Document"; RFC 9052.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from writ.formats.cose import ALG, SIGN1_TAG, Sign1, parse_sign1
from writ.formats.der import SEQUENCE, DerReader
from writ.formats.errors import FormatError
from writ.formats.strict import decode_cbor
from writ.formats.x509 import Certificate, extension_values, parse_certificate, parse_kept_certificate

MAX_DOCUMENT: Final = 32768
"""Bytes; the hypervisor's buffer holds 16 KiB, which is what documents fit into."""
ENCLAVE: Final = "enclave"
NITROTPM: Final = "nitrotpm"
PCRS: Final = {ENCLAVE: "pcrs", NITROTPM: "nitrotpm_pcrs"}
"""Kind -> the field of its registers."""
MOST_PCRS: Final = 32
MAX_NONCE: Final = 512
"""Bytes of nonce and user data of an enclave; those of a NitroTPM document may have as many as a public key."""
MAX_KEY: Final = 1024
MAX_LINK: Final = 1024
"""Bytes of each certificate."""
MOST_LINKS: Final = 16

_SIZES: Final = frozenset({32, 48, 64})
_ES384: Final = -35
_SAN: Final = "2.5.29.17"
_DNS: Final = 0x82
_IN_NAME: Final = re.compile(rb"((?:[0-9a-fA-F]{2}){512,})(?:\.|\Z)")


@dataclass(frozen=True, slots=True)
class NitroDocument:
    """An attestation document as parsed. Says nothing yet about who signed it.

    `kind` is "enclave" or "nitrotpm"; `timestamp` is in milliseconds since the epoch; `certificate` is of the key that signed, `bundle`
    the CAs as they came, the root first. What the document leaves out, or has as null, is None.
    """

    sign1: Sign1
    kind: str
    module_id: str
    timestamp: int
    pcrs: Mapping[int, bytes] = field(hash=False)
    certificate: Certificate
    bundle: tuple[Certificate, ...]
    public_key: bytes | None
    user_data: bytes | None
    nonce: bytes | None

    @property
    def debug(self) -> bool:
        """Whether nothing was measured: the hypervisor leaves PCR 0 to 2 of an enclave in debug mode zero."""
        return not any(any(self.pcrs.get(index, b"")) for index in range(3))


def parse_document(data: bytes) -> NitroDocument:
    """Read exactly one document. Raises FormatError, and nothing else."""
    what = "Nitro document"
    sign1 = parse_sign1(data, tagged=data[:1] == bytes((0xC0 + SIGN1_TAG,)), foreign=True, what=what, max_size=MAX_DOCUMENT)
    if dict(sign1.headers) != {ALG: _ES384}:
        raise FormatError(f"{what} protected header", "alg -35 (ES384) and nothing else", repr(dict(sign1.headers))[:80])
    if sign1.unprotected:
        raise FormatError(f"{what} unprotected header", "an empty map", f"{len(sign1.unprotected)} labels")
    if not sign1.payload:
        raise FormatError(f"{what} payload", "the document", "none")
    said = decode_cbor(sign1.payload, what, max_size=MAX_DOCUMENT, one_spelling=False)
    if not isinstance(said, dict):
        raise FormatError(what, "a map", type(said).__name__)
    kinds = [kind for kind, name in PCRS.items() if name in said]
    if len(kinds) != 1:
        raise FormatError(what, "one of " + ", ".join(PCRS.values()), "both" if kinds else "neither")
    kind = kinds[0]
    module, timestamp = said.get("module_id"), said.get("timestamp")
    if not isinstance(module, str) or not module or len(module) > 256:
        raise FormatError(f"{what}.module_id", "text of 1 to 256 characters", repr(module)[:40])
    if said.get("digest") != "SHA384":
        raise FormatError(f"{what}.digest", "SHA384", repr(said.get("digest"))[:40])
    if isinstance(timestamp, bool) or not isinstance(timestamp, int) or timestamp <= 0:
        raise FormatError(f"{what}.timestamp", "milliseconds since the epoch", repr(timestamp)[:40])
    most = MAX_NONCE if kind == ENCLAVE else MAX_KEY
    return NitroDocument(
        sign1,
        kind,
        module,
        timestamp,
        _pcrs(said[PCRS[kind]], f"{what}.{PCRS[kind]}"),
        parse_certificate(_bytes(said, "certificate", 1, MAX_LINK) or b""),
        _bundle(said.get("cabundle"), f"{what}.cabundle"),
        _optional(said, "public_key", 1, MAX_KEY),
        _optional(said, "user_data", 0, most),
        _optional(said, "nonce", 0, most),
    )


def _bytes(said: Mapping[Any, Any], name: str, least: int, most: int) -> bytes:
    value = said.get(name)
    if not isinstance(value, bytes) or not least <= len(value) <= most:
        got = f"{len(value)} bytes" if isinstance(value, bytes) else type(value).__name__
        raise FormatError(f"Nitro document.{name}", f"{least} to {most} bytes", got)
    return value


def _optional(said: Mapping[Any, Any], name: str, least: int, most: int) -> bytes | None:
    return None if said.get(name) is None else _bytes(said, name, least, most)


def _pcrs(value: object, what: str) -> dict[int, bytes]:
    if not isinstance(value, dict) or not 1 <= len(value) <= MOST_PCRS:
        raise FormatError(what, f"a map of 1 to {MOST_PCRS} registers", type(value).__name__)
    for index, register in value.items():
        if not isinstance(index, int) or not 0 <= index < MOST_PCRS:
            raise FormatError(what, f"indices 0 to {MOST_PCRS - 1}", repr(index)[:40])
        if not isinstance(register, bytes) or len(register) not in _SIZES:
            raise FormatError(f"{what}[{index}]", "32, 48 or 64 bytes", repr(register)[:40])
    return dict(sorted(value.items()))


def _bundle(value: object, what: str) -> tuple[Certificate, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= MOST_LINKS:
        raise FormatError(what, f"1 to {MOST_LINKS} certificates", f"{len(value)}" if isinstance(value, list) else type(value).__name__)
    return tuple(parse_kept_certificate(_bytes({"cabundle": one}, "cabundle", 1, MAX_LINK)) for one in value)


def document_in_names(certificate: Certificate) -> bytes:
    """The document that the DNS names of a TLS certificate carry, in hexadecimal up to the first dot. Raises FormatError."""
    reader = DerReader(extension_values(certificate).get(_SAN, b"\x30\x00"), "subjectAltName")
    names, found = reader.sequence("names", SEQUENCE), []
    while names.more:
        if (name := names.next("name")).tag == _DNS and (match := _IN_NAME.match(name.content)):
            found.append(bytes.fromhex(match[1].decode("ascii")))
    if len(found) != 1:
        raise FormatError("certificate", "one DNS name with a Nitro document in hexadecimal", f"{len(found)}")
    return found[0]
