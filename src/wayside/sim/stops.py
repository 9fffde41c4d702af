"""STOP in a world: receivers who say it, people who would like to, and the checker of filters.

Receivers are the servers: now and then one has enough of a connection. Their sources do not always
hear of it: somebody near them keeps it from them, and they go on. On the way somebody signs STOPs
with a key of his own, or in a server's name, with all that is to be seen; and repeats true ones.
"""

from __future__ import annotations

from collections.abc import Sequence

from wayside.core import constants as c
from wayside.core.codec import DecodeError, decode_body, encode_body
from wayside.core.messages import Open, OpenTerms, Stop, StopTerms, decode, encode
from wayside.core.opening import SIGNATURE_CONTEXT, open_hash
from wayside.core.route import hops_hash
from wayside.core.rule import Action, Cid, Rule
from wayside.core.stopping import may_stop
from wayside.kernel.plan import Change, Put

from .adversary import Adversary, OnPath, Stage
from .clock import EPOCH_S
from .host import HostBox
from .link import Link
from .said import Said, sent_by
from .watch import Site, Step, Watcher, speaks
from .wire import build_udp, five_tuple, packet_of

LASTS_S = (1.0, 8.0)
"""For how long servers stop somebody: no longer than a source is patient."""

SLACK_S = 2 * c.OPEN_TIME_WINDOW_S
"""From the moment in which a STOP was said, it may be taken so late, by a clock that is off."""


class Receiver(Adversary):
    """Not an adversary: lets servers say STOP about connections of theirs."""

    def act(self) -> None:
        """Choose a connection, and stop it."""
        server = self.chance.choice(self.stage.servers)
        host = server.host
        living = [cid for cid, one in host.connections.items() if may_stop(one)] if host else []
        if living:
            server.say_stop(self.chance.choice(living), self.chance.uniform(*LASTS_S))


class Muffler(OnPath):
    """Near a source: keeps STOPs from it, mostly."""

    def see(self, raw: bytes, end: int) -> list[bytes]:
        """Let all pass but STOPs."""
        packet = packet_of(raw)
        is_stop = packet is not None and packet.payload[4:5] == bytes([Stop.TYPE])
        return [] if is_stop and self.chance.random() < 0.8 else [raw]


class Stopper(OnPath):
    """Says STOP about connections that it sees, and says again what others have said."""

    def act(self) -> None:
        """Forge one from an OPEN that passed, or repeat one."""
        seen, chance = self.signaling_seen(), self.chance
        if seen is None:
            return
        raw, header, message, end = seen
        packet = packet_of(raw)
        assert packet is not None
        if isinstance(message, Stop):
            self.link.inject(raw, end)
        elif isinstance(message, Open):
            try:
                terms = decode_body(OpenTerms, message.signed)
            except DecodeError:  # bent by somebody else
                return
            time_s = int(EPOCH_S + self.stage.network.place.clock.now)
            by = chance.choice((self.key.public, terms.to_key))
            asked = open_hash(header, message.signed)
            said = StopTerms(by, asked, hops_hash(message.hops), 60, time_s)
            about = type(header)(Stop.TYPE, header.seq, header.cid)
            signed = encode_body(said)
            signature = self.key.sign(SIGNATURE_CONTEXT, about.signing + signed)
            data = encode(about, Stop(signed, signature, message.hops))
            self.link.inject(build_udp(packet.flow.reversed(), data), 1 - end)


class StopCheck(Watcher):
    """A filter exists only because the receiver asked for it, once, and no longer than it asked.

    It is for that connection's packets to the receiver, and for no others.
    """

    name = "stops"

    def __init__(self, said: Said) -> None:
        self._said = said
        self._asked: dict[tuple[Cid, int], tuple[float, int, str]] = {}
        self._taken: dict[tuple[str, Cid, int], None] = {}
        self.made = 0

    def on_step(self, step: Step) -> None:
        """Write down who asks."""
        if not step.site.honest:
            return
        for datagram in sent_by(step.effects):
            if datagram.data[4] != Stop.TYPE:
                continue
            host = speaks(step.machine, Cid(datagram.data[16:32]))
            if host is None:  # a gate passes it on, perhaps a lying one
                continue
            header, message = decode(datagram.data)
            if not isinstance(message, Stop):
                continue
            terms = decode_body(StopTerms, message.signed)
            if terms.from_key == step.site.key:
                said = (step.now, terms.lifetime_s, step.site.name)
                self._asked.setdefault((header.cid, terms.time_s), said)

    def on_changes(self, site: Site, changes: Sequence[Change], now: float) -> None:
        """Hold a new filter against that."""
        for change in changes:
            if isinstance(change, Put) and change.rule.action is Action.DROP:
                self._check(site, change.rule, now)

    def _check(self, site: Site, rule: Rule, now: float) -> None:
        time_s = int(rule.note.partition(" ")[0] or 0)
        asked = self._asked.get((rule.owner, time_s))
        if asked is None:
            self.fail(f"{site.name} drops {rule.match}, which its receiver did not ask for")
            return
        said_at, lasts_s, receiver = asked
        if rule.lifetime_s is None or rule.lifetime_s > max(lasts_s, c.LIFETIME_MIN_S):
            self.fail(f"{site.name} drops {rule.match} for {rule.lifetime_s} s, not {lasts_s} s")
        if now > said_at + SLACK_S:
            self.fail(f"{site.name} drops {rule.match} {now - said_at:.0f} s after it was asked")
        if rule.owner not in self._said.consent(receiver, five_tuple(rule.match.reversed())):
            self.fail(f"{site.name} drops {rule.match}, which is no flow of that connection")
        taken = (site.name, rule.owner, time_s)
        if taken in self._taken:
            self.fail(f"{site.name} takes the STOP about {rule.match} a second time")
        self._taken[taken] = None
        self.made += 1

    def on_died(self, site: Site, now: float) -> None:
        """A gate that was killed may take once more what it has forgotten."""
        for key in [key for key in self._taken if key[0] == site.name]:
            del self._taken[key]


def people(stage: Stage, links: Sequence[Link], clients: Sequence[HostBox]) -> list[Adversary]:
    """Those whom a world with STOP has: receivers, somebody on the path, mufflers near sources."""
    near = [link for link in links if any(link.name.startswith(f"{one.name}-") for one in clients)]
    found: list[Adversary] = [Receiver(stage, 0.5)]
    found += [Muffler(stage, 1.0, link) for link in near if stage.chance.random() < 0.7]
    found.append(Stopper(stage, 4.0, stage.chance.choice(list(links))))
    return found
