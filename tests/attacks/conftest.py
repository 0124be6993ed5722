"""A verifier that serves on loopback and a host of it, and a host whose enforcer serves, as their own tests have them."""

from tests.enforcer.conftest import cgroup_mount, idle_host, served_before
from tests.enforcer.conftest import host as enforcer_host
from tests.verifier.conftest import bare, host, verifier

__all__ = ["bare", "cgroup_mount", "enforcer_host", "host", "idle_host", "served_before", "verifier"]
