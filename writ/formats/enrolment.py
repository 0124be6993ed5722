"""What an enrolment rested on, kept so that it can be judged again: admission, request, challenge, answer.

`EnrolDecision.evidence` is the SHA-256 of these bytes. The secret of the
challenge is in them: it worked once, for this challenge, and opens nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from writ.formats.digest import Digest
from writ.formats.strict import Fields, decode_cbor, encode_cbor

MAX_EVIDENCE: Final = 256 << 10


@dataclass(frozen=True, slots=True)
class EnrolmentEvidence:
    """`request` and `activation` are the messages of `exchange` as they came; `ek` and `unendorsed` what the operator admitted.

    `reset_count` is what was recorded of this TPM under an earlier enrolment of the host, None where nothing was.
    """

    host: str
    namespace: str
    generation: int
    ek: Digest | None
    unendorsed: bool
    request: bytes
    challenge: bytes
    secret: bytes
    activation: bytes
    reset_count: int | None


def encode_enrolment_evidence(evidence: EnrolmentEvidence) -> bytes:
    """The one spelling."""
    return encode_cbor(
        {
            "v": 1,
            "host": evidence.host,
            "namespace": evidence.namespace,
            "generation": evidence.generation,
            "ek": None if evidence.ek is None else evidence.ek.value,
            "unendorsed": evidence.unendorsed,
            "request": evidence.request,
            "challenge": evidence.challenge,
            "secret": evidence.secret,
            "activation": evidence.activation,
            "reset_count": evidence.reset_count,
        }
    )


def parse_enrolment_evidence(data: bytes) -> EnrolmentEvidence:
    """Read enrolment evidence. Raises FormatError."""
    f = Fields(decode_cbor(data, "enrolment evidence", max_size=MAX_EVIDENCE), "enrolment evidence")
    f.version(1)
    evidence = EnrolmentEvidence(
        host=f.name("host"),
        namespace=f.name("namespace"),
        generation=f.uint("generation"),
        ek=f.optional_digest("ek"),
        unendorsed=f.flag("unendorsed"),
        request=f.raw("request", most=MAX_EVIDENCE),
        challenge=f.raw("challenge", size=32),
        secret=f.raw("secret", most=64),
        activation=f.raw("activation", most=MAX_EVIDENCE),
        reset_count=f.optional_uint("reset_count", most=(1 << 32) - 1),
    )
    f.done()
    return evidence
