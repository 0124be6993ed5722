"""Private keys: in a file of this host, or only in memory. Both are a `writ.formats.keys.Signer`.

A key file is PKCS#8 PEM, unencrypted, one key of Ed25519 or P-256, readable by
its owner alone:

    -----BEGIN PRIVATE KEY-----
    MC4CAQAwBQYDK2VwBCIEI…

No object here gives its private half away: no attribute, no pickle, no repr. But a key in memory goes over, by `left`, to the program that
its process becomes.
"""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path
from typing import Final, NoReturn

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, utils
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_pem_private_key,
)

from writ.formats.errors import FormatError, Misuse, Unavailable
from writ.formats.keys import ED25519, ES256, PublicKey, key_id

_MAX_SIZE: Final = 4096
_PEM_HEAD: Final = b"-----BEGIN PRIVATE KEY-----"
_PUBLIC_HEAD: Final = b"-----BEGIN PUBLIC KEY-----"
_PrivateKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey


class _KeySigner:
    __slots__ = ("_private", "_public")

    def __init__(self, private: _PrivateKey) -> None:
        self._private = private
        self._public = _public_half(private)

    @property
    def public(self) -> PublicKey:
        """The public half."""
        return self._public

    def sign(self, message: bytes) -> bytes:
        """The raw 64-byte signature over `message`: RFC 8032, or r || s of ECDSA with SHA-256 (RFC 7518 section 3.4)."""
        if isinstance(self._private, ed25519.Ed25519PrivateKey):
            return self._private.sign(message)
        r, s = utils.decode_dss_signature(self._private.sign(message, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._public.algorithm} {key_id(self._public)}>"

    def __reduce__(self) -> NoReturn:
        raise Misuse("a signer is not copied or stored")


class MemorySigner(_KeySigner):
    """A key that lives as long as this object and nowhere else: an instance's session key."""

    __slots__ = ()

    @classmethod
    def generate(cls, algorithm: str = ED25519) -> MemorySigner:
        """A signer with a new key. Raises Misuse for an algorithm that is not ours."""
        return cls(_generate(algorithm))

    @classmethod
    def taken(cls, key: bytes) -> MemorySigner:
        """The key that `left` gave, in the same process. Raises FormatError."""
        try:
            found = load_der_private_key(key, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise FormatError("session key", "PKCS#8", "bytes that are not") from None
        if not isinstance(found, ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey):
            raise FormatError("session key", "a key of Ed25519 or P-256", "a key of another kind")
        return cls(found)

    def left(self) -> bytes:
        """The private key in PKCS#8, for the program that takes this one's place in its process: not for a file, nor for anybody else."""
        return self._private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


class FileSigner(_KeySigner):
    """A key held in the file `path`, which only its owner can read. Does not say that nobody ever read it."""

    __slots__ = ("path",)

    def __init__(self, private: _PrivateKey, path: Path) -> None:
        super().__init__(private)
        self.path = path


def load_signer(path: Path) -> FileSigner:
    """The signer whose key is in `path`.

    Raises Unavailable if there is no such file or it cannot be read, and
    FormatError if it is not one unencrypted PKCS#8 PEM key of Ed25519 or
    P-256, or if anyone but the owner may read it.
    """
    if (signer := _load(path)) is None:
        raise Unavailable("signing key", f"no file {path}")
    return signer


def create_signer(path: Path, algorithm: str = ED25519) -> FileSigner:
    """A signer with a new key that is durable in `path`, mode 0600; the file is there whole or not at all.

    Raises FormatError if `path` exists, Unavailable if it cannot be written.
    """
    try:
        return _create(path, algorithm)
    except FileExistsError:
        raise FormatError("signing key file", f"no file yet at {path}", "one that exists") from None


def load_or_create_signer(path: Path, algorithm: str = ED25519) -> FileSigner:
    """The signer of `path`, made now if there is none; of two callers at once both get the same key."""
    if (signer := _load(path)) is not None:
        return signer
    try:
        return _create(path, algorithm)
    except FileExistsError:
        return load_signer(path)


def _generate(algorithm: str) -> _PrivateKey:
    if algorithm == ED25519:
        return ed25519.Ed25519PrivateKey.generate()
    if algorithm == ES256:
        return ec.generate_private_key(ec.SECP256R1())
    raise Misuse(f"no signing algorithm {algorithm!r}")


def _public_half(private: _PrivateKey) -> PublicKey:
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return PublicKey(ED25519, private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))
    return PublicKey(ES256, private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint))


def _load(path: Path) -> FileSigner | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unavailable("signing key", f"cannot open {path}: {error.strerror}") from None
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise FormatError(f"signing key file {path}", "a regular file", "another kind of file")
        try:
            data = file.read(_MAX_SIZE + 1)
        except OSError as error:
            raise Unavailable("signing key", f"cannot read {path}: {error.strerror}") from None
        if data.startswith(_PUBLIC_HEAD):  # anyone may read one: its mode is not what is wrong with it
            raise FormatError(f"signing key file {path}", "the private key, PKCS#8 PEM", "a public key, which signs nothing")
        _refuse_shared(fd, path)
    return FileSigner(_parse(data, path), path)


def _refuse_shared(fd: int, path: Path) -> None:
    """Refuse a file that is not ours or root's, or that anyone but owner and this user can read."""
    status = os.fstat(fd)
    what = f"signing key file {path}"
    if status.st_uid not in (os.geteuid(), 0):
        raise FormatError(what, f"owner uid {os.geteuid()} or 0", f"uid {status.st_uid}")
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o007 or (mode & 0o070 and not _group_bits_are_our_acl(fd)):
        raise FormatError(what, "mode 0600 or 0400", f"mode {mode:04o}")


def _group_bits_are_our_acl(fd: int) -> bool:
    """Whether the group bits are only the mask of an ACL that names this user, as systemd sets on credentials.

    Source: acl(5), "CORRESPONDENCE BETWEEN ACL ENTRIES AND FILE PERMISSION
    BITS"; layout of the attribute: linux/posix_acl_xattr.h, version 2.
    """
    try:
        raw = os.getxattr(fd, "system.posix_acl_access")
    except OSError:
        return False
    if len(raw) % 8 != 4 or raw[:4] != b"\x02\x00\x00\x00":
        return False
    user_obj, user, mask = 0x01, 0x02, 0x10
    for tag, permissions, who in struct.iter_unpack("<HHI", raw[4:]):
        allowed = tag in (user_obj, mask) or (tag == user and who in (os.geteuid(), 0))
        if permissions and not allowed:
            return False
    return True


def _parse(data: bytes, path: Path) -> _PrivateKey:
    what = f"signing key file {path}"
    if len(data) > _MAX_SIZE:
        raise FormatError(what, f"at most {_MAX_SIZE} bytes", "more")
    if not data.startswith(_PEM_HEAD) or data.count(b"-----BEGIN") != 1:
        raise FormatError(what, "one unencrypted PKCS#8 PEM key", "something else")
    try:
        key = load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise FormatError(what, "one unencrypted PKCS#8 PEM key", "bytes that are not one") from None
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    raise FormatError(what, "a key of Ed25519 or P-256", "a key of another kind")


def _create(path: Path, algorithm: str) -> FileSigner:
    """Write beside, sync, link into place, sync the folder. Raises FileExistsError if `path` is taken."""
    private = _generate(algorithm)
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    beside = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(6).hex()}")
    try:
        fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(fd, "wb") as file:
                os.fchmod(fd, 0o600)
                file.write(pem)
                file.flush()
                os.fsync(fd)
            os.link(beside, path, follow_symlinks=False)
        finally:
            beside.unlink()
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except FileExistsError:
        raise
    except OSError as error:
        raise Unavailable("signing key", f"cannot write {path}: {error.strerror}") from None
    return FileSigner(private, path)
