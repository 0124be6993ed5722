"""What the archives hold, found by the digests that name it. What is not there is refused by name: nobody takes a lack for a pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress

from writ.formats.archive import Archive
from writ.formats.digest import Digest
from writ.formats.eat import SignedToken, parse_token
from writ.formats.errors import FormatError, Refused
from writ.formats.proof_bundle import Opened
from writ.formats.reason import Reason
from writ.formats.record import ActionRecord, parse_preimage
from writ.formats.strict import decode_cbor
from writ.verdict.approval import consent_of


def tokens_of(texts: Iterable[str]) -> Iterator[SignedToken]:
    """The tokens among them. A text that is none is passed over: whatever names it lacks its token, and is told so."""
    for compact in texts:
        with suppress(FormatError):
            yield parse_token(compact)


def missing(what: str, name: str) -> Refused:
    """The archives lack `what`, which something in them names so."""
    return Refused(Reason("proof-bundle-incomplete", what, name[:200], "none in the archives"))


class Objects:
    """The objects of an archive under their SHA-256."""

    def __init__(self, archive: Archive) -> None:
        self._found = archive.by_digest()

    def find(self, digest: Digest) -> bytes | None:
        """The bytes of that name, None where they are not there."""
        return self._found.get(digest)

    def get(self, digest: Digest, what: str) -> bytes:
        """The bytes of that name; those of no bytes need not be there. Raises Refused `proof-bundle-incomplete`."""
        if digest == Digest.of(b""):
            return b""
        found = self._found.get(digest)
        if found is None:
            raise missing(what, str(digest))
        return found

    def references(self, digest: Digest) -> tuple[bytes, ...]:
        """The CoRIMs and exemptions of the set of that name. Raises Refused as `get`, FormatError for what lists none."""
        names = decode_cbor(self.get(digest, "references"), "references")
        if not isinstance(names, list) or not all(isinstance(name, bytes) for name in names):
            raise FormatError("references", "an array of digests", type(names).__name__)
        return tuple(self.get(Digest("sha256", name), "reference") for name in names)

    def context(self, record: ActionRecord) -> Opened | None:
        """What the record's commitment to its context hides; None where there is no preimage of it: it was erased."""
        preimage = self._found.get(Digest("sha256", record.context))
        if preimage is None:
            return None
        salt, named = parse_preimage(preimage)
        return Opened(salt, self.get(named, "context"))

    def approval(self, context: bytes) -> bytes | None:
        """The signed approval that a context names, None where it names none. Raises Refused as `get`."""
        consent = consent_of(context)
        return None if consent is None else self.get(Digest.parse(consent.approval), "approval")
