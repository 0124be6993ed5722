"""The agent manifest: people's TOML in, one meaning out, and every mistake named."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.parsers import assert_parser_is_total
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Misuse
from writ.formats.forward import forward_set
from writ.formats.grants import Grant, grant_set
from writ.formats.manifest import ComponentSpec, Manifest, encode_manifest, manifest_digest, parse_manifest
from writ.formats.measurement import MODES, PROFILES
from writ.formats.secret import Secret
from writ.formats.strict import encode_cbor
from writ.formats.tree import COMPONENT_KINDS

FULL = b"""\
version = 1
agent = "reporter"
namespace = "billing"
audience = "tools.example.org"
command = ["/usr/bin/python3", "main.py", ""]
grants = [
  ["call", "files/reports/*"],
  ["call", "mail/send"],
]

[components.main]
kind = "code"
source = "src"
exclude = ["*.pyc", "docs/*.md"]

[components.python]
kind = "interpreter"
source = "/usr/bin/python3"

[components."v1.prompts"]
kind = "prompts"
source = "."

[secrets.mail-key]
expose = "MAIL_API_KEY"
"""
MANIFEST = Manifest(
    agent="reporter",
    namespace="billing",
    audience="tools.example.org",
    command=("/usr/bin/python3", "main.py", ""),
    components=(
        ComponentSpec("main", "code", "src", ("*.pyc", "docs/*.md")),
        ComponentSpec("python", "interpreter", "/usr/bin/python3", ()),
        ComponentSpec("v1.prompts", "prompts", ".", ()),
    ),
    secrets=(Secret("mail-key", "MAIL_API_KEY"),),
    grants=(Grant("call", "files/reports/*"), Grant("call", "mail/send")),
)
LEAST = b'version = 1\nagent = "a"\nnamespace = "n"\naudience = "x"\ncommand = ["/bin/true"]\n'

HELD = b'[components.m]\nkind = "weights"\nsource = "m"\n'

ports = st.integers(1, 3127)
names = st.from_regex(r"[a-z0-9]([a-z0-9._-]{0,8}[a-z0-9])?", fullmatch=True)
texts = st.text(
    alphabet=st.characters(exclude_categories=["Cs"], exclude_characters=[*map(chr, range(32)), "\x7f"]), min_size=1, max_size=12
)
paths = texts.filter(lambda text: all(part not in {"", ".", ".."} for part in text.removeprefix("/").split("/")))
patterns = paths.filter(lambda text: "**" not in text and not text.startswith("/"))
grants = st.tuples(st.sampled_from(["call", "read"]), st.from_regex(r"[a-z]{1,5}(/[a-z]{1,5}){0,2}(/\*)?", fullmatch=True))


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    others = [kind for kind in COMPONENT_KINDS if kind not in {"interpreter", "image"}]
    components = {
        part: ComponentSpec(part, draw(st.sampled_from(others)), draw(paths), tuple(sorted(draw(st.sets(patterns, max_size=3)))))
        for part in draw(st.sets(names, max_size=4))
    }
    if draw(st.booleans()):
        components["python"] = ComponentSpec("python", "interpreter", draw(paths), ())
    if draw(st.booleans()):
        include = tuple(sorted(draw(st.sets(patterns, max_size=3))))
        components["system"] = ComponentSpec("system", "image", draw(paths | st.just("/")), (), include=include)
    if draw(st.booleans()):
        components["kept"] = ComponentSpec("kept", "weights", draw(paths), (), "fs-verity")
    if draw(st.booleans()):
        image = draw(st.none() | paths)
        components["device"] = ComponentSpec("device", "weights", draw(paths), (), "dm-verity", image, draw(st.binary(max_size=4)))
    secrets = sorted(draw(st.sets(names, max_size=3)))
    return Manifest(
        agent=draw(names),
        namespace=draw(names),
        audience=draw(texts),
        command=(draw(texts), *draw(st.lists(texts | st.just(""), max_size=4))),
        components=tuple(components[part] for part in sorted(components)),
        secrets=tuple(Secret(secret, f"SECRET_{at}") for at, secret in enumerate(secrets)),
        grants=grant_set(draw(st.lists(grants, max_size=4))),
        profile=draw(st.sampled_from(PROFILES)),
        mode=draw(st.sampled_from(MODES)),
        devices=tuple(sorted(draw(st.sets(st.sampled_from(["v.com/c=0", "v.com/c=1", "w/d=x:y"]), max_size=3)))),
        forwards=forward_set(draw(st.dictionaries(ports, st.sampled_from(["tcp:a.test:1", "unix:/run/x.sock"]), max_size=3)).items(), "f"),
    )


# --- reading and writing -----------------------------------------------------------------------------------------------


def test_manifest_is_read_and_written_back_byte_for_byte() -> None:
    assert parse_manifest(FULL) == MANIFEST
    assert encode_manifest(MANIFEST) == FULL


@given(manifests())
def test_manifest_round_trips(manifest: Manifest) -> None:
    assert parse_manifest(encode_manifest(manifest)) == manifest


def test_least_manifest_asks_for_nothing() -> None:
    manifest = parse_manifest(LEAST)
    assert (manifest.components, manifest.secrets, manifest.grants, manifest.interpreter, manifest.image) == ((), (), (), None, None)


def test_no_bytes_are_an_error_of_another_kind() -> None:
    assert_parser_is_total(parse_manifest, FULL, flips=1_500, open_ended=True)  # TOML may end after any line


@given(st.binary(max_size=200) | st.text(alphabet="[]{}=.\"\n'#a1-T:", max_size=60).map(str.encode))
def test_rubbish_is_a_format_error(data: bytes) -> None:
    with pytest.raises(FormatError):
        parse_manifest(data)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(LEAST + b"x = " + b"[" * 30_000, id="deep arrays"),
        pytest.param(LEAST + b"x = " + b"{a=" * 20_000, id="deep tables"),
        pytest.param(LEAST + b"a." * 30_000 + b"a = 1", id="deep dotted key"),
        pytest.param(LEAST + b"[" + b"a . " * 16_000 + b"a]", id="deep table header"),
        pytest.param(LEAST + b'"\\"".' * 12_000 + b"a = 1", id="deep dotted key with escapes"),
        pytest.param(LEAST + b"'\"'." * 12_000 + b"a = 1", id="deep dotted key of literals"),
        pytest.param(LEAST + b"x = {" + b"a." * 30_000 + b"a = 1}", id="deep dotted key in an inline table"),
        pytest.param(LEAST + b"".join(b"a%d." % n + b"a." * 14 + b"a = 1\n" for n in range(1500)), id="many deep keys"),
        pytest.param(LEAST + b"x = [" + b"{a=1}," * 9_000 + b"]", id="many tables"),
        pytest.param(LEAST + b"".join(b"[[x]]\n" for _ in range(9_000)), id="long array of tables"),
        pytest.param(LEAST + b"x = " + b"9" * 60_000, id="long integer"),
        pytest.param(LEAST + b"x = 2026-13-45", id="date that does not exist"),
        pytest.param(LEAST + b"x = 0001-01-01T00:00:00+23:59", id="date at the edge"),
        pytest.param(b"#" * ((1 << 16) + 1), id="too large"),
        pytest.param(LEAST + b"\xff", id="not UTF-8"),
        pytest.param(b"\xef\xbb\xbf" + LEAST, id="byte order mark"),
    ],
)
def test_hostile_toml_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        parse_manifest(data)


def test_error_says_where_the_toml_breaks_but_does_not_repeat_it() -> None:
    with pytest.raises(FormatError, match=r"line 6, column \d+\Z") as caught:
        parse_manifest(LEAST + b"password hunter2")
    assert "hunter2" not in str(caught.value)


def changed(old: str, new: str) -> bytes:
    assert FULL.count(old.encode()) == 1
    return FULL.replace(old.encode(), new.encode())


@pytest.mark.parametrize(
    "data, message",
    [
        (changed('agent = "', 'agnt = "'), "expected keys of agent, .* got agnt"),
        (changed('exclude = ["*', 'exclud = ["*'), "components.main: expected keys of exclude, hold, .* got exclud"),
        (changed('expose = "', 'value = "'), "secrets.mail-key: expected keys of expose, got value"),
        (changed('audience = "tools.example.org"', ""), "expected audience, got none"),
        (changed("version = 1", "version = 2"), "version: expected 1, got 2"),
        (changed("version = 1", "version = true"), "version: expected 1, got True"),
        (changed("version = 1", "version = 1.5"), "version: expected 1"),
        (changed('"reporter"', '"Reporter"'), "agent: "),
        (changed('"billing"', '"bill/ing"'), "namespace: "),
        (changed('"billing"', "7"), "namespace: expected text, got int"),
        (changed('"tools.example.org"', '""'), "audience: "),
        (changed('["/usr/bin/python3", "main.py", ""]', "[]"), "command: "),
        (changed('["/usr/bin/python3", "main.py", ""]', '["", "main.py"]'), "command: "),
        (changed('["/usr/bin/python3", "main.py", ""]', '"/usr/bin/python3 main.py"'), "command: expected an array of texts, got str"),
        (changed('["/usr/bin/python3", "main.py", ""]', '["/bin/true", 1]'), "command: expected text, got int"),
        (changed('["/usr/bin/python3", "main.py", ""]', '["a\\nb"]'), "control character"),
        (changed('["/usr/bin/python3", "main.py", ""]', "[" + '"a",' * 257 + "]"), "at most 256"),
        (changed('"main.py"', '"' + "a" * 1025 + '"'), "characters"),
        (changed('kind = "code"', 'kind = "binary"'), "kind: expected one of interpreter, "),
        (changed('kind = "code"', ""), "components.main: expected kind, got none"),
        (changed('kind = "code"', 'kind = "interpreter"'), "at most one interpreter"),
        (changed('source = "src"', 'source = "../src"'), "source: "),
        (changed('source = "src"', 'source = "src/"'), "source: "),
        (changed('source = "src"', 'source = "//"'), "source: "),
        (changed('source = "src"', 'source = "src"\ninclude = ["/x"]'), "include: "),
        (LEAST + b'mode = "permit"', "mode: expected one of enforce, observe"),
        (LEAST + b"mode = true", "mode: expected text"),
        (LEAST + b'devices = ["gpu"]', "devices: expected a CDI device"),
        (LEAST + b'devices = ["v/c=0", "v/c=0"]', "devices: expected at most 16 devices, each once"),
        (LEAST + b'devices = "v/c=0"', "devices: expected an array"),
        (LEAST + b"forwards = [{ listen = 1 }]", "forwards: expected an array of {"),
        (LEAST + b'forwards = [{ listen = 1, to = "tcp:a:1", by = "x" }]', "forwards: expected an array of {"),
        (LEAST + b'forwards = [{ listen = 3128, to = "tcp:a:1" }]', "forwards.listen: expected 1 to 65535"),
        (LEAST + b'forwards = [{ listen = true, to = "tcp:a:1" }]', "forwards.listen: expected 1 to 65535"),
        (LEAST + b'forwards = [{ listen = 1, to = "tcp:A:1" }]', "forwards.to: expected tcp:HOST:PORT"),
        (LEAST + b'forwards = [{ listen = 1, to = "unix:/run/../x" }]', "forwards.to: expected tcp:HOST:PORT"),
        (LEAST + b'forwards = [{ listen = 1, to = "unix:run/x" }]', "forwards.to: expected tcp:HOST:PORT"),
        (LEAST + b'forwards = [{ listen = 1, to = "tcp:a:1" }, { listen = 1, to = "tcp:b:1" }]', "forwards: expected at most 16"),
        (LEAST + b'profile = "lax"', "profile: expected one of strict, jit, strict-6.1, jit-6.1, sandboxed, sandboxed-6.1"),
        (changed('source = "src"', 'source = "./src"'), "source: "),
        (changed('source = "src"', 'source = "a\\u0000b"'), "source: "),
        (changed('"*.pyc"', '"**/x"'), "exclude: "),
        (changed('"*.pyc"', '"../x"'), "exclude: "),
        (changed('"*.pyc"', '"/x"'), "exclude: "),
        (changed('"*.pyc"', '""'), "exclude: "),
        (changed("[components.main]", "[components.Main]"), "components: "),
        (changed("[components.main]", '[components."a b"]'), "components: "),
        (changed("[components.main]", "[[components]]"), r"components: expected tables"),
        (LEAST + b"components = 1", r"components: expected tables \[components.NAME\], got int"),
        (LEAST + b"components.a = 1", "components.a: expected a table, got int"),
        (LEAST + b"secrets = []", r"secrets: expected tables \[secrets.NAME\], got list"),
        (LEAST + b"".join(b'components.c%d = {kind = "code", source = "x"}\n' % n for n in range(65)), "components: expected at most 64"),
        (LEAST + b'secrets.a.expose = "X"\nsecrets.b.expose = "X"', "an environment variable of its own"),
        (changed('"MAIL_API_KEY"', '"MAIL-KEY"'), "environment variable"),
        (changed('"MAIL_API_KEY"', '"A=B"'), "environment variable"),
        (changed('"MAIL_API_KEY"', '"HTTP_PROXY"'), "the agent's own"),
        (LEAST + b'grants = ["call"]', "grants: "),
        (LEAST + b'grants = [["call", 1]]', "grants: "),
        (LEAST + b'grants = [["call", "../x"]]', "grant"),
        (LEAST + b'grants = [["call"]]', "grants: "),
        (LEAST + b"grants = [" + b"".join(b'["call", "a%d"],' % n for n in range(65)) + b"]", "at most 64"),
    ],
)
def test_mistake_is_named(data: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        parse_manifest(data)


def test_layout_does_not_change_the_digest_and_content_does() -> None:
    assert manifest_digest(MANIFEST) == Digest.of(encode_cbor(MANIFEST.to_cbor()))
    inline = LEAST + b'components = {b = {source = "b", kind = "code"}, a = {kind = "tools", source = "a"}}'
    tables = b"# note\n" + LEAST + b'[components.a]\nkind = "tools"\nsource = "a"\n[components.b]\nkind = "code"\nsource = "b"\n'
    assert manifest_digest(parse_manifest(inline)) == manifest_digest(parse_manifest(tables))
    digests = {
        manifest_digest(manifest)
        for manifest in [
            MANIFEST,
            replace(MANIFEST, agent="reporter2"),
            replace(MANIFEST, namespace="x"),
            replace(MANIFEST, audience="x"),
            replace(MANIFEST, command=("/usr/bin/python3", "main.py")),
            replace(MANIFEST, components=MANIFEST.components[1:]),
            replace(MANIFEST, secrets=()),
            replace(MANIFEST, secrets=(Secret("mail-key", "OTHER"),)),
            replace(MANIFEST, grants=MANIFEST.grants[1:]),
        ]
    }
    assert len(digests) == 9


def test_grants_and_excludes_are_read_in_any_order() -> None:
    shuffled = FULL.replace(b'"*.pyc", "docs/*.md"', b'"docs/*.md", "*.pyc", "*.pyc"')
    shuffled = shuffled.replace(
        b'  ["call", "files/reports/*"],\n  ["call", "mail/send"],\n', b'["call", "mail/send"], ["call", "files/reports/*"]'
    )
    assert shuffled != FULL
    assert parse_manifest(shuffled) == MANIFEST


def test_manifest_that_would_be_refused_is_not_written() -> None:
    for wrong in (
        replace(MANIFEST, agent="Reporter"),
        replace(MANIFEST, command=()),
        replace(MANIFEST, audience="a\nb"),
        replace(MANIFEST, audience="\ud800"),
        replace(MANIFEST, grants=(Grant("call", "../x"),)),
    ):
        with pytest.raises(FormatError):
            encode_manifest(wrong)
    with pytest.raises(Misuse):
        encode_manifest(replace(MANIFEST, grants=MANIFEST.grants[::-1]))
    with pytest.raises(Misuse):
        encode_manifest(replace(MANIFEST, components=MANIFEST.components[::-1]))


def test_components_are_found_by_kind() -> None:
    assert MANIFEST.interpreter == "/usr/bin/python3"
    assert [part.name for part in MANIFEST.prompts] == ["v1.prompts"]
    assert (MANIFEST.tools, MANIFEST.packages, MANIFEST.image) == ((), (), None)
    image = ComponentSpec("disk", "image", "agent.erofs", ())
    assert replace(MANIFEST, components=(image,)).image == image


def test_agent_has_its_name_in_a_trust_domain() -> None:
    assert str(MANIFEST.agent_id("example.org")) == "spiffe://example.org/billing/agent/reporter"


# --- excludes ----------------------------------------------------------------------------------------------------------


def excluded(pattern: str, path: str) -> bool:
    return ComponentSpec("c", "code", "src", (pattern,)).leaves_out(path)


@pytest.mark.parametrize(
    "pattern, out, kept",
    [
        ("*.pyc", ["a.pyc", "x/a.pyc", ".pyc", "x.pyc/inside"], ["a.py", "a.pyc.txt"]),
        ("__pycache__", ["__pycache__", "__pycache__/a", "x/__pycache__/a/b"], ["my__pycache__", "__pycache__x"]),
        ("docs/*.md", ["docs/a.md", "docs/a.md/b"], ["docs/x/a.md", "x/docs/a.md", "docs", "a.md"]),
        ("a?c", ["abc", "x/aéc"], ["ac", "abbc"]),
        ("*", ["anything", "a/b"], []),
        ("a*b*c", ["abc", "aXbYc", "abbcc", "abcbc"], ["ab", "acb", "abcd"]),
        ("[ab]", ["[ab]"], ["a", "b"]),
    ],
)
def test_pattern_leaves_out_what_it_says(pattern: str, out: list[str], kept: list[str]) -> None:
    assert [path for path in out if not excluded(pattern, path)] == []
    assert [path for path in kept if excluded(pattern, path)] == []


@pytest.mark.parametrize(
    "path, out",
    [
        ("usr", False),
        ("usr/bin", False),
        ("usr/bin/python3.11", False),
        ("usr/lib/python3.11/os.py", False),
        ("usr/lib/python3.11/__pycache__/os.pyc", True),
        ("usr/bin/bash", True),
        ("usr/share", True),
        ("etc", True),
        ("home/usr/bin/python3", True),
    ],
)
def test_include_names_what_is_there_and_the_way_to_it(path: str, out: bool) -> None:
    spec = ComponentSpec("c", "image", "/", ("__pycache__",), include=("usr/bin/python3*", "usr/lib/python3*"))
    assert spec.leaves_out(path) == out


@given(st.text(alphabet="ab*?", min_size=1, max_size=8), st.text(alphabet="ab", min_size=1, max_size=8))
def test_pattern_means_what_the_regular_expression_means(pattern: str, segment: str) -> None:
    meaning = "".join({"*": ".*", "?": "."}.get(char, char) for char in pattern)
    assert excluded(pattern, segment) == (re.fullmatch(meaning, segment) is not None)


_SEGMENT = st.text(alphabet="ab", min_size=1, max_size=2)
_PATH = st.lists(_SEGMENT, min_size=1, max_size=4).map("/".join)
_PATTERNS = st.lists(_PATH | st.lists(st.text(alphabet="ab*?", min_size=1, max_size=2), min_size=1, max_size=3).map("/".join), max_size=4)


@given(_PATTERNS, _PATTERNS, _PATH)
def test_path_is_left_out_as_the_patterns_say_whatever_their_spelling(include: list[str], exclude: list[str], path: str) -> None:
    def alike(patterns: list[str], segments: list[str]) -> bool:
        return all(
            re.fullmatch("".join({"*": ".*", "?": "."}.get(char, char) for char in one), other)
            for one, other in zip(patterns, segments, strict=False)
        )

    segments = path.split("/")
    named = any(alike(pattern.split("/"), segments) for pattern in include)
    out = any(
        any(alike([pattern], [segment]) for segment in segments)
        if "/" not in pattern
        else len(segments) > pattern.count("/") and alike(pattern.split("/"), segments)
        for pattern in exclude
    )
    spec = ComponentSpec("c", "image", "/", tuple(exclude), include=tuple(include))
    assert spec.leaves_out(path) == (out or (bool(include) and not named))


@given(_PATTERNS, _PATTERNS, _PATH)
def test_name_that_is_not_among_those_of_its_directory_is_left_out(include: list[str], exclude: list[str], path: str) -> None:
    spec = ComponentSpec("c", "image", "/", tuple(exclude), include=tuple(include))
    directory, _, last = path.rpartition("/")
    names = spec.names(directory)
    assert names is None or last in names or spec.leaves_out(path)


def test_names_of_a_directory_are_the_ways_through_it_where_no_pattern_may_be_any() -> None:
    spec = ComponentSpec("c", "image", "/", (), include=("usr/bin/python3", "usr/lib/lib*.so", "lib64"))
    assert [spec.names(directory) for directory in ("usr/bin", "etc")] == [frozenset({"python3"}), frozenset()]
    assert [spec.names(directory) for directory in ("usr/lib", "lib64", "usr/bin/python3/x")] == [None] * 3
    assert ComponentSpec("c", "image", "/", (), include=("usr/bin/python3", "lib64")).names("") == frozenset({"usr", "lib64"})
    assert ComponentSpec("c", "code", "src", ("*.pyc",)).names("") is None


def test_many_stars_cost_no_more_than_the_product_of_the_lengths() -> None:
    assert not excluded("*a" * 500, "a" * 250 + "b")
    assert not excluded("a*" * 100 + "b", "a" * 4000)
