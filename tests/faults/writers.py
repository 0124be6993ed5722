"""The two writers of logs as programs that can be killed: `python -m tests.faults.writers LAYER`, under the file layer of `layer.c`.

It reads a line of JSON, forks, does as it was told in the child, and says in another how the child ended, and what it said until then:

    {"kind": "verifier" | "enforcer", "folder": …, "changes": …, "callers": …, "closes": …, "trace": null | …,
     "fault": null | {"at": …, "by": "call" | "line", "does": …, "sticky": …}}
    {"status": -9, "said": [{"leaf": …, …}, {"refused": …, …}, …, {"steps": …}]}

A step is a call of the file layer (`by` call) or a line of our own code that runs (`by` line). What a child says goes through a pipe, so
it is there however the child ended: an answer that left.
"""

from __future__ import annotations

import ctypes
import gc
import itertools
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, Final

from enforcer.record import ActionLog
from tests.world.attestor import ENGINE
from tests.world.scene import NOW, sign_entry, signer
from tests.world.translog import ISSUER, ORIGIN, act
from verifier.ledger import Admitted, Began, Entry
from verifier.ledger.schema import AdmissionRow, EntryRow
from verifier.ledger.sequencer import SqliteLedger
from verifier.ledger.translog import TransparencyLog
from writ.formats.action import Action, encode_context
from writ.formats.decision import Genesis
from writ.formats.digest import Digest
from writ.formats.errors import Unavailable, WritError
from writ.formats.record import ActionDraft
from writ.formats.spiffe import AgentId

ACTIONS: Final = {"kill before": 1, "kill after": 2, "no space": 3, "short": 4, "io error": 5}
CODE: Final = {
    "verifier": tuple(f"verifier/ledger/{name}.py" for name in ("sequencer", "translog", "transaction", "sqlite")),
    "enforcer": ("enforcer/record.py",),
}  # fmt: skip
INSTANCE: Final = bytes(range(16))
AGENT: Final = AgentId("example.org", "billing", "reporter")
Say = Callable[..., None]
_DRAFT: Final = ActionDraft(
    1, Action("tool.call", "mcp:notes/read", Digest.of(b"")), None, None, encode_context({"now": 1}), (), None, "socket"
)


def ledger_at(folder: Path, head: Path | None = None) -> SqliteLedger:
    """The verifier's ledger with its log, as `verifier.compose` opens it. Raises Refused, Unavailable."""
    log = TransparencyLog(ORIGIN, signer("log"), head or folder / "log-head")
    try:
        return SqliteLedger(folder / "ledger.sqlite", log=log)
    except BaseException:
        log.close()
        raise


def admitted(name: str) -> Admitted:
    """A host admitted, its decision signed."""
    entry = Entry("operator", "billing", name, NOW, sign_entry(act(NOW, name)))
    return Admitted(entry, AdmissionRow(Digest.of(name.encode()).value, name, "billing", None, 0, 1, NOW + 600, 0))


def genesis() -> Began:
    """The first entry."""
    key = signer("log").public
    return Began(Entry("genesis", "*", "", NOW, sign_entry(Genesis(ENGINE, NOW, ISSUER, "example.org", ORIGIN, key))))


def verifier(folder: Path, changes: int, callers: int, closes: bool, say: Say) -> None:
    """What is served at once; then `callers` commit `changes` each, and there is a last: leaf, receipt and checkpoint of each."""
    ledger = ledger_at(folder)
    log = ledger.log
    assert log is not None
    say(checkpoint=log.checkpoint.decode())
    if ledger.read().last(EntryRow) is None:
        ledger.commit(genesis())

    def ask(name: str) -> None:
        try:
            row = ledger.commit(admitted(name)).entry
        except Unavailable as refused:
            say(refused=str(refused))
            return
        assert row is not None
        receipt = log.receipt(ledger.read(), row.sequence)
        say(leaf=row.leaf.hex(), sequence=row.sequence, receipt=receipt.hex(), checkpoint=log.checkpoint.decode())

    _callers(callers, changes, ask)
    say(checkpoint=log.checkpoint.decode(), ended=ledger.ended)
    if closes and not ledger.ended:
        ledger.close()


def enforcer(folder: Path, changes: int, callers: int, closes: bool, say: Say) -> None:
    """The same of an action log."""
    log = ActionLog(folder, INSTANCE, AGENT, ENGINE, 1)
    found = log.checkpoint()
    say(size=found.size, root=found.root.hex())

    def ask(name: str) -> None:
        try:
            recorded = log.append(_DRAFT, name.encode())
        except Unavailable as refused:
            say(refused=str(refused))
            return
        now = log.checkpoint()
        say(leaf=recorded.leaf_hash.hex(), sequence=recorded.sequence, size=now.size, root=now.root.hex(), content=name)

    _callers(callers, changes, ask)
    say(ended=log.broken or "")
    if closes and log.broken is None:
        log.close()


def _callers(callers: int, changes: int, ask: Callable[[str], None]) -> None:
    def each() -> None:
        for _ in range(changes):
            ask(f"host-{os.urandom(6).hex()}")

    threads = [threading.Thread(target=each) for _ in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if changes:
        ask(f"last-{os.urandom(6).hex()}")


def _die_at_line(kind: str, at: int) -> Callable[[], int]:
    """The process is killed before line `at` of those of `CODE` that run from now on; how many ran."""
    ran = itertools.count()
    seen = [0]

    def at_line(_: FrameType, event: str, __: object) -> Any:
        if event == "line":
            seen[0] = next(ran)
            if seen[0] == at:
                os.kill(os.getpid(), signal.SIGKILL)
        return at_line

    def at_call(frame: FrameType, _: str, __: object) -> Any:
        return at_line if frame.f_code.co_filename.endswith(CODE[kind]) else None

    threading.settrace(at_call)
    sys.settrace(at_call)
    return lambda: seen[0]


def _child(layer: ctypes.CDLL, told: dict[str, Any], pipe: int) -> None:
    lock = threading.Lock()

    def say(**what: object) -> None:
        with lock:
            os.write(pipe, json.dumps(what).encode() + b"\n")

    fault, folder = told["fault"], Path(told["folder"])
    trace = os.open(told["trace"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600) if told["trace"] else -1
    by_call = fault is not None and fault["by"] == "call"
    layer.layer_arm(
        str(folder).encode(), fault["at"] if by_call else -1, ACTIONS[fault["does"]] if by_call else 0, by_call and fault["sticky"], trace
    )
    steps: Callable[[], int] = layer.layer_steps
    if fault is not None and fault["by"] == "line":
        steps = _die_at_line(told["kind"], fault["at"])
    try:
        {"verifier": verifier, "enforcer": enforcer}[told["kind"]](folder, told["changes"], told["callers"], told["closes"], say)
    except WritError as error:
        say(refused=str(error), kind=type(error).__name__)
    say(steps=steps())


def main() -> None:
    """Rounds until the end of the input. What a child needs is imported before, and forked."""
    layer = ctypes.CDLL(sys.argv[1])
    layer.layer_steps.restype = ctypes.c_long
    layer.layer_arm.argtypes = [ctypes.c_char_p, ctypes.c_long, ctypes.c_int, ctypes.c_int, ctypes.c_int]
    signer("log"), signer("decision")
    gc.freeze()
    for line in sys.stdin:
        told = json.loads(line)
        ours, theirs = os.pipe()
        child = os.fork()
        if not child:
            os.close(ours)
            status = 1
            try:
                _child(layer, told, theirs)
                status = 0
            finally:
                os._exit(status)
        os.close(theirs)
        with os.fdopen(ours, "rb") as pipe:
            said = [json.loads(one) for one in pipe.read().split(b"\n")[:-1]]
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps({"status": ended, "said": said}), flush=True)


if __name__ == "__main__":
    main()
