"""What `wayside doctor` looks at: each thing that the daemons need, and what to do if it is not so.

Nothing here changes anything. A finding that is not ok says what to do in its hint.
"""

from __future__ import annotations

import ctypes
import os
import re
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wayside.kernel.doctor import Diagnosis
from wayside.kernel.plan import KernelError

from .config import HostConfig, default_socket, load_host
from .control import ask
from .control_types import StatusReply, StatusRequest
from .errors import WaysideError
from .gate_config import GateConfig, load_gate
from .keyfile import read_key
from .rendezvous_config import RendezvousConfig, load_rendezvous

KERNEL_MIN = (5, 10)
"""The oldest long-term kernel whose nftables has concatenated verdict maps, `fib` and `tproxy`."""

_CAP_NET_ADMIN, _CAP_NET_RAW = 12, 13


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    name: str
    ok: bool
    text: str
    hint: str = ""


def examine(
    role: Literal["host", "gate", "rendezvous"], config: Path | None, environ: Mapping[str, str]
) -> list[Finding]:
    """Look at everything that a role needs on this machine."""
    findings = [_kernel(os.uname().release), _library(), _privileges()]
    settings: HostConfig | GateConfig | RendezvousConfig | None = None
    try:
        load = {"host": load_host, "gate": load_gate, "rendezvous": load_rendezvous}[role]
        settings = load(config, {}, environ)
        findings.append(Finding("configuration", True, str(config or "defaults and environment")))
    except WaysideError as error:
        findings.append(_failed("configuration", error))
    path = settings.paths.socket if settings else default_socket(role, environ)
    agent = _agent(path)
    findings.append(agent)
    if settings:
        findings.append(_key(settings.paths.key))
        if not agent.ok:
            findings.append(_port(settings.listen))
    if all(one.ok for one in findings[1:3]):  # the library, and the privilege to use it
        findings.extend(_listed_rulesets())
    return findings


def _kernel(release: str) -> Finding:
    version = tuple(map(int, re.findall(r"\d+", release)[:2]))
    if version < KERNEL_MIN:
        least = ".".join(map(str, KERNEL_MIN))
        return Finding("kernel", False, f"Linux {release}", f"Linux {least} or newer is needed")
    return Finding("kernel", True, f"Linux {release}")


def _library() -> Finding:
    name = "libnftables.so.1"
    try:
        ctypes.CDLL(name)
    except OSError as error:
        return Finding("libnftables", False, str(error), "apt-get install libnftables1")
    return Finding("libnftables", True, name)


def _privileges() -> Finding:
    status = Path("/proc/self/status").read_text()
    effective = int(status.partition("CapEff:")[2].split()[0], 16)
    wanted = {"CAP_NET_ADMIN": _CAP_NET_ADMIN, "CAP_NET_RAW": _CAP_NET_RAW}
    lacking = [name for name, bit in wanted.items() if not effective >> bit & 1]
    if lacking:
        hint = "run as root, or in a namespace of your own: unshare -Urnm"
        return Finding("privileges", False, f"without {' and '.join(lacking)}", hint)
    return Finding("privileges", True, " and ".join(wanted))


def _agent(path: Path) -> Finding:
    try:
        status = ask(path, StatusRequest(limit=0), StatusReply, timeout_s=2.0)
    except WaysideError as error:
        return _failed("agent", error)
    text = f"{status.role} {status.name or status.key}, process {status.pid}"
    return Finding("agent", True, f"{text}, {status.connections_total} connections")


def _key(path: Path) -> Finding:
    try:
        read_key(path)
    except WaysideError as error:
        return _failed("key", error)
    return Finding("key", True, f"{path}, mode 0600")


def _port(port: int) -> Finding:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):
        probe.bind(("0.0.0.0", port))
        return Finding("port", True, f"UDP {port} is free")
    return Finding("port", False, f"UDP {port} is taken", "`ss -lunp` names who has it")


def _failed(name: str, error: WaysideError) -> Finding:
    why = f": {error.why}" if error.why else ""
    return Finding(name, False, error.what + why, error.hint or f"wayside explain {error.code}")


def _listed_rulesets() -> list[Finding]:
    """Look through everything that nftables holds on this machine, whoever put it there."""
    from wayside.kernel.apply import NftDataPlane  # needs libnftables, which may not be here

    try:
        return _rulesets(NftDataPlane().diagnose())
    except KernelError as error:
        return [Finding("rulesets", False, error.what, error.hint)]


def _rulesets(found: list[Diagnosis]) -> list[Finding]:
    if not found:
        return [Finding("rulesets", True, "no other ruleset drops what was signaled")]
    return [
        Finding("rulesets", False, f"{one.where}: {one.why}", f"sudo {one.rule}") for one in found
    ]
