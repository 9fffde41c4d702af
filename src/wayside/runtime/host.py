"""`wayside host`: make an agent out of its configuration and run it until it is told to stop."""

from __future__ import annotations

import os
from pathlib import Path

import structlog

from wayside.core.admission import Budget, FrontDoor, Quota
from wayside.core.connection import HostContext
from wayside.core.crypto import SigningKey
from wayside.core.host import Answering, Host, Offered
from wayside.core.identity import Names
from wayside.core.policy import Policy, PolicyAction
from wayside.core.route import TokenBox
from wayside.core.virtual import VirtualAddresses

from .agent import Agent
from .config import HostConfig
from .control import ControlServer
from .helper_client import Helper
from .host_control import HostControl
from .keyfile import read_certificate, read_key
from .policy_file import load_policy
from .privilege import check_enough, drop_all
from .secret import boot_secret
from .service import until_told
from .store import Store
from .warm_up import check_crypto

CONNECTIONS_MAX = 262_144
CONNECTIONS_PER_NETWORK_MAX = 131_072
"""As at a gate: behind one network there may be many hosts, but not all the room."""

_log = structlog.get_logger()


async def run_host(config: HostConfig) -> int:
    """Run a host's agent until SIGTERM or SIGINT. Raises WaysideError when it cannot start."""
    check_enough()
    key = read_key(config.paths.key)
    store = Store(config.paths.state, "host")
    secret = boot_secret(config.paths.state / "host.secret")
    host = make_host(config, key, secret, store.peers())
    helper = Helper.start()
    drop_all()
    check_crypto()
    agent = Agent(config, host, helper, store)
    await agent.start()
    control = ControlServer(config.paths.socket, HostControl(agent).answer)
    await control.start()
    _log.info("ready", name=config.name, socket=str(config.paths.socket))
    await until_told(lambda: reload(agent))
    await control.stop()
    await agent.stop()
    return 0


def make_host(config: HostConfig, key: SigningKey, secret: bytes, met: list[bytes]) -> Host:
    """The machine that a configuration describes; `met`: peers' keys in the order of meeting."""
    certificate = read_certificate(config.paths.certificate) if config.paths.certificate else b""
    steering = config.steering
    context = HostContext(
        key,
        os.urandom,
        config.name,
        certificate,
        lifetime_s=config.lifetime_s,
        redirectors=steering.trusted,
        let_in=config.nat_lets_in,
    )
    services = {
        name: Offered(service.port, service.allow) for name, service in config.services.items()
    }
    answering = Answering(
        Names(config.domains),
        policy_of(config.paths.policy),
        services,
        steering.approvers,
        steering.home,
    )
    virtual = VirtualAddresses(key.public, str(config.ipv6_prefix))
    for peer in (*met, *(peer.identity.key for peer in config.peers.values())):
        virtual.of(peer, 4)
    box = TokenBox(key.public, secret, os.urandom)
    quota = Quota(CONNECTIONS_MAX, CONNECTIONS_PER_NETWORK_MAX)
    return Host(context, answering, FrontDoor(box, Budget()), quota, virtual)


def policy_of(path: Path | None) -> Policy:
    """A host's policy. Without a file it lets in whom its services are for."""
    return load_policy(path) if path else Policy(default=PolicyAction.ALLOW)


def reload(agent: Agent) -> None:
    """Read the policy again. Raises ConfigError, and the old policy stays."""
    agent.host.answering.policy = policy_of(agent.config.paths.policy)
    _log.info("policy loaded", rules=len(agent.host.answering.policy.rules))
