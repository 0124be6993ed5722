"""A secret in a file that systemd-creds(1) encrypted: to this machine's TPM, to its own key, or to both.

    systemd-creds encrypt --name=mail-key - /etc/writ/secrets/mail-key.cred

It is decrypted when it is used, and the text is on no disk.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

from enforcer.secrets.source import MAX_SECRET, WITHIN, GiveBack, Lease
from writ.formats.errors import Unavailable

if TYPE_CHECKING:
    from enforcer.credential import Held

KEY_PLACE: Final = "SYSTEMD_CREDENTIAL_SECRET"
"""Where the machine's own key is, where it is not at its usual place."""
_PASSED: Final = ("PATH", KEY_PLACE)


class Sealed:
    """The credential `name`, a name within the file too, so that no file can stand for another."""

    def __init__(self, name: str, path: Path) -> None:
        self._name, self._path = name, path

    def fetch(self, held: Held) -> Lease:
        """As `Source`. That there is a token is all that is asked of it."""
        del held
        command = ["systemd-creds", "decrypt", f"--name={self._name}", str(self._path), "-"]
        environment = {name: os.environ[name] for name in _PASSED if name in os.environ}
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, env=environment, timeout=WITHIN, check=False)
        except FileNotFoundError:
            raise Unavailable(f"secret {self._name}", "expected systemd-creds (systemd 250 or later), found none") from None
        except (OSError, subprocess.TimeoutExpired):
            raise Unavailable(f"secret {self._name}", f"systemd-creds did not end within {WITHIN:.0f} s") from None
        if done.returncode != 0:
            raise Unavailable(f"secret {self._name}", f"{self._path}: systemd-creds could not decrypt it: {_last_words(done)}")
        if not 1 <= len(done.stdout) <= MAX_SECRET:
            raise Unavailable(f"secret {self._name}", f"{self._path}: expected 1 to {MAX_SECRET} bytes, got {len(done.stdout)}")
        return Lease(done.stdout)

    def forget(self) -> GiveBack | None:
        """Nothing is kept."""
        return None


def _last_words(done: subprocess.CompletedProcess[bytes]) -> str:
    """What systemd-creds said last, which is why; nothing of the secret is in it."""
    said = done.stderr.decode("utf-8", "replace").strip().splitlines()
    return said[-1][:200] if said else f"exit {done.returncode}"
