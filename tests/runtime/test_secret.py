"""Secrets of boxes: what they share."""

from __future__ import annotations

from pathlib import Path

import pytest

from wayside.runtime.errors import WaysideError
from wayside.runtime.secret import SHARED, shared_secret


def test_boxes_with_the_same_file_share_a_secret_and_others_none(tmp_path: Path) -> None:
    """R-7.8."""
    here, there, other = (tmp_path / name for name in ("here", "there", "other"))
    for folder, said in ((here, b"s" * 32), (there, b"s" * 32), (other, b"t" * 40)):
        folder.mkdir()
        (folder / SHARED).write_bytes(said)
    assert len(shared_secret(here)) == 32
    assert shared_secret(here) == shared_secret(there) != shared_secret(other)
    assert shared_secret(tmp_path) == b""


def test_a_secret_that_is_too_short_is_said_so(tmp_path: Path) -> None:
    (tmp_path / SHARED).write_bytes(b"short")
    with pytest.raises(WaysideError, match="too short"):
        shared_secret(tmp_path)
