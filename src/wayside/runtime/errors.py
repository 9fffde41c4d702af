"""What can go wrong, as a user meets it: what happened, why, what to do, and a code.

    WaysideError
    ├── ConfigError       2  a file or an option
    ├── Refused           3  somebody said no: who, which rule, why
    ├── NameUnknown       4  no address for a name
    ├── NoAnswer          5  nobody said anything
    ├── IdentityError     6  a key, or who holds it
    └── AgentNotRunning   7  no daemon on the control socket

The exit code is the first digit of the code (`codes.py`), and the code gives the class, so an
error that crosses the control socket comes out as what it was. `KernelError` of the data plane is
turned into one of these where it meets a user.
"""

from __future__ import annotations

from typing import ClassVar

from .codes import CODES, reject_code


class WaysideError(Exception):
    """What happened (one line), why (who said so), what to do (a command), and a WS code.

    Raises KeyError for a code that codes.py does not explain.
    """

    default_code: ClassVar = "WS-1001"

    def __init__(self, what: str, *, why: str = "", hint: str = "", code: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.hint = hint
        self.code = code or self.default_code
        self.title = CODES[self.code].title

    @property
    def exit_code(self) -> int:
        """1 failed, 2 usage, 3 refused, 4 name, 5 timeout, 6 identity, 7 agent not running."""
        return int(self.code[3])

    def __str__(self) -> str:
        why = f" ({self.why})" if self.why else ""
        hint = f"\nhint: {self.hint}" if self.hint else ""
        return f"{self.what}{why} [{self.code}]{hint}"


class ConfigError(WaysideError):
    """A configuration file, a policy, an environment variable or an option is wrong."""

    default_code = "WS-2102"


class Refused(WaysideError):
    """Somebody on the way, or the other end, said no.

    `gate`: who; `rule`: which of its rules, empty where it did not say; `reason`: for a person.
    """

    default_code = "WS-3001"

    def __init__(
        self,
        what: str,
        *,
        gate: str,
        rule: str = "",
        reason: str = "",
        hint: str = "",
        code: str = "",
    ) -> None:
        said = f"{gate}, rule {rule}" if rule else gate
        super().__init__(what, why=f"{said}: {reason}" if reason else said, hint=hint, code=code)
        self.gate = gate
        self.rule = rule
        self.reason = reason

    @classmethod
    def by(cls, gate: str, number: int, *, rule: str = "", reason: str = "") -> Refused:
        """From the facts of a REJECT; `number` is its code on the wire."""
        code = reject_code(number)
        return cls(
            CODES[code].title,
            gate=gate,
            rule=rule,
            reason=reason,
            hint=f"wayside explain {code}",
            code=code,
        )


class NameUnknown(WaysideError):
    """No address is known for a name."""

    default_code = "WS-4001"


class NoAnswer(WaysideError):
    """Neither the other end nor anyone on the way answered in time."""

    default_code = "WS-5001"


class IdentityError(WaysideError):
    """A key or certificate is wrong, or the other end does not hold the expected one."""

    default_code = "WS-6001"


class AgentNotRunning(WaysideError):
    """No daemon answers on the control socket."""

    default_code = "WS-7001"


_BY_EXIT_CODE: dict[int, type[WaysideError]] = {
    1: WaysideError,
    2: ConfigError,
    4: NameUnknown,
    5: NoAnswer,
    6: IdentityError,
    7: AgentNotRunning,
}


def error_of_code(code: str, *, what: str, why: str = "", hint: str = "") -> WaysideError:
    """The error of the class that its code says; a code from a newer version is taken as WS-1001.

    A refusal has facts of its own: build `Refused`.
    """
    code = code if code in CODES else WaysideError.default_code
    return _BY_EXIT_CODE.get(int(code[3]), WaysideError)(what, why=why, hint=hint, code=code)


def not_done_by(role: str) -> ConfigError:
    """What a daemon says that is asked for another role's business."""
    hint = "another daemon's socket? `--socket PATH` names the one to ask"
    return ConfigError(f"a {role} does not do that", hint=hint, code="WS-2001")
