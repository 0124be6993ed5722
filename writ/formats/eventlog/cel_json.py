"""systemd's own log of what it measured from user space: `/run/log/systemd/tpm2-measure.log`, close to TCG CEL-JSON.

A JSON text sequence (RFC 7464): each record is 0x1e, a JSON object, a newline.

    {"pcr": 11, "digests": [{"hashAlg": "sha256", "digest": "c0ff…"}], "content_type": "systemd",
     "content": {"string": "ready", "bootId": "0123…", "timestamp": 1234567, "eventType": "phase"}}

A record of an NV index has `nv_index` in place of `pcr`, one of an RTMR `rtmr`: they are left out, since an NV index can be
redefined by software, and an RTMR is no PCR. A last record that is cut off is refused like any other malformed one. Members that we
do not know are ignored, as the format is systemd's and grows.

That a log parses says nothing about any register; for most event types the digest is the hash of `content.string`, for others
(volume keys) of something secret.

Source: systemd 257, src/shared/tpm2-util.c (tpm2_extend_bytes), docs/TPM2_PCR_MEASUREMENTS; TCG Canonical Event Log Format 1.0,
section 5.4 (JSON).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from writ.formats.digest import PCR_COUNT
from writ.formats.errors import FormatError
from writ.formats.eventlog.uefi import BANKS
from writ.formats.strict import decode_json

MAX_LOG_SIZE: Final = 1 << 20
"""Bytes. systemd writes some dozen records of about 300 bytes a boot."""
MAX_RECORDS: Final = 2_000
MAX_RECORD: Final = 16_384
"""Bytes of one record."""
MAX_TEXT: Final = 4_096

_WHAT: Final = "systemd log"
_SEPARATOR: Final = b"\x1e"
_SIZES: Final = dict(BANKS.values())


@dataclass(frozen=True, slots=True)
class UserspaceEvent:
    """One record: what systemd says it extended into `pcr`, (bank, digest) each, and what it calls it. `text` and `type` may be ""."""

    pcr: int
    digests: tuple[tuple[str, bytes], ...]
    text: str
    type: str
    boot_id: str


def parse_systemd_log(data: bytes) -> tuple[UserspaceEvent, ...]:
    """Read the log's records of PCRs, in order. No bytes are no records. Raises FormatError, and nothing else, on any bytes."""
    if len(data) > MAX_LOG_SIZE:
        raise FormatError(_WHAT, f"at most {MAX_LOG_SIZE} bytes", f"{len(data)} bytes")
    if not data:
        return ()
    if not data.startswith(_SEPARATOR) or not data.endswith(b"\n"):
        raise FormatError(_WHAT, "records between 0x1e and a newline", "other bytes")
    texts = data[1:].split(_SEPARATOR)
    if len(texts) > MAX_RECORDS:
        raise FormatError(_WHAT, f"at most {MAX_RECORDS} records", str(len(texts)))
    events = (_event(text) for text in texts)
    return tuple(event for event in events if event is not None)


def encode_systemd_log(events: tuple[UserspaceEvent, ...]) -> bytes:
    """The bytes in which systemd would write these events."""
    return b"".join(_SEPARATOR + json.dumps(_record(event)).encode("ascii") + b"\n" for event in events)


def _record(event: UserspaceEvent) -> dict[str, object]:
    return {
        "pcr": event.pcr,
        "digests": [{"hashAlg": bank, "digest": digest.hex()} for bank, digest in event.digests],
        "content_type": "systemd",
        "content": {"string": event.text, "bootId": event.boot_id, "eventType": event.type},
    }


def _event(text: bytes) -> UserspaceEvent | None:
    """One record, or None for one of an NV index or an RTMR."""
    if not text.endswith(b"\n"):
        raise FormatError(_WHAT, "a newline behind each record", "none")
    record = decode_json(text, f"{_WHAT} record", max_size=MAX_RECORD)
    if not isinstance(record, dict):
        raise FormatError(_WHAT, "an object a record", type(record).__name__)
    if "pcr" not in record:
        if "nv_index" in record or "rtmr" in record:
            return None
        raise FormatError(_WHAT, "a record with pcr, nv_index or rtmr", "none of them")
    pcr = record["pcr"]
    if not isinstance(pcr, int) or isinstance(pcr, bool) or not 0 <= pcr < PCR_COUNT:
        raise FormatError(_WHAT, f"a PCR from 0 to {PCR_COUNT - 1}", repr(pcr)[:40])
    content = record.get("content", {})
    if record.get("content_type") != "systemd" or not isinstance(content, dict):
        raise FormatError(_WHAT, "content of type systemd", repr(record.get("content_type"))[:40])
    return UserspaceEvent(pcr, _digests(record.get("digests")), *(_text(content, name) for name in ("string", "eventType", "bootId")))


def _digests(value: Any) -> tuple[tuple[str, bytes], ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= len(_SIZES):
        raise FormatError(_WHAT, f"1 to {len(_SIZES)} digests", type(value).__name__)
    found: dict[str, bytes] = {}
    for item in value:
        bank, text = (item.get("hashAlg"), item.get("digest")) if isinstance(item, dict) else (None, None)
        if not isinstance(bank, str) or bank not in _SIZES or bank in found:
            raise FormatError(_WHAT, "a known hash algorithm, once", repr(bank)[:40])
        if not isinstance(text, str) or len(text) != 2 * _SIZES[bank] or set(text) - set("0123456789abcdef"):
            raise FormatError(_WHAT, f"{_SIZES[bank]} bytes of {bank} in lower-case hex", repr(text)[:40])
        found[bank] = bytes.fromhex(text)
    return tuple(found.items())


def _text(content: dict[str, Any], name: str) -> str:
    value = content.get(name, "")
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise FormatError(_WHAT, f"{name} of at most {MAX_TEXT} characters", type(value).__name__)
    return value
