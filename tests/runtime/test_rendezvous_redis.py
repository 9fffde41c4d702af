"""A rendezvous whose store is a Redis Cluster: a master dies, and hosts are still found."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from runtime.meeting import Meeting, Peer, invited, meeting
from wayside.core.effects import ReportOpened, SendDatagram
from wayside.lab.redis_cluster import RedisCluster, master_of
from wayside.runtime.enrolment import Answer, Outcome
from wayside.runtime.locations_redis import RedisLocations
from wayside.runtime.whereabouts import location_key

PATIENCE_S = 10.0


def sent_to(client: Peer, server: Peer) -> bool:
    """Whether the client was redirected, and asked the server itself."""
    there = {one.destination for one in client.told if isinstance(one, SendDatagram)}
    return server.at in there


async def registered(place: Meeting, peer: Peer) -> None:
    place.ask(peer, "location")
    while await place.daemon.whereabouts.store.find(location_key(peer.key, 4)) is None:
        await place.settle(1)


def test_a_location_and_an_invitation_outlive_the_master_that_had_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Acknowledged means that a replica has it; the daemon asks again until there is a master."""

    async def talk(cluster: RedisCluster) -> None:
        store = RedisLocations(cluster.urls, deadline_s=PATIENCE_S)
        async with meeting(tmp_path, monkeypatch, store) as place:
            server, client = place.peer(1, "files.lab"), place.peer(2)
            await registered(place, server)
            invitation = await invited(place, "new.lab")
            first = await _joined(place, invitation.secret, place.peer(3))
            victim = master_of(b"wayside:l:" + location_key(server.key, 4))
            cluster.masters[victim].process.send_signal(signal.SIGKILL)
            place.ask(client, "https", whom=server.key, cid=2)
            while not sent_to(client, server):
                await place.settle(1)
            second = await _joined(place, invitation.secret, place.peer(4))
            assert (first, second) == (Outcome.GIVEN, Outcome.NOT_GIVEN)

    with RedisCluster(tmp_path / "redis") as cluster:
        asyncio.run(talk(cluster))


async def _joined(place: Meeting, secret: bytes, peer: Peer) -> int:
    """Ask to join until there is an answer; a late one is ready when it is asked for again."""
    asked = 0
    while not peer.answers:
        asked += 1
        place.ask(peer, "join", secret, cid=asked)
        while sum(isinstance(one, ReportOpened) for one in peer.told) < asked:
            await place.settle(1)
        await place.settle(50)
    return Answer.decode(peer.answers[0]).outcome
