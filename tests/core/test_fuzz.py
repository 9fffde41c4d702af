"""Two million bad datagrams: nothing is raised, nothing is answered, nothing is remembered.

Every machine gets them in the states in which it has something to lose: an initiator that opens and
one that is connected, a responder that has offered and one that is connected, a gate with a pending
and with a confirmed connection, one that answers in another's place, a rendezvous that knows where
a host is, one that hides it, too, and hosts, gates and a rendezvous that know nobody: see
targets.py. `WAYSIDE_FUZZ` sets another number of datagrams, `WAYSIDE_FUZZ_SEED` another beginning;
`-rP` shows what each part took, which nothing is judged by: the slowest datagrams, alone and again,
and the memory of the process.

    WAYSIDE_FUZZ=50000000 WAYSIDE_FUZZ_SEED=2 python -m pytest tests/core/test_fuzz.py -n 2 -rP
"""

from __future__ import annotations

import os
from copy import deepcopy
from dataclasses import replace
from heapq import heappushpop
from pathlib import Path
from resource import getpagesize
from sys import getallocatedblocks
from time import perf_counter_ns

import pytest

from core.finding import Finding
from core.targets import HERE, THERE, UNLIMITED, Machine, Target, targets
from mutate import Mutator, Original, take_apart
from pair import (
    REJECT,
    STRANGER,
    make_gate,
    make_host,
    make_open,
    message_of,
    snapshot,
)
from wayside.core.address import Address, Transport
from wayside.core.codec import DecodeError
from wayside.core.effects import ChangeRules, Dropped, Effect, ReportRefused, SendDatagram
from wayside.core.errors import DropReason
from wayside.core.events import DatagramReceived
from wayside.core.gate import Gate
from wayside.core.host import Host
from wayside.core.messages import (
    Accept,
    Challenge,
    Close,
    Confirm,
    Open,
    Redirect,
    Reject,
)
from wayside.core.rule import Cid
from wayside.core.stand_in import StandIn

DATAGRAMS = int(os.environ.get("WAYSIDE_FUZZ", "2000000"))
SEED = int(os.environ.get("WAYSIDE_FUZZ_SEED", "1"))
CHUNK = 5_000
SIGNED = (Open, Accept, Redirect)


def is_untouched(spoilt: bytes, stock: list[DatagramReceived]) -> bool:
    """Whether what somebody answers for is still all there, and only loose parts were changed.

    Loose are the pad of an OPEN, its hops before an ACCEPT signs them, a REDIRECT's, and, for a
    gate, whatever is not its token: it has no key for MACs, and passes on what shows that it was on
    the path.
    """
    try:
        header, message = message_of(spoilt)
    except DecodeError:
        return False
    for one in stock:
        other, good = message_of(one.data)
        if header.signing == other.signing and type(message) is type(good):
            if isinstance(message, SIGNED) and isinstance(good, SIGNED):
                if (message.signed, message.signature) == (good.signed, good.signature):
                    return True
            elif isinstance(message, Confirm) and isinstance(good, Confirm):
                if (message.seen, message.mac) == (good.seen, good.mac):
                    return True
            elif message == good:
                return True
    return False


LOOSE = (Confirm, Challenge, Reject, Redirect, Close)
"""What a gate passes on, or takes its rules away for, if its token is there: it has no key for
their MACs, and the signatures are for who asked. Of an ACCEPT and a STOP it checks them itself."""


def is_ours_to_pass(
    machine: Machine, spoilt: bytes, stock: list[DatagramReceived], effects: list[Effect]
) -> bool:
    """Whether a gate's own token is still there, and it does no more than that allows it to.

    It lets in nobody: rules come by an ACCEPT, and last by a CONFIRM with the proof that only the
    two ends can show.
    """
    if isinstance(machine, Finding):
        return is_ours_to_pass(machine.rendezvous.gate, spoilt, stock, effects)
    if isinstance(machine, StandIn):
        return is_ours_to_pass(machine.gate, spoilt, stock, effects)
    if not isinstance(machine, Gate):
        return False
    try:
        header, message = message_of(spoilt)
    except DecodeError:
        return False
    if not isinstance(message, LOOSE):
        return False
    if isinstance(message, Confirm):
        if (header.cid, header.seq, message.proof) not in proofs(stock):
            return False
    elif any(isinstance(effect, ChangeRules) and effect.put for effect in effects):
        return False
    hops = getattr(message, "hops", ())
    return machine._box.consume_token(header.cid, header.seq, hops) is not None


def proofs(stock: list[DatagramReceived]) -> set[tuple[Cid, int, bytes]]:
    """Those of the good CONFIRMs, and what they are of."""
    good = [message_of(one.data) for one in stock]
    return {(head.cid, head.seq, one.proof) for head, one in good if isinstance(one, Confirm)}


def is_a_challenge(machine: Machine, spoilt: bytes) -> bool:
    """A CHALLENGE is signed by nobody: who knows cid and seq may send one; four are answered."""
    return isinstance(machine, Host) and spoilt[4:5] == bytes((Challenge.TYPE,))


PARTS = 16
SLOWEST = 8


class Slowest:
    """The datagrams that took longest. A machine that pauses is no fault of theirs: see `again`."""

    def __init__(self) -> None:
        self._kept: list[tuple[int, int, DatagramReceived]] = [
            (0, -number, DatagramReceived(b"", HERE, THERE)) for number in range(SLOWEST)
        ]
        self._seen = 0

    def took(self, ns: int, event: DatagramReceived) -> None:
        """One more, and how long it took, nanoseconds."""
        if ns > self._kept[0][0]:
            self._seen += 1
            heappushpop(self._kept, (ns, self._seen, event))

    def again(self, machine: Machine, now: float) -> str:
        """The slowest as it was first seen, and the slowest by the best of five repetitions."""
        best: list[int] = []
        for _, _, event in self._kept:
            takes: list[int] = []
            for _ in range(5):
                fresh = deepcopy(machine)
                began = perf_counter_ns()
                fresh.handle(event, now)
                takes.append(perf_counter_ns() - began)
            best.append(min(takes))
        first, worst = max(self._kept)[0] / 1000, max(best) / 1000
        data = self._kept[best.index(max(best))][2].data
        return f"slowest {first:,.0f} us, again {worst:,.0f} us: {data[:40].hex()}..."


def resident_mb() -> float:
    """Memory of this process, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * getpagesize() / 1e6


@pytest.mark.parametrize("part", range(PARTS))
def test_bad_datagrams_are_dropped_and_leave_no_trace(part: int) -> None:
    """R-7.6, R-7.2, R-3.4: whatever bytes come."""
    chosen = targets()
    before, took = resident_mb(), list[str]()
    share = DATAGRAMS // PARTS // len(chosen)
    for number, one in enumerate(chosen):
        slowest = fuzz(one, SEED * 1_000_003 + part * 101 + number, share)
        took.append(f"{one.name}: {slowest.again(one.machine, one.now)}, {resident_mb():.1f} MB")
    more = resident_mb() - before
    took.append(f"{share * len(chosen):,} datagrams, {before:.1f} MB at first, {more:.1f} MB more")
    print("\n".join(took))  # noqa: T201 - shown by -rP only


def fuzz(one: Target, seed: int, datagrams: int) -> Slowest:
    stock: list[Original] = [take_apart(event.data) for event in one.stock]
    mutator, slowest = Mutator(seed, stock), Slowest()
    pristine, expected = one.machine, snapshot(one.machine)
    machine = deepcopy(pristine)
    done = 0
    while done < datagrams:
        size = min(CHUNK, datagrams - done)
        for at in range(size):
            number, data = mutator.next()
            received = replace(one.stock[number], data=data)
            began = perf_counter_ns()
            effects = machine.handle(received, one.now)
            slowest.took(perf_counter_ns() - began, received)
            if len(effects) == 1 and (type(effects[0]) is Dropped or asks_for_proof(effects, data)):
                continue
            where = f"{one.name}, seed {seed}, datagram {done + at}: {data.hex()} gave {effects}"
            assert is_excused(machine, data, one.stock, effects), where
            machine = deepcopy(pristine)
        done += size
        assert snapshot(machine) == expected, f"{one.name}, seed {seed}, before datagram {done}"
    return slowest


def asks_for_proof(effects: list[Effect], data: bytes) -> bool:
    """An OPEN with an unlikely time gets a CHALLENGE, before anybody looks at its signature."""
    effect = effects[0]
    return (
        isinstance(effect, SendDatagram)
        and (data[4], effect.data[4]) == (Open.TYPE, Challenge.TYPE)
        and len(effect.data) < len(data)
    )


def is_excused(
    machine: Machine, data: bytes, stock: list[DatagramReceived], effects: list[Effect]
) -> bool:
    """Whether somebody who holds a key, or was on the path, could have sent it as it is."""
    if is_untouched(data, stock) or is_ours_to_pass(machine, data, stock, effects):
        return True
    if is_a_challenge(machine, data):
        return all(isinstance(e, SendDatagram) and e.data[4] == Open.TYPE for e in effects)
    return False


def test_memory_does_not_grow_with_what_is_dropped() -> None:
    """R-7.4: what was dropped once costs no memory when it comes again."""
    for one in targets():
        mutator = Mutator(7, [take_apart(event.data) for event in one.stock])
        machine = one.machine
        door = machine.gate._door if isinstance(machine, StandIn) else machine._door
        door._buckets.clear()
        spoilt = [mutator.next() for _ in range(1_500)]

        def feed(
            machine: Machine = machine,
            one: Target = one,
            spoilt: list[tuple[int, bytes]] = spoilt,
        ) -> None:
            for number, data in spoilt:
                if not is_excused(machine, data, one.stock, []):
                    machine.handle(replace(one.stock[number], data=data), one.now)

        feed()
        before = getallocatedblocks()
        feed()
        assert getallocatedblocks() - before < 200, one.name


@pytest.mark.parametrize("part", range(4))
def test_well_signed_nonsense_is_refused_and_leaves_no_trace(part: int) -> None:
    """R-7.6, R-7.5: a stranger signs whatever terms they like; no answer is larger than that."""
    from random import Random

    random = Random(SEED * 7 + part)
    host, gate = make_host("s", policy=REJECT), make_gate("g")
    host._door._budget = gate._door._budget = UNLIMITED
    before = snapshot(host), snapshot(gate)
    for number in range(DATAGRAMS // 1000):
        data = nonsense(random, host.context.key.public, number)
        for machine, event in (
            (host, DatagramReceived(data, HERE, THERE)),
            (gate, DatagramReceived(data, HERE, THERE, True, "outside")),
        ):
            effects = machine.handle(event, 100.0)
            back = [e for e in effects if isinstance(e, SendDatagram) and e.destination == HERE]
            assert sum(len(effect.data) for effect in back) <= len(data)
            assert all(isinstance(e, SendDatagram | Dropped | ReportRefused) for e in effects)
    assert (snapshot(host), snapshot(gate)) == before


def nonsense(random: object, to_key: bytes, number: int) -> bytes:
    """An OPEN whose terms are well formed, signed, and mean nothing good."""
    from random import Random

    from wayside.core.messages import Hop

    assert isinstance(random, Random)
    pick = random.choice
    ips = ("10.0.0.2", "10.2.0.2", "0.0.0.0", "255.255.255.255", "224.0.0.1", "127.0.0.1")
    more = ("[::1]", "[fe80::1]", "[ff02::1]", "[::]", "[2001:db8::1]", "10.0.0.2", "10.2.0.2")
    ends = [Address.parse(f"{pick(ips + more)}:{pick((0, 1, 443, 4747, 65535))}") for _ in "12"]
    hops = tuple(
        Hop(
            random.randbytes(32),
            random.randrange(16),
            pick((0, 1, 2**40)),
            random.randbytes(pick((0, 12, 40, 200))),
            pick((None, *ends)),
            pick((None, *ends)),
        )
        for _ in range(pick((0, 0, 0, 1, 2, 3, 8)))
    )
    try:
        return make_open(
            STRANGER,
            pick((to_key, bytes(32), STRANGER.public)),
            ends[0],
            pick((ends[1], THERE.with_port(443), THERE.with_port(0))),
            cid=Cid(number.to_bytes(16, "big")),
            seq=pick((0, 1, 2**63, 2**64 - 1)),
            hops=hops,
            mac=pick((b"", bytes(16))),
            service=pick(("https", "", "é", 'a "b\\', "x" * 32, "日本", " ")),
            transport=pick(tuple(Transport)),
            ephemeral=pick((bytes(32), random.randbytes(32))),
            time_s=pick((1_800_000_100, 1_800_000_100, 1_800_000_100, 0, 2**40)),
            lifetime_s=pick((0, 1, 120, 2**40)),
            from_certificate=pick((b"", random.randbytes(100))),
            sealed=pick((b"", bytes(17))),
            intent=pick(((), (("a", "b"),))),
        )
    except ValueError:  # it would be longer than a datagram
        return bytes(1200)


def test_a_reason_is_named_for_every_kind_of_bad_datagram() -> None:
    """R-7.2: the fuzzer reaches every stage of the work, not just the first."""
    seen: set[DropReason] = set()
    for one in targets():
        mutator = Mutator(3, [take_apart(event.data) for event in one.stock])
        for _ in range(3_000):
            number, data = mutator.next()
            effects = one.machine.handle(replace(one.stock[number], data=data), one.now)
            seen |= {effect.reason for effect in effects if isinstance(effect, Dropped)}
    assert seen >= {
        DropReason.HEADER,
        DropReason.MALFORMED,
        DropReason.SHORT,
        DropReason.UNEXPECTED,
        DropReason.UNKNOWN,
        DropReason.STALE,
        DropReason.SIGNATURE,
        DropReason.TOKEN,
    }
