"""The kernel's part of wayside against a real kernel: see inside_data_plane.py."""

import os
from pathlib import Path

import pytest

from netns.enclosed import said_inside

pytestmark = pytest.mark.netns

INSIDE = Path(__file__).with_name("inside_data_plane.py")
TOP = Path(__file__).parent.parent.parent
LIMIT_S = 400.0
"""It takes 85 s on two cores that have nothing else to do."""


def test_what_the_inside_asserts_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [str(TOP / "src"), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    said_inside([INSIDE, tmp_path], tmp_path / "errors.txt", LIMIT_S)
