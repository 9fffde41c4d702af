"""A mistake in a TOML file is one message, with its line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wayside.runtime.document import DOCUMENT_BYTES_MAX, Document
from wayside.runtime.errors import ConfigError, WaysideError


class Inner(msgspec.Struct):
    size: int
    names: list[str] = []


class Outer(msgspec.Struct):
    listen: int = 1
    addresses: list[int] = []
    inner: dict[str, dict[str, Any]] = {}


def read(text: str) -> None:
    document = Document(Path("a.toml"), text)
    outer = document.convert(document.data, Outer)
    for name, raw in outer.inner.items():
        document.convert(raw, Inner, ("inner", name))


def refused(text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        read(text)
    return caught.value


def test_an_unknown_key_names_the_nearest_one_and_the_line() -> None:
    error = refused("listen = 1\n# a comment\n\nadresses = [1]\n")
    assert str(error) == (
        "a.toml:4: unknown key `adresses` [WS-2101]\nhint: did you mean `addresses`?"
    )
    assert error.exit_code == 2


def test_an_unknown_key_that_is_near_nothing_lists_what_there_is() -> None:
    assert refused("zzz = 1").hint == "known keys: listen, addresses, inner"


def test_an_unknown_key_in_a_table_is_found_after_a_multi_line_value() -> None:
    text = 'addresses = [\n  1,\n  2,\n]\n[inner."a.b"]\nsize = 1\nnmes = [\n "x"\n]\n'
    error = refused(text)
    assert (error.what, error.hint) == (
        "a.toml:7: unknown key `nmes`",
        "did you mean `names`?",
    )


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('\nlisten = "x"\n', "a.toml:2: `listen`: expected `int`, got `str`"),
        ('addresses = [\n1,\n"x"]\n', "a.toml:1: `addresses`: expected `int`, got `str`"),
        ("inner = 3\n", "a.toml:1: `inner`: expected a table, got `int`"),
        ("[inner.a]\nnames = []\n", "a.toml:1: the key `size` is missing"),
    ],
)
def test_a_wrong_type_says_what_was_expected_and_where(text: str, what: str) -> None:
    assert refused(text).what == what


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("listen = 1\nlisten = 2\n", "a.toml:2: `listen` is there twice"),
        ("[inner.a]\nsize=1\n[inner.a]\nsize=2\n", "a.toml:3: `inner.a` is there twice"),
    ],
)
def test_a_key_that_is_there_twice_is_named(text: str, what: str) -> None:
    assert refused(text).what == what


@pytest.mark.parametrize(
    ("text", "line"), [("listen = \n", 1), ("listen = 1\n=\n", 2), ("\n\naddresses = [1", 3)]
)
def test_a_syntax_error_has_a_line(text: str, line: int) -> None:
    error = refused(text)
    assert error.what.startswith(f"a.toml:{line}: ")
    assert error.code == "WS-2103"


def test_a_value_from_elsewhere_is_blamed_on_where_it_came_from() -> None:
    document = Document(Path("a.toml"), "listen = 1\n")
    document.put("listen", "x", "WAYSIDE_LISTEN")
    with pytest.raises(ConfigError, match=r"^WAYSIDE_LISTEN: `listen`: expected `int`"):
        document.convert(document.data, Outer)


def test_a_file_that_is_not_text_is_refused_with_the_line(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes(b"listen = 1\n# \xff\n")
    with pytest.raises(ConfigError, match=r"a\.toml:2: this is not UTF-8"):
        Document.read(path)


def test_a_file_that_is_too_large_or_not_there_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    with pytest.raises(WaysideError, match="cannot be read"):
        Document.read(path)
    path.write_bytes(b"#" * (DOCUMENT_BYTES_MAX + 1))
    with pytest.raises(ConfigError, match="larger"):
        Document.read(path)


@given(st.text(max_size=60))
def test_any_text_is_a_document_or_one_error_with_its_line(text: str) -> None:
    message = "a.toml:1:"
    try:
        read(text)
    except ConfigError as error:
        message = error.what
    assert re.match(r"a\.toml:\d+:", message)


lines = st.lists(
    st.sampled_from(["# comment", "", 'text = """\na\n"""', "list = [\n1,\n\n2]", "[table]"]),
    max_size=5,
    unique=True,
)


@given(before=lines, after=lines)
def test_the_line_of_a_key_is_found_among_anything(before: list[str], after: list[str]) -> None:
    after = [line for line in after if line not in before]
    head = "".join(f"{line}\n" for line in before)
    text = f"{head}wrong = [\n 1 ]\n" + "".join(f"{line}\n" for line in after)
    document = Document(Path("a.toml"), text)
    at = ("table", "wrong") if "[table]" in before else ("wrong",)
    assert document.error(at, "x").what == f"a.toml:{head.count(chr(10)) + 1}: x"
