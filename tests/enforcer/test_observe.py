"""`mode = "observe"`: an agent runs without a token, everything is recorded, and nothing of it is ever a permit."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from enforcer.record import LogReader
from tests.enforcer.host import Host, wait_for
from writ.formats.grants import grant_set
from writ.formats.local import Refusal
from writ.formats.reason import Reason
from writ.formats.record import ActionRecord, OutcomeRecord

pytestmark = pytest.mark.cgroup

ACTS = """
answers = [ask("notes", "read", name="today"), ask("notes", "wipe"), ask("reports", "x"), ask("none", "x")]
print(json.dumps([[a["ok"], sorted(a)] for a in answers]))
print(os.environ["HTTP_PROXY"])
"""


@pytest.fixture
def host(idle_host: Host) -> Host:
    """Its daemon is started by `observed`."""
    return idle_host


def observed(host: Host, body: str = ACTS, *, allowed: bool = True) -> None:
    """A daemon that allows observing or not, and an agent `a` whose manifest asks for it, with a grant for one method."""
    host.write_config(observe=allowed, services=("reports http://127.0.0.1:9/v1",))
    host.serve()
    host.agent("a", body)
    grants = grant_set([("tool.call", "mcp:notes/read")])
    host.attestor.agents["a"] = replace(host.attestor.agents["a"], mode="observe", grants=grants)


def test_observed_agent_acts_and_each_record_says_what_would_have_refused_it(host: Host) -> None:
    observed(host)
    status, out, err = host.finish(host.run("a"))
    assert (status, err) == (0, "")
    answers, proxy = out.splitlines()
    assert [ok for ok, _ in json.loads(answers)] == [True, False, False, False]
    assert "failure" in json.loads(answers)[2][1], "a relying service takes a token, and there is none"
    assert proxy == "http://127.0.0.1:3128"

    instance = host.instance("a")
    records = [entry.record for entry in LogReader(host.config.instance_dir(instance), instance).entries()]
    actions = [record for record in records if isinstance(record, ActionRecord)]
    assert [[r.code for r in record.reasons] for record in actions] == [
        ["observed"], ["observed", "grant-missing"], ["observed", "grant-missing"], ["unknown-tool"],
    ]  # fmt: skip
    assert {(record.permit, record.token, record.bundle) for record in actions} == {(False, None, None)}
    assert [record.outcome for record in records if isinstance(record, OutcomeRecord)] == ["done", "failed", "failed"]
    assert host.attestor.given == [], "no token was ever given"
    assert host.attestor.instances[instance].log[0] == len(records), "what was done is carried to the verifier"

    why = host.show("why", instance.hex()[:8])
    assert (why["mode"], why["agent_did"]) == ("observe", {"permitted": 0, "refused": 1, "observed": 3})
    shown = host.show("why", f"{instance.hex()[:8]}-{actions[1].sequence}")
    assert (shown["permit"], shown["observed"], [r["code"] for r in shown["reasons"]]) == (False, True, ["observed", "grant-missing"])


def test_status_calls_an_observed_agent_so(host: Host) -> None:
    observed(host, "time.sleep(30)")
    host.run("a")
    instance = host.instance("a")
    standing = host.wait_state(instance, "observed")
    assert (standing["mode"], [r["code"] for r in standing["reasons"]]) == ("observe", ["observed"])
    (row,) = [row for row in host.show("status")["instances"] if row["instance"] == instance.hex()]
    assert (row["state"], row["mode"]) == ("observed", "observe")
    asked = len(host.attestor.asks)
    host.attestor.drift(instance)
    host.wait_state(instance, "killed")
    assert asked == 1, "the verifier is asked once"


def test_host_that_does_not_allow_it_starts_none(host: Host) -> None:
    observed(host, allowed=False)
    status, out, err = host.finish(host.run("a"))
    assert (status, out) == (1, "")
    assert "observe-refused" in err


def test_enforced_agent_is_not_observed_for_being_refused(host: Host) -> None:
    """`observe = true` allows what a manifest asks for, and changes nothing for any other agent."""
    observed(host)
    host.attestor.agents["a"] = replace(host.attestor.agents["a"], mode="enforce")
    host.attestor.refusal = Refusal((Reason("component-mismatch", "x", "a", "b"),), final=False)
    status, out, err = host.finish(host.run("a"))
    assert (status, out) == (1, "")
    assert "component-mismatch" in err


def test_token_for_an_observed_agent_starts_nothing(host: Host) -> None:
    """A verifier that gives one is not what it should be."""
    observed(host)
    host.attestor.generous = True
    status, out, err = host.finish(host.run("a"))
    assert (status, out) == (1, "")
    assert "none, for an observed agent" in err


def test_daemons_death_ends_an_observed_agent(host: Host) -> None:
    """Only a token thaws, and it gets none."""
    observed(host, 'print("up", flush=True); time.sleep(60)')
    run = host.run("a")
    assert run.stdout is not None
    assert run.stdout.readline() == b"up\n"
    instance = host.instance("a")
    host.kill_daemon()
    host.wait_state(instance, "killed")
    assert wait_for(lambda: run.poll() is not None)
