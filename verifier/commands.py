"""What the verbs of `verifier` share: how one is added, the client it speaks with, the files it reads and writes, times."""

from __future__ import annotations

import argparse
import base64
import binascii
import os
import re
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final

from verifier.check.finding import read_file
from verifier.config import PREFIX, VerifierConfig
from verifier.operate import Client, Server
from writ.formats.corim import read_corim
from writ.formats.errors import FormatError, Unavailable
from writ.formats.keys import PublicKey, parse_jwk, parse_spki
from writ.formats.measurement import parse_measured
from writ.formats.strict import decode_json
from writ.service import cli, config

OPERATOR_KEY: Final = "operator.key"
MAX_FILE: Final = 16 << 20
PEM_HEAD: Final = b"-----BEGIN PUBLIC KEY-----"

Verb = Callable[[argparse.Namespace], int]


def verb(verbs: Any, name: str, text: str, run: Verb, *, remote: bool = True) -> argparse.ArgumentParser:
    """A verb that runs `run`; a `remote` one has the options of `connected`."""
    made: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text)
    made.set_defaults(run=run)
    cli.add_json_flag(made)
    if remote:
        made.add_argument("--url", metavar="URL", help="address of the verifier (or VERIFIER_URL; else the issuer of --config)")
        made.add_argument("--api-key-file", type=Path, metavar="FILE", help="API key (or VERIFIER_API_KEY_FILE; else the one of --config)")
        made.add_argument("--ca-file", type=Path, metavar="FILE", help="CA of the verifier's certificate")
        made.add_argument("--namespace", metavar="NAME", help="namespace, where the key reaches several")
    return made


def group(verbs: Any, name: str, text: str) -> Any:
    """A verb that has verbs."""
    return verbs.add_parser(name, help=text, description=text).add_subparsers(dest="action", required=True, metavar="ACTION")


def config_of(args: argparse.Namespace) -> VerifierConfig:
    """The configuration of --config and the environment. Raises FormatError, Unavailable."""
    return config.load(VerifierConfig, args.config, os.environ, PREFIX)


def connected(args: argparse.Namespace) -> Client:
    """The client that the options, the environment or the configuration name; it is closed when the command ends. Raises FormatError."""
    url = args.url or os.environ.get("VERIFIER_URL")
    key = args.api_key_file or (Path(os.environ["VERIFIER_API_KEY_FILE"]) if "VERIFIER_API_KEY_FILE" in os.environ else None)
    if url is None or key is None:
        if args.config is None:
            raise FormatError("--url and --api-key-file", "both, or --config of a verifier on this machine", "neither")
        loaded = config_of(args)
        first = loaded.state_dir / OPERATOR_KEY
        if key is None and not os.path.lexists(first):
            raise Unavailable("API key file", f"no file {first}: run `verifier init`, or name one by --api-key-file")
        url, key = url or loaded.issuer, key or first
    client = Client(Server(url, key, args.ca_file, args.namespace))
    args.closing.callback(client.close)
    return client


def show(args: argparse.Namespace, value: object) -> int:
    """The value is printed, and the command accepted."""
    cli.emit(value, args.json)
    return cli.ACCEPTED


# --- files --------------------------------------------------------------------------------------------------------------


def read(path: Path) -> bytes:
    """The bytes of a file of at most `MAX_FILE`. Raises Unavailable, FormatError."""
    return read_file(path, MAX_FILE)


def corim_file(path: Path) -> bytes:
    """The bytes of a file that holds reference values as one CoRIM of ours. Raises Unavailable, and FormatError that names the file."""
    data = read(path)
    try:
        read_corim(data)
    except FormatError as error:
        raise FormatError(str(path), "reference values (a CoRIM)", _other(data) or f"another file ({error})"[:200]) from None
    return data


def _other(data: bytes) -> str | None:
    """What the bytes are, where they are a measurement."""
    try:
        parse_measured(data)
    except FormatError:
        return None
    return "a measurement: `reference capture --measurement` makes reference values of it"


def text(path: Path) -> str:
    """The text of a file. Raises Unavailable, FormatError."""
    try:
        return read(path).decode("utf-8")
    except UnicodeDecodeError:
        raise FormatError(path.name, "UTF-8 text", "other bytes") from None


def write(path: Path, data: bytes) -> None:
    """The file holds `data`. Raises Unavailable."""
    try:
        path.write_bytes(data)
    except OSError as error:
        raise Unavailable(f"file {path}", error.strerror or "cannot be written") from None


def make_directory(path: Path) -> None:
    """The directory of --out is there. Raises Unavailable."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable("--out", f"expected a directory, or a place for one, at {path}: {error.strerror}") from None


def write_secret(path: Path, data: bytes) -> None:
    """The file holds `data`, and is its owner's alone (0600). Raises Unavailable."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise Unavailable(f"file {path}", error.strerror or "cannot be written") from None
    with os.fdopen(handle, "wb") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(data)


def public_key(path: Path) -> PublicKey:
    """The key in a file: PEM as `openssl pkey -pubout` writes it, or a JWK. Raises FormatError, Unavailable."""
    data = read(path)
    if not data.startswith(PEM_HEAD):
        if not data.lstrip().startswith(b"{"):
            got = "a private one: `openssl pkey -pubout` makes the public one of it" if b"PRIVATE KEY-----" in data else "another file"
            raise FormatError(str(path), "a public key, in PEM or as a JWK", got)
        return parse_jwk(decode_json(data, str(path)))
    body, _, rest = data.removeprefix(PEM_HEAD).partition(b"-----END PUBLIC KEY-----")
    try:
        der = base64.b64decode(b"".join(body.split()), validate=True)
    except binascii.Error:
        raise FormatError(str(path), "base64", "something else") from None
    if rest.strip():
        raise FormatError(str(path), "one public key", "more behind it")
    return parse_spki(der)


# --- times --------------------------------------------------------------------------------------------------------------


def duration(value: str) -> int:
    """Seconds of a time such as 4h, 90m, 2d or 3600."""
    found = re.fullmatch(r"([0-9]{1,9})([smhd]?)", value)
    if found is None:
        raise argparse.ArgumentTypeError(f"expected a time such as 4h, 90m or 2d, got {value[:40]!r}")
    return int(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}[found[2]]


def moment(value: str) -> int:
    """Seconds since the epoch: digits, or an ISO 8601 date or time, in UTC where it names no zone; a date ends when its day does."""
    if re.fullmatch(r"[0-9]{1,18}", value):
        return int(value)
    try:
        return seconds(date.fromisoformat(value) if len(value) == 10 else datetime.fromisoformat(value))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a date, a time or seconds, got {value[:40]!r}") from None


def seconds(value: object) -> int:
    """Seconds since the epoch of what a TOML file or `moment` reads: a date, a time or seconds. Raises FormatError."""
    if isinstance(value, datetime):
        return int((value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp())
    if isinstance(value, date):
        return int(datetime(value.year, value.month, value.day, 23, 59, 59, tzinfo=UTC).timestamp())
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise FormatError("not_after", "a date, a time or seconds", type(value).__name__)
