"""The few rules that every packet of a connection meets, as kernel expressions.

nft's language cannot say them, so they are handed to the kernel as netlink expressions (pyroute2
encodes), once, at setup. What they save, measured for 64-byte UDP through two rewriting hosts and
a gate, against plain routing on one core: docs/decisions.md has the figures.

- A host's rewriting is one map look-up whose data is the new addresses, and *one* write over
  both of them (8 or 32 bytes), with one correction of the checksums. nft's language writes one
  address at a time, from a chain per peer that a verdict map goes to.
- A gate's key is loaded once, for the look-up and for the renewal behind it.
- An ICMP error is matched by the 5-tuple that it quotes: nft 1.0.6 refuses to compare raw
  payload with a set that has types.

Renewal comes behind a look-up that has hit: `update` alone would add what is not there.

A gate that rewrites does it where connection tracking does, and for the same reasons: the new
destination before the routing decision (`steer`), the new source behind it (`leave`), since
the kernel drops a packet that comes in from the network with one of its own addresses as source.
An ICMP error goes the way of a packet of the opposite direction. So the same maps, asked with
the quoted 5-tuple turned round, tell what to write into it: its addressee and the quoted source
before, the quoted destination and its sender behind. What is written into the quoted IPv4
header is made good in that header's own checksum, which leaves the ICMP checksum as it is.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from pyroute2.netlink.nfnetlink.nftsocket import NFPROTO_INET
from pyroute2.nftables.main import NFTables

from .names import MARK, TABLE

Expression = dict[str, Any]

HotRule = tuple[str, list[Expression]]
"""A chain and the expressions of a rule in it."""

_NETWORK, _TRANSPORT = 1, 2
_META_MARK, _META_NFPROTO = 3, 15
_FIRST = 8
"""The first of sixteen 4-byte registers (NFT_REG32_00)."""

_ACCEPT, _JUMP = 1, -3
_SUMMED = {"csum_type": 1}
"""A checksum at `csum_offset` from the base is corrected for what is written."""

_PSEUDO = {"csum_flags": {"NFT_PAYLOAD_L4CSUM_PSEUDOHDR"}}
"""The transport checksum is corrected, wherever this protocol has it; of UDP, if there is one."""

Field = tuple[int, int, int]
"""Header, offset in it, bytes."""

_KEYS = {
    4: ((_NETWORK, 9, 1), (_NETWORK, 12, 4), (_TRANSPORT, 0, 2), (_NETWORK, 16, 4)),
    6: ((_NETWORK, 6, 1), (_NETWORK, 8, 16), (_TRANSPORT, 0, 2), (_NETWORK, 24, 16)),
}
"""Header, offset, bytes of protocol, source, source port, destination; then the last field below.

Only packets without IPv4 options or IPv6 extension headers have their protocol there: others fit
no rule, and a later fragment has no transport header to load from.
"""

_QUOTED = {
    4: ((17, 1), (20, 4), (28, 2), (24, 4), (30, 2)),
    6: ((14, 1), (16, 16), (48, 2), (32, 16), (50, 2)),
}
"""The same fields of the packet that an ICMP error quotes, from the ICMP header on."""

_ICMP_SUM, _QUOTED_SUM = 2, 18
"""Where the checksums of an ICMP message and of a quoted IPv4 header are, from there on."""

_ADDRESSES: dict[str, dict[int, Field]] = {
    "source": {4: (_NETWORK, 12, 4), 6: (_NETWORK, 8, 16)},
    "destination": {4: (_NETWORK, 16, 4), 6: (_NETWORK, 24, 16)},
}

_REGISTERS = {4: 1, 6: 4}
"""How many an address takes."""


def host_rules() -> list[HotRule]:
    """The hot rules of a host's chains, in their order: (chain, expressions)."""
    rules: list[HotRule] = []
    for chain in ("out", "in"):
        for family in (4, 6):
            rules.append((chain, _rewrite(chain, family)))
            rules.append((chain, _rewrite_ports(chain, family)))
    return rules


def gate_rules() -> list[HotRule]:
    """The hot rules of a gate's chains, in their order: (chain, expressions)."""
    return [
        *(("admit", _admit(f"{name}{family}", family)) for name, family in _BOTH),
        *((f"errors{family}", _admit_error(f"{name}{family}", family)) for name, family in _BOTH),
        ("admit", [_verdict(_JUMP, "steer")]),
    ]


def rewriting_rules() -> list[HotRule]:
    """The hot rules of a gate that rewrites, in their order: (chain, expressions)."""
    return [
        *(("steer", _redirect(f"{name}{family}to", family)) for name, family in _BOTH),
        *((f"errors{family}", _turn_error(f"{name}{family}to", family)) for name, family in _BOTH),
        *((f"errors{family}", _admit_leaving(f"{name}{family}", family)) for name, family in _BOTH),
        *(("leave", _leave(family)) for family in (4, 6)),
        *((f"leave_errors{family}", _error_leaves(family)) for family in (4, 6)),
    ]


_BOTH = [(name, family) for family in (4, 6) for name in ("renewed", "timed")]


def install(rules: Sequence[HotRule]) -> None:
    """Append rules to chains of our table. Raises what pyroute2 raises."""
    with NFTables(nfgen_family=NFPROTO_INET) as socket:
        for chain, expressions in rules:
            socket.rule(
                "add", table=TABLE, chain=chain, expressions=tuple([part] for part in expressions)
            )


def _rewrite(chain: str, family: int) -> list[Expression]:
    return [
        *_is_family(family),
        *_load_key(family),
        _look_up(f"{chain}{family}", _FIRST),
        _write_addresses(family),
        *_signaled(),
    ]


def _rewrite_ports(chain: str, family: int) -> list[Expression]:
    ports = _FIRST + (2 if family == 4 else 8)
    return [
        *_is_family(family),
        *_load_key(family),
        _look_up(f"{chain}{family}p", _FIRST),
        _write_addresses(family),
        _write_port(ports, 0),
        _write_port(ports + 1, 2),
        *_signaled(),
    ]


def _admit(set_name: str, family: int) -> list[Expression]:
    renew: list[Expression] = []
    if set_name.startswith("renewed"):
        renew = [_expression("dynset", set_name=set_name, op=1, sreg_key=_FIRST)]
    return [*_is_family(family), *_load_key(family), _look_up(set_name), *renew, *_signaled()]


def _redirect(map_name: str, family: int) -> list[Expression]:
    """The new destination, and renewal. Key and data side by side fill all registers of IPv6."""
    data = _FIRST + (5 if family == 4 else 11)
    port = data + _REGISTERS[family]
    renew: list[Expression] = []
    if map_name.startswith("renewed"):
        update = {"set_name": map_name, "op": 1, "sreg_key": _FIRST, "sreg_data": data}
        # The data is read back from the packet only so that nft 1.0.6 can list this rule: it ends
        # itself over an update with what came out of a map.
        written = (_ADDRESSES["destination"][family], (_TRANSPORT, 2, 2))
        renew = [*_load_fields(written, data), _expression("dynset", **update)]
    return [
        *_is_family(family),
        *_load_key(family),
        _look_up(map_name, data),
        _write_address(family, data, "destination"),
        _write_port(port, 2),
        *renew,
        *_signaled(),
    ]


def _leave(family: int) -> list[Expression]:
    """The new source of what was admitted."""
    return [
        _expression("meta", dreg=_FIRST, key=_META_MARK),
        _compare(_FIRST, struct.pack("=I", MARK)),
        *_is_family(family),
        *_load_key(family),
        _look_up(f"from{family}", _FIRST),
        _write_address(family, _FIRST, "source"),
        _write_port(_FIRST + _REGISTERS[family], 0),
        _verdict(_ACCEPT),
    ]


def _turn_error(map_name: str, family: int) -> list[Expression]:
    """An error about what left here goes to whom it left for, and quotes what he sent."""
    _, source, sport, _, _ = _quoted(family)
    return [
        *_load_turned(family),
        _look_up(map_name, _FIRST),
        _write_address(family, _FIRST, "destination"),
        _write_quoted(_FIRST, source),
        _write_quoted(_FIRST + _REGISTERS[family], sport),
        *_signaled(),
    ]


def _admit_leaving(set_name: str, family: int) -> list[Expression]:
    """An error passes that answers a flow whose source will be another (`_error_leaves`)."""
    return [
        *_load_turned(family),
        _look_up(set_name),
        _look_up(f"from{family}", _FIRST),
        *_signaled(),
    ]


def _load_turned(family: int) -> list[Expression]:
    """The key of the packets that are answered: from the quoted destination to the addressee."""
    protocol, _, sport, destination, dport = _quoted(family)
    addressee = _ADDRESSES["destination"][family]
    return [
        *_is_plainly_quoted(family),
        *_load_fields((protocol, destination, dport, addressee, sport)),
    ]


def _error_leaves(family: int) -> list[Expression]:
    """An error about what came here: it quotes what was sent, and comes from where it was sent."""
    _, _, _, destination, dport = _quoted(family)
    return [
        *_load_turned(family),
        _look_up(f"from{family}", _FIRST),
        _write_address(family, _FIRST, "source"),
        _write_quoted(_FIRST, destination),
        _write_quoted(_FIRST + _REGISTERS[family], dport),
    ]


def _admit_error(set_name: str, family: int) -> list[Expression]:
    """An error passes that quotes a packet of an admitted flow, and goes to its sender."""
    return [
        *_is_plainly_quoted(family),
        *_load_fields(_quoted(family)),
        _look_up(set_name),
        _load(_FIRST + 1, *_ADDRESSES["destination"][family]),
        _look_up(set_name),
        *_signaled(),
    ]


def _is_plainly_quoted(family: int) -> list[Expression]:
    """A quoted IPv4 header with options would move what is behind it."""
    return [_load(_FIRST, _TRANSPORT, 8, 1), _compare(_FIRST, b"\x45")] if family == 4 else []


def _quoted(family: int) -> tuple[Field, ...]:
    return tuple((_TRANSPORT, offset, size) for offset, size in _QUOTED[family])


def _is_family(family: int) -> list[Expression]:
    """IPv4 without options (one byte says both), or IPv6."""
    if family == 4:
        return [_load(_FIRST, _NETWORK, 0, 1), _compare(_FIRST, b"\x45")]
    nfproto = _expression("meta", dreg=_FIRST, key=_META_NFPROTO)
    return [nfproto, _compare(_FIRST, b"\x0a")]


def _load_key(family: int) -> list[Expression]:
    return _load_fields((*_KEYS[family], (_TRANSPORT, 2, 2)))


def _load_fields(fields: Sequence[Field], register: int = _FIRST) -> list[Expression]:
    loads: list[Expression] = []
    for base, offset, size in fields:
        loads.append(_load(register, base, offset, size))
        register += (size + 3) // 4
    return loads


def _signaled() -> list[Expression]:
    """Out of connection tracking's sight, marked, accepted."""
    mark = _expression("immediate", dreg=_FIRST, data=_value(struct.pack("=I", MARK)))
    return [
        {"attrs": [("NFTA_EXPR_NAME", "notrack")]},
        mark,
        _expression("meta", sreg=_FIRST, key=_META_MARK),
        _verdict(_ACCEPT),
    ]


def _verdict(code: int, chain: str = "") -> Expression:
    verdict = [("NFTA_VERDICT_CODE", code), *([("NFTA_VERDICT_CHAIN", chain)] if chain else [])]
    data = {"attrs": [("NFTA_DATA_VERDICT", {"attrs": verdict})]}
    return _expression("immediate", dreg=0, data=data)


def _load(register: int, base: int, offset: int, size: int) -> Expression:
    return _expression("payload", dreg=register, base=base, offset=offset, len=size)


def _compare(register: int, value: bytes) -> Expression:
    return _expression("cmp", sreg=register, op=0, data=_value(value))


def _look_up(set_name: str, data: int | None = None) -> Expression:
    """`data`: the register where a map's data goes; it may be the key's."""
    found = {} if data is None else {"dreg": data}
    return _expression("lookup", set=set_name, sreg=_FIRST, **found)


def _write_addresses(family: int) -> Expression:
    return _write_network(family, _FIRST, 12 if family == 4 else 8, 8 if family == 4 else 32)


def _write_address(family: int, register: int, end: str) -> Expression:
    _, offset, size = _ADDRESSES[end][family]
    return _write_network(family, register, offset, size)


def _write_network(family: int, register: int, offset: int, size: int) -> Expression:
    """Addresses into the IP header; its own checksum and the transport's are corrected."""
    header = {**_SUMMED, "csum_offset": 10} if family == 4 else {}
    write = {"sreg": register, "base": _NETWORK, "offset": offset, "len": size}
    return _expression("payload", **write, **header, **_PSEUDO)


def _write_port(register: int, offset: int) -> Expression:
    """Two bytes into the transport header, whose checksum is corrected if it is complete."""
    write = {"sreg": register, "base": _TRANSPORT, "offset": offset, "len": 2}
    return _expression("payload", **write, **_PSEUDO)


def _write_quoted(register: int, field: Field) -> Expression:
    """A field of the packet that an ICMP error quotes."""
    base, offset, size = field
    at = _QUOTED_SUM if size == 4 else _ICMP_SUM
    write = {"sreg": register, "base": base, "offset": offset, "len": size}
    return _expression("payload", **write, **_SUMMED, csum_offset=at)


def _value(value: bytes) -> Expression:
    return {"attrs": [("NFTA_DATA_VALUE", value)]}


def _expression(name: str, **attributes: Any) -> Expression:
    data = [(f"NFTA_{name}_{key}".upper(), value) for key, value in attributes.items()]
    return {"attrs": [("NFTA_EXPR_NAME", name), ("NFTA_EXPR_DATA", {"attrs": data})]}
