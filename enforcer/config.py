"""How an enforcer is configured. Nothing here can change a verdict: trust, policy and reference values are signed documents.

run_dir = "/run/writ/enforcer"
attestor_socket = "/run/writ/attestor.sock"
trust_file = "/etc/writ/trust.cbor"
tools = ["notes /usr/bin/python3 -I {store}/tools/notes.py"]
services = ["reports https://reports.example/v1"]
"""

from __future__ import annotations

import dataclasses
import json
import shlex
from dataclasses import dataclass, fields
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from writ.formats.action import exchange_action
from writ.formats.errors import FormatError, Unavailable
from writ.formats.operator_log import OPERATOR_LOG
from writ.formats.strict import name

if TYPE_CHECKING:
    from writ.formats.trust import Trust

PREFIX: Final = "ENFORCER"
MAX_TOOLS: Final = 32
CHILDREN: Final = "instance"
"""The tool that every agent with a grant for it has: child instances."""
ADVISORY: Final = "advisory"
"""The tool that every agent has: it is asked, and does nothing."""
_SOURCES: Final = {"sealed": (1, 1), "vault": (2, 2), "bearer": (1, 1), "exchange": (3, 33)}
"""Kinds of sources of secrets, and how many words each takes."""


@dataclass(frozen=True, slots=True)
class EnforcerConfig:
    """One enforcer of one host.

    `cgroup` is the cgroup below which each instance gets its own. `uid_first` to `uid_first + 2 * instances - 1` belong to nobody else:
    each instance takes a pair, one for the agent and one for its tools. `operator_gid` may use the control socket beside root (-1:
    nobody). `store_uids` may own the measured store. An instance and its tools have at most `pids_max` processes, `memory_max` bytes of
    memory and `cpu_max` hundredths of a CPU (0: no limit); where the kernel has no controller for the latter two, nothing is launched
    under such a limit. `room_bytes` and `room_files` bound what an agent may write, and as much again its tools, `work_bytes` and
    `work_files` the tree in which a child instance works beside that; it is memory. An instance records at most `log_bytes` in its
    life, then it is killed. An image that no instance uses stays in memory for `image_keep` seconds. `tools` are `NAME PROGRAM
    ARGUMENT…`, run in a sandbox beside the agent's, so PROGRAM is one of the agent's image or `{store}`, which is `/store` inside.
    `services` are `NAME URL`; `service_ca_file` holds the roots for the services' certificates, `egress_ca_file` those for the hosts
    that agents' requests go to (none: the system's). `unix_sockets` are those that agents' forwards may name. `secrets` are `AGENT NAME
    sealed PATH`, `AGENT NAME vault PATH FIELD`, `AGENT NAME bearer OWN` or `AGENT NAME exchange URL OWN AUDIENCE SCOPE…`: where a
    secret of the agent's manifest comes from. OWN is the audience of the exchange token that is put into requests, or shown at the URL.
    `vault_url`, `vault_mount` and `vault_role` say which vault, and as what an exchange token for `vault_audience` logs in to it;
    `secrets_ca_file` holds the roots for it and for exchanges (none: the system's). `inbound` are `AGENT PORT ADDRESS:PORT`: a port
    inside, and where on this host it is. `cdi_dirs` say what devices are; the later counts. Without `observe` no agent is launched that
    its manifest lets be watched only. `shadow_policy` is a signed policy that stands beside the one in force of instances started from
    now on: it decides nothing, and what it would decide otherwise is kept. `record_store` is the address of the store off the host that
    records are shipped to (none: they are not), `record_store_key` its public key, whose receipts alone count, `record_store_ca_file` the
    roots for its certificate (none: the system's); `record_log` names this host's logs there, such as `records.example.org/host-1`. Every
    `anchor_every` seconds action logs are anchored in the host's TPM, where the attestor has a PCR for it (`anchor_pcr`); 0: never.
    """

    run_dir: Path = Path("/run/writ/enforcer")
    state_dir: Path = Path("/var/lib/writ/enforcer")
    attestor_socket: Path = Path("/run/writ/attestor.sock")
    trust_file: Path = Path("/etc/writ/trust.cbor")
    cgroup: str = "/writ"
    operator_gid: int = -1
    uid_first: int = 64100
    instances: int = 400
    pids_max: int = 512
    memory_max: int = 0
    cpu_max: int = 0
    room_bytes: int = 512 << 20
    room_files: int = 100_000
    work_bytes: int = 1 << 30
    work_files: int = 200_000
    log_bytes: int = 1 << 30
    image_keep: int = 600
    store_uids: tuple[str, ...] = ("0",)
    tools: tuple[str, ...] = ()
    services: tuple[str, ...] = ()
    service_ca_file: Path | None = None
    egress_ca_file: Path | None = None
    unix_sockets: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    secrets_ca_file: Path | None = None
    vault_url: str = ""
    vault_mount: str = "jwt"
    vault_role: str = ""
    vault_audience: str = ""
    inbound: tuple[str, ...] = ()
    observe: bool = False
    cdi_dirs: tuple[str, ...] = ("/etc/cdi", "/var/run/cdi")
    shadow_policy: Path | None = None
    record_store: str = ""
    record_store_key: str = ""
    record_store_ca_file: Path | None = None
    record_log: str = ""
    anchor_every: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.instances <= 10_000:
            raise FormatError("instances", "1 to 10000", str(self.instances))
        if not 1 << 20 <= self.room_bytes <= 1 << 40 or not 16 <= self.room_files <= 10_000_000:
            raise FormatError("room_bytes, room_files", "1 MiB to 1 TiB, and 16 to 10000000", f"{self.room_bytes}, {self.room_files}")
        if not 16 <= self.pids_max <= 1 << 22 or not (self.memory_max == 0 or 16 << 20 <= self.memory_max <= 1 << 50):
            raise FormatError("pids_max, memory_max", "16 to 4194304, and 0 or 16 MiB to 1 PiB", f"{self.pids_max}, {self.memory_max}")
        if not 0 <= self.cpu_max <= 100_000:
            raise FormatError("cpu_max", "0 to 100000 hundredths of a CPU", str(self.cpu_max))
        if not 1 << 20 <= self.work_bytes <= 1 << 40 or not 16 <= self.work_files <= 10_000_000:
            raise FormatError("work_bytes, work_files", "1 MiB to 1 TiB, and 16 to 10000000", f"{self.work_bytes}, {self.work_files}")
        if not 1 << 16 <= self.log_bytes <= 1 << 40:
            raise FormatError("log_bytes", "64 KiB to 1 TiB", str(self.log_bytes))
        if not 0 <= self.anchor_every <= 3600:
            raise FormatError("anchor_every", "0 to 3600 seconds", str(self.anchor_every))
        if not 0 <= self.image_keep <= 86_400:
            raise FormatError("image_keep", "0 to 86400 seconds", str(self.image_keep))
        if not 1000 <= self.uid_first <= (1 << 31) - 2 * self.instances:
            raise FormatError("uid_first", "an uid of at least 1000 with room for two an instance", str(self.uid_first))
        if not self.cgroup.startswith("/") or self.cgroup == "/" or ".." in self.cgroup.split("/"):
            raise FormatError("cgroup", "a path below the cgroup2 mount, such as /writ", repr(self.cgroup)[:80])
        if not all(uid.isdecimal() for uid in self.store_uids):
            raise FormatError("store_uids", "numbers", ", ".join(self.store_uids)[:80])
        for path in (
            self.run_dir,
            self.state_dir,
            self.attestor_socket,
            self.trust_file,
            *map(Path, self.cdi_dirs),
            *map(Path, self.unix_sockets),
            *([] if self.shadow_policy is None else [self.shadow_policy]),
        ):
            if not path.is_absolute():
                raise FormatError("configuration", "absolute paths", str(path)[:120])
        if len({at for _, _, at in self._inbound}) != len(self.inbound):
            raise FormatError("inbound", "an address of this host once", ", ".join(self.inbound)[:120])
        self._check_secrets()
        self._check_store()
        names = [*self.tool_commands, *self.service_urls]
        for ours, does in ((CHILDREN, "starts child instances"), (ADVISORY, "hooks of frameworks ask")):
            if ours in names:
                raise FormatError("tools and services", f"names other than {ours}, which {does}", ours)
        if len(names) > MAX_TOOLS or len(names) != len(self.tools) + len(self.services) or set(self.tool_commands) & set(self.service_urls):
            raise FormatError("tools and services", f"at most {MAX_TOOLS} names, each once", ", ".join(names)[:120])

    def to_json(self) -> bytes:
        """For a process that is to have the same."""
        return json.dumps({k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(self).items()}).encode()

    @classmethod
    def from_json(cls, data: bytes) -> EnforcerConfig:
        """What `to_json` gave. Raises FormatError, also for what this version has no name for."""
        try:
            values = {name: _of_json(name, value) for name, value in json.loads(data).items()}
            return cls(**values)
        except (ValueError, TypeError, AttributeError) as error:
            raise FormatError("configuration", "one of this version", str(error)[:200]) from None

    @property
    def store_owners(self) -> frozenset[int]:
        """Who may own the measured store."""
        return frozenset(map(int, self.store_uids))

    @property
    def tool_commands(self) -> dict[str, tuple[str, ...]]:
        """Each local tool's command by its name."""
        return {words[0]: tuple(words[1:]) for words in (_words(line, "tools", 2) for line in self.tools)}

    @property
    def service_urls(self) -> dict[str, str]:
        """Each relying service's URL by its name."""
        return {words[0]: words[1] for words in (_words(line, "services", 2, 2) for line in self.services)}

    def secrets_of(self, agent: str) -> dict[str, tuple[str, ...]]:
        """The kind of the source of each secret of `agent`, by name, and the rest of its line."""
        return {words[1]: tuple(words[2:]) for words in self._secret_lines if words[0] == agent}

    @property
    def sealed_secrets(self) -> tuple[Path, ...]:
        """The files of secrets that are sealed."""
        return tuple(Path(words[3]) for words in self._secret_lines if words[2] == "sealed")

    @property
    def _secret_lines(self) -> list[list[str]]:
        return [_words(line, "secrets", 4, 64) for line in self.secrets]

    def _check_secrets(self) -> None:
        for _, called, kind, *words in self._secret_lines:
            name(called, "secrets")
            if kind not in _SOURCES or not _SOURCES[kind][0] <= len(words) <= _SOURCES[kind][1]:
                raise FormatError(
                    "secrets",
                    "AGENT NAME, and sealed PATH, vault PATH FIELD, bearer OWN or exchange URL OWN AUDIENCE",
                    f"{called} {kind}"[:80],
                )
            if kind == "sealed" and not words[0].startswith("/"):
                raise FormatError("secrets", "an absolute path", words[0][:80])
            if kind == "vault" and not (self.vault_url and self.vault_role and self.vault_audience):
                raise FormatError("vault_url, vault_role, vault_audience", "all, for a secret of a vault", "not all")
            for audience in {"vault": (self.vault_audience,), "bearer": tuple(words[:1]), "exchange": tuple(words[1:2])}.get(kind, ()):
                exchange_action(audience)
        if len({tuple(words[:2]) for words in self._secret_lines}) != len(self.secrets):
            raise FormatError("secrets", "one source for each secret of an agent", "two")

    def _check_store(self) -> None:
        named = (self.record_store, self.record_store_key, self.record_log)
        if any(named) and not all(named):
            raise FormatError("record_store, record_store_key, record_log", "all, or none", "not all")
        if self.record_store:
            from writ.formats.tlog.note import COSIGNATURE, PLAIN, NoteKey, parse_vkey

            if (key := parse_vkey(self.record_store_key)).kind != COSIGNATURE:
                raise FormatError("record_store_key", "the key that `auditor store vkey` prints", f"one of type {key.kind}")
            NoteKey(self.record_log, PLAIN, key.key)

    def inbound_of(self, agent: str) -> tuple[tuple[int, tuple[str, int]], ...]:
        """Each port inside an instance of `agent` that somebody may reach, and the address of this host for it."""
        return tuple((port, at) for name, port, at in self._inbound if name == agent)

    @property
    def _inbound(self) -> list[tuple[str, int, tuple[str, int]]]:
        return [(words[0], _port(words[1]), _address(words[2])) for words in (_words(line, "inbound", 3, 3) for line in self.inbound)]

    @property
    def control_socket(self) -> Path:
        """Where the daemon listens."""
        return self.run_dir / "control.sock"

    def holder_socket(self, instance: bytes) -> Path:
        """Where the holder of an instance listens, for the daemon."""
        return self.run_dir / "holders" / f"{instance.hex()}.sock"

    def instance_dir(self, instance: bytes) -> Path:
        """Log, evidence and standing of an instance, for root only."""
        return self.state_dir / "instances" / instance.hex()

    def log_dir(self, log: bytes) -> Path:
        """Where the action log of an instance lies, or that of the operators with its own keys."""
        return self.state_dir / "operator" if log == OPERATOR_LOG else self.instance_dir(log)

    @property
    def log_key(self) -> Path:
        """The key that signs the checkpoints of this host's action logs, for the store."""
        return self.state_dir / "log-key.pem"

    @property
    def store_metrics(self) -> Path:
        """How far the store is behind, in the text format of Prometheus."""
        return self.run_dir / "record-store.prom"

    @property
    def places_dir(self) -> Path:
        """How far the verifier's logs were seen to grow, for all instances."""
        return self.state_dir / "verifier"

    @property
    def namespace_keys(self) -> Path:
        """The folder of the keys that wrap the content keys of instances."""
        return self.state_dir / "namespaces"

    @property
    def images_dir(self) -> Path:
        """The roots of agents, one for each manifest root in use."""
        return self.run_dir / "images"

    def agent_dir(self, instance: bytes) -> Path:
        """What the agent of an instance may see of us: its gate and its home."""
        return self.run_dir / "agents" / instance.hex()

    def trust(self) -> Trust:
        """The anchors, pinned by the operator as a file; nothing relayed can change them. Raises Unavailable, FormatError."""
        from writ.formats.trust import MAX_TRUST, parse_trust

        try:
            with self.trust_file.open("rb") as file:
                data = file.read(MAX_TRUST + 1)
        except OSError as error:
            raise Unavailable("trust file", f"{self.trust_file}: {error.strerror}") from None
        trust = parse_trust(data)
        if not trust.decision_keys:
            raise FormatError("trust file", "at least one decision key", "none")
        return trust

    def make_folders(self) -> None:
        """Every directory is there with its mode. Raises Unavailable."""
        folders = (
            (self.state_dir, 0o700), (self.state_dir / "instances", 0o700), (self.state_dir / "refused", 0o700),
            (self.namespace_keys, 0o700),
            (self.run_dir, 0o711), (self.run_dir / "holders", 0o700), (self.run_dir / "agents", 0o711), (self.run_dir / "slots", 0o700),
            (self.images_dir, 0o711),
        )  # fmt: skip
        try:
            for folder, mode in folders:
                folder.mkdir(parents=True, exist_ok=True)
                folder.chmod(mode)
        except OSError as error:
            raise Unavailable("directories", f"{error.filename}: {error.strerror}") from None


_PATHS: Final = frozenset(one.name for one in fields(EnforcerConfig) if "Path" in str(one.type))


def _of_json(name: str, value: Any) -> Any:
    if isinstance(value, list):
        return tuple(value)
    return Path(value) if isinstance(value, str) and name in _PATHS else value


def _words(line: str, what: str, least: int, most: int = 1024) -> list[str]:
    try:
        words = shlex.split(line)
    except ValueError:
        words = []
    if not least <= len(words) <= most:
        raise FormatError(what, "a name and what it stands for", repr(line)[:120])
    name(words[0], what)
    return words


def _port(text: str) -> int:
    if not text.isdecimal() or not text.isascii() or not 1 <= int(text) <= 65535:
        raise FormatError("inbound", "a port of 1 to 65535", repr(text)[:40])
    return int(text)


def _address(text: str) -> tuple[str, int]:
    """`ADDRESS:PORT`, with brackets about an IPv6 address."""
    host, _, port = text.rpartition(":")
    try:
        address = ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        raise FormatError("inbound", "an address of this host, as ADDRESS:PORT", repr(text)[:80]) from None
    return str(address), _port(port)
