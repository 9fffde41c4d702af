"""Draws docs/states.md from the machines' own tables, so that the picture cannot lie.

    python -m wayside.lab.states > docs/states.md

A test holds the file against this.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import TypeVar

from wayside.core import passage
from wayside.core.connection import State
from wayside.core.ends import Initiator, Responder
from wayside.core.passage import Stage
from wayside.core.timers import Timer

S = TypeVar("S", bound=Enum)

HEAD = """\
# States

Drawn from the `TRANSITIONS` tables in src/wayside/core by `python -m wayside.lab.states`.
What is not drawn is refused: the machine raises `IllegalMove` and changes nothing.
"""


def document() -> str:
    """The whole text of docs/states.md."""
    stages = {before: after for before, after in passage.TRANSITIONS.items() if before is not None}
    parts = [
        HEAD,
        _section("Initiator", State, Initiator.TRANSITIONS, [State.IDLE]),
        _section("Responder", State, Responder.TRANSITIONS, [State.IDLE]),
        _section("Gate, for each connection", Stage, stages, passage.TRANSITIONS[None]),
        "A gate has no state before the ACCEPT: between OPEN and ACCEPT it remembers nothing.\n",
        "## Timers\n\n| timer | when it is over |\n|---|---|\n"
        + "".join(f"| {timer.name} | {timer.value} |\n" for timer in Timer),
    ]
    return "\n".join(parts)


def _section(title: str, kind: type[S], moves: Mapping[S, frozenset[S]], first: Iterable[S]) -> str:
    used = [state for state in kind if state in moves]
    lines = [f"## {title}", "", "| state | what it means |", "|---|---|"]
    lines += [f"| {state.name} | {state.value} |" for state in used]
    lines += ["", "```mermaid", "stateDiagram-v2"]
    lines += [f"    [*] --> {state.name}" for state in used if state in first]
    for before in used:
        lines += [f"    {before.name} --> {after.name}" for after in kind if after in moves[before]]
    lines += [f"    {state.name} --> [*]" for state in used if not moves[state]]
    return "\n".join([*lines, "```", ""])


if __name__ == "__main__":
    print(document(), end="")
