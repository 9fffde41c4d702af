from pathlib import Path

import pytest

from wayside.runtime import eventlog
from wayside.runtime.eventlog import Caps, Details, EventLog, Record


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_what_is_written_is_read_back_in_the_order_of_time(tmp_path: Path, clock: Clock) -> None:
    first = EventLog(tmp_path / "a", "client", "host", clock=clock)
    second = EventLog(tmp_path / "b", "gate", "gate", clock=clock)
    second.write("datagram.received", digest="ab", type="OPEN", peer="10.1.0.1:4747", bytes=1200)
    clock.now = 99.5
    first.write("datagram.sent", digest="ab", type="OPEN", peer="10.3.0.2:4747", bytes=1200)
    read = eventlog.read([tmp_path / "b", tmp_path / "a", tmp_path / "never-written"])
    assert [(r.time, r.node, r.role, r.event) for r in read] == [
        (99.5, "client", "host", "datagram.sent"),
        (100.0, "gate", "gate", "datagram.received"),
    ]
    assert read[0].digest == read[1].digest == "ab"


def test_every_detail_that_can_be_written_can_be_read() -> None:
    of_every_record = {"v", "time", "node", "role", "event", "records"}
    assert set(Record.__struct_fields__) == set(Details.__annotations__) | of_every_record


def test_a_record_cut_off_by_a_kill_spoils_only_itself(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "log"
    log = EventLog(path, "client", "host", clock=clock)
    log.write("daemon.ready")
    log.close()
    path.write_bytes(path.read_bytes() + b'\x1e{"v":1,"time":100.0,"no')
    log = EventLog(path, "client", "host", clock=clock)
    log.write("daemon.recovered", connections=3)
    assert [(r.event, r.connections) for r in eventlog.read([path])] == [
        ("daemon.ready", 0),
        ("daemon.recovered", 3),
    ]


def test_garbage_and_other_versions_are_left_out() -> None:
    sequence = b'\x1e[]\n\x1e{"v":2,"time":1,"node":"a","role":"host","event":"e"}\n\x1e\xff\n'
    assert eventlog.parse(sequence) == []


def test_a_full_file_is_put_aside_and_one_older_is_kept(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "log"
    log = EventLog(path, "client", "host", caps=Caps(file_bytes=400), clock=clock)
    for seq in range(20):
        log.write("datagram.sent", seq=seq)
    assert path.stat().st_size <= 400
    assert eventlog.older(path).stat().st_size <= 400
    sequences = [r.seq for r in eventlog.read([path])]
    assert sequences == list(range(20 - len(sequences), 20))
    assert len(sequences) >= 4


def test_a_flood_is_left_out_and_counted(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "log"
    log = EventLog(path, "gate", "gate", caps=Caps(records_per_s=2, burst=3), clock=clock)
    for _ in range(10):
        log.write("dropped", reason="not-csp")
    assert log.lost == 7
    clock.now += 1.0
    log.write("daemon.ready")
    events = [(r.event, r.records) for r in eventlog.read([path])]
    assert events == [("dropped", 0)] * 3 + [("log.lost", 7), ("daemon.ready", 0)]


def test_closing_tells_what_was_lost(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "log"
    log = EventLog(path, "gate", "gate", caps=Caps(burst=1), clock=clock)
    log.write("daemon.ready")
    log.write("daemon.ready")
    log.close()
    log.write("daemon.ready")
    assert [(r.event, r.records) for r in eventlog.read([path])] == [
        ("daemon.ready", 0),
        ("log.lost", 1),
    ]


def test_a_full_disk_costs_records_and_nothing_else(clock: Clock) -> None:
    log = EventLog(Path("/dev/full"), "client", "host", clock=clock)
    log.write("daemon.ready")
    assert log.lost == 1


def test_without_a_path_nothing_is_written() -> None:
    log = EventLog(None, "client", "host")
    log.write("daemon.ready")
    log.close()
    assert log.lost == 0
