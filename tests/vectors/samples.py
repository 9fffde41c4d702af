"""One document for each message type, and those of keys, hashes, names. Spec: R-2 to R-5, R-9."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vectors.describe import Json, described
from vectors.world import EPOCH_S, NOT_AFTER_S, certificate, key, seed
from wayside.core import messages as m
from wayside.core.address import Address, Transport
from wayside.core.codec import Body, Header, encode_body
from wayside.core.crypto import (
    SigningKey,
    agree,
    check_of,
    derive,
    digest,
    ephemeral_public,
    mac,
    seal,
    static_x25519,
)
from wayside.core.identity import Certificate, CertificateTerms, Names, is_name, key_text
from wayside.core.opening import SIGNATURE_CONTEXT
from wayside.core.route import hops_hash
from wayside.core.rule import Cid

CID = Cid(seed("a cid")[:16])
FOUR = (Address.parse("192.0.2.1:40000"), Address.parse("198.51.100.2:443"))
SIX = (Address.parse("[2001:db8::1]:40000"), Address.parse("[2001:db8::2]:443"))
HASH = seed("a hash")
MAC = seed("a mac")[:16]

HOPS = (
    m.Hop(key("gate").public, 1, 120, seed("a token") * 4),
    m.Hop(key("second gate").public, 1, 3600, b"\x00"),
)
NAT = m.Hop(key("nat").public, 2, 24, b"", source=FOUR[0], destination=SIX[1])

TERMS = m.OpenTerms(
    from_key=key("initiator").public,
    to_key=key("responder").public,
    service="https",
    transport=Transport.TCP,
    source=FOUR[0],
    destination=FOUR[1],
    ephemeral=ephemeral_public(seed("an ephemeral secret")),
    time_s=EPOCH_S,
    lifetime_s=120,
)
FULL = replace(
    TERMS,
    transport=Transport.MPTCP,
    source=SIX[0],
    destination=SIX[1],
    from_certificate=certificate("initiator"),
    to_certificate=certificate("responder"),
    alternatives=(FOUR[0], SIX[1]),
    intent=(("lang", "de"), ("purpose", "backup")),
    sealed=bytes(range(40)),
    approval=b"approved",
)
ACCEPT = m.AcceptTerms(
    from_key=key("responder").public,
    open_hash=HASH,
    hops_hash=digest(),
    check=check_of(MAC),
    destination=FOUR[1],
    ephemeral=ephemeral_public(seed("another ephemeral secret")),
    lifetime_s=120,
)
REJECT = m.RejectTerms(key("gate").public, HASH, m.Code.POLICY, "")


def samples() -> dict[str, Json]:
    """The documents of this file, by the names of their files."""
    mine, theirs, gate = key("initiator"), key("responder"), key("gate")
    proofs = (seed("a proof"), seed("another proof"))
    documents: dict[str, list[Json]] = {
        "open": [
            _signed("the least that an OPEN has", m.Open, TERMS, mine),
            _signed("a refresh, with a MAC, behind two gates", m.Open, TERMS, mine, 2, mac=MAC,
                    hops=HOPS),
            _signed("every field that there is", m.Open, FULL, mine, hops=(NAT,)),
            _signed("with two proofs", m.Open, TERMS, mine, proofs=proofs),
            _signed("no ports to speak of", m.Open, _location(), mine, 2**64 - 2),
        ],
        "accept": [
            _signed("the least that an ACCEPT has", m.Accept, ACCEPT, theirs),
            _signed("with hops, alternatives, data and an address returned", m.Accept,
                    replace(ACCEPT, alternatives=SIX, sealed=bytes(range(20))), theirs, 2,
                    hops=HOPS, returned=(FOUR[0],)),
        ],
        "confirm": [
            _bare("without hops", m.Confirm(HASH, MAC, MAC)),
            _bare("with hops", m.Confirm(HASH, MAC, MAC, HOPS), 4),
        ],
        "challenge": [
            _bare("without hops", m.Challenge(proofs[0])),
            _bare("with hops", m.Challenge(proofs[1], HOPS)),
        ],
        "reject": [
            _signed("the least that a REJECT has", m.Reject, REJECT, gate),
            _signed("with words in it", m.Reject, replace(
                REJECT, reason="no ssh from here: frag Zoë", rule="no-ssh", by="gate.lab"
            ), gate, 2, hops=HOPS),
            _signed("to an OPEN behind a NAT", m.Reject, replace(
                REJECT, code=m.Code.BAD_ADDRESS, observed=FOUR[1]
            ), gate),
        ],
        "redirect": [
            _signed("to an address", m.Redirect, _redirect(m.Locator(SIX[1])), gate),
            _signed("to a host behind two boxes", m.Redirect,
                    _redirect(m.Locator(FOUR[1], (b"outer", b"inner"))), gate, hops=HOPS),
            _signed("by way of a relay", m.Redirect,
                    replace(_redirect(m.Locator(FOUR[1])), relay=1), gate),
            _signed("to who answers instead", m.Redirect,
                    replace(_redirect(m.Locator(FOUR[1])), key=key("second gate").public), gate),
        ],
        "close": [
            _bare("without a reason", m.Close(MAC)),
            _bare("with reason and hops", m.Close(MAC, "done", HOPS), 2),
        ],
        "stop": [
            _signed("for ten minutes", m.Stop, m.StopTerms(
                theirs.public, bytes(32), hops_hash(HOPS), 600, EPOCH_S
            ), theirs, hops=HOPS),
            _signed("by a gate that filters", m.Stop, m.StopTerms(
                gate.public, bytes(32), hops_hash(HOPS), 600, EPOCH_S
            ), gate, hops=HOPS),
        ],
    }  # fmt: skip
    made: dict[str, Json] = {
        name: {"v": 1, "message": name.upper(), "vectors": vectors}
        for name, vectors in documents.items()
    }
    return {**made, "keys": _keys(), "names": _names()}


def _location() -> m.OpenTerms:
    return replace(
        TERMS,
        service="location",
        transport=Transport.NONE,
        source=FOUR[0].with_port(0),
        destination=FOUR[1].with_port(0),
    )


def _redirect(locator: m.Locator) -> m.RedirectTerms:
    return m.RedirectTerms(key("gate").public, HASH, locator, b"approval", EPOCH_S + 60)


def _signed(
    name: str,
    kind: type[m.Message],
    terms: Body,
    pair: SigningKey,
    seq: int = 0,
    proofs: tuple[bytes, ...] = (),
    **more: object,
) -> Json:
    header = Header(kind.TYPE, seq, CID, proofs)
    signed = encode_body(terms)
    covered = SIGNATURE_CONTEXT + header.signing + signed
    make: Any = kind
    message: m.Message = make(signed, pair.sign(b"", covered), **more)
    datagram = (
        m.padded(header, message) if isinstance(message, m.Open) else m.encode(header, message)
    )
    return {
        "name": name,
        "seed": pair.seed.hex(),
        "signature_input": covered.hex(),
        **described(datagram),
    }


def _bare(name: str, message: m.Message, seq: int = 0) -> Json:
    return {"name": name, **described(m.encode(Header(message.TYPE, seq, CID), message))}


def _keys() -> Json:
    mine, theirs = key("initiator"), key("responder")
    secret = seed("an ephemeral secret")
    static = agree(secret, static_x25519(theirs.public))
    parts = (b"", b"one", bytes(300))
    return {
        "v": 1,
        "identities": [
            {
                "seed": pair.seed.hex(),
                "public": pair.public.hex(),
                "text": key_text(pair.public),
                "x25519": static_x25519(pair.public).hex(),
            }
            for pair in (mine, theirs, key("gate"), key("lab"))
        ],
        "agreements": [
            {
                "ephemeral_secret": secret.hex(),
                "ephemeral_public": ephemeral_public(secret).hex(),
                "seed": theirs.seed.hex(),
                "shared": static.hex(),
            }
        ],
        "digests": [
            {
                "parts": [part.hex() for part in parts[:count]],
                "digest": digest(*parts[:count]).hex(),
            }
            for count in range(4)
        ],
        "macs": [
            {
                "key": HASH.hex(),
                "parts": [part.hex() for part in parts],
                "mac": mac(HASH, *parts).hex(),
            }
        ],
        "derived": [
            {
                "secret": static.hex(),
                "salt": salt.hex(),
                "label": label,
                "key": derive(static, salt, label.encode()).hex(),
            }
            for salt, label in ((CID, "wayside open"), (b"", "wayside accept"))
        ],
        "seals": [
            {
                "key": HASH.hex(),
                "nonce": bytes(12).hex(),
                "bound": CID.hex(),
                "plain": b"ping".hex(),
                "sealed": seal(HASH, bytes(12), b"ping", CID).hex(),
            }
        ],
    }


def _certificate(signer: str, name: str, holder: str = "initiator") -> bytes:
    signed = encode_body(CertificateTerms(name, key(holder).public, NOT_AFTER_S))
    signature = key(signer).sign(b"wayside-certificate-1", signed)
    return encode_body(Certificate(signed, signature))


def _names() -> Json:
    """Certificates, and which name they give the initiator's key: none, mostly."""
    good = certificate("initiator")
    late = NOT_AFTER_S + 1
    cases: list[tuple[str, bytes, int, str | None]] = [
        ("good", good, EPOCH_S, "initiator.lab"),
        ("in its last second", good, NOT_AFTER_S, "initiator.lab"),
        ("a second too late", good, late, None),
        ("another host's", certificate("responder"), EPOCH_S, None),
        ("signed by somebody else", _certificate("gate", "initiator.lab"), EPOCH_S, None),
        ("of a domain that nobody knows", _certificate("lab", "initiator.home"), EPOCH_S, None),
        ("of a name in capitals", _certificate("lab", "Initiator.lab"), EPOCH_S, None),
        ("two labels under the domain", _certificate("lab", "a.b.lab"), EPOCH_S, None),
        ("a bit changed", good[:-1] + bytes([good[-1] ^ 1]), EPOCH_S, None),
        ("something behind it", good + b"\x00", EPOCH_S, None),
        ("none", b"", EPOCH_S, None),
    ]
    names = Names({"lab": key("lab").public})
    for name, raw, unix_s, expected in cases:
        assert names.name_of(key("initiator").public, raw, unix_s) == expected, name
    spelt = ("files.lab", "a.b-c.lab", "lab", "Files.lab", "files..lab", ".lab", "f_s.lab",
             "zoë.lab", "x" * 60 + ".lab", "x" * 61 + ".lab")  # fmt: skip
    return {
        "v": 1,
        "domains": {"lab": key("lab").public.hex()},
        "domain_seed": key("lab").seed.hex(),
        "key": key("initiator").public.hex(),
        "certificates": [
            {"name": name, "certificate": raw.hex(), "unix_s": unix_s, "gives": expected}
            for name, raw, unix_s, expected in cases
        ],
        "spellings": [{"text": text, "is_name": is_name(text)} for text in spelt],
    }
