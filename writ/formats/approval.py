"""An approval: a person says yes to one action that was refused, once, for a few minutes.

What is signed names the refused record by its leaf hash, and with it everything that the record says. Instance, action, resource, policy,
gate and the salted commitment to the arguments are said again, so that whoever signs reads what it is about; the commitment and not the
arguments, so that an approval says nothing any more once the log's contents are erased.

    18([ h'a3 01 32 03 78 … 04 58 20 …', {}, h'<payload>', h'<64 bytes>' ])     alg, content type and kid, the person's thumbprint
    {"v": 1, "instance": h'…', "action": "tool.call", "resource": "mcp:mail/send", "arguments": h'…', "policy": h'…', "gate": "socket",
     "refused": h'…', "made_at": 1790000000, "not_after": 1790000300, "id": h'…'}

Parsed is not yet approved: signer, policy and time are judged by `verdict.approval`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from writ.formats.action import Action
from writ.formats.cose import ALG, KID, Sign1, encode_sign1, parse_sign1
from writ.formats.cose import CONTENT_TYPE as CONTENT_TYPE_LABEL
from writ.formats.digest import Digest
from writ.formats.errors import FormatError
from writ.formats.keys import PublicKey, Signer
from writ.formats.strict import Fields, decode_cbor, encode_cbor

CONTENT_TYPE: Final = "application/vnd.writ.approval+cbor"
MAX_APPROVAL: Final = 4096
"""Bytes, signed."""
LIFE: Final = 900
"""Seconds between `made_at` and `not_after`, at most."""


@dataclass(frozen=True, slots=True)
class Approval:
    """What a person signs. Constructing one that breaks this raises FormatError.

    `instance` and `id` are 16 bytes, `arguments` is the commitment of the refused record, and `refused` its leaf hash. Times in seconds;
    it is dead at `not_after`.
    """

    instance: bytes
    action: str
    resource: str
    arguments: bytes
    policy: Digest
    gate: str
    refused: bytes
    made_at: int
    not_after: int
    id: bytes

    def __post_init__(self) -> None:
        Action(self.action, self.resource, Digest.of(b""))
        if not self.made_at < self.not_after <= self.made_at + LIFE:
            raise FormatError("approval.not_after", f"1 to {LIFE} seconds after made_at", f"{self.not_after - self.made_at}")


@dataclass(frozen=True, slots=True)
class SignedApproval:
    """An approval as parsed, with the signature that is said to be on it, and the digest of the whole message."""

    approval: Approval
    sign1: Sign1
    kid: bytes
    digest: Digest


def encode_approval(approval: Approval) -> bytes:
    """The one spelling of what is signed."""
    a = approval
    return encode_cbor(
        {
            "v": 1, "instance": a.instance, "action": a.action, "resource": a.resource, "arguments": a.arguments, "policy": a.policy.value,
            "gate": a.gate, "refused": a.refused, "made_at": a.made_at, "not_after": a.not_after, "id": a.id,
        }
    )  # fmt: skip


def parse_approval(data: bytes) -> Approval:
    """Read what is signed. Raises FormatError."""
    f = Fields(decode_cbor(data, "approval", max_size=MAX_APPROVAL), "approval")
    f.version(1)
    approval = Approval(
        instance=f.raw("instance", size=16),
        action=f.text("action", most=64),
        resource=f.text("resource", most=512),
        arguments=f.raw("arguments", size=32),
        policy=f.digest("policy"),
        gate=f.name("gate"),
        refused=f.raw("refused", size=32),
        made_at=f.uint("made_at"),
        not_after=f.uint("not_after"),
        id=f.raw("id", size=16),
    )
    f.done()
    return approval


def sign_approval(approval: Approval, signer: Signer) -> bytes:
    """The COSE_Sign1 that an enforcer takes."""
    return _signed(approval, signer.public, signer.sign)


def bytes_to_sign(approval: Approval, key: PublicKey) -> bytes:
    """What `key` signs where it is held elsewhere: the Sig_structure of RFC 9052 section 4.4. Ed25519 and ES256 sign it as it is."""
    seen: list[bytes] = []

    def look(message: bytes) -> bytes:
        seen.append(message)
        return bytes(64)

    _signed(approval, key, look)
    return seen[0]


def signed_elsewhere(to_sign: bytes, signature: bytes) -> bytes:
    """The COSE_Sign1 of bytes that `bytes_to_sign` made, and the raw signature (64 bytes) over them. Raises FormatError.

    Does not say whether the signature is right.
    """
    structure = decode_cbor(to_sign, "bytes to sign", max_size=MAX_APPROVAL)
    if not isinstance(structure, list) or len(structure) != 4 or not all(isinstance(one, bytes) for one in structure[1:]):
        raise FormatError("bytes to sign", "what `enforcer approve --out` wrote", type(structure).__name__)
    label, protected, aad, payload = structure
    if label != "Signature1" or aad:
        raise FormatError("bytes to sign", "what `enforcer approve --out` wrote", "another structure")
    if len(signature) != 64:
        raise FormatError("signature", "64 bytes: R and S, or r and s", f"{len(signature)} bytes")
    headers = Fields(decode_cbor(protected, "protected header"), "protected header")
    algorithm = {-19: "Ed25519", -9: "ES256"}.get(headers.any(ALG))
    if algorithm is None:
        raise FormatError("protected header", "alg -19 or -9", repr(headers.any(ALG))[:40])
    kid = headers.raw(KID, size=32)
    made = encode_sign1(payload, algorithm=algorithm, kid=kid, sign=lambda _: signature, content_type=CONTENT_TYPE)
    if parse_signed_approval(made).sign1.protected != protected:
        raise FormatError("protected header", "that of an approval", "another")
    return made


def parse_signed_approval(data: bytes) -> SignedApproval:
    """Read a signed approval, whose protected header says that it is one and names the key. Raises FormatError."""
    sign1 = parse_sign1(data, what="approval", max_size=MAX_APPROVAL)
    if (said := sign1.headers.get(CONTENT_TYPE_LABEL)) != CONTENT_TYPE:
        raise FormatError("approval.content_type", CONTENT_TYPE, repr(said)[:80])
    if sign1.payload is None:
        raise FormatError("approval", "an attached payload", "a detached one")
    if sign1.kid is None or len(sign1.kid) != 32:
        raise FormatError("approval.kid", "the thumbprint of a key, 32 bytes", "none" if sign1.kid is None else f"{len(sign1.kid)} bytes")
    return SignedApproval(parse_approval(sign1.payload), sign1, sign1.kid, Digest.of(data))


def _signed(approval: Approval, key: PublicKey, sign: Callable[[bytes], bytes]) -> bytes:
    payload = encode_approval(approval)
    return encode_sign1(payload, algorithm=key.algorithm, kid=key.thumbprint(), sign=sign, content_type=CONTENT_TYPE)
