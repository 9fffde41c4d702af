"""MPTCP in the simulated kernel: what its packets say, and whose subflows it takes."""

from __future__ import annotations

import pytest

from sim import broken_agents
from wayside.core.address import Address, Flow, Transport
from wayside.core.effects import ReportClosed
from wayside.core.rule import Cid
from wayside.kernel.mptcp import Subflow
from wayside.kernel.packets import parse_packet
from wayside.kernel.plan import KernelError
from wayside.kernel.subflows import Standing
from wayside.sim import wire
from wayside.sim.branching import SubflowCheck
from wayside.sim.multipath import MultipathClient
from wayside.sim.said import Said
from wayside.sim.topology import NO_SECOND_PATH
from wayside.sim.watch import Violation
from wayside.sim.wire import Flag
from wayside.sim.world import World

NAME = "multihoming-mptcp"
FLOW = Flow(Transport.TCP, Address.parse("198.18.0.1:8443"), Address.parse("198.19.0.0:40999"))
CAPABLE = bytes([30, 4, 0x01, 0x01])
JOIN = bytes([30, 12, 0x10, 1]) + bytes(8)


def test_the_options_of_a_segment_are_read_as_those_of_a_real_one() -> None:
    first = wire.build_tcp(FLOW, Flag.SYN, 0, 0, options=CAPABLE)
    further = wire.build_tcp(FLOW, Flag.SYN, 0, 0, b"data", JOIN)
    for raw in (first, further):
        packet = parse_packet(raw)
        assert packet is not None
        assert wire.packet_of(raw) == packet
        assert (packet.is_multipath, packet.is_join) == (raw is first, raw is further)
        assert wire.options_of(packet) == (CAPABLE if raw is first else JOIN)
        turned = wire.rewritten(wire.rewritten(raw, FLOW.reversed()), FLOW)
        assert turned == raw, "checksums are those of all of it"


@pytest.mark.parametrize("first", [1, 11])
def test_the_world_of_mptcp_is_well(first: int) -> None:
    """It takes no turn, because seeds have their worlds; here are twenty of its own."""
    results = [World(NAME, seed).run() for seed in range(first, first + 10)]
    assert [(one.seed, one.check, one.why) for one in results if not one.ok] == []
    assert sum(one.answers for one in results) > 100


def seen(seed: int) -> World:
    """A world at the moment when all of its paths are used, or refused."""
    world = World(NAME, seed, ())
    world._pass(world.quiet_at)
    return world


def standings(world: World) -> dict[Standing, list[str]]:
    """Why each further subflow is as it is."""
    found: dict[Standing, list[str]] = {}
    for box in world.layout.clients:
        for one in box.subflows.multipaths.known if box.subflows.multipaths else ():
            for branch in one.branches.values():
                found.setdefault(branch.standing, []).append(branch.why)
    return found


def test_a_further_subflow_carries_data_by_gates_of_its_own() -> None:
    """R-2.5: and each of them was asked for it."""
    world = seen(0)
    assert Standing.UP in standings(world)
    for client in world.layout.wanted:
        assert isinstance(client, MultipathClient)
        socket, host = client.socket, client.host
        assert socket is not None
        assert host is not None
        wires = [host.by_local(one.flow) for one in socket.subflows]
        abouts = [one.agreement for one in wires if one is not None]
        assert len({about.wire.source.ip for about in abouts}) == 2
        second = world.layout.second[client.box.name]
        there = {found.rule.owner for found in second.rules}
        assert len(there & {about.cid for about in abouts}) == 1


def test_where_a_gate_refuses_its_path_the_agent_knows_why() -> None:
    found = standings(seen(3))
    assert set(found[Standing.REFUSED]) == {NO_SECOND_PATH.reason}


@pytest.mark.parametrize(
    ("listens", "answer"), [(True, Flag.SYN | Flag.ACK), (False, Flag.RST)], ids=str
)
def test_a_kernel_takes_subflows_only_while_somebody_listens(
    listens: bool, answer: Flag, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = seen(0).layout.servers[0]
    token = next(iter(box.sockets.mptcp._by_token))
    if not listens:
        box.kill()
    join = JOIN[:4] + token.to_bytes(4, "big") + bytes(4)
    syn = wire.packet_of(wire.build_tcp(FLOW.reversed(), Flag.SYN, 0, 0, options=join))
    assert syn is not None
    sent: list[bytes] = []
    monkeypatch.setattr(box, "send", sent.append)
    box.sockets.deliver(syn)
    (packet,) = map(wire.packet_of, sent)
    assert packet is not None
    assert packet.tcp_flags == answer
    assert box.sockets.mptcp.is_further(FLOW) is listens


def test_a_kernel_makes_no_subflow_of_what_is_over_nor_with_a_port_that_is_taken() -> None:
    client = seen(0).layout.wanted[0]
    assert isinstance(client, MultipathClient)
    assert client.socket is not None
    taken, token = client.socket.subflows[0].flow, client.socket.token
    for number, why in ((token ^ 1, "no such connection"), (token, "in use")):
        with pytest.raises(KernelError, match=why):
            client.box.sockets.mptcp.make_subflow(Subflow(number, 1, taken))


def test_what_leaves_by_a_subflow_after_its_connection_is_over_is_noticed() -> None:
    """R-2.5."""
    world = World(NAME, 0, ())
    site, cid, said = world.layout.clients[0], Cid(b"c" * 16), Said()
    check = SubflowCheck(said)
    said.flows.consents[site.name, wire.five_tuple(FLOW)] = {cid: 1.0}
    check.on_subflow(site, FLOW, 2.0)
    check.on_report(site, ReportClosed(cid, "s", "443", "done"), 3.0)
    with pytest.raises(Violation, match="is over"):
        check.on_subflow(site, FLOW, 3.0)


def test_an_agent_that_looks_without_end_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by this world: a subflow that was refused, by a path that was not wanted any more."""
    assert World(NAME, 16, ()).run().ok
    monkeypatch.setattr("wayside.sim.clock.STEPS_MAX", 30_000)
    broken_agents.agent_that_looks_again_at_once(monkeypatch)
    assert World(NAME, 16, ()).run().check == "endless"


def test_a_first_subflow_that_is_lost_gives_its_path_to_another() -> None:
    """Its signaled connection lived on, and nobody had the path."""
    world = seen(0)
    client = world.layout.wanted[0]
    assert isinstance(client, MultipathClient)
    socket, host = client.socket, client.host
    assert socket is not None
    assert host is not None
    first = next(one for one in socket.subflows if not one.number)
    about = host.by_local(first.flow)
    assert about is not None
    path = about.agreement.wire.source.ip
    socket.lost(first, refused=True)
    world._pass(world.place.clock.now + 3.0)
    assert client.socket is socket
    wires = [host.by_local(one.flow) for one in socket.subflows]
    assert path in [one.agreement.wire.source.ip for one in wires if one is not None]
