"""`verifier check nvidia`: GPUs and NVSwitches by their reports, their certificate chains, and NVIDIA's RIMs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from verifier.check.ek_cert import Given, read_trust
from verifier.check.finding import Finding, Options, read_file
from writ.formats.crl import parse_crl
from writ.formats.errors import FormatError, Unavailable
from writ.formats.ocsp import parse_ocsp
from writ.formats.tee.nvidia import DeviceEvidence, parse_evidence, parse_report, parse_report_file
from writ.formats.tee.rim import parse_rim_file
from writ.formats.x509 import Certificate, parse_pem_certificates
from writ.verdict.appraise.nvidia import DeviceFacts, NamedRim, NvidiaCollateral, NvidiaPolicy, judge_nvidia
from writ.verdict.nvidia_roots import DEVICE_ROOTS, RIM_ROOTS

RIM_FILES: Final = (".xml", ".swidtag", ".json")
_CHAIN_BESIDE: Final = "chain.pem"
_PEM: Final = b"-----BEGIN CERTIFICATE"
_MOST_RIMS: Final = 256


def check_nvidia(finding: Finding, args: argparse.Namespace, options: Options) -> None:
    """1. It parses. 2. Each device, and all together (`judge_nvidia`). Without --rims nothing is compared, and a note says so."""
    # 1
    devices = _devices(args.files)
    finding.claims["devices"] = [{"nonce": one.report.measurements.nonce.hex(), "measurements": _measurements(one)} for one in devices]
    given = Given((), ()) if options.trust is None else read_trust(options.trust)
    device_roots, rim_roots = (DEVICE_ROOTS, RIM_ROOTS) if options.trust is None else _roots(given)
    collateral = NvidiaCollateral(
        () if args.rims is None else _rims(finding, args.rims), tuple(map(parse_crl, given.crls)), tuple(map(parse_ocsp, given.ocsp))
    )
    # 2
    policy = NvidiaPolicy(
        device_roots, rim_roots, options.nonce, mode_required=False, rims_required=args.rims is not None, distinct=False
    )  # fmt: skip
    appraisal = judge_nvidia(devices, collateral, policy, at=options.at)
    finding.claims["devices"] = [_shown(facts, options.trust is None) for facts in appraisal.devices]
    finding.reasons.extend(appraisal.reasons)
    finding.notes.extend(appraisal.notes)
    if options.nonce is None:
        finding.note("nonce-unknown", "nonce", "--nonce, to judge freshness", "none")


def _shown(facts: DeviceFacts, pinned: bool) -> dict[str, object]:
    return {
        "model": facts.model,
        "arch": facts.architecture,
        "driver": facts.driver,
        "vbios": facts.vbios,
        "nonce": facts.nonce.hex(),
        "mode": facts.mode,
        "firmware": None if facts.firmware is None else facts.firmware.hex(),
        "measurements": {str(index): value.hex() for index, value in facts.measurements.items()},
        "rims": list(facts.rims),
        "differing": list(facts.differing),
        "cert_chain": None if facts.root is None else ("pinned root: " if pinned else "") + facts.root,
    }


def _measurements(device: DeviceEvidence) -> dict[str, str]:
    return {str(block.index): block.value.hex() for block in device.report.measurements.blocks}


def _devices(files: Sequence[Path]) -> tuple[DeviceEvidence, ...]:
    """The devices of an evidence file, or the one of a report and its chain: both files, their directory, or `chain.pem` beside it."""
    if len(files) == 1 and not files[0].is_dir():
        data = read_file(files[0])
        if data.lstrip()[:1] in (b"[", b"{"):
            return parse_evidence(data)
        files = (files[0], files[0].with_name(_CHAIN_BESIDE))
    held = [path for given in files for path in (sorted(given.iterdir()) if given.is_dir() else [given])]
    found = [(path, read_file(path)) for path in held if path.suffix.lower() != ".json"]
    chains = [parse_pem_certificates(data, path.name) for path, data in found if _PEM in data]
    reports = [parse_report(parse_report_file(data)) for _, data in found if _PEM not in data]
    if len(reports) != 1 or not chains:
        got = f"{len(reports)} reports and {len(chains)} chains"
        raise FormatError("evidence", "an evidence file, or one report with its certificate chain", got)
    return (DeviceEvidence(reports[0], chains[0]),)


def _rims(finding: Finding, folder: Path) -> tuple[NamedRim, ...]:
    """The RIMs of --rims, by the names of their files or the ids that the RIM service gave them. What is none is noted and passed over."""
    if not folder.is_dir():
        raise Unavailable("--rims", f"expected a directory of RIMs, got {folder}")
    paths = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in RIM_FILES]
    if len(paths) > _MOST_RIMS:
        raise FormatError("--rims", f"at most {_MOST_RIMS} RIMs", str(len(paths)))
    found: list[NamedRim] = []
    for path in paths:
        try:
            name, rim = parse_rim_file(read_file(path))
        except FormatError as error:
            finding.note("nvidia-rim-refused", f"rims.{path.name}", error.expected, error.got)
            continue
        found.append(NamedRim(name or path.stem, rim))
    return tuple(found)


def _roots(given: Given) -> tuple[tuple[Certificate, ...], tuple[Certificate, ...]]:
    """Of the roots of --trust those of devices and those of RIMs. A root of NVIDIA is for its own purpose, any other for both."""
    devices = tuple(root for root in given.roots if root not in RIM_ROOTS)
    return devices, tuple(root for root in given.roots if root not in DEVICE_ROOTS)
