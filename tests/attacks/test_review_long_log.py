"""A boot with thousands of launches: its log fits into no evidence any more, and a host that has to send it in full needs a reboot."""

from __future__ import annotations

from pathlib import Path

import pytest

from attestor import evidence
from swtpm import SoftTpm
from tests.attestor.site import VerifierSite, host_with
from tests.attestor.test_evidence import Bench
from writ.formats.digest import Digest
from writ.formats.errors import Unavailable
from writ.formats.eventlog.runtime import StartEvent, command_digest


@pytest.mark.swtpm
def test_i11_one_lost_answer_needs_no_reboot_however_long_the_log(
    tmp_path: Path, soft_tpm: SoftTpm, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = VerifierSite(tmp_path / "verifier")
    site.publish_policy()
    site.approve_governance()
    site.trust(soft_tpm)
    with host_with(tmp_path / "host", soft_tpm) as host:
        host.agent("reporter")
        host.enrol(site)
        bench = Bench(host)
        try:
            bench.attest()
            short = len(bench.line.sent[-1])
            monkeypatch.setattr(evidence, "_MAX_EVIDENCE", short + 1500)  # the real bound, after as many launches as it holds
            for number in range(12):
                start = StartEvent(
                    number.to_bytes(16, "big"), "spiffe://example.org/demo/agent/b", Digest.of(b"r"), command_digest(["x"]),
                    number.to_bytes(32, "big"), None, (),
                )  # fmt: skip
                bench.log.append(start)
                if number < 11:
                    bench.attest()  # what is new of it fits every time
            bench.line.lose = 2
            with pytest.raises(Unavailable, match="lost"):
                bench.attest()
            for _ in range(3):
                try:
                    bench.attest()
                    break
                except Unavailable as error:
                    assert "reboot" in str(error)  # noqa: PT017
            else:
                pytest.fail("no attestation succeeds any more")
        finally:
            bench.close()
    site.stop()
