"""Hosts with real daemons, holders and cgroups, as the enforcer's own tests have them."""

from tests.enforcer.conftest import cgroup_mount, host, served_before

__all__ = ["cgroup_mount", "host", "served_before"]
