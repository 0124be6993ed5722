"""`verifier reference import` with packages, and `verifier reference predict`, as a person types them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.verifier.packages.builders import build_apt, build_deb, build_rpm, sha256
from tests.writ.formats.pe_images import make_pe
from verifier.__main__ import main
from writ.formats.corim import parse_corim


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path, code: int = 0, verb: str = "import") -> dict[str, Any]:
    assert main(["reference", verb, *map(str, arguments), "--json"]) == code
    shown: dict[str, Any] = json.loads(capsys.readouterr().out)
    return shown


def test_packages_become_corims_without_a_verifier(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    deb = build_deb(tmp_path, "tool", {"/usr/bin/tool": b"tool"}, version="1:1.0")
    rpm = build_rpm(tmp_path, "other", {"/usr/bin/other": b"other"})
    nothing = build_deb(tmp_path, "meta", {})
    shown = run(capsys, "--deb", deb, nothing, "--rpm", rpm, "--namespace", "demo", "--out", tmp_path / "out")

    assert [(row["id"], row["environment"], row["files"]) for row in shown["packages"]] == [
        ("other_1:2.5-3_noarch", "files/other", 1),
        ("tool_1:1.0_amd64", "files/tool", 1),
    ]
    assert (shown["empty"], shown["absent"], shown["signed_by"], shown["imported"]) == (["meta_1.0-1_amd64"], 0, [], False)
    corim = parse_corim((tmp_path / "out/tool_1:1.0_amd64.corim").read_bytes())
    assert corim.components == (("/usr/bin/tool", sha256(b"tool")),)


def test_snapshot_without_a_keyring_wants_a_word_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = build_apt(tmp_path / "snapshot", [build_deb(tmp_path, "tool", {"/usr/bin/tool": b"tool"})], None)
    asked = ("--repo", root, "--namespace", "demo", "--out", tmp_path / "out")

    assert "--keyring FILE, or --unsigned-repo" in json.dumps(run(capsys, *asked, code=2))
    assert len(run(capsys, *asked, "--unsigned-repo")["packages"]) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--out", "out"],
        ["--deb", "a.deb"],
        ["--deb", "a.deb", "--namespace", "demo", "--publisher", "key"],
        ["--repo", "snapshot", "--namespace", "demo", "--keyring", "k", "--unsigned-repo"],
    ],
)
def test_arguments_that_do_not_go_together_are_a_misuse(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, *arguments, code=2)


def test_package_that_cannot_be_read_imports_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = build_deb(tmp_path, "tool", {"/usr/bin/tool": b"tool"})
    (tmp_path / "bad.deb").write_bytes(b"no deb")
    for bad, code in (("bad.deb", 2), ("missing.deb", 3)):
        run(capsys, "--deb", good, tmp_path / bad, "--namespace", "demo", "--out", tmp_path / "out", code=code)
        assert not (tmp_path / "out").exists()


def test_boot_is_predicted_into_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kernel = make_pe([(".text", b"kernel")])
    magic = b"#### LoaderInfo: systemd-stub 252.39 ####"
    (tmp_path / "uki").write_bytes(make_pe([(".sdmagic", magic), (".cmdline", b"quiet"), (".linux", kernel), (".initrd", b"i")]))
    named = ("--namespace", "demo", "--id", "boot-1", "--out", tmp_path / "out")
    shown = run(capsys, "--uki", tmp_path / "uki", *named, verb="predict")

    corim = parse_corim((tmp_path / "out/boot-1.kernel-measured.corim").read_bytes())
    assert (corim.environment, shown["predicted"][0]["components"]["uki.cmdline"]) == ("boot", str(sha256(b"quiet")))
    (tmp_path / "kernel").write_bytes(kernel)
    (tmp_path / "initrd").write_bytes(b"i")
    asked = ("--kernel", tmp_path / "kernel", "--cmdline", "quiet", "--initrd", tmp_path / "initrd", *named)
    assert run(capsys, *asked, verb="predict")["predicted"][0]["components"]["initrd"] == str(sha256(b"i"))


def test_boot_that_cannot_be_predicted_whole_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "kernel").write_bytes(make_pe([(".text", b"kernel")]))
    named = ("--namespace", "demo", "--id", "boot-1", "--out", tmp_path / "out")
    asked = ("--kernel", tmp_path / "kernel", "--cmdline", "quiet", "--loader", tmp_path / "kernel", *named)
    shown = run(capsys, *asked, verb="predict", code=1)

    assert [one["name"] for one in shown["missing"]] == ["other"]
    assert not (tmp_path / "out").exists()
    run(capsys, "--kernel", tmp_path / "kernel", *named, verb="predict", code=2)
