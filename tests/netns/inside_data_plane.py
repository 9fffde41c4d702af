"""The inside of test_data_plane.py: a pytest run in an enclosure, over one world."""

import sys
from pathlib import Path

import pytest

from wayside.lab.enclosure import leave_with_the_outer_process

PARTS = ("gate_plane", "nat_plane", "host_plane", "error_plane", "helper", "mptcp", "usable")

if __name__ == "__main__":
    leave_with_the_outer_process()
    here = Path(__file__).parent
    sys.path.insert(0, str(here.parent))
    options = ["-p", "no:cacheprovider", "-p", "netns.data_plane_stage", "-q", "-W", "error"]
    files = [str(here / f"inside_{part}.py") for part in PARTS]
    sys.exit(int(pytest.main([*options, *sys.argv[2:], *files])))
