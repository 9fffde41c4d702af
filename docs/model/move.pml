/*
 * Moves: an established connection (seq 0) of i and r through one gate; both may move, also at once.
 *
 * A move is an OPEN with a higher seq (i even, r odd) from the new address, signed, and with a MAC
 * under the connection key. The other end answers ACCEPT to the new address, and points its own rule
 * there when CONFIRM comes. The gate knows the pair of keys, and switches at CONFIRM.
 * Addresses: i has 0, 1, 2 (in this order), r has 3, 4, 5; what was left belongs to the attacker.
 * Time is left out: any timer may be over at any time.
 * -DATTACK: what was said can be repeated for ever, and forged as far as keys allow; safety.
 * Else: faults end; progress.
 */
#include "wayside.pml"

#ifndef MOVES
#define MOVES 1                  /* of each end */
#endif
#ifndef TRIES
#define TRIES 2                  /* OPENs of each end before faults end */
#endif
#define SEQS 12
#define ELSEWHERE 7              /* an address of the attacker's */

/* Each end e: 0 is i, 1 is r. */
byte loc[2];                     /* where it is */
byte peer[2];                    /* where its rule sends packets */
byte asked[2];                   /* seq of its newest OPEN; 0: none */
bool unanswered[2];
byte newest[2];                  /* highest seq that it agreed to */
short known[2] = 1;              /* seqs whose keys it has: agreed to, or its newest ACCEPT */
byte offer[2];                   /* seq of its newest ACCEPT */
bool waiting[2];                 /* and that has no CONFIRM yet */
byte shown[2];                   /* the newest of its addresses that the other end has agreed to */
byte moves[2], tries[2];

/* What was said, by seq. The parity of a seq says who asked. */
short opens, accepts, confirms;
short ever;                      /* history: every CONFIRM that an honest end said */
byte from_address[SEQS];         /* that the OPEN is from */
byte to_address[SEQS];           /* that it is for */
byte mac_seq[SEQS];              /* the seq of the key under which it has a MAC */

/* The gate: addresses of the live rule and of the pending one. */
byte g_i, g_r = 3, g_seq;
byte p_i, p_r, p_seq;            /* p_seq 0: none */

bool calm;
byte rounds;                     /* time-outs since faults ended */
byte n, a;                       /* of one step; 0 between steps */

#define who(seq) ((seq) & 1)
#define other(e) (1 - (e))
#define home(e) (3 * (e))

inline next_seq(e) {
  n = most(most(asked[e], newest[e]), offer[e]) + 1;
  if :: (n & 1) != e -> n++ :: else fi
}

inline ask(e, target) {
  next_seq(e); assert(n < SEQS);                              /* [bound] */
  a = target;
  asked[e] = n; unanswered[e] = true; opens = with(opens, n);
  from_address[n] = loc[e]; to_address[n] = a; mac_seq[n] = newest[e]
}

/* An end points its rule to where the other end said it is. */
inline switch_to(e, where) {
  /* no hijack: it is an address that the other end has had */
  assert(where >= home(other(e)) && where <= loc[other(e)]);  /* [hijack] */
  /* nobody is followed back to an address that was left later than it was said */
  assert(where >= peer[e]);                                   /* [back] */
  peer[e] = where
}

inline agree(e, seq) {
  if :: seq > newest[e] -> newest[e] = seq :: else fi;
  known[e] = with(known[e], seq)
}

/* The new address has proved itself: its end was there, and got the ACCEPT. */
inline proved(seq) {
  assert(has(ever, seq))                                      /* [proved] */
}

#ifdef BROKEN_ANSWERS_FOR_OLD_ADDRESS
#define is_here(e, seq) true
#else
#define is_here(e, seq) (to_address[seq] == loc[e])
#endif
#ifdef BROKEN_LATE_CONFIRM_SWITCHES
#define is_late(e, seq) false
#else
#define is_late(e, seq) (seq < newest[e])
#endif

inline on_open(e, seq) {
  if
  :: seq > newest[e] && seq > offer[e] && is_here(e, seq) && has(known[e], mac_seq[seq]) ->
    offer[e] = seq; waiting[e] = true;
    known[e] = with(known[e], seq); accepts = with(accepts, seq);
    /* an ACCEPT is signed where one is */
    assert(to_address[seq] == loc[e]);                          /* [here] */
#ifdef BROKEN_EARLY_SWITCH
    proved(seq); agree(e, seq); switch_to(e, from_address[seq])
#endif
  :: seq == offer[e] && waiting[e] -> accepts = with(accepts, seq)
  :: else
  fi
}

inline on_accept(e, seq) {
  if
  :: seq == asked[e] && unanswered[e] && from_address[seq] == loc[e] ->
    unanswered[e] = false;
    confirms = with(confirms, seq); ever = with(ever, seq);
    shown[e] = loc[e];
    if
    :: seq > newest[e] -> agree(e, seq); switch_to(e, to_address[seq])
    :: else -> agree(e, seq)                    /* a higher one was agreed to meanwhile */
    fi
  :: seq == asked[e] && !unanswered[e] && has(ever, seq) -> confirms = with(confirms, seq)
  :: else
  fi
}

inline on_confirm(e, seq) {
  if
  :: seq == offer[e] && waiting[e] ->
    waiting[e] = false;
    if
    :: is_late(e, seq) -> agree(e, seq)
    :: else ->
      proved(seq); agree(e, seq); switch_to(e, from_address[seq]);
      /* both have agreed: the one that answered has shown its address, too */
      if :: to_address[seq] == loc[e] -> shown[e] = loc[e] :: else fi
    fi
  :: else
  fi
}

/* --- the gate: it cannot check the MAC, so CONFIRM shows what ACCEPT had the hash of --- */

inline gate_accept(seq) {
  if
  :: seq >= p_seq && seq > g_seq ->
    p_seq = seq;
    if
    :: who(seq) == 0 -> p_i = from_address[seq]; p_r = to_address[seq]
    :: else -> p_i = to_address[seq]; p_r = from_address[seq]
    fi
  :: else
  fi
}

inline gate_switch() {
  /* no rule for a flow that is not of the two ends, or that nobody has proved */
  assert(p_i < 3 && p_r >= 3 && p_r < 6);                     /* [flow] */
  proved(p_seq);
  g_i = p_i; g_r = p_r; g_seq = p_seq; p_seq = 0; p_i = 0; p_r = 0
}

inline gate_confirm(seq) {
  if :: p_seq != 0 && seq == p_seq -> gate_switch() :: else fi
}

/* A gate sends on a CONFIRM that it could use; an attacker may have another way round. */
#ifdef ATTACK
#define passes(seq) true
#else
#define passes(seq) (g_seq == seq)
#endif

inline any_of(set) {
  if
  :: has(set, 1) -> n = 1 :: has(set, 2) -> n = 2 :: has(set, 3) -> n = 3 :: has(set, 4) -> n = 4
  :: has(set, 5) -> n = 5 :: has(set, 6) -> n = 6 :: has(set, 7) -> n = 7 :: has(set, 8) -> n = 8
  :: has(set, 9) -> n = 9 :: has(set, 10) -> n = 10 :: has(set, 11) -> n = 11
  fi
}

inline used(set, seq) { if :: calm -> set = without(set, seq) :: else fi }

inline done() { n = 0; a = 0 }

#ifdef BROKEN_NO_RENDEZVOUS
#define found(e) peer[e]
#else
#define found(e) loc[other(e)]
#endif
#define quiet ((opens | accepts | confirms) == 0)

/* What has no CONFIRM is said again, if there are tries left. */
inline again(e) {
  if :: true :: waiting[e] -> accepts = with(accepts, offer[e]) fi
}

inline calm_down() {
  calm = true; opens = 0; accepts = 0; confirms = 0;
  again(0); again(1)
}

inline move(e) { moves[e]++; loc[e]++; unanswered[e] = false }

/* Where an OPEN goes: to where the other end was last known, or where the rendezvous says it is. */
inline try(e) {
  tries[e]++;
  if :: true -> ask(e, peer[e]) :: peer[e] != loc[other(e)] -> ask(e, loc[other(e)]) fi;
  printf("end %d at %d asks for %d: OPEN %d\n", e, loc[e], a, n)
}

active proctype world() {
  peer[0] = 3; peer[1] = 0; loc[1] = 3; shown[1] = 3;
  do
  :: atomic { !calm && moves[0] < MOVES -> move(0); printf("i moves to %d\n", loc[0]) }
  :: atomic { !calm && moves[1] < MOVES -> move(1); printf("r moves to %d\n", loc[1]) }
  :: atomic { !calm && tries[0] < TRIES && moves[0] > 0 -> try(0); done() }
  :: atomic { !calm && tries[1] < TRIES && moves[1] > 0 -> try(1); done() }
  :: atomic { opens != 0 -> any_of(opens); used(opens, n); printf("OPEN %d\n", n);
       if :: calm && to_address[n] != loc[other(who(n))] :: else -> on_open(other(who(n)), n) fi; done() }
  :: atomic { accepts != 0 -> any_of(accepts); used(accepts, n); printf("ACCEPT %d\n", n);
       gate_accept(n);
       if :: calm && from_address[n] != loc[who(n)] :: else -> on_accept(who(n), n) fi; done() }
  :: atomic { !calm && accepts != 0 -> any_of(accepts); printf("ACCEPT %d: gate\n", n); gate_accept(n); done() }
  :: atomic { confirms != 0 -> any_of(confirms); used(confirms, n); printf("CONFIRM %d\n", n);
       gate_confirm(n);
       if :: passes(n) -> on_confirm(other(who(n)), n) :: else fi; done() }
  :: atomic { !calm && confirms != 0 -> any_of(confirms); printf("CONFIRM %d: gate\n", n); gate_confirm(n); done() }
  :: atomic { !calm && p_seq != 0 -> printf("the pending rule is over\n"); p_seq = 0; p_i = 0; p_r = 0 }
#ifdef BROKEN_GATE_TRUSTS_TOKENS
  :: atomic { !calm && p_seq != 0 -> printf("a CONFIRM with the token, forged\n"); gate_switch() }
#endif
#ifdef BROKEN_NO_MAC
  :: atomic { !calm -> printf("an OPEN from elsewhere, forged, and its CONFIRM\n"); switch_to(1, ELSEWHERE) }
#endif
#ifdef BROKEN_ANY_KEYS           /* two ends of the attacker's own, and the cid of others */
  :: atomic { !calm -> printf("an ACCEPT of others for this cid\n"); p_seq = 11; p_i = ELSEWHERE; p_r = ELSEWHERE; gate_switch() }
#endif
#ifndef ATTACK
  :: atomic { !calm -> printf("faults end\n"); calm_down() }
  :: atomic { calm && quiet && rounds < 2 -> printf("time for a refresh\n"); rounds++;
       unanswered[0] = false; unanswered[1] = false;
       ask(0, found(0));
       if :: shown[1] != loc[1] -> ask(1, found(1)) :: else fi; done() }
  :: atomic { calm && quiet && rounds == 2 ->
       /* no dead end: two refreshes, and all three know where everybody is */
       assert(peer[0] == loc[1] && peer[1] == loc[0] && g_i == loc[0] && g_r == loc[1]); /* [found] */
       break }
#endif
  od
}
