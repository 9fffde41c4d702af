/*
 * Who may have a rule in a gate: an attacker outside, with keys of its own, wants a pinhole to an
 * honest host r inside that never agreed to it. The gate's policy lets anyone ask for anyone.
 *
 * An OPEN names a key and an address. The gate knows of no tie between the two: that only the owner
 * of the address gets the OPEN, and only the owner of the key can sign the ACCEPT, is all there is.
 * So what matters is who else sees the gate's token: r answers REJECT (it is not that key), with
 * the hops, and the gate passes it back. -DLIMIT_SPOOFED_ADDRESS: the attacker can send from r's address, too.
 */
#include "wayside.pml"

mtype = { nobody, attacker, honest };

mtype open_key = nobody;      /* the key that the OPEN in transit asks for */
bool at_r;                    /* the OPEN, with the gate's token, is at r */
bool rejected;                /* r's REJECT is on its way back */
mtype token_for = nobody;     /* a token that the attacker holds: for an OPEN to this key */
bool r_signed;                /* r has said ACCEPT to an OPEN of the attacker's */
bool accept_there;
bool allowed;                 /* r's own policy lets the attacker in */
bool rule;

inline gate_accept(signer, from_r) {
  if
  :: token_for != signer && !from_r        /* no token that is bound to this key */
#ifndef BROKEN_ACCEPT_FROM_ANYWHERE
  :: !from_r                               /* not from the address that the rule would open */
#endif
  :: else ->
    rule = true;
    /* a rule towards an address stands only if its owner signed */
    assert(r_signed)                       /* [signed] */
  fi
}

active proctype world() {
  if :: allowed = true :: allowed = false fi;
end:
  do
  :: atomic { !rule && open_key == nobody -> printf("attacker asks for r's key\n"); open_key = honest; at_r = true }
  :: atomic { !rule && open_key == nobody -> printf("attacker asks for its own key at r\n"); open_key = attacker; at_r = true }
  :: atomic { at_r -> at_r = false;
       if
       :: open_key == honest && allowed -> printf("r accepts\n"); r_signed = true; accept_there = true
       :: else -> printf("r rejects\n"); rejected = true
       fi }
  :: atomic { rejected -> printf("the REJECT brings the token\n"); rejected = false; token_for = open_key; open_key = nobody }
  :: atomic { accept_there -> printf("r's ACCEPT\n"); accept_there = false; gate_accept(honest, true); open_key = nobody }
  :: atomic { token_for == attacker && !rule -> printf("attacker's ACCEPT, from outside\n"); gate_accept(attacker, false) }
#ifdef LIMIT_SPOOFED_ADDRESS
  :: atomic { token_for == attacker && !rule -> printf("attacker's ACCEPT, from r's address\n"); gate_accept(attacker, true) }
#endif
  od
}
