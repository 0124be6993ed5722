"""The rows of a vector manifest, and a check run in process as the command would."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from verifier import check

_ROW = re.compile(r"\| ([^|]+?) \| [^|]+:")


def rows(vectors: Path, folder: str) -> set[str]:
    """The files that the manifest of `folder` names."""
    text = (vectors / folder / "MANIFEST.md").read_text("utf-8")
    return {match[1] for line in text.splitlines() if (match := _ROW.match(line))} - {"file"}


def run(kind: str, *argv: str | Path, now: int = 1_790_000_000) -> dict[str, Any]:
    """The JSON object of `verifier check KIND …`."""
    parser = argparse.ArgumentParser()
    check.add_arguments(parser)
    return check.check(kind, parser.parse_args([kind, *map(str, argv)]), now=now)


def said(result: dict[str, Any]) -> tuple[str, list[str]]:
    """The verdict, and the codes of its reasons."""
    return str(result["verdict"]), [reason["code"] for reason in result["reasons"]]
