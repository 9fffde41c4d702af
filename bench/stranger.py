"""Messages made by hand, for ends that are not daemons: load, strangers, spoofers.

A party has a key and the certificate that a node's configuration has; what it signs is as good as
what an agent signs. Gates and hosts cannot tell it from one, and that is the point.
"""

from __future__ import annotations

import ctypes
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from wayside.core.address import Address, Transport
from wayside.core.codec import Header, encode_body
from wayside.core.constants import LIFETIME_S, SIGNALING_PORT
from wayside.core.crypto import SigningKey, check_of, ephemeral_public
from wayside.core.messages import (
    Accept,
    AcceptTerms,
    Confirm,
    Hop,
    Open,
    OpenTerms,
    encode,
    padded,
)
from wayside.core.opening import SIGNATURE_CONTEXT, open_hash
from wayside.core.route import hops_hash
from wayside.core.rule import Cid
from wayside.lab.daemons import Daemon
from wayside.lab.world import STATE
from wayside.runtime.keyfile import read_certificate, read_key

EPHEMERAL = ephemeral_public(bytes(31) + b"\x07")
"""One for all: boxes on the path do not look at it."""

SHOWN = bytes(16)
"""The proof of every CONFIRM: a gate compares it with what the ACCEPT said, and knows no more."""

CLONE_NEWNET = 0x40000000


@dataclass(frozen=True, slots=True)
class Party:
    """Somebody with a key, and a certificate for a name."""

    key: SigningKey
    certificate: bytes = b""

    @classmethod
    def of(cls, host: Daemon) -> Party:
        """As the host of a node would speak."""
        certificate = read_certificate(STATE / f"{host.node.name}.certificate")
        return cls(read_key(host.node.state / "host.key"), certificate)

    @classmethod
    def unknown(cls) -> Party:
        """A key that nobody vouches for."""
        return cls(SigningKey(os.urandom(32)))


@dataclass(frozen=True, slots=True)
class Asked:
    """An OPEN on its way: what its ACCEPT has to speak of."""

    cid: Cid
    datagram: bytes
    hash: bytes
    source: Address
    destination: Address


def make_open(
    who: Party,
    to: Party,
    source: Address,
    destination: Address,
    *,
    service: str = "iperf3",
    transport: Transport = Transport.TCP,
    late_s: float = 0.0,
    proofs: tuple[bytes, ...] = (),
) -> Asked:
    """A whole OPEN, well signed, with a cid of its own; `late_s`: how old it says it is."""
    cid = Cid(os.urandom(16))
    header = Header(Open.TYPE, 0, cid, proofs)
    signed = encode_body(
        OpenTerms(
            from_key=who.key.public,
            to_key=to.key.public,
            service=service,
            transport=transport,
            source=source,
            destination=destination,
            ephemeral=EPHEMERAL,
            time_s=int(time.time() - late_s),
            lifetime_s=int(LIFETIME_S),
            from_certificate=who.certificate,
            to_certificate=to.certificate,
        )
    )
    signature = who.key.sign(SIGNATURE_CONTEXT, header.signing + signed)
    datagram = padded(header, Open(signed, signature))
    return Asked(cid, datagram, open_hash(header, signed), source, destination)


def make_accept(who: Party, asked: Asked, hops: tuple[Hop, ...], seq: int = 0) -> bytes:
    """The ACCEPT for an OPEN that arrived with these hops."""
    header = Header(Accept.TYPE, seq, asked.cid)
    signed = encode_body(
        AcceptTerms(
            from_key=who.key.public,
            open_hash=asked.hash,
            hops_hash=hops_hash(hops),
            check=check_of(SHOWN),
            destination=asked.destination,
            ephemeral=EPHEMERAL,
            lifetime_s=int(LIFETIME_S),
        )
    )
    signature = who.key.sign(SIGNATURE_CONTEXT, header.signing + signed)
    return encode(header, Accept(signed, signature, hops))


def make_confirm(cid: Cid, hops: tuple[Hop, ...], seq: int = 0) -> bytes:
    """A CONFIRM whose MAC only its responder could check; gates go by their tokens."""
    return encode(Header(Confirm.TYPE, seq, cid), Confirm(bytes(32), bytes(16), SHOWN, hops))


def socket_in(node: str, address: str, port: int = SIGNALING_PORT) -> socket.socket:
    """A UDP socket in a node's network namespace; not blocking. The process stays where it is."""
    libc = ctypes.CDLL(None, use_errno=True)

    def enter(path: Path) -> None:
        with path.open("rb") as namespace:
            if libc.setns(namespace.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), f"cannot enter {path}")

    with Path("/proc/self/ns/net").open("rb") as home:
        enter(Path(f"/run/netns/{node}"))
        try:
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        finally:
            if libc.setns(home.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "cannot leave a node")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 * 2**20)
    sock.bind((address, port))
    sock.setblocking(False)
    return sock
