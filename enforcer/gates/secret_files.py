"""Secrets that the agent reads, each a file of its own: `secret.read` on `secret:NAME`, asked for before the agent runs.

They lie in memory, below the folder of its gate, and are the agent's to read. A cut takes them away; after a thaw they are asked for again.
What the agent has read by then it has read.
"""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path
from typing import Final

from enforcer.gatekeeper import Gatekeeper
from enforcer.secrets.held import Secrets
from writ.formats.action import Action
from writ.formats.digest import Digest
from writ.formats.errors import Refused, Unavailable
from writ.formats.strict import encode_json
from writ.service import observe

GATE: Final = "secret"
READ: Final = "secret.read"
FOLDER: Final = "secrets"
_LOG = observe.get_logger(__name__)


class SecretFiles:
    """It can be cut and mended."""

    def __init__(self, folder: Path, uid: int, gatekeeper: Gatekeeper, secrets: Secrets) -> None:
        """The files of `secrets` are below `folder`, readable by `uid` alone, once `fill` has asked for them."""
        self._folder, self._uid, self._gatekeeper, self._secrets = folder / FOLDER, uid, gatekeeper, secrets
        self._names = tuple(one.name for one in secrets.named if one.is_file)
        self._era, self._open = 0, True
        self._lock = threading.Lock()

    def fill(self) -> None:
        """They are there. Raises Refused for one that may not be read, Unavailable; what is there then is for `close`."""
        with self._lock:
            era = self._era
        for name in self._names:
            arguments = encode_json({"secret": name})
            ruling = self._gatekeeper.ask(Action(READ, f"secret:{name}", Digest.of(arguments)), arguments, gate=GATE)
            if not ruling.permit:
                raise Refused(*ruling.reasons)
            done = False
            try:
                done = self._write(name, self._secrets.value(name, ruling.held), era)
            except OSError as error:
                raise Unavailable(f"secret {name}", f"{error.strerror}") from None
            finally:
                self._gatekeeper.outcome(ruling, done=done, result=arguments)

    def _write(self, name: str, value: bytes, era: int) -> bool:
        with self._lock:
            if self._era != era:
                return False
            self._folder.mkdir(mode=0o711, exist_ok=True)
            fresh = self._folder / f".{name}"
            fresh.unlink(missing_ok=True)
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
            with open(descriptor, "wb") as file:
                os.fchown(descriptor, self._uid, self._uid)
                file.write(value)
            fresh.rename(self._folder / name)
            return True

    def cut(self) -> None:
        """None is there, until `mend`."""
        with self._lock:
            self._era += 1
            self._open = False
            for name in self._names:
                with contextlib.suppress(OSError):
                    (self._folder / name).unlink()

    def mend(self) -> None:
        """Where they were cut they are asked for again, by a thread of its own; what cannot be had is not there."""
        with self._lock:
            was, self._open = self._open, True
        if self._names and not was:
            threading.Thread(target=self._refill, name="secret-files", daemon=True).start()

    def _refill(self) -> None:
        try:
            self.fill()
        except Refused as refused:
            _LOG.warning("secret-file-refused", rules=[reason.code for reason in refused.reasons])
        except Unavailable as error:
            _LOG.warning("secret-file-missing", what=error.what, detail=error.detail)
