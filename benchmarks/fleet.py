"""A change of reference values asked about for a fleet, from recorded state and the evidence that brought the IMA lists."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace

from benchmarks.measure import Case
from tests.world.machine import Machine
from writ.formats.corim import Corim
from writ.formats.digest import Digest
from writ.formats.eventlog.ima import replay
from writ.formats.evidence import encode_evidence, parse_evidence
from writ.formats.state import encode_host_state, parse_host_state
from writ.verdict.dry_run import MeasuredRows, foresee
from writ.verdict.reference import reference_set

HOSTS = 300
FILES = 1_500
"""What a server with `ima_policy=tcb` measures from boot to its services, about."""


def dry_run(hosts: int = HOSTS) -> Iterator[Case]:
    """Old and new packages together, held against every host; beside it, the hashes of replaying the lists."""
    machine = Machine()
    names = [(f"/usr/lib/package/file-{number}.so", Digest.of(str(number).encode())) for number in range(FILES)]
    for name, digest in names:
        machine.kernel.measure(name, digest)
    old = Corim("os-2", "billing", "files/more", tuple(sorted(names)))
    new = replace(old, id="os-3", components=tuple((name, Digest.of(digest.value)) for name, digest in old.components))
    machine.scene.references = (*machine.scene.references, old)
    evidence = encode_evidence(replace(machine.scene.evidence("one"), ima_log=machine.sent()))
    verdict = machine.attest()
    assert verdict.tokens[0].claims is not None
    state = encode_host_state(verdict.state_after)
    references = reference_set((*machine.scene.references, new))

    def ask() -> int:
        passing = 0
        for _ in range(hosts):
            known, sent = parse_host_state(state), parse_evidence(evidence).ima_log
            assert known.ima is not None
            assert sent is not None
            found = replay(sent.entries, bytes(32), known.ima.bank, known.ima.register)
            assert found is not None
            listed = MeasuredRows(found.rows, found.violated)
            passing += foresee(machine.scene.record, known, listed, references, machine.scene.bundle, machine.scene.now).passes
        return passing

    assert ask() == hosts

    def bare() -> None:
        for _ in range(hosts):
            register = bytes(32)
            for name, _digest in names:
                register = hashlib.sha256(register + hashlib.sha256(name.encode() * 2).digest()).digest()

    yield Case(f"dry run over {hosts} hosts of {FILES:,} files", "hashlib alone", ask, bare, hosts, "host")
