"""Configuration of a role: a TOML file and the environment, read once into a frozen dataclass of the role.

The dataclass is the schema. A field is `str`, `int`, `bool`, `Path` or
`tuple[str, ...]`, or one of these `| None`; what has no default is required.

    # /etc/writ/attestor.toml                     # environment, prefix ATTESTOR
    verifier = "https://verifier.example:8443"    ATTESTOR_VERIFIER=https://…
    runtime_pcr = 12                              ATTESTOR_RUNTIME_PCR=12
    strict = true                                 ATTESTOR_STRICT=true
    watched = ["/srv/a", "/srv/b"]                ATTESTOR_WATCHED=/srv/a,/srv/b
    signing_key_file = "credential:signing"       ATTESTOR_SIGNING_KEY_FILE=credential:signing

The environment overrides the file. In a `Path` field whose name ends in
`_file` or `_path` the spelling `credential:NAME` means the file NAME of
systemd's credentials, `$CREDENTIALS_DIRECTORY/NAME` (systemd.exec(5),
LoadCredential=). An environment variable that no field answers to is left
alone: Kubernetes sets some with any prefix.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import tomllib
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from writ.formats.errors import FormatError, Misuse

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")

MAX_SIZE: Final = 1 << 20
"""Bytes of a configuration file."""

_CREDENTIAL: Final = "credential:"
_CREDENTIAL_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,254}\Z", re.ASCII)
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,18})\Z", re.ASCII)


def load(cls: type[T], path: Path | None, env: Mapping[str, str], prefix: str) -> T:
    """`cls` filled from `path` (None: no file) and the variables `PREFIX_FIELD` of `env`.

    Raises FormatError for the first fault, whatever it is: no such file,
    unknown key, wrong type, missing key, or what `cls.__post_init__` refuses.
    """
    values, faults = _read(cls, path, env, prefix)
    if faults:
        raise faults[0]
    return cls(**values)


def check(cls: type[T], path: Path | None, env: Mapping[str, str], prefix: str) -> list[str]:
    """Every fault that stands between the configuration and `load`, one sentence each; empty if there is none."""
    values, faults = _read(cls, path, env, prefix)
    if not faults:
        try:
            cls(**values)
        except FormatError as error:
            faults.append(error)
    return [str(fault) for fault in faults]


def _read(cls: type[T], path: Path | None, env: Mapping[str, str], prefix: str) -> tuple[dict[str, Any], list[FormatError]]:
    """1. the file, 2. its unknown keys, 3. each field: the environment, else the file, else its default."""
    faults: list[FormatError] = []
    try:
        given = {} if path is None else _parse_file(path)
    except FormatError as error:
        return {}, [error]
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    faults.extend(_unknown(key, tuple(fields), path) for key in given if key not in fields)
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for name, field in fields.items():
        variable = f"{prefix.rstrip('_')}_{name}".upper()
        kind, optional = _kind(cls, name, hints[name])
        try:
            if variable in env:
                values[name] = _expand(name, kind, _from_text(variable, kind, optional, env[variable]), env, variable)
            elif name in given:
                values[name] = _expand(name, kind, _from_toml(name, kind, given[name], path), env, name)
            elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                place = f"environment variable {variable}" if path is None else f"key {name!r} or environment variable {variable}"
                raise FormatError(_where(path), place, "none")
        except FormatError as error:
            faults.append(error)
    return values, faults


def _where(path: Path | None) -> str:
    return "configuration" if path is None else f"configuration {path}"


def _parse_file(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SIZE + 1)
    except OSError as error:
        raise FormatError(_where(path), "a readable file", error.strerror or "an unreadable one") from None
    if len(data) > MAX_SIZE:
        raise FormatError(_where(path), f"at most {MAX_SIZE} bytes", "more")
    try:
        return tomllib.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise FormatError(_where(path), "UTF-8", "bytes that are not", error.start) from None
    except tomllib.TOMLDecodeError as error:
        place = re.search(r"\(at (?:line (\d+), column (\d+)|end of document)\)\Z", str(error))
        spot = "a fault" if place is None else "an early end" if place[1] is None else f"a fault at line {place[1]}, column {place[2]}"
        raise FormatError(_where(path), "TOML 1.0", spot) from None
    except RecursionError:
        raise FormatError(_where(path), "TOML 1.0", "values nested too deep") from None


def _unknown(key: str, known: tuple[str, ...], path: Path | None) -> FormatError:
    close = difflib.get_close_matches(key, known, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return FormatError(_where(path), f"only the keys {', '.join(known)}", f"{key[:60]!r}{hint}")


def _kind(cls: type, name: str, hint: Any) -> tuple[Any, bool]:
    """The type of a field and whether None is allowed. Raises Misuse for a type that no configuration has."""
    kind, optional = hint, False
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        arguments = [argument for argument in typing.get_args(hint) if argument is not type(None)]
        kind, optional = arguments[0], True
        if len(arguments) != 1 or len(typing.get_args(hint)) != 2:
            kind = None
    if kind not in _NAMES:
        raise Misuse(f"{cls.__name__}.{name}: no configuration of type {hint}")
    return kind, optional


_NAMES: Final[dict[Any, str]] = {
    str: "text",
    int: "an integer",
    bool: "true or false",
    Path: "a path",
    tuple[str, ...]: "an array of texts",
}


def _from_toml(name: str, kind: Any, value: object, path: Path | None) -> object:
    what = f"{_where(path)}: {name}"
    if kind == tuple[str, ...]:
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        got = "an array with something else" if isinstance(value, list) else _toml_name(value)
        raise FormatError(what, _NAMES[kind], got)
    wanted = str if kind is Path else kind
    if type(value) is not wanted:
        raise FormatError(what, _NAMES[kind], _toml_name(value))
    return _path(what, str(value)) if kind is Path else value


def _toml_name(value: object) -> str:
    names = {str: "text", int: "an integer", bool: "a boolean", float: "a float", list: "an array", dict: "a table"}
    return names.get(type(value), "a date or time")


def _from_text(variable: str, kind: Any, optional: bool, text: str) -> object:
    what = f"environment variable {variable}"
    if optional and not text:
        return None
    readers: dict[Any, Callable[[], object]] = {
        str: lambda: text,
        int: lambda: _integer(what, text),
        bool: lambda: _boolean(what, text),
        Path: lambda: _path(what, text),
        tuple[str, ...]: lambda: tuple(item.strip() for item in text.split(",")) if text else (),
    }
    return readers[kind]()


def _integer(what: str, text: str) -> int:
    if not _INTEGER.match(text):
        raise FormatError(what, "an integer", f"{len(text)} characters that are not one")
    return int(text)


def _boolean(what: str, text: str) -> bool:
    if text not in ("true", "false"):
        raise FormatError(what, "true or false", f"{len(text)} other characters")
    return text == "true"


def _path(what: str, text: str) -> Path:
    if not text or "\0" in text:
        raise FormatError(what, "a path", "an empty text" if not text else "a NUL character")
    return Path(text)


def _expand(name: str, kind: Any, value: object, env: Mapping[str, str], what: str) -> object:
    """The value, with `credential:NAME` replaced by the file it stands for."""
    text = str(value)
    if kind is not Path or not name.endswith(("_file", "_path")) or not text.startswith(_CREDENTIAL):
        return value
    credential = text.removeprefix(_CREDENTIAL)
    if not _CREDENTIAL_NAME.match(credential):
        raise FormatError(what, "credential:NAME", repr(text[:80]))
    if not (folder := env.get("CREDENTIALS_DIRECTORY")):
        raise FormatError(what, "a credential that systemd passed (LoadCredential=)", "no CREDENTIALS_DIRECTORY")
    return Path(folder) / credential
