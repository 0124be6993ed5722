"""What a verifier remembers of a host: who it is, and where its clock, its log and its instances stood.

Recorded state is plain data: verdict functions take it and return its
successor, and nothing here says that it is true. `HostRecord` is fixed by an
enrolment; `HostState` moves with every attestation, `version` by one each time,
so that two verdicts on one state cannot both be committed.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, replace
from typing import Final

from writ.formats.anchor import MAX_ANCHORED
from writ.formats.boot_state import BootState
from writ.formats.digest import SIZES, Digest
from writ.formats.errors import FormatError
from writ.formats.ima_state import ImaState
from writ.formats.keys import PublicKey, parse_cose_key
from writ.formats.spiffe import AgentId
from writ.formats.strict import Fields, decode_cbor, encode_cbor

HOST_STATUSES: Final = ("active", "contained", "retired")
PHASES: Final = ("running", "stopped", "drifted", "tainted")
TPM_CLASSES: Final = ("discrete", "firmware", "virtual", "software")
LOGS: Final = ("ima", "uefi")
MAX_STATE: Final = 32 << 20
MOST_SETS: Final = 16
"""Of governance in one boot that nobody approved."""


@dataclass(frozen=True, slots=True)
class HostRecord:
    """An enrolled host: the keys of its TPM, and what its enrolment fixed.

    `ek` is the SHA-256 of the EK's SubjectPublicKeyInfo, `ak` a TPMT_PUBLIC,
    `qualified_name` the AK's below that EK, which every quote repeats,
    `host_key` the key that signs its requests. `endorsed` is False for a TPM
    admitted by its EK digest without a certificate. `revocation_checked` says
    that a fresh CRL stood behind each certificate of the EK's chain; the policy
    of the verifier's trust may do without.
    """

    host: str
    namespace: str
    generation: int
    ek: Digest
    ek_certificates: tuple[bytes, ...]
    ak: bytes
    qualified_name: bytes
    host_key: PublicKey
    tpm_class: str
    endorsed: bool
    runtime_pcr: int
    bank: str
    enrolled_at: int
    revocation_checked: bool

    def checked(self, revocation: bool) -> HostRecord:
        """The record of the same enrolment by other CRLs."""
        return replace(self, revocation_checked=revocation)


@dataclass(frozen=True, slots=True, order=True)
class InstanceState:
    """One launch as the quoted log tells it, with the action-log checkpoint it carried last.

    `anchored` are the checkpoints, size and root, that were anchored since and that the next one must extend: sorted, each once; one more
    than `MAX_ANCHORED` where they were too many.
    """

    instance: bytes
    agent: AgentId
    manifest: Digest
    command: Digest
    session_key: bytes
    parent: bytes | None
    phase: str
    log_size: int
    log_root: bytes
    measurement: bytes
    """The encoded `Measurement` behind `manifest`, or empty where it never travelled."""
    anchored: tuple[tuple[int, bytes], ...] = ()

    def in_phase(self, phase: str) -> InstanceState:
        """The instance in another phase. Whether it may go there is the caller's to know."""
        return replace(self, phase=phase)

    def with_key(self, session_key: bytes) -> InstanceState:
        """The instance under another session key."""
        return replace(self, session_key=session_key)

    def with_checkpoint(self, size: int, root: bytes) -> InstanceState:
        """The instance with its action log at this checkpoint, which extends what was anchored."""
        return replace(self, log_size=size, log_root=root, anchored=())

    def with_anchor(self, size: int, root: bytes) -> InstanceState:
        """The instance with one more anchor for its log to extend."""
        return replace(self, anchored=tuple(sorted({*self.anchored, (size, root)}))[: MAX_ANCHORED + 1])

    def measured(self, measurement: bytes) -> InstanceState:
        """The instance with the preimage of its manifest root."""
        return replace(self, measurement=measurement)


def _id(instance: InstanceState) -> bytes:
    return instance.instance


@dataclass(frozen=True, slots=True)
class RuntimeState:
    """The runtime log up to the last quote: count of events, register value, and what they said.

    `governance` is the set that governs now, sorted by name, `instances` by id, each once. `unapproved` are the sets that governed in this
    boot and that no appraisal has found approved, in their order, each once; the one of now may be among them.
    """

    events: int
    register: bytes
    governance: tuple[tuple[str, Digest], ...]
    instances: tuple[InstanceState, ...]
    unapproved: tuple[tuple[tuple[str, Digest], ...], ...] = ()

    def find(self, instance: bytes) -> InstanceState | None:
        """The instance of that id, if the log ever started one."""
        at = bisect_left(self.instances, instance, key=_id)
        return self.instances[at] if at < len(self.instances) and self.instances[at].instance == instance else None

    def with_instance(self, instance: InstanceState) -> RuntimeState:
        """With this instance in place of the one of its id, or beside the others."""
        at = bisect_left(self.instances, instance.instance, key=_id)
        behind = at + (at < len(self.instances) and self.instances[at].instance == instance.instance)
        return replace(self, instances=(*self.instances[:at], instance, *self.instances[behind:]))

    def judged(self, *, now: bool, before: bool) -> RuntimeState:
        """After an appraisal: whether it found the set approved that governs `now`, and all that governed `before`."""
        former = () if before else tuple(one for one in self.unapproved if one != self.governance)
        return replace(self, unapproved=former if now or not self.governance else (*former, self.governance))

    def with_instances(self, instances: tuple[InstanceState, ...]) -> RuntimeState:
        """With exactly these instances, which are sorted by id."""
        return replace(self, instances=instances)


@dataclass(frozen=True, slots=True)
class AnchorState:
    """The register of anchors in this boot, in the quoted bank: its PCR, its value before the first anchor, and its value now."""

    pcr: int
    base: bytes
    register: bytes


@dataclass(frozen=True, slots=True)
class HostState:
    """Where a host stood after its last committed attestation. Clock in ms, `seen_at` in seconds since the epoch.

    `logs` names the logs that the host sent since its enrolment, of `LOGS`: it owes them from then on, in every boot. `boot` and
    `ima` are of this boot, None where no such log came. `ima_part` is of a list that comes in parts, up to the last of them: no quote
    vouches for it yet, and it is of no use but to be continued. `anchors` is None where none were made in this boot.
    """

    version: int
    status: str
    clock: int
    reset_count: int
    restart_count: int
    safe: bool
    seen_at: int
    runtime: RuntimeState
    logs: tuple[str, ...] = ()
    boot: BootState | None = None
    ima: ImaState | None = None
    ima_part: ImaState | None = None
    anchors: AnchorState | None = None

    def moved(self, status: str, logs: tuple[str, ...] | None = None) -> HostState:
        """The next version, in `status` and owing `logs`, with everything else as it stood."""
        return replace(self, version=self.version + 1, status=status, logs=self.logs if logs is None else logs)


def clean_runtime(bank: str) -> RuntimeState:
    """The runtime log at boot: no event, a register of zeros."""
    return RuntimeState(0, bytes(SIZES[bank]), (), ())


def encode_host_record(record: HostRecord) -> bytes:
    """The one spelling of a host record."""
    return encode_cbor(
        {
            "v": 1,
            "host": record.host,
            "namespace": record.namespace,
            "generation": record.generation,
            "ek": record.ek.value,
            "ek_certificates": list(record.ek_certificates),
            "ak": record.ak,
            "qualified_name": record.qualified_name,
            "host_key": record.host_key.to_cose_key(),
            "tpm_class": record.tpm_class,
            "endorsed": record.endorsed,
            "runtime_pcr": record.runtime_pcr,
            "bank": record.bank,
            "enrolled_at": record.enrolled_at,
            **({"revocation_checked": True} if record.revocation_checked else {}),
        }
    )


def parse_host_record(data: bytes) -> HostRecord:
    """Read a host record. Raises FormatError."""
    f = Fields(decode_cbor(data, "host record"), "host record")
    f.version(1)
    record = HostRecord(
        host=f.name("host"),
        namespace=f.name("namespace"),
        generation=f.uint("generation"),
        ek=f.digest("ek"),
        ek_certificates=tuple(_raw(item) for item in f.items("ek_certificates", most=8)),
        ak=f.raw("ak", most=4096),
        qualified_name=f.raw("qualified_name", most=66),
        host_key=parse_cose_key(f.any("host_key")),
        tpm_class=_one_of(f.text("tpm_class"), TPM_CLASSES, "tpm_class"),
        endorsed=f.flag("endorsed"),
        runtime_pcr=f.uint("runtime_pcr", most=23),
        bank=_one_of(f.text("bank"), tuple(SIZES), "bank"),
        enrolled_at=f.uint("enrolled_at"),
        revocation_checked=f.has("revocation_checked"),
    )
    if record.revocation_checked and not f.flag("revocation_checked"):
        raise FormatError("host record.revocation_checked", "true, or nothing", "false")
    f.done()
    return record


def encode_host_state(state: HostState) -> bytes:
    """The one spelling of a host state."""
    return encode_cbor(
        {
            "v": 1,
            "version": state.version,
            "status": state.status,
            "clock": state.clock,
            "reset_count": state.reset_count,
            "restart_count": state.restart_count,
            "safe": state.safe,
            "seen_at": state.seen_at,
            "events": state.runtime.events,
            "register": state.runtime.register,
            "governance": _set_out(state.runtime.governance),
            "instances": [_instance_out(i) for i in state.runtime.instances],
            "logs": list(state.logs),
            "boot": None if state.boot is None else state.boot.to_cbor(),
            "ima": None if state.ima is None else state.ima.to_cbor(),
            **({} if state.ima_part is None else {"ima_part": state.ima_part.to_cbor()}),
            **({"unapproved": [_set_out(one) for one in state.runtime.unapproved]} if state.runtime.unapproved else {}),
            **({} if state.anchors is None else {"anchors": [state.anchors.pcr, state.anchors.base, state.anchors.register]}),
        }
    )


def parse_host_state(data: bytes) -> HostState:
    """Read a host state. Raises FormatError."""
    f = Fields(decode_cbor(data, "host state", max_size=MAX_STATE), "host state")
    f.version(1)
    state = HostState(
        version=f.uint("version"),
        status=_one_of(f.text("status"), HOST_STATUSES, "status"),
        clock=f.uint("clock", most=(1 << 64) - 1),
        reset_count=f.uint("reset_count", most=(1 << 32) - 1),
        restart_count=f.uint("restart_count", most=(1 << 32) - 1),
        safe=f.flag("safe"),
        seen_at=f.uint("seen_at"),
        runtime=RuntimeState(
            events=f.uint("events"),
            register=f.raw("register", most=64),
            governance=_set_in(f.items("governance", most=1024)),
            instances=tuple(_instance_in(item) for item in f.items("instances", most=200_000)),
            unapproved=_sets_in(f.items("unapproved", most=MOST_SETS + 1)) if f.has("unapproved") else (),
        ),
        logs=tuple(_one_of(str(item), LOGS, "host state.logs") for item in f.items("logs", most=len(LOGS))),
        boot=None if (boot := f.any("boot")) is None else BootState.from_cbor(boot),
        ima=None if (ima := f.any("ima")) is None else ImaState.from_cbor(ima),
        ima_part=ImaState.from_cbor(f.any("ima_part")) if f.has("ima_part") else None,
        anchors=_anchors_in(f.any("anchors")) if f.has("anchors") else None,
    )
    f.done()
    if list(state.logs) != sorted(set(state.logs)):
        raise FormatError("host state.logs", "sorted, each once", "another order")
    ids = [i.instance for i in state.runtime.instances]
    if ids != sorted(set(ids)):
        raise FormatError("host state", "instances sorted, each once", "another order")
    return state


def _instance_out(i: InstanceState) -> list[object]:
    return [
        i.instance,
        str(i.agent),
        i.manifest.value,
        i.command.value,
        i.session_key,
        i.parent,
        i.phase,
        i.log_size,
        i.log_root,
        i.measurement,
        *([[[size, root] for size, root in i.anchored]] if i.anchored else []),
    ]


def _instance_in(value: object) -> InstanceState:
    if not isinstance(value, list) or len(value) not in (10, 11):
        raise FormatError("host state.instances", "an array of ten, or of eleven", type(value).__name__)
    f = Fields(dict(enumerate(value)), "host state.instances")
    return InstanceState(
        instance=f.raw(0, size=16),
        agent=AgentId.parse(f.text(1)),
        manifest=f.digest(2),
        command=f.digest(3),
        session_key=f.raw(4, size=32),
        parent=f.optional_raw(5, size=16),
        phase=_one_of(f.text(6), PHASES, "phase"),
        log_size=f.uint(7),
        log_root=f.raw(8, size=32),
        measurement=f.raw(9),
        anchored=_anchored_in(f.items(10, most=MAX_ANCHORED + 1)) if f.has(10) else (),
    )


def _anchored_in(items: list[object]) -> tuple[tuple[int, bytes], ...]:
    found: list[tuple[int, bytes]] = []
    for item in items:
        if not isinstance(item, list) or len(item) != 2:
            raise FormatError("host state.anchored", "[size, root]", type(item).__name__)
        f = Fields(dict(enumerate(item)), "host state.anchored")
        found.append((f.uint(0), f.raw(1, size=32)))
    if not found or found != sorted(set(found)):
        raise FormatError("host state.anchored", "checkpoints sorted, each once, or nothing at all", "another order")
    return tuple(found)


def _anchors_in(value: object) -> AnchorState:
    if not isinstance(value, list) or len(value) != 3:
        raise FormatError("host state.anchors", "[pcr, base, register]", type(value).__name__)
    f = Fields(dict(enumerate(value)), "host state.anchors")
    return AnchorState(f.uint(0, most=23), f.raw(1, most=64), f.raw(2, most=64))


def _set_out(governance: tuple[tuple[str, Digest], ...]) -> list[list[object]]:
    return [[name, root.value] for name, root in governance]


def _set_in(value: object) -> tuple[tuple[str, Digest], ...]:
    if not isinstance(value, list) or len(value) > 1024:
        raise FormatError("host state.governance", "an array of at most 1024", type(value).__name__)
    found = tuple(_governance(item) for item in value)
    names = [name for name, _ in found]
    if names != sorted(set(names)):
        raise FormatError("host state.governance", "sorted, each name once", "another order")
    return found


def _sets_in(value: list[object]) -> tuple[tuple[tuple[str, Digest], ...], ...]:
    found = tuple(_set_in(item) for item in value)
    if not found or not all(found) or len(set(found)) != len(found):
        raise FormatError("host state.unapproved", "sets with components, each once, or nothing at all", f"{len(found)}")
    return found


def _governance(value: object) -> tuple[str, Digest]:
    if not isinstance(value, list) or len(value) != 2:
        raise FormatError("host state.governance", "[name, root]", type(value).__name__)
    f = Fields(dict(enumerate(value)), "host state.governance")
    return f.name(0), f.digest(1)


def _raw(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise FormatError("host record", "bytes", type(value).__name__)
    return value


def _one_of(value: str, accepted: tuple[str, ...], what: str) -> str:
    if value not in accepted:
        raise FormatError(what, f"one of {', '.join(accepted)}", repr(value))
    return value
