import json

import pytest

from wayside.core.address import Address, Flow, Transport
from wayside.core.rule import Action, Cid, Rule
from wayside.kernel.listing import Element, ledger_of, left_behind, parse_listing, rules_of_elements
from wayside.kernel.nft import InUse, Place, Role, compile_changes, places_of
from wayside.kernel.plan import Change, InstalledRule, KernelError, Put, Remove, plan

CID, OTHER = Cid(bytes(16)), Cid(bytes(range(16)))
A, B = Address.parse("10.1.0.2:40000"), Address.parse("10.2.0.1:443")
FLOW = Flow(Transport.TCP, A, B)
LOCAL = Flow(Transport.TCP, Address.parse("198.18.0.1:40000"), Address.parse("198.18.0.2:443"))
GATE = Role(lifetime_s=120.0)
HOST = Role(own=frozenset({LOCAL.source.ip}))
CONFIRMED = Rule(CID, FLOW, Action.ACCEPT, None, 120.0, True, "7 120 https out")
PENDING = Rule(CID, FLOW, Action.ACCEPT, None, 5.0)
KEY = "tcp . 10.1.0.2 . 40000 . 10.2.0.1 . 443"


def place_of(rule: Rule, role: Role) -> Place:
    return next(iter(places_of(rule, role).values()))


def run(*changes: Change, role: Role = GATE, ledger: dict[str, Place] | None = None) -> list[str]:
    """The lines of one transaction; the ledger is brought up to date."""
    ledger = {} if ledger is None else ledger
    text, news = compile_changes(changes, ledger, role)
    for key, place in news.items():
        if place is None:
            del ledger[key]
        else:
            ledger[key] = place
    return text.splitlines()


def test_a_new_rule_is_one_command() -> None:
    assert run(Put(PENDING)) == [
        f"add element inet wayside timed4 {{ {KEY} timeout 5s0ms "
        'comment "AAAAAAAAAAAAAAAAAAAAAA" }'
    ]


def test_a_confirmed_rule_leaves_its_lifetime_to_the_set() -> None:
    assert run(Put(CONFIRMED)) == [
        f"add element inet wayside renewed4 {{ {KEY} "
        'comment "AAAAAAAAAAAAAAAAAAAAAA 7 120 https out" }'
    ]


def test_a_rule_that_moves_is_added_again_deleted_and_put_elsewhere() -> None:
    """What may have expired unseen cannot be deleted: the transaction would fail."""
    ledger: dict[str, Place] = {}
    run(Put(PENDING), ledger=ledger)
    lines = run(Put(CONFIRMED), ledger=ledger)
    assert lines[0] == f"add element inet wayside timed4 {{ {KEY} }}"
    assert lines[1] == f"delete element inet wayside timed4 {{ {KEY} }}"
    assert lines[2].startswith("add element inet wayside renewed4")
    assert ledger[KEY].set_name == "renewed4"


def test_changes_of_one_batch_see_each_other() -> None:
    lines = run(Put(PENDING), Remove(PENDING), Put(CONFIRMED), Put(PENDING))
    assert [line.split()[0] + " " + line.split()[4] for line in lines] == [
        "add timed4",
        "add timed4",
        "delete timed4",
        "add renewed4",
        "add renewed4",
        "delete renewed4",
        "add timed4",
    ]


def test_removing_what_is_not_there_or_anothers_is_nothing() -> None:
    ledger: dict[str, Place] = {}
    assert run(Remove(PENDING), ledger=ledger) == []
    run(Put(PENDING), ledger=ledger)
    assert run(Remove(Rule(OTHER, FLOW, Action.ACCEPT)), ledger=ledger) == []
    assert KEY in ledger


def test_a_renewed_rule_shorter_than_the_table_s_lifetime_is_timed() -> None:
    short = Rule(CID, FLOW, Action.ACCEPT, None, 60.0, True)
    assert place_of(short, GATE).set_name == "timed4"
    assert place_of(short, Role(lifetime_s=60.0)).set_name == "renewed4"


@pytest.mark.parametrize("ports", [(40000, 443), (51000, 52000)])
def test_a_rewriting_rule_maps_to_addresses_and_to_ports_only_if_they_differ(
    ports: tuple[int, int],
) -> None:
    wire = Flow(Transport.TCP, A.with_port(ports[0]), B.with_port(ports[1]))
    out = Rule(CID, LOCAL, Action.REWRITE, wire)
    back = Rule(CID, wire.reversed(), Action.REWRITE, LOCAL.reversed())
    kept = ports == (40000, 443)
    assert place_of(out, HOST).set_name == ("out4" if kept else "out4p")
    assert place_of(back, HOST).set_name == ("in4" if kept else "in4p")
    data = "10.1.0.2 . 10.2.0.1" + ("" if kept else " . 51000 . 52000")
    (line,) = run(Put(out), role=HOST)
    assert line.endswith(f" : {data} }}")


@pytest.mark.parametrize(
    ("rule", "role"),
    [
        (Rule(CID, LOCAL, Action.REWRITE, LOCAL), GATE),
        (Rule(CID, LOCAL, Action.REWRITE, FLOW, None, True), HOST),
        (PENDING, HOST),
        (Rule(CID, Flow(Transport.NONE, A, B), Action.ACCEPT), GATE),
    ],
)
def test_a_rule_that_the_role_cannot_hold_changes_nothing(rule: Rule, role: Role) -> None:
    with pytest.raises(KernelError):
        compile_changes([Put(rule)], {}, role)


LISTING = """
[{"metainfo": {"version": "1.0.6"}},
 {"set": {"family": "inet", "name": "renewed4", "table": "wayside", "elem": [
   {"elem": {"val": {"concat": ["tcp", "10.1.0.2", 40000, "10.2.0.1", 443]}, "expires": 117,
     "comment": "AAAAAAAAAAAAAAAAAAAAAA 7 120 https out", "counter": {"packets": 8, "bytes": 800}}},
   {"elem": {"val": {"concat": ["tcp", "10.1.0.9", 1, "10.2.0.1", 443]}, "expires": 9}},
   {"elem": {"val": {"concat": ["tcp", "10.1.0.9", 2, "10.2.0.1", 443]}, "comment": "a person"}},
   {"concat": ["udp", "10.1.0.9", 3, "10.2.0.1", 443]}]}},
 {"set": {"family": "inet", "name": "timed4", "table": "wayside", "elem": [
   {"elem": {"val": {"concat": ["udp", "10.1.0.2", 40000, "10.2.0.1", 443]}, "timeout": 5,
     "expires": 0, "comment": "AAAAAAAAAAAAAAAAAAAAAA", "counter": {"packets": 2, "bytes": 60}}}]}},
 {"set": {"family": "inet", "name": "blocked6", "table": "wayside"}},
 {"set": {"family": "inet", "name": "renewed4", "table": "another", "elem": [1, 2, 3]}}]
"""


def test_a_listing_gives_our_rules_and_leaves_out_elements_of_others() -> None:
    confirmed, pending = rules_of_elements(parse_listing(json.loads(LISTING)), GATE)
    assert confirmed == InstalledRule(CONFIRMED, 117.0, 4, 400)
    udp = Flow(Transport.UDP, A, B)
    assert pending == InstalledRule(Rule(CID, udp, Action.ACCEPT, None, 5.0), 0.0, 2, 60)


def test_a_host_s_listing_gives_what_was_put() -> None:
    text = """[{"map": {"name": "out4p", "table": "wayside", "map": "x", "elem": [[
      {"elem": {"val": {"concat": ["tcp", "198.18.0.1", 40000, "198.18.0.2", 443]},
       "comment": "AAAAAAAAAAAAAAAAAAAAAA https", "counter": {"packets": 1, "bytes": 52}}},
      {"concat": ["10.1.0.2", "10.2.0.1", 51000, 52000]}]]}}]"""
    wire = Flow(Transport.TCP, A.with_port(51000), B.with_port(52000))
    elements = parse_listing(json.loads(text))
    (found,) = rules_of_elements(elements, HOST)
    assert found == InstalledRule(Rule(CID, LOCAL, Action.REWRITE, wire, note="https"), None, 1, 52)
    assert ledger_of(elements, HOST)["tcp . 198.18.0.1 . 40000 . 198.18.0.2 . 443"].data == (
        "10.1.0.2 . 10.2.0.1 . 51000 . 52000"
    )


def test_the_plan_changes_what_differs_and_nothing_else() -> None:
    stays = InstalledRule(CONFIRMED, 3.0, 9, 9)
    stranger = InstalledRule(Rule(OTHER, FLOW.reversed(), Action.ACCEPT), None, 0, 0)
    assert plan([CONFIRMED], [stays]) == []
    assert plan([CONFIRMED], [stays, stranger]) == [Remove(stranger.rule)]
    assert plan([PENDING], [stays]) == [Put(PENDING)]
    assert plan([CONFIRMED], []) == [Put(CONFIRMED)]


def test_mptcp_is_tcp_to_the_kernel() -> None:
    mptcp = Flow(Transport.MPTCP, A, B)
    asked = Rule(CID, mptcp, Action.ACCEPT, None, 120.0, True, CONFIRMED.note)
    assert run(Put(asked)) == run(Put(CONFIRMED))
    assert plan([asked], [InstalledRule(CONFIRMED, 3.0, 0, 0)]) == []


INSIDE, P, N, R = (
    Address.parse(text)
    for text in ("10.1.0.2:40000", "10.1.0.1:6000", "10.2.0.2:51000", "10.2.0.1:443")
)
OUT = Rule(
    CID, Flow(Transport.TCP, INSIDE, R), Action.REWRITE, Flow(Transport.TCP, N, R), 120.0, True
)
BACK = Rule(
    CID, Flow(Transport.TCP, R, N), Action.REWRITE, Flow(Transport.TCP, R, INSIDE), 120.0, True
)
RELAY = Rule(CID, Flow(Transport.TCP, INSIDE, P), Action.REWRITE, Flow(Transport.TCP, N, R), 5.0)
STRAIGHT = "tcp . 10.1.0.2 . 40000 . 10.2.0.1 . 443"


def places(*changes: Change) -> list[tuple[str, str, str]]:
    """Verb, set and data of the lines of one transaction."""
    lines = run(*changes)
    return [
        (line.split()[0], line.split()[4], line.rpartition(" : ")[2] if " : " in line else "")
        for line in lines
    ]


def test_a_gate_s_new_source_is_written_as_packets_leave_and_a_destination_as_they_come() -> None:
    assert places(Put(OUT)) == [("add", "renewed4", ""), ("add", "from4", "10.2.0.2 . 51000 }")]
    assert places(Put(BACK)) == [("add", "renewed4to", "10.1.0.2 . 40000 }")]
    lines = run(Put(RELAY))
    assert lines[0].startswith("add element inet wayside timed4to { tcp . 10.1.0.2 . 40000 . 10.1.")
    assert lines[1].startswith(f"add element inet wayside from4 {{ {STRAIGHT} timeout 6s0ms")


def test_both_elements_of_a_rule_go_with_it() -> None:
    ledger: dict[str, Place] = {}
    run(Put(RELAY), ledger=ledger)
    lines = run(Remove(RELAY), ledger=ledger)
    assert [line.split()[0] + line.split()[4] for line in lines] == [
        "addtimed4to",
        "deletetimed4to",
        "addfrom4",
        "deletefrom4",
    ]
    assert ledger == {}


def test_two_rules_whose_packets_leave_alike_are_refused_until_one_is_gone() -> None:
    ledger: dict[str, Place] = {}
    run(Put(RELAY), ledger=ledger)
    straight = Rule(OTHER, Flow(Transport.TCP, INSIDE, R), Action.ACCEPT)
    for rule in (straight, OUT):
        with pytest.raises(InUse) as refused:
            run(Put(rule), ledger=ledger)
        assert refused.value.slot == "tcp . 10.1.0.2 . 40000 . 10.1.0.1 . 6000"
    with pytest.raises(InUse):
        run(Put(straight), Put(RELAY))
    run(Remove(RELAY), Put(straight), ledger=ledger)
    assert list(ledger) == [STRAIGHT]


def test_what_drops_has_a_place_of_its_own() -> None:
    ledger: dict[str, Place] = {}
    stop = Rule(CID, FLOW, Action.DROP, None, 60.0)
    run(Put(CONFIRMED), Put(stop), Put(CONFIRMED), ledger=ledger)
    assert [place.set_name for place in ledger.values()] == ["renewed4", "blocked4"]
    run(Remove(CONFIRMED), ledger=ledger)
    assert [place.set_name for place in ledger.values()] == ["blocked4"]
    (installed,) = rules_of_elements([element("blocked4", FLOW), element("from4", FLOW, N)], GATE)
    assert installed.rule.action is Action.DROP


def element(name: str, key: Flow, *data: Address, cid: str = "A" * 22) -> Element:
    return Element(name, key, f"{cid} 7 120 https", data, None, 9.0, 4, 400)


def test_elements_make_rewriting_rules_again() -> None:
    relayed = Flow(Transport.TCP, INSIDE, R)
    cases = (
        ([element("renewed4", OUT.match), element("from4", OUT.match, N)], OUT),
        ([element("renewed4to", BACK.match, INSIDE)], BACK),
        ([element("timed4to", RELAY.match, R), element("from4", relayed, N)], RELAY),
    )
    for elements, rule in cases:
        (found,) = rules_of_elements(elements, GATE)
        assert (found.rule.match, found.rule.rewrite) == (rule.match, rule.rewrite)
        assert (found.rule.note, found.packets) == ("7 120 https", 2 if rule is not RELAY else 4)
        assert left_behind(ledger_of(elements, GATE)) == []


def test_a_new_source_without_its_rule_makes_no_rule_and_is_in_nobody_s_way() -> None:
    alone = [element("from4", OUT.match, N)]
    ledger = ledger_of(alone, GATE)
    assert rules_of_elements(alone, GATE) == []
    assert left_behind(ledger) == [f"leaving {STRAIGHT}"]
    lines = run(Put(Rule(OTHER, OUT.match, Action.ACCEPT)), ledger=ledger)
    assert [line.split()[0] + line.split()[4] for line in lines] == [
        "addfrom4",
        "deletefrom4",
        "addtimed4",
    ]
    another = element("renewed4", OUT.match, cid="B" * 22)
    (found,) = rules_of_elements([another, *alone], GATE)
    assert found.rule.action is Action.ACCEPT, "of another owner: nothing to do with it"
