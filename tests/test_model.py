"""The formal models of docs/model, where spin is there to check them: small bounds, every state."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parent.parent
MODELS = TOP / "docs" / "model"
SCRIPT = TOP / "script" / "model"

needs_spin = pytest.mark.skipif(
    not (shutil.which("spin") and shutil.which("gcc")),
    reason="spin and gcc are not installed: script/model says how",
)


@needs_spin
def test_the_models_hold_and_their_broken_variants_are_refused() -> None:
    ran = subprocess.run([SCRIPT, "--quick"], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    verdicts = [line.split()[0] for line in ran.stdout.splitlines()]
    assert set(verdicts) == {"holds", "refused"}
    assert verdicts.count("refused") >= 20


def test_every_property_of_a_model_has_a_variant_that_breaks_it() -> None:
    properties = {
        (path.name, name)
        for path in MODELS.glob("*.pml")
        for name in re.findall(r"assert\(.*/\* \[(\w+)\] \*/", path.read_text())
    }
    variants = {
        (line.split()[0], line.split()[2])
        for line in SCRIPT.read_text().splitlines()
        if re.match(r"\w+\.pml -D", line)
    }
    assert len(properties) > 15
    bounds = {("move.pml", "bound")}  # says only that the numbers in the model are large enough
    assert properties - variants == bounds


def test_every_variant_is_one_that_its_model_has() -> None:
    for line in SCRIPT.read_text().splitlines():
        if re.match(r"\w+\.pml -D", line):
            model, flags = line.split()[:2]
            name = flags.rpartition("-D")[2]
            assert name in (MODELS / model).read_text(), line
