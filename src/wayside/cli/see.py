"""Commands that show: status, why, doctor, explain."""

from __future__ import annotations

import difflib
import os
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from .options import FILE, daemon_socket, json_option, socket_option
from .text import plain, short, span

if TYPE_CHECKING:
    from wayside.runtime.control_types import ConnectionRecord, RefusalRecord, StatusReply

Role = Literal["host", "gate", "rendezvous"]
ROLES: tuple[Role, ...] = ("host", "gate", "rendezvous")


@click.command()
@json_option
@socket_option
def status(as_json: bool, socket_path: Path | None) -> None:
    """Show what a daemon is and holds: its connections, services, and what it dropped and why."""
    import msgspec

    from wayside.runtime.control import ask
    from wayside.runtime.control_types import StatusReply, StatusRequest

    reply = ask(daemon_socket(socket_path), StatusRequest(), StatusReply)
    if as_json:
        click.echo(msgspec.json.encode(reply))
    else:
        _print_status(reply)


def _print_status(reply: StatusReply) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False)
    console.print(f"{reply.role} {reply.name or reply.key}  up {span(reply.uptime_s)}")
    if reply.name:
        console.print(f"key {reply.key}")
    if reply.connections:
        table = Table("peer", "service", "state", "flow", "expires", "packets", box=None)
        for one in reply.connections:
            expires = "-" if one.expires_s is None else span(one.expires_s)
            row = (one.peer, one.service, one.state, one.flow, expires, str(one.packets))
            table.add_row(*map(plain, row))
        console.print(table)
        for one in reply.connections:
            for line in _journey_lines(one):
                console.print(plain(line))
    shown = len(reply.connections)
    more = f", the first {shown} shown" if shown < reply.connections_total else ""
    console.print(f"{reply.connections_total} connections{more}; {reply.refused_total} refused")
    for one in reply.filters:
        left = "-" if one.expires_s is None else span(one.expires_s)
        console.print(plain(f"stops {one.flow}: {left} left, {one.packets} packets dropped"))
    for service in reply.services:
        allow = ", ".join(service.allow) or "anyone"
        console.print(f"offers {service.service} on port {service.port} to {allow}")
    for one in reply.registrations:
        where = f"rendezvous {one.address} ({short(one.rendezvous)})"
        up = one.since_s is not None
        now = f"for {span(one.since_s)}" if one.since_s is not None else one.why or "asking"
        console.print(plain(f"{'registered' if up else 'not registered'} with {where}: {now}"))
    if reply.tickets:
        whose = "has tickets of" if reply.role == "host" else "was shown tickets on"
        what = "gates" if reply.role == "host" else "OPENs"
        console.print(f"{whose} {reply.tickets} {what}")
    for reason, count in sorted(reply.dropped.items()):
        console.print(f"dropped {count} datagrams: {reason}")


def _journey_lines(one: ConnectionRecord) -> list[str]:
    """What a connection is beside its flow: on the wire, at the other end, by whom, moved."""
    if one.wire == one.flow and not one.via and not one.stands:
        return []
    lines = [f" {one.peer} {one.service}: leaves as {one.wire}"]
    if one.there and one.there != one.wire:
        lines.append(f"   arrives as {one.there}")
    if one.stands:
        lines.append(f"   {one.stands}")
    boxes = ", ".join(f"{hop.role} {short(hop.key)}" for hop in one.via)
    way = f"by way of {boxes}" if boxes else "direct"
    if one.hidden:
        way += "; hidden"
    if one.redirected_by:
        way += "; sent there by " + ", ".join(map(short, one.redirected_by))
    lines.append(f"   {way}")
    for sub in one.subflows:
        who = f" by {sub.by}{f', rule {sub.rule}' if sub.rule else ''}" if sub.by else ""
        why = f": {sub.why}" if sub.why else ""
        lines.append(f"   subflow {sub.wire}: {sub.state}{who}{why}")
    if one.moves:
        gap = f", our last in {one.gap_ms:.0f} ms" if one.gap_ms is not None else ""
        lines.append(f"   moved {one.moves} times{gap}")
    return lines


@click.command()
@click.argument("target", default="")
@json_option
@socket_option
def why(target: str, as_json: bool, socket_path: Path | None) -> None:
    """Show the last refusals, newest first; with TARGET, those about this name or address."""
    import msgspec

    from wayside.runtime.control import ask
    from wayside.runtime.control_types import WhyReply, WhyRequest

    reply = ask(daemon_socket(socket_path), WhyRequest(target=target), WhyReply)
    if as_json:
        click.echo(msgspec.json.encode(reply))
        return
    for refusal in reply.refusals:
        click.echo(_refusal_text(refusal))
    if not reply.refusals:
        click.echo(f"nothing was refused{f' about {target}' if target else ''}", err=True)


def _refusal_text(refusal: RefusalRecord) -> str:
    from wayside.runtime.codes import CODES

    title = CODES[refusal.code].title if refusal.code in CODES else ""
    lines = [
        f"{span(refusal.age_s)} ago: {refusal.transport} {refusal.service} to {refusal.target}",
        f"  refused by  {refusal.by}{f', rule {refusal.rule}' if refusal.rule else ''}",
        f"  reason      {refusal.reason or '(none given)'}",
        f"  code        {refusal.code} {title}",
        f"hint: {refusal.hint or f'wayside explain {refusal.code}'}",
    ]
    return "\n".join(map(plain, lines))


@click.command()
@click.argument("code", default="")
def explain(code: str) -> None:
    """Say what CODE (such as WS-3001) means and what to do; without it, list all codes."""
    from wayside.runtime.codes import CODES
    from wayside.runtime.errors import ConfigError

    if not code:
        for name, entry in CODES.items():
            click.echo(f"{name}  {entry.title}")
        return
    name = code.upper() if code.upper().startswith("WS-") else f"WS-{code}"
    if name not in CODES:
        near = difflib.get_close_matches(name, CODES, n=1)
        hint = f"did you mean {near[0]}?" if near else "wayside explain"
        raise ConfigError(f"no such code: {code}", hint=hint, code="WS-2001")
    click.echo(f"{name}  {CODES[name].title}\n\n{textwrap.fill(CODES[name].text, 78)}")


@click.command()
@click.option("--config", type=FILE, help="The role's file, to check its key and port.")
@click.option("--role", type=click.Choice(ROLES), default="host", show_default=True)
@json_option
def doctor(config: Path | None, role: Role, as_json: bool) -> int:
    """Check what this machine needs to run wayside, and what is in its way; changes nothing."""
    import json

    from wayside.runtime.checkup import examine

    findings = examine(role, config, os.environ)
    if as_json:
        rows = [
            {"name": one.name, "ok": one.ok, "text": one.text, "hint": one.hint} for one in findings
        ]
        click.echo(json.dumps({"v": 1, "ok": all(one.ok for one in findings), "checks": rows}))
    else:
        for one in findings:
            click.echo(f"{'ok  ' if one.ok else 'FAIL'}  {one.name}: {one.text}")
            if not one.ok:
                click.echo(f"hint: {one.hint}")
    return 0 if all(one.ok for one in findings) else 1
