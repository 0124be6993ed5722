"""The folder of a cosigner: its key, its name, and beside them what it must not forget.

    key.pem          the private half, mode 0600
    vkey             NAME+id+key, for whoever relies on it; written last

A cosigner whose folder is lost is another one, with another key: none of it is put back from a backup.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from auditor.serving.database import sync_folder
from writ.formats.errors import FormatError, Unavailable
from writ.formats.keys import ED25519, PublicKey, Signer
from writ.formats.tlog.cosignature import MAX_POLICY, parse_policy
from writ.formats.tlog.note import COSIGNATURE, NoteKey, parse_vkey
from writ.service.signers import load_or_create_signer, load_signer

_KEY: Final = "key.pem"
_VKEY: Final = "vkey"


def init(folder: Path, name: str, what: str, create: Callable[[Path], None]) -> NoteKey:
    """A new cosigner `name` is durable in `folder`: key, what `create` makes, and last its public key. One that was begun is finished.

    `name` should be an address without a scheme, such as cosigner.example.org/w1, and nobody else's; `what` is it. Raises FormatError where
    there is one, or no name; Unavailable where nothing can be written.
    """
    NoteKey(name, COSIGNATURE, _SOME_KEY)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable(what, f"cannot make {folder}: {error.strerror}") from None
    if (folder / _VKEY).exists():
        raise FormatError(f"{what} folder", f"no {what} yet in {folder}", "one that is there")
    signer = load_or_create_signer(folder / _KEY)
    key = NoteKey(name, COSIGNATURE, signer.public)
    create(folder)
    _write(folder / _VKEY, f"{key}\n".encode())
    return key


def vkey(folder: Path) -> NoteKey:
    """The public key of the cosigner in `folder`. Raises Unavailable where there is none, FormatError for a file that holds none."""
    text = _read(folder / _VKEY, 4096).decode("ascii", "replace")
    if not text.endswith("\n"):
        raise FormatError(f"key {folder / _VKEY}", "one line", "something else")
    return parse_vkey(text[:-1])


def load(folder: Path) -> tuple[NoteKey, Signer]:
    """Both halves of its key. Raises FormatError and Unavailable, also where they do not belong together."""
    key, signer = vkey(folder), load_signer(folder / _KEY)
    if key.kind != COSIGNATURE or signer.public != key.key:
        raise FormatError(f"key {folder / _VKEY}", f"the cosigner's key whose private half is in {_KEY}", "another")
    return key, signer


def logs(path: Path, own: NoteKey) -> tuple[NoteKey, ...]:
    """The keys of the logs that the policy in `path` names. What it says of witnesses is not looked at. Raises FormatError, Unavailable."""
    keys = tuple(key for key, _ in parse_policy(_read(path, MAX_POLICY)).logs)
    if any(key.key == own.key for key in keys):
        raise FormatError(f"tlog policy {path}", "logs with keys of their own", "one with the key of this cosigner")
    return keys


def _read(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise Unavailable(f"file {path}", error.strerror or "cannot be read") from None
    if len(data) > most:
        raise FormatError(f"file {path}", f"at most {most} bytes", "more")
    return data


def _write(path: Path, data: bytes) -> None:
    """The file is there whole or not at all, and durable."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.rename(path)
        sync_folder(path.parent)
    except OSError as error:
        raise Unavailable(f"file {path}", error.strerror or "cannot be written") from None


_SOME_KEY: Final = PublicKey(ED25519, bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"))
"""To try a name with before anything is made. Source: RFC 8032 section 7.1, test 1."""
