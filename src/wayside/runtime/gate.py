"""The gate's daemon: signaling in transit comes in, the machine decides, the helper makes rules.

A gate stands between interfaces; a NAT is a gate with addresses of its own outside; a relay passes
on what is sent to itself, and need not stand between anything. Which of these a box is, is said in
gate.toml (gate_config.py); how it runs, in box_daemon.py.
"""

from __future__ import annotations

import os
import socket

import msgspec

from wayside.core.admission import Budget, FrontDoor, Quota
from wayside.core.crypto import SigningKey
from wayside.core.gate import Gate
from wayside.core.policy import Policy
from wayside.core.route import TokenBox
from wayside.core.rule import Cid
from wayside.kernel.plan import InstalledRule

from .box_daemon import (
    CONNECTIONS_MAX,
    CONNECTIONS_PER_NETWORK_MAX,
    BoxDaemon,
    context_of,
    run_box,
)
from .control_types import ConnectionRecord
from .driver import Machine
from .errors import ConfigError
from .gate_config import GateConfig
from .helper_client import Helper
from .legacy import stand_in
from .local_addresses import is_own
from .policy_file import load_policy
from .secret import shared_secret

ANSWERED_HERE = "answered here, in the place of a host that cannot"


class GateDaemon(BoxDaemon):
    """A gate, its helper, its control socket."""

    role = "gate"

    def __init__(
        self,
        config: GateConfig,
        key: SigningKey,
        secret: bytes,
        helper: Helper,
        sides: dict[int, str],
    ) -> None:
        self._settings = config
        shared = shared_secret(config.paths.state)
        box = TokenBox(key.public, secret, os.urandom, shared)
        context = context_of(config, key, self.load_policy(), config.box, config.relays)
        quota = Quota(CONNECTIONS_MAX, CONNECTIONS_PER_NETWORK_MAX)
        gate = Gate(context, FrontDoor(box, Budget()), box, quota)
        super().__init__(config, gate, helper, sides)
        self._stand_in = stand_in(gate, box, config.legacy)

    @property
    def machine(self) -> Machine:
        """The gate, and those in whose place it answers."""
        return self._stand_in

    def records(self, rules: list[InstalledRule]) -> list[ConnectionRecord]:
        """As of any box; those that are answered here say so."""
        return [
            msgspec.structs.replace(one, stands=ANSWERED_HERE)
            if self._stand_in.answers(Cid(bytes.fromhex(one.cid)))
            else one
            for one in super().records(rules)
        ]

    def load_policy(self) -> Policy:
        """The policy, from its file. Raises ConfigError."""
        path = self._settings.paths.policy
        return load_policy(path, self._settings.relays.addresses) if path else Policy()


def sides_of(config: GateConfig) -> dict[int, str]:
    """The side of each interface by its index. Raises ConfigError for one that is not there."""
    sides: dict[int, str] = {}
    for side, interfaces in (("inside", config.inside), ("outside", config.outside)):
        for interface in interfaces:
            try:
                sides[socket.if_nametoindex(interface)] = side
            except OSError as error:
                there = ", ".join(name for _, name in socket.if_nameindex())
                raise ConfigError(
                    f"`{side}` names {interface!r}, and there is no such interface",
                    why=f"there are {there}",
                    hint="`ip -br link` lists them",
                ) from error
    return sides


def check_outside(config: GateConfig) -> None:
    """Raise ConfigError for an address of the NAT that this box does not have."""
    outside = config.box.nat.outside if config.box.nat else {}
    for ip in outside.values():
        if not is_own(ip):
            interface = config.outside[0]
            raise ConfigError(
                f"`nat.outside` names {ip}, and this box does not have that address",
                why="packets for it would never come back",
                hint=f"ip address add {ip}/{ip.max_prefixlen} dev {interface}",
            )


async def run_gate(config: GateConfig) -> int:
    """Run a gate until SIGTERM or SIGINT. Raises WaysideError when it cannot start."""
    sides = sides_of(config)
    check_outside(config)

    def make(key: SigningKey, secret: bytes, helper: Helper) -> GateDaemon:
        return GateDaemon(config, key, secret, helper, sides)

    return await run_box("gate", config, make, config.inside, config.outside)
