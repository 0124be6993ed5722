"""Configuration: every fault is named, and nothing is guessed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from writ.formats.errors import FormatError, Misuse
from writ.service.config import check, load


@dataclass(frozen=True, slots=True)
class Specimen:
    """One field of each kind."""

    verifier: str
    runtime_pcr: int = 12
    strict: bool = True
    state: Path = Path("/var/lib/writ")
    signing_key_file: Path | None = None
    watched: tuple[str, ...] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        if not 8 <= self.runtime_pcr <= 15:
            raise FormatError("runtime_pcr", "8 to 15", str(self.runtime_pcr))


FULL = """
verifier = "https://verifier.example"
runtime_pcr = 14
strict = false
state = "/srv/state"
signing_key_file = "credential:signing"
watched = ["/a", "/b"]
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "role.toml"
    path.write_text(text)
    return path


def test_file_fills_every_field(tmp_path: Path) -> None:
    got = load(Specimen, written(tmp_path, FULL), {"CREDENTIALS_DIRECTORY": "/run/credentials/x"}, "ROLE")

    assert got == Specimen("https://verifier.example", 14, False, Path("/srv/state"), Path("/run/credentials/x/signing"), ("/a", "/b"))


def test_environment_overrides_the_file_and_suffices_alone(tmp_path: Path) -> None:
    env = {
        "ROLE_VERIFIER": "https://other.example",
        "ROLE_RUNTIME_PCR": "9",
        "ROLE_STRICT": "true",
        "ROLE_SIGNING_KEY_FILE": "/etc/key",
        "ROLE_WATCHED": "/c, /d",
        "ROLE_SERVICE_PORT": "left alone",
    }

    assert load(Specimen, written(tmp_path, FULL), env, "ROLE").runtime_pcr == 9
    expected = Specimen("https://other.example", 9, True, Path("/var/lib/writ"), Path("/etc/key"), ("/c", "/d"))
    assert load(Specimen, None, env, "ROLE") == expected


def test_empty_variable_unsets_what_is_optional(tmp_path: Path) -> None:
    got = load(Specimen, written(tmp_path, FULL), {"ROLE_SIGNING_KEY_FILE": "", "ROLE_WATCHED": ""}, "ROLE")

    assert got.signing_key_file is None
    assert got.watched == ()


def test_unknown_key_is_named_with_the_known_ones_and_the_closest(tmp_path: Path) -> None:
    with pytest.raises(FormatError) as caught:
        load(Specimen, written(tmp_path, 'verifier = "x"\nruntime_prc = 12'), {}, "ROLE")

    assert "'runtime_prc' (did you mean 'runtime_pcr'?)" in caught.value.got
    assert "verifier, runtime_pcr, strict" in caught.value.expected


def test_missing_key_says_both_places_where_it_can_stand(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="key 'verifier' or environment variable ROLE_VERIFIER, got none"):
        load(Specimen, written(tmp_path, ""), {}, "ROLE")
    with pytest.raises(FormatError, match="environment variable ROLE_VERIFIER, got none"):
        load(Specimen, None, {}, "ROLE")


@pytest.mark.parametrize(
    "line, expected",
    [
        ("runtime_pcr = true", "an integer, got a boolean"),
        ("runtime_pcr = 12.0", "an integer, got a float"),
        ('runtime_pcr = "12"', "an integer, got text"),
        ("strict = 1", "true or false, got an integer"),
        ("state = 5", "a path, got an integer"),
        ('state = ""', "a path, got an empty text"),
        ('state = "a\\u0000b"', "a path, got a NUL character"),
        ('watched = "/a"', "an array of texts, got text"),
        ("watched = [1]", "an array of texts, got an array with something else"),
        ("watched = {}", "an array of texts, got a table"),
        ("verifier = 1979-05-27", "text, got a date or time"),
        ('signing_key_file = "credential:../x"', "credential:NAME"),
        ('signing_key_file = "credential:"', "credential:NAME"),
        ('signing_key_file = "credential:x"', "no CREDENTIALS_DIRECTORY"),
        ("runtime_pcr = 16", "8 to 15, got 16"),
    ],
)
def test_wrong_value_says_expected_and_got(tmp_path: Path, line: str, expected: str) -> None:
    text = line if line.startswith("verifier") else f'verifier = "x"\n{line}'
    with pytest.raises(FormatError, match=expected):
        load(Specimen, written(tmp_path, text), {}, "ROLE")


@pytest.mark.parametrize(
    "variable, value",
    [("RUNTIME_PCR", "012"), ("RUNTIME_PCR", "+9"), ("RUNTIME_PCR", " 9"), ("STRICT", "yes"), ("STRICT", ""), ("STATE", "")],
)
def test_wrong_variable_is_named_and_its_value_is_not_shown(variable: str, value: str) -> None:
    with pytest.raises(FormatError) as caught:
        load(Specimen, None, {"ROLE_VERIFIER": "x", f"ROLE_{variable}": value}, "ROLE")

    assert caught.value.what == f"environment variable ROLE_{variable}"
    assert not value or repr(value) not in str(caught.value)


def test_text_that_looks_like_a_credential_in_another_field_is_text(tmp_path: Path) -> None:
    assert load(Specimen, written(tmp_path, 'verifier = "credential:x"'), {}, "ROLE").verifier == "credential:x"


def test_broken_toml_says_where_and_shows_nothing_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="line 2, column 6") as caught:
        load(Specimen, written(tmp_path, 'verifier = "x"\nhunt er2 = 1'), {}, "ROLE")

    assert "hunt" not in str(caught.value)


@pytest.mark.parametrize("data", [b"\xff\xfe", b"a = " + b"[" * 5000, b"a = ", b"#" * (1 << 20) + b"#"])
def test_bytes_that_are_no_configuration_are_a_format_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "role.toml").write_bytes(data)
    with pytest.raises(FormatError):
        load(Specimen, tmp_path / "role.toml", {}, "ROLE")


@given(st.binary(max_size=200))
def test_any_bytes_load_or_are_a_format_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(data)
    assert all(isinstance(problem, str) for problem in check(Specimen, path, {}, "ROLE"))


def test_missing_file_and_folder_are_format_errors(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(FormatError, match="a readable file"):
            load(Specimen, path, {}, "ROLE")


def test_check_lists_every_fault_and_nothing_when_there_is_none(tmp_path: Path) -> None:
    problems = check(Specimen, written(tmp_path, 'strict = 1\nextra = 2\nstate = ""'), {}, "ROLE")

    assert len(problems) == 4
    assert check(Specimen, written(tmp_path, 'verifier = "x"'), {}, "ROLE") == []
    assert check(Specimen, written(tmp_path, 'verifier = "x"\nruntime_pcr = 3'), {}, "ROLE") == ["runtime_pcr: expected 8 to 15, got 3"]


def test_field_of_a_kind_that_no_file_can_give_is_misuse() -> None:
    @dataclass(frozen=True)
    class Odd:
        ratio: float = 1.0

    @dataclass(frozen=True)
    class Mixed:
        name: str | int = "x"

    for cls in (Odd, Mixed):
        with pytest.raises(Misuse, match="no configuration of type"):
            load(cls, None, {}, "ROLE")
