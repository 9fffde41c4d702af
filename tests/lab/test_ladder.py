"""Ladders of made-up event logs: one connection through a gate, as three daemons would tell it."""

from typing import Any
from xml.etree import ElementTree

from wayside.lab import ladder, ladder_mermaid, ladder_svg, ladder_text
from wayside.lab.ladder import Arrow, Ladder, Mark, Tone
from wayside.runtime.eventlog import Record

CID = "c1" * 16
FLOW = "udp 10.1.0.2:40001 > 10.3.0.1:7007"


class Log:
    """Collects records; `ms` is the time."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def add(self, ms: float, node: str, event: str, **details: Any) -> None:
        role = "gate" if node == "gate" else "host"
        details.setdefault("cid", CID)
        record = Record(time=1000 + ms / 1000, node=node, role=role, event=event, **details)
        self.records.append(record)

    def carry(self, ms: float, sender: str, receiver: str, kind: str, digest: str) -> None:
        """A datagram that takes 1 ms."""
        details = {"type": kind, "digest": digest, "bytes": 300}
        self.add(ms, sender, "datagram.sent", **details)
        self.add(ms + 1, receiver, "datagram.received", **details)


def through_a_gate() -> list[Record]:
    log = Log()
    log.add(-500, "server.lab", "daemon.ready", cid="")
    log.add(-400, "client.lab", "daemon.ready", cid="")
    log.add(-300, "gate", "daemon.ready", cid="")
    log.add(0, "client.lab", "packet.first", flow=FLOW)
    log.carry(1, "client.lab", "gate", "OPEN", "a1")
    log.carry(3, "gate", "server.lab", "OPEN", "a2")
    log.add(5, "server.lab", "rule.installed", action="rewrite", match=FLOW, to=FLOW)
    log.add(5.1, "server.lab", "rule.installed", action="rewrite", match=FLOW, to=FLOW)
    log.carry(6, "server.lab", "gate", "ACCEPT", "b1")
    pending = {"action": "accept", "lifetime_s": 5.0, "pending": True}
    log.add(8, "gate", "rule.installed", match=FLOW, **pending)
    log.add(8.1, "gate", "rule.installed", match=FLOW, **pending)
    log.carry(9, "gate", "client.lab", "ACCEPT", "b1")
    log.add(10.5, "client.lab", "connection.opened", peer="server.lab", service="echo")
    log.add(11, "client.lab", "packet.released", flow=FLOW)
    log.carry(12, "client.lab", "gate", "CONFIRM", "c1")
    log.add(12.5, "gate", "datagram.sent", type="CONFIRM", digest="c2", bytes=90)
    return log.records


def arrows(drawn: Ladder) -> list[Arrow]:
    return [row for section in drawn.sections for row in section.rows if isinstance(row, Arrow)]


def marks(drawn: Ladder) -> list[Mark]:
    return [row for section in drawn.sections for row in section.rows if isinstance(row, Mark)]


def test_columns_stand_in_the_order_of_the_path_whoever_logged_first() -> None:
    drawn = ladder.build(through_a_gate())
    assert [(p.name, p.role) for p in drawn.participants] == [
        ("client.lab", "host"),
        ("gate", "gate"),
        ("server.lab", "host"),
    ]


def test_who_took_no_part_still_has_a_column_at_the_end() -> None:
    log = Log()
    log.add(-1, "server.lab", "daemon.ready", cid="")
    log.carry(0, "client.lab", "gate", "OPEN", "a1")
    log.carry(2, "gate", "client.lab", "REJECT", "b1")
    drawn = ladder.build(log.records)
    assert [p.name for p in drawn.participants] == ["client.lab", "gate", "server.lab"]
    assert {column for a in arrows(drawn) for column in (a.source, a.target)} == {0, 1}


def test_arrows_join_what_was_sent_to_what_was_received() -> None:
    seen = [(a.label, a.source, a.target) for a in arrows(ladder.build(through_a_gate()))]
    assert seen == [
        ("OPEN", 0, 1),
        ("OPEN", 1, 2),
        ("ACCEPT", 2, 1),
        ("ACCEPT", 1, 0),
        ("CONFIRM", 0, 1),
        ("CONFIRM", 1, None),
    ]


def test_the_order_of_the_records_does_not_matter() -> None:
    records = through_a_gate()
    assert ladder.build(reversed(records)) == ladder.build(records)


def test_times_count_from_the_first_event_of_a_connection_not_from_the_start_of_daemons() -> None:
    drawn = ladder.build(through_a_gate())
    assert round(drawn.sections[0].rows[0].time_ms, 6) == 0
    assert round(arrows(drawn)[0].time_ms, 6) == 1
    assert round(arrows(drawn)[0].arrived_ms or 0, 6) == 2


def test_a_repetition_that_arrives_leaves_the_first_one_lost() -> None:
    log = Log()
    log.add(0, "client.lab", "datagram.sent", type="OPEN", digest="a1")
    log.carry(250, "client.lab", "server.lab", "OPEN", "a1")
    first, second = arrows(ladder.build(log.records))
    assert (first.target, first.towards) == (None, 1)
    assert (second.target, round(second.arrived_ms or 0)) == (1, 251)


def test_the_same_bytes_sent_on_by_a_gate_are_two_arrows() -> None:
    log = Log()
    log.carry(0, "client.lab", "gate", "CLOSE", "d1")
    log.carry(2, "gate", "server.lab", "CLOSE", "d1")
    drawn = arrows(ladder.build(log.records))
    assert [(a.source, a.target) for a in drawn] == [(0, 1), (1, 2)]


def test_bytes_that_boxes_in_a_row_send_on_go_from_one_to_the_next() -> None:
    log = Log()
    for ms, sender, receiver in ((0, "home", "inner"), (2, "inner", "outer"), (4, "outer", "away")):
        log.carry(ms, sender, receiver, "OPEN", f"a{ms}")
    for ms, sender, receiver in (
        (6, "away", "outer"),
        (8, "outer", "inner"),
        (10, "inner", "home"),
    ):
        log.carry(ms, sender, receiver, "ACCEPT", "b1")
    drawn = arrows(ladder.build(log.records))
    assert [(a.source, a.target) for a in drawn[3:]] == [(3, 2), (2, 1), (1, 0)]


def test_a_box_in_a_row_that_writes_its_log_late_is_still_the_sender() -> None:
    log = Log()
    log.carry(0, "home", "inner", "OPEN", "a1")
    log.carry(2, "inner", "outer", "OPEN", "a2")
    details: dict[str, Any] = {"type": "ACCEPT", "digest": "b1"}
    for ms, node in ((7.0, "inner"), (7.9, "home")):
        log.add(ms, node, "datagram.received", **details)
    for ms, node in ((57.6, "outer"), (57.7, "inner")):
        log.add(ms, node, "datagram.sent", **details)
    drawn = arrows(ladder.build(log.records))
    assert [(a.source, a.target) for a in drawn[2:]] == [(2, 1), (1, 0)]


def test_what_boxes_send_on_unchanged_goes_the_way_of_its_open_whoever_logs_late() -> None:
    log = Log()
    log.carry(1, "client.lab", "gate", "OPEN", "a1")
    log.carry(3, "gate", "server.lab", "OPEN", "a2")
    for ms, node, event, kind in (
        (10.0, "server.lab", "sent", "ACCEPT"),
        (10.4, "client.lab", "received", "ACCEPT"),
        (10.5, "gate", "sent", "ACCEPT"),
        (10.6, "gate", "received", "ACCEPT"),
        (15.0, "server.lab", "sent", "STOP"),
        (15.4, "client.lab", "received", "STOP"),
        (15.5, "gate", "sent", "STOP"),
        (15.6, "gate", "received", "STOP"),
        (20.0, "client.lab", "sent", "CONFIRM"),
        (20.4, "server.lab", "received", "CONFIRM"),
        (20.5, "gate", "sent", "CONFIRM"),
        (20.6, "gate", "received", "CONFIRM"),
    ):
        log.add(ms, node, f"datagram.{event}", type=kind, digest=kind)
    ways = {(a.label, a.source, a.target) for a in arrows(ladder.build(log.records))}
    back = {(kind, n + 1, n) for kind in ("ACCEPT", "STOP") for n in (0, 1)}
    assert ways == {(kind, n, n + 1) for kind in ("OPEN", "CONFIRM") for n in (0, 1)} | back


def test_a_lost_answer_is_drawn_back_towards_the_one_who_asked() -> None:
    log = Log()
    log.carry(0, "client.lab", "server.lab", "OPEN", "a1")
    log.add(2, "server.lab", "datagram.sent", type="ACCEPT", digest="b1")
    assert arrows(ladder.build(log.records))[1].towards == 0


def test_what_nobody_says_to_have_sent_comes_from_outside() -> None:
    log = Log()
    log.add(0, "server.lab", "datagram.received", type="OPEN", digest="a9")
    arrow = arrows(ladder.build(log.records))[0]
    assert (arrow.source, arrow.target) == (None, 0)


def test_marks_of_the_same_words_at_once_are_one_with_a_count() -> None:
    installed = [m for m in marks(ladder.build(through_a_gate())) if m.text.startswith("+")]
    assert [(m.text, m.count, m.column, m.tone) for m in installed] == [
        ("+ rewrite", 2, 2, Tone.GOOD),
        ("+ accept until CONFIRM, 5 s", 2, 1, Tone.GOOD),
    ]


def test_a_refusal_says_who_and_why() -> None:
    log = Log()
    log.carry(0, "client.lab", "gate", "OPEN", "a1")
    log.add(2, "client.lab", "connection.refused", by="gate", why="closed on Sundays")
    (mark,) = marks(ladder.build(log.records))
    assert (mark.text, mark.detail, mark.tone) == ("refused by gate", "closed on Sundays", Tone.BAD)


def test_each_connection_has_a_section_and_one_can_be_asked_for_alone() -> None:
    log = Log()
    log.carry(0, "client.lab", "server.lab", "OPEN", "a1")
    log.add(3, "client.lab", "packet.first", cid="e2" * 16, flow=FLOW, service="echo")
    both = ladder.build(log.records)
    assert [section.title for section in both.sections] == ["c1c1c1c1", f"e2e2e2e2  echo  {FLOW}"]
    one = ladder.build(log.records, cid="e2" * 16)
    assert [section.cid for section in one.sections] == ["e2" * 16]


def test_more_connections_than_anybody_reads_are_counted() -> None:
    log = Log()
    for number in range(ladder.CONNECTIONS_MAX + 3):
        cid = f"{number:032x}"
        log.add(number, "client.lab", "connection.refused", cid=cid, by=f"gate{number}")
    log.add(5000, "gate", "daemon.recovered", cid="", connections=2)
    drawn = ladder.build(log.records)
    assert drawn.sections[-1].cid == ""
    assert (len(drawn.sections), drawn.left_out) == (ladder.CONNECTIONS_MAX + 1, 3)
    lines = sum(len(s.rows) + ladder.HEADING_LINES for s in drawn.sections[:-1])
    assert lines <= ladder.LINES_MAX


def test_of_many_connections_that_went_the_same_way_two_are_drawn_and_all_are_counted() -> None:
    log = Log()
    for number in range(40):
        cid = f"{number:032x}"
        log.add(number, "client.lab", "connection.opened", cid=cid, service="http", flow=FLOW)
        log.add(number + 0.5, "client.lab", "connection.closed", cid=cid)
    log.add(50, "client.lab", "connection.opened", cid=CID, service="http", flow=FLOW)
    log.add(51, "client.lab", "connection.closed", cid=CID)
    log.add(52, "gate", "dropped", cid=CID, reason="signature")
    drawn = ladder.build(log.records)
    assert [(s.alike, len(s.rows)) for s in drawn.sections] == [(0, 2), (38, 2), (0, 3)]
    assert drawn.left_out == 0
    assert "(and 38 more like it)" in ladder_text.render(drawn).plain


def test_what_a_rendezvous_keeps_and_forgets_is_drawn_and_keys_by_their_beginning() -> None:
    log, key = Log(), "kf2u4pcltf4t2qodrwdkbwmfscjpv237tiasurfu6xh2wbbq7b4za"
    log.add(1, "meet", "location.kept", cid="", peer=key, lifetime_s=120.0)
    log.add(6, "meet", "location.kept", cid="", peer="another", lifetime_s=120.0)
    log.add(500, "meet", "location.kept", cid="", peer=key, lifetime_s=120.0)
    log.add(900, "meet", "location.left", cid="", peer=key, lifetime_s=0)
    found = [(m.text, m.detail, m.count) for m in marks(ladder.build(log.records))]
    assert found == [
        ("location kept, 120 s", "kf2u4pcltf4t2…", 2),
        ("location kept, 120 s", "another", 1),
        ("location forgotten", "kf2u4pcltf4t2…", 1),
    ]


def test_columns_can_be_put_in_an_order() -> None:
    drawn = ladder.build(through_a_gate(), order=["server.lab", "nobody", "client.lab"])
    assert [one.name for one in drawn.participants] == ["server.lab", "client.lab", "gate"]


def test_text_shows_the_whole_story() -> None:
    lines = ladder_text.render(ladder.build(through_a_gate()), 80).plain.splitlines()
    assert max(len(line) for line in lines) <= 80
    assert lines[1].split() == ["ms", "client.lab", "gate", "server.lab"]
    assert lines[3] == (
        "      1.0  ├─────────── OPEN ─────────▶│                           │  +1.0"
    )
    assert "│◀───────── ACCEPT ─────────┤" in lines[6]
    assert lines[12].endswith("✗│  lost")


def test_svg_is_well_formed_1200_wide_and_keeps_all_words_inside() -> None:
    log = Log()
    log.records += through_a_gate()
    log.add(20, "gate", "connection.refused", by="<gate & co>", why="long " * 80)
    document = ladder_svg.render(ladder.build(log.records), 'a "title" <&>')
    root = ElementTree.fromstring(document)
    assert root.get("width") == "1200"
    texts = ["".join(t.itertext()) for t in root.iter("{http://www.w3.org/2000/svg}text")]
    for words in ("client.lab", "gate", "server.lab", "1.0 ms", 'a "title" <&>'):
        assert words in texts
    shown = [t for t in root.iter("{http://www.w3.org/2000/svg}tspan") if "long" in (t.text or "")]
    assert len(shown[0].text or "") < 100


def test_of_very_many_a_picture_names_at_each_connection_who_takes_part() -> None:
    log = Log()
    log.records += through_a_gate()
    for number in range(ladder_svg.COLUMNS_MAX):
        log.add(50, f"far{number}", "connection.opened", cid="e2" * 16)
    drawn = ladder.build(log.records)
    root = ElementTree.fromstring(ladder_svg.render(drawn, "many"))
    found = root.iter("{http://www.w3.org/2000/svg}text")
    names = [t.text or "" for t in found if t.get("class") == "name"]
    assert names[:3] == ["client.lab", "gate", "server.lab"]
    assert sorted(names[3:]) == [f"far{number}" for number in range(ladder_svg.COLUMNS_MAX)]


def test_mermaid_draws_the_same_arrows() -> None:
    lines = ladder_mermaid.render(ladder.build(through_a_gate())).splitlines()
    assert lines[0] == "sequenceDiagram"
    assert "  P0->>P1: 1.0 ms OPEN" in lines
    assert "  P1-xP2: 12.5 ms CONFIRM (lost)" in lines


def test_no_events_make_an_empty_ladder_that_can_be_drawn() -> None:
    drawn = ladder.build([])
    assert drawn == Ladder((), ())
    assert "nothing happened" in ladder_text.render(drawn).plain
    assert "nothing happened" in ladder_svg.render(drawn, "empty")
    assert ladder_mermaid.render(drawn).startswith("sequenceDiagram")


def test_a_sender_that_writes_its_log_late_is_still_the_sender() -> None:
    log = Log()
    log.add(1.0, "server.lab", "datagram.received", type="OPEN", digest="a1")
    log.add(2.2, "client.lab", "datagram.sent", type="OPEN", digest="a1")
    (arrow,) = arrows(ladder.build(log.records))
    assert (arrow.source, arrow.target, arrow.flight_ms) == (0, 1, 0)


def test_later_refreshes_are_folded_but_a_lost_one_is_shown() -> None:
    log = Log()
    log.records += through_a_gate()
    for seq in (2, 4, 6, 8):
        at = seq * 500
        details = {"type": "OPEN", "digest": f"f{seq}", "seq": seq}
        log.add(at, "client.lab", "datagram.sent", **details)
        if seq != 6:
            log.add(at + 1, "gate", "datagram.received", **details)
        log.add(at + 2, "gate", "rule.installed", match=FLOW, action="accept", lifetime_s=2.0)
    drawn = ladder.build(log.records)
    assert [(a.label, a.target) for a in arrows(drawn)][-2:] == [("OPEN 2", 1), ("OPEN 6", None)]
    (fold,) = [m for m in marks(drawn) if m.text.startswith("refreshed")]
    assert fold.text == "refreshed until 4002 ms: 4 more lines"


def test_a_subflow_is_shown_when_it_is_made_and_when_it_is_up() -> None:
    log = Log()
    log.add(1, "client.lab", "subflow.made", flow=FLOW)
    log.add(9, "client.lab", "subflow.up", flow=FLOW)
    assert [(mark.text, mark.detail) for mark in marks(ladder.build(log.records))] == [
        ("subflow asked of the kernel", FLOW),
        ("subflow up", FLOW),
    ]


def test_the_fold_stands_with_who_refreshes() -> None:
    log = Log()
    log.carry(0, "client.lab", "server.lab", "OPEN", "a0")
    for seq in (0, 2, 4):
        details = {"type": "OPEN", "digest": f"f{seq}", "seq": seq, "cid": "c2" * 16}
        log.add(10 + seq * 500, "server.lab", "datagram.sent", **details)
        log.add(11 + seq * 500, "client.lab", "datagram.received", **details)
    drawn = ladder.build(log.records)
    (fold,) = marks(drawn)
    assert drawn.participants[fold.column].name == "server.lab"


def test_what_belongs_to_no_connection_stands_at_the_end_and_a_flood_of_it_is_cut() -> None:
    log = Log()
    for number in range(ladder.ROWS_MAX + 50):
        log.add(1001 * number, "gate", "dropped", cid="", reason="not-csp")
        log.add(1001 * number + 500, "gate", "dropped", cid="", reason="not-csp")
    log.add(20, "gate", "daemon.recovered", cid="", connections=2)
    log.records += through_a_gate()
    drawn = ladder.build(log.records)
    assert [section.cid for section in drawn.sections] == [CID, ""]
    others = drawn.sections[1].rows
    assert len(others) == ladder.ROWS_MAX + 1
    assert any(isinstance(m, Mark) and m.text == "restarted, knows 2 connections" for m in others)
    assert isinstance(others[-1], Mark)
    assert others[-1].text == "51 more lines"
    assert [m.count for m in others if isinstance(m, Mark)][:3] == [2, 1, 2]


def test_a_flood_from_outside_is_counted_and_hides_nothing() -> None:
    log = Log()
    for number in range(400):
        details = {"type": "STOP", "digest": f"f{number}", "bytes": 300}
        log.add(number, "gate", "datagram.received", **details)
    log.carry(500, "server.lab", "gate", "STOP", "b2")
    drawn = ladder.build(through_a_gate() + log.records)
    outside = [arrow for arrow in arrows(drawn) if arrow.label == "STOP" and arrow.source is None]
    assert len(outside) == ladder.OUTSIDERS_SHOWN
    assert [m.text for m in marks(drawn) if "more STOP" in m.text] == ["396 more STOP from outside"]
    assert any(arrow.label == "STOP" and arrow.source is not None for arrow in arrows(drawn))


def test_a_lost_stop_is_drawn_back_towards_the_source() -> None:
    log = Log()
    log.add(500, "gate", "datagram.sent", type="STOP", digest="b3", bytes=300)
    drawn = ladder.build(through_a_gate() + log.records)
    (lost,) = [arrow for arrow in arrows(drawn) if arrow.label == "STOP"]
    names = [one.name for one in drawn.participants]
    assert lost.towards == names.index("client.lab")
