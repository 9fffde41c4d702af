"""A program in an enclosure, and a limit of time that holds whatever it does."""

import os
from collections.abc import Sequence
from pathlib import Path
from subprocess import TimeoutExpired

import pytest

from wayside.lab.enclosure import Enclosure


def said_inside(words: Sequence[str | os.PathLike[str]], errors: Path, limit_s: float) -> str:
    """All that Python with these arguments printed, once it has ended well.

    The limit is for all of it: who reads to the end first, and waits for the process then, waits
    for ever for one that hangs and says nothing. Leaving the enclosure kills what is inside.
    """
    with Enclosure([str(word) for word in words], errors) as world:
        try:
            said, _ = world.process.communicate(timeout=limit_s)
        except TimeoutExpired as hung:
            said = (hung.output or b"").decode(errors="replace")
            pytest.fail(f"still there after {limit_s} s\n{said}{errors.read_text()}")
        assert world.process.returncode == 0, said + errors.read_text()
    return said
