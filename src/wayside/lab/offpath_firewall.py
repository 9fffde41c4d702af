"""A mobile host's home firewall decides about connections to it, wherever it is.

    client ────┐
    guest ─────┤         ┌── north ── server
    rogue ─────┼─ core ──┴── south ─────┘
    stranger ──┘   │
                 home: the rendezvous, with a policy

First by consent: the server takes nobody without the approval of its home, and data goes straight
(the web). The guest goes straight to the server first and is sent home; the stranger does too, and
does not let itself be sent; the rogue is refused by home's own rule. Then by steering: the server
asks for no approval, and its home passes everything through its kernel (ssh, iperf3). All of that
holds in each of the server's networks.
"""

from __future__ import annotations

from dataclasses import dataclass

from wayside.lab import traffic
from wayside.lab.daemons import SEEN_LIMIT_S, Daemon, launch, within
from wayside.lab.mobile import (
    MOVED_LIMIT_S,
    Land,
    Plan,
    check_informed,
    connected,
    goes_to,
    set_up,
    start_download,
)
from wayside.lab.scenario import Trial
from wayside.lab.stage import kept
from wayside.lab.world import Node
from wayside.runtime.names import service_of

WEB, SSH, BULK = (
    service_of(port) for port in (traffic.HTTP_PORT, traffic.SSH_PORT, traffic.IPERF_PORT)
)

FINDING = f"""
default = "reject"

[[rule]]
name = "not-the-rogue"
from = ["rogue.lab"]
action = "reject"
reason = "the rogue is not welcome"

[[rule]]
name = "by-consent"
from = ["*.lab"]
to = ["server.lab"]
service = ["{WEB}", "{service_of(traffic.ECHO_PORT)}"]
action = "allow"

[[rule]]
name = "through-home"
from = ["*.lab"]
to = ["server.lab"]
service = ["{SSH}", "{BULK}"]
action = "steer"

[[test]]
from = "client.lab"
to = "server.lab"
service = "{BULK}"
direction = "in"
expect = "steer"
"""

RULE = "not-the-rogue"
RATE_BYTES_S = 2_000_000
LARGE_BYTES = 8_000_000
BULK_S = 1.0
NO_APPROVAL = "does not let redirect it"
"""What a host says of a REDIRECT by somebody whom it was not told to trust."""


@dataclass(frozen=True, slots=True)
class _Around:
    """The land, and who else asks for the server."""

    land: Land
    guest: Daemon
    rogue: Daemon
    stranger: Daemon


def play(trial: Trial) -> None:
    """Consent, in two networks; then the server changes its mode, and is reached through home."""
    around = _set_up(trial)
    land = around.land
    stage = land.stage
    _check_straight(around)
    _check_consent(land, "at first")
    _check_refused(around, "at first")
    node = land.client.node
    download = start_download(node, land.server.node, stage.to, RATE_BYTES_S)
    within(5.0, lambda: _going(land, WEB))
    land.server.hard(land.boxes["south"], 3)
    moved = within(MOVED_LIMIT_S, lambda: str(land.at) in {goes_to(c) for c in _going(land, WEB)})
    trial.check("after a move: what was approved goes on, straight", moved, str(land.at))
    check_informed(land, "after a move")
    _check_consent(land, "after a move")
    wrong = download.damage(20.0)
    trial.check("curl has the file, whole", not wrong, wrong or LARGE_BYTES / 1e6, "MB")
    _change_mode(land)
    _check_steered(land, "steered")
    land.server.hard(land.boxes["north"], 4)
    check_informed(land, "after a second move")
    _check_steered(land, "after a second move")
    _check_refused(around, "after a second move")


def _change_mode(land: Land) -> None:
    """The server asks for approvals no more: its agent starts anew, without `approvers`."""
    server = land.stage.server
    path = server.node.state / "host.toml"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(one for one in lines if not one.startswith(("approvers", "home"))))
    before = len(kept(land.meet))
    server.kill()
    launch([server])
    known = within(SEEN_LIMIT_S, lambda: len(kept(land.meet)) > before)
    land.trial.check("the server is back, without asking for approvals", known)


def _set_up(trial: Trial) -> _Around:
    daemons, nodes = trial.daemons, ("guest", "rogue", "stranger")

    def more(core: Node, meet: Daemon, peer: Daemon) -> None:
        for name in nodes:
            node, _ = trial.world.beside(name, core)
            one = daemons.host(node, redirectors=[meet] if name == "guest" else [])
            daemons.introduce(one, peer, meet if name == "rogue" else None)

    land = set_up(trial, Plan(finding=FINDING, consent=True), LARGE_BYTES, more)
    by_name = {daemon.node.name: daemon for daemon in daemons.hosts}
    return _Around(land, *(by_name[name] for name in nodes))


def _going(land: Land, service: str) -> list[dict[str, object]]:
    listed = connected(land.stage.client, land.stage.server)
    return [one for one in listed if one["service"] == service]


def _check_straight(around: _Around) -> None:
    """Who asks the server itself gets there by way of its home, or not at all."""
    trial, server = around.land.trial, around.land.stage.server
    home = around.land.meet
    to = around.guest.address(server.name, trial.family)
    fetched = traffic.curl(around.guest.node, to)
    told = [r for r in server.events() if r.event == "datagram.sent" and r.type == "REDIRECT"]
    trial.check("the server sends home who comes straight", told, len(told), "REDIRECT")
    asked = [r for r in home.events() if r.type == "REDIRECT" and r.event == "datagram.sent"]
    trial.check("where the guest gets an approval", asked, len(asked), "REDIRECT")
    whole = fetched.bytes == traffic.FILE_BYTES
    trial.check("and the guest gets in with it", whole, fetched.error or fetched.seconds, "s")
    to = around.stranger.address(server.name, trial.family)
    fetched = traffic.curl(around.stranger.node, to)
    trial.check("the stranger gets nothing", fetched.exit_code == 7, fetched.cause)
    why = around.stranger.why()
    said = why[0]["reason"] if why else ""
    trial.check("and knows that it was sent on", NO_APPROVAL in said, said)


def _check_consent(land: Land, when: str) -> None:
    """Home says yes, and sees nothing of the data."""
    stage, trial = land.stage, land.trial
    before = len(stage.client.events())
    fetched = traffic.curl(stage.client.node, stage.to)
    whole = fetched.bytes == traffic.FILE_BYTES
    trial.check(f"{when}: consent lets curl in", whole, fetched.error or fetched.seconds, "s")
    flow = _opened(stage.client, WEB, before)
    trial.check(f"{when}: its data goes straight", f"> {traffic.spelt(land.at)}:" in flow, flow)


def _check_steered(land: Land, when: str) -> None:
    """Home's kernel carries what it steers: its counters, and those of what goes straight."""
    stage, trial, meet = land.stage, land.trial, land.meet
    before = len(stage.client.events())
    running = traffic.start_iperf(stage.client.node, stage.to, BULK_S)
    carried = within(BULK_S + 5.0, lambda: _carried(meet, traffic.IPERF_PORT))
    bulk = traffic.iperf_result(running, BULK_S + 10.0)
    said = bulk.error or bulk.gbit_s
    trial.check(f"{when}: iperf3 goes through home", bulk.gbit_s > 0, said, "Gbit/s")
    flow = _opened(stage.client, BULK, before)
    home = f"{traffic.spelt(meet.node.address(trial.family))}:"
    trial.check(f"{when}: that is where its packets go", f"> {home}" in flow, flow)
    trial.check(f"{when}: home's rules count them", carried, carried, "packets")
    straight = _carried(meet, traffic.HTTP_PORT)
    trial.check(f"{when}: and none of the web (control)", not straight, straight, "packets")
    said = traffic.ssh_says(stage.client.node, land.server.node, stage.to)
    trial.check(f"{when}: ssh runs a command through home", said == "hello", said)


def _check_refused(around: _Around, when: str) -> None:
    """The rogue hears at once that it is not wanted, by which rule, and whose."""
    land, rogue = around.land, around.rogue
    trial, home = land.trial, land.meet
    refused = len(rogue.why())
    to = rogue.address(land.stage.server.name, trial.family)
    fetched = traffic.curl(rogue.node, to)
    said = f"{fetched.cause} after {fetched.seconds:.3f} s"
    trial.check(f"{when}: the rogue's curl is refused", fetched.exit_code == 7, said)
    why = rogue.why()
    known = why[0] if len(why) > refused else {"rule": "", "by": "", "reason": ""}
    ours = known["rule"] == RULE and str(known["by"]).startswith(home.name)
    said = f"{known['by']}: {known['reason']} ({known['rule']})"
    trial.check(f"{when}: by a rule of home", ours, said)
    heard = {r.peer for r in land.stage.server.events() if r.event == "connection.opened"}
    trial.check(f"{when}: the server has not heard of it", rogue.name not in heard, len(heard))


def _opened(host: Daemon, service: str, before: int) -> str:
    """The flow of a service's newest connection, of those opened after so many records."""
    for record in reversed(host.events()[before:]):
        if record.event == "connection.opened" and record.service == service:
            return record.flow
    return ""


def _carried(box: Daemon, port: int) -> int:
    """What the kernel of a box has counted of live connections to a port."""
    return sum(one["packets"] for one in box.held() if one["wire"].endswith(f":{port}"))
