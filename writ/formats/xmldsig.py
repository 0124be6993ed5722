"""XML documents that sign themselves, in the one profile that TCG RIMs use: read strictly, and put into the form that is signed.

    <root …> … <ds:Signature><ds:SignedInfo> c14n11, ecdsa-sha384, Reference URI="" (enveloped-signature, c14n11, sha384, DigestValue)
    </ds:SignedInfo><ds:SignatureValue/><ds:KeyInfo><ds:X509Data><ds:X509Certificate/>…</ds:X509Data></ds:KeyInfo></ds:Signature></root>

Parsed, not verified: `writ.verdict` says whether the signature holds and whose it is. The tree that is read is the tree that is put into
canonical form, so nothing is read that is not signed: the one Signature is the last child of the root, the one Reference is the whole
document, and no other transform is known. What no such document needs is refused before it can mean anything: a DTD and with it every
entity, processing instructions, comments, xml: attributes, depth and size without bound.

Canonical XML 1.0 and 1.1 are the same for what is left: they differ in xml: attributes alone.

>>> canonical(parse_xml(b"<a xmlns='u:x' b='&#9;2' a = '1'><c></c></a>", "specimen"))
b'<a xmlns="u:x" a="1" b="&#x9;2"><c></c></a>'

Source: W3C Canonical XML 1.1, sections 1.3, 2.1 to 2.4; W3C XML Signature 1.1, sections 4, 6.6.4; RFC 6931, sections 2.1.3, 2.3.6.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias
from xml.parsers import expat

from writ.formats.errors import FormatError
from writ.formats.x509 import Certificate, parse_certificate

MAX_XML: Final = 1 << 20
MAX_DEPTH: Final = 16
MOST_NAMESPACES: Final = 16
"""Declared by one element."""
MOST_CERTIFICATES: Final = 8

DS: Final = "http://www.w3.org/2000/09/xmldsig#"
_XML: Final = "http://www.w3.org/XML/1998/namespace"
_C14N: Final = "http://www.w3.org/2006/12/xml-c14n11"
_ENVELOPED: Final = DS + "enveloped-signature"
_ECDSA_SHA384: Final = "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384"
_SHA384: Final = "http://www.w3.org/2001/04/xmldsig-more#sha384"
_DIGEST_SIZE: Final = 48
_SIGNATURE_SIZE: Final = 96

_IN_TEXT: Final = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "\r": "&#xD;"})
_IN_ATTRIBUTE: Final = str.maketrans({"&": "&amp;", "<": "&lt;", '"': "&quot;", "\t": "&#x9;", "\n": "&#xA;", "\r": "&#xD;"})

_NAMESPACE: Final = re.compile(r"[!#-%'-;=?-~]*\Z")
"""What a URI may have, without the characters that would be escaped: libxml2 leaves them as they are there."""

Name: TypeAlias = tuple[str, str]
"""Namespace ("" for none) and local name."""


@dataclass(frozen=True, slots=True)
class Element:
    """One element. `prefixes` is how each attribute was spelt and `declared` the namespaces by prefix that it declares, "" the default."""

    name: Name
    prefix: str
    declared: Mapping[str, str]
    attributes: Mapping[Name, str]
    prefixes: Mapping[Name, str]
    children: tuple[Element | str, ...]

    @property
    def elements(self) -> tuple[Element, ...]:
        """The children that are elements."""
        return tuple(child for child in self.children if isinstance(child, Element))

    @property
    def text(self) -> str:
        """The text directly within."""
        return "".join(child for child in self.children if isinstance(child, str))


@dataclass(frozen=True, slots=True)
class SignedXml:
    """A document and its signature as they stand.

    `content` is the canonical document without the signature, `digest` the SHA-384 that is signed for it; `signed` is the canonical
    SignedInfo, `signature` r || s over it. `certificates` came along, the signer's first.
    """

    root: Element
    content: bytes
    digest: bytes
    signed: bytes
    signature: bytes
    certificates: tuple[Certificate, ...]


# --- reading --------------------------------------------------------------------------------------------------------------


class _Builder:
    """What expat calls: it builds the tree, and refuses what is not for us."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._open: list[tuple[Name, str, dict[str, str], dict[Name, str], dict[Name, str], list[Element | str]]] = []
        self._declared: dict[str, str] = {}
        self.root: Element | None = None

    def refuse(self, *_: object) -> None:
        raise FormatError(self._what, "elements, attributes and text alone", "a DTD, an instruction or a comment")

    def declare(self, prefix: str | None, uri: str | None) -> None:
        if prefix == "xml" or (prefix and not uri) or not _NAMESPACE.match(uri or ""):
            raise FormatError(self._what, "a namespace that is a URI", repr(uri)[:80])
        if len(self._declared) == MOST_NAMESPACES:
            raise FormatError(self._what, f"at most {MOST_NAMESPACES} namespaces", "more")
        self._declared[prefix or ""] = uri or ""

    def start(self, tag: str, pairs: list[str]) -> None:
        if len(self._open) == MAX_DEPTH:
            raise FormatError(self._what, f"at most {MAX_DEPTH} levels", "more")
        attributes, prefixes = {}, {}
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            name, prefixes[name] = self._split(key)
            attributes[name] = value
        name, prefix = self._split(tag)
        self._open.append((name, prefix, self._declared, attributes, prefixes, []))
        self._declared = {}

    def end(self, _: str) -> None:
        name, prefix, declared, attributes, prefixes, children = self._open.pop()
        element = Element(name, prefix, declared, attributes, prefixes, tuple(_joined(children)))
        if self._open:
            self._open[-1][-1].append(element)
        else:
            self.root = element

    def text(self, data: str) -> None:
        self._open[-1][-1].append(data)

    def _split(self, triple: str) -> tuple[Name, str]:
        """expat joins namespace, local name and prefix by spaces, where there are any."""
        parts = triple.split(" ")
        if parts[0] == _XML or len(parts) > 3:
            raise FormatError(self._what, "no xml: attribute", triple[:80])
        return (("", parts[0]), "") if len(parts) == 1 else ((parts[0], parts[1]), parts[2] if len(parts) == 3 else "")


def _joined(children: list[Element | str]) -> Iterator[Element | str]:
    """Children in which text is in one piece."""
    run: list[str] = []
    for child in children:
        if isinstance(child, str):
            run.append(child)
            continue
        if run:
            yield "".join(run)
            run = []
        yield child
    if run:
        yield "".join(run)


def parse_xml(data: bytes, what: str) -> Element:
    """Read exactly one document, in UTF-8: its root. Raises FormatError, and nothing else, on any bytes."""
    if len(data) > MAX_XML:
        raise FormatError(what, f"at most {MAX_XML} bytes", f"{len(data)} bytes")
    builder = _Builder(what)
    parser = expat.ParserCreate("utf-8", " ")
    parser.namespace_prefixes = True
    parser.ordered_attributes = True
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = builder.start, builder.end, builder.text
    parser.StartNamespaceDeclHandler = builder.declare
    parser.StartDoctypeDeclHandler = parser.ProcessingInstructionHandler = parser.CommentHandler = builder.refuse
    try:
        data.decode("utf-8")
        parser.Parse(data, True)
    except (expat.ExpatError, UnicodeError, ValueError):
        raise FormatError(what, "a well-formed XML document in UTF-8", f"a fault in line {parser.ErrorLineNumber}") from None
    if builder.root is None:
        raise FormatError(what, "an element", "none")
    return builder.root


# --- canonical form -------------------------------------------------------------------------------------------------------


def canonical(element: Element, *, without: Element | None = None, scope: Mapping[str, str] | None = None) -> bytes:
    """`element` in Canonical XML without comments, but for `without`. `scope` is what its ancestors declare, if it is no root.

    What is in scope and not yet written is declared, used or not: it is the inclusive form.
    """
    return "".join(_canonical(element, without, {**(scope or {}), **element.declared}, {})).encode("utf-8")


def _canonical(element: Element, without: Element | None, declared: Mapping[str, str], written: Mapping[str, str]) -> Iterator[str]:
    tag = f"{element.prefix}:{element.name[1]}" if element.prefix else element.name[1]
    yield f"<{tag}"
    fresh = {prefix: uri for prefix, uri in declared.items() if written.get(prefix, "") != uri}
    for prefix in sorted(fresh):
        yield f' xmlns{":" if prefix else ""}{prefix}="{fresh[prefix].translate(_IN_ATTRIBUTE)}"'
    for name in sorted(element.attributes):
        prefix = element.prefixes[name]
        yield f' {prefix}{":" if prefix else ""}{name[1]}="{element.attributes[name].translate(_IN_ATTRIBUTE)}"'
    yield ">"
    if fresh:
        written = {**written, **fresh}
    for child in element.children:
        if isinstance(child, str):
            yield child.translate(_IN_TEXT)
        elif child is not without:
            yield from _canonical(child, without, child.declared, written)
    yield f"</{tag}>"


# --- signature ------------------------------------------------------------------------------------------------------------


def parse_signed_xml(data: bytes, what: str) -> SignedXml:
    """Read a document with its signature. Raises FormatError, and nothing else, on any bytes and of any other profile."""
    root = parse_xml(data, what)
    found = [element for element in _all(root) if element.name == (DS, "Signature")]
    if len(found) != 1 or root.elements[-1] is not found[0]:
        raise FormatError(what, "one Signature, the last child of the document", f"{len(found)}")
    signature = found[0]
    info, value, key = _children(signature, what, "SignedInfo", "SignatureValue", "KeyInfo")
    scope = {**root.declared, **signature.declared}
    encoded = _base64(value, what)
    if len(encoded) != _SIGNATURE_SIZE:
        raise FormatError(f"{what}.SignatureValue", f"{_SIGNATURE_SIZE} bytes", f"{len(encoded)} bytes")
    return SignedXml(
        root, canonical(root, without=signature), _signed_digest(info, what), canonical(info, scope=scope), encoded,
        _certificates(key, what),
    )  # fmt: skip


def _signed_digest(info: Element, what: str) -> bytes:
    """The one Reference of a SignedInfo in this profile: of the whole document without its signature."""
    method, algorithm, reference = _children(info, what, "CanonicalizationMethod", "SignatureMethod", "Reference")
    _algorithm(method, _C14N, what)
    _algorithm(algorithm, _ECDSA_SHA384, what)
    if reference.attributes != {("", "URI"): ""}:
        raise FormatError(f"{what}.Reference", 'URI="", the document, and nothing else', repr(dict(reference.attributes))[:80])
    transforms, digest_method, digest_value = _children(reference, what, "Transforms", "DigestMethod", "DigestValue")
    enveloped, canonical_form = _children(transforms, what, "Transform", "Transform")
    _algorithm(enveloped, _ENVELOPED, what)
    _algorithm(canonical_form, _C14N, what)
    _algorithm(digest_method, _SHA384, what)
    digest = _base64(digest_value, what)
    if len(digest) != _DIGEST_SIZE:
        raise FormatError(f"{what}.DigestValue", f"{_DIGEST_SIZE} bytes", f"{len(digest)} bytes")
    return digest


def _certificates(key: Element, what: str) -> tuple[Certificate, ...]:
    (data,) = _children(key, what, "X509Data")
    certificates = data.elements
    if not 1 <= len(certificates) <= MOST_CERTIFICATES or any(one.name != (DS, "X509Certificate") for one in certificates):
        raise FormatError(f"{what}.X509Data", f"1 to {MOST_CERTIFICATES} X509Certificate", f"{len(certificates)} elements")
    return tuple(parse_certificate(_base64(one, what)) for one in certificates)


def _all(element: Element) -> Iterator[Element]:
    yield element
    for child in element.elements:
        yield from _all(child)


def _children(element: Element, what: str, *names: str) -> tuple[Element, ...]:
    """The children, which are these of XML Signature in this order, with nothing but space between them."""
    children = element.elements
    if [child.name for child in children] != [(DS, name) for name in names] or element.text.strip():
        raise FormatError(f"{what}.{element.name[1]}", ", ".join(names), ", ".join(child.name[1] for child in children) or "nothing")
    return children


def _algorithm(element: Element, wanted: str, what: str) -> None:
    if element.attributes != {("", "Algorithm"): wanted} or element.children:
        raise FormatError(f"{what}.{element.name[1]}", wanted, element.attributes.get(("", "Algorithm"), "none")[:120])


def _base64(element: Element, what: str) -> bytes:
    """The bytes of base64 with space anywhere, as writers break its lines."""
    try:
        if element.elements or element.attributes:
            raise FormatError(f"{what}.{element.name[1]}", "base64 alone", "more")
        return base64.b64decode("".join(element.text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise FormatError(f"{what}.{element.name[1]}", "base64", "text that is not") from None
