"""The privileged helper: a process that owns nftables and does eleven typed things, nothing else.

A daemon starts it (helper_client.py) and then gives up all its own privileges; what parses
network bytes has none, and what has some never sees the network. It is plain: one socket to its
daemon, one request at a time, no event loop. When its daemon is gone it goes too, and leaves the
kernel as it is: connections that are up stay up.
"""

from __future__ import annotations

import signal
import socket
import sys
import traceback
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import assert_never

import msgspec

from wayside.kernel import links, mptcp
from wayside.kernel.apply import NftDataPlane
from wayside.kernel.multihoming import route_by_source
from wayside.kernel.nft import GATE_MAPS, Role
from wayside.kernel.plan import KernelError
from wayside.kernel.skeleton import gate_skeleton, host_skeleton
from wayside.kernel.sockets import check_port, open_gate_sockets, open_host_sockets

from .collector import settle
from .helper_messages import (
    LENGTH,
    REQUEST_BYTES_MAX,
    Answer,
    Apply,
    Diagnose,
    Done,
    Failed,
    GateSetup,
    HostSetup,
    ListRules,
    LookUp,
    MakeSubflow,
    OpenSockets,
    PackedDiagnosis,
    Request,
    RouteBySource,
    SetupGate,
    SetupHost,
    Teardown,
    WatchMptcp,
    pack_installed,
    unpack_change,
    unpack_flow,
)
from .privilege import CAP_NET_ADMIN, CAP_NET_BIND_SERVICE, CAP_NET_RAW, keep_only

_KEPT = (CAP_NET_ADMIN, CAP_NET_RAW, CAP_NET_BIND_SERVICE)
_READ_BYTES = 1 << 16


class Helper:
    """Performs requests on this machine's kernel."""

    def __init__(self) -> None:
        self._plane: NftDataPlane | None = None
        self._own: tuple[IPv4Address, IPv6Address] | None = None

    def perform(self, request: Request) -> tuple[Answer, dict[str, socket.socket]]:
        """Do what is asked. The sockets are the caller's to send and to close."""
        try:
            match request:
                case SetupHost(setup):
                    self._setup_host(setup)
                case SetupGate(setup):
                    self._setup_gate(setup)
                case OpenSockets(role, port):
                    opener = open_host_sockets if role == "host" else open_gate_sockets
                    sockets = opener(port)
                    return Done(sockets=list(sockets)), sockets
                case Apply(changes):
                    self.plane.apply([unpack_change(change) for change in changes])
                case ListRules():
                    return Done(rules=pack_installed(self.plane.rules())), {}
                case LookUp(matches):
                    found = self.plane.rules_of([unpack_flow(match) for match in matches])
                    return Done(rules=pack_installed(found)), {}
                case RouteBySource():
                    route_by_source()
                case WatchMptcp():
                    return Done(sockets=["mptcp"]), {"mptcp": mptcp.open_events()}
                case MakeSubflow(token, number, flow):
                    self._make_subflow(mptcp.Subflow(token, number, unpack_flow(flow)))
                case Diagnose():
                    packed = [
                        PackedDiagnosis(one.where, one.why, one.rule)
                        for one in self.plane.diagnose()
                    ]
                    return Done(diagnoses=packed), {}
                case Teardown():
                    self.plane.teardown()
                    links.teardown(self._own)
                case _:
                    assert_never(request)
        except KernelError as error:
            return Failed(error.what, error.hint), {}
        except Exception as error:  # whatever it is: without us the daemon could do nothing more
            traceback.print_exc()
            return Failed(f"the helper could not: {error!r}", "this is a bug"), {}
        return Done(), {}

    @property
    def plane(self) -> NftDataPlane:
        """The data plane. Raises KernelError without libnftables."""
        if self._plane is None:
            self._plane = NftDataPlane()
        return self._plane

    def _setup_host(self, setup: HostSetup) -> None:
        check_port(setup.signaling_port)
        own = (IPv4Address(setup.own_v4), IPv6Address(setup.own_v6))
        skeleton = host_skeleton(setup.v6_prefix, setup.signaling_port)
        self.plane.setup(Role(own=frozenset(own)), skeleton)
        links.setup_host(*own, IPv6Network(setup.v6_prefix))
        self._own = own

    def _make_subflow(self, wanted: mptcp.Subflow) -> None:
        """Only from an address that applications have here: what leaves has passed our rules."""
        if self._own is not None and wanted.flow.source.ip not in self._own:
            raise ValueError(f"{wanted.flow} does not begin at a virtual address of this host")
        mptcp.make_subflow(wanted)

    def _setup_gate(self, setup: GateSetup) -> None:
        skeleton = gate_skeleton(
            setup.inside, setup.outside, setup.lifetime_s, setup.signaling_port, setup.hides
        )
        self.plane.setup(Role(lifetime_s=setup.lifetime_s), skeleton)
        if setup.rewrites:
            self.plane.prepare(GATE_MAPS)
        links.setup_gate()


def serve(channel: socket.socket) -> None:
    """Answer requests until the daemon's end of the channel is closed."""
    helper = Helper()
    decoder = msgspec.msgpack.Decoder(Request)
    encode = msgspec.msgpack.Encoder().encode
    while (frame := _read_frame(channel)) is not None:
        sockets: dict[str, socket.socket] = {}
        try:
            answer, sockets = helper.perform(decoder.decode(frame))
        except msgspec.DecodeError as error:
            answer = Failed(f"not a request: {error}", "this is a bug")
        try:
            _send_frame(channel, encode(answer), list(sockets.values()))
        except (BrokenPipeError, ConnectionResetError):
            return
        finally:
            for sock in sockets.values():
                sock.close()


def _read_frame(channel: socket.socket) -> bytes | None:
    """One frame, or None when the daemon is gone or its frame is too large."""
    head = _read_exactly(channel, LENGTH.size)
    if head is None or LENGTH.unpack(head)[0] > REQUEST_BYTES_MAX:
        return None
    return _read_exactly(channel, LENGTH.unpack(head)[0])


def _read_exactly(channel: socket.socket, size: int) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        try:
            part = channel.recv(min(size - len(data), _READ_BYTES))
        except ConnectionResetError:
            return None
        if not part:
            return None
        data += part
    return bytes(data)


def _send_frame(channel: socket.socket, body: bytes, sockets: list[socket.socket]) -> None:
    head = LENGTH.pack(len(body))
    if sockets:
        socket.send_fds(channel, [head], [sock.fileno() for sock in sockets])
    else:
        channel.sendall(head)
    channel.sendall(body)


def main() -> None:
    """Serve on the socket whose file descriptor is the first argument."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # these are for the daemon, which then closes
    keep_only(_KEPT)
    settle()
    with socket.socket(fileno=int(sys.argv[1])) as channel:
        serve(channel)


if __name__ == "__main__":
    main()
