"""The style, the simplicity budget and the specification, kept by tests and not by good will.

- Sizes: a file ends at 500 lines, a function at 70, a class at 12 attributes; core at 5,300 lines
  of code.
- Imports: one arrow, core <- kernel <- runtime <- api <- lab <- cli; core is pure.
- Simplicity: 8 messages; a machine has at most 8 states and 5 timers; 12 events, 13 effects.
- Specification: every requirement R-x.y of docs/spec.md is cited by a test, and nothing cites a
  requirement that the specification does not have.

Lines of core are lines with code on them: an essay at the head of a file is not complexity.
"""

from __future__ import annotations

import ast
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import get_args

import pytest

TOP = Path(__file__).resolve().parent.parent
SOURCE = TOP / "src" / "wayside"
SPEC = TOP / "docs" / "spec.md"

FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70
CLASS_ATTRIBUTES_MAX = 12
CORE_LINES_MAX = 5450
MESSAGES_MAX = 8
STATES_MAX = 8
TIMERS_MAX = 5
EVENTS_MAX = 12
EFFECTS_MAX = 13

LAYERS = ("core", "kernel", "runtime", "api", "lab", "cli")
"""Each may import what stands before it."""

IMPURE = frozenset(
    {"asyncio", "datetime", "os", "random", "secrets", "select", "socket", "subprocess"}
    | {"threading", "time", "pathlib", "nftables", "pyroute2", "structlog", "click", "rich"}
)
VAGUE = frozenset({"utils.py", "helpers.py", "manager.py", "common.py", "misc.py"})
REQUIREMENT = re.compile(r"\bR-\d+(?:\.\d+)+\b")


def files_of(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (TOP / folder).rglob("*.py"))


ALL = files_of("src", "tests", "bench")
OURS = files_of("src")


def name_of(path: Path) -> str:
    return str(path.relative_to(TOP))


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def code_lines(path: Path) -> int:
    """Lines with code: no blank line, no comment, no docstring."""
    docs: set[int] = set()
    for node in ast.walk(tree_of(path)):
        value = getattr(node, "value", None)
        if isinstance(node, ast.Expr) and isinstance(value, ast.Constant):
            docs.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    noise = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    lines: set[int] = set()
    with tokenize.open(path) as file:
        for token in tokenize.generate_tokens(file.readline):
            if token.type not in noise and token.string:
                lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - docs)


def attributes_of(node: ast.ClassDef) -> set[str]:
    """Fields of a class, and what its methods set on self."""
    names: set[str] = set()
    for part in node.body:
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
            if "ClassVar" not in ast.unparse(part.annotation):
                names.add(part.target.id)
        elif isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef):
            for inner in ast.walk(part):
                if (
                    isinstance(inner, ast.Attribute)
                    and isinstance(inner.ctx, ast.Store)
                    and isinstance(inner.value, ast.Name)
                    and inner.value.id == "self"
                ):
                    names.add(inner.attr)
    return names


def is_record(node: ast.ClassDef) -> bool:
    """A map of the wire or of the log, as wide as the format that it spells out; no behaviour."""
    bases = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
    spelt = {ast.unparse(part.target) for part in node.body if isinstance(part, ast.AnnAssign)}
    acts = any(isinstance(part, ast.FunctionDef) for part in node.body)
    return not acts and bool(bases & {"Struct", "TypedDict", "Reply"} or "FIELDS" in spelt)


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of every module that a file imports, wherever the import stands."""
    package = path.relative_to(SOURCE.parent).with_suffix("").parts[:-1]
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *(node.module.split(".") if node.module else ())))
            yield node.lineno, module
            for alias in node.names:
                yield node.lineno, f"{module}.{alias.name}"


def layer_of(module: str) -> int | None:
    parts = module.split(".")
    if parts[0] != "wayside" or len(parts) < 2 or parts[1] not in LAYERS:
        return None
    return LAYERS.index(parts[1])


def uncovered(spec: str, tests: str) -> list[str]:
    """The requirements of the specification that no test cites."""
    cited = set(REQUIREMENT.findall(tests))
    return sorted(set(REQUIREMENT.findall(spec)) - cited, key=requirement_order)


def requirement_order(name: str) -> list[int]:
    return [int(number) for number in name.removeprefix("R-").split(".")]


def test_no_file_is_longer_than_a_reader_takes_in() -> None:
    sizes = {name_of(path): len(path.read_text().splitlines()) for path in ALL}
    assert {name: size for name, size in sizes.items() if size > FILE_LINES_MAX} == {}


def test_no_function_is_longer_than_a_screen() -> None:
    long: dict[str, int] = {}
    for path in ALL:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > FUNCTION_LINES_MAX:
                    long[f"{name_of(path)}:{node.lineno} {node.name}"] = lines
    assert long == {}


def test_no_class_keeps_more_than_a_person_can_hold() -> None:
    wide: dict[str, int] = {}
    for path in OURS:
        for node in ast.walk(tree_of(path)):
            if not isinstance(node, ast.ClassDef) or is_record(node):
                continue
            if len(attributes_of(node)) > CLASS_ATTRIBUTES_MAX:
                wide[f"{name_of(path)}:{node.lineno} {node.name}"] = len(attributes_of(node))
    assert wide == {}


def test_every_file_says_what_it_is_about() -> None:
    silent = [name_of(path) for path in OURS if path.read_text() and not doc_of(path)]
    assert silent == []


def doc_of(path: Path) -> str | None:
    return ast.get_docstring(tree_of(path))


def test_no_file_has_a_name_that_says_nothing() -> None:
    assert [name_of(path) for path in OURS if path.name in VAGUE] == []


def test_folders_are_one_level_deep() -> None:
    assert [name_of(path) for path in OURS if len(path.relative_to(SOURCE).parts) > 2] == []


def test_imports_follow_the_one_arrow() -> None:
    against: list[str] = []
    for path in OURS:
        own = layer_of(".".join(path.relative_to(SOURCE.parent).with_suffix("").parts))
        for line, module in imports_of(path):
            other = layer_of(module)
            if own is not None and other is not None and other > own:
                against.append(f"{name_of(path)}:{line} imports {module}")
    assert against == []


def test_the_core_imports_neither_clock_nor_chance_nor_socket() -> None:
    impure = [
        f"{name_of(path)}:{line} imports {module}"
        for path in sorted((SOURCE / "core").glob("*.py"))
        for line, module in imports_of(path)
        if module.split(".")[0] in IMPURE
    ]
    assert impure == []


def test_the_core_stays_small() -> None:
    sizes = {path.name: code_lines(path) for path in sorted((SOURCE / "core").glob("*.py"))}
    assert sum(sizes.values()) <= CORE_LINES_MAX, sizes


def test_there_are_eight_messages() -> None:
    from wayside.core.messages import MESSAGES, Message

    assert len(members_of(Message)) == MESSAGES_MAX
    assert set(MESSAGES.values()) == set(members_of(Message))


def test_events_and_effects_stay_few() -> None:
    from wayside.core.effects import Effect
    from wayside.core.events import Event

    assert 0 < len(members_of(Event)) <= EVENTS_MAX
    assert 0 < len(members_of(Effect)) <= EFFECTS_MAX


def members_of(union: object) -> tuple[type, ...]:
    assert isinstance(union, UnionType)
    return get_args(union)


def test_machines_have_few_states_and_timers() -> None:
    from wayside.core.connection import State
    from wayside.core.passage import Stage
    from wayside.core.timers import Timer

    assert len(State) <= STATES_MAX
    assert len(Stage) <= STATES_MAX
    assert len(Timer) <= TIMERS_MAX


def test_tests_wait_for_nothing_but_a_real_kernel() -> None:
    """No real sleep outside tests/netns: time is an argument."""
    sleeping = [
        f"{name_of(path)}:{node.lineno}"
        for path in files_of("tests")
        if "netns" not in path.parts
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("time.sleep", "sleep", "asyncio.sleep")
        and [ast.unparse(argument) for argument in node.args] != ["0"]
    ]
    assert sleeping == []


def test_every_requirement_is_proved_by_a_test() -> None:
    tests = "".join(path.read_text() for path in files_of("tests") if path != Path(__file__))
    assert uncovered(SPEC.read_text(), tests) == []


def test_nothing_cites_a_requirement_that_is_not_there() -> None:
    known = set(REQUIREMENT.findall(SPEC.read_text()))
    assert known, "the specification numbers its requirements R-x.y"
    wrong = [
        f"{name_of(path)}: {name}"
        for path in ALL
        if path != Path(__file__)
        for name in sorted(set(REQUIREMENT.findall(path.read_text())) - known)
    ]
    assert wrong == []


def test_every_measure_of_the_bench_is_in_its_list() -> None:
    inside = tree_of(TOP / "bench" / "inside.py")
    measures = next(
        node.value
        for node in inside.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "MEASURES"
    )
    assert isinstance(measures, ast.Dict)
    names = [ast.literal_eval(key) for key in measures.keys if key is not None]
    listed = set(re.findall(r"`([a-z-]+)`", (TOP / "bench" / "README.md").read_text()))
    assert names
    assert [name for name in names if name not in listed] == []


def test_uncovered_requirements_are_found_in_order() -> None:
    spec = "**R-10.1** a **R-2.4** b **R-2.4.1** c **R-2.10** d"
    assert uncovered(spec, "test of R-2.4") == ["R-2.4.1", "R-2.10", "R-10.1"]


@pytest.mark.parametrize("word", ["http://", "https://", "file://"])
def test_lock_files_name_no_registry(word: str) -> None:
    """Why: docs/decisions.md. A lock that names a host works only where that host is reached."""
    locks = sorted(TOP.glob("requirements*.lock"))
    assert len(locks) == 2
    assert [lock.name for lock in locks if word in lock.read_text()] == []


def test_lock_files_pin_every_dependency_with_its_hash() -> None:
    for lock in TOP.glob("requirements*.lock"):
        entries = re.split(r"\n(?=\S)", lock.read_text().strip())
        assert len(entries) > 10
        assert [one for one in entries if "==" not in one or "--hash=sha256:" not in one] == []
