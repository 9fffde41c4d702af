import json

import pytest

from wayside.core.address import Address, Flow, Transport
from wayside.core.rule import Action, Cid, Rule
from wayside.kernel.nft import Place, Role, compile_changes, ledger_of, parse_listing, place_of
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
        (Rule(CID, LOCAL, Action.REWRITE, FLOW), GATE),
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
    confirmed, pending = parse_listing(json.loads(LISTING), GATE)
    assert confirmed == InstalledRule(CONFIRMED, 117.0, 4, 400)
    udp = Flow(Transport.UDP, A, B)
    assert pending == InstalledRule(Rule(CID, udp, Action.ACCEPT, None, 5.0), 0.0, 2, 60)


def test_a_host_s_listing_gives_what_was_put() -> None:
    text = """[{"map": {"name": "out4p", "table": "wayside", "map": "x", "elem": [[
      {"elem": {"val": {"concat": ["tcp", "198.18.0.1", 40000, "198.18.0.2", 443]},
       "comment": "AAAAAAAAAAAAAAAAAAAAAA https", "counter": {"packets": 1, "bytes": 52}}},
      {"concat": ["10.1.0.2", "10.2.0.1", 51000, 52000]}]]}}]"""
    wire = Flow(Transport.TCP, A.with_port(51000), B.with_port(52000))
    (found,) = parse_listing(json.loads(text), HOST)
    assert found == InstalledRule(Rule(CID, LOCAL, Action.REWRITE, wire, note="https"), None, 1, 52)
    assert ledger_of([found], HOST)["tcp . 198.18.0.1 . 40000 . 198.18.0.2 . 443"].data == (
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
