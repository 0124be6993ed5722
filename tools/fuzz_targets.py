"""What `./run fuzz` tries: functions that take any bytes and return. Whatever they raise has been found.

Each gives the bytes to a parser, which may answer with FormatError and nothing else, and what it made of them to what judges it, which
may answer with a verdict, or with Refused where its docstring says so. Beside that, what must hold for any bytes is asserted: a format
of ours has one spelling, a log replays to where it leads, a list resumed is worth what the whole one is, and a state that is stored can
be read again.
"""

from __future__ import annotations

import hashlib
import io
import socket
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Final, TypeVar

from attestor.measure.layers import Layers
from enforcer.child.command import parse_command
from enforcer.control import CONTROL
from enforcer.gates.egress.client_hello import read_client_hello
from enforcer.gates.egress.http2 import Http2, Http2Stream
from enforcer.gates.egress.request import parse_asked, parse_fields, parse_head, parse_trailers
from enforcer.gates.egress.url import path_of
from enforcer.wire.destination import parse_authority
from enforcer.wire.limits import Limits
from enforcer.wire.stream import Stream
from tests.world.amd import NOW as AMD_NOW
from tests.world.amd import SnpChip
from tests.world.authority import Ca
from tests.world.azure import AzureVm
from tests.world.ima_logs import BOOT, certificate
from tests.world.machine import SHELL, part_reference
from tests.world.scene import ENGINE_ID, NAMESPACE, RUNTIME_PCR, Scene, signer
from tests.world.store import HostLog, proof
from tests.world.tdx import TDX_15, Platform
from tests.world.tlog import MemoryLog, plain_key
from tests.world.uefi_logs import Boot
from verifier.packages.deb import read_deb
from verifier.packages.rpm import read_rpm
from writ.formats.cdi import parse_spec
from writ.formats.corim import Corim, encode_corim, parse_corim, parse_foreign_comid, parse_foreign_corim, parse_signed_corim
from writ.formats.crl import parse_crl
from writ.formats.digest import PCR_COUNT, SIZES, Digest, extend
from writ.formats.errors import FormatError, Refused, Unavailable
from writ.formats.eventlog.cel import CONTENT_WRIT, CelRecord, encode_cel, parse_cel
from writ.formats.eventlog.cel_json import encode_systemd_log, parse_systemd_log
from writ.formats.eventlog.ima import IMA_PCR, hashed, is_padded, parse_row, replay, row_end, summarise, to_binary
from writ.formats.eventlog.runtime import RuntimeEvent, encode_event, event_digests, parse_event, parse_record
from writ.formats.eventlog.uefi import LogKind, UefiEvent, UefiLog, parse_uefi_log, read_uefi_log
from writ.formats.eventlog.uefi_data import (
    encode_variable,
    ipl_preimages,
    parse_firmware_blob,
    parse_image_load,
    parse_signature_lists,
    parse_tagged,
    parse_variable,
)
from writ.formats.evidence import Evidence, ImaLog, encode_evidence, parse_evidence
from writ.formats.ima_rules import ImaRules
from writ.formats.ima_signature import keys_of, parse_file_signature
from writ.formats.jose import parse_dpop
from writ.formats.local import LOCAL
from writ.formats.manifest import parse_manifest
from writ.formats.mcp.answer import parse_progress, parse_said
from writ.formats.mcp.approved import parse_approved
from writ.formats.mcp.events import Events
from writ.formats.mcp.headers import check_headers
from writ.formats.mcp.input import parse_input_required
from writ.formats.mcp.names import uri
from writ.formats.mcp.protocol import MODERN
from writ.formats.mcp.request import Call, parse_message
from writ.formats.measurement import parse_measurement
from writ.formats.module_signature import parse_module_signature
from writ.formats.oci import check_layout, parse_image_config, parse_image_manifest, parse_index
from writ.formats.ocsp import parse_ocsp
from writ.formats.pe import parse_pe
from writ.formats.record import ActionRecord, opening_of, parse_log, parse_preimage, preimage_of
from writ.formats.record import encode_record as encode_leaf
from writ.formats.record import parse_record as parse_leaf
from writ.formats.state import HostState, clean_runtime, encode_host_state, parse_host_state
from writ.formats.strict import decode_json
from writ.formats.tee.dice import parse_tcb_info
from writ.formats.tee.hcl import VtpmQuote, parse_claims, parse_hcl, parse_local_td_report, parse_vtpm_quote
from writ.formats.tee.nitro import document_in_names, parse_document
from writ.formats.tee.nvidia import parse_evidence as parse_nvidia_evidence
from writ.formats.tee.nvidia import parse_opaque
from writ.formats.tee.nvidia import parse_report as parse_nvidia_report
from writ.formats.tee.pck import parse_pck
from writ.formats.tee.rim import parse_rim_file
from writ.formats.tee.snp import parse_report, parse_tcb, split_report
from writ.formats.tee.tdx import Quote, Tee, parse_quote, pck_chain, read_quote
from writ.formats.tee.tdx_collateral import Collateral, parse_collateral
from writ.formats.tee.vek import Vek, parse_certificate_table, parse_vek
from writ.formats.tlog.checkpoint import parse_signed_checkpoint
from writ.formats.tlog.cosignature import NONE, parse_policy
from writ.formats.tlog.edge import Edge
from writ.formats.tlog.merkle import leaf_hash, root
from writ.formats.tlog.note import encode_note, parse_note, parse_vkey
from writ.formats.tlog.proof import encode_tlog_proof, parse_tlog_proof
from writ.formats.tlog.receipt import inclusion_of, parse_receipt
from writ.formats.tlog.storing import (
    encode_add_records,
    encode_info,
    encode_sealed,
    instance_of,
    parse_add_records,
    parse_info,
    parse_sealed,
)
from writ.formats.tlog.tile import encode_bundle, parse_bundle, parse_path
from writ.formats.tlog.tile import path_of as tile_path
from writ.formats.tlog.witnessing import (
    encode_add_checkpoint,
    encode_cosignatures,
    parse_add_checkpoint,
    parse_cosignatures,
    parse_size,
)
from writ.formats.tpm.attest import encode_attest, parse_attest
from writ.formats.tpm.pcr import PcrValues, encode_pcr_selection, parse_pcr_selection
from writ.formats.tpm.public import encode_public, parse_any_public, parse_public
from writ.formats.tpm.signature import encode_signature, parse_signature, verify_signature
from writ.formats.trust import ChainRules
from writ.formats.x509 import Certificate, parse_certificate, parse_pem_certificates, parse_stored_certificate
from writ.formats.x509_key import certificate_key
from writ.formats.xmldsig import canonical, parse_xml
from writ.verdict.appraise.azure import SnpGiven, appraise_azure
from writ.verdict.appraise.boot import judge_boot, measured_values
from writ.verdict.appraise.ima import ImaReferences, appraise_ima, index_files, judge_rows, measured_files
from writ.verdict.appraise.nitro import NitroPolicy, appraise_document
from writ.verdict.appraise.nvidia import NvidiaCollateral, NvidiaPolicy, judge_nvidia
from writ.verdict.appraise.snp import SnpPolicy, appraise_report, order_veks
from writ.verdict.appraise.tdx import DEFAULT, appraise_quote
from writ.verdict.attestation import decide_attestation
from writ.verdict.boot_logs import follow_boot
from writ.verdict.epoch import Epoch
from writ.verdict.ima_log import follow_ima
from writ.verdict.predict import predict_uki
from writ.verdict.reference import reference_set
from writ.verdict.registers import REPLAYABLE, cover, initial_value, replay_registers, replay_rtmrs, replayed_banks
from writ.verdict.revocation import judge_response
from writ.verdict.rim import verify_rim
from writ.verdict.runtime_log import replay as replay_runtime
from writ.verdict.storing import verify_body, verify_records, verify_sender, verify_signed
from writ.verdict.tcb import evaluate_tcb
from writ.verdict.transparency import verify_checkpoint, verify_included, verify_receipt

T = TypeVar("T")

_PCR: Final = IMA_PCR.to_bytes(4, "little")


@dataclass(frozen=True, slots=True)
class Target:
    """`run` takes any bytes; of at most `longest` bytes are they made."""

    run: Callable[[bytes], None]
    longest: int


class Found(Exception):
    """What must hold for any bytes does not hold for these."""


def _hold(holds: bool, what: str) -> None:
    if not holds:
        raise Found(what)


def _read(parse: Callable[[bytes], T], data: bytes) -> T | None:
    """What the bytes are, or None where the parser says that they are not."""
    try:
        return parse(data)
    except FormatError:
        return None


def _one_spelling(parse: Callable[[bytes], T], encode: Callable[[T], bytes], data: bytes) -> T | None:
    """What the bytes are; written down, it is these bytes."""
    value = _read(parse, data)
    _hold(value is None or encode(value) == data, f"{parse.__name__}: two spellings of one value")
    return value


@cache
def _host() -> tuple[Evidence, HostState]:
    """The evidence of a host with one instance, and where the host stands after it."""
    scene = Scene()
    scene.launch("one")
    evidence = scene.evidence("one")
    return evidence, parse_host_state(encode_host_state(scene.judge(evidence).state_after))


def _kept(state: HostState) -> None:
    """A state that the verifier stores is read again as it was."""
    _hold(parse_host_state(encode_host_state(state)) == state, "a stored state is another when it is read")


# --- logs ----------------------------------------------------------------------------------------------------------------


def _led_to(log: UefiLog, bank: str) -> dict[int, bytes]:
    """What a quote says where the whole log holds; RTMRs by their own numbers."""
    shift = 1 if log.kind is LogKind.CCEL else 0
    return {register - shift: value for register, value in replay_registers(log, bank).items() if shift <= register < PCR_COUNT}


def uefi_log(data: bytes) -> None:
    """A log is judged as it is, and with digests that explain its data, as chance does not find them."""
    _read(read_uefi_log, data)
    log = _read(parse_uefi_log, data)
    if log is None:
        return
    for event in log.events:
        _read(parse_image_load, event.data)
        _read(parse_tagged, event.data)
        _read(parse_firmware_blob, event.data)
        variable = _read(parse_variable, event.data)
        if variable is not None:
            _hold(encode_variable(variable) == event.data, "UEFI variable: two spellings of one value")
            _read(parse_signature_lists, variable.data)
    if log.kind is LogKind.CCEL:
        replay_rtmrs(log)
    _judged(log)
    _judged(replace(log, events=tuple(_explained(event) for event in log.events)))
    if "sha256" in replayed_banks(log) and log.kind is not LogKind.CCEL:
        pcrs = {register: bytes(32) for register in range(PCR_COUNT)} | _led_to(log, "sha256")
        _followed(replace(_host()[0], uefi_log=data), pcrs)


def _explained(event: UefiEvent) -> UefiEvent:
    """The event with the digests of what GRUB or systemd would have hashed of its data."""
    hashed = ipl_preimages(event.data)[0 if event.data.startswith((b"grub_", b"kernel_")) else 1]
    digests = ((bank, hashlib.new(bank, hashed).digest() if bank in REPLAYABLE else value) for bank, value in event.digests)
    return replace(event, digests=tuple(digests))


def _judged(log: UefiLog) -> None:
    """Every bank is judged with values that the log leads to, with such as its first half leads to, and with others."""
    half = replace(log, events=log.events[: len(log.events) // 2])
    for bank in replayed_banks(log):
        quoted = _led_to(log, bank)
        _hold(not cover(log, quoted, bank).mismatches, "a log does not replay to where it leads")
        for values in (quoted, _led_to(half, bank), dict.fromkeys(range(PCR_COUNT), b"\1" * dict(log.banks)[bank])):
            claims, _ = judge_boot(log, values, bank)
            if bank in SIZES:
                measured_values(claims)


def _followed(evidence: Evidence, pcrs: Mapping[int, bytes]) -> None:
    """The boot that the logs tell is kept with the host, and known when no log comes."""
    values = PcrValues("sha256", tuple(sorted(pcrs.items())))
    boot, _ = follow_boot(evidence, None, Epoch("first", None), values, RUNTIME_PCR)
    state = replace(_host()[1], boot=boot, logs=("uefi",))
    _kept(state)
    known, _ = follow_boot(replace(evidence, uefi_log=None), state, Epoch("same", None), values, RUNTIME_PCR)
    _hold(known == boot, "a boot without new logs is another")


@cache
def _booted() -> tuple[UefiLog, dict[int, bytes]]:
    log = Boot().measure()
    return log, {pcr: initial_value(log, pcr, 32) for pcr in range(PCR_COUNT)} | replay_registers(log, "sha256")


def systemd_log(data: bytes) -> None:
    """What is read is written and read again, and judged behind the firmware's log of a boot."""
    events = _read(parse_systemd_log, data)
    if events is None:
        return
    _hold(parse_systemd_log(encode_systemd_log(events)) == events, "systemd log: another when it is written and read")
    log, quoted = _booted()
    judge_boot(log, quoted, "sha256", events)
    for event in events:
        for bank, digest in event.digests:
            if bank == "sha256":
                quoted = quoted | {event.pcr: extend(bank, quoted[event.pcr], digest)}
    _, reasons = judge_boot(log, quoted, "sha256", events)
    _hold(all(reason.code != "uefi-log-mismatch" for reason in reasons), "systemd log: does not replay to where it leads")


@cache
def _rules() -> ImaRules:
    return ImaRules(exclude=("/tmp/.*",), violations="label", keyrings=(certificate("publisher"),), learn_keys=True)


@cache
def _files() -> ImaReferences:
    return index_files((part_reference("interpreter"), Corim("os-1", NAMESPACE, "files/os", (("/bin/sh", SHELL),))))


def ima_log(data: bytes) -> None:
    """A list is read as `verifier check` does; with its template hashes put right, it is appraised against where it leads."""
    _read(lambda row: parse_row(row, violation=True), data)
    _read(parse_row, data)
    _read(parse_file_signature, data)
    _read(parse_module_signature, data)
    summary = summarise(data)
    told = _read(to_binary, data)
    if told is not None and summary.fault is None:
        again = summarise(told)
        _hold(
            (again.registers, again.entries) == (summary.registers, summary.entries), "IMA: the ASCII list is another than the binary one"
        )
    log = _put_right(data if told is None else told)
    summary = summarise(log)
    for bank in ("sha1", "sha256"):
        quoted = summary.registers[bank]
        try:
            led = replay(log, bytes(SIZES[bank]), bank, quoted)
            _hold(led is not None or not log.startswith(_PCR) or summary.fault is not None, "IMA: a list does not replay to where it leads")
            is_padded(log, bank, quoted)
        except FormatError:
            pass
        _resumed(log, bank, quoted)
    evidence, state = _host()
    values = {**dict.fromkeys(range(16), bytes(32)), **BOOT, IMA_PCR: summary.registers["sha256"]}
    pcrs = PcrValues("sha256", tuple(sorted(values.items())))
    for more in (False, True):
        sent = replace(evidence, ima_log=ImaLog(0, log, more))
        known, part, _ = follow_ima(sent, None, Epoch("first", None), pcrs, None, _files(), _rules())
        _kept(replace(state, ima=known, ima_part=part, logs=("ima",)))


def _put_right(log: bytes) -> bytes:
    """The binary list with the SHA-1 of its template data in each entry that is no violation, as far as it can be read."""
    made, at = bytearray(log), 0
    try:
        while at < len(log):
            row = log[at + 24 : row_end(log, at + 24)]
            if any(log[at + 4 : at + 24]):
                made[at + 4 : at + 24] = hashlib.sha1(hashed(row), usedforsecurity=False).digest()
            at += 24 + len(row)
    except FormatError:
        pass
    return bytes(made)


def _resumed(log: bytes, bank: str, quoted: bytes) -> None:
    """A list appraised up to its middle and then on is worth what it is worth at once."""
    boot = {index: value[: SIZES[bank]] for index, value in BOOT.items()}
    whole = appraise_ima(None, log, 0, quoted, bank, _files(), _rules(), boot=boot)
    first = appraise_ima(None, log, 0, summarise(log[: len(log) // 2]).registers[bank], bank, _files(), _rules(), boot=boot)
    if whole.state is None or first.state is None or not first.state.entries < whole.state.entries:
        return
    rest = log[len(log) - first.tail :]
    then = appraise_ima(first.state, rest, first.state.entries, quoted, bank, _files(), _rules(), boot=boot)
    _hold(then.state == whole.state, "IMA: a list resumed is worth something else than the whole one")
    again = appraise_ima(first.state, log, 0, quoted, bank, _files(), _rules(), boot=boot)
    _hold(again.state == whole.state, "IMA: a list sent whole again is worth something else")
    shorter = appraise_ima(whole.state, log, 0, first.state.register, bank, _files(), _rules(), boot=boot)
    _hold(shorter.state == whole.state and bool(shorter.reasons), "IMA: a list rewound was taken")
    led = replay(log, bytes(SIZES[bank]), bank, quoted)
    if led is not None:
        judge_rows(led.rows, led.violated, _files(), _rules())
        measured_files(led.rows)


def cel(data: bytes) -> None:
    """Each record and each event of a runtime log has one spelling; with its digests put right, where it leads is kept with the host."""
    _one_spelling(parse_event, encode_event, data)
    records = _one_spelling(parse_cel, encode_cel, data)
    if records is None:
        return
    register = bytes(32)
    for record in records:
        event = _event(record)
        _hold(event is None or encode_event(event) == record.content, "runtime event: two spellings of one value")
        register = extend("sha256", register, Digest.of(record.content).value)
    right = tuple(CelRecord(r.record_number, RUNTIME_PCR, event_digests(r.content, ("sha256",)), CONTENT_WRIT, r.content) for r in records)
    for log in (records, right):
        try:
            runtime = replay_runtime(clean_runtime("sha256"), log, pcr=RUNTIME_PCR, bank="sha256", quoted=register)
        except Refused:
            continue
        _kept(replace(_host()[1], runtime=runtime))


def action_log(data: bytes) -> None:
    """A leaf of an action log has one spelling, and so has what opens a commitment. A log, in pieces behind their length, is read leaf by
    leaf or not at all, and each of its actions stands under an opening."""
    _one_spelling(parse_leaf, encode_leaf, data)
    preimage = _read(parse_preimage, data)
    if preimage is not None:
        salt, digest = preimage
        _hold(preimage_of(salt, b"")[:-32] + digest.value == data, "preimage: two spellings of one value")
    leaves = _pieces(data)
    records = _read(lambda _: parse_log(leaves), data)
    if records is not None:
        _hold([encode_leaf(one) for one in records] == leaves, "action log: other leaves than were given")
        for one in records:
            _hold(not isinstance(one, ActionRecord) or opening_of(records, one).sequence < one.sequence, "an action before its opening")


def _pieces(data: bytes) -> list[bytes]:
    """What stands behind each two bytes of length, as far as it goes."""
    found = []
    while len(data) > 1:
        end = 2 + int.from_bytes(data[:2], "big")
        found.append(data[2:end])
        data = data[end:]
    return found


def _event(record: CelRecord) -> RuntimeEvent | None:
    try:
        return parse_record(record)
    except FormatError:
        return None


# --- what else comes from outside ----------------------------------------------------------------------------------------


@cache
def _scene() -> Scene:
    scene = Scene()
    scene.launch("one")
    return scene


def evidence(data: bytes) -> None:
    """One attestation, read and decided."""
    parsed = _one_spelling(parse_evidence, encode_evidence, data)
    if parsed is None:
        return
    scene = _scene()
    with suppress(FormatError, Refused):
        decide_attestation(
            data, record=scene.record, state=scene.state, bundle=scene.bundle, references=reference_set(scene.references),
            verifier=signer("decision").public.thumbprint(), issuance=scene.issuance(len(parsed.requests)), engine=ENGINE_ID.digest,
        )  # fmt: skip


@cache
def _authority() -> Certificate:
    return parse_certificate(Ca("authority").certificate())


def certificates(data: bytes) -> None:
    """Certificates, CRLs and OCSP responses, in DER, in PEM and as a TPM stores them, with their keys."""
    _read(lambda pem: parse_pem_certificates(pem, "chain"), data)
    _read(parse_stored_certificate, data)
    _read(parse_crl, data)
    response = _read(parse_ocsp, data)
    if response is not None:
        judge_response(response, (response,), (), (_authority(),), ChainRules(), now=1_790_000_000)
    _read(lambda der: keys_of((der,)), data)
    found = _read(parse_certificate, data)
    if found is not None:
        _hold(found.der == data, "certificate: other bytes than were given")
        _read(certificate_key, found.spki)


@cache
def _vek() -> Vek:
    return SnpChip().vek()


def snp(data: bytes) -> None:
    """SNP reports, what certifies their keys, and the judge of whatever AMD's firmware could sign."""
    certificate = _read(parse_certificate, data)
    if certificate is not None:
        _read(lambda _: parse_vek(certificate), data)
    _read(parse_certificate_table, data)
    split = _read(split_report, data)
    report = None if split is None else _read(parse_report, split[0])
    if report is None:
        return
    chip, anchors = SnpChip(), SnpChip().amd.anchors()
    policy = SnpPolicy(floors=(("Milan", parse_tcb(report.launch_tcb, "Milan")),), measurements=frozenset({report.measurement}))
    for one in (report, parse_report(chip.sign(report.signed))):
        with suppress(Refused):
            found = appraise_report(one, _vek(), chip.amd.authorities(), anchors, policy, at=AMD_NOW, report_data=b"\x22")
            _hold(found.reasons == tuple(sorted(set(found.reasons))), "snp: reasons that are not a sorted set")
    order_veks(report, [_vek()])


def nitro(data: bytes) -> None:
    """Nitro documents and certificates that carry one, and the judge of whatever the hypervisor could sign."""
    certificate = _read(parse_certificate, data)
    if certificate is not None:
        _read(lambda _: document_in_names(certificate), data)
    found = _read(parse_document, data)
    if found is None:
        return
    anchors = {Digest.of(found.bundle[0].der)}
    with suppress(Refused):
        judged = appraise_document(found, (), anchors, NitroPolicy(nonce=b"n", key=b"k"), at=found.certificate.not_before)
        _hold(judged.reasons == tuple(sorted(set(judged.reasons))), "nitro: reasons that are not a sorted set")


def nvidia(data: bytes) -> None:
    """Evidence of GPUs and switches, with what judges it; RIMs, and the canonical form of any document, which is its own."""
    devices = _read(parse_nvidia_evidence, data)
    if devices is not None:
        roots = (_authority(),)
        judge_nvidia(
            devices, NvidiaCollateral(), NvidiaPolicy(roots, roots, None, mode_required=False, rims_required=False), at=1_790_000_000
        )
    _read(parse_nvidia_report, data)
    _read(parse_opaque, data)
    _read(parse_tcb_info, data)
    named = _read(parse_rim_file, data)
    if named is not None:
        with suppress(Refused):
            verify_rim(named[1], (_authority(),), at=1_790_000_000, claim="rim")
    root = _read(lambda text: parse_xml(text, "document"), data)
    if root is not None:
        form = canonical(root)
        _hold(canonical(parse_xml(form, "document")) == form, "XML: the canonical form of a canonical form is another")


@cache
def _azure() -> tuple[AzureVm, SnpGiven]:
    """An Azure VM, and whom to believe about its hardware."""
    vm = AzureVm()
    return vm, SnpGiven(vm.chip.vek(), vm.chip.amd.authorities(), vm.chip.amd.anchors())


def azure(data: bytes) -> None:
    """HCL reports, runtime claims and vTPM quotes, and the judge of whatever came under a good signature of hardware and AK."""
    vm, given = _azure()
    _read(parse_local_td_report, data)
    hcl = _read(parse_hcl, data)
    good = vm.snp()
    quote = _read(parse_vtpm_quote, data) or VtpmQuote(data, vm.sign(data), None)
    _read(parse_claims, data if hcl is None else hcl.claims)
    for one in (good, good if hcl is None else hcl):
        with suppress(FormatError, Refused):
            found = appraise_azure(one, given, quote, at=AMD_NOW, nonce=None)
            _hold(found.reasons == tuple(sorted(set(found.reasons))), "azure: reasons that are not a sorted set")


@cache
def _platform() -> tuple[Platform, Quote, Collateral]:
    """A platform with TDX, a quote that it made, and the collateral under which that passes."""
    return Platform(), parse_quote(Platform().quote(5, TDX_15)), Platform().collateral()


def tdx(data: bytes) -> None:
    """A quote with its chain, judged; or collateral: a platform rated by it, and a good quote judged with it beside its own."""
    host, good, own = _platform()
    lax = replace(DEFAULT, tees=frozenset(Tee), collateral_required=False, chain=ChainRules())
    quote = _read(read_quote, data)
    if quote is not None:
        _hold(quote.end <= len(data) and data.startswith(quote.body.raw), "quote: other bytes than were given")
        for certificate in _read(lambda _: pck_chain(quote), data) or ():
            _read(lambda _, certificate=certificate: parse_pck(certificate), data)  # type: ignore[misc] # a default is no argument
        with suppress(FormatError, Refused):
            appraise_quote(quote, own, host.anchors, at=1_790_000_000, policy=lax)
    given = _read(parse_collateral, data)
    if given is not None:
        for info in given.tcb_infos:
            for td in (None,) if info.id == "SGX" else (bytes((6, 0, 5)) + bytes(13), bytes((6, 1, 5)) + bytes(13)):
                with suppress(Refused):
                    evaluate_tcb(info, parse_pck(parse_certificate(host.pck())), None, td, td)
        with suppress(FormatError, Refused):
            appraise_quote(good, Collateral.of((given, own)), host.anchors, at=1_790_000_000)


def pe(data: bytes) -> None:
    """An image's digest and sections, and what booting it as a UKI would show."""
    _read(predict_uki, data)
    image = _read(parse_pe, data)
    if image is not None:
        image.digest()
        for section in image.sections:
            _read(lambda _, section=section: image.content(section), data)  # type: ignore[misc] # a default is no argument


def corim(data: bytes) -> None:
    """Reference values of ours and of other makers."""
    _one_spelling(parse_corim, encode_corim, data)
    _read(parse_signed_corim, data)
    _read(parse_foreign_corim, data)
    _read(parse_foreign_comid, data)


def tpm(data: bytes) -> None:
    """What a TPM says: attestations, public areas, signatures, selections."""
    _one_spelling(parse_attest, encode_attest, data)
    _one_spelling(parse_public, encode_public, data)
    _one_spelling(parse_pcr_selection, encode_pcr_selection, data)
    _read(parse_any_public, data)
    signature = _one_spelling(parse_signature, encode_signature, data)
    if signature is not None:
        _hold(not verify_signature(signature, _scene().chip.ak, data), "a signature over the bytes that hold it")


def packages(data: bytes) -> None:
    """Packages of two kinds of distribution. Where no `zstd` is installed, that is said."""
    _read(lambda raw: read_rpm(io.BytesIO(raw)), data)
    with suppress(Unavailable):
        _read(lambda raw: read_deb(io.BytesIO(raw)), data)


def oci(data: bytes) -> None:
    """The documents of an image, and a layer of one."""
    for parse in (check_layout, parse_index, parse_image_manifest, parse_image_config):
        _read(parse, data)
    with tempfile.TemporaryDirectory() as folder:
        layers = Layers(Path(folder))
        _read(lambda raw: layers.add(io.BytesIO(raw).read), data)
        layers.lay_out(Path(folder, "tree"))


@cache
def _log() -> MemoryLog:
    return MemoryLog([b"%d" % number for number in range(9)])


@cache
def shipped_log() -> HostLog:
    """The action log of a host, the same in every run."""
    return HostLog(6, signer=signer("store"))


def stored(data: bytes) -> None:
    """What a host asks of a record store, and what the store answers; no bytes but the host's make its log go on."""
    asked = _one_spelling(parse_add_records, encode_add_records, data)
    _one_spelling(lambda raw: parse_sealed(raw, 3), encode_sealed, data)
    _one_spelling(parse_info, encode_info, data)
    _read(lambda raw: instance_of(raw.decode("latin-1")), data)
    if asked is None:
        return
    log = shipped_log()
    with suppress(Refused):
        sender = verify_sender(parse_dpop(proof(log.signer, data)), [log.host])
        verify_body(data, sender)
        verify_signed(asked, sender)
        hashes, edge = [leaf_hash(leaf) for leaf in log.leaves], Edge()
        edge.append(hashes[:3])
        proven = verify_records(asked, edge, lambda size: root(hashes[:size]))
        _hold(proven.edge.root() == proven.checkpoint.root, "records that do not lead to what was signed")
        _hold(edge.size == 3, "an edge that a judgement changed")


def tlog(data: bytes) -> None:
    """What logs, witnesses and whoever holds a proof say: notes, checkpoints, proofs, receipts, requests, policies, paths and bundles."""
    _one_spelling(parse_note, encode_note, data)
    _one_spelling(parse_add_checkpoint, encode_add_checkpoint, data)
    _one_spelling(parse_cosignatures, encode_cosignatures, data)
    _one_spelling(lambda raw: parse_bundle(raw, 3), encode_bundle, data)
    _one_spelling(lambda raw: parse_path(raw.decode("latin-1")), lambda tile: tile_path(tile).encode("latin-1"), data)
    _one_spelling(lambda raw: parse_vkey(raw.decode("latin-1")), lambda key: str(key).encode("latin-1"), data)
    _one_spelling(parse_size, lambda size: f"{size}\n".encode(), data)
    _read(inclusion_of, data)
    policy = _read(parse_policy, data)
    if policy is not None:
        everyone = frozenset(one.name for one in policy.witnesses)
        _hold(policy.satisfied(everyone), "a quorum that all witnesses together do not make")
        _hold(policy.satisfied(frozenset()) == (policy.quorum == NONE), "a quorum that nobody makes")
    signed, log, key = _read(parse_signed_checkpoint, data), _log(), plain_key()
    if signed is not None:
        with suppress(Refused):
            verify_checkpoint(signed, key)
            _hold(signed.checkpoint == log.checkpoint(signed.checkpoint.size).checkpoint, "a checkpoint that the log did not sign")
    proof = _one_spelling(parse_tlog_proof, encode_tlog_proof, data)
    if proof is not None and proof.index < len(log.leaves):
        with suppress(Refused):
            checkpoint = verify_checkpoint(proof.checkpoint, key)
            index = verify_included(log.leaves[proof.index], proof, checkpoint)
            _hold(proof.hashes == log.proof(index, checkpoint.size).hashes, "another path to one root")
    receipt = _read(parse_receipt, data)
    if receipt is not None and receipt.index < len(log.leaves):
        with suppress(Refused):
            index = verify_receipt(receipt, log.leaves[receipt.index], log.signer.public, issuer=log.origin)
            _hold(data == log.receipt(index, receipt.size), "a receipt that the log did not write")


def cdi(data: bytes) -> None:
    """A specification of devices."""
    _read(parse_spec, data)


def local(data: bytes) -> None:
    """What programs of one host say to each other, and what an agent commands in a child instance."""
    for parse in (CONTROL.parse, LOCAL.parse, parse_command, parse_manifest, parse_measurement):
        _read(parse, data)


_THERE: Final = parse_authority("api.test:443")


def _egress_fields(data: bytes) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, _, value in (line.partition(b"=") for line in data.split(b"\n"))]


def requests(data: bytes) -> None:
    """What an agent asks the egress gate for: of the proxy, in lines, in fields, and by TLS. What is decided has one spelling."""
    _read(parse_head, data)
    _read(read_client_hello, data)
    fields = _egress_fields(data)
    _read(lambda _: parse_trailers(fields), data)
    for one in (
        _read(lambda raw: parse_asked(raw, _THERE, secure=True)[0], data),
        _read(lambda _: parse_fields(fields, _THERE, ended=True), data),
        _read(lambda _: parse_fields(fields, _THERE, ended=False), data),
    ):
        if one is not None:
            path = one.onward.target.decode("ascii").partition("?")[0]
            _hold(one.resource == f"https://api.test:443{path}" and path_of(path) == path, "what is decided is not what is sent")
            _hold(not any(b"\n" in name + value or b"\r" in name + value for name, value in one.onward.headers), "a line within a field")


def http2(data: bytes) -> None:
    """What an agent, and a host, say in HTTP/2 once it was agreed upon."""
    with socket.socket() as nobody:
        agent = Http2(Stream(nobody), Limits(), client=False)
        for at in range(0, len(data), 100):
            if (asked := _read(agent.hear, data[at : at + 100])) is None:
                break
            for _, fields, ended in asked:
                with suppress(FormatError):
                    parse_fields(fields, _THERE, ended=ended)
        host = Http2(Stream(nobody), Limits(), client=True)
        host.h2.initiate_connection()
        for number in (1, 3):
            host.h2.send_headers(number, [(":method", "GET"), (":scheme", "https"), (":authority", "x"), (":path", "/")], end_stream=True)
            host.sides[number] = Http2Stream(host, number)
        _read(host.hear, data[24:])


def mcp_messages(data: bytes) -> None:
    """What a client and a server of MCP say, and what was approved of the latter. A URI that is decided is the one that is sent; a stream
    is read the same in whatever pieces it comes."""
    message = _read(parse_message, data)
    if isinstance(message, Call):
        with suppress(FormatError):
            check_headers({"mcp-method": data[:20].decode("latin-1"), "mcp-protocol-version": MODERN}, message)
        _hold(message.method != "resources/read" or uri(message.params["uri"], "uri") == message.name, "a URI with two readings")
    _read(lambda raw: parse_said(raw, "server"), data)
    _read(parse_approved, data)
    _hold(_events(data, len(data) or 1) == _events(data, 7), "a stream with two readings")
    value = _read(lambda raw: decode_json(raw, "result", floats=True), data)
    if isinstance(value, dict):
        with suppress(FormatError):
            parse_progress(value, 1)
        with suppress(FormatError):
            parse_input_required(value, "result")


def _events(data: bytes, step: int) -> list[bytes] | None:
    events = Events(1024)
    try:
        return [one for at in range(0, len(data), step) for one in events.feed(data[at : at + step])]
    except FormatError:
        return None


TARGETS: Final = {
    "uefi-log": Target(uefi_log, 16384),
    "systemd-log": Target(systemd_log, 4096),
    "ima-log": Target(ima_log, 4096),
    "cel": Target(cel, 4096),
    "action-log": Target(action_log, 2048),
    "evidence": Target(evidence, 8192),
    "certificates": Target(certificates, 4096),
    "snp": Target(snp, 4096),
    "nitro": Target(nitro, 8192),
    "azure": Target(azure, 4096),
    "nvidia": Target(nvidia, 16384),
    "tdx": Target(tdx, 8192),
    "pe": Target(pe, 8192),
    "corim": Target(corim, 4096),
    "tpm": Target(tpm, 1024),
    "packages": Target(packages, 8192),
    "oci": Target(oci, 8192),
    "cdi": Target(cdi, 4096),
    "stored": Target(stored, 2048),
    "tlog": Target(tlog, 2048),
    "local": Target(local, 4096),
    "requests": Target(requests, 1024),
    "http2": Target(http2, 2048),
    "mcp": Target(mcp_messages, 2048),
}
