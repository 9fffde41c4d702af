"""The matrix in docs/security.md is true: every cell names tests that exist, and all are in it.

A cell holds links, `[what happens](../tests/FILE#TEST)`, or says why there is none: "cannot: ...",
"no test yet: ...", "not built".
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
PAGE = TOP / "docs" / "security.md"

ATTACKS = (
    "replay",
    "reflection",
    "forged OPEN",
    "forged ACCEPT",
    "forged CONFIRM",
    "forged CHALLENGE",
    "forged REJECT",
    "forged REDIRECT",
    "forged CLOSE",
    "forged STOP",
    "forged move",
    "stale seq",
    "wrong key",
    "token of another gate",
    "edited in transit",
    "unknown key share",
    "downgrade",
    "spoofed source, made-up hop",
    "exhaustion",
    "stolen token or cookie",
    "stolen, forged or old ticket",
    "reused approval",
    "forged or old registration",
    "stolen invitation",
)
ROLES = ("initiator", "responder", "gate", "NAT", "rendezvous")
EXCUSES = ("cannot: ", "no test yet: ", "not built")
LINK = re.compile(r"\[[^\]]+\]\(\.\./tests/([^#)\s]+)#(test_\w+)\)")


@cache
def matrix() -> dict[str, tuple[str, ...]]:
    """The cells of each attack's row."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("|")]
    head = next(n for n, line in enumerate(lines) if line.startswith("| attack |"))
    assert cells(lines[head]) == ("attack", *ROLES)
    rows: dict[str, tuple[str, ...]] = {}
    for line in lines[head + 2 :]:
        name, *found = cells(line)
        if len(found) != len(ROLES):
            break
        rows[name] = tuple(found)
    return rows


def cells(line: str) -> tuple[str, ...]:
    return tuple(cell.strip() for cell in line.strip().strip("|").split("|"))


@cache
def names_in(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text(), filename=str(path))
    return frozenset(
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    )


def test_every_attack_has_a_row_and_every_role_a_column() -> None:
    assert tuple(matrix()) == ATTACKS
    assert {len(row) for row in matrix().values()} == {len(ROLES)}


@pytest.mark.parametrize("attack", ATTACKS)
def test_every_cell_names_a_test_or_says_why_there_is_none(attack: str) -> None:
    for role, cell in zip(ROLES, matrix()[attack], strict=True):
        links = LINK.findall(cell)
        assert links or cell.startswith(EXCUSES), f"{role}: {cell!r}"
        assert cell.count("](") == len(links), f"{role}: a link of another form in {cell!r}"
        for file, name in links:
            path = TOP / "tests" / file
            assert path.is_file(), f"{role}: {path}"
            assert name in names_in(path), f"{role}: {file} has no {name}"


def test_every_test_of_an_attack_is_in_the_matrix() -> None:
    named = {link for row in matrix().values() for cell in row for link in LINK.findall(cell)}
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        if path != Path(__file__):
            mine = {(f"attacks/{path.name}", name) for name in names_in(path)}
            assert mine - named == set()
