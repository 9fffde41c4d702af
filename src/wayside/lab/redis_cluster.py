"""A Redis Cluster of one's own: three masters, each with a replica, on loopback.

For tests, the bench and whoever wants to see a failover. Debian's redis-server runs from a folder
of ours on ports that were free a moment ago, with none of the system's configuration. Nothing is
written to disk: what a master that is killed has acknowledged is on its replica, or lost.

    python -m wayside.lab.redis_cluster FOLDER

runs one until it is killed, and starts again what was killed of it. It prints a JSON line: the
`urls` of all; and another whenever other masters have a location: their process ids.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, cast

from redis import Redis
from redis.crc import key_slot
from redis.exceptions import RedisError

from wayside.runtime.errors import WaysideError

from .daemons import within

MASTERS = 3
SLOTS = 16384
FIRST_SLOTS = [SLOTS * number // MASTERS for number in range(MASTERS + 1)]
"""Each master has those from its own to before the next one's."""

NODE_TIMEOUT_MS = 1500
"""How soon a master is missed: a failover takes twice that; a busy machine is not yet missed."""

START_LIMIT_S = 15.0
END_LIMIT_S = 5.0
LOOK_EVERY_S, AWAY_S = 0.2, 1.0
LOCATIONS = "wayside:l:*"
"""Of a rendezvous (runtime/locations_redis.py)."""


SETTINGS = {
    "bind": "127.0.0.1",
    "cluster-enabled": "yes",
    "cluster-config-file": "nodes.conf",
    "cluster-node-timeout": str(NODE_TIMEOUT_MS),
    "cluster-require-full-coverage": "no",
    "cluster-replica-validity-factor": "0",
    "repl-diskless-sync": "yes",
    "repl-diskless-sync-delay": "0",
    "repl-ping-replica-period": "1",
    "save": "",
    "appendonly": "no",
    "daemonize": "no",
}


@dataclass(slots=True, eq=False)
class Node:
    """One server. `process`: as it was started last."""

    port: int
    bus_port: int
    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        """Where it is reached."""
        return f"redis://127.0.0.1:{self.port}"

    def ask(self, *words: str | bytes | int) -> Any:
        """What the server says to a command, as it says it. Raises RedisError."""
        raw = [word.encode() if isinstance(word, str) else word for word in words]
        with Redis(host="127.0.0.1", port=self.port, socket_timeout=5) as client:
            return cast("Any", client.execute_command(*raw))  # pyright: ignore[reportUnknownMemberType]

    def says(self, wanted: str, *words: str) -> bool:
        """Whether something is in the answer to a command; no while the server is away."""
        try:
            return wanted in str(self.ask(*words))
        except RedisError:
            return False

    def holds(self) -> bool:
        """Whether it is a master that has locations; no while the server is away."""
        try:
            is_master = self.says("role:master", "INFO", "replication")
            return is_master and bool(self.ask("KEYS", LOCATIONS))
        except RedisError:
            return False


class RedisCluster:
    """Six servers, ready when the context is entered, and gone after it.

    Raises WaysideError when redis-server is missing or they do not become a cluster in time.
    """

    def __init__(self, folder: Path) -> None:
        """`folder`: where they keep their files; made if need be."""
        program = shutil.which("redis-server")
        if program is None:
            raise WaysideError("redis-server is missing", hint="script/setup dev", code="WS-1008")
        self._program = program
        self._ends = ExitStack()
        self.nodes: list[Node] = []
        ports = _free_ports(4 * MASTERS)
        for port, bus_port in zip(ports[::2], ports[1::2], strict=True):
            home = folder / str(port)
            home.mkdir(parents=True)
            self.nodes.append(Node(port, bus_port, home, self._start(port, bus_port, home)))

    @property
    def masters(self) -> Sequence[Node]:
        """The three that began as masters."""
        return self.nodes[:MASTERS]

    @property
    def urls(self) -> list[str]:
        """What a store is told of it."""
        return [node.url for node in self.nodes]

    def __enter__(self) -> RedisCluster:
        try:
            self._join()
        except BaseException:
            self._ends.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._ends.close()

    def restart(self, node: Node) -> None:
        """Start one that was killed; it comes back empty, and as the replica of who replaced it."""
        node.process = self._start(node.port, node.bus_port, node.folder)

    def replicated(self) -> bool:
        """Whether every master has a replica that is up to date."""
        masters = [node for node in self.nodes if node.says("role:master", "INFO", "replication")]
        return len(masters) == MASTERS and all(
            node.says("state=online", "INFO", "replication") for node in masters
        )

    def _start(self, port: int, bus_port: int, folder: Path) -> subprocess.Popen[bytes]:
        settings = SETTINGS | {"port": str(port), "cluster-port": str(bus_port)}
        words = [word for name, value in settings.items() for word in (f"--{name}", value)]
        with (folder / "log").open("ab") as log:
            process = subprocess.Popen([self._program, *words], cwd=folder, stdout=log, stderr=log)
        self._ends.callback(_end, process)
        return process

    def _join(self) -> None:
        """Tell them of each other, of their slots, and of whom they replicate."""
        self._see(lambda: all(node.says("PONG", "PING") for node in self.nodes))
        first = self.nodes[0]
        for number, node in enumerate(self.masters):
            first_slot, next_slot = FIRST_SLOTS[number : number + 2]
            node.ask("CLUSTER", "ADDSLOTSRANGE", first_slot, next_slot - 1)
        for number, node in enumerate(self.nodes):
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            if node is not first:
                node.ask("CLUSTER", "MEET", "127.0.0.1", first.port, first.bus_port)
        known = f"cluster_known_nodes:{len(self.nodes)}"
        self._see(lambda: all(node.says(known, "CLUSTER", "INFO") for node in self.nodes))
        for master, replica in zip(self.masters, self.nodes[MASTERS:], strict=True):
            replica.ask("CLUSTER", "REPLICATE", master.ask("CLUSTER", "MYID").decode())
        self._see(self.replicated)
        up = "cluster_state:ok"
        self._see(lambda: all(node.says(up, "CLUSTER", "INFO") for node in self.nodes))

    def _see(self, look: Callable[[], bool]) -> None:
        if not within(START_LIMIT_S, look):
            raise WaysideError("the servers did not become a Redis Cluster", code="WS-1008")


def master_of(key: bytes) -> int:
    """Which of the masters has a key, as they were in the beginning."""
    return bisect_right(FIRST_SLOTS, key_slot(key)) - 1


def _free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _end(process: subprocess.Popen[bytes]) -> None:
    """Nothing of it is worth keeping."""
    process.kill()
    process.wait(END_LIMIT_S)


def main() -> None:
    """See above."""
    with RedisCluster(Path(sys.argv[1])) as cluster:
        print(json.dumps({"urls": cluster.urls}), flush=True)
        told: list[int] = []
        while True:
            time.sleep(LOOK_EVERY_S)
            for node in cluster.nodes:
                if node.process.poll() is not None:
                    time.sleep(AWAY_S)
                    cluster.restart(node)
            holding = [node.process.pid for node in cluster.nodes if node.holds()]
            if holding and holding != told:
                told = holding
                print(json.dumps({"holding": told}), flush=True)


if __name__ == "__main__":
    main()
