"""What happened to an instance or an action, read from what the holders wrote. Shows, and decides nothing.

A reference is what a refusal card prints: `5f1c09ab-12` is record 12 of the
instance whose name begins so, `5f1c09ab` the instance itself, `r5f1c09ab` a
run that was refused before it had an instance. More digits make it unambiguous.
"""

from __future__ import annotations

import json
import re
import sqlite3
from pathlib import Path
from typing import Any, Final

from enforcer.config import EnforcerConfig
from enforcer.launch.cgroup import MOUNTINFO, Cgroup, find_mount
from enforcer.papers import kept
from enforcer.receipts import read_receipt, unstored
from enforcer.record import LOG_FILE, Entry, LogReader
from writ.formats.approval import Approval
from writ.formats.archive import Archive, InstanceLog
from writ.formats.errors import FormatError, Refused, Unavailable
from writ.formats.policy_bundle import PolicyBundle, parse_bundle
from writ.formats.reason import REMEDIES, Reason
from writ.formats.record import ActionRecord, Opening, OutcomeRecord, preimage_of
from writ.formats.tlog.merkle import leaf_hash
from writ.formats.tlog.note import parse_vkey
from writ.formats.trace import traceparent

_REFERENCE: Final = re.compile(r"(?:r[0-9a-f]{8}|([0-9a-f]{4,32})(?:-([0-9]{1,12}))?)\Z", re.ASCII)


def instance_id(whole: str) -> bytes:
    """The instance of this name, whether this host remembers it or not. Raises FormatError."""
    if not re.fullmatch(r"[0-9a-f]{32}", whole):
        raise FormatError("instance", "32 hex digits", repr(whole)[:80])
    return bytes.fromhex(whole)


def find_instance(config: EnforcerConfig, prefix: str) -> bytes:
    """The one instance whose name begins with `prefix`. Raises Refused (`not-found`), FormatError for no hex."""
    if not re.fullmatch(r"[0-9a-f]{4,32}", prefix):
        raise FormatError("instance", "4 to 32 hex digits", repr(prefix)[:80])
    found = [name for name in instances(config) if name.hex().startswith(prefix)]
    if len(found) != 1:
        raise Refused(Reason("not-found", "instance", "one instance of this name", f"{len(found)} that begin with {prefix}"))
    return found[0]


LIVE: Final = ("starting", "running", "observed", "held")
"""How an instance stands whose holder lives."""


def instances(config: EnforcerConfig) -> list[bytes]:
    """Every instance this host remembers, sorted; none where there has never been one. Raises Unavailable for what cannot be listed."""
    folder = config.state_dir / "instances"
    try:
        names = sorted(path.name for path in folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise Unavailable("instances", f"{folder}: {error.strerror}") from None
    return [bytes.fromhex(name) for name in names if re.fullmatch(r"[0-9a-f]{32}", name)]


def standing(config: EnforcerConfig, instance: bytes) -> dict[str, Any]:
    """How an instance stands: what its holder wrote last, and whether that holder still lives and its cgroup is frozen.

    `unknown` where nothing was written or it is no JSON. Raises Unavailable for what cannot be read.
    """
    path = config.instance_dir(instance) / "state.json"
    shown: dict[str, Any] = {"instance": instance.hex(), "state": "unknown"}
    try:
        shown |= json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return shown
    except OSError as error:
        raise Unavailable("instance", f"{path}: {error.strerror}") from None
    cgroup = Cgroup(find_mount(MOUNTINFO.read_text()) / config.cgroup.lstrip("/") / instance.hex())
    if shown["state"] in LIVE and not _lives(shown.get("holder")):
        shown["state"] = "lost"
    return shown | _shipped(config, instance) | {"processes": len(cgroup.processes()), "frozen": cgroup.frozen()}


def _shipped(config: EnforcerConfig, instance: bytes) -> dict[str, Any]:
    """How many records are in the store off the host and how many here alone; nothing where there is no store, or no log that reads."""
    folder = config.instance_dir(instance)
    if not config.record_store or not (folder / LOG_FILE).exists():
        return {}
    kept = read_receipt(folder, parse_vkey(config.record_store_key), f"{config.record_log}/{instance.hex()}")
    size = 0 if kept is None else kept.signed.checkpoint.size
    try:
        behind, since = unstored(folder, size)
    except (sqlite3.Error, FormatError):
        return {"stored": size}
    return {"stored": size, "unstored": behind, "unstored_since": since}


def latest_first(standing: dict[str, Any]) -> tuple[bool, int]:
    """The key that sorts what may still act before what has ended, each from the latest on."""
    since = standing.get("since")
    return standing["state"] not in LIVE, -since if isinstance(since, int) else 0


def _lives(pid: object) -> bool:
    """Whether there is such a process; one that ended, and that nobody has reaped, has no command line any more."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False


def why(config: EnforcerConfig, reference: str) -> dict[str, Any]:
    """The refusal behind `reference`: rule, claim, expected, got, next step, and what was asked.

    Raises Refused, FormatError, Unavailable.
    """
    match = _REFERENCE.match(reference)
    if match is None:
        raise FormatError("reference", "an instance and a record, such as 5f1c09ab-12", repr(reference)[:80])
    if match[1] is None:
        return _before_launch(config, reference)
    instance = find_instance(config, match[1])
    if match[2] is None:
        return {"reference": reference, **standing(config, instance), "agent_did": _counts(config, instance)}
    entry = _entry(config, instance, int(match[2]))
    return {"reference": reference, **shown(entry), **_approvable(entry), "containment": _containment(config, instance)}


def _approvable(entry: Entry) -> dict[str, Any]:
    """What an approval of this refusal names, where one would let it pass; empty where none would."""
    record = entry.record
    if not isinstance(record, ActionRecord) or [reason.code for reason in record.reasons] != ["approval-required"]:
        return {}
    named = {"instance": entry.opening.instance.hex(), "refused": leaf_hash(entry.leaf).hex(), "arguments": record.arguments.hex()}
    return {"approval": {**named, "policy": str(record.bundle)}}


def approvable(config: EnforcerConfig, reference: str, *, made_at: int, within: int, number: bytes) -> tuple[Approval, PolicyBundle]:
    """The approval that a person may sign of the refusal behind `reference`, and the policy that says who may; `number` is its random id.

    Raises Refused (`not-found`) where an approval would not change the answer, FormatError, Unavailable.
    """
    match = _REFERENCE.match(reference)
    if match is None or match[2] is None:
        raise FormatError("reference", "a refused action, such as 5f1c09ab-12", repr(reference)[:80])
    instance = find_instance(config, match[1])
    entry = _entry(config, instance, int(match[2]))
    record = entry.record
    if not isinstance(record, ActionRecord) or record.bundle is None or not _approvable(entry):
        raise Refused(Reason("not-found", "record", "an action that was refused by approval-required", reference))
    policy = kept(config.instance_dir(instance)).by_digest().get(record.bundle)
    if policy is None:
        raise Unavailable("papers", f"the policy {record.bundle} of this record is not kept")
    leaf = leaf_hash(entry.leaf)
    approval = Approval(
        instance, record.action, record.resource, record.arguments, record.bundle, record.gate, leaf, made_at, made_at + within, number
    )  # fmt: skip
    return approval, parse_bundle(policy)


def _before_launch(config: EnforcerConfig, reference: str) -> dict[str, Any]:
    path = config.state_dir / "refused" / f"{reference}.json"
    try:
        kept_as: dict[str, Any] = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        raise Refused(Reason("not-found", "reference", "a refusal kept on this host", reference)) from None
    except OSError as error:
        raise Unavailable("refusal", f"{path}: {error.strerror}") from None
    return {"permit": False, **kept_as}


def _entry(config: EnforcerConfig, instance: bytes, sequence: int) -> Entry:
    entries = LogReader(config.instance_dir(instance), instance, config.namespace_keys).entries()
    if sequence >= len(entries):
        raise Refused(Reason("not-found", "record", f"0 to {len(entries) - 1}", str(sequence)))
    return entries[sequence]


def _containment(config: EnforcerConfig, instance: bytes) -> dict[str, Any]:
    now = standing(config, instance)
    return {name: now.get(name) for name in ("state", "measured")}


def _counts(config: EnforcerConfig, instance: bytes) -> dict[str, int] | None:
    """How many actions its log holds; None where the log cannot be read, which is not the same as none."""
    try:
        records = [entry.record for entry in LogReader(config.instance_dir(instance), instance, config.namespace_keys).entries()]
    except Unavailable:
        return None
    actions = [record for record in records if isinstance(record, ActionRecord)]
    observed = sum(_is_observed(action) for action in actions)
    did = {"permitted": sum(a.permit for a in actions), "refused": sum(not a.permit for a in actions) - observed}
    return {**did, "observed": observed} if observed else did


def _is_observed(action: ActionRecord) -> bool:
    """Whether it passed without being decided: nothing of it is a permit."""
    return any(reason.code == "observed" for reason in action.reasons)


def shown(entry: Entry) -> dict[str, Any]:
    """A record for people and scripts; `content` is the argument or result, None once erased."""
    record = entry.record
    content = None if entry.content is None else entry.content.decode("utf-8", "replace")
    if isinstance(record, Opening):
        told = {"agent": record.agent, "at": record.opened_at, "engine": str(record.engine.tree)}
        return {"sequence": record.sequence, "kind": "opening", **told, "content": None}
    if isinstance(record, OutcomeRecord):
        status = {} if record.status is None else {"status": record.status}
        said = {"of": record.of, "outcome": record.outcome, **status, "bytes": record.size, "at": record.finished_at}
        return {"sequence": record.sequence, "kind": "outcome", **said, "content": content}
    return {
        "sequence": record.sequence, "kind": "action", "agent": entry.opening.agent, "action": record.action, "resource": record.resource,
        "permit": record.permit, **({"observed": True} if _is_observed(record) else {}), "at": record.decided_at, "gate": record.gate,
        "reasons": [{**reason.to_json(), "remedy": REMEDIES[reason.code]} for reason in record.reasons],
        "token": None if record.token is None else str(record.token), "policy": None if record.bundle is None else str(record.bundle),
        "parent": None if record.parent is None else record.parent.hex(),
        "traceparent": None if record.trace is None else traceparent(record.trace), "content": content,
    }  # fmt: skip


def log(config: EnforcerConfig, instance: bytes) -> dict[str, Any]:
    """Every record of an instance, with size and root of the log."""
    reader = LogReader(config.instance_dir(instance), instance, config.namespace_keys)
    checkpoint = {"size": reader.checkpoint.size, "root": reader.checkpoint.root.hex()}
    return {"instance": instance.hex(), **checkpoint, "records": [shown(entry) for entry in reader.entries()]}


def inclusion(config: EnforcerConfig, instance: bytes, sequence: int) -> dict[str, Any]:
    """One record's leaf with the proof that it is in the log as it is now. Raises FormatError where there is none."""
    proof = LogReader(config.instance_dir(instance), instance, config.namespace_keys).inclusion(sequence)
    return {
        "instance": instance.hex(), "leaf": proof.leaf.hex(), "index": proof.index, "size": proof.checkpoint.size,
        "root": proof.checkpoint.root.hex(), "proof": [value.hex() for value in proof.proof],
    }  # fmt: skip


def export(config: EnforcerConfig, wanted: list[bytes]) -> Archive:
    """The archive of these instances for an auditor: leaves, and every decision, token and object that was given for them."""
    archive = Archive((), (), (), ())
    for instance in wanted:
        folder = config.instance_dir(instance)
        reader = LogReader(folder, instance, config.namespace_keys)
        entries = reader.entries()
        own = InstanceLog(instance, tuple(entry.leaf for entry in entries))
        contexts = {part for entry in entries for part in _shown_context(entry)}
        archive = archive.merged(kept(folder)).merged(Archive((), (), tuple(sorted(contexts)), (own,)))
    return archive


def _shown_context(entry: Entry) -> tuple[bytes, ...]:
    """What opens the commitment to the context, under the names by which an auditor finds it; nothing once erased."""
    hidden = entry.hidden
    if hidden is None or hidden.context is None or hidden.context_salt is None:
        return ()
    return preimage_of(hidden.context_salt, hidden.context), hidden.context
