"""CBOR in diagnostic notation (RFC 8949 section 8, RFC 8610 appendix G), as drafts print their examples: read into what cbor2 has."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import cbor2

_TOKEN = re.compile(
    r"""(?P<skip>\s+|/[^/]*/|\#[^\n]*)"""
    r"""|(?P<bytes>h'[^']*'|b64'[^']*'|'[^']*')"""
    r"""|(?P<text>"(?:[^"\\]|\\.)*")"""
    r"""|(?P<number>[+-]?(?:0x[0-9a-fA-F]+|[0-9]+(?:\.[0-9]+(?:e[+-]?[0-9]+)?)?))"""
    r"""|(?P<word>true|false|null)"""
    r"""|(?P<mark><<|>>|[\[\](){},:_])"""
)


def read(text: str) -> Any:
    """The one value that `text` says. Raises ValueError."""
    tokens, at = [], 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ValueError(f"no diagnostic notation at {at}: {text[at : at + 40]!r}")
        at = match.end()
        if match.lastgroup != "skip":
            tokens.append((str(match.lastgroup), match[0]))
    value, rest = _value(tokens)
    if rest:
        raise ValueError(f"more behind the value: {rest[:3]}")
    return value


_Tokens = list[tuple[str, str]]


def _value(tokens: _Tokens) -> tuple[Any, _Tokens]:
    if not tokens:
        raise ValueError("expected a value, got the end")
    (kind, text), rest = tokens[0], tokens[1:]
    if kind == "text":
        return json.loads(text.replace("\n", "\\n").replace("\t", "\\t")), rest
    if kind == "bytes":
        value = _bytes(text)
        while rest and rest[0][0] == "bytes":  # strings beside each other are one
            value, rest = value + _bytes(rest[0][1]), rest[1:]
        return value, rest
    if kind == "word":
        return {"true": True, "false": False, "null": None}[text], rest
    if kind == "number":
        number = float(text) if re.search(r"\.|(?<!0x)e", text) and not text.startswith("0x") else int(text, 0)
        if not rest or rest[0] != ("mark", "("):
            return number, rest
        items, rest = _items(rest[1:], ")")
        return cbor2.CBORTag(int(number), *items), rest
    if text == "<<":
        items, rest = _items(rest, ">>")
        return b"".join(cbor2.dumps(one) for one in items), rest
    if text == "[":
        return _items(rest, "]")
    if text == "{":
        pairs, rest = _items(rest, "}", pairs=True)
        return dict(pairs), rest
    raise ValueError(f"expected a value, got {text!r}")


def _items(tokens: _Tokens, end: str, *, pairs: bool = False) -> tuple[list[Any], _Tokens]:
    items: list[Any] = []
    if tokens and tokens[0] == ("mark", "_"):  # of indefinite length
        tokens = tokens[1:]
    while tokens and tokens[0] != ("mark", end):
        item, tokens = _value(tokens)
        if pairs:
            if not tokens or tokens[0] != ("mark", ":"):
                raise ValueError("expected a colon")
            value, tokens = _value(tokens[1:])
            item = (item, value)
        items.append(item)
        if tokens and tokens[0] == ("mark", ","):
            tokens = tokens[1:]
    if not tokens:
        raise ValueError(f"expected {end!r}, got the end")
    return items, tokens[1:]


def _bytes(text: str) -> bytes:
    kind, _, inside = text[:-1].partition("'")
    if kind == "h":
        return bytes.fromhex(re.sub(r"\s", "", inside))
    return inside.encode() if not kind else base64.b64decode(re.sub(r"\s", "", inside) + "==", altchars=b"-_")
