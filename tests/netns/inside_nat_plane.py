"""A gate that rewrites: NAT outwards and inwards, a relay; for how long, and what errors say.

    client ──net 1── gate ──net 2── server
         I          P    N          R

out: I -> R leaves as N -> R; in: I -> P leaves as I -> R; relay: I -> P leaves as N -> R, and
back: I -> P leaves as P -> I at another port, by the interface that it came in.
"""

import select
import socket
import struct
import time
from collections.abc import Iterator
from typing import Any

import pytest

from netns.data_plane_stage import (
    ABSENT_S,
    CID,
    COMES_S,
    FAMILIES,
    LIFETIME_S,
    RUNNER,
    TRANSPORTS,
    Stage,
    accept,
    arrives,
    bound,
    inside,
    is_lost,
    offload,
    passed_until,
    pinhole,
    release_ip,
    rule_of,
    transfer,
    wait_until,
)
from wayside.core.address import Address, Flow, Transport
from wayside.core.rule import Action, Cid, Rule
from wayside.kernel.icmp import error_from_socket
from wayside.kernel.memory import MemoryDataPlane
from wayside.kernel.packets import build_icmp_error, build_udp, checksum, parse_flow
from wayside.kernel.plan import InstalledRule, KernelError, Put, Remove
from wayside.lab.world import Node
from wayside.runtime.helper_client import GateSetup, Helper

KINDS = ("out", "in", "relay", "back")
PORTS = (40000, 7000, 51000, 6000)
"""Of I, R, N and P."""


def crossing(stage: Stage, kind: str, family: int, transport: Transport) -> tuple[Flow, Flow]:
    """What packets look like in front of the gate, and behind it."""
    node = stage.gate.node
    i = Address(stage.client.node.address(family), PORTS[0])
    r = Address(stage.server.node.address(family), PORTS[1])
    n = Address(node.address(family, "server"), PORTS[2])
    p = Address(node.address(family, "client"), PORTS[3])
    near, far = {
        "out": ((i, r), (n, r)),
        "in": ((i, p), (i, r)),
        "relay": ((i, p), (n, r)),
        "back": ((i, p), (p.with_port(6001), i.with_port(7001))),
    }[kind]
    return Flow(transport, *near), Flow(transport, *far)


def pair(
    near: Flow, far: Flow, lifetime_s: float | None = None, renewed: bool = True
) -> list[Rule]:
    """Both rules of a connection; the note is with the first."""
    there = (near, far, "7 120 https"), (far.reversed(), near.reversed(), "")
    return [
        Rule(CID, match, Action.REWRITE, rewrite, lifetime_s, renewed, note)
        for match, rewrite, note in there
    ]


def ends(stage: Stage, near: Flow, far: Flow) -> tuple[socket.socket, socket.socket]:
    """Bound sockets of who asks and who answers."""
    at_client = far.destination.ip == near.source.ip
    node = stage.client.node if at_client else stage.server.node
    a = bound(stage.client.node, near.transport, near.source)
    b = bound(node, near.transport, far.destination)
    return a, b


def passes(stage: Stage, near: Flow, far: Flow) -> bool:
    """Whether a datagram gets there with the address that the rule says, and an answer back."""
    a, b = ends(stage, near, far)
    with a, b:
        a.sendto(b"there", (str(near.destination.ip), near.destination.port))
        data, name = b.recvfrom(100)
        assert (data, name[:2]) == (b"there", (str(far.source.ip), far.source.port))
        b.sendto(b"back", name[:2])
        answer, name = a.recvfrom(100)
        assert (answer, name[:2]) == (
            b"back",
            (str(near.destination.ip), near.destination.port),
        )
    return True


def is_stopped(stage: Stage, near: Flow, far: Flow) -> bool:
    """Whether a datagram does not get there."""
    a, b = ends(stage, near, far)
    with a, b:
        return is_lost(a, b, near.destination, b"there")


def cases() -> Iterator[Any]:
    for kind in KINDS:
        for family in FAMILIES:
            for transport in TRANSPORTS:
                yield pytest.param(
                    kind, family, transport, id=f"{kind} {transport.name.lower()}{family}"
                )


@pytest.mark.parametrize(("kind", "family", "transport"), list(cases()))
def test_a_connection_gets_through_under_another_5_tuple(
    stage: Stage, kind: str, family: int, transport: Transport
) -> None:
    near, far = crossing(stage, kind, family, transport)
    stage.gate.put(*pair(near, far))
    if transport is Transport.UDP:
        assert passes(stage, near, far)
        return
    a, b = ends(stage, near, far)
    with b:
        b.listen()
        a.connect((str(near.destination.ip), near.destination.port))
        accepted, name = b.accept()
    with a, accepted:
        assert name[:2] == (str(far.source.ip), far.source.port)
        accepted.settimeout(5.0)
        a.settimeout(5.0)
        transfer(a, accepted, 4 << 20)
        transfer(accepted, a, 4 << 20)


@pytest.mark.parametrize(("kind", "family", "transport"), list(cases()))
def test_checksums_are_right_when_no_hardware_makes_them(
    stage: Stage, kind: str, family: int, transport: Transport
) -> None:
    near, far = crossing(stage, kind, family, transport)
    links = ((stage.client.node, "to-gate"), (stage.server.node, "to-gate"))
    links += ((stage.gate.node, "to-client"), (stage.gate.node, "to-server"))
    stage.gate.put(*pair(near, far))
    try:
        for node, link in links:
            offload(node, link, on=False)
        a, b = ends(stage, near, far)
        with a, b:
            if transport is Transport.TCP:
                b.listen()
                a.connect((str(near.destination.ip), near.destination.port))
                accepted, _ = b.accept()
                with accepted:
                    transfer(a, accepted, 100_000)
                return
            for size in (0, 1, 1001, 4000):
                assert arrives(a, b, near.destination, b"x" * size)
            if family == 4:
                a.setsockopt(socket.SOL_SOCKET, 11, 1)  # SO_NO_CHECK: a UDP checksum of zero
                assert arrives(a, b, near.destination, b"unsummed")
    finally:
        for node, link in links:
            offload(node, link, on=True)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
def test_without_rules_and_after_their_removal_nothing_is_rewritten(
    stage: Stage, kind: str, family: int
) -> None:
    near, far = crossing(stage, kind, family, Transport.UDP)
    assert is_stopped(stage, near, far)
    stage.gate.put(*pair(near, far))
    assert passes(stage, near, far)
    stage.gate.apply(*(Remove(rule) for rule in pair(near, far)))
    assert is_stopped(stage, near, far)
    assert RUNNER.run(stage.gate.helper.rules()) == []


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
def test_pending_rules_go_by_themselves_whatever_packets_come(
    stage: Stage, kind: str, family: int
) -> None:
    """R-6.4."""
    near, far = crossing(stage, kind, family, Transport.UDP)
    before = time.monotonic()
    stage.gate.put(*pair(near, far, lifetime_s=0.5, renewed=False))
    after = time.monotonic()
    a, b = ends(stage, near, far)
    with a, b:
        came, lost = passed_until(a, b, near.destination)
    assert lost - before > 0.4
    assert came - after < 0.6
    assert rule_of(stage.gate, near) is None


@pytest.mark.parametrize("kind", KINDS)
def test_packets_renew_a_confirmed_rule_and_silence_ends_it(stage: Stage, kind: str) -> None:
    """R-6.4."""
    near, far = crossing(stage, kind, 4 if kind != "relay" else 6, Transport.UDP)
    stage.gate.put(*pair(near, far, lifetime_s=0.4, renewed=False))
    stage.gate.put(*pair(near, far))
    began = time.monotonic()
    a, b = ends(stage, near, far)
    with a, b:
        while time.monotonic() - began < 1.5 * LIFETIME_S:
            assert arrives(a, b, near.destination, b"on and on")
            time.sleep(0.2)
        assert rule_of(stage.gate, far.reversed()) is None, "nobody renewed the way back"
        assert rule_of(stage.gate, near).rule.rewrite == far
        time.sleep(LIFETIME_S + 0.2)
        assert is_lost(a, b, near.destination, b"too late")


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_helper_s_rules_come_back_with_what_they_rewrite(stage: Stage, kind: str) -> None:
    """R-6.5."""
    near, far = crossing(stage, kind, 6 if kind != "relay" else 4, Transport.UDP)
    rules = pair(near, far, LIFETIME_S)
    stage.gate.put(*rules)
    assert passes(stage, near, far)
    setup = GateSetup(("to-client",), ("to-server",), LIFETIME_S)
    RUNNER.run(stage.gate.helper.setup_gate(setup))
    for found in (rules_by_match(stage, False, near, far), rules_by_match(stage, True, near, far)):
        assert [one.rule for one in found] == rules
        header_bytes = 8 + (20 if near.family == 4 else 40)
        sizes = [header_bytes + len(b"there"), header_bytes + len(b"back")]
        assert [(one.packets, one.bytes) for one in found] == [(1, size) for size in sizes]
    wider = GateSetup(("to-client", "spare"), ("to-server",), LIFETIME_S)
    RUNNER.run(stage.gate.helper.setup_gate(wider))
    assert passes(stage, near, far), "a table that is made anew takes them over"
    RUNNER.run(stage.gate.helper.setup_gate(setup))
    stage.gate.apply(*(Remove(rule) for rule in rules))
    assert is_stopped(stage, near, far)


def rules_by_match(stage: Stage, looked_up: bool, near: Flow, far: Flow) -> list[InstalledRule]:
    matches = [near, far.reversed()]
    helper = stage.gate.helper
    found = RUNNER.run(helper.look_up(matches) if looked_up else helper.rules())
    return sorted(found, key=lambda one: matches.index(one.rule.match))


def test_a_box_that_is_to_rewrite_is_ready_for_it_before_the_first_rule(stage: Stage) -> None:
    """And one that is not has no such chain, so that its packets do not pay for it."""
    stage.gate.node.run("ip", "netns", "add", "fresh")
    node = Node("fresh", stage.gate.node.out)
    node.run("ip", "link", "set", "lo", "up")
    with inside(node):
        helper = Helper.start()
    try:
        for rewrites in (False, True, True):
            setup = GateSetup(("in0",), ("out0",), LIFETIME_S, rewrites=rewrites)
            RUNNER.run(helper.setup_gate(setup))
            listed = node.run("nft", "list", "table", "inet", "wayside").stdout
            assert ("chain leave {" in listed, "map from4 {" in listed) == (rewrites, rewrites)
            assert "chain stop {" not in listed
    finally:
        helper.close()
        stage.gate.node.run("ip", "netns", "delete", "fresh")


def test_what_a_rule_left_behind_is_swept_at_the_next_start(stage: Stage) -> None:
    near, far = crossing(stage, "out", 4, Transport.UDP)
    stage.gate.put(*pair(near, far))
    assert wait_until(lambda: rule_of(stage.gate, near) is None, LIFETIME_S + 1.0)
    node = stage.gate.node
    listed = ("nft", "list", "map", "inet", "wayside", "from4")
    assert str(PORTS[2]) in node.run(*listed).stdout
    RUNNER.run(stage.gate.helper.setup_gate(GateSetup(("to-client",), ("to-server",), LIFETIME_S)))
    assert str(PORTS[2]) not in node.run(*listed).stdout


def test_what_the_ledger_does_not_know_is_found_when_a_transaction_fails(stage: Stage) -> None:
    near, far = crossing(stage, "out", 4, Transport.UDP)
    other = Flow(near.transport, near.source.with_port(1), near.destination)
    stage.gate.put(*pair(other, Flow(far.transport, far.source.with_port(1), far.destination)))
    text = f"udp . {near.source.ip} . {near.source.port}"
    key = f"{text} . {near.destination.ip} . {near.destination.port}"
    element = f"{{ {key} : 192.0.2.1 . 9 }}"
    stage.gate.node.run("nft", "add", "element", "inet", "wayside", "from4", element)
    stage.gate.put(*pair(near, far))
    assert passes(stage, near, far)


def test_two_rules_whose_packets_would_leave_alike_are_not_both_taken(stage: Stage) -> None:
    near, far = crossing(stage, "relay", 4, Transport.UDP)
    other = Flow(near.transport, near.source, near.destination.with_port(6002))
    elsewhere = Flow(near.transport, far.source.with_port(51001), far.destination)
    second = Rule(Cid(b"another owner !!"), other, Action.REWRITE, elsewhere, 2.0)
    stage.gate.put(second)
    with pytest.raises(KernelError, match="same 5-tuple"):
        stage.gate.put(*pair(near, far))
    assert rule_of(stage.gate, other)
    assert wait_until(lambda: rule_of(stage.gate, other) is None, 5.0)
    stage.gate.put(*pair(near, far))
    assert passes(stage, near, far), "the other rule is over, though nobody said so"
    straight = Flow(near.transport, near.source, far.destination)
    with pytest.raises(KernelError, match="same 5-tuple"):
        stage.gate.put(accept(straight))


def test_a_connection_beside_a_rewritten_one_stays_as_it_is(stage: Stage) -> None:
    near, far = crossing(stage, "out", 4, Transport.UDP)
    beside = Flow(near.transport, near.source.with_port(40001), near.destination)
    stage.gate.put(*pair(near, far), *pinhole(beside))
    assert passes(stage, beside, beside)
    assert passes(stage, near, far)
    unsignaled = Flow(near.transport, near.source.with_port(40002), near.destination)
    assert is_stopped(stage, unsignaled, unsignaled)


def test_a_blocked_flow_is_not_rewritten_and_no_refresh_lifts_the_block(stage: Stage) -> None:
    near, far = crossing(stage, "out", 4, Transport.UDP)
    stage.gate.put(*pair(near, far))
    stage.gate.put(Rule(CID, near, Action.DROP, lifetime_s=4.0))
    assert is_stopped(stage, near, far)
    stage.gate.put(*pair(near, far))
    stage.gate.apply(Remove(pair(near, far)[0]), Put(pair(near, far)[0]))
    assert is_stopped(stage, near, far)
    found = RUNNER.run(stage.gate.helper.look_up([near]))
    assert {one.rule.action for one in found} == {Action.DROP, Action.REWRITE}

    def refreshed_and_free() -> bool:
        stage.gate.put(*pair(near, far))
        return len(RUNNER.run(stage.gate.helper.look_up([near]))) == 1

    assert wait_until(refreshed_and_free, 8.0)
    assert passes(stage, near, far), "the block is over, the connection is not"


@pytest.mark.parametrize("kind", KINDS)
def test_the_double_in_memory_says_what_the_kernel_does(stage: Stage, kind: str) -> None:
    now = 0.0
    double = MemoryDataPlane(lambda: now, LIFETIME_S)
    near, far = crossing(stage, kind, 4, Transport.UDP)
    rules = pair(near, far)
    stage.gate.put(*rules)
    double.apply([Put(rule) for rule in rules])
    assert passes(stage, near, far)
    assert double.verdict(near).flow == far
    assert double.verdict(far.reversed()).flow == near.reversed()
    now += LIFETIME_S + 0.1
    time.sleep(LIFETIME_S + 0.1)
    assert is_stopped(stage, near, far)
    assert double.verdict(near).action is None


# --- ICMP errors ---


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["out", "in", "relay"])
def test_a_closed_port_behind_the_gate_is_known_at_once(
    stage: Stage, kind: str, family: int
) -> None:
    near, far = crossing(stage, kind, family, Transport.UDP)
    stage.gate.put(*pair(near, far))
    with bound(stage.client.node, Transport.UDP, near.source) as a:
        a.connect((str(near.destination.ip), near.destination.port))
        a.send(b"is anyone there?")
        with pytest.raises(ConnectionRefusedError):
            a.recv(100)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["out", "in", "relay"])
def test_a_closed_port_in_front_of_the_gate_is_known_to_who_answers(
    stage: Stage, kind: str, family: int
) -> None:
    near, far = crossing(stage, kind, family, Transport.UDP)
    stage.gate.put(*pair(near, far))
    with bound(stage.server.node, Transport.UDP, far.destination) as b:
        b.connect((str(far.source.ip), far.source.port))
        b.send(b"are you still there?")
        with pytest.raises(ConnectionRefusedError):
            b.recv(100)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["out", "in", "relay"])
@pytest.mark.parametrize("narrow", ["to-server", "to-client"])
def test_a_narrow_link_at_the_gate_does_not_stall_a_transfer(
    stage: Stage, kind: str, family: int, narrow: str
) -> None:
    """The gate's own errors quote what it has rewritten already; its peers must know it again."""
    near, far = crossing(stage, kind, family, Transport.TCP)
    stage.gate.put(*pair(near, far))
    gate = stage.gate.node
    a, b = ends(stage, near, far)
    try:
        with a, b:
            b.listen()
            a.connect((str(near.destination.ip), near.destination.port))
            accepted, _ = b.accept()
            accepted.settimeout(5.0)
            gate.run("ip", "link", "set", narrow, "mtu", "1300")
            sender, receiver = (a, accepted) if narrow == "to-server" else (accepted, a)
            a.settimeout(5.0)
            with accepted:
                assert transfer(sender, receiver, 4 << 20) < 2.0
                info = sender.getsockopt(socket.IPPROTO_TCP, 11, 104)
                assert struct.unpack_from("=I", info, 16)[0] <= 1300  # tcpi_snd_mss
    finally:
        gate.run("ip", "link", "set", narrow, "mtu", "1500")
        for node in (stage.client.node, stage.server.node):
            node.run("ip", "route", "flush", "cache")
            node.run("ip", "-6", "route", "flush", "cache")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["out", "relay"])
def test_an_error_from_afar_names_what_the_sender_sent_and_is_whole(
    stage: Stage, kind: str, family: int
) -> None:
    """As a router behind the gate says that a packet is too big; and one about nothing of ours."""
    near, far = crossing(stage, kind, family, Transport.UDP)
    stage.gate.put(*pair(near, far))
    sockets = stage.client_sockets
    listener = (sockets.icmp_v4 if family == 4 else sockets.icmp_v6).dup()
    said = (3, 4, 1300) if family == 4 else (2, 0, 1300)
    stranger = Flow(far.transport, far.source.with_port(1), far.destination)
    with listener:
        while select.select([listener], [], [], 0)[0]:
            listener.recv(2000)
        for about in (stranger, far):
            error = build_icmp_error(about, *said, build_udp(about, bytes(200)))
            release_ip(stage.server_sockets, error, far.source)
        assert select.select([listener], [], [], COMES_S)[0]
        message = error_from_socket(listener.recv(2000))
        assert struct.unpack_from("!BBxxI", message) == said
        assert parse_flow(message[8:]) == near
        if family == 4:
            assert checksum(message) == 0
            assert checksum(message[8:28]) == 0, "the quoted header has a checksum of its own"
        assert not select.select([listener], [], [], ABSENT_S)[0]
