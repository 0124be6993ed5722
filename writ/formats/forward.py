"""Ways of a sandbox to one place each, for clients that speak to no proxy: a port inside, and what a connection to it is.

A set of them is sorted by port, each port once. As CBOR it is an array of `[listen, to]`, in TOML an array of `{ listen, to }`; `to` is
the resource of the action `net.connect` that each connection is, so it takes a grant of the same.

>>> forward_set([(6379, "unix:/run/redis.sock"), (5432, "tcp:db.example:5432")], "forwards")
(Forward(listen=5432, to='tcp:db.example:5432'), Forward(listen=6379, to='unix:/run/redis.sock'))
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from writ.formats.errors import FormatError

MAX_FORWARDS: Final = 16
PROXY_PORT: Final = 3128
"""Where the sandbox has its proxy."""
MCP_PORT: Final = 3129
"""Where the sandbox has the endpoints of its servers of the Model Context Protocol."""
_RESERVED: Final = (PROXY_PORT, MCP_PORT)
_TCP = re.compile(r"tcp:(?:\[[0-9a-f:.]{2,45}\]|[a-z0-9_.-]{1,253}):[1-9][0-9]{0,4}\Z", re.ASCII)
_UNIX = re.compile(r"unix:(?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9_.@:+-]+)+\Z", re.ASCII)
_MAX_PATH: Final = 107
"""Bytes of a unix socket's path (unix(7))."""


class Forward(NamedTuple):
    """What connects to 127.0.0.1:`listen` inside is connected with `to`: `tcp:HOST:PORT`, or `unix:PATH` on the host."""

    listen: int
    to: str

    @property
    def path(self) -> str | None:
        """The path of a unix socket."""
        return self.to.removeprefix("unix:") if self.to.startswith("unix:") else None


def forward_set(pairs: Iterable[Sequence[Any]], what: str) -> tuple[Forward, ...]:
    """The sorted set of these pairs of port and place. Raises FormatError."""
    found = sorted(_forward(pair, what) for pair in pairs)
    if len(found) > MAX_FORWARDS or len({one.listen for one in found}) != len(found):
        raise FormatError(
            what, f"at most {MAX_FORWARDS} forwards, each with a port of its own", ", ".join(str(one.listen) for one in found)
        )
    return tuple(found)


def parse_forwards(value: list[Any], what: str) -> tuple[Forward, ...]:
    """Read the array of pairs, sorted. Raises FormatError."""
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        raise FormatError(what, "pairs [listen, to]", "another")
    found = forward_set(value, what)
    if [list(one) for one in found] != value:
        raise FormatError(what, "forwards sorted by port", ", ".join(str(pair[0]) for pair in value)[:80])
    return found


def parse_forward_tables(value: object, what: str) -> tuple[Forward, ...]:
    """Read the array of TOML, in any order. Raises FormatError."""
    if not isinstance(value, list) or not all(isinstance(one, dict) and one.keys() == {"listen", "to"} for one in value):
        raise FormatError(what, "an array of { listen = PORT, to = PLACE }", type(value).__name__)
    return forward_set([(one["listen"], one["to"]) for one in value], what)


def forward_lines(forwards: Sequence[Forward]) -> list[str]:
    """Lines of TOML, none for none. Nothing in a place needs an escape."""
    tables = [f'  {{ listen = {one.listen}, to = "{one.to}" }},' for one in forwards]
    return ["forwards = [", *tables, "]"] if tables else []


def _forward(pair: Sequence[Any], what: str) -> Forward:
    listen, to = pair
    if not isinstance(listen, int) or isinstance(listen, bool) or not 1 <= listen <= 65535 or listen in _RESERVED:
        raise FormatError(f"{what}.listen", f"1 to 65535, other than {PROXY_PORT} and {MCP_PORT}, which are ours", repr(listen)[:40])
    if not isinstance(to, str) or not (_TCP.match(to) or (_UNIX.match(to) and len(to) <= len("unix:") + _MAX_PATH)):
        raise FormatError(f"{what}.to", "tcp:HOST:PORT, or unix: and an absolute path", repr(to)[:120])
    return Forward(listen, to)
