"""Every scenario with real daemons and real traffic, over both families; and the demo."""

import sys
from pathlib import Path

import pytest

from wayside.lab import demo, runner
from wayside.lab.scenario import SCENARIOS

README = Path(__file__).resolve().parents[2] / "README.md"

pytestmark = pytest.mark.netns


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("name", list(SCENARIOS))
def test_every_check_of_a_scenario_is_ok(name: str, family: int, tmp_path: Path) -> None:
    result = runner.run(name, family, tmp_path)
    words = Path(result.ladder).with_suffix(".txt").read_text()
    failed = [check for check in result.checks if not check.ok]
    # Seen only if something fails, perhaps where nobody can look for it, and only its end.
    sys.stdout.write("\n".join([words, *map(str, failed)]) + "\n")
    assert result.ok, failed
    assert "OPEN" in words
    if (name, family) == ("legacy", 4):  # of every gate, NAT and peer: what works, and what is said
        told = README.read_text().partition("<!-- legacy: begin -->\n")[2]
        found = Path(result.ladder).with_name("table.txt").read_text()
        assert told.partition("<!-- legacy: end -->")[0] == found


def test_the_demo_tells_only_what_is_true(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo.main_demo(out=tmp_path) == 0
    told = capsys.readouterr().out
    assert "NOT" not in told
    assert "REJECT" in told
    assert told.rstrip().endswith(str(tmp_path / "ladder.svg"))
