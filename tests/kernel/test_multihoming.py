"""Which addresses of a host lead out, from what the kernel lists."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest

from wayside.kernel.multihoming import LINKS_MAX, ways_out

UP, RUNNING = 0x1, 0x40
INET, INET6 = 2, 10


class Listed(dict[str, Any]):
    """A message of pyroute2: fields, and attributes by name."""

    def __init__(self, fields: dict[str, Any], **attributes: Any) -> None:
        super().__init__(fields)
        self._attributes = attributes

    def get_attr(self, name: str) -> Any:
        return self._attributes.get(name)


def link(index: int, name: str = "", flags: int = UP | RUNNING) -> Listed:
    return Listed({"index": index, "flags": flags}, IFLA_IFNAME=name or f"eth{index}")


def address(index: int, text: str, flags: int = 0, scope: int = 0) -> Listed:
    family = INET6 if ":" in text else INET
    fields = {"index": index, "family": family, "scope": scope, "flags": flags}
    return Listed(fields, IFA_ADDRESS=text)


def default(index: int, gateway: str, metric: int = 0, table: int = 254, size: int = 0) -> Listed:
    family = INET6 if ":" in gateway else INET
    attributes = {"RTA_OIF": index, "RTA_GATEWAY": gateway, "RTA_TABLE": table}
    return Listed({"family": family, "dst_len": size}, RTA_PRIORITY=metric, **attributes)


def found(links: list[Listed], addresses: list[Listed], routes: list[Listed]) -> list[str]:
    return [str(way.address) for way in ways_out(links, addresses, routes)]


def test_the_best_route_comes_first_whatever_the_order_of_the_links() -> None:
    """R-5.4.7."""
    addresses = [address(1, "10.1.0.2"), address(2, "10.2.0.2")]
    routes = [default(1, "10.1.0.1", 200), default(2, "10.2.0.1", 100)]
    ways = ways_out([link(1), link(2)], addresses, routes)
    assert [str(way.address) for way in ways] == ["10.2.0.2", "10.1.0.2"]
    assert ways[0].gateway == ip_address("10.2.0.1")


@pytest.mark.parametrize(
    "other",
    [
        ([link(2, flags=UP)], [address(2, "10.2.0.2")], [default(2, "10.2.0.1")]),
        ([link(2, "wayside0")], [address(2, "10.2.0.2")], [default(2, "10.2.0.1")]),
        ([link(2)], [address(2, "fe80::2", scope=253)], [default(2, "fe80::1")]),
        ([link(2)], [address(2, "fd00::2", flags=0x40)], [default(2, "fd00::1")]),
        ([link(2)], [address(2, "10.2.0.2")], [default(2, "10.2.0.1", size=8)]),
        ([link(2)], [address(2, "10.2.0.2")], [default(2, "10.2.0.1", table=4750)]),
        ([link(2)], [address(2, "10.2.0.2")], [default(2, "fd00::1")]),
    ],
)
def test_what_does_not_lead_out_is_no_path(
    other: tuple[list[Listed], list[Listed], list[Listed]],
) -> None:
    """R-5.4.7: no carrier, our own link, link-local, tentative, no default route of that family."""
    links, addresses, routes = other
    here = address(1, "10.1.0.2")
    ways = found([link(1), *links], [here, *addresses], [default(1, "10.1.0.1"), *routes])
    assert ways == ["10.1.0.2"]


def test_there_are_at_most_eight_of_a_family() -> None:
    """R-5.4.7."""
    links = [link(1)]
    many = [address(1, f"10.1.0.{number}") for number in range(2, 20)]
    assert len(found(links, many, [default(1, "10.1.0.1")])) == LINKS_MAX
