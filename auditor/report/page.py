"""An HTML page that is one file: no script, no address, nothing fetched. Whatever stands in it was escaped here.

Its policy forbids all but the one style, by its hash; so a text that got in as markup would be without effect, and none does.

Source: W3C Content Security Policy Level 3, sections 3.3 and 6.1; HTML, section 13.1.2.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

STYLE: Final = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a; background: #fff }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.2rem; border-bottom: 1px solid #ccc }
table { border-collapse: collapse; width: 100% } th, td { text-align: left; vertical-align: top; padding: .25rem .6rem .25rem 0 }
th { border-bottom: 1px solid #999 }
td { border-bottom: 1px solid #e4e4e4; overflow-wrap: break-word; word-break: break-word; min-width: 3.5rem }
code { font: 13px/1.4 ui-monospace, monospace; overflow-wrap: anywhere } .none { color: #555 }
.verdict { padding: .6rem .9rem; border-left: .5rem solid } .refused { border-color: #b00020 } .incomplete { border-color: #a86400 }
.accepted { border-color: #1b6e2a } svg { width: 100%; height: 2rem }
"""
POLICY: Final = (
    f"default-src 'none'; style-src 'sha256-{base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()}'; "
    "base-uri 'none'; form-action 'none'"
)


@dataclass(frozen=True, slots=True)
class Markup:
    """HTML of ours. Text of anybody else is a str until `tag` has escaped it."""

    text: str


def tag(name: str, *inside: Markup | str, **attributes: str) -> Markup:
    """An element; text in it and in its attributes means nothing but itself. What does not print is spelt out."""
    named = "".join(f' {key.rstrip("_")}="{_escaped(value)}"' for key, value in attributes.items())
    return Markup(f"<{name}{named}>{''.join(one.text if isinstance(one, Markup) else _escaped(one) for one in inside)}</{name}>")


def _escaped(text: str) -> str:
    spelt = "".join(char if char.isprintable() or char in "\n\t" else char.encode("unicode_escape").decode("ascii") for char in text)
    return html.escape(spelt, quote=True)


def table(heads: Sequence[str], rows: Iterable[Sequence[Markup | str]], none: str) -> Markup:
    """A table, or the sentence `none` where it has no rows."""
    made = [tag("tr", *(tag("td", cell) for cell in row)) for row in rows]
    if not made:
        return tag("p", none, class_="none")
    return tag("table", tag("thead", tag("tr", *(tag("th", head) for head in heads))), tag("tbody", *made))


def bars(spans: Sequence[tuple[int, int]], start: int, end: int, label: str) -> Markup:
    """A line from `start` to `end` in which `spans` are filled, and the rest is a gap."""
    width = max(1, end - start)
    drawn = "".join(_bar(1000 * (a - start) / width, 1000 * max(b - a, width / 1000) / width) for a, b in spans)
    title = tag("title", label).text
    return Markup(
        f'<svg viewBox="0 0 1000 20" preserveAspectRatio="none" role="img" aria-label="{_escaped(label)}">{title}'
        f'<rect x="0" y="0" width="1000" height="20" fill="#f3d9d9"></rect>{drawn}</svg>'
    )


def _bar(x: float, width: float) -> str:
    return f'<rect x="{x:.2f}" y="0" width="{width:.2f}" height="20" fill="#2f6f9f"></rect>'


def page(title: str, sections: Iterable[Markup]) -> bytes:
    """The whole file."""
    return "".join(_page(title, sections)).encode()


def _page(title: str, sections: Iterable[Markup]) -> Iterator[str]:
    yield '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{_escaped(POLICY)}">'
    yield '<meta name="referrer" content="no-referrer"><meta name="viewport" content="width=device-width">'
    yield f"{tag('title', title).text}<style>{STYLE}</style></head><body>\n"
    for section in sections:
        yield section.text + "\n"
    yield "</body></html>\n"
