import socket
import struct

from wayside.core.address import Address, Flow, Transport
from wayside.kernel.endings import is_open, parse_endings


def message(family: int, source: bytes, destination: bytes, kind: int = 20) -> bytes:
    addresses = source.ljust(16, b"\0") + destination.ljust(16, b"\0")
    body = struct.pack("!BBBBHH", family, 7, 0, 0, 40000, 443) + addresses + bytes(40)
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


V4 = message(2, bytes([198, 18, 0, 1]), bytes([198, 18, 0, 2]))
FLOW = Flow(Transport.TCP, Address.parse("198.18.0.1:40000"), Address.parse("198.18.0.2:443"))


def test_the_end_of_a_socket_is_read() -> None:
    assert parse_endings(V4) == [FLOW]


def test_an_ipv4_connection_on_an_ipv6_socket_is_an_ipv4_flow() -> None:
    mapped = bytes(10) + b"\xff\xff"
    v6 = message(10, mapped + bytes([198, 18, 0, 1]), mapped + bytes([198, 18, 0, 2]))
    assert parse_endings(V4 + v6) == [FLOW, FLOW]


def test_other_messages_and_cut_off_ones_are_left_out() -> None:
    assert parse_endings(message(2, bytes(4), bytes(4), kind=3) + V4) == [FLOW]
    for cut in range(len(V4)):
        assert parse_endings(V4[:cut]) == []


def test_a_connection_is_open_while_its_socket_is_and_a_listener_is_none() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = server.getsockname()
        with socket.create_connection(place) as client:
            ends = [
                Address.parse(f"127.0.0.1:{port}") for port in (place[1], client.getsockname()[1])
            ]
            here = Flow(Transport.TCP, *ends)
            accepted, _ = server.accept()
            assert is_open(here)
            assert is_open(here.reversed())
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            accepted.close()  # resets: nothing of it is left
            assert not is_open(here)
            assert not is_open(here.reversed())
