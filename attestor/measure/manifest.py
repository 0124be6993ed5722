"""A manifest measured: its components read, and the roots that stand for them.

Offline and on the host the same code runs with the same result; only the
`Reader` differs: the store's keeps what it reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from attestor.measure.packages import measure_packages
from attestor.measure.tree import Reader, hash_file, measure_tree
from writ.formats.errors import FormatError, Refused, Unavailable
from writ.formats.manifest import MAX_MANIFEST, ComponentSpec, Manifest, parse_manifest
from writ.formats.measurement import ComponentRoot, Measurement
from writ.formats.reason import Reason
from writ.formats.strict import name
from writ.formats.tree import Component, component_root


@dataclass(frozen=True, slots=True)
class Measured:
    """A manifest, and what its sources were when they were read. `trees` in the order of `measurement.components`."""

    manifest: Manifest
    measurement: Measurement
    trees: tuple[Component, ...]


def read_manifest(path: Path) -> Manifest:
    """The manifest in the file. Raises FormatError, or Unavailable if it cannot be read."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_MANIFEST + 1)
    except OSError as error:
        raise Unavailable("manifest", f"{path}: {error.strerror}") from None
    return parse_manifest(data)


def find_manifest(directory: Path, agent: str) -> tuple[Manifest, Path]:
    """The manifest `<agent>.toml` of the directory and where it lies; its own name must be that. Raises Refused `manifest-unknown`."""
    path = directory / f"{name(agent, 'agent')}.toml"
    if not path.is_file():
        raise Refused(Reason("manifest-unknown", "agent", f"{agent}.toml in the attestor's manifests_dir", "none"))
    manifest = read_manifest(path)
    if manifest.agent != agent:
        raise FormatError(f"manifest {path.name}", f"agent = {agent!r}, as its file is named", repr(manifest.agent))
    return manifest, path


def measure_manifest(
    manifest: Manifest, directory: Path, *, domain: str, command: tuple[str, ...] = (), read: Reader = hash_file
) -> Measured:
    """What `manifest`, lying in `directory`, measures to now. `command` empty means the manifest's own.

    Raises Refused with the reason of the first source that cannot be measured.
    """
    trees = tuple(_measure(spec, directory, read) for spec in manifest.components)
    measurement = Measurement(
        agent=manifest.agent_id(domain),
        command=command or manifest.command,
        components=tuple(ComponentRoot(tree.name, tree.kind, component_root(tree)) for tree in trees),
        secrets=tuple(secret.name for secret in manifest.secrets),
        audience=manifest.audience,
        grants=manifest.grants,
    )
    return Measured(manifest, measurement, trees)


def _measure(spec: ComponentSpec, directory: Path, read: Reader) -> Component:
    measure = measure_packages if spec.kind == "packages" else measure_tree
    return measure(spec.name, spec.kind, directory / spec.source, excludes=spec.excludes, read=read)
