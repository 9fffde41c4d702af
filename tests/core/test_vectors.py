"""The test vectors: up to date, and true in the eyes of somebody who only read docs/spec.md.

The second half uses no code of ours: hashlib, cbor2 and two cryptographic libraries, as an
implementer elsewhere would have. So the specification is tested, and not only the files.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from vectors.generate import FOLDER, documents, written
from vectors.refused import drops_of, world_after
from vectors.world import Plan, Sent, World
from wayside.core.address import Address, Transport
from wayside.core.connection import State
from wayside.core.errors import DropReason
from wayside.core.host import Host
from wayside.core.identity import Names, is_name
from wayside.core.messages import decode, encode
from wayside.core.rule import Cid

FRESH = documents()
LONE = ("open", "accept", "confirm", "challenge", "reject", "redirect", "close", "stop")
HANDSHAKES = (
    "handshake",
    "handshake-direct",
    "handshake-challenge",
    "handshake-late",
    "handshake-none",
    "handshake-nat",
)
GATED = tuple(name for name in HANDSHAKES if name != "handshake-direct")
ROUNDS = [(name, at) for name in HANDSHAKES for at in (0, 1)]

Json = dict[str, Any]


def hexed(text: str) -> bytes:
    return bytes.fromhex(text)


@pytest.mark.parametrize("name", sorted(FRESH))
def test_the_file_is_what_the_code_says_today(name: str) -> None:
    """If this fails, the protocol has changed: cd tests; python -m vectors.generate."""
    assert (FOLDER / f"{name}.json").read_text() == written(FRESH[name])


def test_there_is_no_file_that_nobody_writes() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == set(FRESH)


def every_datagram() -> Iterator[Json]:
    for name in LONE:
        yield from FRESH[name]["vectors"]
    for name in HANDSHAKES:
        yield from FRESH[name]["steps"]


def test_every_datagram_is_read_and_written_again() -> None:
    """R-2.1, R-3.1."""
    for vector in every_datagram():
        datagram = hexed(vector["datagram"])
        assert encode(*decode(datagram)) == datagram


@pytest.mark.parametrize("case", FRESH["refused"]["cases"], ids=lambda case: case["name"])
def test_what_must_be_dropped_is_dropped(case: Json) -> None:
    """R-7.1, R-7.2, R-7.6: with its reason, and with nothing else happening."""
    world: World = world_after(case["after"])
    sent = Sent(
        case["from"],
        case["at"],
        Address.parse(case["source"]),
        Address.parse(case["destination"]),
        hexed(case["datagram"]),
    )
    reason = drops_of(world, sent, case["intercepted"])
    assert reason is not None
    assert reason.value == case["reason"]


def test_certificates_give_the_names_that_the_file_says() -> None:
    """R-9.2, R-9.3."""
    document = FRESH["names"]
    names = Names({name: hexed(key) for name, key in document["domains"].items()})
    for case in document["certificates"]:
        found = names.name_of(hexed(document["key"]), hexed(case["certificate"]), case["unix_s"])
        assert found == case["gives"], case["name"]
    for case in document["spellings"]:
        assert is_name(case["text"]) is case["is_name"], case["text"]


def test_an_older_open_does_not_take_the_place_of_a_newer_one() -> None:
    """R-5.1.9: the first connection's OPEN, replayed when the flow has a second connection."""
    world = World(Plan(gated=False, family=6))
    world.open()
    first, old = world.sent[0], world.cid
    world.close("initiator", "done")
    world.now += 10
    world.pass_time("initiator", world.now)
    world.pass_time("responder", world.now)
    world.cid = Cid(bytes(16))
    world.open()
    host = world.machines["responder"]
    assert isinstance(host, Host)
    assert set(host.connections) == {world.cid}
    assert drops_of(world, first, transit=False) is DropReason.STALE
    assert set(host.connections) == {world.cid} != {old}


# --- from here on as an outsider: docs/spec.md and libraries, no code of ours ---


def sha256(raw: bytes) -> bytes:
    return hashlib.sha256(raw).digest()


def parts(*items: bytes) -> bytes:
    return b"".join(len(item).to_bytes(4, "big") + item for item in items)


def hkdf(secret: bytes, salt: bytes, label: bytes) -> bytes:
    first = hmac.digest(salt or bytes(32), secret, "sha256")
    return hmac.digest(first, label + b"\x01", "sha256")


def short_mac(key: bytes, *items: bytes) -> bytes:
    return hmac.digest(key, sha256(parts(*items)), "sha256")[:16]


def x25519(secret: bytes, public: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(secret).exchange(
        X25519PublicKey.from_public_bytes(public)
    )


def signing_header(datagram: bytes) -> bytes:
    return datagram[:5] + bytes(3) + datagram[8:32]


def body_of(datagram: bytes) -> dict[int, Any]:
    return cbor2.loads(datagram[32 + 32 * datagram[6] :])


def step(document: Json, message: str, seq: int) -> bytes:
    """The first datagram of this kind that reached the end of the route."""
    found = [
        hexed(entry["datagram"])
        for entry in document["steps"]
        if entry["message"] == message and entry["header"]["seq"] == seq and entry["to"] != "gate"
    ]
    return found[0]


def test_every_signature_holds() -> None:
    """R-4.2."""
    signed = 0
    for vector in every_datagram():
        datagram = hexed(vector["datagram"])
        body = body_of(datagram)
        if datagram[4] in (1, 2, 5, 6, 8):
            key = cbor2.loads(body[1])[1]
            covered = b"wayside/1 " + signing_header(datagram) + body[1]
            Ed25519PublicKey.from_public_bytes(key).verify(body[2], covered)
            signed += 1
    assert signed > 10


def test_keys_are_what_the_primitives_give() -> None:
    """R-4.1, R-4.3, R-4.4, R-4.5, R-9.1."""
    document = FRESH["keys"]
    static = {}
    for identity in document["identities"]:
        half = hashlib.sha512(hexed(identity["seed"])).digest()[:32]
        static[identity["seed"]] = half
        public = X25519PrivateKey.from_private_bytes(half).public_key().public_bytes_raw()
        assert public.hex() == identity["x25519"]
        assert len(identity["text"]) == 53
    for case in document["agreements"]:
        shared = x25519(static[case["seed"]], hexed(case["ephemeral_public"]))
        assert shared.hex() == case["shared"]
    for case in document["digests"]:
        assert sha256(parts(*map(hexed, case["parts"]))).hex() == case["digest"]
    for case in document["macs"]:
        assert short_mac(hexed(case["key"]), *map(hexed, case["parts"])).hex() == case["mac"]
    for case in document["derived"]:
        made = hkdf(hexed(case["secret"]), hexed(case["salt"]), case["label"].encode())
        assert made.hex() == case["key"]
    for case in document["seals"]:
        opened = ChaCha20Poly1305(hexed(case["key"])).decrypt(
            hexed(case["nonce"]), hexed(case["sealed"]), hexed(case["bound"])
        )
        assert opened.hex() == case["plain"]


@pytest.mark.parametrize(("name", "at"), ROUNDS)
def test_an_outsider_comes_to_the_same_hashes_and_macs(name: str, at: int) -> None:
    """R-4.1, R-4.3, R-5.3, R-5.3.4, R-5.4.1, R-8.4: by the words of the specification alone."""
    document = FRESH[name]
    values = document["values"][at]
    seq = values["seq"]
    opened, accept = step(document, "OPEN", seq), step(document, "ACCEPT", seq)
    confirm = step(document, "CONFIRM", seq)
    terms, agreed = cbor2.loads(body_of(opened)[1]), cbor2.loads(body_of(accept)[1])
    open_hash = sha256(parts(signing_header(opened), body_of(opened)[1]))
    assert open_hash.hex() == values["open_hash"]
    assert agreed[2] == open_hash
    hops = body_of(accept).get(3, [])
    assert agreed[3] == sha256(parts(*hops))
    assert len(hops) == (1 if name in GATED else 0)
    secret = hexed(values["initiator_ephemeral_secret"])
    salt = sha256(parts(open_hash, agreed[6]))
    key = hkdf(x25519(secret, agreed[6]), salt, b"wayside connection")
    assert key.hex() == values["connection_key"]
    theirs = hexed(values["responder_ephemeral_secret"])
    assert x25519(theirs, terms[7]).hex() == values["shared_secret"]
    returned = body_of(accept).get(4, [])
    assert len(returned) == (1 if name == "handshake-nat" else 0)
    assert parts(body_of(accept)[1], *returned).hex() == values["seen_input"]
    seen = sha256(parts(body_of(accept)[1], *returned))
    assert body_of(confirm)[1] == seen
    assert body_of(confirm)[2] == short_mac(key, signing_header(confirm), seen)
    proof = short_mac(key, signing_header(confirm))
    assert body_of(confirm)[5] == proof
    assert agreed[4] == sha256(proof)[:8]
    assert body_of(confirm).get(3, []) == hops
    assert body_of(confirm).get(4, []) == returned
    if at:
        before = hexed(document["values"][at - 1]["connection_key"])
        covered = (signing_header(opened), body_of(opened)[1])
        assert body_of(opened)[4] == short_mac(before, *covered)
        assert seq == 2


def test_the_initiator_sends_where_the_nat_says_and_the_responder_gets_it_where_it_is() -> None:
    """R-8.7, R-8.1, R-5.2.2: one address in `returned`, another in the NAT's record."""
    document = FRESH["handshake-nat"]
    accept, opened = step(document, "ACCEPT", 0), step(document, "OPEN", 0)
    here, there = (Address.parse(text).pack() for text in ("10.1.0.1:7", "10.2.0.2:4747"))
    assert body_of(accept)[4] == [here]
    assert cbor2.loads(body_of(accept)[1])[5] == here
    (hop,) = map(cbor2.loads, body_of(opened)[3])
    assert (hop[2], hop[6]) == (2, there)
    assert 5 not in hop
    ends = {(entry["from"], entry["source"], entry["destination"]) for entry in document["steps"]}
    assert ends == {
        ("initiator", "10.1.0.2:4747", "10.1.0.1:4747"),
        ("gate", "10.1.0.2:4747", "10.2.0.2:4747"),
        ("responder", "10.2.0.2:4747", "10.1.0.2:4747"),
        ("gate", "10.1.0.1:4747", "10.1.0.2:4747"),
    }


def test_an_outsider_opens_the_data_that_rode_along() -> None:
    """R-4.5, R-5.1.5, R-5.2.5."""
    document = FRESH["handshake"]
    values = document["values"][0]
    opened, accept = step(document, "OPEN", 0), step(document, "ACCEPT", 0)
    cid = hexed(document["connection"]["cid"])
    seed = hexed(document["parties"]["responder"]["seed"])
    static = hashlib.sha512(seed).digest()[:32]
    terms = cbor2.loads(body_of(opened)[1])
    key = hkdf(x25519(static, terms[7]), cid, b"wayside open")
    data = ChaCha20Poly1305(key).decrypt(bytes(12), terms[14], signing_header(opened) + terms[1])
    assert data.hex() == document["connection"]["data"]
    key = hkdf(hexed(values["connection_key"]), b"", b"wayside accept")
    sealed = cbor2.loads(body_of(accept)[1])[9]
    answer = ChaCha20Poly1305(key).decrypt(bytes(12), sealed, cid)
    assert answer.hex() == document["connection"]["answer"]


@pytest.mark.parametrize("name", HANDSHAKES)
def test_an_outsider_believes_the_close_and_its_echo(name: str) -> None:
    """R-5.9, R-5.9.3: the newest key, and the same reason both ways."""
    document = FRESH[name]
    key = hexed(document["values"][1]["connection_key"])
    closes = [
        hexed(entry["datagram"]) for entry in document["steps"] if entry["message"] == "CLOSE"
    ]
    assert len(closes) == (4 if name in GATED else 2)
    for datagram in closes:
        body = body_of(datagram)
        assert body[1] == short_mac(key, signing_header(datagram), b"done")
        assert body[2] == "done"


def ticket_of(document: dict[str, Any]) -> bytes:
    """What the gate's record in the first ACCEPT is worth to the initiator. R-7.8."""
    hop = cbor2.loads(body_of(step(document, "ACCEPT", 0))[3][0])
    key = hexed(document["parties"]["initiator"]["public"])
    return hop[1][:8] + hop[7][:3] + key[:13] + hop[7][3:]


def test_each_challenge_is_answered_with_its_proof_and_nothing_else_changes() -> None:
    """R-5.1.2, R-5.5, R-5.5.1, R-7.8: gate first; the datagram on OPEN does not count."""
    document = FRESH["handshake-challenge"]
    named = {name: hexed(party["public"])[:8] for name, party in document["parties"].items()}
    for seq in (0, 2):
        steps = [entry for entry in document["steps"] if entry["header"]["seq"] == seq]
        said = [hexed(entry["datagram"]) for entry in steps]
        opens = [one for one, entry in zip(said, steps, strict=True) if entry["message"] == "OPEN"]
        mine = [one for one, entry in zip(said, steps, strict=True)
                if entry["message"] == "OPEN" and entry["from"] == "initiator"]  # fmt: skip
        proofs = [body_of(one)[1] for one, entry in zip(said, steps, strict=True)
                  if entry["message"] == "CHALLENGE" and entry["to"] == "initiator"]  # fmt: skip
        assert [proof[:8] for proof in proofs] == [named["gate"], named["responder"]]
        first = ticket_of(document) if seq else b""
        assert [one[32 : 32 + 32 * one[6]] for one in mine] == [
            first, proofs[0], b"".join(proofs)
        ]  # fmt: skip
        signed = {(signing_header(one), body_of(one)[1], body_of(one)[2]) for one in opens}
        assert len(signed) == 1
    asked = cbor2.loads(body_of(step(document, "OPEN", 0))[1])
    assert 14 in asked
    assert abs(asked[8] - document["unix_s"]) > 60
    assert document["connection"]["answer"] == ""
    assert 9 not in cbor2.loads(body_of(step(document, "ACCEPT", 0))[1])


def test_a_second_accept_is_answered_with_the_first_confirm() -> None:
    """R-5.2.1, R-5.3.1: the same ephemeral key, another token, so other hashes."""
    arrived = [
        (entry["message"], hexed(entry["datagram"]))
        for entry in FRESH["handshake-late"]["steps"]
        if entry["header"]["seq"] == 0 and entry["to"] != "gate"
    ]
    first, second = [cbor2.loads(body_of(one)[1]) for kind, one in arrived if kind == "ACCEPT"]
    assert first[6] == second[6]
    assert first[3] != second[3]
    early, late = [one for kind, one in arrived if kind == "CONFIRM"]
    assert early == late


def test_a_connection_without_packets_has_no_ports() -> None:
    """R-2.6: transport 0, in OPEN and in ACCEPT."""
    for seq in (0, 2):
        asked = cbor2.loads(body_of(step(FRESH["handshake-none"], "OPEN", seq))[1])
        agreed = cbor2.loads(body_of(step(FRESH["handshake-none"], "ACCEPT", seq))[1])
        assert asked[4] == 0
        ends = (asked[5], asked[6], agreed[5])
        assert [end[-2:] for end in ends] == [bytes(2)] * 3


@pytest.mark.parametrize("port", [0, 7, 22, 65535])
def test_the_service_is_asked_for_and_the_responder_names_the_port(port: int) -> None:
    """R-5.1.10, R-5.2.2: the port of its application, whatever was wished."""
    world = World(Plan(Transport.TCP, data=b"", port=port))
    world.open()
    agreed = cbor2.loads(body_of([one.data for one in world.sent if one.data[4] == 2][-1])[1])
    assert agreed[5][-2:] == (7).to_bytes(2, "big")
    initiator = world.machines["initiator"]
    assert isinstance(initiator, Host)
    [connection] = initiator.connections.values()
    assert connection.state is State.CONNECTED
    assert connection.agreement.local.destination.port == 7


def test_opens_are_1200_bytes_and_every_answer_is_smaller() -> None:
    """R-5.1.4, R-7.5."""
    for name in HANDSHAKES:
        for entry in FRESH[name]["steps"]:
            size = len(hexed(entry["datagram"]))
            assert 1200 <= size <= 1203 if entry["message"] == "OPEN" else size < 1200
