"""Places: no two living instances share a uid."""

from __future__ import annotations

from pathlib import Path

import pytest

from enforcer.launch.cgroup import Cgroup
from enforcer.launch.slot import free_slot
from writ.formats.errors import Unavailable


def test_places_differ_until_they_are_freed_and_then_run_out(tmp_path: Path) -> None:
    first, second = (free_slot(tmp_path, 2, 61000, tmp_path / name) for name in ("a", "b"))
    assert {first.agent_uid, first.tool_uid, second.agent_uid, second.tool_uid} == {61000, 61001, 61002, 61003}
    with pytest.raises(Unavailable, match="all 2"):
        free_slot(tmp_path, 2, 61000, tmp_path / "c")
    first.free()
    third = free_slot(tmp_path, 2, 61000, tmp_path / "c")
    assert third.agent_uid == 61000
    second.free()
    third.free()


def test_place_whose_former_cgroup_still_runs_is_not_free(tmp_path: Path) -> None:
    former = tmp_path / "former"
    former.mkdir()
    (former / "cgroup.events").write_text("populated 1\nfrozen 0\n")
    assert Cgroup(former).populated()
    free_slot(tmp_path, 2, 61000, former).free()
    second = free_slot(tmp_path, 2, 61000, tmp_path / "x")
    assert second.agent_uid == 61002
    second.free()
    (former / "cgroup.events").write_text("populated 0\nfrozen 0\n")
    first = free_slot(tmp_path, 2, 61000, tmp_path / "y")
    assert first.agent_uid == 61000
    first.free()


def test_folder_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        free_slot(tmp_path / "none", 2, 61000, tmp_path)
