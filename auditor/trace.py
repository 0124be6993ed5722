"""`auditor trace`: what a bundle proves, as a TRACE v0.2 record beside the bundle, for tools that read those.

    {"eat_profile": "tag:agentrust-io.com,2026:trace-v0.2", "subject": "spiffe://…", "runtime": {"platform": "tpm2", …},
     "references": [{"rel": "behavior-trace", "digest": "sha256:…", …}], …, "signature": "…"}

The record is a statement of whoever signs it, and no evidence: it has no room for a quote. So it names the proof bundle by digest, which
holds the quote and what vouches for it, and whoever wants to know runs `auditor verify` on that. A record is made of what was proven a
moment ago and of nothing else, but for what no bundle holds and is the exporter's word: the model, and the class of the data.

Source: TRACE v0.2 (agentrust-trace 0.11.0, schema `trace-v0.2.json`; specification sections 3.1, 3.2.2); RFC 8785.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from auditor.files import read, write
from writ.formats.digest import Digest
from writ.formats.ear import parse_ear_cbor
from writ.formats.errors import FormatError
from writ.formats.evidence import Evidence, parse_evidence
from writ.formats.keys import ED25519, Signer
from writ.formats.proof_bundle import MAX_BUNDLE, ProofBundle, TokenProof, parse_proof
from writ.formats.strict import b64url, encode_json
from writ.formats.tlog.cosignature import MAX_POLICY, parse_policy
from writ.formats.tpm.attest import QuoteInfo, parse_attest
from writ.formats.trust import MAX_TRUST, parse_trust
from writ.service import cli
from writ.service.signers import load_signer
from writ.verdict.proof import prove
from writ.verdict.token_proof import ProvenToken, prove_token

PROFILE: Final = "tag:agentrust-io.com,2026:trace-v0.2"
_ALGORITHMS: Final = {32: "sha256", 48: "sha384"}


@dataclass(frozen=True, slots=True)
class Said:
    """What no bundle holds, and the exporter says: who offers the model and what it is called, and the class of the data."""

    provider: str
    model: str
    data_class: str


def run(args: argparse.Namespace) -> int:
    """The verb: the bundle is proven, and a record of it is written. Raises Refused, FormatError, Unavailable."""
    data = read(args.bundle, MAX_BUNDLE)
    bundle, trust = parse_proof(data), parse_trust(read(args.trust, MAX_TRUST))
    witnesses = None if args.policy is None else parse_policy(read(args.policy, MAX_POLICY))
    proven = prove(bundle, trust, witnesses).chain if isinstance(bundle, ProofBundle) else prove_token(bundle, trust, witnesses)
    provider, parted, model = args.model.partition("/")
    if not (provider and parted and model and args.data_class):
        raise FormatError("--model", "PROVIDER/MODEL, and a data class", repr(args.model)[:80])
    said = Said(provider, model, args.data_class)
    record = trace_record(bundle, proven, said, name=args.bundle.name, encoded=Digest.of(data), now=int(time.time()))
    write(args.out, sign_trace(record, load_signer(args.key)) + b"\n")
    told = {name: record[name] for name in ("runtime", "appraisal")}
    cli.emit({"written": str(args.out), **told}, as_json=args.json)
    return cli.ACCEPTED


def trace_record(bundle: TokenProof, proven: ProvenToken, said: Said, *, name: str, encoded: Digest, now: int) -> dict[str, object]:
    """The claims of a record of `bundle`, which is proven, and lies beside it under `name` with the digest `encoded`.

    `platform` is `software-only` where the trust file calls the TPM's maker one of software, and `tpm2` for any other. The status is
    affirming only where the token says so of the runtime, nothing was excepted, and the result says so of host and instance; else it is a
    warning. SLSA level 0: nobody here knows more of a build than its digest, which is that of all that was measured of the agent.
    Raises FormatError.
    """
    claims, evidence = proven.token.claims, parse_evidence(bundle.evidence)
    return {
        "eat_profile": PROFILE,
        "iat": now,
        "subject": str(claims.agent),
        "model": {"provider": said.provider, "model_id": said.model},
        "runtime": {
            "platform": "software-only" if proven.host.tpm_class == "software" else "tpm2",
            "measurement": _composite(evidence),
            "nonce": b64url(evidence.nonce.value),
        },
        "policy": {"bundle_hash": str(proven.policy.digest), "enforcement_mode": "enforce", "version": str(proven.policy.version)},
        "data_class": said.data_class,
        "build_provenance": {"slsa_level": 0, "digest": str(proven.manifest)},
        "appraisal": {
            "status": _status(bundle, proven),
            "verifier": claims.issuer,
            "timestamp": proven.attested_at,
        },
        "origin": {"kind": "self", "producer": claims.issuer},
        "references": [{"rel": "behavior-trace", "id": name, "resolver": claims.issuer, "digest": str(encoded)}],
    }


def sign_trace(record: Mapping[str, object], signer: Signer) -> bytes:
    """The record with the signer's public key and its signature over all else, as JSON. Raises FormatError for a key that is not Ed25519.

    Its members have ASCII names and whole numbers, so the one spelling of ours is that of RFC 8785.
    """
    if signer.public.algorithm != ED25519:
        raise FormatError("signing key", "one of Ed25519, as a signature in a record takes", signer.public.algorithm)
    whole = {**record, "cnf": {"jwk": signer.public.to_jwk()}}
    return encode_json({**whole, "signature": b64url(signer.sign(encode_json(whole)))})


def _status(bundle: TokenProof, proven: ProvenToken) -> str:
    names = ("host", f"instance.{proven.token.claims.instance.hex()}")
    judged = [sub.status for name, sub in parse_ear_cbor(bundle.result).submodules if name in names]
    sound = (proven.runtime, proven.exceptions, judged) == ("affirming", (), ["affirming"] * 2)
    return "affirming" if sound else "warning"


def _composite(evidence: Evidence) -> str:
    """The digest over the registers, as the TPM quoted it."""
    body = parse_attest(evidence.attest).body
    if not isinstance(body, QuoteInfo) or len(body.pcr_digest) not in _ALGORITHMS:
        raise FormatError("evidence.quote", "a digest of PCRs of 32 or 48 bytes", type(body).__name__)
    return f"{_ALGORITHMS[len(body.pcr_digest)]}:{body.pcr_digest.hex()}"
