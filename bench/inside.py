"""The inside of an enclosure: runs one measure and tells the outside one JSON line a figure."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import cast

import msgspec
from figure import Figure
from place import Bench

from wayside.lab.enclosure import leave_with_the_outer_process

MEASURES = {
    "bulk": ("bulk:measure", "TCP through host rebinding and gate pinhole"),
    "through": ("through:measure", "TCP through a NAT, a relay and a hiding rendezvous"),
    "packets": ("packets:measure", "64-byte UDP packets a second, and what each look-up costs"),
    "crowd": ("crowd:measure", "both with 100,000 other connections in the tables"),
    "connects": ("connects:measure", "connect() of an unmodified application until established"),
    "connects-far": ("connects:measure_far", "the same over a long wire"),
    "setups": ("setups:measure", "set-ups a second through one gate process on one core"),
    "setups-profile": ("setups:profile", "where a gate's time goes"),
    "unproved": ("unproved:measure", "what is sent to a source that has not proved itself"),
    "unaccepted": ("unaccepted:measure", "a gate's memory for OPENs that were never accepted"),
    "flood": ("flood:measure", "set-ups while OPENs are forged, by a sender in C (needs cc)"),
    "locations": ("locations:measure", "updates and look-ups of the location stores"),
    "moves": ("handover:measure", "the gap that a hard move leaves, TCP and UDP, beside MPTCP's"),
    "moves-far": ("handover:measure_far", "the same over long wires"),
    "stop": ("stopping:measure", "a transfer in a flood, before STOP and after"),
    "silent": ("silent:measure", "the gap when a path dies without a sign, beside MPTCP's"),
    "mptcp": ("mptcp:measure", "MPTCP over two paths, beside the sum of the paths alone"),
    "quic": ("quic:measure", "aioquic moves, through a default-drop gate"),
    "thousand": ("thousand:measure", "connections that are kept through a thousand moves"),
    "gate-scale": ("scale_gate:measure", "a gate with a million connections, simulated"),
    "host-scale": ("scale_host:measure", "a host with 100,000 connections, simulated"),
    "rendezvous-scale": (
        "scale_rendezvous:measure",
        "a rendezvous with 100,000 mobile hosts, simulated",
    ),
}
"""By the name on the command line: module and function, and what it measures."""

OUTSIDE = {"quic": "quic_install:install"}
"""What has to be done before an enclosure begins, in the measure's folder."""


def prepare(name: str, folder: Path) -> None:
    """What OUTSIDE says. Raises WaysideError."""
    if name in OUTSIDE:
        cast("Callable[[Path], None]", named(OUTSIDE[name]))(folder)


def named(place: str) -> object:
    """What a module of this folder calls so: `module:name`."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def main_inside(name: str, out: str, quick: str) -> None:
    """Measure one of MEASURES."""
    leave_with_the_outer_process()
    measure = cast("Callable[[Bench], Iterator[Figure]]", named(MEASURES[name][0]))
    for figure in measure(Bench(Path(out), quick == "True")):
        sys.stdout.write(msgspec.json.encode(figure).decode() + "\n")
        sys.stdout.flush()
