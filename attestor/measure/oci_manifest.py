"""The manifest proposed for an unpacked OCI image: what its configuration asks for, as far as a sandbox of ours can grant it.

    Entrypoint, Cmd    the command; a program without a `/` is looked up in the image, along its PATH
    Env                `/usr/bin/env NAME=VALUE…` before the command, so that it is measured with it
    WorkingDir         `/bin/sh -c 'cd "$0" && exec "$@"' DIRECTORY` before the command
    User, Volumes, ExposedPorts, and what is left     not honoured; each is named at the top of the proposal

The image's digests stand there too: they say where the tree came from, and nothing depends on them.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from attestor.measure.oci import OciImage
from attestor.measure.tree import measure_tree
from writ.formats.errors import FormatError, Refused
from writ.formats.manifest import MAX_COMMAND, MAX_TEXT, ComponentSpec, Manifest, encode_manifest
from writ.formats.oci import ImageConfig
from writ.formats.reason import Reason
from writ.formats.tree import Component, component_root

NAME: Final = "system"
EMPTIED: Final = ("dev", "proc", "run", "tmp")
"""Where the sandbox mounts its own: what an image has in them is left out."""
EMPTY: Final = ("agent", "store", "work")
"""Where an agent writes, and where its other components lie: an image with something there cannot be one's root."""
OWN: Final = frozenset({"HOME", "TMPDIR", "WRIT_SOCKET", *(f"{name}_PROXY" for name in ("HTTP", "HTTPS", "NO"))})
"""Variables that the sandbox sets, in capitals."""
_ENV, _SHELL = "/usr/bin/env", "/bin/sh"
_IN: Final = 'cd "$0" && exec "$@"'
_PATH: Final = "/usr/local/bin:/usr/bin:/bin"
_MOST_LINKS: Final = 40


@dataclass(frozen=True, slots=True)
class Proposal:
    """A manifest as TOML, with what people should know of the image at its top."""

    toml: bytes
    image: OciImage
    measured: Component
    left_out: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """For scripts."""
        return {
            "manifest": self.toml.decode(),
            "image": str(self.image.descriptor.digest),
            "config": str(self.image.manifest.config.digest),
            "platform": str(self.image.config.platform),
            "component": {"name": NAME, "root": str(component_root(self.measured))},
            "not_honoured": list(self.left_out),
        }


def propose(image: OciImage, place: Path, command: tuple[str, ...], *, agent: str, namespace: str) -> Proposal:
    """The manifest of an agent that runs on the tree at `place`; `command`, where it is not empty, instead of the image's own.

    Raises Refused for an image that cannot be the root of an agent, FormatError for a command that a manifest cannot hold.
    """
    said: list[str] = []
    spec = ComponentSpec(NAME, "image", str(place.resolve()), _emptied(place, said))
    wanted, root = image.config, _Root(place)
    words = _command(root, wanted, command, said)
    for what, value, why in (
        ("User", wanted.user, "an agent is uid 1000 inside, and a uid of its own outside"),
        ("Volumes", ", ".join(wanted.volumes), "an agent writes below /agent, /tmp and /dev/shm"),
        ("ExposedPorts", ", ".join(wanted.ports), "a port is opened by `inbound` in enforcer.toml"),
    ):
        if value:
            said.append(f"{what} {ascii(value)[:200]}: {why}")
    said.extend(f"{key}: Writ has nothing like it" for key in wanted.unread)
    measured = measure_tree(spec.name, spec.kind, place, excludes=spec.leaves_out)
    manifest = Manifest(agent, namespace, "tools.example.org", words, (spec,), (), ())
    digests = f"{image.descriptor.digest}, configuration {image.manifest.config.digest}"
    head = [
        f"Image {digests}, {wanted.platform}, {'no tag' if image.descriptor.tag is None else f'tag {image.descriptor.tag!a}'}.",
        f"Its tree is the component {NAME}: {component_root(measured)}.",
        *(f"Not honoured: {line}." for line in said),
        "Check it, set audience and grants, and add code, prompts and tools that are not in the image.",
    ]
    return Proposal("".join(f"# {line}\n" for line in head).encode() + encode_manifest(manifest), image, measured, tuple(said))


def _emptied(place: Path, said: list[str]) -> tuple[str, ...]:
    """Patterns for what the image has where the sandbox mounts its own. Raises Refused."""
    full = []
    for name in (*EMPTIED, *EMPTY):
        at = place / name
        if at.is_symlink() or (at.exists() and not at.is_dir()) or (name in EMPTY and at.is_dir() and any(at.iterdir())):
            raise Refused(Reason("component-unexpected", f"image:{name}", "nothing, or a directory without content", "something"))
        if at.is_dir() and any(at.iterdir()):
            full.append(f"{name}/*")
    if full:
        said.append(f"what is in {', '.join(f'/{pattern[:-2]}' for pattern in full)}: the sandbox mounts its own there")
    return tuple(sorted(full))


def _command(root: _Root, config: ImageConfig, given: tuple[str, ...], said: list[str]) -> tuple[str, ...]:
    """The command with the environment and the directory that the image asks for before it."""
    words = given or (*config.entrypoint, *config.command)
    if not words:
        raise FormatError("command", "an Entrypoint or Cmd in the image, or --command CMD", "none")
    variables = dict(config.environment)
    words = (root.program(words[0], variables.get("PATH") or _PATH, config.directory), *words[1:])
    if root.find(words[0]) is None:
        said.append(f"the command {ascii(words[0])[:200]}: no such program in the image")
    if config.directory:
        if root.find(_SHELL) is None:
            said.append(f"WorkingDir {ascii(config.directory)[:200]}: the image has no {_SHELL} to go there")
        else:
            words = (_SHELL, "-c", _IN, config.directory, *words)
    kept = tuple(f"{key}={value}" for key, value in variables.items() if _is_kept(key, value, said))
    if kept and (root.find(_ENV) is None or len(kept) + len(words) >= MAX_COMMAND):
        said.append(f"Env {', '.join(sorted(variables))[:200]}: the image has no {_ENV}, or the command would be too long")
    elif kept:
        words = (_ENV, *kept, *words)
    return words


def _is_kept(key: str, value: str, said: list[str]) -> bool:
    if key.upper() in OWN:
        said.append(f"Env {ascii(key)[:80]}: the sandbox has its own")
        return False
    if key.startswith("-") or len(key) + len(value) >= MAX_TEXT or not all(ord(char) >= 32 and ord(char) != 127 for char in key + value):
        said.append(f"Env {ascii(key)[:80]}: a manifest holds printable text of at most {MAX_TEXT} characters")
        return False
    return True


class _Root:
    """A tree as it is seen from within, its links followed as they will be: none leads out of it."""

    def __init__(self, place: Path) -> None:
        self._place = place

    def program(self, word: str, path: str, directory: str) -> str:
        """Where a command's first word leads: along `path` for a bare name, from `directory` for another relative one."""
        if word.startswith("/"):
            return word
        folders = [directory or "/"] if "/" in word else path.split(":")
        places = [os.path.normpath(f"{folder or '/'}/{word}") for folder in folders]
        return next((place for place in places if self.find(place) is not None), places[0])

    def find(self, path: str) -> Path | None:
        """The executable file at an absolute path within, or None."""
        parts, at = path.split("/"), self._place
        links = 0
        while parts:
            part = parts.pop(0)
            if part in ("", "."):
                continue
            if part == "..":
                at = at.parent if at != self._place else at
                continue
            here = at / part
            if not here.is_symlink():
                at = here
                continue
            links += 1
            if links > _MOST_LINKS:
                return None
            target = os.readlink(here)
            at = self._place if target.startswith("/") else at
            parts = [*target.split("/"), *parts]
        try:
            mode = at.lstat().st_mode
        except OSError:
            return None
        return at if stat.S_ISREG(mode) and mode & stat.S_IXUSR else None
