"""Evidence: what one attestation carries, and the bytes that its quote binds.

One quote covers all instances of a host. `extraData` of the quote is
`binding(...)`: SHA-256 over deterministic CBOR of

    ["writ/attest/v1", verifier key thumbprint, host, nonce,
     [[session key thumbprint, instance, audience, grants, log size, log root], …],
     [digest of each further evidence, …]]

so nothing that travels beside the quote can be exchanged, and a quote made for
another protocol, verifier or host says nothing here.

On the wire it is a CMW collection (RFC 9999) of four members, and the logs of
firmware, systemd and IMA beside them as the kernel gives them; those are bound
by replay to the quoted PCRs, not by `extraData`, and so are the anchors of
action logs, where some were made since the last quote. The lease keys of the instances
travel there too where the policy asks for them, and are the one further
evidence whose digest `extraData` names. What is only parsed is not yet
believed (`verdict.evidence` does that).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from writ.formats.anchor import MAX_ANCHORED, Anchors, parse_anchors
from writ.formats.cmw import encode_collection, parse_collection
from writ.formats.digest import Digest, Nonce
from writ.formats.errors import FormatError
from writ.formats.grants import Grant, encode_grants, parse_grants
from writ.formats.keys import PublicKey, parse_cose_key
from writ.formats.lease import LeaseKeys, encode_lease_keys, parse_lease_keys
from writ.formats.strict import Fields, decode_cbor, encode_cbor
from writ.formats.tpm.pcr import PcrValues

MAX_SIZE: Final = 32 << 20
"""Bytes: more than 100,000 IMA entries beside the runtime log of as many launches as fit."""
MAX_REQUESTS: Final = 256
MAX_PROOF: Final = 64

QUOTE_TYPE: Final = "application/vnd.writ.tpm-quote+cbor"
LOG_TYPE: Final = "application/vnd.writ.runtime-log"
MANIFESTS_TYPE: Final = "application/vnd.writ.measurements+cbor"
REQUESTS_TYPE: Final = "application/vnd.writ.requests+cbor"
UEFI_LOG_TYPE: Final = "application/vnd.writ.uefi-log"
SYSTEMD_LOG_TYPE: Final = "application/vnd.writ.systemd-log"
IMA_LOG_TYPE: Final = "application/vnd.writ.ima-log+cbor"
LEASE_KEYS_TYPE: Final = "application/vnd.writ.lease-keys+cbor"
ANCHORS_TYPE: Final = "application/vnd.writ.anchors+cbor"
COLLECTION_TYPE: Final = "urn:writ:evidence:1"
_REQUIRED: Final = {"manifests": MANIFESTS_TYPE, "quote": QUOTE_TYPE, "requests": REQUESTS_TYPE, "runtime-log": LOG_TYPE}
_OPTIONAL: Final = {
    "anchors": ANCHORS_TYPE, "ima-log": IMA_LOG_TYPE, "lease-keys": LEASE_KEYS_TYPE, "systemd-log": SYSTEMD_LOG_TYPE,
    "uefi-log": UEFI_LOG_TYPE,
}  # fmt: skip

ATTEST_TAG: Final = "writ/attest/v1"
ENROL_TAG: Final = "writ/enrol/v1"


@dataclass(frozen=True, slots=True)
class InstanceRequest:
    """One instance asking for a token, with the checkpoint of its action log.

    `log_proof` is the consistency proof from the checkpoint carried last
    (`log_from`) to this one, `anchored` the proofs from anchored checkpoints,
    by their sizes; they are not bound, since they prove themselves.
    """

    instance: bytes
    session_key: PublicKey
    audience: str
    grants: tuple[Grant, ...]
    log_size: int
    log_root: bytes
    log_from: int
    log_proof: tuple[bytes, ...]
    anchored: tuple[tuple[int, tuple[bytes, ...]], ...] = ()

    def bound(self) -> list[object]:
        """The part of the request that the quote binds."""
        return [self.session_key.thumbprint(), self.instance, self.audience, encode_grants(self.grants), self.log_size, self.log_root]


@dataclass(frozen=True, slots=True)
class ImaLog:
    """Of the kernel's `binary_runtime_measurements`, the bytes of the entries from number `first` on.

    `more` says that they are a part: they end before the quoted register, and the rest follows.
    """

    first: int
    entries: bytes
    more: bool = False


@dataclass(frozen=True, slots=True)
class Evidence:
    """One attestation of a host, as it arrived.

    `attest` is a TPMS_ATTEST, `signature` a TPMT_SIGNATURE, `log` the CEL
    records from number `log_first` on, `measurements` the encoded preimages of
    the manifest roots that start events in `log` name. `uefi_log` is the
    kernel's `binary_bios_measurements` and `systemd_log` systemd's
    `tpm2-measure.log`, each whole, where they travel.
    """

    host: str
    nonce: Nonce
    attest: bytes
    signature: bytes
    pcrs: PcrValues
    log_first: int
    log: bytes
    measurements: tuple[bytes, ...]
    requests: tuple[InstanceRequest, ...]
    uefi_log: bytes | None = None
    systemd_log: bytes | None = None
    ima_log: ImaLog | None = None
    lease_keys: LeaseKeys | None = None
    anchors: Anchors | None = None

    @property
    def further(self) -> tuple[Digest, ...]:
        """The digests of further evidence, as `binding` takes them."""
        return further(self.lease_keys)


def further(lease_keys: LeaseKeys | None) -> tuple[Digest, ...]:
    """The digests of what travels beside the quote and is bound by nothing else."""
    return () if lease_keys is None else (Digest.of(encode_lease_keys(lease_keys)),)


def binding(verifier: bytes, host: str, nonce: Nonce, requests: tuple[InstanceRequest, ...], further: tuple[Digest, ...] = ()) -> bytes:
    """The 32 bytes of `extraData` for an attestation. `verifier` is the thumbprint of the verifier's decision key."""
    bound = [ATTEST_TAG, verifier, host, nonce.value, [r.bound() for r in requests], [d.value for d in further]]
    return Digest.of(encode_cbor(bound)).value


def enrolment_binding(host: str, host_key: bytes, challenge: bytes, secret: bytes) -> bytes:
    """The 32 bytes of `extraData` for the quote that answers an activation challenge."""
    return Digest.of(encode_cbor([ENROL_TAG, host, host_key, challenge, secret])).value


def encode_evidence(evidence: Evidence) -> bytes:
    """The CMW collection."""
    quote = {
        "v": 1,
        "host": evidence.host,
        "nonce": evidence.nonce.value,
        "attest": evidence.attest,
        "signature": evidence.signature,
        "bank": evidence.pcrs.bank,
        "pcrs": dict(evidence.pcrs.values),
    }
    log = encode_cbor({"v": 1, "first": evidence.log_first, "records": evidence.log})
    requests = {"v": 1, "requests": [_request_out(r) for r in evidence.requests]}
    members = {
        "manifests": encode_cbor({"v": 1, "items": list(evidence.measurements)}),
        "quote": encode_cbor(quote),
        "requests": encode_cbor(requests),
        "runtime-log": log,
    }
    if evidence.uefi_log is not None:
        members["uefi-log"] = evidence.uefi_log
    if evidence.systemd_log is not None:
        members["systemd-log"] = evidence.systemd_log
    if evidence.ima_log is not None:
        listed = {"v": 1, "first": evidence.ima_log.first, "entries": evidence.ima_log.entries}
        members["ima-log"] = encode_cbor({**listed, "more": True} if evidence.ima_log.more else listed)
    if evidence.lease_keys is not None:
        members["lease-keys"] = encode_lease_keys(evidence.lease_keys)
    if evidence.anchors is not None:
        members["anchors"] = encode_cbor(evidence.anchors.to_cbor())
    types = {**_REQUIRED, **_OPTIONAL}
    return encode_collection({label: (types[label], value, None) for label, value in members.items()}, collection_type=COLLECTION_TYPE)


def parse_evidence(data: bytes) -> Evidence:
    """Read the CMW collection. Raises FormatError."""
    members = _members(data)
    q = Fields(decode_cbor(members["quote"], "evidence.quote"), "evidence.quote")
    q.version(1)
    host, nonce = q.name("host"), Nonce(q.raw("nonce", size=32))
    attest, signature, bank = q.raw("attest", most=4096), q.raw("signature", most=2048), q.text("bank")
    pcrs = PcrValues(bank, tuple(sorted(_pcr(k, v) for k, v in q.mapping("pcrs", most=24).items())))
    q.done()
    log = Fields(decode_cbor(members["runtime-log"], "evidence.runtime-log", max_size=MAX_SIZE), "evidence.runtime-log")
    log.version(1)
    first, records = log.uint("first"), log.raw("records", most=MAX_SIZE)
    log.done()
    m = Fields(decode_cbor(members["manifests"], "evidence.manifests", max_size=MAX_SIZE), "evidence.manifests")
    m.version(1)
    measurements = tuple(_bytes(item) for item in m.items("items", most=MAX_REQUESTS))
    m.done()
    r = Fields(decode_cbor(members["requests"], "evidence.requests", max_size=MAX_SIZE), "evidence.requests")
    r.version(1)
    requests = tuple(_request_in(item) for item in r.items("requests", most=MAX_REQUESTS))
    r.done()
    if len({request.instance for request in requests}) != len(requests):
        raise FormatError("evidence.requests", "each instance once", "an instance twice")
    uefi, systemd = members.get("uefi-log"), members.get("systemd-log")
    ima = None if "ima-log" not in members else _ima_in(members["ima-log"])
    keys = None if "lease-keys" not in members else parse_lease_keys(members["lease-keys"])
    anchors = None if "anchors" not in members else parse_anchors(members["anchors"])
    return Evidence(host, nonce, attest, signature, pcrs, first, records, measurements, requests, uefi, systemd, ima, keys, anchors)


def _members(data: bytes) -> dict[str, bytes]:
    """The members by label: each that is required, those that may travel, each of its type, and no other."""
    collection = parse_collection(data, what="evidence", max_size=MAX_SIZE)
    parts = {label: collection.record(label) for label, _ in collection.members}
    types = {**_REQUIRED, **_OPTIONAL}
    known = all(r is not None and (r.type, r.indicator) == (types.get(str(label)), None) for label, r in parts.items())
    if collection.type != COLLECTION_TYPE or not known or not set(_REQUIRED) <= set(parts):
        raise FormatError("evidence", f"a collection of {', '.join(_REQUIRED)} with their types", ", ".join(map(str, parts))[:100])
    return {str(label): record.value for label, record in parts.items() if record is not None}


def _ima_in(data: bytes) -> ImaLog:
    f = Fields(decode_cbor(data, "evidence.ima-log", max_size=MAX_SIZE), "evidence.ima-log")
    f.version(1)
    log = ImaLog(f.uint("first"), f.raw("entries", most=MAX_SIZE), f.has("more"))
    if log.more and not f.flag("more"):
        raise FormatError("evidence.ima-log.more", "true, or nothing", "false")
    f.done()
    return log


def _pcr(index: object, value: object) -> tuple[int, bytes]:
    if not isinstance(index, int) or not 0 <= index < 24 or not isinstance(value, bytes):
        raise FormatError("evidence.quote.pcrs", "index 0 to 23 -> bytes", repr(index)[:40])
    return index, value


def _bytes(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise FormatError("evidence", "bytes", type(value).__name__)
    return value


def _request_out(request: InstanceRequest) -> dict[str, object]:
    return {
        "instance": request.instance,
        "key": request.session_key.to_cose_key(),
        "audience": request.audience,
        "grants": encode_grants(request.grants),
        "log_size": request.log_size,
        "log_root": request.log_root,
        "log_from": request.log_from,
        "log_proof": list(request.log_proof),
        **({"anchored": anchored_out(request.anchored)} if request.anchored else {}),
    }


def _request_in(value: object) -> InstanceRequest:
    f = Fields(value, "evidence.request")
    request = InstanceRequest(
        instance=f.raw("instance", size=16),
        session_key=parse_cose_key(f.any("key")),
        audience=f.text("audience", least=1, most=256),
        grants=parse_grants(f.any("grants")),
        log_size=f.uint("log_size"),
        log_root=f.raw("log_root", size=32),
        log_from=f.uint("log_from"),
        log_proof=tuple(_bytes(item) for item in f.items("log_proof", most=MAX_PROOF)),
        anchored=read_anchored(f, "anchored"),
    )
    f.done()
    return request


def anchored_out(anchored: tuple[tuple[int, tuple[bytes, ...]], ...]) -> list[list[object]]:
    """The proofs from anchored checkpoints, as they are spelt."""
    return [[size, list(proof)] for size, proof in anchored]


def read_anchored(f: Fields, key: str) -> tuple[tuple[int, tuple[bytes, ...]], ...]:
    """The proofs from anchored checkpoints: sorted by size, each size once, or nothing at all. Raises FormatError."""
    if not f.has(key):
        return ()
    found = tuple(_proof_of(item) for item in f.items(key, most=MAX_ANCHORED))
    sizes = [size for size, _ in found]
    if not sizes or sizes != sorted(set(sizes)):
        raise FormatError("anchored", "proofs sorted by size, each once, or nothing at all", f"{len(sizes)}")
    return found


def _proof_of(value: object) -> tuple[int, tuple[bytes, ...]]:
    if not isinstance(value, list) or len(value) != 2:
        raise FormatError("anchored", "[size, proof]", type(value).__name__)
    f = Fields(dict(enumerate(value)), "anchored")
    return f.uint(0), tuple(_bytes(item) for item in f.items(1, most=MAX_PROOF))
