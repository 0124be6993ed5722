"""What an image made of the host's own files has in it."""

from __future__ import annotations

import shutil
from pathlib import Path

from attestor.measure.closure import image_of


def test_what_a_program_in_a_tree_loads_is_in_the_image(tmp_path: Path) -> None:
    shutil.copy("/usr/bin/env", tmp_path / "program")
    (tmp_path / "text").write_text("#!/bin/sh\n")
    (tmp_path / "text").chmod(0o755)
    (tmp_path / "dangling.so").symlink_to("nowhere")
    included = image_of([], [tmp_path]).include
    assert any(path.endswith("/libc.so.6") for path in included)
    assert str(tmp_path)[1:] in included
