"""Virtual addresses: peers keep theirs, strangers borrow."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address, ip_network

import pytest

from pair import STRANGER, Pair, body_of, make_host, make_open, snapshot
from wayside.core import virtual
from wayside.core.address import Address
from wayside.core.codec import decode_body
from wayside.core.crypto import SigningKey
from wayside.core.effects import Dropped, SendDatagram
from wayside.core.messages import Code, Hop, Reject, RejectTerms
from wayside.core.rule import Cid
from wayside.core.virtual import DEFAULT_V6_PREFIX, OWN_V4, V4_PREFIX, VirtualAddresses

ME, ALICE, BOB = b"m" * 32, b"a" * 32, b"b" * 32


def test_peers_get_addresses_in_the_order_in_which_they_are_met() -> None:
    """R-6.3: and the same order gives the same addresses after a restart."""
    first, again = VirtualAddresses(ME), VirtualAddresses(ME)
    given = [first.of(key, 4) for key in (ALICE, BOB, ALICE)]
    assert [str(ip) for ip in given] == ["198.18.0.2", "198.18.0.3", "198.18.0.2"]
    assert [again.of(key, 4) for key in first.met] == [given[0], given[1]]
    assert first.own(4) == OWN_V4


def test_the_ipv6_address_follows_from_the_key_everywhere() -> None:
    """R-6.3."""
    mine, theirs = VirtualAddresses(ME), VirtualAddresses(ALICE)
    assert mine.of(ALICE, 6) == theirs.own(6)
    assert mine.of(ALICE, 6) in IPv6Network(DEFAULT_V6_PREFIX)
    assert mine.key_of(mine.of(ALICE, 6)) == ALICE


@pytest.mark.parametrize(
    ("ip", "covered"),
    [
        ("198.17.255.255", False),
        ("198.18.0.0", True),
        ("198.18.0.1", True),
        ("198.19.255.255", True),
        ("198.20.0.0", False),
        ("fd77:6179:7363:ffff:ffff:ffff:ffff:ffff", False),
        ("fd77:6179:7364::", True),
        ("fd77:6179:7364:ffff:ffff:ffff:ffff:ffff", True),
        ("fd77:6179:7365::", False),
        ("::198.18.0.1", False),
    ],
)
def test_virtual_addresses_are_those_of_the_two_prefixes(ip: str, covered: bool) -> None:
    """R-6.3: the last one outside, the first and the last one inside."""
    addresses = VirtualAddresses(ME)
    assert addresses.covers(ip_address(ip)) is covered
    prefixes = (ip_network(V4_PREFIX), ip_network(DEFAULT_V6_PREFIX))
    assert any(ip_address(ip) in prefix for prefix in prefixes) is covered


@pytest.mark.parametrize("family", [4, 6])
def test_whatever_is_given_out_is_covered(family: int) -> None:
    """R-6.3: also under a prefix of one's own."""
    addresses = VirtualAddresses(ME, "fd00:1:2::/48")
    for ip in (addresses.own(family), addresses.of(ALICE, family), addresses.lend(BOB, family)):
        assert addresses.covers(ip)
    assert not addresses.covers(VirtualAddresses(ME).own(6))


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("source", ["198.18.0.2:1", "198.19.255.255:1", "fd77:6179:7364::1"])
def test_nobody_comes_from_an_address_inside_a_host(source: str, gated: bool) -> None:
    """R-6.3: REJECT 3, and nothing is kept; also when a NAT says that it put it there."""
    here = Address.parse(source) if "." in source else Address.parse(f"[{source}]:1")
    pair = Pair(family=here.family)
    data = make_open(
        STRANGER,
        pair.s.context.key.public,
        pair.own["c"][0].with_port(40000) if gated else here,
        pair.own["s"][0].with_port(443),
        cid=pair.cid,
        hops=(Hop(bytes(32), 2, 1, b"", source=here),) if gated else (),
    )
    before = snapshot(pair.s)
    (refused,) = pair.inject("s", data, here.with_port(4747))
    assert isinstance(refused, SendDatagram)
    terms = decode_body(RejectTerms, body_of(refused.data, Reject).signed)
    assert (terms.code, terms.reason) == (Code.BAD_ADDRESS, "an address inside a host")
    assert snapshot(pair.s) == before


def test_a_host_without_virtual_addresses_knows_no_such_ranges() -> None:
    """R-6.3: RFC 2544's addresses are as good as any where nobody rewrites."""
    pair = Pair(server=make_host("s", virtual=False))
    here = Address.parse("198.18.0.2:1")
    there = pair.own["s"][0].with_port(443)
    data = make_open(STRANGER, pair.s.context.key.public, here, there, cid=pair.cid)
    pair.inject("s", data, here.with_port(4747))
    assert set(pair.s.connections) == {pair.cid}


@pytest.mark.parametrize("family", [4, 6])
def test_a_strangers_address_is_theirs_until_it_is_given_back_as_often(family: int) -> None:
    """R-6.3."""
    addresses = VirtualAddresses(ME)
    lent = addresses.lend(BOB, family)
    assert addresses.lend(BOB, family) == lent
    assert addresses.key_of(lent) == BOB
    addresses.give_back(lent)
    assert addresses.key_of(lent) == BOB
    addresses.give_back(lent)
    assert addresses.key_of(lent) is None
    addresses.give_back(lent)
    assert addresses.met == ()


def test_a_stranger_takes_no_address_of_a_peer() -> None:
    """R-6.3: peers' addresses do not depend on who else came by."""
    addresses = VirtualAddresses(ME)
    lent = addresses.lend(BOB, 4)
    assert str(addresses.of(ALICE, 4)) == "198.18.0.2"
    assert lent in IPv4Network(V4_PREFIX)
    assert addresses.lend(ALICE, 4) == addresses.of(ALICE, 4)
    addresses.give_back(addresses.of(ALICE, 4))
    assert addresses.key_of(addresses.of(ALICE, 4)) == ALICE


def test_a_stranger_who_becomes_a_peer_keeps_the_ipv6_address() -> None:
    """R-6.3."""
    addresses = VirtualAddresses(ME)
    lent = addresses.lend(BOB, 6)
    assert addresses.of(BOB, 6) == lent
    addresses.give_back(lent)
    assert addresses.key_of(lent) == BOB


def test_a_claimed_address_is_not_lent_to_anyone_else() -> None:
    """R-6.5: a restarted agent takes up what was lent."""
    addresses = VirtualAddresses(ME)
    addresses.claim(BOB, IPv4Address("198.19.0.0"))
    addresses.claim(ALICE, IPv4Address("198.19.0.0"))
    assert addresses.lend(ALICE, 4) == IPv4Address("198.19.0.1")
    assert addresses.lend(BOB, 4) == IPv4Address("198.19.0.0")


def test_no_crowd_of_strangers_uses_the_addresses_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """R-7.4, R-6.3: 1,000 keys of one network, one after the other, with room for 10."""
    monkeypatch.setattr(virtual, "LENT_MAX", 10)
    pair = Pair()
    refused = 0
    for number in range(1000):
        key = SigningKey(number.to_bytes(32, "big"))
        here, there = pair.own["c"][0].with_port(1000 + number), pair.own["s"][0].with_port(443)
        time_s = int(pair.s.context.unix_s(pair.now))
        data = make_open(
            key,
            pair.s.context.key.public,
            here,
            there,
            cid=Cid(number.to_bytes(16, "big")),
            time_s=time_s,
        )
        effects = pair.inject("s", data, pair.own["c"][0])
        assert not any(isinstance(effect, Dropped) for effect in effects)
        refused += any(isinstance(e, SendDatagram) and e.data[4] == Reject.TYPE for e in effects)
        if number % 10 == 9:
            pair.run(11)
    assert refused == 0
    assert pair.s.virtual is not None
    assert pair.s.virtual._lent == pair.s.virtual._lent_v4 == {}
    assert pair.s.connections == {}


def test_the_eleventh_stranger_is_told_that_we_are_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """R-5.1.8: and nothing is held for whoever was refused."""
    monkeypatch.setattr(virtual, "LENT_MAX", 0)
    pair = Pair()
    there = pair.own["s"][0].with_port(443)
    data = make_open(
        STRANGER, pair.s.context.key.public, Address.parse("10.9.9.9:1"), there, cid=pair.cid
    )
    (refused,) = pair.inject("s", data, Address.parse("10.9.9.9:4747"))
    assert isinstance(refused, SendDatagram)
    terms = decode_body(RejectTerms, body_of(refused.data, Reject).signed)
    assert terms.code == Code.BUSY
    assert pair.s._quota._total == 0
    with pytest.raises(OverflowError):
        VirtualAddresses(ME).lend(ALICE, 4)


def test_there_are_65534_peers_and_then_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """R-6.3: the last peer's address is the last of 198.18.0.0/16."""
    assert str(OWN_V4 + virtual.PEERS_MAX) == "198.18.255.255"
    assert str(virtual.FIRST_LENT_V4 + virtual.LENT_MAX - 1) == "198.19.255.254"
    monkeypatch.setattr(virtual, "PEERS_MAX", 1)
    addresses = VirtualAddresses(ME)
    addresses.of(ALICE, 4)
    with pytest.raises(OverflowError):
        addresses.of(BOB, 4)
