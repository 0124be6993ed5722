"""What stands between this host and a working attestor, found before it matters. Changes nothing."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from attestor.config import AttestorConfig, read_enrolment, read_private
from attestor.tpm import Tpm
from writ.formats.errors import FormatError, Refused, Unavailable


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: whether it is as it should be, what was found, and what to do where it is not."""

    name: str
    ok: bool
    found: str
    remedy: str = ""


def examine(config: AttestorConfig, tpm: Tpm) -> tuple[Finding, ...]:
    """Every finding, in the order in which they are to be mended."""
    return (*_state(config), *_tpm(config, tpm), *_host(config))


def _state(config: AttestorConfig) -> list[Finding]:
    findings = []
    state = config.state
    for name, path in (("state-ak", state.ak), ("state-host-key", state.host_key)):
        try:
            there = read_private(path) is not None
            findings.append(Finding(name, there, f"{path}" if there else f"no file {path}", "Run `attestor init`."))
        except Unavailable as error:
            findings.append(Finding(name, False, str(error), f"chmod 0600 {path}, after asking who read it."))
    try:
        e = read_enrolment(state)
        findings.append(Finding("enrolment", True, f"{e.host} at {e.verifier}, PCR {e.runtime_pcr} of {e.bank}"))
    except Refused:
        findings.append(Finding("enrolment", False, "none", "Run `attestor enroll`."))
    except (FormatError, Unavailable) as error:
        findings.append(Finding("enrolment", False, str(error), "Enrol again with a new ticket."))
    return findings


def _tpm(config: AttestorConfig, tpm: Tpm) -> list[Finding]:
    try:
        banks, endorsement, clock = tpm.banks(), tpm.endorsement(), tpm.clock()
    except Unavailable as error:
        remedy = "Name the TPM in `tcti`; its device must belong to the attestor's uid, and no other process may hold it."
        return [Finding("tpm", False, str(error), remedy)]
    certificates = len(endorsement.certificates)
    findings = [
        Finding("tpm", True, f"{config.tcti}, resetCount {clock.reset_count}, restartCount {clock.restart_count}"),
        Finding("banks", bool({"sha256", "sha384"} & set(banks)), ", ".join(banks), "Enable the SHA-256 bank in the firmware's setup."),
        Finding("ek-certificate", certificates > 0, f"{certificates} in NV", "Admit this TPM by its EK digest: `verifier host admit`."),
        Finding("clock-safe", clock.safe, f"safe = {clock.safe}", "After a power cut this heals by itself within 69 minutes."),
    ]
    findings.extend(_ak(config, tpm))
    try:
        enrolment = read_enrolment(config.state)
        pcrs = tpm.read(enrolment.bank)
    except (Refused, FormatError, Unavailable):
        return findings
    value, begun = pcrs.get(enrolment.runtime_pcr), (config.state.log / "runtime.cel").exists()
    remedy = "Something extended the register before the attestor's first start: reboot, and start the attestor before it."
    findings.append(Finding("register", begun or not any(value), f"log begun, register {value.hex()}" if begun else value.hex(), remedy))
    if config.anchor_pcr:
        apart, said = config.anchor_pcr != enrolment.runtime_pcr, pcrs.get(config.anchor_pcr).hex()
        begun = (config.state.log / "anchors.cbor").exists()
        found = f"PCR {config.anchor_pcr}, {'begun' if begun else 'not begun'}, register {said}"
        findings.append(Finding("anchors", apart, found, f"Name another anchor_pcr than {enrolment.runtime_pcr}, the runtime log's."))
    return findings


def _ak(config: AttestorConfig, tpm: Tpm) -> list[Finding]:
    """Whether the TPM loads the AK, where there is one."""
    if not config.state.ak.exists():
        return []
    try:
        tpm.check_ak()
    except Refused as refused:
        return [Finding("ak", False, str(refused.reasons[0]), refused.reasons[0].remedy)]
    except (FormatError, Unavailable) as error:
        return [Finding("ak", False, str(error), "Run `attestor init --new-ak`, then enrol again with a new ticket.")]
    return [Finding("ak", True, "the TPM loads it")]


def _host(config: AttestorConfig) -> list[Finding]:
    manifests, room = config.manifests_dir, config.socket.parent
    made = f"Make the directory {room}, or let systemd do so (RuntimeDirectory=)."
    caches = "Set PYTHONPYCACHEPREFIX outside the code: bytecode caches beside it are not measured."
    return [
        Finding("manifests", manifests.is_dir(), str(manifests), f"Make the directory {manifests} and put manifests there."),
        Finding("socket", room.is_dir(), f"{room}, for {config.socket.name}", made),
        Finding("bytecode", sys.pycache_prefix is not None, f"pycache_prefix {sys.pycache_prefix}", caches),
    ]
