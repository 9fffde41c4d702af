"""Every number of the protocol, with its unit and the reason why it is this number."""

# --- Specification: both sides must agree (docs/spec.md) ------------------------------------

MAGIC = b"CSP"
"""The first three bytes of every datagram, so that a kernel can class it without parsing."""

VERSION = 1
"""Fourth byte."""

SIGNALING_PORT = 4747
"""UDP port; gates intercept datagrams to it."""

HEADER_BYTES = 32
"""Magic 3, version 1, type 1, flags 1, proofs 1, zero 1, seq 8, cid 16."""

FLAG_PROOF = 0x01
"""At least one 32-byte proof follows the header; at a fixed offset, so that nftables sees it."""

PROOF_BYTES = 32
"""Issuer tag 8, then 24 bytes that only the issuer understands."""

ISSUER_BYTES = 8
"""Of a proof: who takes it."""

TICKET_BYTES = 11
"""Of a ticket in a hop record: all that the host it is for does not know already."""

TICKET_S = 86_400
"""Who was here yesterday is known today."""

CHECK_BYTES = 8
"""Of a hash whose origin nobody can find in the 10 s in which it counts."""

PROOFS_MAX = 4
"""As many boxes as may challenge one OPEN."""

DATAGRAM_BYTES_MAX = 1232
"""IPv6's minimum MTU of 1,280 bytes less 40 of IPv6 header and 8 of UDP: never fragmented."""

OPEN_BYTES_MIN = 1200
"""An OPEN is padded to this, so that no answer to it is larger than it (as QUIC, RFC 9000 14.1)."""

HOPS_MAX = 8
"""Boxes that take part on one route; the room in an OPEN ends it sooner in practice."""

HOPS_BYTES_MAX = 900
"""What the records of all hops may take: an ACCEPT has up to 300 bytes besides, and must stay
below the smallest OPEN."""

LOCATION_SERVICE = "location"
"""By which a host says where it is; with transport 0."""

ALTERNATIVES_MAX = 7
"""Other addresses that an end offers: with the first, 8 paths."""

SERVICE_BYTES_MAX = 32
NAME_BYTES_MAX = 64
REASON_BYTES_MAX = 160
TOKEN_BYTES_MAX = 255
"""Five addresses, two hashes, a rule and a service, sealed; most have half of it."""

DATA_BYTES_MAX = 512
"""The first datagram, riding on OPEN or ACCEPT; what does not fit goes after ACCEPT as usual."""

CBOR_DEPTH_MAX = 4
"""Maps and arrays in each other: ours need two, and nobody recurses at will. R-3.2."""

OPEN_TIME_WINDOW_S = 60.0
"""How far an OPEN's time may be from ours without a proof: clocks without NTP drift less."""

PENDING_S = 5.0
"""Life of a rule between ACCEPT and CONFIRM: two lost CONFIRMs at the retransmission below."""

LIFETIME_S = 120.0
"""What an end asks for; long enough that refreshing costs nothing, short enough to clean up."""

STOP_S_MAX = 3600.0
"""A filter that is needed longer is asked for again; one that nobody needs any more goes."""

LIFETIME_MIN_S = 1.0
"""Less would be refreshed without end; a gate that grants less grants this. R-5.4, R-6.4."""

RETRANSMIT_FIRST_S = 0.25
"""First repetition of an OPEN, ACCEPT or CLOSE; doubles. TCP's first is 1 s, QUIC's 3 RTT."""

OPEN_TIMEOUT_S = 5.0
"""An application waits so long for connect() before it would rather know."""

CLOSE_TRIES = 3
"""A CLOSE that nobody echoes is given up: rules expire by themselves."""

STOP_TRIES = 5
"""A STOP is said in a flood, which may take its answers with it: twice as patient as a CLOSE."""

PUNCHES = 3
"""Before so many ACCEPTs of one OPEN: a packet or two may be lost."""

CALL_FIRST_S, CALLS = 0.1, 4
"""The first OPEN to who is called is often lost: it has not been called yet. If so many are lost,
all will be."""

SILENT_NAT_S = 60.0
"""Refreshed at a third of it: there are NATs that forget UDP after 30 s of silence."""

LINGER_S = 5.0
"""A closed connection is remembered so long, to echo a repeated CLOSE and to refuse a replay."""

REDIRECTS_MAX = 4
"""By way of a relay, home, and to where the host is now, is three."""

CHALLENGES_MAX = 4
"""Challenges an initiator answers for one OPEN; more is somebody playing."""

# --- Implementation: free to differ ----------------------------------------------------------

TRIES_BEFORE_HOME = 2
"""OPENs to where the peer was, before its rendezvous is asked as well: one may be lost."""

LIFETIME_MAX_S = 3600.0
"""What a configuration or a policy may say: rules of who vanished without a word last no longer."""
