"""The host that a load needs."""

from __future__ import annotations

from tests.enforcer.conftest import cgroup_mount

__all__ = ["cgroup_mount"]
