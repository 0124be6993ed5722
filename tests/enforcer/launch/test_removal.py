"""A tree is removed whatever was made of it, and nothing beside it."""

from __future__ import annotations

import os
from pathlib import Path

from enforcer.launch.removal import remove_tree


def deep(top: Path, depth: int, name: str) -> None:
    """A chain of directories, deeper than a path can name, with a file in each."""
    at = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=at)
        below = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=at)
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=below))
        os.close(at)
        at = below
    os.close(at)


def test_tree_deeper_than_stack_and_path_is_removed(tmp_path: Path) -> None:
    top = tmp_path / "home"
    top.mkdir()
    deep(top, 1500, "d" * 200)

    assert remove_tree(top)
    assert not top.exists()


def test_more_entries_than_one_look_are_removed(tmp_path: Path) -> None:
    top = tmp_path / "home"
    (top / "many").mkdir(parents=True)
    for number in range(2500):
        (top / "many" / str(number)).touch()
        (top / f"d{number}").mkdir()

    assert remove_tree(top)
    assert not top.exists()


def test_what_links_lead_to_is_left_alone(tmp_path: Path) -> None:
    outside, top = tmp_path / "outside", tmp_path / "home"
    outside.mkdir()
    (outside / "kept").touch()
    (top / "in").mkdir(parents=True)
    (top / "link").symlink_to(outside)
    (top / "in" / "link").symlink_to(outside)
    os.mkfifo(top / "in" / "pipe")

    assert remove_tree(top)
    assert list(outside.iterdir()) == [outside / "kept"]


def test_link_in_place_of_the_tree_is_not_followed(tmp_path: Path) -> None:
    outside, top = tmp_path / "outside", tmp_path / "home"
    outside.mkdir()
    (outside / "kept").touch()
    top.symlink_to(outside)

    assert not remove_tree(top)
    assert (outside / "kept").exists()


def test_tree_that_is_not_there_is_gone(tmp_path: Path) -> None:
    assert remove_tree(tmp_path / "home")
