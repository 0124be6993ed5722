"""docs/operations.md, typed in: every command of the page, in its order, on a machine of its own with a software TPM.

The page is for production, so five things are exchanged: its directories for
ones below a temporary directory, its address for a loopback one without TLS,
its TPM for a software TPM, `./run` for this tree's, and `serve` is left running. Nothing else is.
"""

from __future__ import annotations

import http.client
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from attestor.measure.oci import this_platform
from swtpm import Manufacturer, SoftTpm
from tests.docs.blocks import Block, all_blocks, commands
from tests.verifier.packages.builders import Signer, build_apt, build_deb
from tests.world.oci import Layout, layer
from tests.writ.formats.pe_images import make_pe

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = "docs/operations.md"
ISSUER: Final = "https://verifier.example.org:8443"
TREES: Final = ("/etc/writ", "/var/lib/writ", "/run/writ")
READY_WITHIN: Final = 30.0
AGENT: Final = ("code/agent.py", "prompts/reporter.txt", "tools/server.py")
"""The files of the agent whose manifest the page shows."""


def lay_out_image(place: Path) -> None:
    """An OCI layout of an agent, as a builder would hand it out."""
    here, made = this_platform(), Layout()
    made.image([layer(("bin/agent", b"agent", 0o755))], {"Entrypoint": ["/bin/agent"]}, platform=(here.os, here.architecture))
    made.write(place)


class Machine:
    """A place where the page is typed in, command by command."""

    def __init__(self, place: Path, tpm: SoftTpm, roots: bytes) -> None:
        self._place = place
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self._url = f"http://127.0.0.1:{self._port}"
        self._env = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "VERIFIER_LISTEN": f"127.0.0.1:{self._port}",
            "VERIFIER_ISSUER": self._url,
            "VERIFIER_TLS_CERT_FILE": "",
            "VERIFIER_TLS_KEY_FILE": "",
            "ATTESTOR_TCTI": tpm.tcti,
            "ATTESTOR_ALLOW_SOFTWARE_TPM": "true",
        }
        for tree in TREES:
            self._mapped(tree).mkdir(parents=True)
        for name in AGENT:
            path = self._mapped("/etc/writ/manifests/reporter") / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{name}\n")
        lay_out_image(place / "reporter-image")
        (place / "tpm-roots.pem").write_bytes(roots)
        self._update(place)

    def _update(self, place: Path) -> None:
        """A package, a signed snapshot and a unified kernel image, as a distribution would hand them out."""
        build_deb(place, "openssl", {"/usr/bin/openssl": b"new"}, version="3.0.17-1")
        home = Path(tempfile.mkdtemp(prefix="wg"))  # short: gpg's agent listens on a socket there
        signer = Signer(home)
        try:
            build_apt(place / "snapshot", [build_deb(place, "libc6", {"/lib/libc.so.6": b"new"})], signer)
            (place / "snapshot").rename(self._mapped("/var/lib/writ") / "snapshot")
            (self._mapped("/etc/writ") / "archive-keyring.gpg").write_bytes(signer.keyring.read_bytes())
        finally:
            signer.close()
            shutil.rmtree(home, ignore_errors=True)
        inner, magic = make_pe([(".text", b"kernel")]), b"#### LoaderInfo: systemd-stub 252.39 ####"
        parts = [(".sdmagic", magic), (".cmdline", b"quiet"), (".linux", inner), (".initrd", b"initrd")]
        (place / "linux-6.1.efi").write_bytes(make_pe(parts))

    def _mapped(self, path: str) -> Path:
        return self._place / path.lstrip("/")

    def exchanged(self, text: str) -> str:
        """The text with the page's directories and address exchanged for this machine's, and `./run` for this tree's."""
        for tree in TREES:
            text = text.replace(tree, str(self._mapped(tree)))
        return text.replace(ISSUER, self._url).replace("./run ", f"{shlex.quote(str(ROOT / 'run'))} ")

    def write(self, block: Block) -> None:
        """A file that the page shows, under the name in its first line."""
        path = block.text.partition("\n")[0].removeprefix("# ").removeprefix("// ")
        self._mapped(path).write_text(self.exchanged(block.text))

    def type(self, line: str) -> None:
        """One command, to its end; it is accepted."""
        done = subprocess.run(
            ["sh", "-euc", self.exchanged(line)], cwd=self._place, env=self._env, capture_output=True, text=True, timeout=90, check=False
        )
        assert done.returncode == 0, f"{line}\nexit {done.returncode}\n{done.stdout}{done.stderr}"

    @contextmanager
    def left_running(self, line: str) -> Iterator[None]:
        """A daemon of the page, from when it is ready until the page is done."""
        with (self._place / "daemon.log").open("wb") as log:
            daemon = subprocess.Popen(shlex.split(self.exchanged(line)), cwd=self._place, env=self._env, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + READY_WITHIN
            while not self._ready():
                assert daemon.poll() is None, (self._place / "daemon.log").read_text()
                assert time.monotonic() < deadline, f"{line}: not ready after {READY_WITHIN} s"
                time.sleep(0.1)
            yield
        finally:
            daemon.terminate()
            daemon.wait(20)

    def _ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=5)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def names(self, directory: str) -> list[str]:
        """The files in a directory that a command of the page was to fill."""
        return sorted(path.name for path in (self._place / directory).iterdir())

    def made(self, name: str) -> int:
        """Bytes of a file that a command of the page was to leave behind."""
        return (self._place / name).stat().st_size


def test_every_command_of_the_page_is_accepted_in_its_order(tmp_path: Path, soft_tpm: SoftTpm, manufacturer: Manufacturer) -> None:
    machine = Machine(tmp_path, soft_tpm, manufacturer.root_pem + manufacturer.intermediates_pem)
    blocks = [block for block in all_blocks() if block.page == PAGE]
    serve = next(at for at, block in enumerate(blocks) if block.text.rstrip().endswith(" serve") and block.info == "sh")
    play(machine, blocks[:serve])
    with machine.left_running(commands(blocks[serve])[0]):
        play(machine, blocks[serve + 1 :])
    for name in ("trust.cbor", "ticket", "reporter.measurement", "governance.measurement", "verifier.archive"):
        assert machine.made(name) > 0, name
    assert machine.names("predicted"), "one file for each way in which the kernel may be measured"
    assert machine.names("in-force"), "what is in force, as signed"
    assert machine.names("dist"), "a wheel, and what it will be measured as"


def play(machine: Machine, blocks: list[Block]) -> None:
    """Files are written, commands are typed; what needs root and cgroup v2 is the demonstration's."""
    for block in blocks:
        if block.info == "toml" or block.text.startswith("// /etc/writ/"):
            machine.write(block)
        elif block.info == "sh":
            for line in commands(block):
                machine.type(line)
