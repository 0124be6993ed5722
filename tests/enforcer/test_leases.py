"""Leases at the enforcer: a token of hardware mode is in force beside a live lease, and in no other case."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from enforcer.credential import Held, leased
from enforcer.leases import AGAIN, Leases, with_lease
from enforcer.places import HeldPlaces
from enforcer.record import ActionLog
from enforcer.relay import Relay
from enforcer.renewal import Granted, NotNow, Renewal
from tests.enforcer.relying.test_middleware import Service
from tests.enforcer.scene import Scene
from tests.signers import new_signer
from tests.world.lease_chip import LeaseChip
from tests.writ.verdict.refusal import refused
from writ.formats.action import Action
from writ.formats.digest import Digest
from writ.formats.lease import LEASE_HEADER, LEASE_LIFE
from writ.formats.local import LeaseGiven
from writ.formats.strict import b64url
from writ.formats.tpm.attest import TPM_GENERATED


@dataclass
class Hardware:
    """One instance of hardware mode over a real socket, its clocks and the chip's moved by hand."""

    scene: Scene
    chip: LeaseChip
    relay: Relay
    renewal: Renewal
    log: ActionLog
    refusals: int = 0

    def advance(self, seconds: int) -> None:
        self.scene.clock.advance(seconds)
        self.chip.advance(seconds)

    def granted(self) -> Held:
        verdict = self.renewal.ask()
        assert isinstance(verdict, Granted)
        self.scene.credential.take(verdict.held)
        return verdict.held

    def leases(self) -> Leases:
        def was_refused() -> None:
            self.refusals += 1

        return Leases(self.scene.credential, self.relay, self.scene.clock, was_refused)


@pytest.fixture
def hardware(tmp_path: Path) -> Iterator[Hardware]:
    scene, chip = Scene(tmp_path), LeaseChip()
    scene.attestor.chip, scene.attestor.wall = chip, scene.clock.now
    scene.attestor.start()
    log, relay = scene.log(tmp_path), Relay(str(scene.attestor.path))
    renewal = Renewal(
        scene.subject, relay, log, scene.attestor.trust(), scene.bundles, HeldPlaces(tmp_path / "verifier"), tmp_path, scene.clock
    )
    yield Hardware(scene, chip, relay, renewal, log)
    log.close()
    scene.attestor.stop()


def test_token_comes_with_its_first_lease_and_dies_with_it(hardware: Hardware) -> None:
    held = hardware.granted()
    assert held.lease is not None
    assert hardware.scene.credential.remaining() <= LEASE_LIFE
    hardware.advance(LEASE_LIFE - 1)
    assert hardware.scene.credential.current() is held
    hardware.advance(1)
    assert hardware.scene.credential.current() is None
    assert hardware.scene.credential.holding() is held
    assert hardware.scene.credential.over().code == "lease-expired"


def test_token_without_its_lease_is_not_in_force(hardware: Hardware) -> None:
    hardware.granted()
    bare = hardware.scene.accept(hardware.scene.attestor.give(hardware.scene.ask, now=hardware.scene.clock.wall))
    hardware.scene.credential.take(bare)
    assert hardware.scene.credential.current() is None


def test_lease_is_renewed_at_half_of_its_life_until_the_token_expires(hardware: Hardware) -> None:
    held, leases = hardware.granted(), hardware.leases()
    while hardware.scene.clock.wall < held.token.claims.expires_at:
        assert hardware.scene.credential.current() is not None
        wait = leases.due()
        assert wait <= LEASE_LIFE / 2
        hardware.advance(max(1, round(wait)))
    assert hardware.scene.credential.current() is None
    assert leases.due() == AGAIN
    assert hardware.refusals == 0


def test_tpm_that_refuses_costs_the_token_within_a_lease_and_a_fresh_one_is_asked_for(hardware: Hardware) -> None:
    hardware.granted()
    hardware.chip.refuses = True
    hardware.advance(LEASE_LIFE // 2)
    assert hardware.leases().due() == AGAIN
    assert hardware.refusals == 1
    verdict = hardware.renewal.ask()
    assert isinstance(verdict, NotNow)
    assert (verdict.reasons[0].code, verdict.answered) == ("lease-refused", False)
    assert hardware.scene.credential.current() is not None, "what the host did meanwhile holds nobody"
    hardware.advance(LEASE_LIFE // 2)
    assert hardware.scene.credential.current() is None
    # after the drift of a neighbour, the next token's approval lets the same key sign again
    hardware.chip.refuses = False
    hardware.granted()
    assert hardware.scene.credential.current() is not None


def test_boot_clock_kills_a_lease_where_the_wall_clock_was_set_back(hardware: Hardware) -> None:
    hardware.granted()
    hardware.scene.clock.since_boot += LEASE_LIFE
    assert hardware.scene.credential.current() is None


def test_lease_for_another_token_than_the_one_in_force_changes_nothing(hardware: Hardware) -> None:
    first = hardware.granted()
    second = hardware.granted()
    assert not hardware.scene.credential.renew(first)
    assert hardware.scene.credential.current() is second
    assert first.lease is not None
    given = LeaseGiven(first.lease.data)
    wall, boot = hardware.scene.clock.wall, hardware.scene.clock.since_boot
    assert refused(lambda: leased(second, given, wall=wall, boot=boot)).code == "lease-mismatch"


@pytest.mark.parametrize(
    "forge, code",
    [
        (lambda chip: replace(chip, seed="another key"), "lease-invalid"),
        (lambda chip: replace(chip, reset_count=8), "lease-mismatch"),
        (lambda chip: replace(chip, restart_count=1), "lease-mismatch"),
        (lambda chip: replace(chip, time=chip.time - 1), "lease-mismatch"),
    ],
)
def test_lease_of_another_key_or_run_of_the_tpm_is_refused(hardware: Hardware, forge: object, code: str) -> None:
    held = hardware.granted()
    assert callable(forge)
    hardware.scene.attestor.chip = forge(hardware.chip)
    assert refused(lambda: with_lease(held, hardware.relay, hardware.scene.clock)).code == code


@pytest.mark.parametrize("changed", [{"magic": 0}, {"magic": TPM_GENERATED + 1}, {"kind": 0x8016}])
def test_what_a_tpm_did_not_make_as_its_time_is_no_lease(hardware: Hardware, changed: dict[str, int]) -> None:
    held = hardware.granted()
    body = hardware.chip.lease(hardware.scene.instance, held.token.claims.key, held.token.digest, **changed)
    wall, boot = hardware.scene.clock.wall, hardware.scene.clock.since_boot
    assert refused(lambda: leased(held, LeaseGiven(body), wall=wall, boot=boot)).code == "lease-invalid"


def test_no_action_passes_without_a_live_lease(hardware: Hardware) -> None:
    keeper = hardware.scene.gatekeeper(hardware.log)
    act = Action("tool.call", "mcp:notes/read", Digest.of(b"{}"))
    hardware.granted()
    assert keeper.ask(act, b"{}", gate="socket").permit
    hardware.advance(LEASE_LIFE)
    assert not keeper.ask(act, b"{}", gate="socket").permit


# --- elsewhere ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def service(tmp_path: Path) -> Service:
    """A relying service, and a client whose token takes leases."""
    made = Service(tmp_path)
    chip = made.scene.attestor.chip = LeaseChip()
    made.held = made.scene.renew()
    assert made.held.token.claims.lease == chip.terms()
    return made


def shown(service: Service, chip: LeaseChip | None = None, session_key: bytes | None = None) -> str:
    made = chip or service.scene.attestor.chip
    assert made is not None
    claims = service.held.token.claims
    return b64url(made.lease(claims.instance, session_key or claims.key, service.held.token.digest))


def test_relying_service_wants_a_live_lease_beside_token_and_proof(service: Service) -> None:
    header = LEASE_HEADER.lower()
    chip = service.scene.attestor.chip
    assert chip is not None
    good = shown(service)
    assert service.ask(service.headers(**{header: good}))[0] == 200
    assert service.code(service.headers()) == (401, "lease-missing")
    assert service.code(service.headers(**{header: "AAAA"})) == (401, "lease-invalid")
    assert service.code(service.headers(**{header: shown(service, LeaseChip("another"))})) == (401, "lease-invalid")
    stolen = shown(service, session_key=new_signer().public.thumbprint())
    assert service.code(service.headers(**{header: stolen})) == (401, "lease-mismatch")
    twice = [*service.headers(**{header: good}), (header.encode(), good.encode())]
    assert service.code(twice)[0] == 400
    service.scene.clock.advance(LEASE_LIFE)
    service.now = service.scene.clock.wall
    assert service.code(service.headers(**{header: good})) == (401, "lease-expired")
    chip.advance(LEASE_LIFE)
    assert service.ask(service.headers(**{header: shown(service)}))[0] == 200
