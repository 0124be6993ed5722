"""What a role tells its operator: one JSON object a line, and counters.

    {"ts":"2026-01-02T03:04:05.678Z","level":"warning","logger":"attestor","event":"peer-refused","request":"4f1c…","uid":1001}

An event is a fixed word; what varies is a field. Secrets are taken out by the
name of the field and by the look of the value, whoever logged it, and an
exception is shown by its type and places, never by its text.
"""

from __future__ import annotations

import contextlib
import contextvars
import json
import logging
import re
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Final, TextIO

from writ.formats.errors import Misuse

REDACTED: Final = "[redacted]"

_SECRET_WORDS: Final = frozenset(
    {
        "token",
        "ticket",
        "secret",
        "key",
        "authorization",
        "dpop",
        "password",
        "passphrase",
        "cookie",
        "credential",
        "proof",
        "pin",
        "pem",
        "jwt",
        "bearer",
        "activation",
    }
)
_PLAIN_ENDINGS: Final = frozenset(
    {"id", "kid", "digest", "thumbprint", "algorithm", "name", "file", "path", "count", "size", "version", "exp", "expires"}
)
_PARTS = re.compile(r"[A-Za-z0-9]+")
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_JWT = re.compile(r"eyJ[A-Za-z0-9_-]{5,}(?:\.[A-Za-z0-9_-]+){1,4}\.?")
_PEM = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)
_BEARER = re.compile(r"\b(bearer|dpop)\s+[^\s,;]{8,}", re.IGNORECASE)
_MAX_TEXT: Final = 2000
_MAX_ITEMS: Final = 100
_MAX_DEPTH: Final = 6

_request: contextvars.ContextVar[str | None] = contextvars.ContextVar("writ_request", default=None)


# --- redaction ----------------------------------------------------------------------------------------------------------


def is_secret_name(name: str) -> bool:
    """Whether a field of this name is never shown: `session_key` is, `key_id` is not."""
    parts = _PARTS.findall(name)
    words = [word.lower() for part in parts for word in (part, *_WORDS.findall(part))]
    return bool(words) and words[-1] not in _PLAIN_ENDINGS and any(word.removesuffix("s") in _SECRET_WORDS for word in words)


def redact(value: object, depth: int = 0) -> object:
    """`value` as plain JSON data, bounded, with secrets replaced; bytes become their count."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return _redact_text(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return f"[{len(value)} bytes]"
    if depth >= _MAX_DEPTH:
        return "[too deep]"
    if isinstance(value, Mapping):
        shown = list(value.items())[:_MAX_ITEMS]
        return {str(key): REDACTED if is_secret_name(str(key)) else redact(item, depth + 1) for key, item in shown}
    if isinstance(value, list | tuple | set | frozenset):
        return [redact(item, depth + 1) for item in list(value)[:_MAX_ITEMS]]
    if isinstance(value, BaseException):
        return type(value).__name__
    return _redact_text(str(value))


def _redact_text(text: str) -> str:
    text = text[: 4 * _MAX_TEXT]
    for pattern in (_PEM, _JWT, _BEARER):
        text = pattern.sub(REDACTED, text)
    return text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + "…"


# --- logging ------------------------------------------------------------------------------------------------------------


class Log:
    """A named log: `log.info("token-issued", agent=…)`. The event is a constant; everything else is a field."""

    __slots__ = ("_logger",)

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def debug(self, event: str, /, **fields: object) -> None:
        """For whoever looks for a bug."""
        self._logger.debug(event, extra={"fields": fields})

    def info(self, event: str, /, **fields: object) -> None:
        """Something happened as it should."""
        self._logger.info(event, extra={"fields": fields})

    def warning(self, event: str, /, **fields: object) -> None:
        """Something was refused or will be tried again."""
        self._logger.warning(event, extra={"fields": fields})

    def error(self, event: str, /, *, exception: BaseException | None = None, **fields: object) -> None:
        """Something of ours failed; an `exception` is shown by type and places."""
        self._logger.error(event, extra={"fields": fields}, exc_info=exception)


def get_logger(name: str) -> Log:
    """The log `name`, usually the module's own name. Writes nowhere until `configure`."""
    return Log(logging.getLogger(name))


class Seldom:
    """Whether to log now something that others can bring about as often as they like. For one thread."""

    def __init__(self, seconds: float = 10.0) -> None:
        self._seconds, self._next = seconds, 0.0

    def now(self) -> bool:
        """True once in so many seconds."""
        at = time.monotonic()
        if at < self._next:
            return False
        self._next = at + self._seconds
        return True


@contextlib.contextmanager
def request(identifier: str) -> Iterator[None]:
    """Every line logged inside, in this task or thread, carries `identifier` as its request."""
    before = _request.set(identifier[:128])
    try:
        yield
    finally:
        _request.reset(before)


class JsonLines(logging.Formatter):
    """One JSON object a record, on one line whatever is in it."""

    def format(self, record: logging.LogRecord) -> str:
        """`ts`, `level`, `logger`, `event`, `request`, then the fields; a field never replaces one of these."""
        line: dict[str, object] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": _redact_text(record.getMessage()),
        }
        if (identifier := _request.get()) is not None:
            line["request"] = _redact_text(identifier)
        fields = redact(getattr(record, "fields", {}))
        for key, value in fields.items() if isinstance(fields, dict) else ():
            line[f"field_{key}" if key in line else key] = value
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            line["error"] = type(error).__name__
            line["places"] = [f"{f.filename}:{f.lineno} {f.name}" for f in traceback.extract_tb(error.__traceback__)[-20:]]
        return json.dumps(line, separators=(",", ":"), default=str)


class _Handler(logging.StreamHandler[TextIO]):
    """Ours, so that `configure` finds it again. A log that cannot be written never stops what is logged."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is logging's
        """Nothing: there is nowhere left to say it."""


def configure(stream: TextIO, level: str = "info") -> None:
    """All logs of this process go to `stream` as JSON lines, from `level` up; a second call replaces the first.

    Raises Misuse for a level other than debug, info, warning, error.
    """
    if level not in ("debug", "info", "warning", "error"):
        raise Misuse(f"no log level {level!r}")
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _Handler)]:
        root.removeHandler(handler)
    handler = _Handler(stream)
    handler.setFormatter(JsonLines())
    root.addHandler(handler)
    root.setLevel(level.upper())


# --- counters -----------------------------------------------------------------------------------------------------------

_METRIC = re.compile(r"[a-z_][a-z0-9_]*\Z", re.ASCII)
MAX_SERIES: Final = 4096
"""Label combinations held at most; what comes beyond is counted under `writ_series_dropped_total`."""


class Counters:
    """Counts in memory, of any thread, lost with the process. Labels come from closed sets, never from a sender."""

    def __init__(self, help_texts: Mapping[str, str] | None = None) -> None:
        self._help = dict(help_texts or {})
        self._lock = threading.Lock()
        self._values: dict[tuple[str, tuple[tuple[str, str], ...]], int] = {}
        self._dropped = 0

    def add(self, name: str, labels: Mapping[str, str] | None = None, amount: int = 1) -> None:
        """Count `amount` more. Raises Misuse for a name Prometheus does not know or an amount below 0."""
        for word in (name, *(labels or ())):
            if not _METRIC.match(word):
                raise Misuse(f"no metric or label name: {word!r}")
        if amount < 0:
            raise Misuse("a counter never falls")
        series = (name, tuple(sorted((labels or {}).items())))
        with self._lock:
            if series not in self._values and len(self._values) >= MAX_SERIES:
                self._dropped += amount
                return
            self._values[series] = self._values.get(series, 0) + amount

    def value(self, name: str, labels: Mapping[str, str] | None = None) -> int:
        """The count so far, 0 if there is none."""
        with self._lock:
            return self._values.get((name, tuple(sorted((labels or {}).items()))), 0)

    def render_prometheus(self) -> str:
        """All counters, sorted, in the Prometheus text format 0.0.4."""
        with self._lock:
            rows = sorted(self._values.items())
            if self._dropped:
                rows.append((("writ_series_dropped_total", ()), self._dropped))
        lines: list[str] = []
        previous = ""
        for (name, labels), value in rows:
            if name != previous:
                if name in self._help:
                    lines.append(f"# HELP {name} {_escape(self._help[name], quote=False)}")
                lines.append(f"# TYPE {name} counter")
                previous = name
            shown = ",".join(f'{key}="{_escape(text, quote=True)}"' for key, text in labels)
            lines.append(f"{name}{{{shown}}} {value}" if shown else f"{name} {value}")
        return "".join(line + "\n" for line in lines)


def _escape(text: str, *, quote: bool) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quote else text
