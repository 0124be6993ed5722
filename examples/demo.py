"""The demonstration: a real agent, started only after its measured runtime was proven, refused as soon as one byte of it changes.

Starts software TPMs, a verifier, an attestor and an enforcer of its own, below
a directory of its own, and ends them. Every line is something that happened.
Exit status 0: every expected permit and refusal occurred. 1: one did not. 3: it could not run.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from enforcer.launch.cgroup import parent_of
from examples import thief
from examples.stage import Program, Stage, StageError, add_python, free_port, performed, wait_until
from swtpm.manufacturer import Manufacturer
from swtpm.soft import SoftTpm, SoftTpmError
from writ.formats.archive import Archive, parse_archive
from writ.formats.eat import parse_token
from writ.formats.errors import WritError
from writ.formats.evidence import Evidence, parse_evidence

AGENTS = Path(__file__).parent / "agents"
DOMAIN = "demo.writ"
HOST = "demo-host"
NAMESPACE = "demo"
COULD_NOT = 3


class Story:
    """The demonstration, one chapter a method."""

    def __init__(self, stage: Stage, tpm: SoftTpm, stranger: SoftTpm, roots: Path, *, hardware: bool = False) -> None:
        """`roots` is a PEM file with the manufacturer's certificates; `hardware` binds each token to a key in the TPM."""
        self._hardware = hardware
        self._stage = stage
        self._tpm = tpm
        self._stranger = stranger
        self._roots = roots
        self._url = f"http://127.0.0.1:{free_port()}"
        place = stage.place
        self._verifier_toml, self._attestor_toml, self._enforcer_toml = (
            place / f"{role}.toml" for role in ("verifier", "attestor", "enforcer")
        )
        self._trust, self._key = place / "trust.cbor", place / "verifier" / "operator.key"
        self._verifier: Program | None = None

    # --- commands of the roles, as an operator would type them ----------------------------------------------------------

    def _ask_verifier(self, *arguments: str, ok: tuple[int, ...] = (0,)) -> dict[str, Any]:
        return self._stage.command(
            "verifier", "--config", str(self._verifier_toml), *arguments, "--url", self._url, "--api-key-file", str(self._key),
            "--namespace", NAMESPACE, "--json", ok=ok,
        )  # fmt: skip

    def _local(self, role: str, config: Path, *arguments: str, ok: tuple[int, ...] = (0,)) -> dict[str, Any]:
        return self._stage.command(role, "--config", str(config), *arguments, "--json", ok=ok)

    def _attestor_config(self, name: str, tpm: SoftTpm) -> Path:
        place = self._stage.place
        path = place / f"{name}.toml"
        path.write_text(
            f'tcti = "{tpm.tcti}"\nallow_software_tpm = true\nstate_dir = "{place}/{name}"\nstore_dir = "{place}/store"\n'
            f'manifests_dir = "{place}/agents"\nsocket = "{place}/{name}.sock"\nwatch_interval = 1\n'
        )
        return path

    # --- the chapters ---------------------------------------------------------------------------------------------------

    def set_the_stage(self) -> None:
        """A verifier with a policy, trusting the software TPM's manufacturer as what it is."""
        stage, place = self._stage, self._stage.place
        stage.chapter("1. A verifier, and a machine with a TPM (a software TPM: it proves nothing about hardware)")
        port = self._url.rpartition(":")[2]
        self._verifier_toml.write_text(
            f'state_dir = "{place}/verifier"\nlisten = "127.0.0.1:{port}"\ndomain = "{DOMAIN}"\nissuer = "{self._url}"\n'
        )
        self._attestor_toml = self._attestor_config("attestor", self._tpm)
        self._enforcer_toml.write_text(
            f'run_dir = "{place}/enforcer-run"\nstate_dir = "{place}/enforcer"\nattestor_socket = "{place}/attestor.sock"\n'
            f'trust_file = "{self._trust}"\ncgroup = "{stage.cgroup}"\n'
            'tools = ["notes /usr/bin/python3 -I -S -B {store}/tools/server.py"]\n'
        )
        shutil.copytree(AGENTS, place / "agents")
        add_python(place / "agents")
        self._local("verifier", self._verifier_toml, "init")
        self._start_verifier()
        self._ask_verifier("trust", "import", str(self._roots), "--tpm-class", "software")
        self._ask_verifier("trust", "export", "--out", str(self._trust))
        stage.expect(True, f"the verifier serves on {self._url}; it trusts one manufacturer, of class software")

    def _start_verifier(self) -> None:
        self._verifier = self._stage.start("verifier", [sys.executable, "-m", "verifier", "--config", str(self._verifier_toml), "serve"])
        wait_until(lambda: thief.answers(self._url, "/readyz"), "the verifier")

    def admit(self) -> None:
        """An operator admits the machine; its TPM proves that it holds the keys; a TPM nobody admitted does not get in."""
        stage, place = self._stage, self._stage.place
        stage.chapter("2. The operator admits the machine, and its TPM proves who it is")
        admitted = self._ask_verifier("host", "admit", HOST)
        ticket = place / "ticket"
        ticket.write_text(str(admitted["ticket"]))
        stranger = self._attestor_config("stranger", self._stranger)
        self._local("attestor", stranger, "init")
        turned_away = self._local("attestor", stranger, "enroll", "--verifier", self._url, "--host", HOST, ok=(0, 1))
        stage.expect(turned_away["exit"] == 1, "another TPM of the same maker, without the ticket, is refused")
        self._local("attestor", self._attestor_toml, "init")
        enrolled = self._local("attestor", self._attestor_toml, "enroll", "--verifier", self._url, "--host", HOST, "--ticket", str(ticket))
        stage.expect(enrolled["host"] == HOST, f"{HOST} enrolled: EK certificate, credential activation, AK below the EK")

    def approve(self) -> None:
        """What is known good: the governance of the host, two agents, and the policy."""
        stage, place = self._stage, self._stage.place
        stage.chapter("3. What is known good is measured on the build machine, and approved")
        measured = []
        for agent in ("notes", "scribe"):
            out = place / f"{agent}.measurement"
            self._local(
                "attestor",
                self._attestor_toml,
                "measure",
                str(place / "agents" / f"{agent}.toml"),
                "--offline",
                "--domain",
                DOMAIN,
                "--out",
                str(out),
            )
            measured.append(out)
        governance = place / "governance.measurement"
        self._local("attestor", self._attestor_toml, "measure", "--governance", "--offline", "--domain", DOMAIN, "--out", str(governance))
        files = [argument for out in (*measured, governance) for argument in ("--measurement", str(out))]
        self._ask_verifier("reference", "capture", *files, "--approve")
        stage.expect(True, "reference values for two agents and for the host's own attestor and enforcer are signed and published")
        self._ask_verifier(
            "policy", "publish", "--policies", str(AGENTS / "demo.cedar"),
            "--accept-runtime-only", "--tpm-class", "software", "--token-life", "20", *(("--hardware",) if self._hardware else ()),
        )  # fmt: skip
        stage.expect(True, "the policy is published: notes may be read, and nobody writes them")

    def act(self) -> tuple[Program, Program]:
        """Two agents run; one is refused what the policy forbids."""
        stage, place = self._stage, self._stage.place
        stage.chapter("4. Two agents are measured, proven and started; each action is decided before it happens")
        stage.start("attestor", [sys.executable, "-m", "attestor", "--config", str(self._attestor_toml), "serve"])
        wait_until((place / "attestor.sock").exists, "the attestor")
        stage.start("enforcer", [sys.executable, "-m", "enforcer", "--config", str(self._enforcer_toml), "serve"])
        wait_until((place / "enforcer-run" / "control.sock").exists, "the enforcer")
        began = time.monotonic()
        notes, scribe = (
            stage.start(agent, [sys.executable, "-m", "enforcer", "--config", str(self._enforcer_toml), "run", "--agent", agent])
            for agent in ("notes", "scribe")
        )
        read = notes.wait_for(lambda line: line.startswith("notes.read: done"), within=30)
        took = time.monotonic() - began
        stage.expect(read is not None, f"{read or notes.errors()}  (launched, measured, quoted, verified and acting after {took:.1f} s)")
        refused = notes.wait_for(lambda line: line.startswith("notes.append: refused"), within=15)
        stage.expect(refused is not None, refused or notes.errors())
        lives = scribe.wait_for(lambda line: line.startswith("notes.read: done"), within=30)
        stage.expect(lives is not None, f"scribe: {lives or scribe.errors()}")
        if refused is not None:
            self._card(refused)
        return notes, scribe

    def _card(self, line: str) -> None:
        reference = line.rpartition(" ")[2]
        why = self._local("enforcer", self._enforcer_toml, "why", reference)
        reasons = why.get("reasons")
        self._stage.say(f"       enforcer why {reference}:")
        for reason in reasons if isinstance(reasons, list) else []:
            for name in ("code", "claim", "expected", "got", "remedy"):
                self._stage.say(f"         {name:<9} {reason[name]}")

    def drift(self, notes: Program, scribe: Program) -> None:
        """One byte of a prompt changes under a running agent."""
        stage = self._stage
        stage.chapter("5. One byte of a prompt changes in the store, while the agent runs")
        prompt = next((stage.place / "store" / "trees").glob("*/prompts/notes.txt"))
        data = bytearray(prompt.read_bytes())
        data[-2] ^= 1
        began = time.monotonic()
        thief.overwrite(prompt, bytes(data))
        status = notes.wait(30)
        took = 1000 * (time.monotonic() - began)
        stage.expect(status is not None, f"noticed, frozen and killed after {took:.0f} ms (exit status {status})")
        standing = [i for i in self._instances() if i.get("agent", "").endswith("/notes")]
        contained = standing[0] if standing else {}
        codes = ", ".join(reason["code"] for reason in contained.get("reasons", []))
        stage.expect(contained.get("state") == "killed" and "instance-drifted" in codes, f"notes is {contained.get('state')}: {codes}")
        timing = contained.get("timing", {})
        if timing:
            stage.say(f"       from notice: {', '.join(f'{name} after {value} ms' for name, value in timing.items())}")
        so_far = len(scribe.lines)
        on = scribe.wait_for(lambda line: line.startswith("notes.read: done"), within=15, after=so_far)
        stage.expect(on is not None and scribe.running(), "the other instance lives on, and acts")

    def _instances(self) -> list[dict[str, Any]]:
        answer = self._local("enforcer", self._enforcer_toml, "status")
        instances = answer["instances"]
        return instances if isinstance(instances, list) else []

    def steal(self) -> None:
        """What a thief has is worth nothing: a forged quote, an old quote, a token."""
        stage = self._stage
        stage.chapter("6. A thief with a copy of everything that travelled")
        archive = self._archive()
        evidence = max((e for e in map(_evidence, archive.objects) if e is not None), key=lambda e: e.log_first)
        host_key = stage.place / "attestor" / "host.key"
        for told, forged in (
            ("a forged quote (signed by a key outside the TPM)", lambda nonce: thief.forge(evidence, nonce)),
            ("a replayed quote (true, but for another challenge)", lambda nonce: replace(evidence, nonce=nonce)),
        ):
            code = thief.attest(self._url, HOST, host_key, forged)
            stage.expect(code in ("signature-invalid", "extra-data-mismatch"), f"{told} is refused: {code}")
        port = free_port()
        stage.start("service", [sys.executable, "-m", "examples.service", str(port), self._url, str(self._trust), str(stage.place)])
        wait_until(lambda: thief.listens(port), "the relying service")
        living = [token for token in archive.tokens if parse_token(token).claims.agent.name == "scribe"]
        newest = max(living, key=lambda token: parse_token(token).claims.expires_at)
        code = thief.use_token(newest, f"http://127.0.0.1:{port}")
        wanted = "lease-missing" if self._hardware else "proof-invalid"
        stage.expect(code == wanted, f"a stolen token, presented to a service with another key, is refused: {code}")

    def _archive(self) -> Archive:
        out = self._stage.place / "enforcer.archive"
        self._local("enforcer", self._enforcer_toml, "log", "export", "--output", str(out))
        return parse_archive(out.read_bytes())

    def prove(self, scribe: Program) -> None:
        """One action's chain, exported; the verifier stopped; proven offline; and one byte flipped."""
        stage, place = self._stage, self._stage.place
        stage.chapter("7. Years later: the chain of one action, with no server")
        scribe.stop()
        scribe.wait(20)
        self._archive()
        self._ask_verifier("export", "--out", str(place / "verifier.archive"))
        bundles = place / "proofs"
        self._stage.command(
            "auditor",
            "export",
            str(place / "enforcer.archive"),
            str(place / "verifier.archive"),
            "--out",
            str(bundles),
            "--json",
            ok=(0, 1),
        )
        if self._verifier is not None:
            self._verifier.stop()
        made = sorted(bundles.glob("*.writ-proof"))
        stage.expect(bool(made), f"{len(made)} actions have a proof bundle; the verifier is stopped")
        if not made:
            return
        proven = stage.command("auditor", "verify", str(made[0]), "--trust", str(self._trust), "--json", ok=(0, 1))
        stage.expect(proven["verdict"] == "accepted", f"auditor verify {made[0].name[:20]}…: {proven['verdict']}")
        for step in proven.get("steps", []):
            stage.say(f"         {step['number']}. {step['what']}")
        archives = [str(place / name) for name in ("enforcer.archive", "verifier.archive")]
        replayed = stage.command("auditor", "replay", *archives, "--trust", str(self._trust), "--json", ok=(0, 1, 3))
        counts = replayed.get("counts", {})
        again = f"{counts.get('identical')} decisions made again, byte for byte, {counts.get('differing')} differ"
        stage.expect(replayed["exit"] == 0, f"auditor replay: {again}")
        data = bytearray(made[0].read_bytes())
        at = len(data) * 2 // 3
        data[at] ^= 1
        spoilt = place / "spoilt.writ-proof"
        spoilt.write_bytes(bytes(data))
        refused = stage.command("auditor", "verify", str(spoilt), "--trust", str(self._trust), "--json", ok=(0, 1))
        why = (refused.get("reasons") or [{}])[0]
        stage.expect(refused["exit"] == 1, f"with byte {at} of {len(data)} flipped: refused, {why.get('code')} in {why.get('claim')}")

    def tell(self) -> None:
        """The whole story."""
        self.set_the_stage()
        self.admit()
        self.approve()
        notes, scribe = self.act()
        self.drift(notes, scribe)
        self.steal()
        self.prove(scribe)


def _evidence(data: bytes) -> Evidence | None:
    try:
        return parse_evidence(data)
    except WritError:
        return None


def main() -> int:
    """Tell the story."""
    parser = argparse.ArgumentParser(prog="./run demo", description=__doc__)
    parser.add_argument("--slow", action="store_true", help="pause between lines, for an audience")
    parser.add_argument("--hardware", action="store_true", help="in hardware mode: nothing passes without leases of a key in the TPM")
    arguments = parser.parse_args()
    pace = 0.8 if arguments.slow else 0.0
    try:
        with performed(Stage(pace=pace)) as stage:
            parent_of(stage.cgroup)
            manufacturer = Manufacturer(stage.place / "manufacturer")
            with manufacturer.tpm("host") as tpm, manufacturer.tpm("stranger") as stranger:
                roots = stage.place / "swtpm-test-ca.pem"
                roots.write_bytes(manufacturer.root_pem + manufacturer.intermediates_pem)
                Story(stage, tpm, stranger, roots, hardware=arguments.hardware).tell()
            unexpected = stage.unexpected
    except (StageError, SoftTpmError, WritError, OSError) as error:
        print(f"the demo could not run: {error}", file=sys.stderr)
        return COULD_NOT
    if unexpected:
        print(f"\n{len(unexpected)} of the lines above did not happen as they should", file=sys.stderr)
        return 1
    print("\nEverything that should have been permitted was, and everything that should have been refused was.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
