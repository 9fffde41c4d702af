"""ICMP errors about wire packets reach the socket that has virtual addresses."""

import select
import socket
import struct
import threading
from collections.abc import Generator
from contextlib import contextmanager

import pytest

from netns.data_plane_stage import (
    FAMILIES,
    Stage,
    bound,
    connect_through,
    meet,
    socket_of_errors,
    transfer,
    wire_flow,
)
from wayside.core.address import Flow, Transport
from wayside.kernel.icmp import error_from_socket, translate_error
from wayside.kernel.plan import Remove
from wayside.kernel.tap import inject


@contextmanager
def errors_brought_home(stage: Stage, wire: Flow, local: Flow) -> Generator[list[bytes]]:
    """What the agent does: ICMP errors about the wire flow are injected about the local one."""
    sockets = stage.client_sockets
    sock = socket_of_errors(stage, wire.family)
    brought: list[bytes] = []
    over = threading.Event()

    def carry() -> None:
        while not over.is_set():
            if not select.select([sock], [], [], 0.05)[0]:
                continue
            message = error_from_socket(sock.recv(2048))
            packet = translate_error(message, wire.family, {wire: local}.get)
            if packet is not None:
                brought.append(packet)
                inject(sockets.tap, packet)

    thread = threading.Thread(target=carry)
    thread.start()
    try:
        yield brought
    finally:
        over.set()
        thread.join()
        sock.close()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("other_ports", [False, True])
def test_a_closed_port_is_known_to_a_udp_socket_at_once(
    stage: Stage, family: int, other_ports: bool
) -> None:
    local, _ = meet(stage, family, Transport.UDP, other_ports)
    ports = (51000, 52000) if other_ports else (40000, 7000)
    wire = wire_flow(stage, family, Transport.UDP, *ports)
    stage.server.apply(*(Remove(rule) for rule in stage.server.rules))
    with (
        errors_brought_home(stage, wire, local),
        bound(stage.client.node, Transport.UDP, local.source) as a,
    ):
        a.connect((str(local.destination.ip), local.destination.port))
        a.send(b"is anyone there?")
        with pytest.raises(ConnectionRefusedError):
            a.recv(100)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_1300_byte_link_in_the_middle_does_not_stall_a_transfer(
    stage: Stage, family: int
) -> None:
    local, at_server = meet(stage, family, Transport.TCP, other_ports=False)
    wire = wire_flow(stage, family, Transport.TCP, 40000, 7000)
    stage.gate.node.run("ip", "link", "set", "to-server", "mtu", "1300")
    stage.server.node.run("ip", "link", "set", "to-gate", "mtu", "1300")
    try:
        with errors_brought_home(stage, wire, local) as brought:
            client, server = connect_through(stage, at_server.source, local)
            with client, server:
                assert transfer(client, server, 4 << 20) < 2.0
                assert brought, "nobody said that the link is narrow: the test is of no use"
                info = client.getsockopt(socket.IPPROTO_TCP, 11, 104)
                assert struct.unpack_from("=I", info, 16)[0] <= 1300  # tcpi_snd_mss
    finally:
        stage.gate.node.run("ip", "link", "set", "to-server", "mtu", "1500")
        stage.server.node.run("ip", "link", "set", "to-gate", "mtu", "1500")
        stage.client.node.run("ip", "route", "flush", "cache")
