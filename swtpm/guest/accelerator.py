"""Whether KVM can run our firmware here, or emulation has to: KVM may be there and fail, as nested in another hypervisor."""

from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path
from typing import Final

FIRMWARE: Final = Path("/usr/share/OVMF/OVMF_CODE_4M.secboot.fd")
"""OVMF with Secure Boot and the SMM that guards its variables."""

_KVM: Final = ("-accel", "kvm", "-cpu", "host,-arch-capabilities")
_EMULATED: Final = ("-accel", "tcg,thread=multi", "-cpu", "max")
_TRIED_FOR: Final = 8.0
"""Seconds: under a KVM that works the firmware speaks after about two."""


@functools.cache
def accelerator() -> tuple[str, ...]:
    """QEMU's arguments for the quickest processor that boots our firmware on this host."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return _EMULATED
    try:
        said = subprocess.run(
            [
                *("qemu-system-x86_64", *_KVM, "-machine", "q35,smm=on", "-m", "256", "-nodefaults", "-no-user-config", "-display", "none"),
                *("-no-reboot", "-serial", "stdio", "-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={FIRMWARE}"),
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TRIED_FOR,
            check=False,
        ).stdout
    except subprocess.TimeoutExpired as expired:  # the firmware never ends by itself
        said = expired.stdout or b""
    return _KVM if b"BdsDxe" in said else _EMULATED
