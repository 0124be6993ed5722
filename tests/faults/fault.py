"""A named step of a program at which it is killed. The product knows nothing of it: see `tracer/sitecustomize.py`."""

from __future__ import annotations

import ast
import json
import os
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
TRACER = Path(__file__).parent / "tracer"


@dataclass(frozen=True)
class Step:
    """Just before the line of `function` in `file` that holds `text`: `name` says what has and has not happened then.

    `last` takes the last such line of the function, not the first.
    """

    name: str
    file: str
    function: str
    text: str
    last: bool = False

    def line(self) -> int:
        """Its number in the source as it stands. Fails if there is no such line: then a step was renamed, and this test with it."""
        source = (ROOT / self.file).read_text()
        lines = source.splitlines()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == self.function:
                found = [n for n in range(node.lineno + 1, (node.end_lineno or 0) + 1) if self.text in lines[n - 1]]
                if found:
                    return found[-1] if self.last else found[0]
        raise AssertionError(f"{self.file}: {self.function} has no line with {self.text!r}")

    def environment(self, armed: Path, skip: int = 0) -> dict[str, str]:
        """The environment of a process that dies there, once the file `armed` exists, after `skip` others passed."""
        fault = {"file": self.file, "function": self.function, "line": self.line(), "skip": skip, "armed": str(armed)}
        return {"WRIT_FAULT": json.dumps(fault), "PYTHONPATH": os.pathsep.join((str(TRACER), str(ROOT)))}
