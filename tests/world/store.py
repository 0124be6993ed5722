"""A host and the log of one of its instances, for whoever stores records: what is signed and sent is real, the records are any bytes."""

from __future__ import annotations

from collections.abc import Sequence

from auditor.serving.http import Answer, Route
from auditor.store import records
from auditor.store.keeper import Keeper
from tests.signers import MemorySigner, new_signer
from tests.world.clock import HandClock
from writ.formats.digest import Digest
from writ.formats.jose import b64url, encode_dpop_payload, sign_dpop
from writ.formats.keys import Signer
from writ.formats.tlog.checkpoint import Checkpoint, SignedCheckpoint
from writ.formats.tlog.merkle import leaf_hash, root
from writ.formats.tlog.note import COSIGNATURE, PLAIN, NoteKey, sign_note
from writ.formats.tlog.storing import PATH, AddRecords, encode_add_records, log_key


class HostLog:
    """The action log of `instance` on the host `name`, of `size` records; another history where `fork` is set."""

    def __init__(
        self, size: int = 8, *, name: str = "records.example/host-1", instance: bytes = bytes(range(16)), fork: int = -1,
        signer: MemorySigner | None = None,
    ) -> None:  # fmt: skip
        self.signer = new_signer() if signer is None else signer
        self.host = NoteKey(name, PLAIN, self.signer.public)
        self.key, self.instance = log_key(self.host, instance), instance
        self.leaves = [b"leaf %d" % at if at != fork else b"another" for at in range(size)]
        self.sealed = [None if at == 0 else b"sealed %d" % at for at in range(size)]

    def forked(self, at: int) -> HostLog:
        """The same log, with another record at `at`."""
        other = HostLog(len(self.leaves), fork=at)
        other.signer, other.host, other.key = self.signer, self.host, self.key
        return other

    def signed(self, size: int) -> SignedCheckpoint:
        """Its checkpoint at `size`."""
        checkpoint = Checkpoint(self.key.name, size, root([leaf_hash(leaf) for leaf in self.leaves[:size]]))
        return SignedCheckpoint(checkpoint, sign_note(str(checkpoint), self.key, self.signer.sign))

    def asks(self, start: int, size: int, papers: Sequence[tuple[str, bytes]] = ()) -> AddRecords:
        """What it asks of a store."""
        return AddRecords(start, self.signed(size), tuple(self.leaves[start:size]), tuple(self.sealed[start:size]), tuple(papers))

    def body(self, start: int, size: int, papers: Sequence[tuple[str, bytes]] = ()) -> bytes:
        """As bytes."""
        return encode_add_records(self.asks(start, size, papers))

    def send(self, store: Keeper, start: int, size: int, papers: Sequence[tuple[str, bytes]] = ()) -> Answer:
        """What the store answers to it."""
        return sent(store, self.signer, self.body(start, size, papers))


def proof(
    signer: Signer, body: bytes, *, htm: str = "POST", htu: str = "https://store.example/add-records", iat: int = 1_790_000_000
) -> str:
    """What the head of a request with this body says, signed by this host."""
    return sign_dpop(encode_dpop_payload(jti="one of the host's", htm=htm, htu=htu, iat=iat, arg=b64url(Digest.of(body).value)), signer)


def sent(store: Keeper, signer: Signer, body: bytes, head: str | None = None) -> Answer:
    """The answer to these bytes, as `signer` sends them, or behind another head's proof."""
    found = store.find("POST", PATH, proof(signer, body) if head is None else head)
    return found.work(body) if isinstance(found, Route) else found


def keeper(
    *hosts: NoteKey, quota: int = 1 << 30, share: int | None = None, shows: bool = True, kept: records.Records | None = None
) -> Keeper:
    """A whole store but for wire and disk."""
    signer = new_signer()
    key = NoteKey("store.example", COSIGNATURE, signer.public)
    return Keeper(key, signer, hosts, records.in_memory() if kept is None else kept, HandClock(), quota=quota, share=share, shows=shows)
