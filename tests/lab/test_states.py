"""docs/states.md is drawn from the machines, and says what they do today."""

from __future__ import annotations

from pathlib import Path

from wayside.core.ends import Initiator, Responder
from wayside.lab.states import document

STATES = Path(__file__).resolve().parents[2] / "docs" / "states.md"


def test_the_file_is_what_the_tables_say() -> None:
    """If this fails: python -m wayside.lab.states > docs/states.md."""
    assert STATES.read_text() == document()


def test_every_move_of_the_ends_is_drawn() -> None:
    drawn = document()
    for machine in (Initiator, Responder):
        for before, moves in machine.TRANSITIONS.items():
            for after in moves:
                assert f"    {before.name} --> {after.name}\n" in drawn


def test_every_state_leads_to_the_end() -> None:
    for machine in (Initiator, Responder):
        moves = machine.TRANSITIONS
        done = {state for state, after in moves.items() if not after}
        assert len(done) == 1
        while True:
            more = {state for state, after in moves.items() if after & done} - done
            if not more:
                break
            done |= more
        assert done == set(moves)
