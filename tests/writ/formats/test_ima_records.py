"""Rules and state of IMA: one spelling, and rules that no host can turn into endless work."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest

from tests.parsers import assert_parser_is_total
from tests.world.ima_logs import certificate
from writ.formats.digest import Digest
from writ.formats.errors import FormatError
from writ.formats.ima_rules import ImaRules, is_safe
from writ.formats.ima_signature import keys_of, parse_file_signature
from writ.formats.ima_state import MAX_REASONS, ImaState, ImaVerdict
from writ.formats.reason import Reason
from writ.formats.strict import decode_cbor, encode_cbor

RULES = ImaRules(("/tmp/.*", "/var/log/[^/]+"), "label", tuple(sorted((certificate("one"), certificate("two")))), True)
REASON = Reason("file-unknown", "ima./bin/b", "a reference value", "sha256:ab")
A, B = Digest.of(b"a"), Digest.of(b"b")
VERDICT = ImaVerdict(A, B, (REASON,), 1)
STATE = ImaState("sha256", 3, bytes(32), 1, str(A), (certificate("one"),), (("/bin/a", str(A)),), VERDICT)


def test_records_round_trip_and_their_readers_are_total() -> None:
    rules = encode_cbor(RULES.to_cbor())
    assert ImaRules.from_cbor(decode_cbor(rules, "rules")) == RULES
    assert ImaState.from_cbor(STATE.to_cbor()) == STATE
    assert_parser_is_total(lambda data: ImaRules.from_cbor(decode_cbor(data, "rules")), rules, flips=300)
    assert_parser_is_total(lambda data: ImaState.from_cbor(decode_cbor(data, "state")), encode_cbor(STATE.to_cbor()), flips=300)
    assert_parser_is_total(parse_file_signature, b"\x03\x02\x04keyi\0\x02ab", flips=300)


def changed(**fields: Any) -> ImaState:
    return ImaState.from_cbor({**STATE.to_cbor(), **fields})


@pytest.mark.parametrize(
    "fields",
    [
        {"bank": "md5"}, {"register": bytes(20)}, {"entries": 0}, {"entries": 400_001}, {"violations": 4}, {"keys": [b"b", b"a"]},
        {"keys": ["text"]}, {"keys": [bytes(70_000)]}, {"count": 0}, {"count": 1, "reasons": []}, {"seen": [["a"]]}, {"seen": [1]},
        {"seen": [["b", "x"], ["a", "x"]]},
        {"other": 1}, {"reasons": [REASON.to_cbor()] * 2, "count": 2}, {"references": b"short"},
        {"reasons": [Reason("file-unknown", f"ima.{n}", "", "").to_cbor() for n in ("b", "a")], "count": 2},
        {"count": 65, "reasons": [Reason("file-unknown", f"ima.{n:03}", "", "").to_cbor() for n in range(MAX_REASONS + 1)]},
    ],
)  # fmt: skip
def test_state_outside_its_bounds_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        changed(**fields)


def test_more_entries_than_reasons_are_counted() -> None:
    assert changed(count=9).verdict.count == 9
    assert changed(count=0, reasons=[]).verdict.reasons == ()


@pytest.mark.parametrize(
    "fields",
    [
        {"violations": "ignore"}, {"exclude": ["/b", "/a"]}, {"exclude": ["/a", "/a"]}, {"exclude": [""]}, {"exclude": ["/" + "a" * 256]},
        {"exclude": ["/é"]}, {"exclude": ["/(a+)+"]}, {"exclude": [b"/a"]}, {"keyrings": [b"no certificate"]}, {"keyrings": ["text"]},
        {"keyrings": sorted([certificate("one"), certificate("two")], reverse=True)}, {"learn_keys": 1}, {"other": 1},
        {"exclude": sorted(f"/{n}" for n in range(129))}, {"keyrings": sorted(certificate(str(n)) for n in range(65))},
    ],
)  # fmt: skip
def test_rules_outside_their_bounds_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        ImaRules.from_cbor({**RULES.to_cbor(), **fields})


def test_rules_are_named_by_all_they_say() -> None:
    others = [
        ImaRules(), ImaRules(exclude=("/a",)), ImaRules(violations="label"), ImaRules(keyrings=(certificate("one"),)),
        ImaRules(learn_keys=True),
    ]  # fmt: skip
    assert len({rules.digest for rules in others}) == len(others)
    assert ImaRules().digest == ImaRules().digest


SAFE = [
    r"/var/log/.*", r".*\.pyc", r"/home/[^/]+/\.cache/.*", r"/tmp/[a-z0-9]+", r"/a\.(py|pyc|pyo)", r"/a?b?/.*\.so(\.1|)", r"/x/[^/]*",
    r"/[^/]+/[^/]+/[^/]+", r"/a\[b\]", r"/[]a]+", r"/(?:a|b)/.*", r"/(a|b|c|d)(e|f|g|h)",
]  # fmt: skip
UNSAFE = [
    r"(a+)+", r"(a|aa)+b", r"/.*/.*", r"/.*[^/]+/", r"/.*?x", r"/a{2}", r"(.)\1", r"(?=a)a", r"/\w+", r"/[a", r"/(a|b", r"^/a$", r"a**",
    r"/(a*|b)", r"/a?b?c?d?e?", r"/(a|b)(a|b)(a|b)(a|b)(a|b)", r"/[z-a]", r"/(a|b){9}", r"/[^/]+x[^/]+y", "/a\\",
]  # fmt: skip


@pytest.mark.parametrize("pattern", SAFE)
def test_pattern_of_the_subset_is_taken_and_soon_decided(pattern: str) -> None:
    assert is_safe(pattern)
    compiled = re.compile(pattern.encode())
    started = time.process_time()
    for worst in (b"/" * 4096, b"/a" * 2048, b"/var/log/" + b"x" * 4000 + b"\n", b"a" * 4096):
        compiled.fullmatch(worst)
    assert time.process_time() - started < 0.5


@pytest.mark.parametrize("pattern", UNSAFE)
def test_pattern_that_may_backtrack_is_refused(pattern: str) -> None:
    assert not is_safe(pattern)


def test_keyring_of_anything_but_certificates_is_refused() -> None:
    with pytest.raises(FormatError, match="DER certificate"):
        keys_of((b"x",))


def test_certificate_whose_key_cannot_sign_files_gives_no_key() -> None:
    assert keys_of((certificate("short", "rsa1024"),)) == {}
    found = keys_of((certificate("one"), certificate("long", "rsa")))
    assert len(found) == 6, "key id, key identifier, issuer and serial number of each"
