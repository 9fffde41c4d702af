"""The kernel's part of wayside against a real kernel: see inside_data_plane.py."""

import os
from pathlib import Path

import pytest

from wayside.lab.enclosure import Enclosure

pytestmark = pytest.mark.netns

INSIDE = Path(__file__).with_name("inside_data_plane.py")
TOP = Path(__file__).parent.parent.parent


def test_what_the_inside_asserts_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [str(TOP / "src"), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    errors = tmp_path / "errors.txt"
    with Enclosure([str(INSIDE), str(tmp_path)], errors) as world:
        assert world.process.stdout
        said = world.process.stdout.read()
        assert world.process.wait(120) == 0, said + errors.read_text()
