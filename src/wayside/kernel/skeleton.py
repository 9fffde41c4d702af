"""The chains of our table: for a host, and for a gate, in nft's own words.

The rules that every packet of a connection meets come first in their chains and are made of
expressions that nft's language cannot say (hotpath.py); `first` creates the sets and the empty
chains, `hot` are those rules, `then` adds the rest. A chain named after a digest of all that says
whether a table which is there already is exactly this one.

Gate: what is signaled is found in prerouting, before connection tracking, which then leaves it
alone, and gets a mark. Forward lets marked packets through, and drops all others between inside
and outside. Signaling goes to one of four sockets (lanes.py). Host: see nft.py; `out` is a route
chain, so that a new destination is routed anew.

Two parts of a gate's table are made when the first rule needs them, because all that is there costs
something: a chain at a hook every packet, a set every transaction. To make one takes a tenth of a
second, so what is to rewrite by its configuration has its part from the start. `stop` drops what is
blocked, before all else; the rewriting part is the maps of nft.py, the chain `steer` for
destinations, and `leave`, which gives packets another source behind everything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from .hotpath import HotRule, gate_rules, host_rules, rewriting_rules
from .lanes import lane_rules, lane_sets
from .names import (
    ELEMENTS_MAX,
    HOST_LINK,
    MARK,
    MARK_INTERCEPTED,
    PUNCH_URGENT,
    TABLE,
    TAP_LINK,
    V4_PREFIX,
)
from .nft import GATE_MAPS, GATE_SETS, HOST_MAPS

PUNCHES = (
    "udp length 40 @th,64,64 0x4353500100000000 counter drop; "
    f"tcp urgptr {PUNCH_URGENT:#x} tcp flags & urg == 0 counter drop;"
)
"""What a host sends to have its NAT opened is for nobody: before any rule lets it in. R-12.6."""

Parts = tuple[tuple[frozenset[str], "Skeleton"], ...]


@dataclass(frozen=True, slots=True)
class Skeleton:
    """A table without its elements, in three steps, and the chain whose name stands for it.

    `parts`: what is added when a rule first needs one of these sets.
    """

    first: str
    hot: list[HotRule]
    then: str
    name: str
    parts: Parts = ()


def host_skeleton(v6_prefix: str, signaling_port: int) -> Skeleton:
    """A host's table. `v6_prefix`: the virtual IPv6 addresses."""
    maps = "\n".join(_host_map(name) for name in HOST_MAPS)
    first = f"""table inet {TABLE} {{
{maps}
  chain out {{ type route hook output priority raw; policy accept; }}
  chain in {{ type filter hook prerouting priority raw; policy accept; {PUNCHES} }}
  chain defragment {{ udp dport 0 ip daddr 0.0.0.0 tproxy ip to :1; }}
  chain defragment6 {{ udp dport 0 ip6 daddr ::1 tproxy ip6 to :1; }}
}}
"""
    # The last two are not called by anyone: that a tproxy statement exists makes the kernel put
    # fragments together before prerouting, and only a whole datagram shows its ports.
    then = f"""
add rule inet {TABLE} out oifname "{HOST_LINK}" meta mark {MARK:#x} counter drop
add rule inet {TABLE} in iifname "lo" accept
add rule inet {TABLE} in iifname "{HOST_LINK}" meta mark set {MARK:#x} accept
add rule inet {TABLE} in iifname != "{TAP_LINK}" ip saddr {V4_PREFIX} counter drop
add rule inet {TABLE} in iifname != "{TAP_LINK}" ip daddr {V4_PREFIX} counter drop
add rule inet {TABLE} in iifname != "{TAP_LINK}" ip6 saddr {v6_prefix} counter drop
add rule inet {TABLE} in iifname != "{TAP_LINK}" ip6 daddr {v6_prefix} counter drop
add rule inet {TABLE} in udp dport {signaling_port} meta mark set {MARK:#x}
"""
    return _named(first, host_rules(), then)


def gate_skeleton(
    inside: Sequence[str],
    outside: Sequence[str],
    lifetime_s: float,
    signaling_port: int,
    hides: bool = False,
) -> Skeleton:
    """A gate's table. `lifetime_s`: what packets renew an element to; `hides`: it drops punches."""
    punches = PUNCHES if hides else ""
    sets = "\n".join(_gate_set(name, lifetime_s) for name in GATE_SETS)
    first = f"""table inet {TABLE} {{
{sets}
  set inside {{ type ifname; elements = {{ {_quoted(inside)} }}; }}
  set outside {{ type ifname; elements = {{ {_quoted(outside)} }}; }}
  set sides {{ type ifname; elements = {{ {_quoted([*inside, *outside])} }}; }}
  chain admit {{ type filter hook prerouting priority raw; policy accept; {punches} }}
  chain errors4 {{ }}
  chain errors6 {{ }}
  chain steer {{ }}
{lane_sets()}
  chain lanes4 {{ }}
  chain lanes6 {{ }}
  chain pass {{ type filter hook forward priority filter; policy accept;
    meta mark {MARK:#x} accept
    iifname @inside oifname @outside counter drop
    iifname @outside oifname @inside counter drop
  }}
}}
"""
    intercept = f"fib daddr type unicast notrack meta mark set {MARK_INTERCEPTED:#x}"
    local = f"fib daddr type local meta mark set {MARK:#x}"
    signaling = f"udp dport {signaling_port}"
    then = f"""
add rule inet {TABLE} admit icmp type {{ 3, 11, 12 }} jump errors4
add rule inet {TABLE} admit icmpv6 type {{ 1, 2, 3, 4 }} jump errors6
add rule inet {TABLE} admit meta mark {MARK:#x} meta mark set 0
{lane_rules(signaling_port)}
add rule inet {TABLE} admit meta nfproto ipv4 {signaling} {local} goto lanes4
add rule inet {TABLE} admit meta nfproto ipv6 {signaling} {local} goto lanes6
add rule inet {TABLE} admit iifname @sides meta nfproto ipv4 {signaling} {intercept} goto lanes4
add rule inet {TABLE} admit iifname @sides meta nfproto ipv6 {signaling} {intercept} goto lanes6
"""
    rewriting = _rewriting(lifetime_s)
    blocked = frozenset(name for name in GATE_SETS if name.startswith("blocked"))
    parts = ((blocked, _stop()), (frozenset(GATE_MAPS), rewriting))
    return _named(first, gate_rules(), then, parts)


def _stop() -> Skeleton:
    """Blocked packets go in front of `admit` (-300)."""
    first = f"""table inet {TABLE} {{
  chain stop {{ type filter hook prerouting priority -310; policy accept; }}
}}
"""
    then = f"""
add rule inet {TABLE} stop {_key("ip protocol", "ip")} @blocked4 drop
add rule inet {TABLE} stop {_key("ip6 nexthdr", "ip6")} @blocked6 drop
"""
    return _named(first, [], then)


def _rewriting(lifetime_s: float) -> Skeleton:
    """Behind others' translation of addresses (100), which leaves untracked packets alone."""
    maps = "\n".join(_gate_set(name, lifetime_s) for name in GATE_MAPS)
    first = f"""table inet {TABLE} {{
{maps}
  chain leave {{ type filter hook postrouting priority 110; policy accept; }}
  chain leave_errors4 {{ }}
  chain leave_errors6 {{ }}
}}
"""
    # Redirects would teach a sender the way round a box that stands in its peer's place.
    then = f"""
add rule inet {TABLE} leave icmp type {{ 3, 11, 12 }} jump leave_errors4
add rule inet {TABLE} leave icmpv6 type {{ 1, 2, 3, 4 }} jump leave_errors6
add rule inet {TABLE} leave icmp type redirect drop
add rule inet {TABLE} leave icmpv6 type nd-redirect drop
"""
    return _named(first, rewriting_rules(), then)


def _key(protocol: str, family: str) -> str:
    return f"{protocol} . {family} saddr . th sport . {family} daddr . th dport"


def _types(name: str) -> tuple[str, str]:
    address = "ipv4_addr" if "4" in name else "ipv6_addr"
    return f"inet_proto . {address} . inet_service . {address} . inet_service", address


def _host_map(name: str) -> str:
    key, address = _types(name)
    data = f"{address} . {address}"
    if name.endswith("p"):
        data += " . inet_service . inet_service"
    return f"  map {name} {{ type {key} : {data}; flags timeout; size {ELEMENTS_MAX}; counter; }}"


def _gate_set(name: str, lifetime_s: float) -> str:
    key, address = _types(name)
    kind = "set"
    if name in GATE_MAPS:
        kind, key = "map", f"{key} : {address} . inet_service"
    flags = "flags timeout;"
    if name.startswith("renewed"):
        milliseconds = round(lifetime_s * 1000)
        timeout = f"timeout {milliseconds // 1000}s{milliseconds % 1000}ms;"
        flags = f"flags timeout, dynamic; {timeout}"
    counter = "" if name.startswith("from") else "counter;"
    return f"  {kind} {name} {{ type {key}; {flags} size {ELEMENTS_MAX}; {counter} }}"


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _named(first: str, hot: list[HotRule], then: str, parts: Parts = ()) -> Skeleton:
    names = [part.name for _, part in parts]
    digest = hashlib.sha256(f"{first}{hot}{then}{names}".encode()).hexdigest()[:16]
    name = f"setup_{digest}"
    return Skeleton(first, hot, f"{then}add chain inet {TABLE} {name}\n", name, parts)
