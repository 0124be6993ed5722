"""Tokens, results, collections and reference values of others: what drafts and implementations print as examples.

Those in diagnostic notation are put into bytes by `diag`; where the bytes were published too, both must say the same.
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from pathlib import Path
from typing import Any, Final

import cbor2
import pytest

from tests.vectors import diag
from writ.formats.cmw import parse_collection, parse_json_record, parse_record
from writ.formats.corim import parse_foreign_comid, parse_foreign_corim
from writ.formats.cose import parse_sign1
from writ.formats.ear import CLAIMS, PROFILE, STATUS, VECTOR, encode_ear_cbor, encode_ear_json, parse_ear_cbor, parse_ear_json
from writ.formats.eat import parse_claims
from writ.formats.errors import FormatError
from writ.formats.eventlog.uefi import LogKind, parse_uefi_log
from writ.formats.jose import parse_jws
from writ.formats.status_list import StatusList, parse_status_list
from writ.formats.strict import decode_cbor, encode_cbor, encode_json, parse_b64url

AUDIT: Final = "audit"

# --- status lists ------------------------------------------------------------------------------------------------------------

LISTS: Final = "audit/token_status_list/examples"
SHORT: Final = {1: [1, 0, 0, 1, 1, 1, 0, 1, 1, 1, 0, 0, 0, 1, 0, 1], 2: [1, 2, 0, 3, 0, 1, 0, 1, 1, 2, 3, 3]}


def folded(text: str) -> str:
    return re.sub(r"\s", "", text)


def in_json(vectors: Path, name: str) -> StatusList:
    text = (vectors / LISTS / f"status_list_{name}_json.md").read_text()
    found = re.search(r'"bits": (\d)[^"]*"lst": "([^"]+)"', text)
    assert found is not None
    return StatusList.expand(int(found[1]), parse_b64url(folded(found[2]), "lst"))


def in_cbor(vectors: Path, name: str) -> StatusList:
    text = (vectors / LISTS / f"status_list_{name}_cbor.md").read_text()
    value = decode_cbor(bytes.fromhex(folded(text.partition("encoded:")[2] or text)), "status list", one_spelling=False)
    return StatusList.expand(value["bits"], value["lst"])


@pytest.mark.parametrize("name", ["encoding", "encoding1_long", "encoding2", "encoding2_long", "encoding4", "encoding8"])
def test_status_list_is_the_same_in_json_and_cbor(vectors: Path, name: str) -> None:
    statuses = in_json(vectors, name)
    assert statuses == in_cbor(vectors, name)
    short = name in ("encoding", "encoding2")
    assert statuses.size == (len(SHORT[statuses.bits]) if short else 1 << 20)
    if short:
        assert [statuses.get(index) for index in range(statuses.size)] == SHORT[statuses.bits]
        assert StatusList.expand(statuses.bits, zlib.compress(statuses.values, 9)) == statuses


def printed(vectors: Path, name: str) -> bytes:
    """The bytes that a listing of the draft prints in hex, with what they are beside them."""
    text = (vectors / LISTS / f"{name}.md").read_text()
    return bytes.fromhex("".join(re.sub(r"#.*", "", line) for line in text.splitlines()).replace(" ", ""))


@pytest.mark.parametrize("name", ["status_list_cwt", "referenced_token_cwt", "status_list_encoding_cbor", "status_list_encoding2_cbor"])
def test_listing_in_hex_and_its_diagnosis_are_the_same_bytes(vectors: Path, name: str) -> None:
    text = (vectors / LISTS / f"{name}.md").read_text()
    assert printed(vectors, f"{name}_diag") == bytes.fromhex(folded(text.partition("encoded:")[2] or text))


def test_status_list_token_in_cbor_is_read_by_its_numbers(vectors: Path) -> None:
    """Ours are JWTs; a CWT is opened as a foreign message."""
    sign1 = parse_sign1(printed(vectors, "status_list_cwt_diag"), foreign=True)
    assert (sign1.algorithm, sign1.headers[16]) == ("ES256", "application/statuslist+cwt")
    claims = decode_cbor(sign1.payload or b"", "status claims", one_spelling=False)
    assert sorted(claims) == [2, 4, 6, 65533, 65534]
    listed = StatusList.expand(claims[65533]["bits"], claims[65533]["lst"])
    assert [listed.get(index) for index in range(16)] == SHORT[1]
    referenced = decode_cbor(
        parse_sign1(printed(vectors, "referenced_token_cwt_diag"), foreign=True).payload or b"", "claims", one_spelling=False
    )
    assert referenced[65535] == {"status_list": {"idx": 0, "uri": claims[2]}}


def test_status_list_token_in_json_is_ours_but_for_an_issuer_that_we_do_not_name(vectors: Path) -> None:
    """The draft's token has `iss` in its bytes (and not in its listing); a list of ours is signed by a key that says whose it is."""
    jws = parse_jws(folded((vectors / LISTS / "status_list_jwt_raw.md").read_text()), typ="statuslist+jwt")
    assert dict(jws.header) == {"alg": "ES256", "kid": "12", "typ": "statuslist+jwt"}
    with pytest.raises(FormatError, match="no unknown key, got 'iss'"):
        parse_status_list(jws.payload)
    claims = json.loads(jws.payload)
    assert claims.pop("iss") == "https://example.com"
    header, _, listing = (vectors / LISTS / "status_list_jwt.md").read_text().partition("\n.\n")
    assert (json.loads(header), json.loads(listing)) == (dict(jws.header), claims)
    token = parse_status_list(encode_json(claims))
    assert (token.sub, [token.statuses.get(index) for index in range(16)]) == ("https://example.com/statuslists/1", SHORT[1])


# --- attestation results (EAR) -------------------------------------------------------------------------------------------------

EARS: Final = "audit/ear_draft03/cddl/examples"


def test_ear_in_cbor_is_read_under_our_profile_and_is_that_in_json(vectors: Path) -> None:
    value = diag.read((vectors / EARS / "ear-cbor-1.diag").read_text())
    with pytest.raises(FormatError, match="rats/ear#04"):
        parse_ear_cbor(encode_cbor(value))
    ear = parse_ear_cbor(encode_cbor({**value, 265: PROFILE}))
    assert parse_ear_cbor(encode_ear_cbor(ear)) == ear
    as_json = parse_ear_json(encode_json({**json.loads((vectors / EARS / "ear-json-1.diag").read_text()), "eat_profile": PROFILE}))
    assert (ear.submodules, ear.verifier_build, ear.iat) == (as_json.submodules, as_json.verifier_build, as_json.iat)


@pytest.mark.parametrize(
    "name", ["ext-teep-json-1", "ext-veraison-json-1", "ext-veraison-json-2", "ext-teep-cbor-1", "ext-veraison-cbor-1"]
)
def test_ear_with_claims_of_another_maker_is_refused_by_their_name(vectors: Path, name: str) -> None:
    """Closed: what we cannot judge we do not read."""
    text = (vectors / EARS / f"{name}.diag").read_text()
    value, parse, encode = (
        (json.loads(text), parse_ear_json, encode_json) if "json" in name else (diag.read(text), parse_ear_cbor, encode_cbor)
    )
    data = encode({**value, "eat_profile" if "json" in name else 265: PROFILE})
    with pytest.raises(FormatError, match="no unknown key"):
        parse(data)


DOTTED: Final = (
    "trustee/example.token.json", "veraison_ear/misc/claims.json",
    *(
        f"veraison_ear/arc/data/ear-claims{name}.json"
        for name in ("", "-extension-ok", "-key-attestation-ko", "-key-attestation-ok", "-tv-ok")
    ),
)  # fmt: skip


@pytest.mark.parametrize("file", DOTTED)
def test_ear_of_the_old_dotted_names_is_refused_with_and_without_our_profile(vectors: Path, file: str) -> None:
    value = json.loads((vectors / AUDIT / file).read_text())
    with pytest.raises(FormatError, match=r"rats/ear#04|ear_verifier_id"):
        parse_ear_json(encode_json(value))
    with pytest.raises(FormatError, match="ear_verifier_id"):
        parse_ear_json(encode_json({**value, "eat_profile": PROFILE}))


def test_ear_is_written_alike_in_json(vectors: Path) -> None:
    for name in ("ear-json-1", "ear-json-2"):
        value = {**json.loads((vectors / EARS / f"{name}.diag").read_text()), "eat_profile": PROFILE}
        assert encode_ear_json(parse_ear_json(encode_json(value))) == encode_json(value)


# --- claims of EAT: names and numbers ------------------------------------------------------------------------------------------


def labels(*files: Path) -> dict[str, int]:
    """The names and numbers that CDDL pairs."""
    text = "".join(file.read_text() for file in files)
    return {name: int(number) for name, number in re.findall(r'JC<\s*"([^"]+)"\s*,\s*(-?\d+)\s*>', text)}


def test_our_tables_have_the_numbers_of_the_specifications(vectors: Path) -> None:
    eat = labels(vectors / "audit/eat_rfc9711/cddl/claim-labels.cddl", vectors / "audit/eat_rfc9711/cddl/external/claims-set.cddl")
    ear = labels(*(vectors / "audit/ear_draft03/cddl" / f"{name}.cddl" for name in ("ear", "ear-appraisal", "ar4si")))
    assert {name: number for name, number in CLAIMS.items() if not name.startswith("writ_")} == {
        name: number for name, number in (eat | ear).items() if name in CLAIMS
    }
    assert VECTOR.items() <= ear.items()
    assert STATUS.items() <= ear.items()


EATS: Final = "audit/eat_rfc9711/cddl"


def test_eat_of_other_profiles_is_well_formed_and_no_token_of_ours(vectors: Path) -> None:
    """The examples that RFC 9711 calls valid are one CBOR item, or JSON, and say nothing of an agent: refused as tokens."""
    read = 0
    for file in sorted((vectors / EATS).rglob("*.diag")):
        value = diag.read(file.read_text())
        data = cbor2.dumps(value)
        assert isinstance(decode_cbor(data, "EAT", one_spelling=False, tags=_tags(value)), dict | list | cbor2.CBORTag), file.name
        with pytest.raises(FormatError):
            parse_claims(data)
        read += 1
    for file in sorted((vectors / EATS).rglob("*.json")):
        with pytest.raises(FormatError):
            parse_claims(encode_json(json.loads(file.read_text()), floats=True))
        read += 1
    assert read == 22


def _tags(value: Any) -> frozenset[int]:
    if isinstance(value, cbor2.CBORTag):
        return frozenset({value.tag}) | _tags(value.value)
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return frozenset().union(*map(_tags, inside))


def test_eat_as_a_cwt_is_opened_below_its_tag(vectors: Path) -> None:
    value = diag.read((vectors / EATS / "Example-Tokens/valid_cwt.diag").read_text())
    assert value.tag == 61
    sign1 = parse_sign1(cbor2.dumps(value.value), foreign=True)
    assert 10 in decode_cbor(sign1.payload or b"", "claims", one_spelling=False)
    with pytest.raises(FormatError):
        parse_sign1(cbor2.dumps(value), foreign=True)


# --- collections (CMW) ----------------------------------------------------------------------------------------------------------

CMWS: Final = "audit/cmw_draft23/cddl"


@pytest.mark.parametrize("name", ["cmw-example-1", "cmw-example-2", "cmw-example-3", "cmw-example-tag-1", "cmw-example-tag-2"])
def test_record_of_the_draft_is_read(vectors: Path, name: str) -> None:
    assert parse_record(cbor2.dumps(diag.read((vectors / CMWS / f"{name}.diag").read_text())), foreign=True).value


@pytest.mark.parametrize("name", ["collection-example-1", "collection-example-2"])
def test_collection_of_the_draft_is_read(vectors: Path, name: str) -> None:
    value = diag.read((vectors / CMWS / f"{name}.diag").read_text())
    found = parse_collection(cbor2.dumps(value), foreign=True)
    assert {label for label, _ in found.members} == {label for label in value if label != "__cmwc_t"}


@pytest.mark.parametrize("name", ["collection-cbor-mixed-keys", "collection-cbor-ok", "collection-cbor-ok-2"])
def test_collection_of_veraison_is_its_diagnosis(vectors: Path, name: str) -> None:
    folder = vectors / "audit/veraison_cmw/testdata"
    told = cbor2.dumps(diag.read((folder / f"{name}.diag").read_text()))
    assert cbor2.loads(told) == cbor2.loads((folder / f"{name}.cbor").read_bytes())
    assert parse_collection(told, foreign=True) == parse_collection((folder / f"{name}.cbor").read_bytes(), foreign=True)


@pytest.mark.parametrize(
    "file",
    [
        "cmw_draft23/cddl/collection-example-1.json",
        "cmw_draft23/cddl/collection-example-2.json",
        "veraison_cmw/testdata/collection-ok.json",
    ],
)
def test_collection_in_json_is_not_read_but_each_of_its_records_is(vectors: Path, file: str) -> None:
    """Collections of ours are CBOR alone."""
    value = json.loads((vectors / AUDIT / file).read_text())
    with pytest.raises(FormatError):
        parse_json_record(encode_json(value))
    records = [parse_json_record(encode_json(one)) for label, one in value.items() if label != "__cmwc_t"]
    assert len(records) == 2


def test_collection_within_a_jwt_is_not_read(vectors: Path) -> None:
    value = json.loads((vectors / CMWS / "eat-example-1.json").read_text())
    with pytest.raises(FormatError):
        parse_claims(encode_json(value))
    assert "cmw" in value


@pytest.mark.parametrize("name", ["cbor", "json"])
def test_record_within_a_certificate_is_where_its_extension_is(vectors: Path, name: str) -> None:
    """id-pe-cmw; no certificate of ours carries one, and the reader of a certificate leaves it alone."""
    der = (vectors / f"audit/veraison_cmw/testdata/x509-cert+{name}-cmw.der").read_bytes()
    oid = bytes.fromhex("06082b06010505070123")  # 1.3.6.1.5.5.7.1.35
    assert der.count(oid) == 1
    inside = der[der.index(oid) + len(oid) :]
    wrapped = re.match(rb"\x04(.)", inside, re.DOTALL)
    assert wrapped is not None
    value = inside[2 : 2 + wrapped[1][0]]
    content = value[2 : 2 + value[1]]
    if name == "cbor":
        assert parse_collection(content, foreign=True).members if content[0] >> 5 == 5 else parse_record(content, foreign=True).value
    else:
        assert json.loads(content)


# --- reference values (CoRIM) ----------------------------------------------------------------------------------------------------

CORIMS: Final = "audit/corim_draft/cddl/examples"


def test_reference_values_of_the_draft_are_read(vectors: Path) -> None:
    read = 0
    for file in sorted((vectors / CORIMS).glob("*.diag")):
        if re.match(r"comid-|corim-|payload-corim-", file.name):
            data = cbor2.dumps(diag.read(file.read_text()))
            assert parse_foreign_comid(data).triples if file.name.startswith("comid-") else parse_foreign_corim(data).comids, file.name
            read += 1
    assert read == 27


def test_reference_values_of_veraison_are_their_diagnosis(vectors: Path) -> None:
    folder, read = vectors / "audit/veraison_corim", 0
    for file in sorted(folder.rglob("*.diag")):
        told, published = cbor2.dumps(diag.read(file.read_text())), (file.parents[1] / f"{file.stem}.cbor").read_bytes()
        assert cbor2.loads(told) == cbor2.loads(published), file.name
        if file.name.startswith("comid-"):
            assert parse_foreign_comid(told) == parse_foreign_comid(published), file.name
        read += 1
    assert read == 28


OTHERS: Final = {
    "corim_draft/cddl/examples/cotl-1.diag": "a list of tags (CoTL)",
    **{
        f"corim_draft/cddl/examples/{name}.diag": "a verifier's own working state, no document"
        for name in (
            "intrep-acs-1", "intrep-acs-2", "intrep-acs-3", "intrep-acs-psa-1", "intrep-acs-psa-2", "intrep-rel-ae-1", "intrep-rel-ae-psa",
            "intrep-rel-domain-1", "intrep-rel-ev-1", "intrep-rel-ev-psa", "intrep-rel-evs-1", "intrep-rel-key-1", "intrep-rel-rv-1",
            "intrep-rel-rv-psa-1", "intrep-rel-rv-psa-2",
        )
    },
    **{
        f"corim_draft/cddl/examples/protected-header-map-{name}.diag": "a header without its message"
        for name in ("corim-meta", "cwt-claims", "hash-envelope")
    },
    **{f"veraison_corim/coev/testcases/src/ce-{name}.diag": "concise evidence" for name in ("coswid", "evidence", "identity")},
}  # fmt: skip
"""File -> what it is, and no reference value is."""


@pytest.mark.parametrize("file", OTHERS)
def test_what_is_no_reference_value_is_refused(vectors: Path, file: str) -> None:
    data = cbor2.dumps(diag.read((vectors / AUDIT / file).read_text()))
    for parse in (parse_foreign_corim, parse_foreign_comid):
        with pytest.raises(FormatError):
            parse(data)


# --- event logs ------------------------------------------------------------------------------------------------------------------


def test_log_of_a_confidential_guest_is_read(vectors: Path) -> None:
    log = parse_uefi_log((vectors / "audit/cel/cc-api_ccel_data.bin").read_bytes())
    assert (log.kind, log.banks, len(log.events)) == (LogKind.CCEL, (("sha384", 48),), 98)


# --- the reader of these examples ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, value",
    [
        ('{1: "a\\"b", -2: [h\'0a 0B\', true], "x": null}', {1: 'a"b', -2: [b"\x0a\x0b", True], "x": None}),
        ("/ a / 18([<< 1, [2] >>, 0x10, 1.5]) # end", cbor2.CBORTag(18, [b"\x01\x81\x02", 16, 1.5])),
        ("h'01'\nh'02'", b"\1\2"), ("b64'AQI'", b"\1\2"), ("'ab'", b"ab"), ("[_ 1, 2,]", [1, 2]), ("-7", -7), ("[]", []),
    ],
)  # fmt: skip
def test_diagnostic_notation_is_read(text: str, value: Any) -> None:
    assert diag.read(text) == value


@pytest.mark.parametrize("text", ["", "[1", "{1 2}", "1 2", "]", "@", "<< 1"])
def test_what_is_no_diagnostic_notation_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected|no diagnostic|more behind"):
        diag.read(text)


def test_base64_of_the_drafts_is_what_python_has() -> None:
    assert diag.read("b64'_-8'") == base64.urlsafe_b64decode("_-8=")
