"""`wayside policy check`: is this policy well written, and does it do what its tests expect?"""

from __future__ import annotations

from pathlib import Path

import click

from .options import FILE


@click.group()
def policy() -> None:
    """Check policy files."""


@policy.command()
@click.argument("file", type=FILE)
def check(file: Path) -> None:
    """Read FILE and run the tests in it; a daemon refuses a policy that does not pass this."""
    from wayside.runtime.errors import ConfigError
    from wayside.runtime.policy_file import read_policy, told

    read = read_policy(file)
    rules, tests = len(read.policy.rules), len(read.tests)
    if read.failed:
        for failed in read.failed:
            click.echo(told(failed), err=True)
        raise ConfigError(
            f"{file}: the policy fails {len(read.failed)} of its {tests} tests",
            hint="the first rule that fits decides: is another rule before the one you mean?",
            code="WS-2105",
        )
    click.echo(f"{file}: {rules} rules, default {read.policy.default}, {tests} tests passed")
    if not tests:
        click.echo(f"hint: add a [[test]] to {file}: it keeps the policy from drifting", err=True)
