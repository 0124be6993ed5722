"""What a coding agent works with, out of this host: a shell, git, Python with pip, a C compiler, and what they load."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Final

from attestor.measure.closure import image_of
from tests.world.root_fs import lay_out_on, made_of
from writ.formats.manifest import ComponentSpec
from writ.formats.measurement import ComponentRoot

PROGRAMS: Final = (
    "sh", "cat", "cp", "mkdir", "rm", "ls", "chmod", "tar", "gzip", "env", "touch", "true", "make", "gcc", "cc", "as", "ld", "python3",
    "git", "git-upload-pack", "git-receive-pack",
)  # fmt: skip
WHEELS: Final = Path("/usr/share/python-wheels")
"""pip, as Debian keeps it for venv: a wheel that runs as it is."""
_STDLIB: Final = Path("/usr/lib/python3.11")


def lacking() -> str:
    """What of it is not installed here, or nothing."""
    needed = [*(Path("/usr/bin") / name for name in PROGRAMS), WHEELS, Path("/usr/lib/git-core"), _STDLIB, Path("/usr/include/stdio.h")]
    return ", ".join(str(path) for path in needed if not path.exists())


def _asked(*words: str) -> Path:
    return Path(subprocess.run(["gcc", *words], capture_output=True, text=True, check=True).stdout.strip()).resolve()


def spec() -> ComponentSpec:
    """The image component."""
    of_gcc = _asked("-print-libgcc-file-name").parent
    libraries = Path("/usr/lib") / subprocess.run(["gcc", "-print-multiarch"], capture_output=True, text=True, check=True).stdout.strip()
    files = [of_gcc / name for name in ("cc1", "collect2", "lto-wrapper", "liblto_plugin.so", "libgcc.a", "libgcc_s.so", "libgcc_eh.a")]
    files += [*of_gcc.glob("crt*.o"), *libraries.glob("*crt*.o"), libraries / "libc.so", libraries / "libc_nonshared.a"]
    found = image_of(
        [*(Path("/usr/bin") / name for name in PROGRAMS), Path("/bin/sh"), Path("/usr/lib/git-core/git-remote-http"), *files],
        [_STDLIB, Path("/usr/lib/git-core"), Path("/usr/share/git-core"), WHEELS, of_gcc / "include"],
    )  # fmt: skip
    folder = str(libraries)[1:]
    headers = [*(str(path)[1:] for path in Path("/usr/include").glob("*.h")), "usr/include/linux", "usr/include/asm-generic"]
    headers.append(f"usr/include/{libraries.name}")
    loader = [f"{folder}/libc.so.6", f"{folder}/libnss_files.so.2", f"{folder}/libgcc_s.so.1"]
    include = {*found.include, *headers, *(path for path in loader if Path(f"/{path}").exists())}
    return replace(found, include=tuple(sorted(include)), exclude=tuple(sorted({*found.exclude, "test", "idlelib", "c++"})))


def lay_out(root: Path) -> tuple[ComponentRoot, ...]:
    """Its tree at `root`, and what it measures to."""
    return lay_out_on(root, made_of(spec()), {})
