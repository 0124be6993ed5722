"""Builds the one program of Writ that is not Python: `enforcer/launch/shim`, from `shim.c` beside it, by the system's C compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = Path("enforcer/launch/shim.c")
TARGET = SOURCE.with_suffix("")
FLAGS = (
    "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector",
    "-fno-asynchronous-unwind-tables", "-fno-pie", "-no-pie", "-Wl,--build-id=none", "-Wl,-z,noexecstack", "-s",
)  # fmt: skip


class BuildHook(BuildHookInterface[Any]):
    """The wheel holds the shim, and so is of one architecture; the source archive holds its source."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """The shim lies beside its source, also in an editable installation."""
        del version
        if self.target_name != "wheel":
            return
        compiler = os.environ.get("CC") or shutil.which("cc") or "gcc"
        made = Path(self.root) / f"{TARGET}.{os.getpid()}"  # then exchanged at once: an editable installation may be running the old one
        subprocess.run([compiler, *FLAGS, "-o", str(made), str(SOURCE)], cwd=self.root, check=True)
        made.chmod(0o755)
        made.replace(Path(self.root) / TARGET)
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
        build_data["artifacts"].append(f"/{TARGET}")
