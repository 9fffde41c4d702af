"""One address, however it is spelt: one form, one verdict, at every door it may come in by.

The doors are the wire (packed bytes), the configuration (text), a socket (a host and port as the
kernel spells them, and control messages) and the kernel's listings (nftables' JSON, sock_diag,
/proc/net/tcp6). What comes in by one of them is the same value as what comes in by any other, or is
refused there; and an IPv4 address inside an IPv6 one gets no further than it would get by itself.
"""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from random import Random
from select import select
from tempfile import TemporaryDirectory
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gated import an_open, unmoved
from pair import STRANGER, Pair, make_open, reasons, snapshot
from wayside.core.address import IP, Address, Flow, Transport, canonical_ip, carried_ipv4
from wayside.core.codec import DecodeError, decode_body, encode_body
from wayside.core.crypto import SigningKey
from wayside.core.errors import DropReason
from wayside.core.events import DatagramReceived
from wayside.core.identity import key_text
from wayside.core.messages import Locator
from wayside.core.opening import is_agreed, is_sound
from wayside.core.rule import Cid
from wayside.core.virtual import V4_PREFIX, VirtualAddresses
from wayside.kernel import endings, listing
from wayside.runtime import udp
from wayside.runtime.config import load_host
from wayside.runtime.errors import ConfigError

PORT = 443
MAPPED = "::ffff:0:0/96"

BAD_V4 = ("0.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "255.255.255.255/32")
"""As an end of a flow: nobody's, a link's, a group's, everybody's."""
INNER_V4 = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", V4_PREFIX)
LOOPBACK_V4 = "127.0.0.0/8"
GOOD_V4 = ("8.8.8.0/24", "192.0.2.0/24", "1.0.0.0/8", "126.0.0.0/8", "198.20.0.0/16", "223.0.0.0/8")

BAD_V6 = ("::/128", "fe80::/10", "ff00::/8")
OPAQUE_V6 = ("::/96", "::ffff:0:0:0/96", "0:0:0:0:1::/80", "2001::/32", "64:ff9b:1::/48")
"""v4-compatible, v4-translated, more of ::/64, Teredo, local NAT64: whatever is inside."""
GOOD_V6 = ("2001:db8::/32", "fd00::/8", "2a00::/16", "2003::/16", "64:ff9a::/32", "2001:1::/32")

CARRIERS = {"NAT64": (IPv6Address("64:ff9b::"), 0), "6to4": (IPv6Address("2002::"), 80)}
"""Who carries an IPv4 address in sight: the first address, and by how much IPv4 is shifted."""


def in_one_of(networks: tuple[str, ...]) -> st.SearchStrategy[IP]:
    return st.sampled_from(networks).flatmap(
        lambda text: st.ip_addresses(network=ip_network(text)) | st.just(ip_network(text)[0])
    )


def carried(by: str, ip: IPv4Address, fill: int = 0) -> IPv6Address:
    """The address in which `by` carries this one; `fill`: bits that mean nothing."""
    first, shift = CARRIERS[by]
    return IPv6Address(int(first) | int(ip) << shift | fill & ((1 << shift) - 1))


V4 = in_one_of((*BAD_V4, *INNER_V4, LOOPBACK_V4, *GOOD_V4)) | st.ip_addresses(v=4)
FILLS = st.integers(0, 2**80 - 1)
V6 = (
    in_one_of((*BAD_V6, *OPAQUE_V6, *GOOD_V6, MAPPED, "::1/128", "fd77:6179:7364::/48"))
    | st.builds(carried, st.sampled_from(sorted(CARRIERS)), V4, FILLS)
    | st.ip_addresses(v=6)
)
ZONES = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_.", min_size=1, max_size=12)


# --- the doors ---


def from_wire(raw: bytes) -> Address | None:
    try:
        return Address.unpack(raw + PORT.to_bytes(2, "big"))
    except ValueError:
        return None


def from_text(text: str) -> Address | None:
    """As a person writes it; without a port, with one, and as a peer's signaling address."""
    found: set[Address | None] = set()
    for spelt, port in ((text, PORT), (f"[{text}]:{PORT}" if ":" in text else f"{text}:443", 0)):
        try:
            found.add(Address.parse(spelt, port))
        except ValueError:
            found.add(None)
    assert len(found) == 1
    return found.pop()


class Told:
    """A socket on which one datagram came, with what the kernel tells of it."""

    def __init__(self, host: str, control: list[tuple[int, int, bytes]]) -> None:
        self.family = socket.AF_INET6 if ":" in host else socket.AF_INET
        name = (host, PORT, 0, 0) if ":" in host else (host, PORT)
        self._told = [(b"data", control, 0, name)]

    def recvmsg(self, size: int, control_bytes: int) -> tuple[bytes, object, int, object]:
        if not self._told:
            raise BlockingIOError
        return self._told.pop()


def received(host: str, control: list[tuple[int, int, bytes]]) -> list[udp.Received]:
    return udp.read_datagrams(cast("socket.socket", Told(host, control)), PORT)


def from_socket(text: str) -> Address | None:
    """Who sent a datagram, as the kernel spells it; nobody when the datagram is left out."""
    found = [one.source for one in received(text, [])]
    return found[0] if found else None


def from_control(ip: IP) -> set[Address]:
    """Where a datagram was addressed to, as PKTINFO and ORIGDSTADDR say."""
    if isinstance(ip, IPv4Address):
        info = (socket.IPPROTO_IP, udp.IP_PKTINFO, struct.pack("@i4s4s", 1, bytes(4), ip.packed))
        name = struct.pack("!HH4s8x", socket.AF_INET, PORT, ip.packed)
        original = (socket.IPPROTO_IP, udp.IP_ORIGDSTADDR, name)
    else:
        packed = struct.pack("@16si", ip.packed, 1)
        info = (socket.IPPROTO_IPV6, udp.IPV6_PKTINFO, packed)
        name = struct.pack("!HHI16sI", socket.AF_INET6, PORT, 0, ip.packed, 0)
        original = (socket.IPPROTO_IPV6, udp.IPV6_ORIGDSTADDR, name)
    source = "192.0.2.1" if isinstance(ip, IPv4Address) else "2001:db8::1"
    return {one.destination for said in (info, original) for one in received(source, [said])}


def from_kernel(ip: IP, text: str) -> set[Address]:
    """As nftables lists it, and as sock_diag packs it."""
    flow = listing._flow(("tcp", text, PORT, text, PORT))
    family = socket.AF_INET if isinstance(ip, IPv4Address) else socket.AF_INET6
    ended = endings._flow(family, ip.packed.ljust(16, b"\0") * 2, PORT, PORT)
    assert ended is not None
    return {flow.source, flow.destination, ended.source, ended.destination}


@given(V4 | V6)
def test_every_door_gives_the_same_address_and_only_the_wire_refuses_one(ip: IP) -> None:
    """R-2.4: and what the wire refuses, it takes in the form that the other doors give."""
    text = str(ip)
    doors = {from_text(text), from_socket(text), *from_control(ip), *from_kernel(ip, text)}
    assert len(doors) == 1
    address = doors.pop()
    assert address is not None
    assert address == Address(ip, PORT)
    mapped = isinstance(ip, IPv6Address) and ip in IPv6Network(MAPPED)
    assert from_wire(ip.packed) == (None if mapped else address)
    assert from_wire(address.ip.packed) == address
    assert address.family == (4 if mapped else ip.version)
    assert ip_address(text).packed.endswith(address.ip.packed)


@given(V4, st.integers(0, 0xFFFF))
def test_a_mapped_address_has_one_form_and_the_verdict_of_the_ipv4_address(
    ip: IPv4Address, port: int
) -> None:
    """R-2.4, R-2.6: equal, alike to a table, alike on the wire, alike to look at."""
    mapped = IPv6Address(f"::ffff:{ip}")
    plain, other = Address(ip, port), Address(mapped, port)
    assert (plain, hash(plain), plain.pack(), str(plain)) == (
        other,
        hash(other),
        other.pack(),
        str(other),
    )
    assert canonical_ip(mapped) == ip
    virtual = VirtualAddresses(bytes(32))
    assert virtual.covers(other.ip) is virtual.covers(ip)
    assert verdict(mapped) is verdict(ip)


@given(V6, st.integers(0, 2**32), st.booleans())
def test_an_ipv6_address_may_be_written_in_any_way_and_is_one(
    ip: IPv6Address, seed: int, dotted: bool
) -> None:
    """R-2.4: capitals, leading zeros, zeros left out anywhere or nowhere, the end in dots."""
    text = spelt(ip, Random(seed), dotted)
    assert from_text(text) == from_socket(text) == Address(ip, PORT)
    assert str(from_text(text)) == str(Address(ip, PORT))


def spelt(ip: IPv6Address, random: Random, dotted: bool) -> str:
    """The address as somebody might write it."""
    groups = [int.from_bytes(ip.packed[at : at + 2], "big") for at in range(0, 16, 2)]
    words = [random.choice((f"{group:x}", f"{group:04X}", f"{group:03x}")) for group in groups]
    if dotted:
        words[6:] = [str(IPv4Address(ip.packed[12:]))]
        groups[6:] = [1]
    zeros = [at for at, group in enumerate(groups) if group == 0]
    if not zeros or random.random() < 0.3:
        return ":".join(words)
    first = last = random.choice(zeros)
    while last + 1 in zeros:
        last += 1
    return ":".join(words[:first]) + "::" + ":".join(words[last + 1 :])


@given(V6, ZONES)
def test_an_address_with_a_zone_comes_in_by_no_door(ip: IPv6Address, zone: str) -> None:
    """R-2.4: of whatever address, a mapped one too."""
    for spelling in (f"{ip}%{zone}", f"{str(ip).upper()}%{zone}", f"{ip.exploded}%{zone}"):
        assert from_text(spelling) is from_socket(spelling) is None
        with pytest.raises(ValueError, match="zone"):
            Address(IPv6Address(spelling), PORT)
        with pytest.raises(ValueError, match="zone"):
            listing._flow(("tcp", spelling, PORT, spelling, PORT))


@given(V4, st.data())
def test_an_ipv4_address_is_four_decimal_numbers_and_nothing_else(
    ip: IPv4Address, data: st.DataObject
) -> None:
    """R-2.4: `010.1` is 8.0.0.1 to some and 10.0.0.1 to others; here it is no address."""
    one, two, three, four = numbers = list(ip.packed)
    at = data.draw(st.integers(0, 3))
    octal, hexadecimal, zero = numbers.copy(), numbers.copy(), [str(n) for n in numbers]
    spellings = [
        ".".join(oct(n).replace("0o", "0") if n > 7 else f"0{n}" for n in octal),
        ".".join(f"0x{n:x}" if i == at else str(n) for i, n in enumerate(hexadecimal)),
        ".".join(f"0{n}" if i == at else n for i, n in enumerate(zero)),
        *(f"{one}.{two}.{three << 8 | four}", f"{one}.{two << 16 | three << 8 | four}"),
        *(
            f"{int(ip)}",
            f"0x{int(ip):08x}",
            f"0{int(ip):o}",
            f"{ip}.",
            f".{ip}",
            f" {ip}",
            f"{ip}\n",
        ),
        *(f"{ip}%eth0", f"{ip}/32", f"::ffff:{one}.{two}.{three}", f"::ffff:0{one}.{two}.0.{four}"),
    ]
    for spelling in spellings:
        assert from_text(spelling) is from_socket(spelling) is None, spelling


@settings(max_examples=20)
@given(V4 | V6, st.integers(0, 2**32), ZONES)
def test_a_configured_address_is_the_one_of_the_wire_or_a_mistake_with_its_place(
    ip: IP, seed: int, zone: str
) -> None:
    """R-2.4: in the file of a host, where people write addresses."""
    text = spelt(ip, Random(seed), False) if isinstance(ip, IPv6Address) else str(ip)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "host.toml"

        def configured(spelling: str) -> tuple[Address, ...]:
            key = key_text(SigningKey(bytes(32)).public)
            path.write_text(f'[peers."a.lab"]\nkey = "{key}"\naddresses = ["{spelling}"]\n')
            return load_host(path, {}, {}).peers["a.lab"].addresses

        assert configured(text) == (Address(ip, 4747),)
        for wrong in (f"{text}%{zone}", "010.1", "0x7f.1", "127.1", "2130706433", "localhost"):
            with pytest.raises(ConfigError, match=r"host\.toml:3"):
                configured(wrong)


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="there is no socket for both families")
def test_who_comes_by_a_socket_for_both_families_comes_from_an_ipv4_address() -> None:
    """R-2.4: the kernel says `::ffff:127.0.0.1` twice, as source and as destination."""
    with (
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as both,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        both.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        both.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        both.bind(("::", 0))
        both.setblocking(False)
        sender.bind(("127.0.0.1", 0))
        port = both.getsockname()[1]
        sender.sendto(b"hello", ("127.0.0.1", port))
        assert select([both], [], [], 5)[0]
        (one,) = udp.read_datagrams(both, port)
        assert one.source == Address.parse(f"127.0.0.1:{sender.getsockname()[1]}")
        assert one.destination == Address.parse(f"127.0.0.1:{port}")


# --- the verdict ---


def verdict(ip: IP) -> bool:
    """Whether a flow may have this end; the same of either end, transport and message."""
    one = Address(ip, 1000)
    near = LOOPBACK[one.family] if one.ip.is_loopback else ELSEWHERE[one.family]
    found = {
        test(Flow(transport, *ends))
        for transport in (Transport.TCP, Transport.MPTCP, Transport.UDP)
        for ends in ((one, near), (near, one))
        for test in (is_sound, is_agreed)
    }
    if one.ip != near.ip:
        found.add(is_sound(Flow(Transport.NONE, one.with_port(0), near.with_port(0))))
    assert len(found) == 1
    return found.pop()


ELSEWHERE = {4: Address.parse("203.0.113.9:9"), 6: Address.parse("[2001:db8:9::9]:9")}
LOOPBACK = {4: Address.parse("127.9.9.9:9"), 6: Address.parse("[::1]:9")}


@given(in_one_of((*BAD_V4, *BAD_V6)))
def test_nobody_is_unspecified_a_group_a_link_or_everybody(ip: IP) -> None:
    """R-2.6."""
    assert not verdict(ip)


@given(in_one_of((*GOOD_V4, *INNER_V4, *GOOD_V6)))
def test_anybody_may_have_an_address_of_a_host(ip: IP) -> None:
    """R-2.6: an inner one, too: a network of one's own has gates as well."""
    assert verdict(ip)


@given(in_one_of((LOOPBACK_V4, "::1/128")), in_one_of((*GOOD_V4, *INNER_V4, *GOOD_V6)))
def test_loopback_is_all_of_it_and_speaks_to_itself_only(ip: IP, other: IP) -> None:
    """R-2.6: 127.0.0.1 is one of 16 million."""
    assert verdict(ip)
    if ip.version == other.version:
        one, two = Address(ip, 1000), Address(other, 1000)
        assert not is_sound(Flow(Transport.TCP, one, two))
        assert not is_sound(Flow(Transport.TCP, two, one))


@given(in_one_of(OPAQUE_V6).filter(lambda ip: int(ip) != 1))
def test_an_address_that_hides_an_ipv4_one_is_nobodys(ip: IPv6Address) -> None:
    """R-2.6: v4-compatible, v4-translated, Teredo, local NAT64: whatever is inside."""
    assert not verdict(ip)


@given(st.sampled_from(sorted(CARRIERS)), V4, FILLS)
def test_an_ipv4_address_inside_another_gets_no_further_than_alone(
    by: str, ip: IPv4Address, fill: int
) -> None:
    """R-2.6: NAT64 and 6to4 reach hosts of the internet, and nothing inside anybody's network."""
    outer = carried(by, ip, fill)
    assert carried_ipv4(outer) == ip
    inner = any(ip in ip_network(text) for text in (*BAD_V4, *INNER_V4, LOOPBACK_V4))
    assert verdict(outer) is (not inner)
    assert verdict(ip) or not verdict(outer)


@given(V4 | V6)
def test_only_nat64_and_6to4_show_what_they_carry(ip: IP) -> None:
    """R-2.6."""
    shown = any(ip in ip_network(text) for text in ("64:ff9b::/96", "2002::/16"))
    assert (carried_ipv4(ip) is not None) is shown


@given(st.ip_addresses(network=V4_PREFIX), FILLS)
def test_a_virtual_address_is_known_as_one_or_refused_in_every_spelling(
    ip: IPv4Address, fill: int
) -> None:
    """R-6.3, R-2.6: no packet for the inside of a host gets there by way of another spelling."""
    virtual = VirtualAddresses(bytes(32))
    assert virtual.covers(Address(IPv6Address(f"::ffff:{ip}"), PORT).ip)
    others = [
        IPv6Address(f"::{ip}"),
        IPv6Address(f"::ffff:0:{ip}"),
        IPv6Address(f"64:ff9b:1::{ip}"),
    ]
    for other in (*others, *(carried(by, ip, fill) for by in CARRIERS)):
        assert not verdict(other)


@given(V6)
def test_an_address_inside_a_message_is_in_its_one_form_or_the_message_is_none(
    ip: IPv6Address,
) -> None:
    """R-2.4: wherever a field is an address: here, in a locator."""
    raw = encode_body(Locator(Address.parse("[2001:db8::7]:443")))
    good = Address.parse("[2001:db8::7]:443").pack()
    spoilt = raw.replace(good, ip.packed + good[-2:])
    if ip in IPv6Network(MAPPED):
        with pytest.raises(DecodeError, match="canonical"):
            decode_body(Locator, spoilt)
    else:
        assert decode_body(Locator, spoilt).address == Address(ip, PORT)


HIDING = (
    *(
        "::127.0.0.1",
        "::10.0.0.1",
        "::ffff:0:127.0.0.1",
        "64:ff9b::127.0.0.1",
        "64:ff9b::198.18.0.2",
    ),
    *("64:ff9b:1::10.0.0.1", "2002:7f00:1::1", "2002:c612:2::", "2001:0:4136:e378::"),
)


@pytest.mark.parametrize("hidden", HIDING)
def test_an_open_for_a_hidden_address_is_dropped_by_gate_and_host_and_leaves_nothing(
    hidden: str,
) -> None:
    """R-2.6, R-5.1, R-7.6: as source or as destination, and nobody is told."""
    bad, good = Address(ip_address(hidden), 443), Address.parse("[2001:db8::7]:443")
    pair = Pair(1, family=6)
    for source, destination in ((bad, good), (good, bad)):
        ends = source.with_port(4747), destination.with_port(4747)
        asked = an_open(pair, source=source, destination=destination, came_from=ends[0])
        unmoved(pair, asked, DropReason.ADDRESS)
        before = snapshot(pair.s)
        cid, key = Cid(b"of a hidden one!"), pair.s.context.key.public
        data = make_open(STRANGER, key, source, destination, cid=cid)
        assert reasons(pair.tell("s", DatagramReceived(data, *ends))) == [DropReason.ADDRESS]
        assert snapshot(pair.s) == before
