"""What an agent's runtime measured to: the component roots behind one manifest root.

The runtime log carries only the root of a launch; this is its preimage, which
travels beside the log so that a refusal can name the component that differs.
`Measurement.root()` over what arrived is compared with the quoted root, so a
false preimage is noticed, not believed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

from writ.formats.cdi import MAX_DEVICES, device_set
from writ.formats.digest import Digest
from writ.formats.errors import FormatError
from writ.formats.forward import MAX_FORWARDS, Forward, forward_set, parse_forwards
from writ.formats.grants import Grant, encode_grants, parse_grants
from writ.formats.secret import MAX_SECRETS, Secret, parse_secrets, secret_set
from writ.formats.spiffe import AgentId
from writ.formats.strict import Fields, decode_cbor, encode_cbor
from writ.formats.strict import name as strict_name
from writ.formats.tree import COMPONENT_KINDS

MAX_COMPONENTS: Final = 256
COMMAND: Final = "command"
"""The name under which reference values hold the digest of an agent's argument vector."""
GRANTS: Final = "grants"
"""The name under which reference values hold the digest of an agent's audience and the grants it may ever ask for."""
PROFILE: Final = "profile"
"""The name under which reference values hold the digest of the profile's name."""
DEVICES: Final = "devices"
"""The name under which reference values hold the digest of the names of an agent's devices, where it has any."""
MODE: Final = "mode"
"""The name under which a version of an observed agent says that it is one. No version gives it a token."""
FORWARDS: Final = "forwards"
"""The name under which reference values hold the digest of an agent's forwards, where it has any."""
RESERVED: Final = (COMMAND, GRANTS, PROFILE, DEVICES, MODE, FORWARDS)
"""Names under which reference values hold what is not a component: no component may hide them."""


Profile = Literal["strict", "jit", "strict-6.1", "jit-6.1", "sandboxed", "sandboxed-6.1"]
"""The sandbox in which an agent runs: what each promises is written in `enforcer/launch/profile.py`."""
PROFILES: Final[tuple[Profile, ...]] = get_args(Profile)
UNMEASURED: Final[frozenset[Profile]] = frozenset({"sandboxed", "sandboxed-6.1"})
"""Profiles of child instances, in which programs run that nobody measured."""


Mode = Literal["enforce", "observe"]
"""Whether an agent's actions are decided, or pass and are recorded with what would have refused them."""
MODES: Final[tuple[Mode, ...]] = get_args(Mode)


def mode_named(text: str, what: str) -> Mode:
    """The mode of that name. Raises FormatError."""
    for mode in MODES:
        if mode == text:
            return mode
    raise FormatError(what, f"one of {', '.join(MODES)}", repr(text)[:80])


def profile_named(text: str, what: str) -> Profile:
    """The profile of that name. Raises FormatError."""
    for profile in PROFILES:
        if profile == text:
            return profile
    raise FormatError(what, f"one of {', '.join(PROFILES)}", repr(text)[:80])


@dataclass(frozen=True, slots=True, order=True)
class ComponentRoot:
    """One component by name and kind, with the root of its tree and whether it was held outside the measured store."""

    name: str
    kind: str
    root: Digest
    mutable: bool = False


@dataclass(frozen=True, slots=True)
class Measurement:
    """An agent, its command, its components, its sandbox and devices, and the ceiling of what it may ever be granted, for whom.

    `components` is sorted by name; names are unique. `devices` are CDI names, sorted; what each stands for is the host's.
    Of `mode` observe it never gets a token. `forwards` are sorted by port.
    """

    agent: AgentId
    command: tuple[str, ...]
    components: tuple[ComponentRoot, ...]
    secrets: tuple[Secret, ...]
    audience: str
    grants: tuple[Grant, ...]
    profile: Profile = "strict"
    devices: tuple[str, ...] = ()
    mode: Mode = "enforce"
    forwards: tuple[Forward, ...] = ()

    def __post_init__(self) -> None:
        names = [c.name for c in self.components]
        if names != sorted(set(names)):
            raise FormatError("measurement", "components sorted by name, each once", ", ".join(names)[:100])
        if set(names) & set(RESERVED):
            raise FormatError("measurement", f"no component called {' or '.join(RESERVED)}", ", ".join(names)[:100])
        if secret_set(self.secrets, "measurement.secrets") != self.secrets:
            raise FormatError("measurement", "secrets sorted, each once", ", ".join(one.name for one in self.secrets)[:100])
        if device_set(self.devices, "measurement.devices") != self.devices:
            raise FormatError("measurement", "devices sorted, each once", ", ".join(self.devices)[:100])
        if forward_set(self.forwards, "measurement.forwards") != self.forwards:
            raise FormatError("measurement", "forwards sorted by port", ", ".join(str(one.listen) for one in self.forwards))

    def root(self) -> Digest:
        """The manifest root: SHA-256 of the encoded measurement."""
        return Digest.of(encode_measurement(self))


def encode_measurement(measurement: Measurement) -> bytes:
    """The one spelling of a measurement; one without devices or forwards has no key for them, and an enforced one none for its mode."""
    return encode_cbor(
        {
            "v": 1,
            "agent": str(measurement.agent),
            "command": list(measurement.command),
            "components": [[c.name, c.kind, c.root.value, c.mutable] for c in measurement.components],
            "secrets": [list(one) for one in measurement.secrets],
            "audience": measurement.audience,
            "grants": encode_grants(measurement.grants),
            "profile": measurement.profile,
            **({"devices": list(measurement.devices)} if measurement.devices else {}),
            **({"mode": measurement.mode} if measurement.mode != "enforce" else {}),
            **({"forwards": [list(one) for one in measurement.forwards]} if measurement.forwards else {}),
        }
    )


def parse_measurement(data: bytes) -> Measurement:
    """Read a measurement. Raises FormatError."""
    f = Fields(decode_cbor(data, "measurement"), "measurement")
    f.version(1)
    agent = AgentId.parse(f.text("agent"))
    command = tuple(_text(item, "command") for item in f.items("command", most=1024))
    components = tuple(_component(item) for item in f.items("components", most=MAX_COMPONENTS))
    secrets = parse_secrets(f.items("secrets", most=MAX_SECRETS), "measurement.secrets")
    audience, grants = f.text("audience", least=1, most=256), parse_grants(f.any("grants"))
    profile = profile_named(f.text("profile", most=32), "measurement.profile")
    devices = tuple(_text(item, "devices") for item in f.items("devices", most=MAX_DEVICES)) if f.has("devices") else None
    mode = mode_named(f.text("mode", most=32), "measurement.mode") if f.has("mode") else None
    forwards = parse_forwards(f.items("forwards", most=MAX_FORWARDS), "measurement.forwards") if f.has("forwards") else None
    f.done()
    if () in (devices, forwards) or mode == "enforce":
        raise FormatError("measurement", "devices, mode and forwards only where they say something", "no device, enforce, or no forward")
    return Measurement(agent, command, components, secrets, audience, grants, profile, devices or (), mode or "enforce", forwards or ())


@dataclass(frozen=True, slots=True)
class Governance:
    """What governs a host measured to: the root of each component, sorted by name, at least one."""

    components: tuple[tuple[str, Digest], ...]

    def __post_init__(self) -> None:
        names = [name for name, _ in self.components]
        if not names or names != sorted(set(names)):
            raise FormatError("governance", "at least one component, sorted by name, each once", ", ".join(names)[:100])


def encode_governance(governance: Governance) -> bytes:
    """The one spelling of a governance measurement."""
    return encode_cbor({"v": 1, "governance": {name: root.value for name, root in governance.components}})


def parse_measured(data: bytes) -> Measurement | Governance:
    """Read what `attestor measure --out` wrote: of an agent or of the governance. Raises FormatError."""
    f = Fields(decode_cbor(data, "measurement"), "measurement")
    if not f.has("governance"):
        return parse_measurement(data)
    f.version(1)
    roots = f.mapping("governance", most=MAX_COMPONENTS)
    f.done()
    if not all(isinstance(name, str) and isinstance(root, bytes) for name, root in roots.items()):
        raise FormatError("governance", "name -> root", "another")
    named = Fields(roots, "governance")
    return Governance(tuple((strict_name(name, "governance"), named.digest(name)) for name in sorted(roots)))


def _text(value: object, what: str) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise FormatError(f"measurement.{what}", "text without NUL", type(value).__name__)
    return value


def _component(value: object) -> ComponentRoot:
    if not isinstance(value, list) or len(value) != 4:
        raise FormatError("measurement.components", "[name, kind, root, mutable]", type(value).__name__)
    f = Fields(dict(enumerate(value)), "measurement.components")
    name, kind, root, mutable = f.name(0), f.text(1), f.digest(2), f.flag(3)
    if kind not in COMPONENT_KINDS:
        raise FormatError("measurement.components", f"one of {', '.join(COMPONENT_KINDS)}", repr(kind))
    return ComponentRoot(name, kind, root, mutable)
