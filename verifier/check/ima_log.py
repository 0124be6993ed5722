"""`verifier check ima-log`: an IMA measurement list, binary or ASCII, replayed from its first entry."""

from __future__ import annotations

import argparse

from verifier.check.finding import Finding, Options, read_file
from writ.formats.eventlog.ima import IMA_PCR, MAX_LOG_SIZE, summarise


def check_ima_log(finding: Finding, args: argparse.Namespace, _: Options) -> None:
    """1. It parses to its end, each template hash is that of its data. 2. It is a list of PCR 10. 3. Each template can be read.

    Whether PCR 10 held `pcr10` is for a quote to say, and whether the files are good ones for reference values.
    """
    summary = summarise(read_file(args.file, MAX_LOG_SIZE))
    finding.claims |= {
        "pcr10": {bank: register.hex() for bank, register in summary.registers.items()},
        "entries": summary.entries, "violations": summary.violations, "templates": summary.templates,
    }  # fmt: skip
    # 1
    if summary.fault is not None:
        raise summary.fault
    # 2
    if summary.pcr != IMA_PCR:
        finding.refuse("malformed", "ima_log.pcr", str(IMA_PCR), str(summary.pcr))
    # 3
    for template in summary.unknown:
        finding.refuse("ima-template-unknown", "ima_log.template", "a template of the kernel with a digest and a name", template)
