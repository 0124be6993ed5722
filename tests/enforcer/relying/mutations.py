"""Requests with one thing changed at random, signed again where it was under a signature: the peers must answer them as we do."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from tests.enforcer.relying import lease_vectors, vectors
from tests.enforcer.relying.vectors import AGENT_KEY, AGENTS, CLAIMS, ISSUER_KEY, ISSUERS, Made, jws
from tests.world.chip import private_key, sign_ecdsa
from writ.formats.eat import encode_claims
from writ.formats.keys import ES256
from writ.formats.lease import encode_lease, parse_lease
from writ.formats.strict import encode_json
from writ.formats.tpm.signature import Signature, encode_signature

JSON_TEXT: Final = '{}[]",:0123456789aAzZ.eE-+_ \\/%*?#u\u00e9\u2028\n\t\x00\x7f'
COMPACT: Final = "ABab09-_.=+/ "
PATH: Final = "aA0/.-_~%*\\#"


def changed(text: str, chance: random.Random, alphabet: str) -> str:
    """`text` with one or two edits."""
    for _ in range(chance.randint(1, 2)):
        at, other = chance.randrange(len(text)), chance.randrange(len(text))
        low, high = sorted((at, other))
        text = chance.choice(
            [
                text[:at] + text[at + 1 :],
                text[:at] + chance.choice(alphabet) + text[at:],
                text[:at] + chance.choice(alphabet) + text[at + 1 :],
                text[:low] + text[low:high] * 2 + text[high:] if high - low < 40 else text[:low] + text[low + 1 :],
            ]
        )
        if not text:
            return "x"
    return text


def _token_header(chance: random.Random) -> Made:
    header = changed(encode_json(vectors.token_header(ISSUER_KEY)).decode(), chance, JSON_TEXT).encode()
    compact = jws(header, encode_claims(CLAIMS), ISSUER_KEY)
    return vectors.request(vectors.yes(), compact=compact)


def _claims(chance: random.Random) -> Made:
    signer = chance.choice([ISSUER_KEY, ISSUERS[ES256]])
    payload = changed(encode_claims(CLAIMS).decode(), chance, JSON_TEXT).encode()
    return vectors.request(vectors.yes(), compact=jws(vectors.token_header(signer), payload, signer))


def _proof_header(chance: random.Random) -> Made:
    compact, signer = vectors.token(), chance.choice([AGENT_KEY, AGENTS[ES256]])
    header = changed(encode_json(vectors.proof_header(signer)).decode(), chance, JSON_TEXT).encode()
    return vectors.request(vectors.yes(), compact=compact, shown=jws(header, encode_json(vectors.proof_claims(compact)), signer))


def _proof_claims(chance: random.Random) -> Made:
    compact = vectors.token()
    payload = changed(encode_json(vectors.proof_claims(compact)).decode(), chance, JSON_TEXT).encode()
    return vectors.request(vectors.yes(), compact=compact, shown=jws(vectors.proof_header(AGENT_KEY), payload, AGENT_KEY))


def _compact(chance: random.Random) -> Made:
    made = vectors.request(vectors.yes())
    line = chance.choice(made["headers"])
    line[1] = changed(line[1], chance, COMPACT)
    return made


def _lease_claim(chance: random.Random) -> Made:
    compact = lease_vectors.bound_token()
    payload = changed(encode_claims(replace(CLAIMS, lease=lease_vectors.CHIP.terms())).decode(), chance, JSON_TEXT).encode()
    spoilt = jws(vectors.token_header(ISSUER_KEY), payload, ISSUER_KEY)
    return lease_vectors.asked(vectors.yes(), lease_vectors.given(lease_vectors.after(5), spoilt), chance.choice([spoilt, spoilt, compact]))


def _lease(chance: random.Random) -> Made:
    """One or two bytes of what the TPM stated, under a signature over them; or of all of it."""
    compact, chip = lease_vectors.bound_token(), lease_vectors.after(chance.randrange(10))
    lease = parse_lease(lease_vectors.given(chip, compact))
    if chance.random() < 0.5:
        return lease_vectors.asked(vectors.yes(), _bytes(encode_lease(lease), chance), compact)
    attest = _bytes(lease.attest, chance)
    r, s = sign_ecdsa(private_key(chip.seed), attest)
    signed = replace(lease, attest=attest, signature=encode_signature(Signature("ecdsa", "sha256", r=r, s=s)))
    return lease_vectors.asked(vectors.yes(), encode_lease(signed), compact)


def _bytes(data: bytes, chance: random.Random) -> bytes:
    for _ in range(chance.randint(1, 2)):
        at = chance.randrange(len(data))
        other = bytes([chance.randrange(256)])
        data = chance.choice([data[:at] + data[at + 1 :], data[:at] + other + data[at:], data[:at] + other + data[at + 1 :]])
    return data


def _target(chance: random.Random) -> Made:
    """Proven as it is sent, so that the path itself is what decides."""
    target = "/" + changed(chance.choice(["v1/report", "v1/a/b/c", "v2/report", "v1/"]), chance, PATH)
    return vectors.request(vectors.yes(), target=target)


KINDS: Final[tuple[Callable[[random.Random], Made], ...]] = (
    _token_header, _claims, _claims, _proof_header, _proof_claims, _compact, _target, _lease, _lease_claim,
)  # fmt: skip


def cases(count: int, seed: int) -> list[Made]:
    """So many, the same for a seed."""
    chance = random.Random(seed)
    kinds = [KINDS[at % len(KINDS)] for at in range(count)]
    return [vectors.case(f"{kind.__name__} {at}", kind(chance)) for at, kind in enumerate(kinds)]
