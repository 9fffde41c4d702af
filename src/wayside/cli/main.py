"""The command `wayside`: arguments and printing, nothing else.

Data goes to stdout, everything else to stderr. A command's module is imported only when that
command runs, so that `wayside connect` under ssh starts as fast as Python does. Whatever goes
wrong ends here: one line of what happened, one `hint:` line of what to do, the exit code that the
error's code begins with, and never a traceback.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import NoReturn

import click

from wayside.runtime.errors import WaysideError

from .text import plain

COMMANDS: dict[str, tuple[str, str]] = {
    "address": ("use", "The virtual address of a name, for any program to use."),
    "connect": ("use", "Connect stdin and stdout to a service of a name."),
    "demo": ("lab", "Show a laptop that moves, a flood that is stopped, a path that dies."),
    "doctor": ("see", "Check what this machine needs to run wayside."),
    "explain": ("see", "Say what an error code means and what to do."),
    "expose": ("use", "Offer a local port as a service."),
    "forward": ("use", "Carry connections to a local port to a service of a name."),
    "gate": ("daemons", "Run a gate: a firewall that is asked."),
    "host": ("daemons", "Run the agent of this host."),
    "invite": ("join", "Give out an invitation to join a domain under a name."),
    "join": ("join", "Join a domain by an invitation, and write host.toml."),
    "key": ("key", "Make, show and sign keys."),
    "lab": ("lab", "Run scenarios with real traffic in network namespaces."),
    "listen": ("use", "Wait for one connection to a service, on stdin and stdout."),
    "policy": ("policy", "Check policy files."),
    "rendezvous": ("daemons", "Run a rendezvous: it knows where hosts are."),
    "sim": ("sim", "Run the machines in made-up worlds, and check them."),
    "status": ("see", "Show what a daemon is and holds."),
    "stop": ("stop", "Have packets to this host dropped on the way."),
    "why": ("see", "Show the last refusals: what, who, which rule, and why."),
}
"""Name: the module of `wayside.cli` that has it, and its line in the help."""


class _Commands(click.Group):
    """Imports a command when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"wayside.cli.{COMMANDS[cmd_name][0]}")
        command = getattr(module, cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="wayside")
def cli() -> None:
    """Ask everyone on the way before data flows: the Connection Signaling Protocol."""


def main() -> NoReturn:
    """The console script."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command; returns the exit code.

    WAYSIDE_TRACEBACK in the environment lets our own bugs through, for whoever mends them.
    """
    try:
        code = cli.main(arguments, prog_name="wayside", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except WaysideError as error:
        tell(error)
        return error.exit_code
    except click.ClickException as error:
        return _tell_usage(error)
    except (KeyboardInterrupt, click.Abort):
        return 130
    except BrokenPipeError:
        # Whoever read our output has left; keep the interpreter from finding out again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    except Exception as error:
        if os.environ.get("WAYSIDE_TRACEBACK"):
            raise
        told = _unforeseen(error)
        tell(told)
        return told.exit_code


def _unforeseen(error: Exception) -> WaysideError:
    from wayside.kernel.plan import KernelError

    if isinstance(error, KernelError):
        return WaysideError(error.what, hint=error.hint, code="WS-1002")
    hint = "WAYSIDE_TRACEBACK=1 shows where; please report it"
    return WaysideError("this is a bug", why=repr(error), hint=hint)


def tell(error: WaysideError) -> None:
    """Print an error: what happened and who said so, its code, and what to do."""
    why = f": {error.why}" if error.why else ""
    print(plain(f"error: {error.what}{why} [{error.code}]"), file=sys.stderr)
    print(plain(f"hint: {error.hint or f'wayside explain {error.code}'}"), file=sys.stderr)


def _tell_usage(error: click.ClickException) -> int:
    context = error.ctx if isinstance(error, click.UsageError) else None
    path = context.command_path if context else "wayside"
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        print(error.format_message(), file=sys.stderr)
        return 2
    message = error.format_message()
    print(f"error: {message[:1].lower()}{message[1:].rstrip('.')} [WS-2001]", file=sys.stderr)
    print(f"hint: {path} --help", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
