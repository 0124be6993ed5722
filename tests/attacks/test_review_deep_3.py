"""Deep evidence, reviewed from outside a third time: names that outlive their versions, PCRs that are pinned, keys that are learnt."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import pytest

from tests.attacks.test_review_deep_2 import digest_by_id
from tests.signers import new_signer
from tests.verifier.test_references import People, acts, approve, governance, import_, listed, publish, role
from tests.world.ima_logs import certificate, signed
from tests.world.machine import Machine
from tests.world.scene import DEMO, GOVERNED, NAMESPACE, NOW, Scene, reference
from tests.world.verifier import RunningVerifier
from writ.formats import ima_signature
from writ.formats.corim import Corim
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Refused
from writ.formats.ima_rules import ImaRules
from writ.verdict import reference as references_of

NEVER = 0
"""The end of a version that was never valid, as those have it that keep names."""


def files(name: str, *paths: str, valid_until: int | None = None) -> Corim:
    return Corim(name, "default", "files/os", tuple((path, Digest.of(name.encode())) for path in sorted(paths)), valid_until=valid_until)


# --- names that outlive their versions ------------------------------------------------------------------------------------------


def test_nobody_imports_what_nobody_can_retire(verifier: RunningVerifier) -> None:
    """A CoRIM of files whose validity ended at 0 is taken for one of the verifier's own that keep names: whoever imports one, alone, pins
    any name for ever. ADR 0016 has them "made and signed by the verifier" of versions that were in force."""
    with pytest.raises((Refused, FormatError)):
        import_(verifier.client, files("never", "/usr/bin/bash", valid_until=NEVER))
    assert listed(verifier.client) == []


def test_publisher_pins_no_name_for_ever(verifier: RunningVerifier, tmp_path: Path) -> None:
    """The same by a publisher's signature: an end at 0 is "no later end", and no operator can take it back."""
    people, key = People(verifier, tmp_path), new_signer()
    import_(verifier.client, files("os", "/bin/sh"))
    allowed = role(key, environments=["files/os"], components=["*"])
    verifier.client.post("/v1/delegations", {"roles": [allowed]})
    with contextlib.suppress(Refused, FormatError):
        publish(people("team", role="publisher"), files("never", "/usr/bin/bash", valid_until=NEVER), key)
    for row in listed(verifier.client):
        if row["id"] == "never":
            verifier.client.post("/v1/retirements", {"digests": [row["digest"]]})


def test_i11_names_that_nobody_retired_make_no_set_too_large(verifier: RunningVerifier, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bounds of a set are not asked where only such CoRIMs come: one person imports more than a set may be, then no evidence of any
    host of the namespace can be judged, and nothing takes them out."""
    monkeypatch.setattr(references_of, "MOST_CORIMS", 8)
    host = verifier.host("h1")
    host.launch("one")
    verifier.approve(host)
    with contextlib.suppress(Refused, FormatError):
        import_(verifier.client, *(files(f"never-{number}", f"/usr/bin/{number}", valid_until=NEVER) for number in range(9)))
    assert host.attest("one").answers[0].token is not None


def test_i11_export_with_names_imported_again_with_replace_leaves_a_set_that_stands(verifier: RunningVerifier) -> None:
    """`export`, change a version of files, `import --replace` the folder: the CoRIM that kept names goes into a larger one and is listed in
    the set all the same. The signed act names a set that was never in force, and what lists the real one, which decisions name from then
    on, is nowhere in the ledger: no auditor gets it."""
    import_(verifier.client, files("os-1", "/bin/sh"), files("os-2", "/bin/sh", "/bin/ls"))
    verifier.client.post("/v1/retirements", {"digests": [digest_by_id(verifier, "os-1")]})
    keeper = Corim("retired-0", "default", "files/retired", (("/bin/sh", Digest("sha256", bytes(32))),), valid_until=NEVER)
    assert "retired-0" in {row["id"] for row in listed(verifier.client)}
    import_(verifier.client, keeper, files("os-3", "/bin/sh"), replace=True)
    names = references_of.list_names(Digest.parse(row["digest"]).value for row in listed(verifier.client))
    assert Digest.of(names) in {act.detail for act in acts(verifier)}


def test_import_with_replace_that_holds_kept_names_can_be_approved(verifier: RunningVerifier, tmp_path: Path) -> None:
    """The exported folder with new governance, which takes two people: the proposal `keeps` the CoRIM of names, which counts as no version
    when the last person approves, so that it is refused for ever with `conflict`."""
    people = People(verifier, tmp_path)
    verifier.publish(approvals={"governance": 2})
    import_(verifier.client, files("os-1", "/bin/sh"), files("os-2", "/bin/sh"))
    verifier.client.post("/v1/retirements", {"digests": [digest_by_id(verifier, "os-1")]})
    keeper = Corim("retired-0", "default", "files/retired", (("/bin/sh", Digest("sha256", bytes(32))),), valid_until=NEVER)
    proposal = import_(people("alice"), keeper, files("os-2", "/bin/sh"), governance(), replace=True)["proposal"]
    assert approve(people("bob"), proposal)["state"] == "in force"


# --- PCRs -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("environment", ["boot", "firmware", "secure-boot"])
def test_i3_i6_pinned_pcr_that_runs_out_ends_no_refusal(environment: str) -> None:
    """PCRs of a boot are compared without its log, `reference-expired` was not: a host that sends no log and is refused for its PCR 7 is
    let in when the version that refused it ran out."""
    pinned = Corim("pin", NAMESPACE, environment, (("x", Digest.of(b"x")),), ((7, Digest.of(b"approved")),), valid_until=NOW + 100)
    scene = Scene(references=(GOVERNED, reference(), pinned))
    scene.launch("one")
    assert scene.attest("one").tokens[0].claims is None
    scene.now += 101
    assert scene.attest("one").tokens[0].claims is None, "another PCR 7 passes as soon as nothing is approved any more"


# --- keys -----------------------------------------------------------------------------------------------------------------------


def test_i11_key_that_was_measured_often_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """With `learn_keys` each entry of the same certificate adds its key once more, and each signature that does not hold is tried against
    all of them: a list of one host costs the square of its length."""
    tried: list[str] = []
    verifies = ima_signature._verifies  # noqa: SLF001 - what is counted is the costly step itself

    def counted(key: ima_signature.Key, signature: bytes, digest: bytes, algorithm: str) -> bool:
        tried.append(algorithm)
        return verifies(key, signature, digest, algorithm)

    monkeypatch.setattr(ima_signature, "_verifies", counted)
    machine = Machine(settings=replace(DEMO, ima=ImaRules(learn_keys=True)))
    vendor = certificate("vendor")
    for number in range(20):
        machine.kernel.measure(".ima", Digest.of(b"%d" % number), template="ima-buf", buf=vendor)
    for number in range(20):
        digest = Digest.of(b"file %d" % number)
        machine.kernel.measure(f"/bin/{number}", digest, template="ima-sig", sig=signed(Digest.of(b"another"), "vendor"))
    machine.attest()
    assert 0 < len(tried) <= 40
