"""What is others' stays as it is; the helper; many rules."""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest

from netns.data_plane_stage import (
    ABSENT_S,
    CID,
    COMES_S,
    LIFETIME_S,
    RUNNER,
    SETUP,
    Stage,
    accept,
    arrives,
    inside,
    listing,
    passes_both_ways,
    passes_neither_way,
    pinhole,
    rule_of,
    udp_pair,
    wait_until,
    wire_flow,
)
from wayside.core.address import Address, Flow, Transport
from wayside.core.rule import Action, Cid, Rule
from wayside.kernel.memory import MemoryDataPlane
from wayside.kernel.plan import Change, KernelError, Put, Remove
from wayside.lab.world import Node
from wayside.runtime.helper_client import GateSetup, Helper
from wayside.runtime.privilege import drop_all


def test_a_table_of_the_administrator_is_never_touched(stage: Stage) -> None:
    admin = """
table inet admin {
  set friends { type ipv4_addr; elements = { 192.0.2.1, 192.0.2.2 }; }
  chain input { type filter hook input priority filter; policy accept; ip saddr @friends drop; }
}
table ip wayside {
  chain forward { type filter hook forward priority 5; policy accept; }
}
"""
    world_node = stage.gate.node
    world_node.run("ip", "netns", "add", "elsewhere")
    node = Node("elsewhere", world_node.out)
    node.run("ip", "link", "set", "lo", "up")
    node.run("nft", "-f", "-", stdin=admin)
    before = (listing(node), listing(node, "ip wayside"))
    rules_before = node.run("ip", "rule").stdout + node.run("ip", "-6", "rule").stdout
    with inside(node):
        helper = Helper.start()
    flow = Flow(Transport.UDP, Address.parse("192.0.2.1:1"), Address.parse("192.0.2.2:2"))
    try:

        async def put() -> None:
            await helper.apply([Put(accept(flow))])

        for step in (helper.setup_gate(GateSetup(("in0",), ("out0",), 5.0)), put()):
            RUNNER.run(step)
            assert (listing(node), listing(node, "ip wayside")) == before
        assert listing(node, "inet wayside")
        RUNNER.run(helper.teardown())
        RUNNER.run(helper.setup_host(SETUP))
        assert (listing(node), listing(node, "ip wayside")) == before
        RUNNER.run(helper.teardown())
        assert (listing(node), listing(node, "ip wayside")) == before
        assert node.run("nft", "list", "tables").stdout.split("\n")[:-1] == [
            "table inet admin",
            "table ip wayside",
        ]
        after = node.run("ip", "rule").stdout + node.run("ip", "-6", "rule").stdout
        assert after == rules_before
        assert "wayside" not in node.run("ip", "link").stdout
        assert "198.18" not in node.run("ip", "address").stdout
    finally:
        helper.close()
        world_node.run("ip", "netns", "delete", "elsewhere")


def test_the_doctor_finds_who_would_drop_us_and_its_rule_lets_us_through(stage: Stage) -> None:
    flow = wire_flow(stage, 4, Transport.UDP, 4012, 5012)
    stage.gate.put(*pinhole(flow))
    assert passes_both_ways(stage, flow)
    assert RUNNER.run(stage.gate.helper.diagnose()) == []
    node = stage.gate.node
    text = "table ip fw { chain onward { type filter hook forward priority 10; policy drop; }\n}\n"
    node.run("nft", "-f", "-", stdin=text)
    try:
        assert passes_neither_way(stage, flow)
        (found,) = RUNNER.run(stage.gate.helper.diagnose())
        assert found.where == "ip fw onward (hook forward)"
        node.run(*found.rule.split())
        assert passes_both_ways(stage, flow)
        assert RUNNER.run(stage.gate.helper.diagnose()) == []
    finally:
        node.run("nft", "delete", "table", "ip", "fw")


def test_a_killed_helper_leaves_its_rules_and_the_next_one_finds_them(stage: Stage) -> None:
    """R-6.5."""
    flow = wire_flow(stage, 4, Transport.UDP, 4013, 5013)
    stage.gate.put(*pinhole(flow))
    os.kill(stage.gate.helper.pid, signal.SIGKILL)
    with pytest.raises(KernelError, match="helper is gone"):
        stage.gate.apply(Put(accept(flow)))
    stage.gate.helper.close()
    assert passes_both_ways(stage, flow)
    with inside(stage.gate.node):
        stage.gate.helper = Helper.start()
    RUNNER.run(stage.gate.helper.setup_gate(GateSetup(("to-client",), ("to-server",), LIFETIME_S)))
    assert rule_of(stage.gate, flow).rule == accept(flow, LIFETIME_S)
    assert passes_both_ways(stage, flow)
    stage.gate.apply(*(Remove(rule) for rule in pinhole(flow)))
    assert passes_neither_way(stage, flow)


def test_a_second_daemon_finds_the_port_taken_and_leaves_the_first_ones_table_alone(
    stage: Stage,
) -> None:
    """Of another role, or with another configuration: its skeleton would take the other's place."""
    before = listing(stage.client.node, "inet wayside")
    with inside(stage.client.node):
        second = Helper.start()
    other = replace(SETUP, own_v4="198.18.0.77")
    try:
        with pytest.raises(KernelError, match="Address already in use"):
            RUNNER.run(second.setup_host(other))
        with pytest.raises(KernelError, match="Address already in use"):  # boxes ask for it first
            RUNNER.run(second.open_sockets("gate"))
    finally:
        second.close()
    assert listing(stage.client.node, "inet wayside") == before


def test_another_setup_keeps_the_rules_that_are_in_force(stage: Stage) -> None:
    flow = wire_flow(stage, 4, Transport.UDP, 4014, 5014)
    stage.gate.put(*pinhole(flow))
    helper = stage.gate.helper
    wider = GateSetup(("to-client", "spare"), ("to-server",), LIFETIME_S)
    RUNNER.run(helper.setup_gate(wider))
    assert passes_both_ways(stage, flow)
    RUNNER.run(helper.setup_gate(GateSetup(("to-client",), ("to-server",), LIFETIME_S)))
    assert passes_both_ways(stage, flow)


def test_one_bad_change_does_not_sink_the_others_of_its_batch(stage: Stage) -> None:
    good = wire_flow(stage, 4, Transport.UDP, 4015, 5015)
    rewriting = Rule(CID, good, Action.REWRITE, good)
    helper = stage.gate.helper

    async def all_at_once() -> list[BaseException | None]:
        tasks = [
            helper.apply([Put(accept(good))]),
            helper.apply([Put(rewriting)]),
            helper.apply([Put(accept(good.reversed()))]),
            helper.apply([Put(rewriting)]),
        ]
        return await asyncio.gather(*tasks, return_exceptions=True)

    results = RUNNER.run(all_at_once())
    assert [type(result) for result in results] == [type(None), KernelError] * 2
    assert passes_both_ways(stage, good)
    stage.gate.apply(*(Remove(rule) for rule in pinhole(good)))


def test_the_daemon_has_no_capability_while_its_helper_has(stage: Stage) -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        with inside(stage.gate.node):
            helper = Helper.start()
        drop_all()
        asyncio.run(helper.setup_gate(GateSetup(("to-client",), ("to-server",), LIFETIME_S)))
        ours = Path("/proc/self/status").read_text()
        theirs = Path(f"/proc/{helper.pid}/status").read_text()
        os.write(write, f"{effective(ours):x} {effective(theirs):x} ".encode())
        helper.close()
        os._exit(0)
    os.waitpid(child, 0)
    ours_hex, theirs_hex = os.read(read, 100).decode().split()
    assert int(ours_hex, 16) == 0
    assert int(theirs_hex, 16) == 1 << 10 | 1 << 12 | 1 << 13
    os.close(read)
    os.close(write)


def effective(status: str) -> int:
    return int(status.partition("CapEff:")[2].split()[0], 16)


def test_the_helper_goes_when_its_daemon_is_killed(stage: Stage) -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        with inside(stage.gate.node):
            helper = Helper.start()
        os.write(write, str(helper.pid).encode())
        time.sleep(60)
        os._exit(1)
    helper_pid = int(os.read(read, 100))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert wait_until(lambda: not alive(helper_pid))
    os.close(read)
    os.close(write)


def alive(pid: int) -> bool:
    """Not a zombie: we are process 1 here, and reap nobody's children but ours."""
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


def test_of_many_rules_one_changes_without_a_look_at_all_and_all_come_back(stage: Stage) -> None:
    """Reading them takes some 200 ms, a transaction less than one: it reads nothing first."""
    flows = [wire_flow(stage, 4, Transport.UDP, 10_000 + number, 443) for number in range(3000)]
    rules = [accept(flow, 30.0, renewed=False) for flow in flows]
    stage.gate.put(*rules)
    assert {found.rule.match for found in RUNNER.run(stage.gate.helper.rules())} >= set(flows)
    reads = [took(lambda: RUNNER.run(stage.gate.helper.rules())) for _ in range(5)]
    puts = [took(lambda rule=rule: stage.gate.apply(Put(rule))) for rule in rules[:25]]
    assert 10 * median(puts) < median(reads)


def took(work: Callable[[], object]) -> float:
    """Seconds."""
    began = time.monotonic()
    work()
    return time.monotonic() - began


def test_the_double_in_memory_gives_the_kernel_s_verdicts(stage: Stage) -> None:
    """Both have the same clock, and neither is asked within 0.8 s of when a rule goes."""
    double = MemoryDataPlane(time.monotonic, LIFETIME_S)
    flows = [wire_flow(stage, 4, Transport.UDP, 4020 + number, 5020) for number in range(5)]
    confirmed, pending, *shut = flows
    changes: list[Change] = [
        Put(accept(confirmed)),
        Put(accept(pending, 0.8, renewed=False)),
        Put(Rule(CID, flows[2], Action.DROP)),
        Put(accept(flows[3])),
        Put(Rule(Cid(b"another owner !!"), flows[3], Action.DROP)),
        Remove(accept(flows[3])),
    ]
    stage.gate.apply(*changes)
    double.apply(changes)

    def let_through(*chosen: Flow) -> list[bool]:
        """Those of which both let a packet through, or neither."""
        said = [double.verdict(flow).action is Action.ACCEPT for flow in chosen]
        for flow, passes in zip(chosen, said, strict=True):
            with udp_pair(stage, flow) as (a, b):
                within_s = COMES_S if passes else ABSENT_S
                assert arrives(a, b, flow.destination, b"a packet", within_s) is passes, flow
        return said

    assert let_through(confirmed, pending) == [True, True]
    time.sleep(0.8)
    assert let_through(confirmed) == [True]
    time.sleep(0.8)
    assert let_through(confirmed, pending) == [True, False]
    assert let_through(*shut) == [False, False, False]
    time.sleep(LIFETIME_S)
    assert let_through(*flows) == [False] * 5
    for plane in (double.rules(), RUNNER.run(stage.gate.helper.rules())):
        assert {found.rule.match for found in plane} >= {flows[2], flows[3]}
    stage.gate.apply(*(Remove(found.rule) for found in double.rules()))
