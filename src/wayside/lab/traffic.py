"""Real programs that move real data: iperf3, curl, ssh and sftp, squid, and a UDP echo.

None of them knows of wayside: they get an address and a port. Every function starts the program in
a node, waits for it within a bound and returns what it measured; one that could not do its work
says so in `error`, because a scenario may well want it to fail.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import cast

from wayside.core.address import IP
from wayside.lab.enclosure import PYTHON
from wayside.lab.world import LOGIN_UID, STATE, Node, Process, ProgramFailed

IPERF_PORT, HTTP_PORT, SSH_PORT, ECHO_PORT = 5201, 80, 22, 7007
SQUID_PORT = 3128

FILE_BYTES = 2_000_000
"""Some fifteen hundred full segments: enough to fill a window, over in milliseconds."""

IPERF_INTERVAL_S = 0.5
"""Longer than any scheduling hiccup of two busy cores, shorter than a person would call a stall."""


@dataclass(frozen=True, slots=True)
class Bulk:
    """A run of iperf3. `slowest_share`: the slowest interval's rate over the median one."""

    gbit_s: float = 0.0
    slowest_share: float = 0.0
    lost_percent: float = 0.0
    error: str = ""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A run of curl. `exit_code` is curl's (7: could not connect, 28: timeout).

    `error` is its last word, `cause` what connect() told it (`No route to host`).
    """

    exit_code: int
    seconds: float
    bytes: int
    error: str = ""
    cause: str = ""


@dataclass(frozen=True, slots=True)
class Echoed:
    """Answers of the UDP echo: a round-trip time in ms for each datagram, None where none came."""

    rtts_ms: list[float | None]
    errors: list[str]
    from_port: int

    @property
    def answered(self) -> int:
        """How many datagrams were answered."""
        return sum(rtt is not None for rtt in self.rtts_ms)


def spelt(ip: IP) -> str:
    """An address as it stands in a URL, or before a port."""
    return f"[{ip}]" if ip.version == 6 else str(ip)


def serve_iperf(node: Node) -> Process:
    """Start an iperf3 server for both families."""
    argv = ("iperf3", "-s", "-p", str(IPERF_PORT), "--forceflush")
    return node.spawn(*argv, ready="Server listening")


def start_iperf(node: Node, to: IP, seconds: float, *, udp: bool = False) -> Process:
    """Start an iperf3 client; `iperf_result` reads what it found."""
    argv = ["iperf3", "-c", str(to), "-p", str(IPERF_PORT), "-t", f"{seconds:g}", "-J"]
    argv += ["-i", f"{IPERF_INTERVAL_S:g}", "--connect-timeout", "5000"]
    return node.spawn(*argv, *(["-u", "-b", "10M", "-l", "1200"] if udp else []))


def iperf_result(running: Process, limit_s: float) -> Bulk:
    """Wait for an iperf3 client and read its report."""
    try:
        running.wait(limit_s)
        report = json.loads(running.text())
        if "error" in report:
            return Bulk(error=report["error"])
        rates = [interval["sum"]["bits_per_second"] for interval in report["intervals"]]
        end = report["end"].get("sum_received") or report["end"]["sum"]
        return Bulk(
            gbit_s=end["bits_per_second"] / 1e9,
            slowest_share=min(rates) / median(rates),
            lost_percent=end.get("lost_percent", 0.0),
        )
    except (ProgramFailed, ValueError, KeyError, ZeroDivisionError) as error:
        return Bulk(error=f"{type(error).__name__}: {error}")


def iperf(node: Node, to: IP, seconds: float, *, udp: bool = False) -> Bulk:
    """Run an iperf3 client to its end: TCP as fast as it goes, or UDP at 10 Mbit/s."""
    return iperf_result(start_iperf(node, to, seconds, udp=udp), seconds + 15)


def serve_http(node: Node) -> Process:
    """Start Python's HTTP server, for both families, over a folder with `file`, random text.

    Its bytes are no address of the lab by chance, as two million random ones are once in 300 runs.
    """
    folder = node.state / "www"
    folder.mkdir()
    (folder / "file").write_text(os.urandom(FILE_BYTES // 2).hex())
    argv = ("-m", "http.server", str(HTTP_PORT), "--bind", "::", "--directory", str(folder))
    return node.spawn(*PYTHON, *argv, ready="Serving HTTP")


def curl(node: Node, to: IP, port: int = HTTP_PORT, limit_s: float = 5.0) -> Fetched:
    """Fetch the file; `bytes` is 0 unless the whole of it came."""
    done = node.run(
        *("curl", "-sSv", "--noproxy", "*", "--max-time", str(limit_s), "-o", "/dev/null"),
        *("-w", "%{json}", f"http://{spelt(to)}:{port}/file"),
        limit_s=limit_s + 5,
        check=False,
    )
    report = json.loads(done.stdout)
    size = int(report["size_download"])
    said = done.stderr.strip().splitlines()
    error = next((line for line in said if line.startswith("curl: (")), "")
    cause = next((line.rpartition(": ")[2] for line in said if " failed: " in line), "")
    return Fetched(done.returncode, float(report["time_total"]), size, error, cause)


def serve_squid(node: Node, origin: IP) -> Process:
    """Start a real squid that answers for the HTTP server at an address, and logs what was asked.

    It runs under another uid, as sshd does, because it refuses to be root.
    """
    folder, parent = node.state, spelt(origin)
    (folder / "squid.conf").write_text(
        f"http_port {SQUID_PORT} accel defaultsite=origin no-vhost\n"
        f"cache_peer {parent} parent {HTTP_PORT} 0 no-query originserver\n"
        "acl whoever src all\nhttp_access allow whoever\nnever_direct allow whoever\n"
        f"access_log stdio:{folder}/squid.log\ncache_log {folder}/squid.said\n"
        "cache_store_log none\npid_filename none\npinger_enable off\n"
        f"coredump_dir {folder}\nvisible_hostname {node.name}\nshutdown_lifetime 0 seconds\n"
    )
    return node.spawn(
        *("unshare", "--user", f"--map-user={LOGIN_UID}", f"--map-group={LOGIN_UID}"),
        *("squid", "-N", "-d", "1", "-f", str(folder / "squid.conf")),
        ready="Accepting reverse-proxy",
    )


def squid_log(node: Node) -> str:
    """What a squid has written down of requests so far."""
    log = node.state / "squid.log"
    return log.read_text() if log.exists() else ""


def serve_echo(node: Node, port: int = ECHO_PORT) -> Process:
    """Start the UDP echo."""
    return node.spawn_python("wayside.lab.udp_echo", "serve", str(port), ready="ready")


def start_echo(
    node: Node,
    to: IP,
    *,
    port: int = ECHO_PORT,
    count: int = 1,
    interval_s: float = 0.0,
    size: int = 64,
    from_port: int = 0,
    limit_s: float = 2.0,
) -> Process:
    """Start asking the UDP echo; `echo_result` reads the answers. Times in s, size in bytes."""
    words = ["ask", str(to), str(port), "--count", str(count), "--interval", str(interval_s)]
    words += ["--bytes", str(size), "--from", str(from_port), "--limit", str(limit_s)]
    return node.spawn_python("wayside.lab.udp_echo", *words)


def echo_result(running: Process, limit_s: float = 20.0) -> Echoed:
    """Wait for an echo client. Raises ProgramFailed when it crashed."""
    if running.wait(limit_s):
        raise ProgramFailed(running.text())
    report = cast("dict[str, object]", json.loads(running.text()))
    rtts_ms = cast("list[float | None]", report["rtts_ms"])
    return Echoed(rtts_ms, cast("list[str]", report["errors"]), cast("int", report["from_port"]))


def serve_ssh(node: Node) -> Process:
    """Start a real sshd that lets the user `lab` in with a key.

    sshd run by uid 0 wants to become other users, of which a world of one uid has none. So it runs
    in a user namespace where the same uid is called 1000, and stays what it is. (Port 22 is
    opened to it by `World`: that uid has no privilege over the node.)
    """
    folder = node.state
    for name in ("host-key", "user-key"):
        node.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name))
    (folder / "sshd_config").write_text(
        f"Port {SSH_PORT}\nHostKey {folder}/host-key\nPidFile none\nUsePAM no\nUseDNS no\n"
        f"AuthorizedKeysFile {folder}/user-key.pub\nStrictModes no\nPasswordAuthentication no\n"
        "Subsystem sftp internal-sftp\n"
    )
    return node.spawn(
        *("unshare", "--user", f"--map-user={LOGIN_UID}", f"--map-group={LOGIN_UID}"),
        *(_sshd(), "-D", "-e", "-f", str(folder / "sshd_config")),
        ready="Server listening on :: port",
    )


def ssh_says(node: Node, server: Node, to: IP) -> str:
    """Log in and run a command; what it printed, or why it did not."""
    done = node.run("ssh", *_ssh_options(server, "-p"), f"lab@{to}", "echo hello", check=False)
    return (done.stdout or done.stderr).strip()


def sftp_puts(node: Node, server: Node, to: IP) -> str:
    """Send a file by sftp; empty when the server has it, whole, else what went wrong."""
    sent, received = node.state / "sent", server.state / "received"
    sent.write_bytes(os.urandom(FILE_BYTES))
    return _sftp(node, server, to, f"put {sent} {received}") or _damage(sent, received)


def sftp_gets(node: Node, server: Node, to: IP) -> str:
    """Fetch a file by sftp; empty when it is here, whole, else what went wrong."""
    sent, received = server.state / "kept", node.state / "fetched"
    sent.write_bytes(os.urandom(FILE_BYTES))
    return _sftp(node, server, to, f"get {sent} {received}") or _damage(sent, received)


def _sftp(node: Node, server: Node, to: IP, what: str) -> str:
    done = node.run(
        *("sftp", "-b", "-", *_ssh_options(server, "-P"), f"lab@{spelt(to)}"),
        stdin=f"{what}\n",
        check=False,
    )
    return done.stderr.strip() if done.returncode else ""


def _damage(sent: Path, received: Path) -> str:
    digests = [hashlib.sha256(path.read_bytes()).digest() for path in (sent, received)]
    return "" if digests[0] == digests[1] else "the file arrived damaged"


def _ssh_options(server: Node, port_option: str) -> list[str]:
    known, key = STATE / "known_hosts", server.state / "user-key"
    return [
        *("-F", "/dev/null", "-i", str(key), port_option, str(SSH_PORT), "-o", "BatchMode=yes"),
        *("-o", "StrictHostKeyChecking=no", "-o", f"UserKnownHostsFile={known}"),
        *("-o", "ConnectTimeout=5", "-o", "LogLevel=ERROR"),
    ]


def _sshd() -> str:
    """Its full path: sshd starts itself again, and /usr/sbin is not on every user's PATH."""
    return next(path for path in ("/usr/sbin/sshd", "/sbin/sshd") if os.access(path, os.X_OK))
