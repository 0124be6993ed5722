"""What becomes of every row and every file under `audit/`: the test that judges it, or the reason why nothing does."""

from __future__ import annotations

import fnmatch
import re
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]

MERKLE: Final = "tests/writ/formats/tlog/test_merkle.py"
LOGS: Final = "tests/vectors/test_logs.py"
RECEIPTS: Final = "tests/vectors/test_receipts.py"
SIGNATURES: Final = "tests/vectors/test_signatures.py"
TOKENS: Final = "tests/vectors/test_tokens.py"
FORMATS: Final = "tests/writ/formats"
INDEPENDENT: Final = "tests/independent/test_tlog_checker.py"

JUDGED: Final = {
    "transparency-dev_merkle/testdata/inclusion/*": (51, MERKLE),
    "transparency-dev_merkle/testdata/consistency/*": (59, MERKLE),
    "transparency-dev_tessera/testdata/log/checkpoint*": (17, LOGS, INDEPENDENT),
    "transparency-dev_tessera/testdata/log/tile/*": (30, LOGS, INDEPENDENT),
    "sunlight/cmd/skylight/testdata/witness/*/checkpoint": (3, LOGS, INDEPENDENT),
    "sunlight/cmd/skylight/testdata/witness/mirror/*/tile/*": (5, LOGS, INDEPENDENT),
    "sunlight/cmd/skylight/testdata/witness/*.json": (2, LOGS),
    "sunlight/cmd/skylight/testdata/witness/checkpoint": (1, LOGS),
    "sunlight/cmd/skylight/testdata/tree/checkpoint": (1, LOGS),
    "sunlight/cmd/skylight/testdata/tree/log.v3.json": (1, LOGS),
    "sunlight/cmd/skylight/testdata/tree/tile/*": (6, LOGS),
    "sunlight/testdata/navigli2025h2/*": (10, LOGS),
    "inline/tlog_inline.json": (1, LOGS),
    "cose_receipts/examples/*.cbor": (2, RECEIPTS, f"{FORMATS}/test_cose.py"),
    "scitt/test/payloads/*.cose": (7, RECEIPTS),
    "scitt/test/transparent_statements/*": (2, RECEIPTS),
    "cose_wg_examples/*.json": (26, RECEIPTS, f"{FORMATS}/test_cose.py"),
    "ear_draft03/cddl/examples/*.diag": (8, TOKENS, f"{FORMATS}/test_ear.py"),
    "ear_draft03/cddl/ear*.cddl": (2, TOKENS),
    "ear_draft03/cddl/ar4si.cddl": (1, TOKENS),
    "veraison_ear/arc/data/ear-claims*.json": (5, TOKENS),
    "veraison_ear/misc/claims.json": (1, TOKENS),
    "trustee/example.token.json": (1, TOKENS, f"{FORMATS}/test_ear.py"),
    "eat_rfc9711/cddl/Example-*.diag": (15, TOKENS),
    "eat_rfc9711/cddl/Example-*.json": (7, TOKENS),
    "eat_rfc9711/cddl/claim-labels.cddl": (1, TOKENS),
    "cmw_draft23/cddl/*.diag": (7, TOKENS),
    "cmw_draft23/cddl/*.json": (5, TOKENS, f"{FORMATS}/test_cmw.py"),
    "veraison_cmw/testdata/*.cbor": (3, TOKENS, f"{FORMATS}/test_cmw.py"),
    "veraison_cmw/testdata/*.diag": (3, TOKENS),
    "veraison_cmw/testdata/*.json": (1, TOKENS),
    "veraison_cmw/testdata/*.der": (2, TOKENS),
    "corim_draft/cddl/examples/com*.diag": (21, TOKENS),
    "corim_draft/cddl/examples/cor*.diag": (5, TOKENS),
    "corim_draft/cddl/examples/cotl-*.diag": (1, TOKENS),
    "corim_draft/cddl/examples/intrep-*.diag": (15, TOKENS),
    "corim_draft/cddl/examples/p*.diag": (4, TOKENS),
    "veraison_corim/com*.cbor": (20, f"{FORMATS}/test_corim.py", TOKENS),
    "veraison_corim/corim/*.cbor": (11, f"{FORMATS}/test_corim.py", TOKENS),
    "veraison_corim/coev/*.cbor": (3, TOKENS),
    "veraison_corim/*.diag": (28, TOKENS),
    "token_status_list/examples/*.md": (20, TOKENS, f"{FORMATS}/test_status_list.py"),
    "cel/go-tpm-tools_cel.b64": (1, f"{FORMATS}/eventlog/test_cel.py"),
    "cel/cc-api_ccel_data.bin": (1, TOKENS),
    "wycheproof/e*.json": (2, f"{FORMATS}/test_keys.py"),
    "wycheproof/mldsa_44_verify_test.json": (1, SIGNATURES),
    "cctv/ed25519vectors.json": (1, SIGNATURES, f"{FORMATS}/test_keys.py"),
}
"""Files -> how many they are, and the tests that judge them."""

SCHEMA: Final = "CDDL of others: a schema, no message"
SUBTREE: Final = (
    "proofs of subtrees (draft-ietf-plants-merkle-tree-certs): asked for by sign-subtree alone, which no witness of ours is asked for"
)
PRETTY: Final = "a JSON example folded for print; the file beside it is the same"
UNSUPPORTED: Final = {
    "transparency-dev_merkle/testdata/subtree*": (190, SUBTREE),
    "transparency-dev_tessera/testdata/log/.state/*": (4, "the state of Tessera's own writer"),
    "sunlight/cmd/skylight/testdata/skylight.yaml": (1, "the configuration of another's server"),
    "sunlight/cmd/skylight/testdata/tree/issuer/*": (1, "a text in the place of an issuer's certificate"),
    "cose_receipts/examples/*.cddl": (2, SCHEMA),
    "cose_receipts/examples/*.diag": (2, "a report in Markdown, its hashes shortened; the bytes are beside it"),
    "cose_receipts/examples/validate-receipt.sh": (1, "a script"),
    "ear_draft03/cddl/[gur]*.cddl": (3, SCHEMA),
    "ear_draft03/cddl/ext-*.cddl": (2, SCHEMA),
    "ear_draft03/cddl/README-claims.md": (1, "a description"),
    "veraison_ear/arc/data/pkey.json": (1, "a public key of tests; no signed result is published beside it"),
    "veraison_ear/misc/ec_key*": (3, "a key of tests; no signed result is published beside it"),
    "eat_rfc9711/cddl/*.json_f": (2, PRETTY),
    "eat_rfc9711/cddl/[!Ec]*.cddl": (34, SCHEMA),
    "eat_rfc9711/cddl/common-types.cddl": (1, SCHEMA),
    "cmw_draft23/cddl/*.cddl": (19, SCHEMA),
    "cmw_draft23/cddl/*.cddl.in": (1, SCHEMA),
    "corim_draft/cddl/examples/*.tmpl": (2, "a template with holes"),
    "corim_draft/cddl/examples/cmw-*.diag": (1, "names a number that was not assigned yet"),
    "veraison_corim/corim/*.json": (4, "another maker's input in JSON; the bytes made of it are judged"),
    "veraison_corim/corim/*.yaml": (4, "another maker's input in YAML; the bytes made of it are judged"),
    "cctv/LICENSE": (1, "a licence"),
    "COMMITS.txt": (1, "where the files come from"),
    "MANIFEST.md": (1, "what the files are"),
}
"""Files -> how many they are, and why no test judges them."""

NOT_THERE: Final = {
    "witness2": "named in the manifest, and not among the files",
}
STORED: Final = {
    "98 files": "51 and 59 of the probes for inclusion and consistency are stored, 110 of 196",
    "322 files": "190 of the subtree probes are stored",
}
"""Counts of the manifest that are not those of the files."""


BESIDE: Final = {"COMMITS.txt", "MANIFEST.md", "cctv/LICENSE", "sunlight/cmd/skylight/testdata/skylight.yaml"}
"""Of no row."""


@pytest.fixture(scope="module")
def files(vectors: Path) -> list[str]:
    folder = vectors / "audit"
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())


def table() -> dict[str, int]:
    """How many files each line is of."""
    return {pattern: int(entry[0]) for pattern, entry in (*JUDGED.items(), *UNSUPPORTED.items())}


def test_every_file_is_in_the_table_once_and_every_line_has_its_files(files: list[str]) -> None:
    places = {file: [pattern for pattern in table() if fnmatch.fnmatchcase(file, pattern)] for file in files}
    assert {file: found for file, found in places.items() if len(found) != 1} == {}
    counts = {pattern: sum(found == [pattern] for found in places.values()) for pattern in table()}
    assert counts == table()


def rows(vectors: Path) -> set[str]:
    """The paths in the first column of the manifest, as they are written there."""
    lines = (vectors / "audit/MANIFEST.md").read_text("utf-8").splitlines()
    return {path for line in lines if line.startswith("| `") for path in re.findall(r"`([^`]+)`", line.split("|")[1])}


def named_by(row: str) -> re.Pattern[str]:
    """What a row names: `...` is the folder of the row before, `*` any name, `{a,b}` both, and a name stands for what begins with it."""
    said = row.removeprefix(".../")
    spelt = re.escape(said).replace(re.escape("..."), ".*").replace(re.escape("*"), "[^/]*")
    spelt = re.sub(r"\\\{(.*?)\\\}", lambda match: f"(?:{match[1].replace(',', '|')})", spelt)
    return re.compile(rf"(?:.*/)?{spelt}[^/]*(?:/.*)?\Z")


def test_every_row_of_the_manifest_has_files_in_the_table(vectors: Path, files: list[str]) -> None:
    named = rows(vectors)
    assert len(named) == 29
    assert {row for row in named if not any(map(named_by(row).match, files))} == set(NOT_THERE)


def test_the_manifest_still_counts_more_than_there_are(vectors: Path) -> None:
    """Or the remark on it is out of date."""
    text = (vectors / "audit/MANIFEST.md").read_text("utf-8")
    assert all(f"({count}" in text for count in STORED)


def test_every_file_is_of_a_row_of_the_manifest(vectors: Path, files: list[str]) -> None:
    patterns = [named_by(row) for row in rows(vectors)]
    assert {file for file in files if not any(pattern.match(file) for pattern in patterns)} <= BESIDE


@pytest.mark.parametrize("pattern", JUDGED)
def test_the_tests_that_are_named_read_from_that_folder(pattern: str) -> None:
    for test in JUDGED[pattern][1:]:
        assert isinstance(test, str)
        assert pattern.partition("/")[0] in (ROOT / test).read_text(), (test, pattern)
