"""IMA lists: both forms agree, each entry extends what the kernel extends, and nothing but FormatError for anything else."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.parsers import assert_parser_is_total
from tests.world.ima_logs import FIELDS, Kernel
from writ.formats.digest import SIZES, Digest
from writ.formats.errors import FormatError
from writ.formats.eventlog import ima
from writ.formats.eventlog.ima import Measured, is_padded, parse_row, replay, row_end, summarise, to_binary

FILE = Digest.of(b"file")
OLD = Digest.of(b"file", "sha1")
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0\n"), min_size=1, max_size=40)


def every_template() -> Kernel:
    kernel = Kernel()
    kernel.measure("/bin/a", OLD, template="ima")
    kernel.measure("/bin/b c", FILE)
    kernel.measure("/bin/d", Digest.of(b"file", "sha512"), template="ima-ngv2")
    kernel.measure("/bin/e", FILE, template="ima-ngv2", kind="verity")
    kernel.measure("/bin/f", FILE, template="ima-sig", sig=b"\x03\x02signature")
    kernel.measure("/bin/g", FILE, template="ima-sig")
    kernel.measure("/bin/h", FILE, template="ima-sigv2", kind="verity", sig=b"\x06\x03signature")
    kernel.measure("/bin/i", FILE, template="ima-modsig", d_modsig=b"sha256:\0" + FILE.value, modsig=b"pkcs7")
    kernel.measure("/bin/j", FILE, template="ima-modsig")
    kernel.measure("kexec-cmdline", Digest.of(b"quiet"), template="ima-buf", buf=b"quiet")
    kernel.measure("/bin/k", FILE, template="evm-sig", evmsig=b"\x05x", iuid=b"\xe8\x03\0\0", igid=bytes(4), imode=b"\xed\x81")
    kernel.measure("/bin/l", FILE, template="d-ng|n-ng|sig", sig=b"s")
    kernel.measure("/bin/m", "sha256:" + "00" * 20, violation=True)
    kernel.measure("/bin/n", OLD, template="ima", violation=True)
    return kernel


@st.composite
def kernels(draw: st.DrawFn) -> Kernel:
    kernel = Kernel()
    for _ in range(draw(st.integers(0, 6))):
        template = draw(st.sampled_from(["ima", *FIELDS, "d-ng|n-ng"]))
        algorithm = "sha1" if template == "ima" else draw(st.sampled_from(list(SIZES)))
        more = {
            name: draw(st.binary(max_size=30)) for name in ("sig", "buf", "modsig", "evmsig") if name in FIELDS.get(template, "").split("|")
        }
        kind = draw(st.sampled_from(["ima", "verity"]))
        name, violation = draw(NAMES), draw(st.booleans())
        kernel.measure(name, Digest.of(name.encode(), algorithm), template=template, kind=kind, violation=violation, **more)
    return kernel


@given(kernels())
def test_both_forms_are_one_list_and_extend_what_the_kernel_extends(kernel: Kernel) -> None:
    assert to_binary(kernel.ascii) == kernel.binary
    for form in (kernel.binary, kernel.ascii):
        summary = summarise(form)
        assert (summary.fault, summary.entries, summary.registers, summary.unknown) == (None, kernel.entries, kernel.pcr10, ())


@given(kernels(), st.sampled_from(list(SIZES)))
def test_list_replays_in_every_bank_from_wherever_it_is_resumed(kernel: Kernel, bank: str) -> None:
    whole = replay(kernel.binary, bytes(SIZES[bank]), bank, kernel.pcr10[bank])
    assert whole is not None
    assert (whole.entries, whole.register, whole.end) == (kernel.entries, kernel.pcr10[bank], len(kernel.binary))
    assert whole.violations == summarise(kernel.binary).violations

    before = Kernel()
    rest = replay(kernel.binary[kernel.ends[0] :], before.pcr10[bank], bank, kernel.pcr10[bank])
    assert rest is not None
    assert (rest.entries, rest.end) == (kernel.entries - 1, len(kernel.binary) - kernel.ends[0])


def test_every_template_says_what_was_measured() -> None:
    kernel = every_template()
    whole = replay(kernel.binary, bytes(32), "sha256", kernel.pcr10["sha256"])
    assert whole is not None

    said = [parse_row(row) for row in whole.rows[1:]]
    assert said == [
        Measured("ima", b"/bin/a", "ima", "sha1", OLD.value),
        Measured("ima-ng", b"/bin/b_c", "ima", "sha256", FILE.value),
        Measured("ima-ngv2", b"/bin/d", "ima", "sha512", Digest.of(b"file", "sha512").value),
        Measured("ima-ngv2", b"/bin/e", "verity", "sha256", FILE.value),
        Measured("ima-sig", b"/bin/f", "ima", "sha256", FILE.value, b"\x03\x02signature"),
        Measured("ima-sig", b"/bin/g", "ima", "sha256", FILE.value),
        Measured("ima-sigv2", b"/bin/h", "verity", "sha256", FILE.value, b"\x06\x03signature"),
        Measured("ima-modsig", b"/bin/i", "ima", "sha256", FILE.value, b"", b"", b"pkcs7", "sha256", FILE.value),
        Measured("ima-modsig", b"/bin/j", "ima", "sha256", FILE.value),
        Measured("ima-buf", b"kexec-cmdline", "ima", "sha256", Digest.of(b"quiet").value, buffer=b"quiet"),
        Measured("evm-sig", b"/bin/k", "ima", "sha256", FILE.value),
        Measured("d-ng|n-ng|sig", b"/bin/l", "ima", "sha256", FILE.value, b"s"),
    ]
    assert [m.name for row in whole.violated if (m := parse_row(row, violation=True))] == [b"/bin/m", b"/bin/n"]
    assert summarise(kernel.ascii).templates == {
        "d-ng|n-ng|sig": 1, "evm-sig": 1, "ima": 2, "ima-buf": 1, "ima-modsig": 2, "ima-ng": 3, "ima-ngv2": 2, "ima-sig": 2, "ima-sigv2": 1,
    }  # fmt: skip


def test_measured_digest_shows_its_kind() -> None:
    assert Measured("ima-ngv2", b"/a", "verity", "sha256", b"\xab").described == "verity:sha256:ab"
    assert Measured("ima-ng", b"/a", "ima", "sha256", b"\xab").described == "sha256:ab"


def test_prefix_is_found_and_the_tail_not_looked_at() -> None:
    kernel = Kernel()
    kernel.measure("/bin/a", FILE)
    quoted, end = kernel.pcr10["sha256"], len(kernel.binary)

    found = replay(kernel.binary + b"\x0a\0 anything", bytes(32), "sha256", quoted)

    assert found is not None
    assert (found.entries, found.end) == (2, end)
    assert replay(kernel.binary, bytes(32), "sha256", bytes(31) + b"\1") is None
    assert replay(kernel.binary, bytes(32), "sha256", quoted, most=1) is None
    assert replay(kernel.binary, bytes(32), "sha256", quoted, most=2) is not None


def test_repeated_rows_count_each_time() -> None:
    kernel = Kernel()
    for violation in (False, False, True, True):
        kernel.measure("/bin/a", FILE, violation=violation)
    found = replay(kernel.binary, bytes(32), "sha256", kernel.pcr10["sha256"])
    assert found is not None
    assert (found.entries, found.violations, len(found.rows), len(found.violated)) == (5, 2, 3, 2)


def test_padded_hashes_of_an_old_kernel_are_recognised_and_do_not_replay() -> None:
    kernel = every_template()
    assert is_padded(kernel.binary, "sha256", kernel.padded)
    assert not is_padded(kernel.binary, "sha256", kernel.pcr10["sha256"])
    assert replay(kernel.binary, bytes(32), "sha256", kernel.padded) is None


@pytest.mark.parametrize("template", ["ima", "ima-ng"])
def test_entry_of_another_pcr_is_refused(template: str) -> None:
    kernel = Kernel()
    kernel.measure("/bin/a", OLD, template=template)
    at = kernel.ends[0]
    other = kernel.binary[:at] + b"\x0b" + kernel.binary[at + 1 :]
    with pytest.raises(FormatError, match="PCR 10"):
        replay(other, bytes(32), "sha256", kernel.pcr10["sha256"])


def test_list_of_another_pcr_is_told_by_its_first_entry() -> None:
    kernel = Kernel()
    kernel.measure("/bin/a", FILE)
    first = summarise(b"\x0b" + kernel.binary[1:])
    assert (first.pcr, first.registers["sha256"]) == (11, Kernel().pcr10["sha256"])


def test_altered_template_hash_shows_offline() -> None:
    kernel = Kernel()
    altered = kernel.binary[:4] + b"\x01" + kernel.binary[5:]
    fault = summarise(altered).fault
    assert fault is not None
    assert "template hash" in str(fault)


def test_list_with_the_template_hashes_of_a_bank_is_read() -> None:
    kernel = every_template()
    lines = [line.split(b" ") for line in kernel.ascii.splitlines()]
    rows, at = [], 0
    while at < len(kernel.binary):
        end = row_end(kernel.binary, at + 24)
        rows.append(kernel.binary[at + 24 : end])
        at = end
    for bank in ("sha256", "sha384", "sha512"):
        told = [
            bytes(SIZES[bank]) if set(line[1]) == {ord("0")} else hashlib.new(bank, ima.hashed(row)).digest()
            for line, row in zip(lines, rows, strict=True)
        ]
        binary = b"".join(b"\x0a\0\0\0" + one + row for one, row in zip(told, rows, strict=True))
        text = b"\n".join(b" ".join([line[0], one.hex().encode(), *line[2:]]) for line, one in zip(lines, told, strict=True))
        for form in (binary, text):
            summary = summarise(form)
            assert (summary.fault, summary.entries, summary.registers) == (None, kernel.entries, kernel.pcr10)
        with pytest.raises(FormatError, match="SHA-1 template hashes"):
            to_binary(text)


def test_unknown_template_replays_and_says_nothing() -> None:
    kernel = Kernel()
    kernel.measure("/bin/a", FILE, template="n-ng|other")
    whole = replay(kernel.binary, bytes(32), "sha256", kernel.pcr10["sha256"])
    assert whole is not None
    assert parse_row(whole.rows[1]) is None
    summary = summarise(kernel.binary)
    assert (summary.fault, summary.unknown, summary.registers) == (None, ("n-ng|other",), kernel.pcr10)
    assert summarise(kernel.ascii).fault is not None


def test_template_without_a_digest_or_a_name_says_nothing() -> None:
    kernel = Kernel()
    kernel.measure("/bin/a", FILE, template="n-ng|sig")
    kernel.measure("/bin/a", FILE, template="d-ng|sig")
    whole = replay(kernel.binary, bytes(32), "sha256", kernel.pcr10["sha256"])
    assert whole is not None
    assert [parse_row(row) for row in whole.rows[1:]] == [None, None]


def test_digest_of_another_size_or_an_unknown_algorithm_is_refused() -> None:
    for text in ("sha256:" + "ab" * 31, "unknown:abcd"):
        kernel = Kernel()
        kernel.measure("/bin/a", text)
        assert summarise(kernel.binary).fault is not None
    assert summarise(b"").fault is not None


def row_of(*fields: bytes, template: bytes = b"ima-ng") -> bytes:
    body = b"".join(len(value).to_bytes(4, "little") + value for value in fields)
    return len(template).to_bytes(4, "little") + template + len(body).to_bytes(4, "little") + body


DIGEST = b"sha256:\0" + FILE.value


@pytest.mark.parametrize(
    "row",
    [
        row_of(DIGEST),
        row_of(DIGEST, b"/a\0", b""),
        row_of(DIGEST, b"/a"),
        row_of(DIGEST, b"/a\0b\0"),
        row_of(b"sha256" + FILE.value, b"/a\0"),
        row_of(b"other:sha256:\0" + FILE.value, b"/a\0"),
        row_of(DIGEST, b"/a\0") + b"\0",
        row_of(DIGEST, b"/a\0", DIGEST, template=b"d-ng|n-ng|d-ng"),
        b"\x03\0\0\0ima" + bytes(20) + b"\0\1\0\0" + bytes(256),
    ],
)
def test_row_that_breaks_its_template_is_refused(row: bytes) -> None:
    with pytest.raises(FormatError):
        parse_row(row)


@pytest.mark.parametrize(
    "line",
    [
        b"10 ab ima-ng sha256:ab /a", b"10 " + b"a" * 40 + b" ima-ng sha256:ab /a x", b"x " + b"a" * 40 + b" ima-ng sha256:ab /a",
        b"10 " + b"A" * 40 + b" ima-ng sha256:ab /a", b"10 " + b"a" * 40 + b" ima-ng nodigest /a", b"10 " + b"a" * 40 + b" ima ab /a",
        b"10 " + b"a" * 40 + b" ima " + b"a" * 40 + b" " + b"n" * 256, b"10 " + b"a" * 40 + b" other x y",
        b"10 " + b"a" * 40 + b" evm-sig sha256:ab /a  a  aa x 0 0", b"10 " + b"a" * 40 + b" evm-sig sha256:ab /a  a  aa 0 0 65536", b"",
    ],
)  # fmt: skip
def test_line_that_breaks_its_form_is_refused(line: bytes) -> None:
    with pytest.raises(FormatError):
        to_binary(line + b"\n")


def test_bounds_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel()
    monkeypatch.setattr(ima, "MAX_LOG_SIZE", len(kernel.binary) - 1)
    with pytest.raises(FormatError, match="at most"):
        replay(kernel.binary, bytes(32), "sha256", kernel.pcr10["sha256"])
    with pytest.raises(FormatError, match="at most"):
        to_binary(kernel.ascii)
    assert summarise(kernel.binary).fault is not None
    monkeypatch.undo()
    monkeypatch.setattr(ima, "MAX_ENTRIES", 0)
    with pytest.raises(FormatError, match="at most 0 lines"):
        to_binary(kernel.ascii)


def test_cut_off_violation_still_counts_and_is_refused() -> None:
    kernel = Kernel(aggregate=False)
    kernel.measure("/bin/a", "sha1:" + "00" * 20, violation=True)
    summary = summarise(kernel.binary[:-1])
    assert (summary.entries, summary.violations, summary.registers) == (1, 1, kernel.pcr10)
    assert summary.fault is not None


def test_readers_are_total() -> None:
    kernel = every_template()

    def offline(data: bytes) -> None:
        if (fault := summarise(data).fault) is not None:
            raise fault

    def resumed(data: bytes) -> None:
        if replay(data, bytes(32), "sha256", kernel.pcr10["sha256"]) is None:
            raise FormatError("specimen", "the register", "another")

    assert_parser_is_total(offline, kernel.binary, flips=400, open_ended=True)
    assert_parser_is_total(offline, kernel.ascii, flips=400, open_ended=True)
    assert_parser_is_total(resumed, kernel.binary, flips=400, open_ended=True)
    for line in kernel.ascii.splitlines():
        row = to_binary(line)[24:]
        violation = b" " + b"00" * 20 + b" " in line
        assert_parser_is_total(lambda data, violation=violation: parse_row(data, violation=violation), row, flips=300)  # type: ignore[misc]
