"""Root on the agent host drops records: after a checkpoint was carried, after an anchor, before either; and plays with TPM and attestor.

A software TPM, an attestor, a verifier and the enforcer's log, as they are. Each is found by a finding of its own; the window is shown too.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from enforcer.renewal import Never, NotNow
from swtpm import SoftTpm
from tests.attestor.conftest import enrolled, host, site
from tests.attestor.site import Host, VerifierSite
from tests.enforcer.anchored import Anchored, serving
from writ.formats.digest import Digest
from writ.verdict.anchor_audit import replay_anchors

__all__ = ["enrolled", "host", "site"]
PCR = 15


@pytest.fixture
def story(tmp_path: Path, site: VerifierSite, enrolled: Host) -> Iterator[Anchored]:
    """An instance with a token and four actions, carried; the verifier knows the register of anchors."""
    enrolled.anchor_pcr = PCR
    with serving(enrolled):
        made = Anchored(tmp_path / "instance", site, enrolled)
        made.act(4)
        assert made.renewed()
        yield made
        made.log.close()


def test_honest_log_is_renewed_and_its_anchors_replay_from_the_public_log(story: Anchored) -> None:
    for _ in range(3):
        story.act(2)
        story.anchor()
        story.act(1)
        story.anchor()
        story.act(1)
        assert story.renewed()
    decisions = story.decisions()
    assert replay_anchors(decisions) == ()
    shown = [one.anchors for one in decisions if one.anchors is not None]
    assert shown[-1].register == story.host.tpm.read("sha256").get(PCR)
    assert [one.size for one in story.logged().anchored] == [7, 8, 11, 12, 15, 16]


def test_record_dropped_after_its_checkpoint_was_carried_is_found(story: Anchored) -> None:
    story.act(2)
    assert story.renewed()
    story.cut(6)
    story.act(3)
    kind, codes = story.refused()
    assert (kind, codes) == (Never, {"action-log-inconsistent"})


def test_record_dropped_after_its_anchor_and_before_the_next_renewal_is_found_by_its_own_finding(story: Anchored) -> None:
    story.act(2)
    story.anchor()
    story.cut(5)
    story.act(5)
    assert story.refused() == (Never, {"anchor-inconsistent"})
    assert {reason.code for reason in story.logged().reasons} == {"action-log-forked"}, "in the public log, for ever"
    assert story.refused()[0] is Never


def test_log_cut_to_less_than_was_anchored_is_found_by_the_enforcer_itself(story: Anchored) -> None:
    story.act(2)
    story.anchor()
    story.cut(5)
    assert story.refused() == (Never, {"anchor-inconsistent"})


def test_record_dropped_before_either_is_the_window(story: Anchored) -> None:
    """docs/threat-model.md states it: what root drops before it is anchored or carried is not missed."""
    story.act(1)
    story.anchor()
    story.act(2)
    story.cut(6)
    story.act(1)
    assert story.renewed()


def test_without_anchors_the_window_reaches_to_the_next_renewal(story: Anchored) -> None:
    story.act(2)
    story.cut(5)
    story.act(1)
    assert story.renewed()


def test_anchors_that_root_keeps_from_the_verifier_show_in_the_register(
    tmp_path: Path, site: VerifierSite, enrolled: Host
) -> None:  # fmt: skip
    enrolled.anchor_pcr = PCR
    with serving(enrolled):
        made = Anchored(tmp_path / "instance", site, enrolled)
        made.act(4)
        assert made.renewed()
        made.act(1)
        made.anchor()
    enrolled.anchor_pcr = None
    with serving(enrolled):
        made.cut(5)
        made.act(3)
        kind, codes = made.refused()
        assert (kind, codes) == (NotNow, {"anchor-register-mismatch"})
    made.log.close()


def test_file_of_anchors_that_root_removes_is_missed(tmp_path: Path, site: VerifierSite, enrolled: Host) -> None:
    enrolled.anchor_pcr = PCR
    with serving(enrolled):
        made = Anchored(tmp_path / "instance", site, enrolled)
        made.act(4)
        assert made.renewed()
        made.act(1)
        made.anchor()
    (enrolled.state.log / "anchors.cbor").unlink()
    with serving(enrolled):
        assert made.refused() == (NotNow, {"anchor-base"})
    made.log.close()


def test_register_that_root_extends_itself_is_refused(story: Anchored) -> None:
    story.host.tpm.extend(PCR, tuple(Digest.of(b"root", bank) for bank in ("sha256", "sha384")))
    assert story.refused() == (NotNow, {"anchor-register-mismatch"})


def test_reset_of_the_tpm_between_anchors_ends_every_instance_and_is_named_in_the_log(
    tmp_path: Path, story: Anchored, soft_tpm: SoftTpm
) -> None:
    story.act(1)
    story.anchor()
    soft_tpm.reset()
    assert story.refused()[1] <= {"unavailable", "instance-unknown"}, "a clean log begins"
    assert "instance-unknown" in story.refused()[1]
    other = Anchored(tmp_path / "other", story.site, story.host)
    other.act(2)
    assert other.renewed()
    other.act(2)
    other.anchor()
    assert other.renewed()
    decisions = other.decisions()
    assert [reason.code for reason in replay_anchors(decisions)] == ["anchor-reset"]
    assert story.logged().anchored == [], "the anchor that no quote showed is lost with the boot"
    other.log.close()


def test_takeover_by_code_that_knows_nothing_of_its_anchors_is_no_alarm(story: Anchored) -> None:
    story.act(2)
    story.anchor()
    story.act(1)
    carried = story.renewal.carried
    story.log.close()
    story.open(carried)
    assert story.renewed()
