"""What the verbs of `verifier` share: how one is added, the client it speaks with, the files it reads and writes."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from verifier.check.finding import read_file
from verifier.config import PREFIX, VerifierConfig
from verifier.operate import Client, Server
from writ.formats.errors import FormatError, Unavailable
from writ.service import cli, config

OPERATOR_KEY: Final = "operator.key"
MAX_FILE: Final = 16 << 20

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
        url, key = url or loaded.issuer, key or loaded.state_dir / OPERATOR_KEY
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
