"""A TOML file that knows its lines: every mistake in it is one message with file and line.

`tomllib` reads TOML and forgets where things were. Where an error needs a line, the file's own
first lines are read again: the shortest beginning of the file in which a key exists ends with the
statement that made it. That costs a few parses, on an error only, and needs no TOML parser of
our own.

Values may also come from options and from WAYSIDE_* variables; such a value keeps its origin, so
that the message names the variable and not a line that is innocent.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec

from .errors import ConfigError, WaysideError

T = TypeVar("T")
Place = tuple[str | int, ...]
"""The way to a value: `("peers", "server.lab", "key")`, `("rule", 2, "from")`."""

DOCUMENT_BYTES_MAX = 256 * 1024
"""A thousand policy rules are 150 KiB; more is no configuration."""

_AT_LINE = re.compile(r"(.*) \(at (?:line (\d+), column \d+|end of document)\)", re.DOTALL)
_AT_PATH = re.compile(r"(.*?)(?: - at `\$(.*)`)?", re.DOTALL)
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]")
_MISSING = re.compile(r"Object missing required field `(.*)`")


class Document:
    """A parsed TOML file, with what options and the environment put over it."""

    def __init__(self, path: Path | None, text: str = "") -> None:
        self.path = path
        self._lines = text.splitlines(keepends=True)
        self._origins: dict[str, str] = {}
        try:
            self.data: dict[str, Any] = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise self._syntax_error(str(error)) from error

    @classmethod
    def read(cls, path: Path) -> Document:
        """Read a file. Raises ConfigError for what is not TOML, WaysideError when unreadable."""
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise WaysideError(
                f"{path} cannot be read", why=error.strerror or str(error), code="WS-1006"
            ) from error
        if len(raw) > DOCUMENT_BYTES_MAX:
            raise ConfigError(f"{path} is larger than {DOCUMENT_BYTES_MAX} bytes", code="WS-2103")
        try:
            return cls(path, raw.decode())
        except UnicodeDecodeError as error:
            line = raw[: error.start].count(b"\n") + 1
            raise ConfigError(f"{path}:{line}: this is not UTF-8", code="WS-2103") from error

    def put(self, key: str, value: object, origin: str) -> None:
        """Set a top-level key from elsewhere; messages about it name the origin."""
        self.data[key] = value
        self._origins[key] = origin

    def error(self, at: Place, message: str, *, hint: str = "", code: str = "") -> ConfigError:
        """A message about the value at a place, with file and line."""
        return ConfigError(f"{self._where(at)}: {message}", hint=hint, code=code)

    def convert(self, raw: object, kind: type[T], at: Place = ()) -> T:
        """Turn a raw value into a msgspec Struct. Raises ConfigError: unknown key, wrong type."""
        if isinstance(raw, dict):
            names = [field.encode_name for field in msgspec.structs.fields(cast(Any, kind))]
            self._check_keys(cast(dict[str, Any], raw), names, at)
        try:
            return msgspec.convert(raw, kind)
        except msgspec.ValidationError as error:
            raise self._value_error(str(error), at) from error

    def value(self, at: Place, read: Callable[[str], T], text: str) -> T:
        """Read a text with a function that raises ValueError; raises ConfigError with the line."""
        try:
            return read(text)
        except ValueError as error:
            raise self.error(at, str(error)) from error

    def _check_keys(self, raw: Mapping[str, Any], names: Iterable[str], at: Place) -> None:
        known = list(names)
        for key in raw:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
                hint = f"did you mean `{near[0]}`?" if near else f"known keys: {', '.join(known)}"
                raise self.error((*at, key), f"unknown key `{key}`", hint=hint, code="WS-2101")

    def _value_error(self, message: str, at: Place) -> ConfigError:
        found = _AT_PATH.fullmatch(message)
        what, steps = (found[1], found[2] or "") if found else (message, "")
        place: Place = at + tuple(
            name or int(number) for name, number in _STEP.findall(steps) if number != "..."
        )
        missing = _MISSING.fullmatch(what)
        if missing:
            return self.error(place, f"the key `{missing[1]}` is missing", code="WS-2104")
        what = what.replace("`object`", "a table").replace("`array`", "a list")
        name = next((str(step) for step in reversed(place) if isinstance(step, str)), "")
        return self.error(place, f"`{name}`: {what[0].lower()}{what[1:]}", code="WS-2102")

    def _syntax_error(self, message: str) -> ConfigError:
        found = _AT_LINE.fullmatch(message)
        what, line = (found[1], found[2]) if found else (message, None)
        number = int(line) if line else max(1, len(self._lines))
        text = self._lines[number - 1].strip() if number <= len(self._lines) else ""
        hint = ""
        if what.startswith(("Cannot overwrite", "Cannot declare")):
            name = text.strip("[]").partition("=")[0].strip()
            what, hint = f"`{name}` is there twice", "remove one of the two"
        return ConfigError(f"{self.path}:{number}: {what}", hint=hint, code="WS-2103")

    def _where(self, at: Place) -> str:
        if at and at[0] in self._origins:
            return self._origins[str(at[0])]
        if self.path is None:
            return "configuration"
        return f"{self.path}:{self._line_of(at)}" if at else str(self.path)

    def _line_of(self, at: Place) -> int:
        """The number of the line where the statement begins that makes the value at `at`."""
        low, high = 0, len(self._lines)  # a beginning of `low` lines lacks it, one of `high` has it
        while True:
            middle = (low + high) // 2
            near = [*range(middle, low, -1), *range(middle + 1, high)]
            for count in near:
                data = self._beginning(count)
                if data is not None:
                    low, high = (low, count) if _has(data, at) else (count, high)
                    break
            else:
                return low + 1

    def _beginning(self, count: int) -> dict[str, Any] | None:
        try:
            return tomllib.loads("".join(self._lines[:count]))
        except tomllib.TOMLDecodeError:
            return None


def _has(data: object, at: Place) -> bool:
    for step in at:
        if isinstance(data, dict) and step in data:
            data = cast(dict[Any, Any], data)[step]
        elif isinstance(data, list) and isinstance(step, int):
            items = cast(list[Any], data)
            if step >= len(items):
                return False
            data = items[step]
        else:
            return False
    return True
