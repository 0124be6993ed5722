"""Key files: who may read them, what may be in them, and that the key stays inside."""

from __future__ import annotations

import copy
import os
import pickle
import struct
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
)

from writ.formats.errors import FormatError, Misuse, Unavailable
from writ.formats.keys import ALGORITHMS, Signer, key_id
from writ.service.signers import MemorySigner, create_signer, load_or_create_signer, load_signer


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_created_key_signs_and_is_the_same_when_loaded(tmp_path: Path, algorithm: str) -> None:
    made: Signer = create_signer(tmp_path / "key.pem", algorithm)
    loaded = load_signer(tmp_path / "key.pem")
    signature = loaded.sign(b"message")

    assert loaded.public == made.public
    assert len(signature) == 64
    assert made.public.verify(signature, b"message")
    assert not made.public.verify(signature, b"another")


def test_created_file_is_private_whatever_the_umask_and_leaves_nothing_beside(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        create_signer(tmp_path / "key.pem")
    finally:
        os.umask(before)

    assert (tmp_path / "key.pem").stat().st_mode & 0o7777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["key.pem"]


def test_existing_file_is_never_overwritten(tmp_path: Path) -> None:
    first = create_signer(tmp_path / "key.pem")

    with pytest.raises(FormatError, match="expected no file yet"):
        create_signer(tmp_path / "key.pem")
    assert load_signer(tmp_path / "key.pem").public == first.public
    assert [path.name for path in tmp_path.iterdir()] == ["key.pem"]


def test_dangling_link_is_not_followed_when_a_key_is_created(tmp_path: Path) -> None:
    (tmp_path / "key.pem").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(FormatError):
        create_signer(tmp_path / "key.pem")
    assert not (tmp_path / "elsewhere").exists()


def test_two_creators_at_once_hold_one_key(tmp_path: Path) -> None:
    found: list[str] = []
    start = threading.Barrier(8)

    def race() -> None:
        start.wait()
        found.append(key_id(load_or_create_signer(tmp_path / "key.pem").public))

    threads = [threading.Thread(target=race) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(found) == 8
    assert len(set(found)) == 1


def test_missing_file_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="no file"):
        load_signer(tmp_path / "key.pem")


def test_folder_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="cannot write"):
        create_signer(tmp_path / "none" / "key.pem")


@pytest.mark.parametrize("mode", [0o640, 0o620, 0o604, 0o644, 0o660, 0o602])
def test_file_that_others_can_read_or_write_is_refused(tmp_path: Path, mode: int) -> None:
    create_signer(tmp_path / "key.pem")
    (tmp_path / "key.pem").chmod(mode)

    with pytest.raises(FormatError, match="0600"):
        load_signer(tmp_path / "key.pem")


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_a_public_key_is_called_one_whoever_may_read_it(tmp_path: Path, mode: int) -> None:
    made = create_signer(tmp_path / "key.pem")
    spki = load_der_public_key(made.public.to_spki())
    (tmp_path / "key.pub").write_bytes(spki.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    (tmp_path / "key.pub").chmod(mode)

    with pytest.raises(FormatError, match="expected the private key, PKCS#8 PEM, got a public key"):
        load_signer(tmp_path / "key.pub")


def acl(*entries: tuple[int, int, int]) -> bytes:
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def set_acl(path: Path, *entries: tuple[int, int, int]) -> None:
    try:
        os.setxattr(path, "system.posix_acl_access", acl(*entries))
    except OSError as error:
        pytest.skip(f"no ACLs on this file system: {error.strerror}")


NOBODY = 0xFFFFFFFF


def test_credential_whose_group_bits_are_our_own_acl_is_accepted(tmp_path: Path) -> None:
    """systemd gives a service its credentials so: owner root, an ACL entry for the service's user."""
    made = create_signer(tmp_path / "key.pem")
    set_acl(tmp_path / "key.pem", (1, 4, NOBODY), (2, 4, os.geteuid()), (4, 0, NOBODY), (16, 4, NOBODY), (32, 0, NOBODY))

    assert (tmp_path / "key.pem").stat().st_mode & 0o777 == 0o440
    assert load_signer(tmp_path / "key.pem").public == made.public


@pytest.mark.parametrize("entry", [(2, 4, 12345), (8, 4, 12345)])
def test_acl_that_lets_another_read_is_refused(tmp_path: Path, entry: tuple[int, int, int]) -> None:
    create_signer(tmp_path / "key.pem")
    set_acl(tmp_path / "key.pem", (1, 4, NOBODY), *sorted([entry, (4, 0, NOBODY)]), (16, 4, NOBODY), (32, 0, NOBODY))

    with pytest.raises(FormatError, match="0440"):
        load_signer(tmp_path / "key.pem")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a file away")
def test_file_of_another_user_is_refused(tmp_path: Path) -> None:
    create_signer(tmp_path / "key.pem")
    os.chown(tmp_path / "key.pem", 12345, -1)

    with pytest.raises(FormatError, match="uid 12345"):
        load_signer(tmp_path / "key.pem")


def test_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "key.pem", 0o600)

    with pytest.raises(FormatError, match="regular file"):
        load_signer(tmp_path / "key.pem")


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    path.chmod(0o600)
    return path


def test_other_keys_are_refused(tmp_path: Path) -> None:
    p384 = ec.generate_private_key(ec.SECP384R1())
    rsa_key = rsa.generate_private_key(65537, 2048)
    for key in (p384, rsa_key):
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        with pytest.raises(FormatError, match="Ed25519 or P-256"):
            load_signer(write(tmp_path / "key.pem", pem))


def test_key_in_another_wrapping_is_refused(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    good = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for pem in (
        key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"password")),
        good + good,
        b"x" + good,
        good[: len(good) // 2],
        good + b"\n" * 5000,
        b"",
        b"\xff" * 100,
    ):
        with pytest.raises(FormatError, match="signing key file"):
            load_signer(write(tmp_path / "key.pem", pem))


def test_key_does_not_leave_its_object() -> None:
    signer = MemorySigner.generate()

    assert key_id(signer.public) in repr(signer)
    with pytest.raises(Misuse):
        pickle.dumps(signer)
    with pytest.raises(Misuse):
        copy.copy(signer)


def test_two_generated_keys_differ() -> None:
    assert MemorySigner.generate().public != MemorySigner.generate().public


def test_unknown_algorithm_is_misuse() -> None:
    with pytest.raises(Misuse):
        MemorySigner.generate("RS256")
