"""Signed XML: the canonical form, the one profile, and every way in which something else could be signed than is read."""

from __future__ import annotations

import base64
from collections.abc import Callable

import pytest

from tests.parsers import assert_parser_is_total, exchanged
from tests.world.nvidia import C14N, DRIVER_RIM, ENVELOPED, RimMaker
from writ.formats.digest import hash_bytes
from writ.formats.errors import FormatError
from writ.formats.xmldsig import DS, MAX_DEPTH, MAX_XML, MOST_NAMESPACES, canonical, parse_signed_xml, parse_xml

MAKER = RimMaker(active={9: [bytes(48)]}, inactive=())
WHOLE = MAKER.document()
SIGNATURE = MAKER.signature()


def form(text: str | bytes) -> str:
    return canonical(parse_xml(text.encode() if isinstance(text, str) else text, "x")).decode()


def changed(old: str, new: str, count: int = 1) -> bytes:
    return exchanged(WHOLE, old, new, count)


# --- canonical form -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given, expected",
    [
        pytest.param("<a  b = '1'\n/>", '<a b="1"></a>', id="spelling of tags"),
        pytest.param('<?xml version="1.0" encoding="UTF-8"?>\n<a/>\n\n', "<a></a>", id="declaration and space around"),
        pytest.param("\ufeff<a/>", "<a></a>", id="byte order mark"),
        pytest.param("<a>&lt;&gt;&amp;&quot;&apos;\r\n\t&#13;é&#233;</a>", '<a>&lt;&gt;&amp;"\'\n\t&#xD;éé</a>', id="text"),
        pytest.param(
            "<a b='&lt;>&amp;&quot;&apos;&#9;&#10;&#13; x\ny'/>", '<a b="&lt;>&amp;&quot;\'&#x9;&#xA;&#xD; x y"></a>', id="attribute",
        ),
        pytest.param("<a><![CDATA[<&]]>x</a>", "<a>&lt;&amp;x</a>", id="CDATA"),
        pytest.param('<a z="1" b="2" A="3"/>', '<a A="3" b="2" z="1"></a>', id="attributes in order"),
        pytest.param(
            '<a xmlns:q="u:1" xmlns:p="u:2" xmlns="u:3" p:a="1" q:b="2" c="3"/>',
            '<a xmlns="u:3" xmlns:p="u:2" xmlns:q="u:1" c="3" q:b="2" p:a="1"></a>',
            id="by namespace, not by prefix",
        ),
        pytest.param(
            '<a xmlns:p="u:1" xmlns:n="u:2"><p:b xmlns:p="u:1" xmlns:n="u:3"><c xmlns:p="u:2"/></p:b></a>',
            '<a xmlns:n="u:2" xmlns:p="u:1"><p:b xmlns:n="u:3"><c xmlns:p="u:2"></c></p:b></a>',
            id="declared again only where it changes",
        ),
        pytest.param(
            '<a xmlns="u:1"><b xmlns=""><c xmlns="u:1"/></b></a>',
            '<a xmlns="u:1"><b xmlns=""><c xmlns="u:1"></c></b></a>',
            id="undeclared",
        ),
        pytest.param('<a xmlns=""><b xmlns=""/></a>', "<a><b></b></a>", id="nothing to undeclare"),
    ],
)  # fmt: skip
def test_canonical_form(given: str, expected: str) -> None:
    assert form(given) == expected
    assert form(expected) == expected


def test_part_has_the_namespaces_of_its_ancestors_and_whole_is_without_what_is_left_out() -> None:
    root = parse_xml(b'<a xmlns="u:1" xmlns:q="u:2"> <b q:c="1"/> </a>', "x")
    (inner,) = root.elements
    assert canonical(inner, scope=root.declared) == b'<b xmlns="u:1" xmlns:q="u:2" q:c="1"></b>'
    assert canonical(root, without=inner) == b'<a xmlns="u:1" xmlns:q="u:2">  </a>'


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"<a>", id="not ended"),
        pytest.param(b"<a/><b/>", id="two roots"),
        pytest.param(b"<a b='1' b='2'/>", id="an attribute twice"),
        pytest.param(b"<a xmlns:p='u:1' xmlns:q='u:1' p:b='1' q:b='2'/>", id="an attribute twice by namespace"),
        pytest.param(b"<p:a/>", id="a prefix of nobody"),
        pytest.param(b"<a xmlns:p=''/>", id="a prefix for nothing"),
        pytest.param(b"<a xmlns:xml='http://www.w3.org/XML/1998/namespace'/>", id="xml declared"),
        pytest.param(b"<a xmlns:p='u: 1'/>", id="a namespace with a space"),
        pytest.param(b"<a xmlns:p='u:&amp;'/>", id="a namespace that would be escaped"),
        pytest.param("<a xmlns='u:\u00e9'/>".encode(), id="a namespace that is no URI"),
        pytest.param(b"<a xml:lang='en'/>", id="xml:lang"),
        pytest.param(b"<a xml:base='/'/>", id="xml:base"),
        pytest.param(b"<!DOCTYPE a><a/>", id="DTD"),
        pytest.param(b'<!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>', id="entity"),
        pytest.param(b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>', id="external entity"),
        pytest.param(b'<!DOCTYPE a SYSTEM "http://127.0.0.1/a.dtd"><a/>', id="external DTD"),
        pytest.param(b"<a>&x;</a>", id="entity of nobody"),
        pytest.param(b"<a><!-- c --></a>", id="comment"),
        pytest.param(b"<a/><!-- c -->", id="comment behind"),
        pytest.param(b"<?x y?><a/>", id="instruction"),
        pytest.param(b"<a>\xff</a>", id="no UTF-8"),
        pytest.param('<?xml version="1.0" encoding="utf-16"?><a/>'.encode("utf-16"), id="UTF-16"),
        pytest.param(b"<a>" * (MAX_DEPTH + 1) + b"</a>" * (MAX_DEPTH + 1), id="too deep"),
        pytest.param(
            b"<a " + b" ".join(b"xmlns:p%d='u'" % number for number in range(MOST_NAMESPACES + 1)) + b"/>", id="too many namespaces"
        ),
        pytest.param(b"<a>" + bytes(MAX_XML), id="too large"),
        pytest.param(b"<a>\0</a>", id="NUL"),
    ],
)
def test_what_could_mean_something_else_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        parse_xml(data, "x")


def test_entities_within_entities_are_refused_before_they_grow() -> None:
    layers = "".join(f'<!ENTITY e{number} "{f"&e{number - 1};" * 10}">' for number in range(1, 10))
    with pytest.raises(FormatError, match="a DTD"):
        parse_xml(f'<!DOCTYPE a [<!ENTITY e0 "lol">{layers}]><a>&e9;</a>'.encode(), "x")


# --- signature ------------------------------------------------------------------------------------------------------------


def test_signed_document_gives_content_digest_and_certificates() -> None:
    found = parse_signed_xml(WHOLE, "x")
    assert found.content == (MAKER.body() + "</SoftwareIdentity>").encode()
    assert found.digest == hash_bytes("sha384", found.content)
    assert found.signed.startswith(b'<ds:SignedInfo xmlns="http')
    assert [one.der for one in found.certificates] == list(MAKER.chain())
    assert len(found.signature) == 96


def test_space_around_the_signature_is_content_and_in_its_base64_is_not() -> None:
    spaced = changed("</ds:X509Certificate><ds:X509Certificate>", "</ds:X509Certificate>\r\n <ds:X509Certificate>", count=3)
    assert parse_signed_xml(spaced, "x").certificates == parse_signed_xml(WHOLE, "x").certificates
    behind = changed("</ds:Signature></SoftwareIdentity>", "</ds:Signature>\n</SoftwareIdentity>")
    assert parse_signed_xml(behind, "x").content != parse_signed_xml(WHOLE, "x").content


def _wrapped(text: str) -> str:
    """The signed document within another one, whose content is read in its place by who looks for names."""
    return f'<SoftwareIdentity xmlns="u:evil"><ns0:Payload xmlns:ns0="u:evil"/><Object>{text}</Object></SoftwareIdentity>'


def _moved(text: str) -> str:
    """The signature first: what follows it could be taken for signed by who stops there."""
    return text.replace(SIGNATURE, "").replace("<ns0:Meta", SIGNATURE + "<ns0:Meta", 1)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda text: text.replace(SIGNATURE, ""), id="no signature"),
        pytest.param(lambda text: text.replace(SIGNATURE, SIGNATURE * 2), id="two signatures"),
        pytest.param(_wrapped, id="wrapped"),
        pytest.param(_moved, id="moved"),
        pytest.param(lambda text: text.replace(SIGNATURE, f"<x>{SIGNATURE}</x>"), id="deeper"),
        pytest.param(lambda text: text.replace(SIGNATURE, SIGNATURE + "<x/>"), id="not last"),
        pytest.param(
            lambda text: text.replace("</ds:KeyInfo>", f"</ds:KeyInfo><ds:Object>{SIGNATURE}</ds:Object>"), id="signature in an object"
        ),
        pytest.param(lambda text: text.replace('URI=""', 'URI="#x"'), id="a part of the document"),
        pytest.param(lambda text: text.replace('URI=""', 'URI="http://127.0.0.1/"'), id="another document"),
        pytest.param(lambda text: text.replace(' URI=""', ""), id="nothing named"),
        pytest.param(lambda text: text.replace('URI=""', 'URI="" Type="u:x"'), id="a type of reference"),
        pytest.param(lambda text: text.replace(f'<ds:Transform Algorithm="{ENVELOPED}"></ds:Transform>', ""), id="not enveloped"),
        pytest.param(lambda text: text.replace(ENVELOPED, "http://www.w3.org/TR/1999/REC-xslt-19991116"), id="XSLT"),
        pytest.param(lambda text: text.replace(ENVELOPED, "http://www.w3.org/2002/06/xmldsig-filter2"), id="XPath filter"),
        pytest.param(
            lambda text: text.replace("</ds:Transforms>", f'<ds:Transform Algorithm="{C14N}"/></ds:Transforms>'), id="one more transform"
        ),
        pytest.param(
            lambda text: text.replace(f'<ds:Transform Algorithm="{C14N}">', f'<ds:Transform Algorithm="{C14N}"><ds:XPath/>'), id="parameter"
        ),
        pytest.param(lambda text: text.replace(C14N, C14N + "#WithComments", 1), id="SignedInfo with comments"),
        pytest.param(lambda text: (C14N + "#WithComments").join(text.rsplit(C14N, 1)), id="document with comments"),
        pytest.param(lambda text: text.replace("#ecdsa-sha384", "#hmac-sha384"), id="HMAC"),
        pytest.param(lambda text: text.replace("#ecdsa-sha384", "#ecdsa-sha1"), id="SHA-1 signature"),
        pytest.param(lambda text: text.replace("xmldsig-more#sha384", "xmldsig#sha1"), id="SHA-1 digest"),
        pytest.param(lambda text: text.replace("</ds:SignedInfo>", "<ds:Reference URI=''/></ds:SignedInfo>"), id="two references"),
        pytest.param(lambda text: text.replace("<ds:X509Data>", "<ds:KeyValue/><ds:X509Data>"), id="a bare key"),
        pytest.param(lambda text: text.replace("<ds:X509Data>", "<ds:X509Data><ds:X509CRL/>"), id="a CRL"),
        pytest.param(lambda text: text.replace("<ds:SignatureValue>", "<ds:SignatureValue>AAAA"), id="a long signature"),
        pytest.param(lambda text: text.replace("<ds:DigestValue>", "<ds:DigestValue>AAAA"), id="a long digest"),
        pytest.param(lambda text: text.replace("<ds:DigestValue>", "<ds:DigestValue>!"), id="no base64"),
        pytest.param(lambda text: text.replace("<ds:DigestValue>", "<ds:DigestValue><x/>"), id="an element in base64"),
        pytest.param(lambda text: text.replace("<ds:SignatureValue>", "x<ds:SignatureValue>"), id="text between"),
        pytest.param(lambda text: text.replace(DS, "http://www.w3.org/2000/09/xmldsig"), id="another namespace"),
    ],
)
def test_any_other_profile_and_every_wrapping_is_refused(change: Callable[[str], str]) -> None:
    given = change(WHOLE.decode())
    assert given != WHOLE.decode()
    with pytest.raises(FormatError):
        parse_signed_xml(given.encode(), "x")


def test_certificates_are_bounded_and_must_be_some() -> None:
    one = f"<ds:X509Certificate>{base64.b64encode(MAKER.certificate()).decode()}</ds:X509Certificate>"
    for count in (0, 9):
        start, end = WHOLE.decode().split("<ds:X509Data>")[0], WHOLE.decode().split("</ds:X509Data>")[1]
        with pytest.raises(FormatError, match="1 to 8 X509Certificate"):
            parse_signed_xml(f"{start}<ds:X509Data>{one * count}</ds:X509Data>{end}".encode(), "x")


def test_parser_is_total() -> None:
    assert_parser_is_total(lambda data: parse_xml(data, "x"), b"<a xmlns:p='u:1' p:b='&#233;'>x<c/></a>", open_ended=True)
    assert_parser_is_total(lambda data: parse_signed_xml(data, "x"), DRIVER_RIM.document(), flips=300)
