"""`./run rollout`: ansible/site.yml against a Debian that boots, twice; then agents act on it, and outlive an upgrade.

1. A Debian root is made by debootstrap (once; kept in .rollout/), copied, and booted with `systemd-nspawn --boot` in a cgroup of its own.
2. The playbook runs against it over ssh on the loopback address: verifier with TLS, attestor on a software TPM, enforcer, and what decides
   for a service behind nginx, all on one host.
3. It runs again, and changes nothing.
4. The four units are active, the attestor is enrolled, `doctor` of each role finds nothing but what a fresh host has.
5. An operator approves what the host measures, `enforcer run` starts an agent, it acts once, and ends. Another is let through to the
   service, and whoever shows nothing, or comes from elsewhere, is not.
6. Another release is rolled out while six agents act: all come over, are held until it is approved, and act on. Then the first one is
   rolled out again, which is approved already: they go back, and nobody has to do anything.
7. What they did before, between and after is proven by their archives alone, with the verifier stopped and no network.

The root has the network of this machine, so apt and pip work in it as they do here: their settings are copied from this machine. It has
its loop devices, by which agents' images are mounted, and no part of its file system. Needs root. Everything started is ended and every
file but .rollout/ is gone, however it ends.
Exit status: 0 all of it happened, 1 something did not, 3 it could not run.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Final, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from enforcer.launch.cgroup import MOUNTINFO, Cgroup, find_mount
from examples.stage import add_python, free_port
from tests.docs.blocks import all_blocks
from writ.formats.archive import parse_archive
from writ.formats.errors import WritError
from writ.formats.record import ActionRecord, Record, opening_of, parse_log

ROOT: Final = Path(__file__).parents[2]
KEPT: Final = ROOT / ".rollout"
SUITE: Final = "bookworm"
PACKAGES: Final = "systemd,systemd-sysv,dbus,ca-certificates,openssh-server,python3,sudo"
PROGRAMS: Final = ("debootstrap", "systemd-nspawn", "ssh", "ssh-keygen", "ansible-playbook", "ansible-lint", "hatchling")
BOOT_WITHIN: Final = 60.0
STOP_WITHIN: Final = 30.0
BIN: Final = "/usr/local/bin"
ROLES: Final = ("verifier", "attestor", "enforcer", "relying")
AGENT: Final = "notes"
COURIER: Final = "courier"
"""An agent that asks a service."""
AUDIENCE: Final = "reports"
ASKS: Final = "/run/writ/relying/forward-auth.sock"
"""Where nginx asks, as its configuration in docs/relying.md has it."""
STAYS: Final = "scribe"
"""An agent that acts on and on, while the enforcer is upgraded."""
CLIENTS: Final = tuple(f"stays-{number}" for number in range(6))
"""The units in which `enforcer run` stays, one for each of its instances."""
COME_WITHIN: Final = 120.0
"""Seconds for all of them to come to be as expected; on an idle host it takes a few."""
ENFORCER: Final = "/usr/local/bin/enforcer --config /etc/writ/enforcer.toml"
NAMESPACE: Final = "demo"
ASK: Final = """
import sys, urllib.request, urllib.error
try:
    headers = {"Host": sys.argv[2]} if sys.argv[2:] else {}
    print(urllib.request.urlopen(urllib.request.Request(sys.argv[1], data=b"{}", headers=headers), timeout=10).status)
except urllib.error.HTTPError as error:
    print(error.code)
"""
"""A POST as anybody on the host can make it: the URL, and perhaps another Host."""
CALLS: Final = "bpf landlock_create_ruleset landlock_add_rule landlock_restrict_self"
"""System calls that the filter of systemd-nspawn 252 denies: by bpf systemd holds a unit to its devices."""
LIKE_A_HOST: Final = """
mknod -m 0600 /dev/loop-control c 10 237
for at in $(seq 0 1023); do mknod -m 0600 /dev/loop$at b 7 $at; done
findmnt -nlRo TARGET /proc | tail -n +2 | tac | while read -r over; do umount --lazy "$over" || true; done
[ "$(findmnt -nlR /proc | wc -l)" = 1 ]
"""
"""What a host has and a container has not: loop devices, and a /proc that nothing is mounted over.

They are those of this machine: the kernel gives the first free one, whose number is above those that others have taken.
"""


class RolloutError(Exception):
    """Something that the test needs could not be had."""


def say(text: str) -> None:
    """A line with the time of day."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def run(arguments: Sequence[str], *, env: dict[str, str] | None = None, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The finished command; its output is kept."""
    return subprocess.run(list(arguments), env=env, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)


def must(arguments: Sequence[str], *, cwd: Path | None = None) -> str:
    """The output of a command that succeeded. Raises RolloutError."""
    done = run(arguments, cwd=cwd)
    if done.returncode != 0:
        raise RolloutError(f"{' '.join(arguments)[:200]}: exit {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


# --- the root ------------------------------------------------------------------------------------------------------------


def debian() -> Path:
    """A Debian root as debootstrap leaves it, made once."""
    base = KEPT / SUITE
    if not base.exists():
        say(f"debootstrap {SUITE}")
        fresh = KEPT / f"{SUITE}.making"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        must(["debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(fresh)])
        fresh.rename(base)
    return base


def copy_client_settings(root: Path) -> None:
    """apt and pip find their registries from `root` as they do from here: resolver, roots, proxies, indexes."""
    for name in ("resolv.conf", "hosts", "ssl/certs/ca-certificates.crt"):
        if (source := Path("/etc") / name).exists():
            shutil.copyfile(source, root / "etc" / name)
    for source in sorted(Path("/etc/apt/apt.conf.d").iterdir()):
        if "Acquire" in source.read_text(errors="replace"):
            shutil.copy(source, root / "etc/apt/apt.conf.d" / source.name)
    lines = ["[global]", "timeout = 180"]
    for key in ("index-url", "extra-index-url", "trusted-host"):
        found = run([sys.executable, "-m", "pip", "config", "get", f"global.{key}"])
        addresses = [word for word in found.stdout.split() if not word.startswith("file:")]
        if found.returncode == 0 and addresses:
            lines.append(f"{key} = {' '.join(addresses)}")
    lines.append("cert = /etc/ssl/certs/ca-certificates.crt")
    (root / "etc/pip.conf").write_text("\n".join(lines) + "\n")
    names = ("http_proxy", "https_proxy", "no_proxy", "PIP_INDEX_URL")
    spelt = sorted({name for lower in names for name in (lower, lower.upper()) if name in os.environ})
    (root / "etc/environment").write_text("".join(f"{name}={os.environ[name]}\n" for name in spelt))


class Machine:
    """A booted root; a context manager. `ssh` runs commands in it as root."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self.root: Final = place / "root"
        self.port: Final = free_port()
        self.service: Final = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._cgroup = Cgroup(find_mount(MOUNTINFO.read_text()) / place.name)

    def prepare(self) -> None:
        """A copy of the base, with our key and its sshd on a loopback port."""
        must(["cp", "-a", "--reflink=auto", str(debian()), str(self.root)])
        copy_client_settings(self.root)
        must(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self._place / "key")])
        folder = self.root / "root/.ssh"
        folder.mkdir(mode=0o700, exist_ok=True)
        shutil.copy(self._place / "key.pub", folder / "authorized_keys")
        (self.root / "etc/ssh/sshd_config.d/rollout.conf").write_text(
            f"ListenAddress 127.0.0.1\nPort {self.port}\nPasswordAuthentication no\n"
        )
        host_key = (self.root / "etc/ssh/ssh_host_ed25519_key.pub").read_text()
        (self._place / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {host_key}")
        (self.root / "etc/dpkg/dpkg.cfg.d/rollout").write_text("force-unsafe-io\n")  # it need not outlive a power cut
        (self.root / "etc/hostname").write_text("host-1\n")
        with (self.root / "etc/hosts").open("a") as hosts:
            hosts.write("127.0.1.1 host-1\n")

    @property
    def ssh_options(self) -> list[str]:
        """What ssh must be told to reach it."""
        options = {"IdentityFile": self._place / "key", "UserKnownHostsFile": self._place / "known_hosts", "IdentitiesOnly": "yes"}
        return [
            word for name, value in {**options, "BatchMode": "yes", "ConnectTimeout": "5"}.items() for word in ("-o", f"{name}={value}")
        ]

    def ssh(self, *command: str) -> subprocess.CompletedProcess[str]:
        """The finished command, run in it as root."""
        return run(["ssh", *self.ssh_options, "-p", str(self.port), "root@127.0.0.1", " ".join(command)])

    def __enter__(self) -> Self:
        try:
            self.prepare()
            self._boot()
        except BaseException:
            self.close()
            raise
        return self

    def _boot(self) -> None:
        Cgroup.fresh(self._cgroup.path.parent, self._cgroup.path.name)
        with (self._place / "boot.log").open("wb") as log:
            self._process = subprocess.Popen(
                # the shell moves itself into the cgroup, so that all that is ever started is in it
                ["/bin/sh", "-c", 'echo $$ >"$1/cgroup.procs" && shift && exec "$@"', "sh", str(self._cgroup.path), "systemd-nspawn",
                 f"--directory={self.root}", "--boot", "--register=no", "--keep-unit", f"--machine={self._place.name}", "--console=pipe",
                 "--resolv-conf=off", "--timezone=off", "--link-journal=no", "--kill-signal=SIGRTMIN+3", f"--system-call-filter={CALLS}"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            )  # fmt: skip
        deadline = time.monotonic() + BOOT_WITHIN
        while self.ssh("true").returncode != 0:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RolloutError(f"the root did not boot: {(self._place / 'boot.log').read_text(errors='replace')[-2000:]}")
            time.sleep(0.5)
        made = self.ssh(f"sh -euc '{LIKE_A_HOST}'")
        if made.returncode != 0:
            raise RolloutError(f"loop devices and /proc: {made.stderr[-2000:]}")

    def close(self) -> None:
        """Shut down, else killed with all it started; its cgroup is gone."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()  # nspawn hands it on as --kill-signal: an orderly shutdown
            try:
                self._process.wait(STOP_WITHIN)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._cgroup.exists():
            self._cgroup.kill()
            for folder in sorted((f for f in self._cgroup.path.rglob("*") if f.is_dir()), reverse=True):
                with contextlib.suppress(OSError):
                    folder.rmdir()
            self._cgroup.remove()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, RolloutError):
            units = [f"--unit=writ-{role}" for role in ROLES]
            print(self.ssh("journalctl", "--no-pager", "-n60", *units).stdout[-6000:], file=sys.stderr)
        self.close()


# --- what ansible is given -----------------------------------------------------------------------------------------------


def certify(place: Path) -> None:
    """A CA, and a certificate for 127.0.0.1 with its key: ca.crt, verifier.crt, verifier.key."""
    now = dt.datetime.now(dt.UTC)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())

    def certificate(subject: str, public: ec.EllipticCurvePublicKey, extensions: Sequence[tuple[x509.ExtensionType, bool]]) -> bytes:
        builder = x509.CertificateBuilder(
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "rollout CA")]),
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]),
            public, x509.random_serial_number(), now - dt.timedelta(minutes=5), now + dt.timedelta(days=1),
        )  # fmt: skip
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
        signed = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), False).add_extension(issuer, False)
        return signed.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    (place / "ca.crt").write_bytes(certificate("rollout CA", ca_key.public_key(), [(x509.BasicConstraints(True, 0), True), (usage, True)]))
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    (place / "verifier.crt").write_bytes(
        certificate("verifier", key.public_key(), [(x509.BasicConstraints(False, None), True), (names, False)])
    )
    encoded = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (place / "verifier.key").write_bytes(encoded)


def manifests(place: Path, root: Path, service: str) -> Path:
    """A directory with the manifests of the agents, for the playbook; what they name is on the host by other means.

    The prompt of one asks for one action and ends, that of the other asks again and again, that of the third asks `service`.
    """
    there = root / "etc/writ/manifests"
    there.mkdir(parents=True)
    shutil.copytree(ROOT / "examples/agents" / AGENT, there / AGENT)
    (there / AGENT / "prompts" / f"{AGENT}.txt").write_text('notes read {"number": 0}\n')
    shutil.copytree(ROOT / "examples/agents" / STAYS, there / STAYS)
    (there / STAYS / "prompts" / f"{STAYS}.txt").write_text('notes read {"number": 0}\npause 1\nrepeat\n')
    shutil.copytree(there / AGENT, there / COURIER)
    (there / COURIER / "prompts" / f"{AGENT}.txt").write_text('reports summary {"week": 48}\n')
    folder = place / "manifests"
    folder.mkdir()
    for agent in (AGENT, STAYS):
        shutil.copy(ROOT / "examples/agents" / f"{agent}.toml", folder)
    text = (folder / f"{AGENT}.toml").read_text()
    for old, new in (
        (f'agent = "{AGENT}"', f'agent = "{COURIER}"'),
        ('audience = "tools"', f'audience = "{AUDIENCE}"'),
        ('[["tool.call", "mcp:notes/*"]]', f'[["http.post", "{service}/*"]]'),
        (f'source = "{AGENT}/', f'source = "{COURIER}/'),
    ):
        if old not in text:
            raise RolloutError(f"the manifest of {AGENT}: expected {old}")
        text = text.replace(old, new)
    (folder / f"{COURIER}.toml").write_text(text)
    add_python(folder)  # the machine is of the same distribution
    return folder


def wheel(dist: Path, tree: Path = ROOT) -> Path:
    """A tree as a wheel."""
    must(["hatchling", "build", "-t", "wheel", "-d", str(dist)], cwd=tree)
    return next(dist.glob("writ-*.whl"))


def next_wheel(place: Path) -> Path:
    """This tree but for one comment in what decides, as a wheel: another engine."""
    tree = place / "next"
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".*", "__pycache__", "shim", "dist"))
    with (tree / "writ/verdict/decide.py").open("a") as file:
        file.write("# the next one\n")
    return wheel(place / "next-dist", tree)


def inventory(place: Path, machine: Machine) -> Path:
    """One host in both groups."""
    port, service = free_port(), f"http://127.0.0.1:{machine.service}"
    relying = {"audience": AUDIENCE, "forward_auth": f"unix:{ASKS}", "proxy": "nginx", "origins": [service], "body": "claimed"}
    host = {
        "ansible_host": "127.0.0.1", "ansible_port": machine.port, "ansible_user": "root",
        "ansible_ssh_common_args": " ".join(machine.ssh_options),
    }  # fmt: skip
    settings = {
        "writ_wheel": str(wheel(place / "dist")), "writ_domain": "rollout.test", "writ_namespace": NAMESPACE,
        "writ_verifier_url": f"https://127.0.0.1:{port}", "writ_verifier_listen": f"127.0.0.1:{port}",
        "writ_verifier_tls_cert": str(place / "verifier.crt"), "writ_verifier_tls_key": str(place / "verifier.key"),
        "writ_verifier_ca": str(place / "ca.crt"), "writ_host": "host-1",
        "writ_manifests": str(manifests(place, machine.root, f"{service}/v1")), "writ_software_tpm": True,
        "writ_policy_arguments": ["--accept-runtime-only", "--tpm-class", "software"],
        "writ_enforcer_config": {
            "tools": ["notes /usr/bin/python3 -I -S -B {store}/tools/server.py"], "services": [f"{AUDIENCE} {service}/v1"],
        },
        "writ_relying_config": relying, "writ_relying_callers": ["www-data"], "writ_relying_health": f"127.0.0.1:{free_port()}",
    }  # fmt: skip
    groups = {name: {"hosts": {"host-1": host}} for name in ("writ_verifiers", "writ_agent_hosts", "writ_relying_hosts")}
    path = place / "inventory.json"
    path.write_text(json.dumps({"all": {"children": groups, "vars": settings}}))
    return path


def play(place: Path, inventory_file: Path, name: str, *more: str) -> dict[str, int]:
    """The recap of one run of the playbook: ok, changed, failed, unreachable. Its output is in `name`.log."""
    env = {
        **os.environ, "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "ANSIBLE_NOCOLOR": "1", "ANSIBLE_CONFIG": str(ROOT / "ansible/ansible.cfg"),
        "ANSIBLE_HOME": str(place / "ansible-home"), "ANSIBLE_LOCAL_TEMP": str(place / "ansible"),
        "ANSIBLE_SSH_CONTROL_PATH_DIR": str(place / "ssh"),
    }  # fmt: skip
    began = time.monotonic()
    done = run(["ansible-playbook", "-i", str(inventory_file), "site.yml", *more], env=env, cwd=ROOT / "ansible")
    (place / f"{name}.log").write_text(done.stdout + done.stderr)
    recap = {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", done.stdout.rpartition("PLAY RECAP")[2])}
    say(f"{name}: exit {done.returncode} after {time.monotonic() - began:.0f} s, {recap}")
    if done.returncode != 0 or not recap:
        raise RolloutError(f"{name}:\n{(done.stdout + done.stderr)[-6000:]}")
    return recap


def changed_tasks(log: str) -> list[str]:
    """The tasks that said `changed`."""
    found, task = [], ""
    for line in log.splitlines():
        if line.startswith("TASK ["):
            task = line[6 : line.rindex("]")]
        elif line.startswith("changed:"):
            found.append(task)
    return found


# --- what must have happened ----------------------------------------------------------------------------------------------


class Tally:
    """What was expected, told as it is, and counted where it did not happen."""

    def __init__(self) -> None:
        self.failed = 0

    def expect(self, happened: bool, text: str, detail: str = "") -> None:
        """One line."""
        self.failed += not happened
        say(f"  {'ok  ' if happened else 'FAIL'} {text}{'' if happened or not detail else chr(10) + detail[-3000:]}")


def examine(machine: Machine, tally: Tally) -> None:
    """The host as the playbook left it, and an agent on it."""
    for role in ROLES:
        unit = f"writ-{role}.service"
        state = machine.ssh("systemctl", "show", "--property=ActiveState,UnitFileState,NRestarts", unit).stdout.split()
        well = {"ActiveState=active", "UnitFileState=enabled", "NRestarts=0"} == set(state)
        tally.expect(well, f"{unit}: {' '.join(state)}", machine.ssh("journalctl", "--no-pager", "-n30", "-u", unit).stdout)
    read = machine.ssh("systemd-analyze", "verify", "--man=no", *(f"/etc/systemd/system/writ-{role}.service" for role in ROLES))
    tally.expect(read.returncode == 0 and read.stderr == "", "systemd finds no fault with the units", read.stderr)
    status = machine.ssh(f"{BIN}/attestor", "--config", "/etc/writ/attestor.toml", "status", "--json")
    answer = json.loads(status.stdout or "{}")
    tally.expect(answer.get("enrolled") is True and answer.get("host") == "host-1", f"attestor status: {answer}", status.stderr)
    daemon = machine.ssh("systemctl", "show", "--property=MainPID", "--value", "writ-enforcer.service").stdout.strip()
    doctor = "/opt/writ/current/venv/bin/enforcer --config /etc/writ/enforcer.toml doctor --json"
    seen = machine.ssh("nsenter", "--mount", "--target", daemon, doctor)
    tally.expect(seen.returncode == 0, "enforcer doctor finds nothing missing in what its unit sees of the host", seen.stdout + seen.stderr)
    looked = machine.ssh("find", "/opt/writ", "/etc/writ", "/var/lib/writ", "-perm", "/022", "-not", "-type", "l").stdout
    tally.expect(looked == "", "nothing installed is writable by another than its owner", looked)
    owners = machine.ssh("find", "/opt/writ", "-not", "-user", "root").stdout
    tally.expect(owners == "", "the code belongs to root", owners)
    bytecode = machine.ssh("find", "/opt/writ", "-name", "'*.pyc'").stdout
    tally.expect(bytecode == "", "no bytecode lies beside the measured code", bytecode)


def approve(machine: Machine) -> None:
    """As an operator: what the host and the agent measure is approved."""
    attestor = f"{BIN}/attestor --config /etc/writ/attestor.toml measure --offline --domain rollout.test"
    verifier = f"runuser -u writ-verifier -- {BIN}/verifier --config /etc/writ/verifier.toml"
    script = (
        f"cd /tmp && {attestor} --governance --out governance.measurement"
        f" && {attestor} /etc/writ/manifests/{AGENT}.toml --out {AGENT}.measurement"
        f" && {attestor} /etc/writ/manifests/{STAYS}.toml --out {STAYS}.measurement"
        f" && {attestor} /etc/writ/manifests/{COURIER}.toml --out {COURIER}.measurement"
        f" && {verifier} reference capture --namespace {NAMESPACE} --ca-file /etc/writ/verifier-ca.pem"
        f" --measurement governance.measurement --measurement {AGENT}.measurement --measurement {STAYS}.measurement"
        f" --measurement {COURIER}.measurement --approve"
    )
    done = machine.ssh("sh", "-c", f"'{script}'")
    if done.returncode != 0:
        raise RolloutError(f"approving: {done.stdout[-1000:]}{done.stderr[-2000:]}")


def act(machine: Machine, tally: Tally, which: str) -> None:
    """The agent is launched, acts once, and ends."""
    began = time.monotonic()
    done = machine.ssh(f"{BIN}/enforcer", "--config", "/etc/writ/enforcer.toml", "run", "--agent", AGENT)
    acted = [line for line in done.stdout.splitlines() if line.startswith("notes.read: done")]
    told = f"{which}: an agent acts once under enforcer run, and ends with 0 (after {time.monotonic() - began:.1f} s): {' '.join(acted)}"
    journal = machine.ssh("journalctl", "--no-pager", "-n60", "-u", "writ-enforcer", "-u", "writ-attestor", "-u", "writ-verifier").stdout
    tally.expect(done.returncode == 0 and len(acted) == 1, told, f"{journal}\nexit {done.returncode}\n{done.stdout}{done.stderr}")


def rely(machine: Machine, tally: Tally) -> None:
    """A service behind nginx, which asks at our socket: an agent is let through, on record; nobody else is."""
    (block,) = [block.text for block in all_blocks() if block.page == "docs/relying.md" and block.info == "nginx"]
    behind = free_port()
    text = block.replace("listen 8080;", f"listen 127.0.0.1:{machine.service};").replace("127.0.0.1:9000", f"127.0.0.1:{behind}")
    claimed = text.replace('        proxy_pass_request_body off;\n        proxy_set_header Content-Length "";\n', "", 1)
    service = f"server {{ listen 127.0.0.1:{behind}; default_type application/json; location / {{ return 200 '{{\"sum\": 7}}'; }} }}"
    around = f"user www-data; events {{}} http {{ access_log off; {service} {claimed} }}"
    (machine.root / "root/nginx.conf").write_text(around)
    setup = "systemctl mask nginx; apt-get install -qy --no-install-recommends nginx-light; systemd-run --unit=proxy -- nginx -g"
    done = machine.ssh(f"sh -euc '{setup} \"daemon off;\" -c /root/nginx.conf'")
    until(lambda: "ActiveState=active" in client(machine, "proxy"))
    asked = machine.ssh(f"{BIN}/enforcer", "--config", "/etc/writ/enforcer.toml", "run", "--agent", COURIER)
    told = [line for line in asked.stdout.splitlines() if line.startswith("reports.summary: done")]
    detail = machine.ssh("journalctl", "--no-pager", "-n60", "-u", "writ-relying", "-u", "proxy", "-u", "writ-enforcer").stdout
    tally.expect(
        len(told) == 1, f"relying: 200, and an agent's request reaches the service: {' '.join(told)}", f"{done}\n{detail[-1500:]}\n{asked}"
    )
    url = f"http://127.0.0.1:{machine.service}/v1/summary"
    for status, shown in ((401, ""), (403, "elsewhere.example")):
        got = machine.ssh(f"python3 -c {shlex.quote(ASK)} {url} {shown}")
        tally.expect(got.stdout.strip() == str(status), f"relying: {got.stdout.strip()} for {shown or 'nothing shown'}", f"{got}{detail}")
    records = [json.loads(line) for line in (machine.root / "var/lib/writ/relying/decisions.jsonl").read_text().splitlines()]
    passed = [record for record in records if record["permit"]]
    agents = [record["agent"].rpartition("/")[2] for record in passed]
    tally.expect(agents == [COURIER], f"relying: what passed is on record: {agents}", str(records))
    mode = machine.ssh("stat", "-c", "%a:%U:%G", ASKS, "/run/writ/relying").stdout.split()
    tally.expect(mode == ["660:writ-relying:writ-relying", "750:writ-relying:writ-relying"], f"relying: its socket is its group's: {mode}")
    machine.ssh("systemctl", "stop", "proxy")


# --- another release, while agents act --------------------------------------------------------------------------------------


def upgrade(place: Path, machine: Machine, given: Path, tally: Tally) -> None:
    """Six agents act, another release is rolled out, approved, and taken back; they outlive all of it, and what they did is proven.

    1. They act.
    2. The release is not approved: they come over, and nothing of them runs or passes.
    3. It is approved: they act on.
    4. The one before is rolled out again: they go back by themselves.
    5. One is ended by its client, which gets its status; the others by the end of theirs. All of it is proven.
    """
    # 1
    for unit in CLIENTS:
        machine.ssh("systemd-run", f"--unit={unit}", "--service-type=exec", *ENFORCER.split(), "run", "--agent", STAYS)
    began = standing(machine, lambda s: s["state"] == "running")
    acting(machine, began, Counter())
    births = {name: born(machine, one["holder"]) for name, one in began.items()}
    early = archived(machine)
    # 2
    play(place, given, "upgrade", "--extra-vars", json.dumps({"writ_wheel": str(next_wheel(place))}))
    came = standing(machine, lambda s: s["moves"] == 1 and codes(s) != {"hold"})  # each has had an answer since
    same = all(one["holder"] == began[name]["holder"] and born(machine, one["holder"]) == births[name] for name, one in came.items())
    tally.expect(same, f"upgrade: {len(came)} agents came over, each in the process that it had", str(came))
    other = all(one["came_from"] == began[name]["code"] != one["code"] for name, one in came.items())
    tally.expect(other, "upgrade: all of other code than before", str(came))
    held = all(one["state"] == "held" and one["frozen"] and codes(one) == {"governance-mismatch"} for one in came.values())
    stand = Counter(one["state"] for one in came.values())
    tally.expect(held, f"upgrade: frozen, on hold until the release is approved: {dict(stand)}")
    # 3
    approve(machine)
    over = standing(machine, lambda s: s["state"] == "running" and s["moves"] == 1)
    acting(machine, over, Counter({name: len(permitted(records)) for name, records in archived(machine).items()}))
    say("  ok   upgrade: approved, each acts on")
    # 4
    play(place, given, "and back")
    back = standing(machine, lambda s: s["state"] == "running" and s["moves"] == 2)
    acting(machine, back, Counter({name: len(permitted(records)) for name, records in archived(machine).items()}))
    same = all(one["holder"] == began[name]["holder"] and one["code"] == began[name]["code"] for name, one in back.items())
    tally.expect(same, "and back: each came over to the first release again, and acts, without anybody's help", str(back))
    # 5
    machine.ssh("systemctl", "kill", "--signal=SIGTERM", CLIENTS[0])
    until(lambda: "ActiveState=failed" in client(machine, CLIENTS[0]))
    shown = client(machine, CLIENTS[0])
    tally.expect("ExecMainStatus=143" in shown, f"and back: a signal reaches an agent, its status its client: {' '.join(shown)}")
    alive = [unit for unit in CLIENTS[1:] if "ActiveState=active" in client(machine, unit)]
    tally.expect(len(alive) == len(CLIENTS) - 1, f"and back: {len(alive)} other clients are still there")
    machine.ssh("systemctl", "stop", *CLIENTS[1:])
    standing(machine, lambda s: s["state"] == "ended")
    prove(place, machine, tally, {name: early[name] for name in began})


Actions = list[ActionRecord]


def prove(place: Path, machine: Machine, tally: Tally, early: dict[str, list[Record]]) -> None:
    """With the verifier stopped and no network: the first and the last action of each agent under each of three codes; one byte is another.

    `early` is what there was of each instance before all of it: its log begins with that.
    """
    logs, theirs = archived(machine), machine.root / "root/verifier.archive"
    verifier = f"runuser -u writ-verifier -- {BIN}/verifier --config /etc/writ/verifier.toml"
    export = f"{verifier} export --ca-file /etc/writ/verifier-ca.pem --namespace {NAMESPACE} --out /tmp/verifier.archive"
    exported = machine.ssh(f"cd /tmp && {export} && mv verifier.archive /root/")
    if exported.returncode != 0:
        raise RolloutError(f"verifier export: {exported.stdout[-1000:]}{exported.stderr[-2000:]}")
    machine.ssh("systemctl", "stop", "writ-verifier")
    alone = ["unshare", "--net", sys.executable, "-m", "auditor"]
    sources, proofs = [str(machine.root / "root/enforcer.archive"), str(theirs)], place / "proofs"
    wanted: dict[int, list[tuple[str, ActionRecord]]] = {}
    for name, records in early.items():
        stints = [list(actions) for _, actions in groupby(permitted(logs[name]), key=lambda action: action.opening)]
        for at, action in enumerate(action for stint in stints for action in (stint[0], stint[-1])):
            wanted.setdefault(at, []).append((name, action))
        engines = [opening_of(logs[name], stint[0]).engine for stint in stints]
        kept = len(engines) == 3 and engines[0] == engines[2] != engines[1] and logs[name][: len(records)] == records
        text = f"proof: {name[:8]} has one log through all of it, of {len(logs[name])} records under two engines in turn"
        tally.expect(kept, text, str([len(stint) for stint in stints]))
    told: list[str] = []
    for alike in wanted.values():  # such as the first of each agent: they are close together, and a bundle takes its time
        times = [dt.datetime.fromtimestamp(which(action.decided_at for _, action in alike), dt.UTC).isoformat() for which in (min, max)]
        made = run([*alone, "export", *sources, "--out", str(proofs), "--from", times[0], "--to", times[1]], cwd=ROOT)
        told.append(made.stderr[-500:])
    bundles = [proofs / f"{name}-{action.sequence}.writ-proof" for alike in wanted.values() for name, action in alike]
    trust = ["--trust", str(machine.root / "etc/writ/trust.cbor"), "--json"]
    proven = 0
    for bundle in bundles:
        done = run([*alone, "verify", str(bundle), *trust], cwd=ROOT)
        proven += done.returncode == 0
        told += [] if done.returncode == 0 else [f"{bundle.name}: {done.stdout}{done.stderr}"]
    text = f"proof: {proven} of {len(bundles)} actions proven offline, first and last of each agent each time"
    tally.expect(proven == len(bundles), text, "".join(told))
    data = bytearray(bundles[-1].read_bytes())
    data[len(data) * 2 // 3] ^= 1
    (place / "spoilt.writ-proof").write_bytes(bytes(data))
    refused = run([*alone, "verify", str(place / "spoilt.writ-proof"), *trust], cwd=ROOT)
    tally.expect(refused.returncode == 1, "proof: with one bit of it flipped it is refused", refused.stdout + refused.stderr)
    machine.ssh("systemctl", "start", "writ-verifier")


def until(what: Callable[[], Any]) -> Any:
    """What `what` returns once it is true. Raises RolloutError."""
    end = time.monotonic() + COME_WITHIN
    while not (value := what()):
        if time.monotonic() > end:
            raise RolloutError(f"upgrade: not within {COME_WITHIN:.0f} s: {what.__qualname__}")
        time.sleep(0.5)
    return value


def stays(machine: Machine) -> dict[str, dict[str, Any]]:
    """How each instance of the agent that stays stands."""
    answer: dict[str, list[dict[str, Any]]] = json.loads(machine.ssh(*ENFORCER.split(), "status", "--json").stdout or "{}")
    return {one["instance"]: one for one in answer.get("instances", []) if one.get("agent", "").endswith(f"/{STAYS}")}


def standing(machine: Machine, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, dict[str, Any]]:
    """How they stand, once there is one for each client and all are so. Raises RolloutError."""
    stands: dict[str, dict[str, Any]] = {}

    def all_so() -> bool:
        stands.clear()
        stands.update(stays(machine))
        return len(stands) == len(CLIENTS) and all(map(wanted, stands.values()))

    try:
        until(all_so)
    except RolloutError as error:
        units = [f"--unit={unit}" for unit in ("writ-enforcer", "writ-attestor", *CLIENTS)]
        journal = machine.ssh("journalctl", "--no-pager", "-n80", *units)
        raise RolloutError(f"{error}: {json.dumps(stands, indent=1)}\n{journal.stdout[-6000:]}") from None
    return dict(stands)


def codes(stands: dict[str, Any]) -> set[str]:
    """Of the reasons why it is on hold."""
    return {reason["code"] for reason in stands["reasons"]}


def born(machine: Machine, pid: int) -> str:
    """When a process started, in ticks since boot: with the pid, which process it is. Source: proc_pid_stat(5), field 22."""
    return machine.ssh("cat", f"/proc/{pid}/stat").stdout.rpartition(")")[2].split()[19]


def client(machine: Machine, unit: str) -> list[str]:
    """How a client of ours is, and what it ended with."""
    return machine.ssh("systemctl", "show", "--property=ActiveState,ExecMainStatus", unit).stdout.split()


def archived(machine: Machine) -> dict[str, list[Record]]:
    """Every record of every instance, as an auditor gets them."""
    done = machine.ssh(*ENFORCER.split(), "log", "export", "--output", "/root/enforcer.archive")
    if done.returncode != 0:
        raise RolloutError(f"enforcer log export: {done.stdout[-1000:]}{done.stderr[-2000:]}")
    archive = parse_archive((machine.root / "root/enforcer.archive").read_bytes())
    return {log.instance.hex(): parse_log(log.leaves) for log in archive.logs}


def permitted(records: list[Record]) -> Actions:
    """The actions that passed."""
    return [record for record in records if isinstance(record, ActionRecord) and record.permit]


def acting(machine: Machine, instances: Iterable[str], beyond: Counter[str]) -> None:
    """Each of them has had at least three more actions permitted than it had. Raises RolloutError."""

    def all_do() -> bool:
        logs = archived(machine)
        return all(len(permitted(logs[name])) >= beyond[name] + 3 for name in instances)

    until(all_do)


@contextlib.contextmanager
def ended() -> Iterator[Path]:
    """A directory of our own; a signal ends the test in order, so that everything is taken down."""
    if os.geteuid() != 0:
        raise RolloutError(f"expected root, to boot a container; this is uid {os.geteuid()}")
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        raise RolloutError(f"expected on PATH, found none: {', '.join(missing)}")

    def stop(number: int, _frame: FrameType | None) -> None:
        raise RolloutError(f"stopped by {signal.Signals(number).name}")

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)
    place = Path(tempfile.mkdtemp(prefix="writ-rollout-", dir="/var/tmp"))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def main() -> int:
    """Roll out, twice, and look."""
    tally = Tally()
    try:
        with ended() as place, Machine(place) as machine:
            say(
                f"booted: {socket.gethostname()} runs {machine.ssh('. /etc/os-release && echo $PRETTY_NAME').stdout.strip()} in a container"
            )
            certify(place)
            linted = run(["ansible-lint", "--offline"], cwd=ROOT / "ansible", env={**os.environ, "LANG": "C.UTF-8", "NO_COLOR": "1"})
            tally.expect(linted.returncode == 0, "ansible-lint, profile production", linted.stdout + linted.stderr)
            given = inventory(place, machine)
            first = play(place, given, "first run")
            tally.expect(
                first["failed"] == first["unreachable"] == 0 < first["changed"], f"the first run changed {first['changed']} things"
            )
            second = play(place, given, "second run")
            log = (place / "second run.log").read_text()
            tally.expect(second["changed"] == 0, f"the second run changed {second['changed']}", "\n".join(changed_tasks(log)))
            examine(machine, tally)
            approve(machine)
            act(machine, tally, "as rolled out")
            rely(machine, tally)
            upgrade(place, machine, given, tally)
            unknown = run_refused(place, given)
            tally.expect(unknown, "an unknown key in a role's configuration is refused, and the file on the host stays")
    except (RolloutError, WritError, OSError) as error:
        print(f"the rollout could not be tested: {error}", file=sys.stderr)
        return 3
    say("everything happened as it should" if not tally.failed else f"{tally.failed} of the lines above did not happen as they should")
    return 1 if tally.failed else 0


def run_refused(place: Path, given: Path) -> bool:
    """Whether the playbook fails on a key that no attestor has, at the step that would write it."""
    more = ("--extra-vars", json.dumps({"writ_attestor_config": {"watch_intervall": 3}}))
    try:
        play(place, given, "with an unknown key", *more)
    except RolloutError as error:
        return "failed to validate" in str(error) and "watch_intervall" in str(error)
    return False


if __name__ == "__main__":
    sys.exit(main())
