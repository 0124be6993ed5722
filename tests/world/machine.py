"""A machine that boots firmware and kernel, measures the files of Writ and of the system, and runs an agent; and its verifier's view."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from tests.world.ima_logs import Kernel
from tests.world.scene import GOVERNED, NAMESPACE, Scene, policy, reference
from tests.world.uefi_logs import Boot, encode_log, registers
from writ.formats.corim import Corim
from writ.formats.digest import Digest
from writ.formats.evidence import ImaLog
from writ.formats.policy_bundle import PolicySettings
from writ.formats.state import encode_host_state, parse_host_state
from writ.verdict.appraise.ima import PARTS
from writ.verdict.attestation import AttestationVerdict

STRICT = PolicySettings(accept_runtime_only=False, tpm_classes=("software",))
FILES = {part: f"/usr/lib/{part}" for part in PARTS}
SHELL = Digest.of(b"shell")


def content(part: str, version: str = "1") -> Digest:
    """What the file of a part hashes to."""
    return Digest.of(f"{part} {version}".encode())


def part_reference(part: str, version: str = "1") -> Corim:
    """The approved version of a part."""
    return Corim(f"{part}-{version}", NAMESPACE, f"rooted/{part}", ((FILES[part], content(part, version)),))


@dataclass
class Machine:
    """A host with firmware, a kernel that measures files, and an agent; its verifier's state moves with each attestation."""

    settings: PolicySettings = STRICT
    host: str = "host-1"
    boot: Boot = field(default_factory=Boot)
    parts: dict[str, str] = field(default_factory=lambda: dict.fromkeys(PARTS, "1"))
    acknowledged: int = 0
    tpm_class: str = "software"
    crls: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        self.scene = Scene(bundle=policy(self.settings), host=self.host, tpm_class=self.tpm_class, crls=self.crls)
        self.start()
        approved = [part_reference(part) for part in PARTS]
        shell = Corim("os-1", NAMESPACE, "files/os", (("/bin/sh", SHELL),))
        self.scene.references = (GOVERNED, reference(), shell, *approved, *self.booted())

    def start(self) -> None:
        """Firmware and kernel as they come up, with everything of Writ running."""
        log = self.boot.measure()
        self.log = encode_log(log)
        pcrs = self.scene.chip.pcrs["sha256"]
        pcrs |= registers(log, quoted=range(10)) | {11: registers(log)[11]}
        self.kernel = Kernel(boot=dict(pcrs))
        for part, version in self.parts.items():
            self.kernel.measure(FILES[part], content(part, version))
        self.scene.launch("one")
        self.acknowledged = 0

    def booted(self) -> tuple[Corim, ...]:
        """The boot as reference values, from a look at it with nothing remembered."""
        verdict = self.judge()
        assert verdict.state_after.boot is not None
        return tuple(Corim(f"{name}-1", NAMESPACE, name, values) for name, values in verdict.state_after.boot.values)

    def sent(self) -> ImaLog:
        """What of the list is new since the last attestation."""
        return ImaLog(self.acknowledged, self.kernel.binary[([0, *self.kernel.ends])[self.acknowledged] :])

    def whole(self) -> dict[str, Any]:
        """Both logs from their beginning, as the chip's registers have them by now."""
        self.scene.chip.pcrs["sha256"][10] = self.kernel.pcr10["sha256"]
        return {"uefi_log": self.log, "ima_log": ImaLog(0, self.kernel.binary)}

    def judge(self, **changed: Any) -> AttestationVerdict:
        """The verdict on what is new since the last attestation, with parts of the evidence exchanged; nothing moves."""
        self.scene.chip.pcrs["sha256"][10] = self.kernel.pcr10["sha256"]
        sent: dict[str, Any] = {"uefi_log": None if self.acknowledged else self.log, "ima_log": self.sent()}
        return self.scene.judge(replace(self.scene.evidence("one"), **(sent | changed)))

    def attest(self, **changed: Any) -> AttestationVerdict:
        """The same, and the state moved."""
        verdict = self.judge(**changed)
        self.scene.state = parse_host_state(encode_host_state(verdict.state_after))
        self.acknowledged = 0 if self.scene.state.ima is None else self.scene.state.ima.entries
        return verdict

    def reboot(self) -> None:
        """The machine comes up again, as its fields say by now."""
        self.scene.reboot()
        self.start()
