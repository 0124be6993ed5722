"""DER taken apart and put together again, for specimens that are wrong in one place."""

from __future__ import annotations

from collections.abc import Callable

from writ.formats.der import element_end

NULL = b"\x05\0"


def element(tag: int, content: bytes) -> bytes:
    """One element, in its one spelling."""
    size = len(content)
    length = (size,) if size < 0x80 else (0x81, size) if size < 0x100 else (0x82, *size.to_bytes(2, "big"))
    return bytes((tag, *length)) + content


def children(raw: bytes) -> list[bytes]:
    """The elements within the first one of `raw`."""
    _, at, last = element_end(raw, 0, "specimen")
    found = []
    while at < last:
        end = element_end(raw, at, "specimen")[2]
        found.append(raw[at:end])
        at = end
    return found


def rebuilt(raw: bytes, change: Callable[[bytes], bytes], *path: int) -> bytes:
    """The element with the one at `path`, a child's number on each level, changed; the lengths around it are put right."""
    if not path:
        return change(raw)
    inner = children(raw)
    inner[path[0]] = rebuilt(inner[path[0]], change, *path[1:])
    return element(raw[0], b"".join(inner))


def prolonged(raw: bytes, more: bytes = NULL) -> bytes:
    """The element with more behind what it holds."""
    return element(raw[0], b"".join((*children(raw), more)))
