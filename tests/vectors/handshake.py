"""Whole handshakes, with every value on the way. Spec: R-4, R-5."""

from __future__ import annotations

from typing import TypeVar

from vectors.describe import Json, described, header_of
from vectors.world import ANSWER, EPOCH_S, SERVICE, Plan, World, certificate, key, seed
from wayside.core.address import Transport
from wayside.core.codec import Header, decode_body, encode_body
from wayside.core.crypto import (
    agree,
    check_of,
    derive,
    digest,
    ephemeral_public,
    mac,
    static_x25519,
)
from wayside.core.identity import key_text
from wayside.core.messages import Accept, AcceptTerms, Close, Confirm, Open, OpenTerms, decode
from wayside.core.opening import SIGNATURE_CONTEXT, open_hash
from wayside.core.route import hops_hash

PARTIES = ("initiator", "gate", "responder")


def handshakes() -> dict[str, Json]:
    """The documents of this file, by the names of their files."""
    return {
        "handshake": _document(
            Plan(),
            "A UDP connection over IPv4 through one gate, with its first datagram on OPEN and the"
            " answer on ACCEPT; refreshed once; closed by the initiator.",
        ),
        "handshake-direct": _document(
            Plan(Transport.TCP, gated=False, family=6, data=b""),
            "A TCP connection over IPv6 with nobody in between; refreshed once; closed.",
        ),
        "handshake-challenge": _document(
            Plan(clock_s=-100),
            "As handshake, but the initiator's clock is 100 s late: gate and responder answer each"
            " OPEN with a CHALLENGE, and the datagram on it is not given to the application.",
        ),
        "handshake-late": _document(
            Plan(Transport.TCP, data=b"", late=True),
            "A TCP connection over IPv4 through one gate. OPEN goes out twice before the first"
            " ACCEPT comes; the second has another token, and is answered with the same CONFIRM.",
        ),
        "handshake-none": _document(
            Plan(Transport.NONE, data=b""),
            "A connection without packets (transport 0, no ports) through one gate; refreshed;"
            " closed.",
        ),
        "handshake-nat": _document(
            Plan(nat=True),
            "As handshake, but the gate is a NAT that the initiator asks for the responder's key."
            " It sends OPEN on to the host inside, and adds to ACCEPT where packets go:"
            " `returned`.",
        ),
    }


def _document(plan: Plan, about: str) -> Json:
    world = World(plan)
    world.live()
    assert not world.dropped
    entropy = world.entropy
    secrets = {name: entropy[name].drawn for name in ("initiator", "responder")}
    parties = [name for name in PARTIES if plan.gated or name != "gate"]
    return {
        "v": 1,
        "about": about,
        "unix_s": EPOCH_S + 1,
        "initiator_unix_s": EPOCH_S + 1 + plan.clock_s,
        "parties": {name: _party(world, name) for name in parties},
        "domains": {"lab": key("lab").public.hex()},
        "connection": {
            "cid": world.cid.hex(),
            "service": SERVICE,
            "transport": int(plan.transport),
            "source": str(plan.flow.source),
            "destination": str(plan.flow.destination),
            "data": plan.data.hex(),
            "answer": ANSWER.hex() if world.delivered else "",
        },
        "steps": [
            {
                "step": number,
                "from": sent.sender,
                "to": sent.receiver,
                "source": str(sent.source),
                "destination": str(sent.destination),
                **described(sent.data),
            }
            for number, sent in enumerate(world.sent, start=1)
        ],
        "values": [
            _round(world, seq, mine, theirs)
            for seq, mine, theirs in zip(
                (0, 2), secrets["initiator"], secrets["responder"], strict=True
            )
        ],
        "close": _close(world, secrets["initiator"][1]),
    }


def _party(world: World, name: str) -> Json:
    pair = key(name)
    return {
        "seed": pair.seed.hex(),
        "public": pair.public.hex(),
        "text": key_text(pair.public),
        "name": f"{name}.lab",
        "certificate": "" if name == "gate" else certificate(name).hex(),
        "signaling": str(world.signaling[name]),
        "token_secret": seed(f"secret of {name}").hex(),
        "entropy": [drawn.hex() for drawn in world.entropy[name].drawn],
    }


M = TypeVar("M", Open, Accept, Confirm, Close)


def _find(world: World, kind: type[M], seq: int) -> tuple[Header, M]:
    """The first of its kind with this seq that reached the end of the route."""
    for sent in world.sent:
        header, message = decode(sent.data)
        if isinstance(message, kind) and header.seq == seq and sent.receiver != "gate":
            return header, message
    raise AssertionError(f"no {kind.__name__} of seq {seq}")


def _parts(*parts: bytes) -> str:
    """What SHA-256 is over in `digest`: each part behind its length. R-4.1."""
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts).hex()


def _round(world: World, seq: int, mine: bytes, theirs: bytes) -> Json:
    """The values of one OPEN, ACCEPT, CONFIRM. `mine`, `theirs`: ephemeral secrets of both ends."""
    header, opened = _find(world, Open, seq)
    accept_header, accept = _find(world, Accept, seq)
    confirm_header, confirm = _find(world, Confirm, seq)
    named = open_hash(header, opened.signed)
    salt = digest(named, ephemeral_public(theirs))
    secret = agree(mine, ephemeral_public(theirs))
    connection_key = derive(secret, salt, b"wayside connection")
    values: Json = {
        "seq": seq,
        "initiator_ephemeral_secret": mine.hex(),
        "initiator_ephemeral_public": ephemeral_public(mine).hex(),
        "open_signing_header": header.signing.hex(),
        "open_signed": opened.signed.hex(),
        "open_signature_input": (SIGNATURE_CONTEXT + header.signing + opened.signed).hex(),
        "open_signature": opened.signature.hex(),
        "open_hash_input": _parts(header.signing, opened.signed),
        "open_hash": named.hex(),
        "open_mac": opened.mac.hex(),
        "hops": [encode_body(hop).hex() for hop in accept.hops],
        "hops_hash_input": _parts(*(encode_body(hop) for hop in accept.hops)),
        "hops_hash": hops_hash(accept.hops).hex(),
        "responder_ephemeral_secret": theirs.hex(),
        "responder_ephemeral_public": ephemeral_public(theirs).hex(),
        "accept_signing_header": accept_header.signing.hex(),
        "accept_signed": accept.signed.hex(),
        "accept_signature_input": (SIGNATURE_CONTEXT + accept_header.signing + accept.signed).hex(),
        "accept_signature": accept.signature.hex(),
        "shared_secret": secret.hex(),
        "connection_key_salt_input": _parts(named, ephemeral_public(theirs)),
        "connection_key_salt": salt.hex(),
        "connection_key": connection_key.hex(),
        "accept_check_input": mac(connection_key, confirm_header.signing).hex(),
        "accept_check": check_of(mac(connection_key, confirm_header.signing)).hex(),
        "seen_input": _parts(accept.signed, *(address.pack() for address in accept.returned)),
        "seen": confirm.seen.hex(),
        "confirm_signing_header": confirm_header.signing.hex(),
        "confirm_mac_input": digest(confirm_header.signing, confirm.seen).hex(),
        "confirm_mac": mac(connection_key, confirm_header.signing, confirm.seen).hex(),
        "confirm_proof_input": digest(confirm_header.signing).hex(),
        "confirm_proof": confirm.proof.hex(),
    }
    terms = decode_body(OpenTerms, opened.signed)
    if terms.sealed:
        static = agree(mine, static_x25519(key("responder").public))
        values["data"] = {
            "plain": world.plan.data.hex(),
            "static_public": static_x25519(key("responder").public).hex(),
            "static_shared": static.hex(),
            "open_key": derive(static, header.cid, b"wayside open").hex(),
            "open_bound": (header.signing + terms.from_key).hex(),
            "open_sealed": terms.sealed.hex(),
        }
    agreed = decode_body(AcceptTerms, accept.signed)
    if agreed.sealed:
        values["data"] |= {
            "answer": ANSWER.hex(),
            "accept_key": derive(connection_key, b"", b"wayside accept").hex(),
            "accept_bound": header.cid.hex(),
            "accept_sealed": agreed.sealed.hex(),
        }
    return values


def _close(world: World, mine: bytes) -> Json:
    """The values of the CLOSE, which is under the key of the newest seq. R-5.9."""
    header, close = _find(world, Close, 2)
    connection_key = _round(world, 2, mine, world.entropy["responder"].drawn[1])["connection_key"]
    covered = digest(header.signing, close.reason.encode())
    return {
        "header": header_of(header),
        "reason": close.reason,
        "connection_key": connection_key,
        "mac_input": covered.hex(),
        "mac": close.mac.hex(),
    }
