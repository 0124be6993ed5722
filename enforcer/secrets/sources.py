"""Where the configuration says that an agent's secrets come from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from enforcer.config import EnforcerConfig
from enforcer.secrets.bearer import Bearers, BearerToken
from enforcer.secrets.exchange import Exchanged
from enforcer.secrets.held import Secrets
from enforcer.secrets.sealed import Sealed
from enforcer.secrets.source import Source
from enforcer.secrets.vault import Session, VaultSecret
from writ.formats.errors import FormatError, Unavailable
from writ.formats.secret import Secret
from writ.service.clock import Clock


def secrets_of(
    config: EnforcerConfig, agent: str, named: Sequence[Secret], bearers: Bearers, clock: Clock, placeholders: Sequence[str] = ()
) -> Secrets:
    """What an instance of `agent` whose manifest names these has; nothing is fetched yet. `placeholders` are those that it has already.

    Raises Unavailable for a secret that this host has no source of, FormatError for a URL or CA file that is none, and for an exchange
    token that the agent would read.
    """
    lines, found = config.secrets_of(agent), dict[str, Source]()
    session: Session | None = None
    for one in named:
        kind, *words = lines.get(one.name, ("",))
        if kind == "sealed":
            found[one.name] = Sealed(one.name, Path(words[0]))
        elif kind == "vault":
            session = session or Session(
                bearers, config.vault_url, audience=config.vault_audience, mount=config.vault_mount, role=config.vault_role,
                ca_file=config.secrets_ca_file, clock=clock,
            )  # fmt: skip
            found[one.name] = VaultSecret(one.name, session, words[0], words[1])
        elif kind == "exchange":
            url, own, audience, *scope = words
            ca_file = config.secrets_ca_file
            found[one.name] = Exchanged(one.name, bearers, url, own, audience, " ".join(scope), ca_file=ca_file, clock=clock)
        elif kind == "bearer":
            if one.is_file:
                raise FormatError(f"secret {one.name}", "an environment variable: no agent reads a bearer token", 'expose = "file"')
            found[one.name] = BearerToken(bearers, words[0])
        else:
            raise Unavailable("secrets", f"{one.name}: enforcer.toml has no source of it for {agent}")
    return Secrets(named, found, placeholders)
