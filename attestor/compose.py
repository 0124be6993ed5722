"""Where an attestor is put together from its configuration. Nothing else builds these parts."""

from __future__ import annotations

from attestor.agentd import AgentDaemon
from attestor.collect.anchors import AnchorRegister
from attestor.collect.kernel_logs import KernelLogs
from attestor.collect.runtime_log import RuntimeLog
from attestor.config import AttestorConfig, Enrolment, read_enrolment
from attestor.esapi import EsapiTpm
from attestor.evidence import Attestation
from attestor.measure.governance import governance_events, measure_governance
from attestor.measure.store import Store
from attestor.measure.watch import Watch
from attestor.tpm import Tpm
from writ.formats.errors import FormatError
from writ.formats.keys import Signer
from writ.service.clock import SystemClock
from writ.service.signers import load_signer
from writ.service.uplink import Uplink


def build_tpm(config: AttestorConfig) -> EsapiTpm:
    """The TPM that the configuration names."""
    return EsapiTpm(config.tcti, config.state.ak, allow_software=config.allow_software_tpm, ek=config.ek or None, ak=config.ak)


def build_uplink(config: AttestorConfig, verifier: str, signer: Signer | None) -> Uplink:
    """The line to the verifier; `signer` signs each request, or None."""
    return Uplink(verifier, ca_file=config.verifier_ca_file, signer=signer, clock=SystemClock(), timeout=config.verifier_timeout)


def build_log(config: AttestorConfig, enrolment: Enrolment, tpm: Tpm) -> RuntimeLog:
    """The runtime log of the enrolled register."""
    return RuntimeLog(config.state.log, tpm, pcr=enrolment.runtime_pcr, bank=enrolment.bank)


def build_anchors(config: AttestorConfig, enrolment: Enrolment, tpm: Tpm) -> AnchorRegister:
    """The register of anchors, if there is to be one. Raises FormatError where it is the runtime log's."""
    if config.anchor_pcr == enrolment.runtime_pcr:
        raise FormatError("configuration: anchor_pcr", f"another than {enrolment.runtime_pcr}, the runtime log's", str(config.anchor_pcr))
    return AnchorRegister(config.state.log, tpm, pcr=config.anchor_pcr or None, bank=enrolment.bank)


def build_daemon(config: AttestorConfig, tpm: Tpm) -> AgentDaemon:
    """The daemon over `tpm`, enrolled. Raises Refused `not-enrolled` before an enrolment."""
    enrolment = read_enrolment(config.state)
    log = build_log(config, enrolment, tpm)
    signer = load_signer(config.state.host_key)
    uplink, exchange = (build_uplink(config, enrolment.verifier, signer) for _ in range(2))
    store = Store(config.store_dir)
    return AgentDaemon(
        enrolment=enrolment,
        log=log,
        attestation=Attestation(
            tpm, log, KernelLogs(config.logs, enrolment.bank), uplink, enrolment, SystemClock(), build_anchors(config, enrolment, tpm)
        ),
        exchange=exchange,
        store=store,
        watch=Watch(store, interval=config.watch_interval, rehash_interval=config.rehash_interval),
        manifests=config.manifests_dir,
        governance=lambda: governance_events(measure_governance()),
    )
