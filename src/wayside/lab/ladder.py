"""A ladder: what happened between several daemons, in one drawing, from nothing but their logs.

    client            gate             server
      │ ── OPEN ──────> │                 │
      │                 │ ── OPEN ──────> │
      │                 │   + rule        │

`build` is pure: records in, `Ladder` out; three renderers draw the same Ladder as text, SVG and
mermaid. It knows nothing of what should have happened. An arrow is a datagram that one log says
was sent and another says was received, matched by the digest of its bytes; one that nobody
received is drawn as lost, one that nobody says to have sent comes from outside.

Connections are told one after the other, each with its own rows in the order of time; times are
in milliseconds from the first event of all.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from wayside.runtime.eventlog import Record

FLIGHT_S_MAX = 5.0
"""A datagram that arrives later than this belongs to an earlier sending of the same bytes."""

SKEW_S = 0.2
"""How much later than the receiver a busy sender may get to writing its log: less than a repeat."""

TOGETHER_S = 0.002
"""Marks of the same kind at the same place so close in time are drawn as one."""

DROPS_TOGETHER_S = 1.0
"""The same of what was dropped: a flood takes longer."""

ROWS_MAX = 300
"""Lines of one section: a flood of dropped datagrams is told, not drawn."""

REFRESH_SHOWN = 2
"""The highest seq that is drawn in full: set-up is 0 and 1, the first refresh 2."""

REFRESHING = ("OPEN", "ACCEPT", "CONFIRM")
"""The messages of a refresh."""

OUTSIDERS_SHOWN = 4
"""Arrows of one kind to one column that nobody sent whose log we have: a flood is counted."""

ALIKE_SHOWN = 2
"""Connections of a service with the same messages, and marks at the same places; more count."""

CONNECTIONS_MAX, LINES_MAX, HEADING_LINES = 200, 800, 3
"""Of a drawing: more nobody reads, and what is taller than 32,767 px some cannot draw. The rest is
counted."""

KEY = re.compile(r"\b(k[a-z2-7]{12})[a-z2-7]{40}\b")
"""A key is known by its beginning."""


class Tone(Enum):
    """What a mark is like, for its colour."""

    GOOD = "good"
    BAD = "bad"
    DATA = "data"
    NEUTRAL = "neutral"


OF_A_FLOW = {
    "packet.first": ("first packet held", Tone.DATA),
    "packet.released": ("first packet sent on", Tone.DATA),
    "packet.punched": ("punch sent", Tone.DATA),
    "subflow.made": ("subflow asked of the kernel", Tone.DATA),
    "subflow.up": ("subflow up", Tone.GOOD),
}
"""Events that say no more than of which flow: words and tone."""


@dataclass(frozen=True, slots=True)
class Participant:
    """A daemon; its column is its place in `Ladder.participants`."""

    name: str
    role: str


@dataclass(frozen=True, slots=True)
class Arrow:
    """A datagram from one column to another. Times in ms.

    `target` None: lost, nobody received it. `source` None: nobody that we have a log of sent it.
    `arrived_ms`: None when it is lost. `towards`: the column that a lost one was headed for, if
    that is known.
    """

    time_ms: float
    label: str
    bytes: int
    source: int | None
    target: int | None = None
    arrived_ms: float | None = None
    towards: int | None = None
    seq: int = 0

    @property
    def flight_ms(self) -> float:
        """How long it was under way, to a tenth of a millisecond; 0 when it is lost."""
        return 0.0 if self.arrived_ms is None else round(self.arrived_ms - self.time_ms, 1)


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened in one column. `count`: how many of the same kind at once."""

    time_ms: float
    column: int
    text: str
    tone: Tone
    detail: str = ""
    count: int = 1


Row = Arrow | Mark


@dataclass(frozen=True, slots=True)
class Section:
    """One connection (`cid` in hex), or what belongs to none (empty).

    `alike`: how many more went the same way and are not drawn.
    """

    cid: str
    title: str
    rows: tuple[Row, ...]
    alike: int = 0

    @property
    def heading(self) -> str:
        """The title, and how many it stands for."""
        return f"{self.title}  (and {self.alike} more like it)" if self.alike else self.title


@dataclass(frozen=True, slots=True)
class Ladder:
    """Participants in the order of the path, and what happened in each connection.

    `left_out`: connections beyond CONNECTIONS_MAX and LINES_MAX.
    """

    participants: tuple[Participant, ...]
    sections: tuple[Section, ...]
    left_out: int = 0


_Way = tuple[str, int, str, str]
"""The cid and seq of an OPEN, and two nodes next to each other on its way."""


@dataclass(slots=True)
class _Flight:
    """A datagram between being sent and being received."""

    sent: Record | None
    received: Record | None = None


def build(records: Iterable[Record], cid: str = "", order: Sequence[str] = ()) -> Ladder:
    """Lay the logs of several daemons side by side; only one connection where `cid` is given.

    `order`: of the columns, for who is named there; all others stand in the order of the path.
    """
    ordered = sorted(records, key=lambda record: record.time)
    roles = {record.node: record.role for record in ordered}
    flights = _match(ordered)
    found = [name for name in order if name in roles]
    names = found + [name for name in _path_order(flights, roles) if name not in found]
    columns = {name: column for column, name in enumerate(names)}
    told = [r for r in ordered if r.event not in ("daemon.ready", "log.lost") or r.records]
    start = min((r.time for r in told if r.cid or r.digest), default=0.0)
    by_cid: dict[str, tuple[list[Record], list[_Flight]]] = {}
    for record in told:
        by_cid.setdefault(record.cid, ([], []))[0].append(record)
    for flight in flights:
        by_cid[(flight.sent or flight.received or _NOTHING).cid][1].append(flight)
    cids = sorted((one for one in by_cid if cid in ("", one)), key=lambda one: one == "")
    sections = [_section(one, *by_cid[one], columns, start) for one in cids]
    shown = _bounded(_alike([section for section in sections if section.rows]))
    counted = sum(1 + section.alike for section in shown)
    participants = tuple(Participant(name, roles[name]) for name in names)
    left_out = sum(bool(section.rows) for section in sections) - counted
    return Ladder(participants, tuple(shown), left_out)


def _alike(sections: list[Section]) -> list[Section]:
    """Of many connections that went the same way the first ones, and how many more there were."""
    kept: list[Section] = []
    places: dict[object, list[int]] = {}
    for section in sections:
        service = section.title.split()[1:2]
        shape = (*service, frozenset(_shape_of(row) for row in section.rows))
        known = places.setdefault(shape, [])
        if len(known) < ALIKE_SHOWN:
            known.append(len(kept))
            kept.append(section)
        else:
            last = kept[known[-1]]
            kept[known[-1]] = replace(last, alike=last.alike + 1)
    return kept


def _shape_of(row: Row) -> tuple[object, ...]:
    if isinstance(row, Mark):
        return row.column, row.text
    return row.label.partition(" ")[0], row.target is None


def _bounded(sections: list[Section]) -> list[Section]:
    """As many as anybody reads; what belongs to no connection stays."""
    kept: list[Section] = []
    lines = 0
    for section in sections:
        lines += HEADING_LINES + len(section.rows)
        fits = len(kept) < CONNECTIONS_MAX and lines <= LINES_MAX
        kept += [section] if fits or not section.cid or not kept else []
    return kept


def _match(records: list[Record]) -> list[_Flight]:
    """Pair every reception with a sending of the same bytes by somebody else.

    Boxes in a row send on the same bytes. A reception is of the last sending before it that nobody
    has received yet; where there is none, of the first one behind it: its sender was busy.
    """
    flights: list[_Flight] = []
    in_the_air: dict[str, list[_Flight]] = {}
    ways: set[_Way] = set()
    for record in records:
        if record.event == "datagram.sent":
            flights.append(_Flight(record))
            in_the_air.setdefault(record.digest, []).append(flights[-1])
    for record in records:
        if record.event == "datagram.received":
            flight = _flight_of(record, in_the_air.get(record.digest, []), ways)
            if flight is None:
                flights.append(_Flight(None, record))
            else:
                flight.received = record
                if flight.sent and record.type == "OPEN":
                    ways.add((record.cid, record.seq, flight.sent.node, record.node))
    return flights


def _flight_of(received: Record, same: list[_Flight], ways: set[_Way]) -> _Flight | None:
    """The flight of these bytes that ends with a reception. `same`: in the order of sending.

    Rather one along the way of the OPEN that it belongs to: of boxes in a row any may log late.
    """
    early: list[_Flight] = []
    late: list[_Flight] = []
    for flight in same:
        sent = flight.sent
        if sent is None or flight.received is not None or sent.node == received.node:
            continue
        age_s = received.time - sent.time
        if 0 <= age_s < FLIGHT_S_MAX:
            early.append(flight)
        elif -SKEW_S < age_s < 0:
            late.append(flight)
    found = early[::-1] + late
    along = [flight for flight in found if _is_along(flight.sent or _NOTHING, received, ways)]
    return next(iter(along + found), None)


def _is_along(sent: Record, received: Record, ways: set[_Way]) -> bool:
    """Whether it goes the way of its OPEN: an answer goes back, a CLOSE either way."""
    there = (received.cid, received.seq, sent.node, received.node) in ways
    back = (received.cid, received.seq, received.node, sent.node) in ways
    match received.type:
        case "ACCEPT" | "STOP":
            return back
        case "CLOSE":
            return there or back
        case _:
            return there


def _path_order(flights: list[_Flight], roles: dict[str, str]) -> list[str]:
    """Columns as the first OPEN met them; who took no part stands at the end."""
    order: list[str] = []
    for flight in sorted(flights, key=_flight_time):
        for record in (flight.sent, flight.received):
            if record and record.node not in order:
                order.insert(_place(order, flight, record), record.node)
    return order + [name for name in sorted(roles) if name not in order]


def _place(order: list[str], flight: _Flight, record: Record) -> int:
    """Right of the sender; a sender that comes to light late, left of nobody in particular."""
    if record is flight.received and flight.sent and flight.sent.node in order:
        return order.index(flight.sent.node) + 1
    return len(order)


def _flight_time(flight: _Flight) -> float:
    return min(record.time for record in (flight.sent, flight.received) if record)


def _section(
    cid: str, records: list[Record], flights: list[_Flight], columns: dict[str, int], start: float
) -> Section:
    rows: list[Row] = [_arrow(flight, columns, start) for flight in flights]
    marks = [mark for r in records if (mark := _mark(r, columns[r.node], (r.time - start) * 1000))]
    rows = _outsiders(rows) + _together(marks)
    rows.sort(key=lambda row: row.time_ms)
    rows = _fold(rows)
    if len(rows) > ROWS_MAX:
        left_out = f"{len(rows) - ROWS_MAX} more lines"
        rows[ROWS_MAX:] = [Mark(rows[ROWS_MAX].time_ms, 0, left_out, Tone.NEUTRAL)]
    return Section(cid, _title(cid, records), tuple(rows))


_NOTHING = Record(0.0, "", "", "")


def _arrow(flight: _Flight, columns: dict[str, int], start: float) -> Arrow:
    sent, received = flight.sent, flight.received
    record = sent or received or _NOTHING
    return Arrow(
        (_flight_time(flight) - start) * 1000,
        f"{record.type} {record.seq}" if record.seq else record.type,
        record.bytes,
        columns[sent.node] if sent else None,
        columns[received.node] if received else None,
        (received.time - start) * 1000 if received else None,
        None if received or not sent else _headed_for(sent, columns),
        record.seq,
    )


def _headed_for(sent: Record, columns: dict[str, int]) -> int | None:
    """A lost datagram is drawn towards the next column on the side that its message goes to."""
    column = columns[sent.node]
    back = sent.type in ("ACCEPT", "REJECT", "CHALLENGE", "REDIRECT", "STOP")
    following = column - 1 if back else column + 1
    if following in columns.values():
        return following
    other = column + 1 if back else column - 1
    return other if other in columns.values() else None


def _mark(record: Record, column: int, time_ms: float) -> Mark | None:
    """What a record other than of a datagram is drawn as."""
    text, tone, detail = "", Tone.NEUTRAL, ""
    match record.event:
        case "rule.installed":
            until = "until CONFIRM, " if record.pending else ""
            lifetime = "" if record.lifetime_s is None else f" {until}{record.lifetime_s:g} s"
            text, tone = f"+ {record.action}{lifetime}", Tone.GOOD
            detail = f"{record.match} ⇒ {record.to}" if record.to else record.match
        case "rule.removed":
            text, tone, detail = f"− {record.action or 'rule'}", Tone.BAD, record.match
        case event if event in OF_A_FLOW:
            (text, tone), detail = OF_A_FLOW[event], record.flow
        case "data.delivered":
            text, tone, detail = f"data delivered, {record.bytes} B", Tone.DATA, record.flow
        case "connection.opened":
            text, tone, detail = "opened", Tone.GOOD, record.peer
        case "connection.refused":
            by = f" by {record.by}" if record.by else ""
            text, tone, detail = f"refused{by}", Tone.BAD, record.why or record.code
        case "connection.closed":
            text, detail = "closed", record.why
        case "dropped":
            text, tone = f"dropped: {record.reason}", Tone.BAD
        case "location.kept" | "location.left":
            left = not record.lifetime_s
            text = "location forgotten" if left else f"location kept, {record.lifetime_s:g} s"
            tone, detail = Tone.BAD if left else Tone.GOOD, record.peer
        case "daemon.recovered":
            text = f"restarted, knows {record.connections} connections"
        case "log.lost":
            text, tone = f"{record.records} records not logged", Tone.BAD
        case _:
            return None
    return Mark(time_ms, column, KEY.sub(r"\1…", text), tone, KEY.sub(r"\1…", detail))


def _together(marks: list[Mark]) -> list[Mark]:
    """Marks of the same words, place and moment become one with a count.

    So do all of one host's location: it is said again and again.
    """
    kept: list[Mark] = []
    for mark in marks:
        near_s = DROPS_TOGETHER_S if mark.text.startswith("dropped") else TOGETHER_S
        for position in range(len(kept) - 1, -1, -1):
            earlier = kept[position]
            again = mark.text.startswith("location kept") and mark.detail == earlier.detail
            if mark.time_ms - earlier.time_ms > near_s * 1000 and not again:
                continue
            if (earlier.column, earlier.text) == (mark.column, mark.text):
                kept[position] = replace(earlier, count=earlier.count + 1)
                break
        else:
            kept.append(mark)
    return kept


def _outsiders(rows: list[Row]) -> list[Row]:
    """Of what comes in great numbers from nobody we know, the first few and a count."""
    kept: list[Row] = []
    folded: dict[tuple[int, str], list[Arrow]] = {}
    seen: Counter[tuple[int, str]] = Counter()
    for row in rows:
        if isinstance(row, Arrow) and row.source is None and row.target is not None:
            place = (row.target, row.label)
            seen[place] += 1
            if seen[place] > OUTSIDERS_SHOWN:
                folded.setdefault(place, []).append(row)
                continue
        kept.append(row)
    for (column, label), arrows in folded.items():
        text = f"{len(arrows)} more {label} from outside"
        kept.append(Mark(arrows[0].time_ms, column, text, Tone.BAD))
    return kept


def _fold(rows: list[Row]) -> list[Row]:
    """The first refresh is shown; later ones where nothing was lost become a count in one mark."""
    kept: list[Row] = []
    seen: Counter[tuple[int, str]] = Counter()
    folded: list[Row] = []
    moves = _moves(rows) | {
        row.seq for row in rows if isinstance(row, Arrow) and row.target is None
    }
    refreshing = False
    for row in rows:
        if isinstance(row, Arrow):
            refreshing = _is_refresh(row) and row.seq not in moves
            repeated = refreshing and row.target is not None and row.source is not None
        else:
            seen[row.column, row.text] += 1
            repeated = refreshing and row.tone is Tone.GOOD and seen[row.column, row.text] > 1
        (folded if repeated else kept).append(row)
    if folded:
        last = folded[-1].time_ms
        text = f"refreshed until {last:.0f} ms: {len(folded)} more lines"
        senders = (row.source for row in folded if isinstance(row, Arrow))
        column = next((one for one in senders if one is not None), 0)
        kept.append(Mark(folded[0].time_ms, column, text, Tone.NEUTRAL))
        kept.sort(key=lambda row: row.time_ms)
    return kept


def _is_refresh(row: Arrow) -> bool:
    return row.seq > REFRESH_SHOWN and row.label.partition(" ")[0] in REFRESHING


def _moves(rows: list[Row]) -> set[int]:
    """The seqs that brought rules for other flows than before: a new way, not a refresh."""
    moves: set[int] = set()
    known: set[tuple[int, str]] = set()
    seq = 0
    for row in rows:
        if isinstance(row, Arrow):
            seq = row.seq if row.label.partition(" ")[0] in REFRESHING else seq
        elif row.tone is Tone.GOOD and (row.column, row.detail) not in known:
            known.add((row.column, row.detail))
            moves.add(seq)
    return moves


def _title(cid: str, records: list[Record]) -> str:
    """What a connection is, in the words of whoever said it first."""
    if not cid:
        return "not of a connection"
    service = next((r.service for r in records if r.service), "")
    flow = next((r.flow or r.match for r in records if r.flow or r.match), "")
    return "  ".join(word for word in (cid[:8], service, flow) if word)
