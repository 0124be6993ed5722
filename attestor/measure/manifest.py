"""A manifest measured: its components read, and the roots that stand for them.

Offline and on the host the same code runs with the same result; only the
`Reader` and `Held` differ: the store's keeps what it reads, and asks the kernel
for what the kernel holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from attestor.measure.packages import measure_packages
from attestor.measure.tree import Identity, Reader, hash_file, measure_tree
from attestor.measure.verity import Artefacts, refused
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Refused, Unavailable
from writ.formats.manifest import MAX_MANIFEST, ComponentSpec, Manifest, parse_manifest
from writ.formats.measurement import ComponentRoot, Measurement
from writ.formats.reason import Reason
from writ.formats.strict import name
from writ.formats.tree import Component, Entry, component_root
from writ.service.verity import NotHeld


class Held(Protocol):
    """How the content of a component is measured that is not held in the store."""

    def file(self, fd: int, identity: Identity, executable: bool) -> tuple[Digest, int]:
        """A `Reader` whose digest is the fs-verity digest. Raises NotHeld."""
        ...

    def device(self, source: Path, image: Path | None, salt: bytes) -> tuple[Digest, int]:
        """The dm-verity root hash under `source`, and how many bytes of data it stands for. Raises NotHeld."""
        ...


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
    manifest: Manifest, directory: Path, *, domain: str, command: tuple[str, ...] = (), read: Reader = hash_file, held: Held | None = None
) -> Measured:
    """What `manifest`, lying in `directory`, measures to now. `command` empty means the manifest's own.

    `read` measures what the store holds, `held` what fs-verity or dm-verity
    does; None means from the artefacts alone. Both ways give one root.

    Raises Refused with the reason of the first source that cannot be measured.
    """
    held = held or Artefacts()
    trees = tuple(_measure(spec, directory, read, held) for spec in manifest.components)
    measurement = Measurement(
        agent=manifest.agent_id(domain),
        command=command or manifest.command,
        components=tuple(ComponentRoot(tree.name, tree.kind, component_root(tree)) for tree in trees),
        secrets=manifest.secrets,
        audience=manifest.audience,
        grants=manifest.grants,
        profile=manifest.profile,
        devices=manifest.devices,
        mode=manifest.mode,
        forwards=manifest.forwards,
    )
    return Measured(manifest, measurement, trees)


def _measure(spec: ComponentSpec, directory: Path, read: Reader, held: Held) -> Component:
    source = directory / spec.source
    if spec.hold == "dm-verity":
        try:
            root, size = held.device(source, None if spec.image is None else directory / spec.image, spec.salt)
        except NotHeld as absent:
            raise refused(spec.name, spec.source, "dm-verity", absent.got) from None
        return Component(spec.name, spec.kind, (Entry.dm_verity(root, size),))
    if spec.hold == "fs-verity":
        return measure_tree(spec.name, spec.kind, source, excludes=spec.leaves_out, names=spec.names, read=held.file, leaf="fs-verity")
    if spec.kind == "packages":
        return measure_packages(spec.name, spec.kind, source, excludes=spec.leaves_out, read=read)
    return measure_tree(spec.name, spec.kind, source, excludes=spec.leaves_out, names=spec.names, read=read)
