"""MPTCP's path management by the helper, with MPTCP sockets of a real kernel."""

import socket
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager

import pytest

from netns.data_plane_stage import COMES_S, RUNNER, Stage, inside
from wayside.core.address import Address, Flow, Transport
from wayside.kernel.mptcp import Happened, MptcpEvent, Subflow, read_events
from wayside.kernel.mptcp_sockets import ListedMptcp, list_sockets
from wayside.kernel.plan import KernelError
from wayside.lab.parcel import IPPROTO_MPTCP, about
from wayside.lab.world import Node
from wayside.runtime.helper_client import Helper

FREE_PORT, OTHER_PORT = 5555, 5556


@pytest.fixture(params=["127.0.0.1", "::1"])
def loopback(stage: Stage, request: pytest.FixtureRequest) -> Generator[tuple[Helper, Node, str]]:
    """A helper in a namespace of its own, and an address there."""
    near = stage.gate.node
    near.run("ip", "netns", "add", "multipath")
    node = Node("multipath", near.out)
    node.run("ip", "link", "set", "lo", "up")
    with inside(node):
        helper = Helper.start()
    yield helper, node, request.param
    helper.close()
    near.run("ip", "netns", "delete", "multipath")


@contextmanager
def talking(node: Node, address: str) -> Generator[socket.socket]:
    """An MPTCP connection over which both ends have said something; the asker's socket."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with inside(node):
        sockets = [socket.socket(family, socket.SOCK_STREAM, IPPROTO_MPTCP) for _ in "ab"]
    server, client = sockets
    with server, client:
        server.bind((address, 0))
        server.listen()
        client.connect(server.getsockname()[:2])
        accepted, _ = server.accept()
        with accepted:
            client.send(b"x")
            accepted.recv(1)
            accepted.send(b"y")
            client.recv(1)
            yield client


def heard(listening: socket.socket, count: int) -> list[MptcpEvent]:
    """What the kernel has said, once it is so much."""
    found: list[MptcpEvent] = []
    deadline = time.monotonic() + COMES_S
    while len(found) < count and time.monotonic() < deadline:
        found += read_events(listening)
        time.sleep(0.01)
    return found


def flow_of(sock: socket.socket) -> Flow:
    ends = (sock.getsockname(), sock.getpeername())
    texts = [f"[{end[0]}]:{end[1]}" if len(end) == 4 else f"{end[0]}:{end[1]}" for end in ends]
    return Flow(Transport.TCP, *map(Address.parse, texts))


def test_the_helper_hears_of_connections_and_makes_their_subflows(
    loopback: tuple[Helper, Node, str],
) -> None:
    """R-2.5: with the 5-tuple that was asked for, two of them, and one of them twice."""
    helper, node, address = loopback
    with RUNNER.run(helper.watch_mptcp()) as listening, talking(node, address) as client:
        flow = flow_of(client)
        said = heard(listening, 2)
        (mine,) = [one for one in said if not one.accepted]
        (theirs,) = [one for one in said if one.accepted]
        assert (mine.what, mine.flow) == (Happened.ESTABLISHED, flow)
        assert theirs.flow == flow.reversed()
        assert about(client) == {"subflows": 0, "fallback": 0}
        for number, port in ((1, FREE_PORT), (2, OTHER_PORT)):
            further = Flow(Transport.TCP, flow.source.with_port(port), flow.destination)
            RUNNER.run(helper.make_subflow(Subflow(mine.token, number, further)))
            events = heard(listening, 2)
            assert MptcpEvent(Happened.SUBFLOW_ESTABLISHED, mine.token, further) in events
            assert about(client) == {"subflows": number, "fallback": 0}
        used = Flow(Transport.TCP, flow.destination, flow.destination.with_port(9))
        with pytest.raises(KernelError, match="makes no subflow"):
            RUNNER.run(helper.make_subflow(Subflow(mine.token, 3, used)))
        client.close()
        ends = [one for one in heard(listening, 2) if one.what is Happened.CLOSED]
        assert mine.token in [one.token for one in ends]
    with pytest.raises(KernelError, match="makes no subflow"):
        RUNNER.run(helper.make_subflow(Subflow(mine.token, 4, flow)))


@pytest.mark.parametrize("what", ["syn", "syn | ack", "ack"])
def test_the_kernel_lists_a_connection_that_has_fallen_back(
    loopback: tuple[Helper, Node, str], what: str
) -> None:
    """A middlebox takes MPTCP's options away: from the SYN, its answer, or what comes after."""
    _, node, address = loopback
    strip = f"tcp flags & (syn | ack) == {what} reset tcp option mptcp"
    for words in (
        "add table inet box",
        "add chain inet box through { type filter hook input priority 0; }",
    ):
        node.run("nft", words)
    with talking(node, address) as client, inside(node):
        assert ListedMptcp(flow_of(client), token_of(client), False) in list_sockets()
    node.run("nft", f"add rule inet box through {strip}")
    with talking(node, address) as client, inside(node):
        assert about(client)["fallback"]
        assert (flow_of(client), True) in [(one.flow, one.fallback) for one in list_sockets()]


def token_of(sock: socket.socket) -> int:
    """As its own socket has it (MPTCP_INFO), if it has not fallen back."""
    info = sock.getsockopt(284, 1, 16)
    return int.from_bytes(info[12:16], sys.byteorder)
