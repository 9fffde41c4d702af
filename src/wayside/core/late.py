"""A no that comes late: in the place of an ACCEPT that a gate cannot keep its word for.

A NAT chooses a port when the OPEN passes and keeps nothing. So two connections may be given the
same one at the same moment, or the kernel has it for somebody else, as its connection tracking
shows when the rules are made. Who asked hears of it at once, and may ask again. Spec: R-8.7.
"""

from __future__ import annotations

from dataclasses import replace

from . import constants as c
from .codec import Header, decode_body, encode_body
from .crypto import SigningKey
from .effects import SendDatagram
from .messages import Accept, AcceptTerms, Code, Reject, RejectTerms, decode, encode
from .opening import SIGNATURE_CONTEXT, cut


def refuse_late(key: SigningKey, name: str, accept: SendDatagram, reason: str) -> SendDatagram:
    """The REJECT 6 instead of an ACCEPT, which was about to go on to who asked.

    `name`: what the gate calls itself. Boxes in front of it find their tokens in it.
    """
    header, message = decode(accept.data)
    assert isinstance(message, Accept)
    asked = decode_body(AcceptTerms, message.signed).open_hash
    keys = [hop.key for hop in message.hops]
    before = message.hops[: keys.index(key.public)] if key.public in keys else ()
    said = cut(reason, c.REASON_BYTES_MAX)
    signed = encode_body(
        RejectTerms(key.public, asked, Code.BUSY, said, "", cut(name, c.NAME_BYTES_MAX))
    )
    back = Header(Reject.TYPE, header.seq, header.cid)
    signature = key.sign(SIGNATURE_CONTEXT, back.signing + signed)
    return replace(accept, data=encode(back, Reject(signed, signature, before)))
