"""Policy bundles held on this host: the newest of each namespace, never an older one again."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from writ.formats.cose import CONTENT_TYPE as CONTENT_TYPE_LABEL
from writ.formats.cose import parse_sign1, verify_sign1
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Refused, Unavailable
from writ.formats.keys import PublicKey
from writ.formats.policy_bundle import CONTENT_TYPE, PolicyBundle, parse_bundle
from writ.formats.reason import Reason
from writ.formats.strict import Fields, decode_cbor, encode_cbor


def verify_signed(signed: bytes, content_type: str, keys: Sequence[PublicKey], what: str) -> bytes:
    """The payload of a COSE_Sign1 of exactly this content type, signed by one of the pinned `keys`. Raises FormatError, Refused."""
    sign1 = parse_sign1(signed, what=what, max_size=4 << 20)
    if sign1.headers.get(CONTENT_TYPE_LABEL) != content_type:
        raise FormatError(f"{what}.content_type", content_type, repr(sign1.headers.get(CONTENT_TYPE_LABEL))[:80])
    if sign1.payload is None:
        raise FormatError(what, "an attached payload", "a detached one")
    if not any(verify_sign1(sign1, key) for key in keys):
        raise Refused(Reason("signature-invalid", what, f"a signature by one of {len(keys)} pinned decision keys", "another"))
    return sign1.payload


def verify_bundle(signed: bytes, keys: Sequence[PublicKey], named: Digest) -> PolicyBundle:
    """The bundle that the token names by digest, signed by a pinned key. Raises FormatError, Refused."""
    bundle = parse_bundle(verify_signed(signed, CONTENT_TYPE, keys, "policy"))
    if bundle.digest != named:
        raise Refused(Reason("policy-digest-mismatch", "policy", str(named), str(bundle.digest)))
    return bundle


class HeldBundles:
    """The highest version of each namespace's policy that this host has held, kept on disk and shared by its instances."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def advance(self, bundle: PolicyBundle) -> None:
        """From now on no older bundle of this namespace is accepted here, nor another of the same version.

        Raises Refused (`policy-rollback`), or Unavailable where it cannot be remembered.
        """
        path = self._folder / f"{bundle.namespace}.held"
        with locked(self._folder, "held policies"):
            self._advance(path, bundle)

    def _advance(self, path: Path, bundle: PolicyBundle) -> None:
        version, digest = _read(path)
        if bundle.version < version or (bundle.version == version and digest is not None and digest != bundle.digest):
            got = f"version {bundle.version}, {bundle.digest.hex()[:16]}"
            raise Refused(Reason("policy-rollback", f"policy.{bundle.namespace}", f"version {version} as held, or a later one", got))
        if bundle.version == version and digest == bundle.digest:
            return
        write_durably(path, encode_cbor({"v": 1, "version": bundle.version, "digest": bundle.digest.value}))


@contextlib.contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """Nobody else of this host is in here for `folder`, which exists. Raises Unavailable for every OSError."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
    except OSError as error:
        raise Unavailable(what, f"{folder}: {error.strerror}") from None


def write_durably(path: Path, data: bytes) -> None:
    """The file holds `data`, also after a loss of power; before that, what it held. Raises OSError."""
    fresh = path.with_suffix(".new")
    with fresh.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _read(path: Path) -> tuple[int, Digest | None]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return 0, None
    f = Fields(decode_cbor(data, "held policy"), "held policy")
    f.version(1)
    version, digest = f.uint("version"), f.digest("digest")
    f.done()
    return version, digest
