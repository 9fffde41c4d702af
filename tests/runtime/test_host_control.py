"""What the agent answers: what would let a redirect be followed, and what is not its business."""

from __future__ import annotations

import asyncio
from unittest.mock import Mock

import pytest

from pair import make_host
from star import Star, make_rendezvous
from wayside.core.identity import key_text
from wayside.runtime.agent import Agent
from wayside.runtime.asking import Asking
from wayside.runtime.control_types import InviteRequest, WhyReply, WhyRequest
from wayside.runtime.errors import ConfigError
from wayside.runtime.host_control import HostControl


def test_a_redirect_that_was_not_followed_says_whom_to_trust() -> None:
    """R-5.7.1."""
    nodes = {"c": make_host("c"), "s": make_host("s"), "r": make_rendezvous()}
    world = Star(nodes)  # type: ignore[arg-type]
    world.register()
    world.ask("c", "s", "r")
    asking = Asking()
    for refusal in world.refusals():
        asking.refused(refusal, "tcp")
    agent = Mock(spec=Agent)
    agent.asking = asking
    reply = asyncio.run(HostControl(agent).answer(WhyRequest()))
    assert isinstance(reply, WhyReply)
    (shown,) = reply.refusals
    assert key_text(world.key("r")) in shown.hint
    assert "redirectors" in shown.hint


def test_a_host_asked_for_an_invitation_says_that_another_daemon_is_meant() -> None:
    with pytest.raises(ConfigError, match="a host does not do that") as caught:
        asyncio.run(HostControl(Mock(spec=Agent)).answer(InviteRequest(name="files.lab")))
    assert "--socket" in caught.value.hint
