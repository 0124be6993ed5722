"""What an operator approves for the guest: computed from the files of its build, but for firmware and keys, which are the machine's."""

from __future__ import annotations

from collections.abc import Mapping

from swtpm.guest import Image
from tests.attestor.site import NAMESPACE
from writ.formats.corim import Corim
from writ.formats.digest import Digest
from writ.formats.eventlog.ima import parse_row, replay
from writ.formats.eventlog.uefi import parse_uefi_log
from writ.formats.evidence import Evidence
from writ.verdict.appraise.boot import FIRMWARE, SECURE_BOOT, judge_boot, measured_values
from writ.verdict.predict import predict_uki, prediction_corims

PACKAGES = "/opt/writ/guest/venv/lib/python3.11/site-packages"
SHIM = f"{PACKAGES}/enforcer/launch/shim"
LOADED = ("agentd", "collect/kernel_logs", "compose", "config", "evidence", "tpm")
"""Modules of the attestor that every serving one has loaded, by the names of their bytecode."""


def approved(image: Image, captured: Evidence) -> list[Corim]:
    """Everything: boot, files and the parts that root a runtime. `captured` is evidence of a machine that is trusted, logs whole."""
    return [*_boot(image, captured), _corim("files/guest", {**_files(image), **_buffers(captured)}), *_parts(image)]


def _corim(environment: str, values: Mapping[str, Digest]) -> Corim:
    return Corim(f"guest.{environment.replace('/', '.')}", NAMESPACE, environment, tuple(sorted(values.items())))


def _boot(image: Image, captured: Evidence) -> list[Corim]:
    """Firmware and Secure Boot keys as captured; what was booted as predicted from the image's own file."""
    assert captured.uefi_log is not None
    pcrs = {number: captured.pcrs.get(number) for number in range(13)}
    values = measured_values(judge_boot(parse_uefi_log(captured.uefi_log), pcrs, "sha256")[0])
    predicted = prediction_corims(predict_uki(image.uki().read_bytes()), namespace=NAMESPACE, name="guest.boot")
    return [*predicted, *(_corim(environment, values[environment]) for environment in (FIRMWARE, SECURE_BOOT))]


def _files(image: Image) -> dict[str, Digest]:
    """By the paths in the guest; the shim also by the one at which a sandbox has it."""
    found = {path: Digest("sha256", bytes.fromhex(digest)) for path, digest in image.digests.items()}
    return {**found, "/run/shim": found[SHIM]}


def _buffers(captured: Evidence) -> dict[str, Digest]:
    """What the kernel measures that is no file: its built-in keys, the device-mapper tables."""
    assert captured.ima_log is not None
    listed = replay(captured.ima_log.entries, bytes(32), "sha256", captured.pcrs.get(10))
    assert listed is not None
    rows = [row for row in map(parse_row, listed.rows) if row is not None and row.buffer]
    return {row.name.decode(): Digest("sha256", row.digest) for row in rows}


def _parts(image: Image) -> list[Corim]:
    """Sources are read when the attestor measures the governance, bytecode when it is run."""
    files = _files(image)

    def under(*folders: str) -> dict[str, Digest]:
        places = tuple(f"{PACKAGES}/{folder}/" for folder in folders)
        return {path: digest for path, digest in files.items() if path.startswith(places) and path.endswith(".py") and digest != _EMPTY}

    def bytecode(module: str) -> str:
        folder, _, name = f"attestor/{module}".rpartition("/")
        return f"{PACKAGES}/{folder}/__pycache__/{name}.cpython-311.pyc"

    launcher = under("enforcer/launch") | {SHIM: files[SHIM]}
    return [
        _corim("rooted/attestor", under("attestor", "writ") | {bytecode(module): files[bytecode(module)] for module in LOADED}),
        _corim("rooted/enforcer", {path: digest for path, digest in under("enforcer").items() if path not in launcher}),
        _corim("rooted/launcher", launcher),
        _corim("rooted/interpreter", {"/usr/bin/python3.11": files["/usr/bin/python3.11"]}),
        _corim("rooted/ima-policy", {"/etc/ima/ima-policy": files["/etc/ima/ima-policy"]}),
    ]


_EMPTY = Digest.of(b"")
"""Of an empty file: where there are several alike, IMA lists each all the same, but the measurer may have no cause to open one."""
