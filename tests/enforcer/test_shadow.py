"""A candidate beside the policy in force: its differences are kept, and no answer changes or waits, whatever becomes of it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from enforcer import doctor, shadow
from enforcer.__main__ import main
from enforcer.config import EnforcerConfig
from enforcer.gatekeeper import Gatekeeper, Ruling
from enforcer.shadow import SHADOW_FILE, Decided, Shadow, candidate_of, differences, shadow_of
from tests.enforcer.scene import Scene
from tests.signers import new_signer
from tests.world.attestor import POLICIES
from writ.formats.action import Action
from writ.formats.cose import encode_sign1
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Refused, Unavailable
from writ.formats.policy_bundle import CONTENT_TYPE, PolicyBundle, encode_bundle
from writ.formats.trust import encode_trust
from writ.verdict.rehearsal import otherwise as real_otherwise

READ, WIPE = (Action("tool.call", f"mcp:notes/{verb}", Digest.of(b"{}")) for verb in ("read", "wipe"))
TURNED = POLICIES.replace("mcp:notes/wipe", "mcp:notes/read")


class Beside:
    """A scene whose gatekeeper has a candidate beside it."""

    def __init__(self, folder: Path) -> None:
        self.scene = Scene(folder)
        self.folder = folder
        self.log = self.scene.log(folder)
        self.shadows: list[Shadow] = []

    def candidate(self, policies: str = TURNED) -> PolicyBundle:
        return replace(self.scene.attestor.bundle(), namespace="test-next", version=7, policies=policies)

    def gatekeeper(self, policies: str = TURNED) -> Gatekeeper:
        self.shadows.append(Shadow(self.candidate(policies), self.folder, 1_700_000_000))
        return self.scene.gatekeeper(self.log, self.shadows[-1])

    def told(self) -> dict[str, Any]:
        """What was written, once everything was compared."""
        for one in self.shadows:
            one.close()
        found = differences(self.folder)
        assert found is not None
        return found


@pytest.fixture
def beside(tmp_path: Path) -> Iterator[Beside]:
    made = Beside(tmp_path)
    yield made
    for one in made.shadows:
        one.close()
    made.log.close()


def ask(gatekeeper: Gatekeeper, action: Action) -> Ruling:
    return gatekeeper.ask(action, b"{}", gate="socket")


def test_only_what_the_candidate_would_decide_otherwise_is_kept_and_no_answer_changes(beside: Beside) -> None:
    beside.scene.renew()
    gatekeeper = beside.gatekeeper()
    unmanaged = Action("tool.call", "mcp:other/read", Digest.of(b"{}"))
    assert [ask(gatekeeper, one).permit for one in (READ, WIPE, unmanaged)] == [True, False, False]
    told = beside.told()
    assert (told["candidate"], told["namespace"], told["version"]) == (str(beside.candidate().digest), "test-next", 7)
    assert (told["compared"], told["missed"]) == (3, 0)
    assert [(one["sequence"], one["was"], one["would"], one["rules"]) for one in told["differences"]] == [
        (1, "permit", "refuse", ["no-wipe"]), (2, "refuse", "permit", ["agents-act"]),
    ]  # fmt: skip
    assert told["differences"][0]["reasons"][0]["code"] == "policy-refused"


def test_candidate_that_says_the_same_leaves_only_a_count(beside: Beside) -> None:
    beside.scene.renew()
    gatekeeper = beside.gatekeeper(POLICIES)
    ask(gatekeeper, READ)
    ask(gatekeeper, WIPE)
    assert (beside.told()["compared"], beside.told()["differences"]) == (2, [])


def test_what_policy_was_not_asked_about_is_not_compared(beside: Beside) -> None:
    gatekeeper = beside.gatekeeper()
    assert ask(gatekeeper, READ).reasons[0].code == "hold"
    beside.scene.renew()
    beside.scene.clock.wall += 3600
    ask(gatekeeper, READ)
    assert beside.told()["compared"] == 0


def test_candidate_moves_no_version_that_this_host_holds(beside: Beside) -> None:
    beside.gatekeeper()
    assert not list((beside.folder / "policies").glob("*")) if (beside.folder / "policies").exists() else True
    assert beside.scene.renew().bundle.namespace == "test"


class Broken(Shadow):
    """A shadow that fails where it is told."""

    def __init__(self) -> None:
        self.told = 0

    def saw(self, decided: Decided) -> None:
        self.told += 1
        raise RuntimeError("a fault of the shadow")


def test_shadow_that_fails_changes_no_answer(beside: Beside) -> None:
    beside.scene.renew()
    broken = Broken()
    gatekeeper = beside.scene.gatekeeper(beside.log, broken)
    assert [ask(gatekeeper, one).permit for one in (READ, WIPE)] == [True, False]
    assert broken.told == 2


def test_fault_in_the_comparison_is_written_down_and_the_next_is_compared(beside: Beside, monkeypatch: pytest.MonkeyPatch) -> None:
    beside.scene.renew()
    calls: list[object] = []

    def otherwise(*args: Any, **named: Any) -> object:
        calls.append(args)
        if len(calls) == 1:
            raise MemoryError
        return real_otherwise(*args, **named)

    monkeypatch.setattr(shadow, "otherwise", otherwise)
    gatekeeper = beside.gatekeeper()
    assert [ask(gatekeeper, READ).permit for _ in range(2)] == [True, True]
    told = beside.told()
    assert ([one["failed"] for one in told["faults"]], len(told["differences"])) == (["MemoryError"], 1)


def test_candidate_that_hangs_holds_nobody_up_and_what_is_too_much_is_counted(beside: Beside, monkeypatch: pytest.MonkeyPatch) -> None:
    beside.scene.renew()
    go = threading.Event()
    monkeypatch.setattr(shadow, "MAX_WAITING", 2)
    monkeypatch.setattr(shadow, "otherwise", lambda *_args, **_named: go.wait(20) and None)
    gatekeeper = beside.gatekeeper()
    began = time.monotonic()
    assert all(ask(gatekeeper, READ).permit for _ in range(6))
    assert time.monotonic() - began < 10
    go.set()
    told = beside.told()
    assert told["missed"] >= 3
    assert told["compared"] + told["missed"] == 6


def test_file_that_cannot_be_written_changes_no_answer(beside: Beside) -> None:
    (beside.folder / SHADOW_FILE).mkdir()
    beside.scene.renew()
    gatekeeper = beside.gatekeeper()
    assert ask(gatekeeper, READ).permit
    beside.shadows[0].close()
    with pytest.raises(Unavailable):
        differences(beside.folder)


def test_file_that_is_full_takes_no_more_and_says_how_many(beside: Beside, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadow, "MAX_BYTES", 900)
    beside.scene.renew()
    gatekeeper = beside.gatekeeper()
    assert all(ask(gatekeeper, READ).permit for _ in range(6))
    told = beside.told()
    assert (told["compared"], 0 < len(told["differences"]) < 6) == (6, True)
    assert told["missed"] == 6 - len(told["differences"])


def test_torn_tail_is_left_out_and_a_strange_line_is_no_difference(beside: Beside) -> None:
    beside.scene.renew()
    ask(beside.gatekeeper(), READ)
    told, path = beside.told(), beside.folder / SHADOW_FILE
    with path.open("ab") as file:
        file.write(b'{"sequence": 9, "act')
    assert differences(beside.folder) == told
    path.write_bytes(b"[]\n")
    with pytest.raises(FormatError):
        differences(beside.folder)


def test_same_candidate_after_a_restart_goes_on_and_another_begins_anew(beside: Beside) -> None:
    beside.scene.renew()
    for _ in range(2):
        ask(beside.gatekeeper(), READ)
        beside.shadows[-1].close()
    assert (beside.told()["compared"], len(beside.told()["differences"])) == (2, 2)
    ask(beside.gatekeeper(POLICIES), READ)
    assert (beside.told()["compared"], beside.told()["differences"]) == (1, [])


# --- how it gets there ---------------------------------------------------------------------------------------------------


def placed(beside: Beside, signed: bytes) -> EnforcerConfig:
    (beside.folder / "candidate.cose").write_bytes(signed)
    (beside.folder / "trust.cbor").write_bytes(encode_trust(beside.scene.attestor.trust()))
    return EnforcerConfig(
        state_dir=beside.folder / "state", trust_file=beside.folder / "trust.cbor", shadow_policy=beside.folder / "candidate.cose"
    )  # fmt: skip


def signed(beside: Beside, policies: str = TURNED) -> bytes:
    return beside.scene.attestor.sign(encode_bundle(beside.candidate(policies)), CONTENT_TYPE)


def test_signed_candidate_of_the_configuration_stands_beside(beside: Beside) -> None:
    config, trust = placed(beside, signed(beside)), beside.scene.attestor.trust()
    found = shadow_of(config, trust, beside.folder, 5)
    assert found is not None
    found.close()
    assert (beside.told()["candidate"], beside.told()["since"]) == (str(beside.candidate().digest), 5)
    assert shadow_of(replace(config, shadow_policy=None), trust, beside.folder, 5) is None
    assert "version 7 of test-next" in next(f["found"] for f in doctor.examine(config) if f["check"] == "shadow policy")


def test_candidate_that_nobody_pinned_signed_or_that_could_not_be_published_does_not(beside: Beside) -> None:
    trust, other = beside.scene.attestor.trust(), new_signer()
    kid = other.public.thumbprint()
    payload = encode_bundle(beside.candidate())
    foreign = encode_sign1(payload, algorithm=other.public.algorithm, kid=kid, sign=other.sign, content_type=CONTENT_TYPE)
    wrong: list[tuple[bytes, type[Exception]]] = [
        (foreign, Refused), (payload, FormatError), (TURNED.encode(), FormatError), (b"", FormatError),
        (beside.scene.attestor.sign(payload, "application/other"), FormatError),
        (signed(beside, "permit(principal, action, resource);"), FormatError),
        (signed(beside, 'permit(principal, action == Writ::Action::"tool.call", resource);'), FormatError),
    ]  # fmt: skip
    for data, error in wrong:
        config = placed(beside, data)
        with pytest.raises(error):
            candidate_of(beside.folder / "candidate.cose", trust)
        assert shadow_of(config, trust, beside.folder, 5) is None
        found = differences(beside.folder)
        assert found is not None
        assert found["failed"]
    (beside.folder / "candidate.cose").unlink()
    config = EnforcerConfig(shadow_policy=beside.folder / "candidate.cose")
    assert shadow_of(config, trust, beside.folder, 5) is None
    assert [f["ok"] for f in doctor.examine(config) if f["check"] == "shadow policy"] == [False]


def test_relative_path_is_refused() -> None:
    with pytest.raises(FormatError):
        EnforcerConfig(shadow_policy=Path("candidate.cose"))
    assert EnforcerConfig.from_json(EnforcerConfig(shadow_policy=Path("/a")).to_json()).shadow_policy == Path("/a")


def test_command_shows_differences_and_ends_with_1_where_there_are_any(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = EnforcerConfig(state_dir=tmp_path / "state")
    (tmp_path / "enforcer.toml").write_text(f'state_dir = "{tmp_path}/state"\n')

    def run(*words: str) -> tuple[int, Any]:
        code = main(["--config", str(tmp_path / "enforcer.toml"), "policy", "shadow", *words, "--json"])
        return code, json.loads(capsys.readouterr().out)

    assert run() == (3, {"instances": []})
    for name, policies in (("aa", POLICIES), ("bb", TURNED)):
        folder = config.instance_dir(bytes.fromhex(name * 16))
        folder.mkdir(parents=True)
        beside = Beside(folder)
        beside.scene.renew()
        ask(beside.gatekeeper(policies), READ)
        beside.told()
        beside.log.close()
    assert run("aaaa")[0] == 0
    code, told = run()
    assert (code, [len(one["differences"]) for one in told["instances"]]) == (1, [0, 1])
