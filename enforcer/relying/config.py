"""How the process that decides for others is configured. Nothing here can change a verdict: trust and policy are signed documents.

audience = "reports"
issuer = "https://verifier.example.org:8443"
policy_file = "/var/lib/writ/relying/policy.cose"
forward_auth = "unix:/run/writ/relying/forward-auth.sock"
proxy = "nginx"
origins = ["https://reports.example.org"]
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from enforcer.relying.forward_auth import BODIES, PROXIES, SENDS_BODY
from writ.formats.errors import FormatError, Unavailable
from writ.formats.keys import PublicKey
from writ.formats.trust import MAX_TRUST, parse_trust

PREFIX: Final = "RELYING"
UNIX: Final = "unix:"


@dataclass(frozen=True, slots=True)
class RelyingConfig:
    """One process that decides for one audience, at up to three places; a place is `unix:PATH` or `ADDRESS:PORT` on loopback.

    `policy_file` holds the signed policy, `trust_file` the decision keys that may have signed it, `sink_file` gets the decisions.
    `jwks_url` and `status_uri` are the verifier's own unless they are named; `ca_file` holds the roots for both (none: the system's).
    `forward_auth` is where the one kind of `proxy` asks about requests to `origins`, with the body of each as `body` says. `authzen` is
    where enforcement points of others ask, who know it by the URL `pdp`. `health` answers whether the process is ready, and is apart,
    so that no answer of it can be taken for a decision. A unix socket is of the process's user and `socket_gid` (-1: its own group),
    mode 0660; over TCP, whoever is on this host may ask.
    """

    audience: str
    issuer: str
    policy_file: Path
    trust_file: Path = Path("/etc/writ/trust.cbor")
    sink_file: Path = Path("/var/lib/writ/relying/decisions.jsonl")
    jwks_url: str = ""
    status_uri: str = ""
    ca_file: Path | None = None
    forward_auth: str = ""
    proxy: str = ""
    origins: tuple[str, ...] = ()
    body: str = "none"
    authzen: str = ""
    pdp: str = ""
    health: str = ""
    socket_gid: int = -1
    log_level: str = "info"

    def __post_init__(self) -> None:
        _url(self.issuer, "issuer", path=True)
        if not self.audience:
            raise FormatError("audience", "text", "none")
        if not self.forward_auth and not self.authzen:
            raise FormatError("forward_auth, authzen", "at least one of them", "none")
        if bool(self.forward_auth) != bool(self.proxy and self.origins):
            raise FormatError("forward_auth, proxy, origins", "all three or none", "some")
        if self.proxy and self.proxy not in PROXIES:
            raise FormatError("proxy", ", ".join(PROXIES), repr(self.proxy)[:40])
        if self.body not in BODIES or (self.body == "sent" and self.proxy not in SENDS_BODY):
            raise FormatError("body", f"{', '.join(BODIES)}; sent for {' and '.join(SENDS_BODY)} alone", repr(self.body)[:40])
        for origin in self.origins:
            _url(origin, "origins")
        authorities = [origin.partition("://")[2] for origin in self.origins]
        if self.proxy in ("envoy", "nginx") and len(set(authorities)) != len(authorities):
            raise FormatError("origins", f"an authority once, since {self.proxy} says no scheme", ", ".join(self.origins)[:120])
        if bool(self.authzen) != bool(self.pdp):
            raise FormatError("authzen, pdp", "both or none", "one")
        if self.pdp:
            _url(self.pdp, "pdp")
        places = [place for place in (self.forward_auth, self.authzen, self.health) if place]
        if len({listen_at(place) for place in places}) != len(places):
            raise FormatError("forward_auth, authzen, health", "places apart, so that each answer is what it is taken for", "one twice")
        for path in (self.policy_file, self.trust_file, self.sink_file):
            if not path.is_absolute():
                raise FormatError("configuration", "absolute paths", str(path)[:120])
        if self.log_level not in ("debug", "info", "warning", "error"):
            raise FormatError("log_level", "debug, info, warning or error", repr(self.log_level)[:20])

    @property
    def keys_from(self) -> str:
        """Where the verifier publishes its token keys."""
        return self.jwks_url or f"{self.issuer}/.well-known/jwks.json"

    @property
    def status_from(self) -> str:
        """The status list that tokens must name."""
        return self.status_uri or f"{self.issuer}/v1/status/0"

    def decision_keys(self) -> tuple[PublicKey, ...]:
        """Whose signature makes a policy one, of the trust file. Raises Unavailable, FormatError."""
        try:
            with self.trust_file.open("rb") as file:
                data = file.read(MAX_TRUST + 1)
        except OSError as error:
            raise Unavailable("trust file", f"{self.trust_file}: {error.strerror}") from None
        if not (keys := parse_trust(data).decision_keys):
            raise FormatError("trust file", "at least one decision key", "none")
        return keys


def listen_at(place: str) -> Path | tuple[str, int]:
    """The unix socket or the loopback address that `place` names. Raises FormatError."""
    if place.startswith(UNIX):
        path = Path(place.removeprefix(UNIX))
        if not path.is_absolute() or len(str(path)) > 100:
            raise FormatError("listen", f"{UNIX} and an absolute path of at most 100 characters", repr(place)[:120])
        return path
    host, _, port = place.rpartition(":")
    try:
        address = ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        address = None
    if address is None or not address.is_loopback or not port.isascii() or not port.isdecimal() or not 1 <= int(port) < 65536:
        raise FormatError("listen", f"{UNIX}PATH, or ADDRESS:PORT on loopback", repr(place)[:120])
    return str(address), int(port)


def _url(text: str, what: str, *, path: bool = False) -> None:
    """Raises FormatError for what is not `scheme://authority`, in small letters, with a `path` only where it may have one."""
    parts = urlsplit(text)
    plain = f"{parts.scheme}://{parts.netloc}" + (parts.path if path else "")
    if parts.scheme not in ("https", "http") or not parts.hostname or text != plain or text.endswith("/") or "@" in text:
        raise FormatError(what, "https://host[:port], without anything behind it", repr(text)[:120])
    if parts.netloc != parts.netloc.lower():
        raise FormatError(what, "an authority in small letters", repr(text)[:120])
