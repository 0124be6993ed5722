"""What was approved of servers of the Model Context Protocol, as it was measured: files `NAME.mcp.json` of components of kind `tools`.

One of version 1 is of a program that the host starts as NAME, and says nothing where it starts none. One of version 2 is of a server on the
network, which is there because it was approved: nothing of the host's configuration names it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

from enforcer.config import ADVISORY, CHILDREN, MAX_TOOLS
from enforcer.launch.image import place_of, within
from enforcer.tools.tool import MAX_REPLY
from writ.formats.errors import FormatError, Unavailable
from writ.formats.mcp.approved import ApprovedServer, parse_approved
from writ.formats.measurement import ComponentRoot, Measurement
from writ.formats.strict import name as short_name

_END: Final = ".mcp.json"
_KIND: Final = "tools"


def approved_of(folder: Path, measurement: Measurement, name: str) -> ApprovedServer | None:
    """What was approved of the program `name`: `folder` has the mounted images. None where there is no such file.

    Raises FormatError for one that is malformed, for two, and for one of a server on the network; Unavailable.
    """
    found = [one for part in _parts(measurement) if (one := _read(folder, part, name)) is not None]
    if len(found) > 1:
        raise FormatError(f"{name}{_END}", "in one component", f"in {len(found)}")
    if found and found[0].remote is not None:
        raise FormatError(f"{name}{_END}", "a program's, since `tools` of this host starts one", "one of a server on the network")
    return found[0] if found else None


def remotes_of(folder: Path, measurement: Measurement, taken: Collection[str]) -> dict[str, ApprovedServer]:
    """Each server on the network by its name, which is none that is `taken` by something else. Raises FormatError, Unavailable."""
    found: dict[str, ApprovedServer] = {}
    for part in _parts(measurement):
        for name in _names(folder, part):
            approved = _read(folder, part, name)
            if approved is None or approved.remote is None:
                continue
            if name in found or name in taken or name in (CHILDREN, ADVISORY):
                raise FormatError(f"{name}{_END}", "in one component, and a name that no tool or service of this host has", name)
            if missing := sorted(approved.remote.secrets - {one.name for one in measurement.secrets}):
                raise FormatError(f"{name}{_END}, headers", "secrets that the manifest names", ", ".join(missing)[:80])
            found[short_name(name, f"{name}{_END}")] = approved
    if len(found) + len(taken) > MAX_TOOLS:
        raise FormatError("servers", f"at most {MAX_TOOLS}, with tools and services", f"{len(found) + len(taken)}")
    return found


def _parts(measurement: Measurement) -> Iterator[ComponentRoot]:
    return (part for part in measurement.components if part.kind == _KIND)


def _names(folder: Path, part: ComponentRoot) -> list[str]:
    place = place_of(folder, part)
    try:
        return sorted(one.name.removesuffix(_END) for one in place.iterdir() if one.name.endswith(_END))
    except OSError as error:
        raise Unavailable(f"component {part.name}", f"{error.strerror}") from None


def _read(folder: Path, part: ComponentRoot, name: str) -> ApprovedServer | None:
    path = within(place_of(folder, part), f"/{name}{_END}")
    try:
        if path is None or not path.is_file():
            return None
        with path.open("rb") as file:
            return parse_approved(file.read(MAX_REPLY + 1))
    except OSError as error:
        raise Unavailable(f"{name}{_END}", f"{error.strerror}") from None
