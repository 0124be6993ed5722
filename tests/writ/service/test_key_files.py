"""A secret key in a file is there whole or not at all, whoever makes it at once, and destroyed under every name that it has."""

from __future__ import annotations

import os
import secrets
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from writ.service.key_files import destroy_key, make_key, read_key


def test_of_many_threads_that_make_a_key_all_have_the_same_one(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        for at in range(50):
            path = tmp_path / f"{at}.key"
            made = set(pool.map(lambda _, path=path: make_key(path, secrets.token_bytes(32)), range(8)))
            assert made == {read_key(path)}
    assert {path.suffix for path in tmp_path.iterdir()} == {".key"}, "nothing else is left"
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


def test_a_name_that_a_kill_left_behind_is_neither_written_nor_a_way_back(tmp_path: Path) -> None:
    """Killed between the link and the end of the other name: both are one file, which another process of that number may meet again."""
    path, left = tmp_path / "n.key", tmp_path / f".n.key.{os.getpid()}"
    key = make_key(path, secrets.token_bytes(32))
    os.link(path, left)
    assert make_key(path, secrets.token_bytes(32)) == key, "a key that is there stays"
    assert destroy_key(path)
    assert key not in left.read_bytes()
    assert not destroy_key(path)
    assert read_key(path) is None
