"""One whole handshake in memory, before the first real one.

Libraries load tables and allocate on first use: the first signature, key agreement and seal of a
process take 10 ms together, the second ones 0.3 ms. A daemon pays that before it says it is
ready, and not in the first application's connect(). It is a self-test as well: a broken
cryptographic library is found here.
"""

from __future__ import annotations

import os
from ipaddress import IPv4Address

from wayside.core.address import Address, Flow, Transport
from wayside.core.admission import Budget, FrontDoor, Quota
from wayside.core.connection import HostContext, State
from wayside.core.crypto import SigningKey
from wayside.core.effects import ChangeRules, DeliverData, Effect, SendDatagram
from wayside.core.events import DataAnswered, DatagramReceived, OpenRequested
from wayside.core.host import Answering, Host, Offered
from wayside.core.identity import Names, PeerIdentity
from wayside.core.policy import Policy, PolicyAction
from wayside.core.route import TokenBox
from wayside.core.rule import Cid

from .errors import WaysideError

SERVICE, PORT = "self-test", 9
ENDS = (Address(IPv4Address("192.0.2.1"), PORT), Address(IPv4Address("192.0.2.2"), PORT))
"""Documentation addresses (RFC 5737): nothing of this leaves the process."""


def check_crypto() -> None:
    """Warm up. Raises WaysideError when this machine's libraries cannot do a handshake."""
    if not warm_up():
        raise WaysideError(
            "a handshake with ourselves failed",
            why="the cryptographic libraries do not work together",
            hint="script/setup installs the versions that were tested",
        )


def warm_up() -> bool:
    """Run the handshake, a first datagram and its answer included; whether it worked."""
    asking, answering = _host(), _host()
    cid = Cid(os.urandom(16))
    peer = PeerIdentity(answering.context.key.public)
    wire = Flow(Transport.UDP, *ENDS)
    effects = asking.handle(
        OpenRequested(cid, peer, SERVICE, wire, wire, ENDS[1], b"are you there?"), 0.0
    )
    _carry(effects, answering, ENDS[0])
    effects = answering.handle(DataAnswered(cid, b"I am"), 0.0)
    effects = _carry(effects, asking, ENDS[1])
    delivered = any(isinstance(effect, DeliverData) for effect in effects)
    _carry(effects, answering, ENDS[0])
    found = answering.connections.get(cid)
    return delivered and found is not None and found.state is State.CONNECTED


def _host() -> Host:
    key = SigningKey(os.urandom(32))
    ready = Answering(Names({}), Policy(default=PolicyAction.ALLOW), {SERVICE: Offered(PORT)})
    door = FrontDoor(TokenBox(key.public, os.urandom(32), os.urandom), Budget())
    return Host(HostContext(key, os.urandom), ready, door, Quota(1, 1))


def _carry(effects: list[Effect], to: Host, source: Address) -> list[Effect]:
    """Hand over the datagrams among the effects; what the other machine says to them."""
    answers: list[Effect] = []
    destination = next(end for end in ENDS if end != source)
    for effect in effects:
        sent = effect.then if isinstance(effect, ChangeRules) else (effect,)
        for one in sent:
            if isinstance(one, SendDatagram):
                answers += to.handle(DatagramReceived(one.data, source, destination), 0.0)
    return answers
