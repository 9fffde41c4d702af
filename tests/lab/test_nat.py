"""When two ends' `status` agree on the names of one flow: made-up records of one over a NAT."""

from dataclasses import dataclass, replace
from typing import Any, cast

import pytest

from wayside.core.address import Flow
from wayside.lab import nat
from wayside.lab.firewall import parse_flow
from wayside.lab.stage import Stage

INSIDE, OUTSIDE, SERVER = "10.1.0.2:40001", "10.2.0.2:40007", "10.3.0.1:7007"

CLIENT_SAYS = {
    "cid": "c1",
    "transport": "udp",
    "flow": "198.18.0.1:40001 > 198.18.0.3:7007",
    "wire": f"{INSIDE} > {SERVER}",
    "there": f"{OUTSIDE} > {SERVER}",
}
SERVER_SAYS = {
    "cid": "c1",
    "transport": "udp",
    "flow": "198.18.0.1:7007 > 198.18.0.2:40007",
    "wire": f"{SERVER} > {OUTSIDE}",
    "there": f"{SERVER} > {INSIDE}",
}


@dataclass(frozen=True, slots=True)
class End:
    """What `status` of one end lists."""

    says: list[dict[str, Any]]

    def held(self) -> list[dict[str, Any]]:
        return self.says


@dataclass(frozen=True, slots=True)
class Ends:
    """As much of a stage as is asked."""

    client: End
    server: End

    @property
    def stage(self) -> Stage:
        return cast("Stage", self)


AGREED = Ends(End([CLIENT_SAYS]), End([SERVER_SAYS]))


def udp(text: str) -> Flow:
    return parse_flow(f"udp {text}")


def test_both_names_of_a_flow_are_as_both_ends_say() -> None:
    crossing = nat.names_of(AGREED.stage, 7007, 40001)
    assert crossing == nat.Crossing(udp(f"{INSIDE} > {SERVER}"), udp(f"{OUTSIDE} > {SERVER}"))


@pytest.mark.parametrize("changed", ["10.2.0.9:40007", "10.2.0.2:40001"])
def test_a_client_that_is_told_another_name_does_not_agree(changed: str) -> None:
    says = {**CLIENT_SAYS, "there": f"{changed} > {SERVER}"}
    assert nat.names_of(replace(AGREED, client=End([says])).stage, 7007) is None


def test_a_server_that_knows_the_outside_only_agrees_where_it_need_not_know() -> None:
    told = replace(AGREED, server=End([{**SERVER_SAYS, "there": SERVER_SAYS["wire"]}]))
    assert nat.names_of(told.stage, 7007) is None
    assert nat.names_of(told.stage, 7007, server_knows=False) is not None


def test_a_port_that_an_end_was_not_told_fits_any_but_an_address_does_not() -> None:
    said = {**CLIENT_SAYS, "there": f"{OUTSIDE} > 10.3.0.1:?"}
    assert nat.names_of(replace(AGREED, client=End([said])).stage, 7007) is not None
    said = {**CLIENT_SAYS, "there": f"{OUTSIDE} > 10.3.0.9:?"}
    assert nat.names_of(replace(AGREED, client=End([said])).stage, 7007) is None


def test_another_service_port_or_connection_is_not_meant() -> None:
    assert nat.names_of(AGREED.stage, 80) is None
    assert nat.names_of(AGREED.stage, 7007, 40002) is None
    other = replace(AGREED, server=End([{**SERVER_SAYS, "cid": "c2"}]))
    assert nat.names_of(other.stage, 7007) is None


def test_relations_of_both_names_are_not_among_them() -> None:
    crossing = nat.names_of(AGREED.stage, 7007)
    assert crossing is not None
    out, back = nat.all_relations(crossing)
    assert not {crossing.near, crossing.far} & set(out)
    assert not {crossing.near.reversed(), crossing.far.reversed()} & set(back)
    assert len(set(out)) == len(set(back)) == 4
