"""By which other path a connection is asked for that nobody has answered. Pure. Spec: R-5.4.7.

No packets of it are counted yet, and perhaps no other connection knows that the path is dead. So
the question itself tells: who has sent it three times by a path asks by the next one, first by that
which has nothing in common with this. When all were tried they are given longer, round by round:
the answer may take longer than a try.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from wayside.core.address import Address, Transport
from wayside.core.asker import Asker
from wayside.core.attempt import Attempt
from wayside.core.connection import Connection, State
from wayside.core.rebinder import Rebinder

TRIES = 3
"""OPENs by one path in the first round: the next look after 0.75 s finds them. In each round after
that it is one more."""

ASKED_FOR = (Transport.TCP, Transport.UDP)
"""MPTCP's subflows have a path each; what has no packets is asked again by whoever wants it."""


def next_path(
    connection: Connection, own: Sequence[Address], addresses: Callable[[bytes], Sequence[Address]]
) -> tuple[Address, Address] | None:
    """Where an unanswered question goes from now on (from, to); None: it has time, or no other way.

    `own`: this host's addresses, best first; `addresses`: where a peer (key: 32 bytes) is asked.
    """
    attempt = connection.attempt if isinstance(connection, Asker) else None
    if not is_asked_for(connection) or attempt is None or attempt.counts.tries < TRIES:
        return None
    if connection.agreement.peer.leave.plain:  # its packets soon go as they would without us
        return None
    wire = connection.course
    paths = _paths(own, addresses(connection.agreement.peer.key), wire.family)
    here = (wire.source.ip, wire.destination.ip)
    known = [(source.ip, there.ip) for source, there in paths]
    if not paths or known == [here] or attempt.counts.tries < TRIES + _asked(attempt) // len(paths):
        return None
    return paths[(known.index(here) + 1) % len(paths) if here in known else 0]


def was_moved(connection: Connection) -> bool:
    """Whether it is asked for by another path already, of which nobody knows that it works."""
    attempt = connection.attempt if isinstance(connection, Asker) else None
    return is_asked_for(connection) and attempt is not None and _asked(attempt) > 0


def _asked(attempt: Attempt) -> int:
    """How often it was asked for before: each time has a seq, and every other seq is ours."""
    return attempt.seq // 2


def is_asked_for(connection: Connection) -> bool:
    """Whether it is not up yet and may have another path.

    A relay that was asked knows of none, and who is called has opened one NAT.
    """
    attempt = connection.attempt if isinstance(connection, Asker) else None
    return (
        connection.state is State.OPENING
        and not (attempt is not None and attempt.called)
        and isinstance(connection, Rebinder)
        and connection.course.transport in ASKED_FOR
        and connection.towards.ip == connection.course.destination.ip
    )


def _paths(
    own: Sequence[Address], theirs: Sequence[Address], family: int
) -> list[tuple[Address, Address]]:
    """All of them; next to each other those that have no end in common."""
    here = [one for one in own if one.family == family]
    there = [one for one in theirs if one.family == family]
    numbered = [(abs(m - n), m, n) for m in range(len(here)) for n in range(len(there))]
    return [(here[m], there[n]) for _, m, n in sorted(numbered)]
