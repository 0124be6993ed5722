"""`auditor report`: one page of all that was judged, findings first, in which nobody else's text is more than text."""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b64decode
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from auditor.__main__ import main
from auditor.report.content import Host
from auditor.report.page import POLICY, STYLE, bars, page, table, tag
from tests.auditor.story import Site, leave
from tests.world.recorded import record
from tests.world.scene import ENGINE_ID, NOW, sign_entry, sixteen
from tests.world.translog import WorldLog, put
from writ.formats.archive import Archive, InstanceLog, encode_archive, parse_archive
from writ.formats.cose import parse_sign1
from writ.formats.decision import AttestDecision, Genesis, OperatorAct, parse_entry
from writ.formats.digest import Digest
from writ.formats.reason import NO_TOKEN
from writ.formats.record import ActionRecord, Opening, encode_record, parse_log
from writ.formats.trust import encode_trust
from writ.service.engine_id import installed_engine

HOSTILE = "files/<script>document.title='taken'</script>"
MARKUP = '</td><img src="x" onerror="document.title=1">&amp;\'"\x1b[2J'


class Text(HTMLParser):
    """Elements and texts of a page; an attribute that acts, an address or a script is not there."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.names: list[str] = []
        self.texts: list[str] = []
        self.attributes: dict[str, str] = {}
        self.feed(data.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """See HTMLParser."""
        self.names.append(tag)
        self.attributes |= {name: value or "" for name, value in attrs}

    def handle_data(self, data: str) -> None:
        """See HTMLParser."""
        self.texts.append(data)


def site() -> Site:
    """Two instances, an hour without a word between, a refusal of a hostile name."""
    made = Site()
    for name in ("one", "two"):
        made.scene.launch(name)
    made.renew("one", "two")
    made.act("one", "files/a", HOSTILE)
    made.renew("one")
    token, claims = made.last["one"]
    made.scene.act("one", token, claims, resource="mail/<b>delete</b>", permit=False)
    made.scene.now += 4000
    made.renew("one", "two")
    return made


def reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], made: Site, *more: str, archive: Archive | None = None
) -> tuple[int, dict[str, object], Text]:  # fmt: skip
    """Exit status, answer and page."""
    leave(made, tmp_path, archive=archive)
    capsys.readouterr()
    code = main(
        ["report", str(tmp_path / "enforcer"), "--log", str(tmp_path / "log"), "--trust", str(tmp_path / "trust"),
         "--output", str(tmp_path / "page.html"), "--json", *more]
    )  # fmt: skip
    return code, json.loads(capsys.readouterr().out), Text((tmp_path / "page.html").read_bytes())


def after(text: Text, head: str) -> list[str]:
    """The texts behind a heading, up to the next but one."""
    at = text.texts.index(head)
    return text.texts[at + 1 : at + 200]


def test_what_was_judged_and_what_could_not_be_is_on_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, answer, text = reported(tmp_path, capsys, site(), "--silence", "6000")
    assert (code, answer["verdict"], answer["findings"]) == (3, "incomplete", 0), "this archive lacks what a replay takes"
    said = " ".join(text.texts)
    assert "incomplete: 0 findings" in said
    for step in ("tiles and entries: ", "decisions: entry 0", "lineage: ", "records: against"):
        assert step in said
    assert "host-1" in after(text, "Hosts")
    assert "spiffe://example.org/billing/agent/reporter" in after(text, "Agents")
    assert "mail/<b>delete</b>" in after(text, "Refusals")
    assert "incomplete" in " ".join(after(text, "Not at hand"))
    assert any(one.startswith("auditor log verify ") for one in text.texts), "each section says how to look again"
    assert any(one.startswith("auditor replay ") for one in text.texts)


def test_what_no_checkpoint_carried_stands_in_no_table_and_a_log_that_nobody_named_is_not_at_hand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = site()
    known, invented = made.archive(), sixteen("invented")
    leaves = [encode_record(Opening(0, NOW, invented, "spiffe://example.org/treasury/agent/payments", ENGINE_ID))]
    act = ActionRecord(1, NOW, 0, "http.post", "https://a.example/", bytes(32), None, None, bytes(32), (NO_TOKEN,), None, "socket")
    leaves.append(encode_record(act))
    logs = tuple(sorted((*known.logs, InstanceLog(invented, tuple(leaves))), key=lambda one: one.instance))
    code, answer, text = reported(tmp_path, capsys, made, "--silence", "6000", archive=replace(known, logs=logs))
    assert (code, answer["findings"]) == (3, 0)
    assert "expected logs of instances that the verifier's log names" in " ".join(after(text, "Not at hand"))
    assert not [one for one in text.texts if "agent/payments" in one or one == "http.post"]


def test_findings_come_first_with_what_to_do_and_a_silence_is_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = site()
    leaves = made.logs()[sixteen("one")]
    cut = made.archive({**made.logs(), sixteen("one"): leaves[:2]})
    code, answer, text = reported(tmp_path, capsys, made, archive=cut)
    assert (code, answer["verdict"]) == (1, "refused")
    reasons = answer["reasons"]
    assert isinstance(reasons, list)
    assert {one["code"] for one in reasons} == {"log-silent", "action-log-cut"}
    assert text.texts.index("Findings") < text.texts.index("What was verified") < text.texts.index("Hosts")
    assert {"log-silent", "action-log-cut"} <= set(after(text, "Findings"))
    assert "host-1: 1 gaps of more than 3600 s" in text.texts


def test_two_histories_are_a_finding_and_nothing_is_merged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = site()
    leave(made, tmp_path)
    log = made.logs()[sixteen("one")]
    other = made.archive({sixteen("one"): [log[0], *log[2:]]})
    (tmp_path / "other").write_bytes(encode_archive(other))
    code = main(
        ["report", str(tmp_path / "enforcer"), str(tmp_path / "other"), "--log", str(tmp_path / "log"), "--trust", str(tmp_path / "trust"),
         "--output", str(tmp_path / "page.html"), "--json"]
    )  # fmt: skip
    assert code == 1
    assert "action-log-forked" in {one["code"] for one in json.loads(capsys.readouterr().out)["reasons"]}


def test_no_text_of_anybody_else_is_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = site()
    made.entries.append(
        OperatorAct(made.scene.engine.digest, made.scene.now + 1, "billing", "<i>root</i>", "token-revoke", MARKUP[:40], None)
    )
    _, _, text = reported(tmp_path, capsys, made, "--silence", "5000")
    assert not {"script", "img", "b", "i", "a", "link", "iframe", "object", "form"} & set(text.names)
    assert not [name for name in text.attributes if name.startswith("on") or name in ("href", "src", "style")]


def test_every_text_is_escaped_in_its_place() -> None:
    made = page(MARKUP, [tag("p", MARKUP, title=MARKUP), table(("a",), [(MARKUP,)], "none"), bars([(0, 1)], 0, 2, MARKUP)])
    text = Text(made)
    assert "img" not in text.names
    spelt = MARKUP.replace("\x1b", "\\x1b")
    assert text.texts.count(spelt) == 4, "title, paragraph, cell, and the title of the line"
    assert text.attributes["title"] == text.attributes["aria-label"] == spelt
    assert b"\x1b" not in made


def test_the_policy_lets_one_style_be_and_nothing_else() -> None:
    text = Text(page("x", []))
    assert text.attributes["content"] in (POLICY, "width=device-width")
    assert POLICY.startswith("default-src 'none'; style-src 'sha256-")
    named = re.search(r"'sha256-([^']+)'", POLICY)
    assert named is not None
    assert b64decode(named[1]) == hashlib.sha256(STYLE.encode()).digest()
    assert f"<style>{STYLE}</style>".encode() in page("x", [])
    assert page("x", []).index(b"Content-Security-Policy") < page("x", []).index(b"<style>")
    assert b"unsafe" not in page("x", [])


def test_an_empty_table_is_a_sentence_and_gaps_lie_between_spans() -> None:
    assert tag("p", "none", class_="none") == table(("a",), [], "none")
    host = Host("billing", times=[100, 130, 160, 900, 930])
    assert host.spans(60) == [(100, 160), (900, 930)]
    assert host.spans(1000) == [(100, 930)]
    drawn = bars(host.spans(60), 100, 1100, "x").text
    assert '<rect x="0.00" y="0" width="60.00"' in drawn
    assert '<rect x="800.00" y="0" width="30.00"' in drawn


def _placed(signed: bytes) -> tuple[int, int]:
    """Time, and within a second what carried less of an action log first."""
    entry = parse_entry(parse_sign1(signed).payload or b"")
    return entry.decided_at, sum(one.log_size for one in entry.outcomes) if isinstance(entry, AttestDecision) else 0


def whole(tmp_path: Path) -> list[str]:
    """A site that decided by the engine that runs here, with all that its decisions were made of; the arguments of its report."""
    told = record(1, installed_engine(), 2)
    assert told.trust is not None
    entries = sorted((_placed(one), one) for one in told.entries)
    log = WorldLog([b"", *(signed for _, signed in entries)])
    first = entries[0][0][0]
    log.entries[0] = sign_entry(Genesis(installed_engine(), first, told.trust.issuer, told.trust.domain, log.origin, log.key.public))
    log.write(tmp_path / "log")
    put(tmp_path / "trust", encode_trust(replace(told.trust, log_keys=(log.note_key,))))
    put(tmp_path / "all", encode_archive(told.verifier().merged(told.enforcer())))
    files = ["--log", str(tmp_path / "log"), "--trust", str(tmp_path / "trust"), "--output", str(tmp_path / "page.html")]
    return ["report", str(tmp_path / "all"), *files, "--silence", "100000"]


def test_a_site_of_which_all_is_at_hand_is_accepted_and_what_was_erased_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = whole(tmp_path)
    assert main(arguments) == 0, capsys.readouterr()
    assert capsys.readouterr().out.startswith("accepted: 0 findings")
    text = Text((tmp_path / "page.html").read_bytes())
    assert "Nothing at hand was erased." in text.texts
    assert "attestor-not-rooted" in after(text, "Exceptions")

    archive = parse_archive((tmp_path / "all").read_bytes())
    (log,) = archive.logs
    action = next(one for one in parse_log(log.leaves) if isinstance(one, ActionRecord) and one.permit)
    erased = tuple(one for one in archive.objects if Digest.of(one).value != action.context)
    put(tmp_path / "all", encode_archive(replace(archive, objects=erased)))
    assert main(arguments) == 0
    text = Text((tmp_path / "page.html").read_bytes())
    assert any(f"{log.instance.hex()}-{action.sequence} " in one for one in after(text, "Erased"))


def test_a_decision_that_comes_out_otherwise_is_a_finding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = whole(tmp_path)
    archive = parse_archive((tmp_path / "all").read_bytes())
    (log,) = archive.logs
    forged = InstanceLog(sixteen("other"), log.leaves)
    put(tmp_path / "all", encode_archive(replace(archive, logs=tuple(sorted((log, forged), key=lambda one: one.instance)))))
    assert main([*arguments, "--json"]) == 1
    assert "digest-mismatch" in {one["code"] for one in json.loads(capsys.readouterr().out)["reasons"]}


def test_what_stands_in_the_log_and_was_not_handed_over_is_not_at_hand(tmp_path: Path) -> None:
    arguments = whole(tmp_path)
    assert main(arguments) == 0
    archive = parse_archive((tmp_path / "all").read_bytes())
    for kept, lacking in ((archive.entries[1:], 1), ((), len(archive.entries))):
        put(tmp_path / "all", encode_archive(replace(archive, entries=kept)))
        assert main(arguments) == 3
        page = " ".join(Text((tmp_path / "page.html").read_bytes()).texts)
        assert f"{lacking} entries of the log are in no archive" in page
        assert ("none came out identical" in page) is (not kept)
