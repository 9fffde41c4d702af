"""Every code that an error can carry, in one table: `wayside explain CODE` prints it.

The first digit is the exit code of the command that met the error, so the two never disagree:
1 failed, 2 usage or configuration, 3 refused by policy, 4 name not found, 5 timeout, 6 identity,
7 agent not running. The codes from WS-3001 on are the REJECT codes of the protocol, in order;
from WS-3101 on, refusals that are no REJECT.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CodeText:
    """What a code means, for a person: one line, and a paragraph with what to do."""

    title: str
    text: str


CODES: dict[str, CodeText] = {
    "WS-1001": CodeText(
        "internal error",
        "Something happened that the program did not expect. It is a bug: please report it with "
        "the last lines of the daemon's log.",
    ),
    "WS-1002": CodeText(
        "the kernel did not take a change",
        "nftables or netlink refused an operation. The message says which one. `wayside doctor` "
        "checks what the kernel has to offer.",
    ),
    "WS-1004": CodeText(
        "no permission",
        "The daemons need CAP_NET_ADMIN and CAP_NET_RAW for their helper: start them as root, from "
        "a systemd unit, or in a network namespace of their own (`unshare -Urnm`).",
    ),
    "WS-1005": CodeText(
        "the port is taken",
        "Another process is bound to the port. `ss -lntup` names it; `listen` in the configuration "
        "chooses another port.",
    ),
    "WS-1006": CodeText(
        "a file could not be read or written",
        "The message names the file and the reason that the system gave.",
    ),
    "WS-1007": CodeText(
        "the connection broke",
        "The connection was opened, and then ended by the other end, a gate, or the network. "
        "`wayside why` shows who ended it.",
    ),
    "WS-1008": CodeText(
        "a check failed",
        "`wayside doctor` or a lab run found something that is not as it should be; it is marked "
        "in what the command printed.",
    ),
    "WS-1009": CodeText(
        "the location store is away",
        "A rendezvous cannot read or write where hosts are: its SQLite file or its Redis Cluster "
        "does not answer. Connections that are up go on; until the store is back, hosts are not "
        "found and nobody joins. Is the disk full, or are the masters of the cluster down?",
    ),
    "WS-1010": CodeText(
        "too much is stopped already",
        "This host has said STOP about as many connections as it can keep in mind. Each is "
        "forgotten when its time is over.",
    ),
    "WS-1011": CodeText(
        "this connection cannot be stopped from here",
        "Only who was asked for a connection, and has agreed since it last started and moved, can "
        "have its packets dropped on the way. Who asked for it ends the program that uses it.",
    ),
    "WS-2001": CodeText(
        "wrong usage",
        "The command does not take these arguments; `--help` shows those it takes.",
    ),
    "WS-2101": CodeText(
        "unknown key in a configuration file",
        "Every key has to be known, so that a misspelt one does not silently do nothing. The "
        "message names the file, the line and the nearest key that exists.",
    ),
    "WS-2102": CodeText(
        "wrong value in a configuration file",
        "A value has another type than expected, or is out of range. The message names file and "
        "line, and what was expected.",
    ),
    "WS-2103": CodeText(
        "a configuration file is not TOML",
        "A syntax error, or the same key twice. The message names file and line.",
    ),
    "WS-2104": CodeText(
        "a key is missing from a configuration file",
        "The role cannot run without it; the message names the key and what belongs there.",
    ),
    "WS-2105": CodeText(
        "a policy fails its own tests",
        "A `[[test]]` of the policy file gets another answer from the rules than it expects. The "
        "policy is not used; a running daemon keeps the one it had.",
    ),
    "WS-3001": CodeText(
        "refused by policy",
        "A rule of a gate or of the other host says no. `wayside why` names it. Whoever runs that "
        "box decides: ask them for a rule.",
    ),
    "WS-3002": CodeText(
        "no such service",
        "The other host does not offer this service. There: `wayside expose SERVICE PORT`.",
    ),
    "WS-3003": CodeText(
        "refused: wrong address",
        "The address in the request is not the one that it came from; a NAT that takes no part may "
        "be on the way.",
    ),
    "WS-3004": CodeText(
        "refused: identity",
        "A signature or a certificate did not hold at the box that refused. Has the certificate "
        "expired?",
    ),
    "WS-3005": CodeText(
        "refused: the clocks differ",
        "The time in the request is more than a minute off. Set the clock (NTP).",
    ),
    "WS-3006": CodeText(
        "refused: busy",
        "The box has as many connections or requests as it takes, in all or from your network. Try "
        "again later.",
    ),
    "WS-3007": CodeText(
        "refused: too many hops",
        "More boxes take part on the way than one connection can have.",
    ),
    "WS-3008": CodeText(
        "refused: no route",
        "A box on the way does not know where to send the request on to.",
    ),
    "WS-3009": CodeText(
        "refused: disclosure required",
        "A gate wants to see more of what the connection is for than your policy shows it.",
    ),
    "WS-3010": CodeText(
        "the connection expired",
        "A box on the way has forgotten the connection, because nothing renewed it in time.",
    ),
    "WS-3011": CodeText(
        "refused: the box failed",
        "The box that refused has a problem of its own, such as a kernel that does not take rules.",
    ),
    "WS-3101": CodeText(
        "the invitation is not accepted",
        "An invitation lets in the first key that shows it, until it expires. This one was used by "
        "another key, has expired, or was never given out. Ask for another: `wayside invite NAME`, "
        "at the rendezvous.",
    ),
    "WS-4001": CodeText(
        "name not found",
        "No address is known for this name. Add it to [peers] in host.toml.",
    ),
    "WS-5001": CodeText(
        "no answer in time",
        "Nobody answered: neither the other host nor a gate. The host may be down, or its network "
        "may drop signaling (UDP port 4747). A refusal would have been shown as one.",
    ),
    "WS-6001": CodeText(
        "the other end is not who it should be",
        "Whoever answered does not hold the expected key.",
    ),
    "WS-6002": CodeText(
        "a key file is readable by others",
        "A secret key that others can read is no secret: chmod 600 FILE. If it may have been read, "
        "make a new one with `wayside key new`.",
    ),
    "WS-6003": CodeText(
        "not a key or certificate file",
        "The file does not hold what it should. `wayside key new FILE` makes a key, `wayside key "
        "sign` a certificate.",
    ),
    "WS-6004": CodeText(
        "not an invitation",
        "An invitation is one line that begins with wayside-invitation-1, as `wayside invite` "
        "printed it. Was all of it copied?",
    ),
    "WS-7001": CodeText(
        "the agent is not running",
        "No daemon listens on the control socket. Start `wayside host` (or `wayside gate`), or "
        "name the socket with --socket or WAYSIDE_SOCKET.",
    ),
    "WS-7002": CodeText(
        "the agent does not talk to you",
        "The control socket is for root, its owner and its group. Join the group, or use sudo.",
    ),
}


def reject_code(number: int) -> str:
    """The code for a REJECT's number on the wire; one that is not known here is plain policy."""
    code = f"WS-{3000 + number}"
    return code if number < 100 and code in CODES else "WS-3001"
