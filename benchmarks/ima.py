"""The IMA list: a whole boot appraised, one that grew by a little, and one where nothing is new."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from benchmarks.measure import Case
from tests.world.ima_logs import d_ng, field_of
from writ.formats.corim import Corim
from writ.formats.digest import Digest
from writ.formats.eventlog.ima import replay
from writ.formats.ima_rules import ImaRules
from writ.verdict.appraise.ima import appraise_ima, index_files, judge_rows

ENTRIES = 100_000
NEW = 100
BANK = "sha256"
BOOT = {index: bytes(32) for index in range(10)}
_PER_CORIM = 4000


def ima_log(entries: int = ENTRIES) -> Iterator[Case]:
    """A list of many entries, each named by a reference value, beside the two hashes an entry that replay cannot do without."""
    files = [
        (f"/usr/lib/x86_64-linux-gnu/some/directory/file-{number}.so", Digest.of(str(number).encode())) for number in range(entries - 1)
    ]
    data = [_data(name.encode(), digest) for name, digest in [("boot_aggregate", Digest.of(bytes(320))), *files]]
    log = b"".join(
        b"\x0a\0\0\0" + hashlib.sha1(body, usedforsecurity=False).digest() + field_of(b"ima-ng") + field_of(body) for body in data
    )
    parts = (sorted(files[at : at + _PER_CORIM]) for at in range(0, len(files), _PER_CORIM))
    references = index_files(Corim(f"c{at}", "bench", "files/os", tuple(part)) for at, part in enumerate(parts))
    rules = ImaRules(exclude=("/var/log/.*",))

    def bare(bodies: list[bytes]) -> bytes:
        register = bytes(32)
        for body in bodies:
            register = hashlib.sha256(register + hashlib.sha256(body).digest()).digest()
        return register

    quoted = bare(data)

    def whole() -> object:
        return appraise_ima(None, log, 0, quoted, BANK, references, rules, boot=BOOT)

    known = appraise_ima(None, log, 0, quoted, BANK, references, rules, boot=BOOT)
    assert known.state is not None
    assert known.reasons == ()
    state = known.state
    name = f"IMA list of {entries:,} entries"
    yield Case(f"{name}, appraised whole", "hashlib alone", whole, lambda: bare(data), entries, "entry")

    def again() -> object:
        return appraise_ima(state, b"", state.entries, quoted, BANK, references, rules, boot=BOOT)

    yield Case(f"{name}, nothing new", "hashlib over one entry", again, lambda: bare(data[:1]))

    rows = replay(log, bytes(32), BANK, quoted)
    assert rows is not None
    found = rows.rows

    def under_others() -> object:
        return judge_rows(found, (), references, rules)

    yield Case(f"{name}, its files under other references", "hashlib alone", under_others, lambda: bare(data), entries, "entry")

    early = len(log) - sum(34 + 4 + len(body) for body in data[-NEW:])
    before = appraise_ima(None, log[:early], 0, bare(data[:-NEW]), BANK, references, rules, boot=BOOT)
    assert before.state is not None
    earlier, tail = before.state, log[early:]

    def grown() -> object:
        return appraise_ima(earlier, tail, earlier.entries, quoted, BANK, references, rules, boot=BOOT)

    yield Case(f"{name}, {NEW} of them new", "hashlib over the new", grown, lambda: bare(data[-NEW:]), NEW, "entry")


def _data(name: bytes, digest: Digest) -> bytes:
    return field_of(d_ng(digest)) + field_of(name + b"\0")
