"""What outlives an agent."""

from __future__ import annotations

import pytest

from pair import Pair, make_host
from wayside.core.codec import DecodeError, encode_body
from wayside.core.connection import State
from wayside.core.identity import PeerIdentity
from wayside.core.saved import agreement_of, read_saved, save
from wayside.core.timers import Timer


@pytest.mark.parametrize("node", ["c", "s"])
@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("gates", [0, 2])
def test_what_is_saved_is_read_back_whole(node: str, family: int, gates: int) -> None:
    """R-6.5: both ends, both families, with hops and without, of a peer that has no name."""
    pair = Pair(gates, family=family).open()
    connection = pair.connection(node)
    saved = read_saved(pair.saved[node][pair.cid])
    assert agreement_of(pair.cid, saved) == connection.agreement
    assert (saved.hops, saved.towards) == (connection.hops, connection.towards)
    assert {one.seq: one.key for one in saved.keys} == connection.keys.by_seq
    assert encode_body(saved) == pair.saved[node][pair.cid]


def test_a_name_and_its_certificate_are_saved_with_the_peer() -> None:
    """R-6.5, R-9.3: a refreshed OPEN carries the certificate again."""
    pair = Pair()
    peer = PeerIdentity(pair.s.context.key.public, "files.lab", b"certificate")
    pair.open(peer=peer)
    saved = read_saved(pair.saved["c"][pair.cid])
    assert agreement_of(pair.cid, saved).peer == peer


@pytest.mark.parametrize("node", ["c", "s"])
def test_a_restored_connection_is_connected_and_will_expire(node: str) -> None:
    """R-6.5: the initiator asks again soon, and what nobody refreshes goes."""
    pair = Pair().open()
    saved = read_saved(pair.saved[node][pair.cid])
    host = make_host(node)
    host.restore(pair.cid, saved, 5000.0)
    connection = host.connections[pair.cid]
    assert connection.state is State.CONNECTED
    assert connection.timers._at[Timer.EXPIRE] == 5120.0
    assert connection.timers._at.get(Timer.REFRESH) == (5020.0 if node == "c" else None)


def test_the_highest_seq_can_be_saved() -> None:
    """R-6.5: an initiator may begin anywhere in 64 bits."""
    pair = Pair().open()
    responder = pair.connection("s")
    responder.keys.add(2**64 - 1, b"k" * 32)
    assert read_saved(save(responder).saved).keys[-1].seq == 2**64 - 1


def test_a_store_that_was_tampered_with_is_not_read() -> None:
    """R-6.5: cut or changed, it is an error that the daemon can name."""
    raw = Pair().open().saved
    (good,) = raw["c"].values()
    for spoilt in (
        b"",
        good[:-1],
        good + b"\0",
        b"\xa0",
        good.replace(b"https", b"https"[::-1])[1:],
    ):
        with pytest.raises(DecodeError):
            read_saved(spoilt)
