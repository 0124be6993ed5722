"""What governs a host, measured before any agent: our own code, the libraries under it, the interpreter.

The same roots come out wherever the same wheels are installed, so reference
values for them can be computed on a build machine. Bytecode caches are left
out, since they differ from run to run: the daemon must run without them
(`PYTHONPYCACHEPREFIX` outside the tree), which `attestor doctor` checks.

A governance root says what lay on the disk when the daemon started, by the
word of that daemon; one that is started anew in the same boot says it again
where it differs. Who measured the daemon is the boot's matter, not ours.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from attestor.measure.tree import measure_tree
from writ.formats.eventlog.runtime import ComponentEvent, RuntimeEvent
from writ.formats.tree import Component, component_root

ROOMS: Final = ("attestor", "enforcer", "writ")
LIBRARIES: Final = (
    "cbor2", "cedarpy", "cffi", "cryptography", "h11", "h2", "hpack", "hyperframe", "tpm2_pytss", "uvicorn", "watchfiles",
)  # fmt: skip
"""Third-party packages of attestor and enforcer; those that are installed are measured."""


def measure_governance() -> tuple[Component, ...]:
    """The components of scope governance, sorted by name. Raises Refused as `measure_tree`."""
    interpreter = measure_tree("interpreter", "interpreter", Path(sys.executable).resolve())
    return tuple(sorted((interpreter, *measure_installed(_place)), key=lambda part: part.name))


def measure_installed(place: Callable[[str], Path | None]) -> tuple[Component, ...]:
    """Our rooms and the libraries under them, those for whose package `place` has a directory. Raises Refused as `measure_tree`."""
    rooms = [measure_tree(room, "code", found, excludes=_excludes) for room in ROOMS if (found := place(room)) is not None]
    libraries = [
        measure_tree(f"library-{library.replace('_', '-')}", "packages", found, excludes=_excludes)
        for library in LIBRARIES
        if (found := place(library)) is not None
    ]
    return (*rooms, *libraries)


def governance_events(components: tuple[Component, ...]) -> tuple[ComponentEvent, ...]:
    """One set, whole: the first of its names is that of every set, so that it begins the next one where there was one before."""
    return tuple(ComponentEvent("governance", part.name, component_root(part)) for part in components)


def not_said(events: tuple[ComponentEvent, ...], log: Sequence[RuntimeEvent]) -> tuple[ComponentEvent, ...]:
    """Those of a set's `events` that make it the last set of `log`: none if it is, what is left if a crash cut it short, else all."""
    last: list[ComponentEvent] = []
    for event in log:
        if isinstance(event, ComponentEvent) and event.scope == "governance":
            last = [event] if any(event.name == one.name for one in last) else [*last, event]
    said = tuple(last)
    return events[len(said) :] if said == events[: len(said)] else events


def _place(package: str) -> Path | None:
    """The directory of an installed package, found without importing it."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def _excludes(path: str) -> bool:
    return "__pycache__" in path.split("/") or path.endswith(".pyc")
