"""`python -m swtpm start --state DIR`: one software TPM for a person or a script, until interrupted."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from swtpm.manufacturer import BANKS, Manufacturer
from swtpm.slow import Delays
from swtpm.soft import SoftTpm, SoftTpmError


def main(arguments: list[str] | None = None) -> int:
    """Run one TPM in the foreground; the first line on standard output is its TCTI string."""
    parser = argparse.ArgumentParser(prog="python -m swtpm", description="Software TPMs with a test manufacturer.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    start = verbs.add_parser("start", help="run one TPM until interrupted; print its TCTI string")
    start.add_argument("--state", type=Path, required=True, help="its directory: CA and state are made here the first time and kept")
    start.add_argument("--name", default="tpm", help="which TPM of this manufacturer (another name is another TPM)")
    start.add_argument("--sha1", action="store_true", help="make it with a SHA-1 bank too")
    start.add_argument("--slow", action="store_true", help="as slow as a real chip: 300 ms a quote, 20 ms an extend")
    asked = parser.parse_args(arguments)

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        manufacturer = Manufacturer(asked.state)
        state = manufacturer.state(asked.name, banks=("sha1", *BANKS) if asked.sha1 else BANKS)
        with SoftTpm(
            state,
            ca_pem=manufacturer.root_pem,
            intermediates_pem=manufacturer.intermediates_pem,
            clone=False,
            delays=Delays() if asked.slow else None,
        ) as tpm:
            root = asked.state / "root.pem"
            root.write_bytes(tpm.ca_pem + tpm.intermediates_pem)
            print(tpm.tcti, flush=True)
            print(f"software TPM, pid {tpm.pid}; its manufacturer's certificates: {root}", file=sys.stderr)
            try:
                while True:
                    signal.pause()
            except KeyboardInterrupt:
                return 0
    except (SoftTpmError, OSError) as error:
        print(f"swtpm: {error}", file=sys.stderr)
        return 3


if __name__ == "__main__":
    sys.exit(main())
