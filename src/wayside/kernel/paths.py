"""Which path has died without a sign, by what the kernel counts; and which is tried next. Pure.

A path is an own address and one of the other end. The kernel counts each rule's packets: as long as
something comes for a connection, nothing is asked. What leaves without anything coming back may be
a path that is dead, or a flow that goes one way only. So the other end is asked by the same path (a
refresh); if it answers, all is well, and the next question takes its time. If it does not answer
two of them, or a refresh that was due anyway, the next path is tried, the ones first that have
nothing in common with the dead one. The first that answers is taken by that connection, then by all
others of the dead path. Who talks to a hidden host has no other path; but that may have moved to
behind a gate, which knows nothing until it is asked.

The one that was left is tried again later, and later still each time that it dies again: so nothing
flaps. Whoever forges packets of a connection, from its other end's address, keeps a dead path alive
for it: a kernel counts what it lets in. Of two ends the one with the smaller key goes first. Of the
connections of one path only a few are looked at, the busiest and then each in its turn. R-5.4.8.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from wayside.core.address import IP, Address, Flow, Transport
from wayside.core.asker import Asker
from wayside.core.connection import Connection, State
from wayside.core.constants import SIGNALING_PORT
from wayside.core.rebinder import Rebinder
from wayside.core.rule import Cid
from wayside.core.way import Role

from .openings import is_asked_for, next_path, was_moved
from .trip import TRY_MAX_S, Trip

FAST_S, SLOW_S = 0.03, 0.25
"""Between looks while something passes, and while nothing does. A look costs the helper 0.3 ms a
connection."""

PATIENCE_S, PATIENCE_MAX_S = 0.04, 1.0
"""So long nothing may come before one asks: a kernel acknowledges within 40 ms. Each answer doubles
it for a flow that goes one way, up to a question a second."""

ASKS = 2
"""One datagram may be lost."""

READ_AFTER_S = 0.3
"""From news of addresses or routes until all are read, and routed by: that takes 30 ms on a core of
a daemon and its helper, and a move that is under way needs both."""

RETURN_S, RETURN_MAX_S = 30.0, 600.0
"""After so long the path that was left is tried again; twice as long each time that it is dead."""

LOOKED_AT_A_PATH, LOOKED_AT = 2, 32
FOLLOW_A_LOOK = 32
"""Connections that follow to another path in one look: each takes an OPEN, 0.2 ms."""

WATCHED = (Transport.TCP, Transport.UDP)
"""MPTCP has timers and subflows of its own."""

QUIET_S, BUSY_S = 1.0, 2.0
"""While somebody moves nothing is asked about paths: a move sees to itself."""


@dataclass(frozen=True, slots=True)
class Path:
    """An own address, and one of the other end; `key`: whose, if a rendezvous hides several."""

    own: IP
    theirs: IP
    key: bytes = b""


@dataclass(frozen=True, slots=True)
class Trial:
    """Ask for this connection by this path, whether it has it already or not."""

    cid: Cid
    source: Address
    destination: Address


@dataclass(slots=True)
class _Counted:
    sent: int
    heard: int
    busy_at: float = 0.0


@dataclass(slots=True)
class _State:
    """What is known of a path; times are monotonic seconds.

    `asked`: for which connection, while something depends on the answer.
    """

    counts: dict[Cid, _Counted] = field(default_factory=dict[Cid, _Counted])
    busy_at: float = 0.0
    waiting: Cid | None = None
    waiting_since: float = 0.0
    asked: Cid | None = None
    asked_at: float = 0.0
    asks: int = 0
    tries: int = 0
    answers: int = 0
    trip: Trip = field(default_factory=Trip)
    turn: int = 0
    rests_until: float = 0.0
    """What was on it has just been asked for elsewhere."""

    def calm(self) -> None:
        """Who was asked for has been answered, or is no more; another may still wait."""
        if self.waiting == self.asked:
            self.waiting = None
        self.asked = None
        self.asks = self.tries = 0

    @property
    def patience_s(self) -> float:
        """How long nothing may come."""
        return min(PATIENCE_MAX_S, PATIENCE_S * 2**self.answers)


@dataclass(slots=True)
class _Left:
    """A path that was left, for which one; when it is tried again, and how long after that."""

    path: Path
    at: float
    again_s: float


class Paths:
    """Watches the paths of a host's connections. `key`: the host's own, 32 bytes."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._own: tuple[Address, ...] = ()
        self._states: dict[Path, _State] = {}
        self._left: dict[Path, _Left] = {}
        self._patience: dict[Path, float] = {}
        self._chosen: dict[IP, IP] = {}
        self._seen: dict[Cid, IP] = {}
        self._following: deque[Trial] = deque()
        self._turn = 0
        self._quiet_until = 0.0

    # --- where this host is ---

    def settle(self, own: Sequence[Address], now: float) -> None:
        """These are the addresses of this host, best first, with the port where each is asked."""
        before, self._own = self._own, tuple(own)
        self._quiet_until = now + QUIET_S
        here: set[IP] = {one.ip for one in own}
        if [_first(before, family) for family in (4, 6)] != [_first(own, f) for f in (4, 6)]:
            here = set()  # somebody prefers another link now: that counts, not what was chosen
        self._chosen = {there: ip for there, ip in self._chosen.items() if ip in here}
        self._left = {
            path: left
            for path, left in self._left.items()
            if path.own in here and left.path.own in here
        }

    def source_towards(self, there: IP) -> IP | None:
        """The own address for packets to another, where silence has made us choose."""
        return self._chosen.get(there)

    def agreed(self, cid: Cid, wire: Flow, preferred: IP | None) -> None:
        """Both ends take this path, whoever wanted it; `preferred`: what the kernel would take.

        What has stayed where it was says nothing of that: the kernel may prefer another link since,
        and a move is under way.
        """
        here, there = wire.source.ip, wire.destination.ip
        if preferred == here:
            self._chosen.pop(there, None)
        elif self._seen.get(cid, here) != here and any(one.ip == here for one in self._own):
            self._chosen[there] = here
        if cid in self._seen:
            self._seen[cid] = here

    # --- looking ---

    def interval_s(self, now: float) -> float:
        """How long until the next look."""
        busy = any(
            state.asked is not None or now - state.busy_at < BUSY_S
            for state in self._states.values()
        )
        return FAST_S if busy or self._following else SLOW_S

    def due(self, connections: Iterable[Connection]) -> list[Connection]:
        """Whose counters have to be seen now."""
        by_path = self._by_path(connections)
        self._states = {path: self._states.get(path) or _State() for path in by_path}
        self._seen = {one.agreement.cid: path.own for path, some in by_path.items() for one in some}
        found: list[Connection] = []
        self._turn += 1
        paths = list(by_path)
        start = self._turn % len(paths) if paths else 0
        for path in paths[start:] + paths[:start]:
            if len(found) >= LOOKED_AT:
                break
            found += self._some(self._states[path], by_path[path])
        return found

    def look(
        self, counted: Mapping[Cid, tuple[int, int]], connections: Iterable[Connection], now: float
    ) -> list[Trial]:
        """See what has come and gone (packets sent, heard, so far); what is to be asked now."""
        by_path = self._by_path(connections)
        trials: list[Trial] = []
        going = {one.agreement.cid for one in connections if can_follow(one)}
        while self._following and len(trials) < FOLLOW_A_LOOK:
            trial = self._following.popleft()
            trials += [trial] if trial.cid in going else []
        for path, found in by_path.items():
            state = self._states.setdefault(path, _State())
            known = {one.agreement.cid: one for one in found}
            heard = self._count(state, known, counted, now)
            self._unanswered(state, found, now)
            step = self._step(path, state, known, heard, now) or self._return(path, found, now)
            trials += [step] if step is not None else []
        return trials

    def unanswered(
        self, connections: Iterable[Connection], addresses: Callable[[bytes], Sequence[Address]]
    ) -> list[Trial]:
        """What is not up yet, and is asked for by another path now; `addresses`: of a key."""
        found = [(one, next_path(one, self._own, addresses)) for one in connections]
        return [Trial(one.agreement.cid, *path) for one, path in found if path is not None]

    def answered(
        self, connection: Connection, connections: Iterable[Connection], now: float
    ) -> None:
        """The other end has agreed to this connection again, by the path that it has now.

        If that is another one, because of us, all others of the path that was left follow.
        """
        cid, at = connection.agreement.cid, _path_of(connection)
        new = self._states.setdefault(at, _State())
        if cid not in new.counts:
            new.rests_until = max(new.rests_until, now + QUIET_S)
        for path, state in list(self._states.items()):
            if state.trip.timed == cid and path == at:
                state.trip.took(now - state.asked_at)
            if state.asked != cid:
                continue
            if path == at:
                state.answers = min(state.answers + 1, 16)
            elif state.tries:
                self._took_another(path, at, now)
                state.rests_until = now + state.trip.try_s
                self._follow(connections, connection, path)
            state.calm()
        for path in [path for path, left in self._left.items() if left.path == at]:
            self._forget(path, at)
            self._follow(connections, connection, path)

    def _follow(self, connections: Iterable[Connection], to: Connection, dead: Path) -> None:
        """All others of a path take the one that this connection has now; who opens, too."""
        wire = to.agreement.wire
        there = self._there(to, wire.destination.ip)
        for one in connections:
            same = one.agreement.peer.key == to.agreement.peer.key
            if same and can_follow(one) and (_path_of(one) == dead or was_moved(one)):
                self._following.append(Trial(one.agreement.cid, wire.source, there))

    def _port_of(self, connection: Connection) -> int:
        about = connection.agreement
        known = {one.ip: one.port for one in about.alternatives}
        return known.get(about.wire.destination.ip, 0) or SIGNALING_PORT

    def _by_path(self, connections: Iterable[Connection]) -> dict[Path, list[Connection]]:
        by_path: dict[Path, list[Connection]] = {}
        for one in connections:
            if is_watched(one) and (_is_hidden(one) or self._others(one)):
                by_path.setdefault(_path_of(one), []).append(one)
        return by_path

    def _some(self, state: _State, connections: list[Connection]) -> list[Connection]:
        """The busiest of a path, who waits for something to come, and then each in its turn."""

        def busy_at(one: Connection) -> float:
            counted = state.counts.get(one.agreement.cid)
            return counted.busy_at if counted else 0.0

        if len(connections) <= LOOKED_AT_A_PATH:
            return connections
        state.turn = (state.turn + 1) % len(connections)
        found = [max(connections, key=busy_at), connections[state.turn]]
        found += [one for one in connections if one.agreement.cid in (state.waiting, state.asked)]
        return list({one.agreement.cid: one for one in found}.values())

    def _count(
        self,
        state: _State,
        known: Mapping[Cid, Connection],
        counted: Mapping[Cid, tuple[int, int]],
        now: float,
    ) -> bool:
        """Take the counters of a path's connections; whether anything has come.

        Only what comes for whom silence was noticed says that it is over: the others may have a
        gate that still knows them, or somebody who sends in the other end's name.
        """
        heard: set[Cid] = set()
        if state.waiting not in known:
            state.waiting = None
        state.counts = {cid: seen for cid, seen in state.counts.items() if cid in known}
        for cid in known:
            if cid not in counted:
                continue
            sent, came = counted[cid]
            before = state.counts.get(cid)
            seen = state.counts[cid] = _Counted(sent, came, before.busy_at if before else 0.0)
            if before is None or sent < before.sent or came < before.heard:
                continue  # new rules count from zero
            if sent > before.sent or came > before.heard:
                seen.busy_at = state.busy_at = now
            if came > before.heard:
                heard.add(cid)
            if sent > before.sent and came == before.heard and state.waiting is None:
                state.waiting, state.waiting_since = cid, now
        if state.waiting in heard:
            state.waiting, state.answers = None, 0
        if state.asked in heard:
            state.answers = 0
            state.calm()
        return bool(heard)

    def _unanswered(self, state: _State, found: list[Connection], now: float) -> None:
        """A refresh that nobody answers is as good as having asked, though nothing is sent."""
        if state.asked is not None:
            return
        for one in found:
            attempt = one.attempt if isinstance(one, Asker) else None
            if attempt is None or attempt.message is None or attempt.towards is not None:
                continue
            if attempt.wire == one.agreement.wire and attempt.counts.tries > ASKS:
                state.asked, state.asks = one.agreement.cid, ASKS
                state.asked_at = now - state.trip.wait_s
                return

    def _step(
        self, path: Path, state: _State, known: Mapping[Cid, Connection], heard: bool, now: float
    ) -> Trial | None:
        """What is to be asked about a path now."""
        if now < max(state.rests_until, self._quiet_until):
            return None
        unknown = state.trip.smooth_s is None and (
            state.trip.timed is None or now > state.asked_at + TRY_MAX_S
        )
        if heard and unknown:
            busiest = max(state.counts, key=lambda cid: state.counts[cid].busy_at)
            return self._ask(path, state, known[busiest], now)  # to learn how long it takes
        if state.asked is None:
            if state.waiting is None or now - state.waiting_since < state.patience_s:
                return None
            return self._ask(path, state, known[state.waiting], now)
        if state.asked not in known:
            state.calm()
            return None
        connection = known[state.asked]
        if state.asks < ASKS or state.tries == 0:
            mine = self._key < connection.agreement.peer.key
            turn_s = 0.0 if mine or state.asks < ASKS else state.trip.turn_s
            wait_s = state.trip.wait_s + turn_s
            if now - state.asked_at < wait_s:
                return None
            if state.asks < ASKS:
                return self._ask(path, state, connection, now)
        others = self._others(connection)
        rounds, place = divmod(state.tries, len(others) + 1)
        if state.tries and now - state.asked_at < min(
            TRY_MAX_S, state.trip.try_s * 2 ** min(rounds, 8)
        ):
            return None
        state.asked_at, state.tries = now, state.tries + 1
        if rounds and place == 0:
            connection = self._next(state, connection, known)
            others = self._others(connection)
        if place >= len(others):  # perhaps it is back
            return self._trial(connection, path.own, self._there(connection, path.theirs))
        own, there = others[place]
        return self._trial(connection, own, there)

    def _next(
        self, state: _State, before: Connection, known: Mapping[Cid, Connection]
    ) -> Connection:
        """The other end may have closed the one that was asked for, and could not say so."""
        cids = list(known)
        asked = state.asked = cids[(cids.index(before.agreement.cid) + 1) % len(cids)]
        return known[asked]

    def _ask(self, path: Path, state: _State, connection: Connection, now: float) -> Trial:
        """By the path that it has."""
        state.asked = state.trip.timed = connection.agreement.cid
        state.asked_at = now
        state.asks += 1
        return self._trial(connection, path.own, self._there(connection, path.theirs))

    def _there(self, connection: Connection, ip: IP) -> Address:
        return Address(ip, self._port_of(connection))

    def _trial(self, connection: Connection, own: IP, there: Address) -> Trial:
        return Trial(connection.agreement.cid, Address(own, 0), there)

    def _others(self, connection: Connection) -> list[tuple[IP, Address]]:
        """The other paths of a connection, those first that have no end of this one."""
        about = connection.agreement
        here, there = about.wire.source.ip, about.wire.destination
        family = about.wire.family
        owns = [one.ip for one in self._own if one.family == family and one.ip != here]
        known = [one for one in about.alternatives if one.ip != there.ip]
        theirs = [one if one.port else one.with_port(SIGNALING_PORT) for one in known]
        back = self._there(connection, there.ip)
        return [
            *((own, one) for own, one in zip(owns, theirs, strict=False)),
            *((own, back) for own in owns),
            *((here, one) for one in theirs),
            *((own, one) for n, own in enumerate(owns) for m, one in enumerate(theirs) if n != m),
        ]

    # --- what was left, and coming back ---

    def _took_another(self, dead: Path, taken: Path, now: float) -> None:
        before = self._left.pop(dead, None)
        if before is not None and before.path == taken:
            self._forget(dead, taken)
            return
        first = before.path if before is not None else dead
        again_s = min(RETURN_MAX_S, 2 * self._patience.get(first, RETURN_S / 2))
        self._patience[first] = again_s
        self._left[taken] = _Left(first, now + again_s, again_s)
        for ip in (first.theirs, dead.theirs, taken.theirs):
            self._chosen[ip] = taken.own

    def _forget(self, path: Path, back: Path) -> None:
        """Nothing is chosen any more: connections have the path again that they had first."""
        self._left.pop(path, None)
        for ip in (path.theirs, back.theirs):
            self._chosen.pop(ip, None)

    def _return(self, path: Path, found: list[Connection], now: float) -> Trial | None:
        """Time to see whether the path that was left works again."""
        left = self._left.get(path)
        if left is None or now < left.at or left.path.own not in {one.ip for one in self._own}:
            return None
        left.again_s = self._patience[left.path] = min(RETURN_MAX_S, 2 * left.again_s)
        left.at = now + left.again_s
        return self._trial(found[0], left.path.own, self._there(found[0], left.path.theirs))


def is_watched(connection: Connection) -> bool:
    """Whether silence can move it."""
    about = connection.agreement
    return (
        connection.state is State.CONNECTED
        and about.wire.transport in WATCHED
        and bool(about.outbound)
        and isinstance(connection, Rebinder)
        and not connection.hider
    )


def can_follow(connection: Connection) -> bool:
    """Whether another one's path will do for it."""
    return is_watched(connection) or is_asked_for(connection)


def _is_hidden(connection: Connection) -> bool:
    """Whether the other end moves unseen, perhaps to behind a gate that has to be asked. R-10.5."""
    return any(hop.role == Role.HIDING for hop in connection.hops)


def _first(own: Sequence[Address], family: int) -> IP | None:
    """The preferred address of a family."""
    return next((one.ip for one in own if one.family == family), None)


def _path_of(connection: Connection) -> Path:
    wire = connection.course
    key = connection.agreement.peer.key if _is_hidden(connection) else b""
    return Path(wire.source.ip, wire.destination.ip, key)
