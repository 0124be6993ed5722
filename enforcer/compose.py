"""The one place that builds an enforcer from its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from enforcer.config import PREFIX, EnforcerConfig
from writ.service.config import load

if TYPE_CHECKING:
    from enforcer.supervisor import Supervisor


def configuration(path: Path | None, environment: Mapping[str, str]) -> EnforcerConfig:
    """The configuration from the file, or from the environment alone. Raises FormatError."""
    return load(EnforcerConfig, path, environment, PREFIX)


def supervisor(config: EnforcerConfig) -> Supervisor:
    """The daemon, ready to serve. Raises Unavailable, FormatError."""
    from enforcer.supervisor import Supervisor  # the commands that ask a daemon start without what one is made of

    return Supervisor(config)
