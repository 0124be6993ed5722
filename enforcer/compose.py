"""The one place that builds an enforcer from its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from enforcer.config import PREFIX, EnforcerConfig
from enforcer.supervisor import Supervisor
from writ.service.config import load


def configuration(path: Path | None, environment: Mapping[str, str]) -> EnforcerConfig:
    """The configuration from the file, or from the environment alone. Raises FormatError."""
    return load(EnforcerConfig, path, environment, PREFIX)


def supervisor(config: EnforcerConfig) -> Supervisor:
    """The daemon, ready to serve. Raises Unavailable, FormatError."""
    return Supervisor(config)
