"""One host under load, over a TPM as slow as a real chip: bursts of launches, releases, drift, and no other token lapses (I11)."""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from swtpm import Manufacturer
from tests.scale.site import Alive, Launch, Site, percentile, standing_site

pytestmark = [pytest.mark.swtpm, pytest.mark.cgroup, pytest.mark.usefixtures("cgroup_mount")]

AGENTS = [f"agent-{number}" for number in range(10)]
LAUNCH_P99 = 3.0
"""Seconds from launch to token (issue 2, "Must show" 5)."""


def all_run(launches: list[Launch]) -> None:
    refused = [(one.agent, one.answer) for one in launches if not one.instance]
    assert not refused


def drift(site: Site, instance: bytes, agent: str) -> None:
    """One byte of the agent's prompt changes in the store."""
    prompts = list((site.place / "store" / "trees").glob("*/prompts/system.txt"))
    (prompt,) = [path for path in prompts if path.read_text() == prompt_of(agent, 0)]
    data = bytearray(prompt.read_bytes())
    data[0] ^= 1
    os.chmod(prompt, 0o644)
    prompt.write_bytes(bytes(data))
    deadline = time.monotonic() + 30
    while site.standing(instance) != "killed":
        assert time.monotonic() < deadline, site.standing(instance)
        time.sleep(0.05)


def prompt_of(agent: str, version: int) -> str:
    return f"You are {agent}, version {version}. Be kind.\n"


def lapses(site: Site, drifted: bytes) -> list[dict[str, object]]:
    """Every standing of another instance than the drifted one in which it could not act after it had begun to."""
    return [line for line in site.standings() if line["state"] in ("held", "killed") and line["instance"] != drifted.hex()]


def roll(site: Site, version: int, agents: list[str], each: int) -> list[Launch]:
    """A new prompt for each agent: approved, launched `each` times at once; then as many of its oldest instances end."""
    site.release(*((agent, prompt_of(agent, version)) for agent in agents))
    launches = site.launch(agents * each)
    all_run(launches)
    of_agent = {agent: [one for one in site.instances if one.agent == agent and one.connection is not None] for agent in agents}
    oldest = [one for found in of_agent.values() for one in found[:each]]
    with ThreadPoolExecutor(len(oldest)) as pool:
        list(pool.map(Launch.finish, oldest))
    return launches


def test_a_burst_a_release_and_a_drift_cost_no_other_instance_its_token(manufacturer: Manufacturer) -> None:
    agents = AGENTS[:2]
    with standing_site(manufacturer, token_life=8) as site:
        site.release(*((agent, prompt_of(agent, 0)) for agent in (*agents, "drifter")))
        with Alive(site, 0.3) as alive:
            (drifter,) = site.launch(["drifter"])
            all_run([drifter, *site.launch(agents * 2)])
            roll(site, 1, agents, 1)
            drifter.connection, kept = None, drifter.connection  # what is expected to fall is not looked at
            drift(site, drifter.instance, "drifter")
            time.sleep(4)
            running = [one for one in site.instances if one.connection is not None]
            assert [site.standing(one.instance) for one in running] == ["running"] * len(running)
        if kept is not None:
            kept.close()
        assert len(running) == 4
        assert not alive.seen
        assert not lapses(site, drifter.instance)


@pytest.mark.scale
@pytest.mark.timeout(3600)
def test_fifty_instances_bursts_of_twenty_two_hundred_releases_and_one_drift_in_one_boot(
    manufacturer: Manufacturer, capsys: pytest.CaptureFixture[str]
) -> None:
    with standing_site(manufacturer) as site:
        site.release(*((agent, prompt_of(agent, 0)) for agent in (*AGENTS, "drifter")))
        (drifter,) = site.launch(["drifter"])
        all_run([drifter])
        took: list[float] = []
        with Alive(site) as alive:
            for count in (2, 2, 1):
                launches = site.launch(AGENTS * count)
                all_run(launches)
                took += [one.seconds for one in launches]
            began = time.monotonic()
            for version in range(1, 21):  # 20 rounds of 10 releases, each launched twice: 200 releases in bursts of 20 launches
                took += [one.seconds for one in roll(site, version, AGENTS, 2)]
                if version == 10:
                    drifter.connection, kept = None, drifter.connection
                    drift(site, drifter.instance, "drifter")
                    if kept is not None:
                        kept.close()
            time.sleep(70)  # longer than a token's life: all renew once more
            running = [one for one in site.instances if one.connection is not None]
            states = [site.standing(one.instance) for one in running]
        measured = {
            "launches": len(took),
            "launch_to_token_s": {
                name: round(percentile(took, of), 2) for name, of in (("p50", 50), ("p90", 90), ("p99", 99), ("max", 100))
            },
            "running_at_the_end": states.count("running"),
            "lapsed": len(lapses(site, drifter.instance)),
            "releases_took_s": round(time.monotonic() - began - 70),
            "load_average": os.getloadavg()[0],
        }
        with capsys.disabled():
            print(f"\n  one host: {json.dumps(measured)}")
        assert states == ["running"] * 50
        assert not alive.seen
        assert not lapses(site, drifter.instance)
        assert measured["launches"] == 450
        assert percentile(took, 99) < LAUNCH_P99, f"launch to token: {measured}"
