"""The daemon against a real verifier and a software TPM, over its socket."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from attestor import agentd
from attestor.collect.runtime_log import RuntimeLog
from attestor.config import read_enrolment
from attestor.esapi import EsapiTpm
from attestor.measure.governance import not_said
from attestor.measure.manifest import Measured, measure_manifest
from attestor.measure.store import Store
from attestor.tpm import Quoted
from swtpm import SoftTpm
from tests.attestor.site import GOVERNANCE, Host, VerifierSite, exchange, launch, receive, token_ask
from tests.signers import new_signer
from writ.formats.digest import Digest
from writ.formats.errors import Refused, Unavailable
from writ.formats.eventlog.runtime import ComponentEvent, DriftEvent, StartEvent, StopEvent
from writ.formats.evidence import parse_evidence
from writ.formats.exchange import EXCHANGE, Problem
from writ.formats.keys import PublicKey
from writ.formats.local import (
    Done,
    Drift,
    Launch,
    Launched,
    Refusal,
    Status,
    StatusAnswer,
    Stop,
    TokenGiven,
    Unreachable,
    Watch,
)
from writ.formats.measurement import parse_measurement
from writ.formats.reason import Reason
from writ.service.uplink import Answer, Uplink


async def start(host: Host, agent: str = "reporter") -> tuple[Launched, PublicKey]:
    """A launch that succeeds, and the instance's session key."""
    message, key = launch(agent)
    return await host.ask(message, Launched), key


def overwrite(path: Path, content: bytes) -> None:
    """What root can do to a file of the store."""
    path.chmod(0o644)
    path.write_bytes(content)


def told(story: Callable[[], Awaitable[None]]) -> None:
    """The story came to its end."""

    async def run() -> None:
        await story()

    asyncio.run(run())


class CountingTpm(EsapiTpm):
    """The TPM, with a count of its quotes and a delay for each."""

    def __init__(self, inner: EsapiTpm, delay: float = 0.0) -> None:
        self.__dict__.update(inner.__dict__)
        self.delay = delay
        self.quotes = 0

    def quote(self, extra_data: bytes, bank: str) -> Quoted:
        self.quotes += 1
        time.sleep(self.delay)
        return super().quote(extra_data, bank)


def events(host: Host) -> list[object]:
    """The events of the host's log as they lie on the disk, all of them in the register."""
    log = RuntimeLog(host.state.log, host.tpm, pcr=13, bank="sha256")
    log.open()
    log.close()
    return list(log.events)


# --- tokens ------------------------------------------------------------------------------------------------------------


def test_instance_gets_a_token_only_once_its_measurement_is_approved(site: VerifierSite, enrolled: Host) -> None:
    async def story() -> None:
        async with enrolled.running():
            instance, key = await start(enrolled)
            refused = await enrolled.ask(token_ask(instance, key), Refusal)
            assert {reason.code for reason in refused.reasons} == {"agent-unknown"}
            assert not refused.final

            site.approve(instance)
            given = await enrolled.ask(token_ask(instance, key), TokenGiven)
            assert enrolled.enrolment is not None
            assert given.decision_key == enrolled.enrolment.decision_key
            status = await enrolled.ask(Status(), StatusAnswer)
            assert (status.host, status.instances, status.events) == ("host-1", 1, 2)

    told(story)


def test_measurement_names_what_lies_in_the_tree(enrolled: Host) -> None:
    async def story() -> None:
        async with enrolled.running():
            instance, _ = await start(enrolled)
            measurement = parse_measurement(instance.measurement)
            assert [part.name for part in measurement.components] == ["code", "prompt"]
            assert instance.command == ("/usr/bin/python3", "{store}/code/main.py")
            root = Path(instance.root)
            assert root.name == measurement.root().hex()
            assert (root / "prompt" / "prompt.txt").read_text() == "be good"
            assert not (root / "code" / "prompt.txt").exists()

    told(story)


def test_quote_waits_for_who_was_launched_a_moment_ago_and_will_ask(site: VerifierSite, enrolled: Host) -> None:
    slow = CountingTpm(enrolled.tpm, delay=0.3)

    async def story() -> None:
        async with enrolled.running(enrolled.daemon(slow)):
            first = await start(enrolled)
            site.approve(first[0])
            second = await start(enrolled)

            async def a_moment_later() -> TokenGiven:
                await asyncio.sleep(0.03)
                return await enrolled.ask(token_ask(*second), TokenGiven)

            given = await asyncio.gather(enrolled.ask(token_ask(*first), TokenGiven), a_moment_later())

            assert slow.quotes == 1, "one quote for the two"
            assert len({one.token for one in given}) == 2

    told(story)


def test_quote_waits_only_so_long_for_who_never_asks(site: VerifierSite, enrolled: Host) -> None:
    async def story() -> None:
        async with enrolled.running():
            asking, _silent = await start(enrolled), await start(enrolled)
            site.approve(asking[0])
            began = asyncio.get_running_loop().time()
            await enrolled.ask(token_ask(*asking), TokenGiven)
            assert asyncio.get_running_loop().time() - began < 10

    told(story)


def test_requests_that_arrive_during_a_quote_share_the_next(site: VerifierSite, enrolled: Host) -> None:
    slow = CountingTpm(enrolled.tpm, delay=0.3)

    async def story() -> None:
        async with enrolled.running(enrolled.daemon(slow)):
            instances = [await start(enrolled) for _ in range(6)]
            site.approve(instances[0][0])
            await asyncio.sleep(0.4)  # who was launched a moment ago and has not asked is waited for
            answers = [asyncio.create_task(enrolled.ask(token_ask(*instances[0]), TokenGiven))]
            await asyncio.sleep(0.1)
            answers += [asyncio.create_task(enrolled.ask(token_ask(*one), TokenGiven)) for one in instances[1:]]
            given = await asyncio.gather(*answers)

            assert slow.quotes == 2
            assert len({one.token for one in given}) == 6
            assert [len(parse_evidence(one.evidence).requests) for one in given] == [1, 5, 5, 5, 5, 5]

    told(story)


def test_launch_that_came_first_is_assembled_before_the_last_is_measured(enrolled: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the TPM extends for some while others are hashed."""
    ahead: list[int] = []
    under_way = 0
    assemble = Store.assemble

    def measured(*given: Any, **more: Any) -> Measured:
        nonlocal under_way
        under_way += 1
        ahead.append(under_way)
        return measure_manifest(*given, **more)

    def assembled(store: Store, *given: Any) -> Path:
        nonlocal under_way
        place = assemble(store, *given)
        under_way -= 1
        return place

    monkeypatch.setattr(agentd, "measure_manifest", measured)
    monkeypatch.setattr(Store, "assemble", assembled)

    async def story() -> None:
        async with enrolled.running():
            await asyncio.gather(*(start(enrolled) for _ in range(8)))

    told(story)
    assert len(ahead) == 8
    assert max(ahead) <= 2


def test_log_travels_once(site: VerifierSite, enrolled: Host) -> None:
    async def story() -> None:
        async with enrolled.running():
            first = await start(enrolled)
            site.approve(first[0])
            one = parse_evidence((await enrolled.ask(token_ask(*first), TokenGiven)).evidence)
            two = parse_evidence((await enrolled.ask(token_ask(*first), TokenGiven)).evidence)
            second = await start(enrolled)
            three = parse_evidence((await enrolled.ask(token_ask(*second), TokenGiven)).evidence)

            assert (one.log_first, len(one.measurements)) == (0, 1)
            assert (two.log_first, two.log, two.measurements) == (2, b"", ())
            assert (three.log_first, len(three.measurements)) == (2, 1)
            assert three.log != b""

    told(story)


def test_daemon_that_forgot_sends_the_log_in_full_and_is_believed(site: VerifierSite, enrolled: Host) -> None:
    async def story() -> None:
        async with enrolled.running():
            instance = await start(enrolled)
            site.approve(instance[0])
            await enrolled.ask(token_ask(*instance), TokenGiven)
        async with enrolled.running():
            given = await enrolled.ask(token_ask(*instance), TokenGiven)
            assert parse_evidence(given.evidence).log_first == 2
        (enrolled.state.log / "acknowledged.cbor").unlink()
        async with enrolled.running():
            given = await enrolled.ask(token_ask(*instance), TokenGiven)
            assert parse_evidence(given.evidence).log_first == 0

    told(story)


def test_nonce_that_another_superseded_is_fetched_anew(site: VerifierSite, enrolled: Host) -> None:
    async def story() -> None:
        async with enrolled.running():
            instance = await start(enrolled)
            site.approve(instance[0])
            first = await enrolled.ask(token_ask(*instance), TokenGiven)
            site.built.parts.attestation.nonce("host-1")
            second = await enrolled.ask(token_ask(*instance), TokenGiven)
            assert parse_evidence(first.evidence).nonce != parse_evidence(second.evidence).nonce

    told(story)


def test_foreign_session_key_gets_no_token_and_costs_no_other(site: VerifierSite, enrolled: Host) -> None:
    async def story() -> None:
        async with enrolled.running():
            one, two = await start(enrolled), await start(enrolled)
            site.approve(one[0])
            stolen = token_ask(one[0], new_signer().public)
            refused, _ = await asyncio.gather(enrolled.ask(stolen, Refusal), enrolled.ask(token_ask(*two), TokenGiven))
            assert "instance-key-mismatch" in {reason.code for reason in refused.reasons}

    told(story)


# --- launches that are refused -----------------------------------------------------------------------------------------


def test_launch_that_would_break_the_log_is_refused_and_costs_no_token(site: VerifierSite, enrolled: Host) -> None:
    async def story() -> None:
        async with enrolled.running():
            instance, key = await start(enrolled)
            site.approve(instance)
            again = await enrolled.ask(Launch("reporter", (), key, None), Refusal)
            orphan = await enrolled.ask(Launch("reporter", (), new_signer().public, bytes(16)), Refusal)
            assert [reason.code for reason in again.reasons] == ["instance-key-reused"]
            assert [reason.code for reason in orphan.reasons] == ["instance-unknown"]
            await enrolled.ask(token_ask(instance, key), TokenGiven)

    told(story)


@pytest.mark.parametrize(
    "agent,code,spoil",
    [
        ("nobody", "manifest-unknown", lambda _: None),
        ("reporter", "source-missing", lambda host: (host.directory / "agents/reporter/prompt.txt").unlink()),
        ("reporter", "source-link-escapes", lambda host: (host.directory / "agents/reporter/out").symlink_to("/etc/passwd")),
        ("reporter", "malformed", lambda host: (host.manifests / "reporter.toml").write_text("version = 2")),
    ],
)  # fmt: skip
def test_launch_of_what_cannot_be_measured_is_refused(agent: str, code: str, spoil: Callable[[Host], object], enrolled: Host) -> None:
    spoil(enrolled)

    async def story() -> None:
        async with enrolled.running():
            message, _ = launch(agent)
            refused = await enrolled.ask(message, Refusal)
            assert [reason.code for reason in refused.reasons] == [code]
            assert not refused.final

    told(story)
    assert len(events(enrolled)) == 1


@pytest.mark.parametrize("code", ["instance-tainted", "token-revoked", "instance-drifted"])
def test_problem_that_nothing_signs_is_not_final_and_says_that_nobody_decided(
    code: str, site: VerifierSite, enrolled: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever ends TLS before the verifier can say it; of the verifier's own decision the next answer comes."""

    async def story() -> None:
        async with enrolled.running():
            instance, key = await start(enrolled)
            asked = await enrolled.ask(token_ask(instance, key), Refusal)
            assert (asked.decided, asked.final) == (True, False)
            site.approve(instance)
            whole, problem = Uplink.post, EXCHANGE.encode(Problem("0" * 16, (Reason(code, "x", "running", "y"),)))
            monkeypatch.setattr(Uplink, "post", lambda *_, **__: Answer(403, "application/cbor", problem))
            refused = await enrolled.ask(token_ask(instance, key), Refusal)
            assert ([reason.code for reason in refused.reasons], refused.final, refused.decided) == ([code], False, False)
            monkeypatch.setattr(Uplink, "post", whole)
            await enrolled.ask(token_ask(instance, key), TokenGiven)

    told(story)


# --- stop --------------------------------------------------------------------------------------------------------------


def test_stopped_instance_gets_no_token_ever(site: VerifierSite, enrolled: Host) -> None:
    async def story() -> None:
        async with enrolled.running():
            instance, key = await start(enrolled)
            site.approve(instance)
            for _ in range(2):
                await enrolled.ask(Stop(instance.instance, "exited"), Done)
            refused = await enrolled.ask(token_ask(instance, key), Refusal)
            assert refused.final
            assert "instance-stopped" in {reason.code for reason in refused.reasons}
            await enrolled.ask(Stop(bytes(16), "exited"), Refusal)
            await enrolled.ask(Stop(instance.instance, "exited"), Done)

    told(story)
    assert [type(event) for event in events(enrolled)[1:]] == [StartEvent, StopEvent]


# --- drift -------------------------------------------------------------------------------------------------------------


def test_changed_prompt_is_drift_for_its_instance_alone(site: VerifierSite, enrolled: Host) -> None:
    enrolled.agent("other", prompt="be kind")

    async def story() -> None:
        async with enrolled.running(), enrolled.line() as watch:
            await exchange(watch, Watch(), Done)
            victim, other = await start(enrolled), await start(enrolled, "other")
            site.approve(victim[0], other[0])
            await enrolled.ask(token_ask(*victim), TokenGiven)
            began = time.monotonic()
            overwrite(Path(victim[0].root) / "prompt" / "prompt.txt", b"be evil")
            drift = await receive(watch, Drift)
            elapsed = time.monotonic() - began

            assert (drift.instance, drift.component, drift.path) == (victim[0].instance, "prompt", "prompt.txt")
            assert (drift.expected, drift.got) == (Digest.of(b"be good"), Digest.of(b"be evil"))
            assert elapsed < 1.5
            refused = await enrolled.ask(token_ask(*victim), Refusal)
            assert refused.final
            assert "instance-drifted" in {reason.code for reason in refused.reasons}
            await enrolled.ask(token_ask(*other), TokenGiven)

    told(story)
    assert [type(event) for event in events(enrolled)[1:]] == [StartEvent, StartEvent, DriftEvent]


def test_clean_source_launches_again_after_drift(site: VerifierSite, enrolled: Host) -> None:
    async def story() -> None:
        async with enrolled.running(), enrolled.line() as watch:
            await exchange(watch, Watch(), Done)
            first = await start(enrolled)
            site.approve(first[0])
            overwrite(Path(first[0].root) / "code" / "main.py", b"import evil\n")
            second = await start(enrolled)
            assert (await receive(watch, Drift)).instance == first[0].instance
            assert second[0].root == first[0].root
            assert (Path(second[0].root) / "code" / "main.py").read_text() == "print('hello')\n"
            await enrolled.ask(token_ask(*second), TokenGiven)
            await enrolled.ask(token_ask(*first), Refusal)

    told(story)
    assert list((enrolled.store / "corrupt").iterdir())


def test_added_file_is_drift(enrolled: Host) -> None:
    async def story() -> None:
        async with enrolled.running(), enrolled.line() as watch:
            await exchange(watch, Watch(), Done)
            instance, _ = await start(enrolled)
            code = Path(instance.root) / "code"
            code.chmod(0o755)
            (code / "json.py").write_text("evil = True\n")
            drift = await receive(watch, Drift)
            assert (drift.component, drift.path, drift.got) == ("code", "json.py", Digest.of(b"evil = True\n"))

    told(story)


def test_drift_while_the_daemon_was_down_is_found_at_its_start(site: VerifierSite, enrolled: Host) -> None:
    async def story() -> None:
        async with enrolled.running():
            instance, key = await start(enrolled)
            site.approve(instance)
            await enrolled.ask(token_ask(instance, key), TokenGiven)
        overwrite(Path(instance.root) / "prompt" / "prompt.txt", b"be evil")
        async with enrolled.running(), enrolled.line() as watch:
            await exchange(watch, Watch(), Done)
            assert (await receive(watch, Drift)).instance == instance.instance
        async with enrolled.running(), enrolled.line() as watch:
            await exchange(watch, Watch(), Done)
            assert (await receive(watch, Drift)).instance == instance.instance  # who was not told then is told now
            await enrolled.ask(token_ask(instance, key), Refusal)

    told(story)


def test_daemon_of_other_code_says_so_and_no_token_follows_until_that_is_approved(site: VerifierSite, enrolled: Host) -> None:
    newer = tuple(ComponentEvent("governance", event.name, Digest.of(b"newer")) for event in GOVERNANCE)

    async def story() -> None:
        async with enrolled.running():
            instance, key = await start(enrolled)
            site.approve(instance)
            await enrolled.ask(token_ask(instance, key), TokenGiven)
        async with enrolled.running(enrolled.daemon(governance=newer)):
            refused = await enrolled.ask(token_ask(instance, key), Refusal)
            assert {reason.code for reason in refused.reasons} == {"governance-mismatch"}
        async with enrolled.running():  # the approved code again: what the other let happen is not undone by it
            await enrolled.ask(token_ask(instance, key), Refusal)
        site.approve_governance([(event.name, event.root) for event in newer])
        async with enrolled.running(enrolled.daemon(governance=newer)):
            await enrolled.ask(token_ask(instance, key), TokenGiven)
        said = [event for event in events(enrolled) if isinstance(event, ComponentEvent)]
        assert said == [*GOVERNANCE, *newer, *GOVERNANCE, *newer]

    told(story)


@pytest.mark.parametrize(
    "log, left", [("", "abc"), ("abc", ""), ("ab", "c"), ("abd", "abc"), ("abcabd", "abc"), ("abdab", "c"), ("abdabc", "")]
)
def test_a_set_is_said_once_and_whole(log: str, left: str) -> None:
    def said(letters: str) -> tuple[ComponentEvent, ...]:
        names = {"d": "c"}  # of the same name as c, with other content
        return tuple(ComponentEvent("governance", names.get(one, one), Digest.of(one.encode())) for one in letters)

    assert not_said(said("abc"), said(log)) == said(left)


def test_changed_source_is_no_drift_and_a_new_launch_measures_it(site: VerifierSite, enrolled: Host) -> None:
    async def story() -> None:
        async with enrolled.running():
            first = await start(enrolled)
            site.approve(first[0])
            enrolled.agent("reporter", prompt="be better")
            second = await start(enrolled)
            await enrolled.ask(token_ask(*first), TokenGiven)
            refused = await enrolled.ask(token_ask(*second), Refusal)
            assert {reason.code for reason in refused.reasons} == {"component-mismatch"}
            assert first[0].root != second[0].root

    told(story)


# --- when others fail --------------------------------------------------------------------------------------------------


def test_verifier_away_is_unreachable_and_back_is_a_token(site: VerifierSite, enrolled: Host) -> None:
    async def story() -> None:
        async with enrolled.running():
            instance, key = await start(enrolled)
            site.approve(instance)
            await enrolled.ask(token_ask(instance, key), TokenGiven)
            await asyncio.to_thread(site.stop)
            await enrolled.ask(token_ask(instance, key), Unreachable)
            await start(enrolled)
            await asyncio.to_thread(site.start)
            await enrolled.ask(token_ask(instance, key), TokenGiven)

    told(story)


def test_tpm_away_is_unreachable_and_reset_begins_a_clean_log(site: VerifierSite, enrolled: Host, soft_tpm: SoftTpm) -> None:
    async def story() -> None:
        async with enrolled.running():
            before = await start(enrolled)
            site.approve(before[0])
            await enrolled.ask(token_ask(*before), TokenGiven)
            soft_tpm.power_off()
            await enrolled.ask(token_ask(*before), Unreachable)
            await enrolled.ask(launch("reporter")[0], Unreachable)
            soft_tpm.power_on()
            await enrolled.ask(token_ask(*before), Unreachable)  # the reset is noticed
            answer = await enrolled.ask(token_ask(*before), Refusal)
            assert [reason.code for reason in answer.reasons] == ["instance-unknown"]
            after = await start(enrolled)
            given = await enrolled.ask(token_ask(*after), TokenGiven)
            assert parse_evidence(given.evidence).log_first == 0

    told(story)
    assert len(list((enrolled.state.log / "archive").iterdir())) == 1
    assert len(events(enrolled)) == 2


def test_drift_while_the_tpm_is_away_reaches_the_log_before_any_token(site: VerifierSite, enrolled: Host) -> None:
    failing = FailingTpm(enrolled.tpm)

    async def story() -> None:
        async with enrolled.running(enrolled.daemon(failing)), enrolled.line() as watch:
            await exchange(watch, Watch(), Done)
            instance, key = await start(enrolled)
            site.approve(instance)
            await enrolled.ask(token_ask(instance, key), TokenGiven)
            failing.away = True
            overwrite(Path(instance.root) / "prompt" / "prompt.txt", b"be evil")
            await receive(watch, Drift)
            failing.away = False
            refused = await enrolled.ask(token_ask(instance, key), Refusal)
            assert "instance-drifted" in {reason.code for reason in refused.reasons}

    told(story)
    assert isinstance(events(enrolled)[-1], DriftEvent)


class FailingTpm(EsapiTpm):
    """The TPM, which does not answer while it is `away`."""

    def __init__(self, inner: EsapiTpm) -> None:
        self.__dict__.update(inner.__dict__)
        self.away = False

    def extend(self, pcr: int, digests: tuple[Digest, ...]) -> None:
        if self.away:
            raise Unavailable("TPM", "away")
        super().extend(pcr, digests)


def test_unused_trees_go_at_the_start_and_hold_up_a_launch_only(enrolled: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    unused, allowed, collect = enrolled.store / "trees" / "ab", threading.Event(), Store.collect

    def slowly(store: Store, used: Iterable[Digest]) -> int:
        assert allowed.wait(10)
        return collect(store, used)

    async def story() -> None:
        monkeypatch.setattr(Store, "collect", slowly)
        daemon = enrolled.daemon()
        unused.mkdir()
        async with enrolled.running(daemon):
            assert (await enrolled.ask(Status(), StatusAnswer)).instances == 0, "answered while the store is collected"
            launched = asyncio.create_task(start(enrolled))
            await asyncio.sleep(0.2)
            assert not launched.done()
            allowed.set()
            await launched
            assert not unused.exists()

    told(story)


def test_second_attestor_of_a_host_does_not_start(enrolled: Host) -> None:
    async def story() -> None:
        async with enrolled.running():
            with pytest.raises(Unavailable, match="another attestor"):
                async with enrolled.running():
                    pass

    told(story)


def test_register_that_another_extended_stops_the_daemon(enrolled: Host) -> None:
    async def story() -> None:
        async with enrolled.running():
            await start(enrolled)
        enrolled.tpm.extend(13, (Digest.of(b"foreign"), Digest.of(b"foreign", "sha384")))
        with pytest.raises(Refused, match="register-unclean"):
            async with enrolled.running():
                pass

    told(story)


def test_daemon_needs_an_enrolment(host: Host) -> None:
    host.state.make()
    with pytest.raises(Refused, match="not-enrolled"):
        read_enrolment(host.state)
