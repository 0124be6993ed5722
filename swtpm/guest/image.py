"""The guest's disks and what boots them, built once for each set of inputs and kept under their digest.

CACHE/packages/           the distribution's packages
CACHE/base-DIGEST/        unpacked: tree/ and kernel/
CACHE/image-DIGEST/       root.ext4 (with hash tree), image.json; esp-DIGEST.img for each way to boot it

Two builds in one cache wait for each other. The newest images are kept, older ones are removed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from swtpm.guest import tree as file_tree
from swtpm.guest.boot import SNAKEOIL_CERTIFICATE, STUB, make_esp, make_uki, sign
from swtpm.guest.disk import Verity, make_root
from swtpm.guest.initrd import make_initrd
from swtpm.guest.packages import fetch, resolve, unpack

_KEPT: Final = 3
"""Images, 160 MB each: machines of an older tree may still be running."""
COMMAND_LINE: Final = "console=ttyS0 panic=1 ima_policy=tcb|critical_data"


@dataclass(frozen=True, slots=True)
class Boot:
    """One way to boot an image. `arguments` are added to its command line, `extra` files to its initrd; signed for Secure Boot or not."""

    arguments: str = ""
    extra: tuple[tuple[str, bytes], ...] = ()
    signed: bool = True


@dataclass(frozen=True, slots=True)
class Image:
    """A built guest. Its files are shared by all machines and never written."""

    folder: Path
    base: Path
    kernel_version: str
    verity: Verity
    digests: dict[str, str] = field(repr=False)
    """SHA-256 in hex of every regular file of the root file tree, by its path there."""

    @property
    def root_disk(self) -> Path:
        """The root file tree, and its hash tree."""
        return self.folder / "root.ext4"

    @property
    def kernel(self) -> Path:
        """The kernel, as its package holds it."""
        return self.base / "kernel/boot" / f"vmlinuz-{self.kernel_version}"

    def command_line(self, boot: Boot) -> str:
        """What the kernel is told, the root hash included."""
        told = f"{COMMAND_LINE} writ.verity={self.verity.blocks}:{self.verity.root}:{self.verity.salt}"
        return f"{told} {boot.arguments}".rstrip()

    def initrd(self, boot: Boot) -> bytes:
        """The initrd, gzipped."""
        return make_initrd(self.base / "tree", self.base / "kernel", self.kernel_version, more=dict(boot.extra))

    def uki(self, boot: Boot = Boot()) -> Path:
        """The unified kernel image for `boot`, built the first time."""
        return self._made(boot) / "uki.efi"

    def esp(self, boot: Boot = Boot()) -> Path:
        """The ESP with the unified kernel image for `boot`, built the first time."""
        return self._made(boot) / "esp.img"

    def _made(self, boot: Boot) -> Path:
        initrd = self.initrd(boot)
        inputs = (self.command_line(boot).encode(), initrd, STUB.read_bytes(), SNAKEOIL_CERTIFICATE.read_bytes(), bytes([boot.signed]))

        def make(folder: Path) -> None:
            make_uki(self.kernel, initrd, self.command_line(boot), folder / "uki.efi")
            if boot.signed:
                sign(folder / "uki.efi")
            make_esp(folder / "uki.efi", folder / "esp.img")

        return _kept(self.folder, "boot", inputs, make)


def build(cache: Path) -> Image:
    """The image of this tree as it is now, from `cache` or built there. Raises BuildError."""
    cache.mkdir(parents=True, exist_ok=True)
    cache = cache.resolve()
    with _alone(cache):
        packages, kernel = resolve()

        def unpacked(folder: Path) -> None:
            unpack(fetch(packages, cache / "packages"), folder / "tree")
            unpack(fetch([kernel], cache / "packages"), folder / "kernel")
            file_tree.add_python(folder / "tree")

        base = _kept(cache, "base", (p.sha256.encode() for p in (*packages, kernel)), unpacked)
        version = next(path.name for path in (base / "kernel/lib/modules").iterdir())

        def filled(folder: Path) -> None:
            tree = folder / "tree"
            shutil.copytree(base / "tree", tree, symlinks=True)
            file_tree.add_modules(tree, base / "kernel", version)
            file_tree.add_writ(tree)
            verity = make_root(tree, folder / "root.ext4")
            made = {"blocks": verity.blocks, "root": verity.root, "salt": verity.salt, "digests": file_tree.digests(tree)}
            (folder / "image.json").write_text(json.dumps(made))
            shutil.rmtree(tree)

        folder = _kept(cache, "image", (base.name.encode(), *_inputs()), filled)
        os.utime(folder)
        for old in sorted(cache.glob("image-*"), key=lambda path: path.stat().st_mtime)[:-_KEPT]:
            shutil.rmtree(old)
        made = json.loads((folder / "image.json").read_text())
        return Image(folder, base, version, Verity(made["blocks"], made["root"], made["salt"]), made["digests"])


def _inputs() -> Iterator[bytes]:
    for name, path in file_tree.sources():
        yield name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest()
    for library in file_tree.libraries():
        yield (library.metadata["Name"] + "\0" + library.version + "\0" + (library.read_text("RECORD") or "")).encode()


def _kept(parent: Path, kind: str, inputs: Iterable[bytes], make: Callable[[Path], None]) -> Path:
    """PARENT/KIND-DIGEST, made by `make` if it is not there; whole or not at all."""
    digest = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in inputs)).hexdigest()
    finished = parent / f"{kind}-{digest[:16]}"
    if not finished.exists():
        fresh = Path(tempfile.mkdtemp(prefix="making-", dir=parent))
        try:
            make(fresh)
            fresh.rename(finished)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    return finished


@contextmanager
def _alone(cache: Path) -> Iterator[None]:
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
