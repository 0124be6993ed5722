"""Policies held against a catalogue of tools: what was approved of each MCP server, pinned by digest.

What a policy sees of a call is its resource and the context; arguments stay outside, sealed beside the record. So a catalogue says nothing
that a schema could: which resources there are. A policy that names one that nobody approved does not mean what it seems to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from writ.formats.errors import FormatError
from writ.formats.mcp.approved import ApprovedServer
from writ.formats.mcp.input import KINDS
from writ.formats.mcp.names import uri
from writ.formats.policy_bundle import PolicyBundle
from writ.verdict.cedar import parts
from writ.verdict.lint import Finding

_SCHEME = "mcp:"
_LISTS = ("tools/list", "prompts/list", "resources/list")


def uncatalogued(bundle: PolicyBundle, catalogue: Mapping[str, ApprovedServer]) -> tuple[Finding, ...]:
    """Each policy that names a thing of a server (`mcp:SERVER/…`) that is not in `catalogue`, by the server's name; sorted.

    Says nothing of resources that no policy names, nor whether a plain tool, which has no such file, has the method. Raises FormatError for
    a bundle that could not be published.
    """
    found = set()
    for policy, body in parts(bundle):
        for named in _resources(body):
            if (fault := _fault(named, catalogue)) is not None:
                found.add(Finding(policy, "not-in-catalogue", f"resource {named!r}: {fault}"[:200]))
    return tuple(sorted(found))


def _fault(named: str, catalogue: Mapping[str, ApprovedServer]) -> str | None:
    server, _, thing = named.removeprefix(_SCHEME).partition("/")
    if server not in catalogue:
        return f"no server of that name, but {', '.join(sorted(catalogue)) or 'none'}"
    approved = catalogue[server]
    if thing in approved.tools or thing in approved.prompts or thing in _LISTS or thing in KINDS.values():
        return None
    try:
        uri(thing, "resource")
    except FormatError:
        return f"no tool or prompt of that name is approved, but {', '.join(sorted({*approved.tools, *approved.prompts})) or 'none'}"
    return None if approved.resources else "the server's resources are not served"


def _resources(body: object) -> Iterator[str]:
    """Every resource of a server that stands in a policy, in its scope or a condition."""
    open_nodes = [body]
    while open_nodes:
        match open_nodes.pop():
            case {"type": "Writ::Resource", "id": str(named)} if named.startswith(_SCHEME):
                yield named
            case dict() as node:
                open_nodes.extend(node.values())
            case list() as node:
                open_nodes.extend(node)
