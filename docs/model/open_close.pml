/*
 * OPEN, ACCEPT, CONFIRM, refresh, CLOSE: an initiator i, a responder r, and a gate g whose default
 * is to drop. Three seqs (0: open, 1 and 2: refreshes; on the wire 0, 2, 4), a crash of each.
 *
 * A connection key is (seq, which life of the responder made it): key = 2 * seq + life.
 * -DATTACK: what was once said can be repeated for ever; safety.  Else: faults end; progress.
 */
#include "wayside.pml"

#ifndef SEQS
#define SEQS 3
#endif
#define KEYS (2 * SEQS)
#define NONE 15
#define OLD 10                    /* more than any limit, in ticks */
#define CALM 4                   /* ticks that are looked at when faults are over */
#define key_of(seq) (2 * (seq) + r_life)

#ifndef CRASHES
#define CRASHES 1
#endif

mtype = { idle, opening, offered, connected, closing, ended, pending, live };

/* What has been said. A CLOSE is named by its key. */
byte opens, accepts, confirms, closes_i, closes_r;
byte open_mac[SEQS] = NONE;      /* the key whose MAC a refresh carries */
byte open_age[SEQS] = 3;         /* since it was signed */
byte token_age[SEQS] = 2;        /* of the newest token that the gate put into this OPEN */
byte told_age[KEYS] = 2;         /* of the token that the newest ACCEPT with this key answers */

/* The initiator. Saved: i_key (and i_key2). */
mtype i_st = idle;
byte i_seq, i_key = NONE, i_key2 = NONE, i_wait, i_exp;
bool i_asking;                   /* an OPEN is unanswered */
byte i_agreed;                   /* history: every key that it believed */

/* The responder. Saved: r_key, r_key2, and the offer of a refresh. */
mtype r_st = idle;               /* idle: it does not know the cid */
byte r_offer = NONE, r_key = NONE, r_key2 = NONE, r_wait, r_exp, r_life;
byte r_spent;                    /* 1 + the highest seq that it agreed to */
bool r_confirmed;
byte r_offered;                  /* history: every key that it offered */

/* The gate: the kernel's rule outlives a crash, what the daemon knows does not. */
mtype k_rule = idle;
byte k_ttl, k_seq;
mtype g_st = idle;
byte g_seq, g_offered, g_until;

byte crashes = CRASHES;          /* that may still come */
byte pending_age;                /* ticks that the rule has been there without any CONFIRM */
byte gone;                       /* ticks since either end had the connection or offered it */
byte before;                       /* the ACCEPTs that were said before a CLOSE passed the gate */

bool calm;                       /* faults are over */
byte calm_ticks;
bool kept;                       /* both ends had it then, for a whole lifetime yet, and may refresh it */
bool cutting;                    /* or: one end closes, and two datagrams are lost */
byte losses, tries;
byte apart;                      /* ticks that only one end has had it */

byte n, key;                     /* of one step; 0 between steps */
bool pass, reach_gate, reach_end;

#define i_up (i_st == connected)
#define r_up (r_st == connected)
#define seq_of(key) ((key) / 2)

/* --- what an end says and drops --- */

inline ask(seq) {
  i_seq = seq; i_asking = true; i_wait = PENDING;
  opens = with(opens, i_seq); open_age[i_seq] = 0; open_mac[i_seq] = i_key
}

inline i_end() { i_st = ended; i_wait = 0; i_exp = 0; i_asking = false }

inline r_end() { r_st = ended; r_wait = LINGER; r_exp = 0 }

inline r_agree(key) {
  if :: r_key != key -> r_key2 = r_key; r_key = key :: else fi
}

inline accept_now() {
  accepts = with(accepts, r_offer); before = without(before, r_offer); gone = 0; r_offered = with(r_offered, r_offer);
  told_age[r_offer] = token_age[seq_of(r_offer)]
}

/* --- the gate --- */

inline put_rule(new, ttl, seq) {
  if :: new == live || k_rule == idle -> pending_age = 0 :: else fi;
  k_rule = new; k_ttl = ttl; k_seq = seq
}

inline gate_open(seq, pass) {
  if
  :: (g_st != idle && (g_st == ended || seq < g_offered)) || open_age[seq] >= WINDOW -> pass = false
  :: else -> pass = true; token_age[seq] = 0
  fi
}

inline gate_accept(key, seq, pass) {
  pass = false;
  if
#ifdef BROKEN_NO_HOPS_HASH     /* any token of this cid and seq will do, not only the one answered */
  :: token_age[seq] > TOKEN
#else
  :: told_age[key] > TOKEN
#endif
  :: else ->
    if
    :: g_st == ended || (g_st != idle && seq < g_offered)
    :: g_st == live && seq >= g_offered -> g_offered = seq; pass = true
    :: else ->
      g_st = pending; g_seq = seq; g_offered = seq; g_until = PENDING; pass = true;
      /* closed is closed: what was agreed before the CLOSE makes no rule again */
      assert(!has(before, key));                 /* [closed] */
      put_rule(pending, PENDING, seq)
    fi
  fi
}

inline gate_confirm(seq, pass) {
  pass = false;
  if
  :: g_st == idle || g_st == ended || seq != g_offered
  :: g_st == live && g_seq == seq && seq == g_offered -> pass = true
  :: else -> g_st = live; g_seq = seq; g_until = LIFE; pass = true; put_rule(live, LIFE, seq)
  fi
}

inline gate_close() {
  if
  :: g_st == pending || g_st == live ->
    before = accepts; k_rule = idle; k_ttl = 0; k_seq = 0; pending_age = 0;
    g_st = ended; g_until = TOKEN + 1; g_seq = 0; g_offered = 0
  :: else
  fi
}

/* --- the responder --- */

inline r_on_open(seq) {
  if
  :: r_st == idle && seq >= r_spent && open_age[seq] < WINDOW ->
    r_st = offered; r_offer = key_of(seq); r_confirmed = false; r_wait = PENDING;
    r_spent = seq + 1; accept_now()
  :: (r_st == offered || r_st == connected) && r_offer != NONE && seq_of(r_offer) == seq -> accept_now()
  :: r_st == connected && seq > seq_of(r_key) && (r_offer == NONE || seq > seq_of(r_offer)) &&
     open_mac[seq] != NONE && (open_mac[seq] == r_key || open_mac[seq] == r_offer) ->
#ifndef BROKEN_OPEN_AGREES_TO_NOTHING  /* whoever has the key of an ACCEPT has believed it */
    if :: open_mac[seq] == r_offer -> r_agree(r_offer) :: else fi;
#endif
    r_offer = key_of(seq); r_confirmed = false; r_spent = most(r_spent, seq + 1); accept_now()
  :: else
  fi
}

inline r_on_confirm(key) {
  if
  :: (r_st == offered || r_st == connected) && r_offer == key && !r_confirmed ->
    /* nothing goes out to an initiator that has not shown itself */
    assert(has(i_agreed, key));                  /* [word] */
    r_confirmed = true; r_st = connected; r_wait = 0; r_exp = LIFE; r_agree(key)
  :: else
  fi
}

inline r_on_close(key) {
  if
  :: r_st != idle && r_offer == key && !r_confirmed -> r_confirmed = true; r_agree(key)
  :: else
  fi;
  if
  :: r_st == idle || (key != r_key && key != r_key2)
  :: else ->
    if
    :: r_st == closing -> r_end()
    :: r_st == ended -> if :: !calm -> closes_r = with(closes_r, r_key) :: else fi
    :: else -> closes_r = with(closes_r, r_key); r_end()
    fi
  fi
}

/* --- the initiator --- */

inline i_on_accept(key) {
  if
  :: seq_of(key) == i_seq && i_asking && (i_st == opening || i_up) ->
    assert(has(r_offered, key));                 /* [word] */
    i_asking = false; i_key2 = i_key; i_key = key; i_agreed = with(i_agreed, key);
    i_st = connected; i_exp = LIFE; i_wait = 1; confirms = with(confirms, key)
  :: seq_of(key) == i_seq && !i_asking && i_up && seq_of(i_key) == i_seq ->
    confirms = with(confirms, i_key)
  :: else
  fi
}

inline i_on_close(key) {
  if
  :: key == i_key || key == i_key2 ->
    if
    :: i_st == closing -> i_end()
    :: i_st == ended -> if :: !calm -> closes_i = with(closes_i, i_key) :: else fi
    :: i_up -> closes_i = with(closes_i, i_key); i_end()
    :: else
    fi
  :: else
  fi
}

/* --- how a message gets there: to the gate only, to the gate and on, or on (it passed before) --- */

inline carry(said, which) {
  if
  :: !calm -> if :: reach_gate = true :: reach_end = true :: reach_gate = true; reach_end = true fi
  :: calm -> reach_gate = true; reach_end = true; said = without(said, which);
    if
    :: cutting && losses > 0 -> losses--; if :: reach_gate = false :: true fi; reach_end = false
    :: true
    fi
  fi
}

inline deliver_open(seq) {
  carry(opens, seq); pass = true;
  if :: reach_gate -> gate_open(seq, pass) :: else fi;
  if :: reach_end && pass -> r_on_open(seq) :: else fi
}

inline deliver_accept(key) {
  carry(accepts, key); pass = true;
  if :: reach_gate -> gate_accept(key, seq_of(key), pass) :: else fi;
  if :: reach_end && pass -> i_on_accept(key) :: else fi
}

inline deliver_confirm(key) {
  carry(confirms, key); pass = true;
  if :: reach_gate -> gate_confirm(seq_of(key), pass) :: else fi;
  if :: reach_end && pass -> r_on_confirm(key) :: else fi
}

inline deliver_close_i(key) {
  carry(closes_i, key);
  if :: reach_gate -> gate_close() :: else fi;
  if :: reach_end -> r_on_close(key) :: else fi
}

inline deliver_close_r(key) {
  carry(closes_r, key);
  if :: reach_gate -> gate_close() :: else fi;
  if :: reach_end -> i_on_close(key) :: else fi
}

/* --- time --- */

#define quiet (!calm || (opens | accepts | confirms | closes_i | closes_r) == 0)
#define stuck_close (calm && cutting && tries > 0 && (i_st == closing || r_st == closing))
#define refresh_due (i_up && !i_asking && i_wait == 0 && i_seq + 1 < SEQS)

inline i_tick() {
#ifndef BROKEN_END_WITHOUT_LIFETIME
  down(i_exp);
#endif
  down(i_wait);
  if
#ifndef BROKEN_OPEN_FOR_EVER
  :: i_st == opening && i_wait == 0 -> i_end()
#endif
  :: i_st == closing && i_wait == 0 -> i_end()
  :: i_up && i_exp == 0 -> i_end()
  :: i_up && i_exp > 0 && i_asking && i_wait == 0 -> i_asking = false
  :: else
  fi
}

inline r_tick() {
  down(r_exp); down(r_wait);
  if
  :: (r_st == offered || r_st == closing) && r_wait == 0 -> r_end()
  :: r_up && r_exp == 0 -> r_end()
  :: r_st == ended && r_wait == 0 ->
    r_st = idle; r_offer = NONE; r_key = NONE; r_key2 = NONE; r_confirmed = false
  :: else
  fi
}

inline g_tick() {
  down(g_until);
  if :: g_until == 0 -> g_st = idle; g_seq = 0; g_offered = 0 :: else fi;
  if :: k_rule == pending -> older(pending_age, OLD) :: else fi;
#ifdef BROKEN_PACKETS_RENEW_PENDING
  if :: k_rule == pending :: down(k_ttl) fi;
#else
#ifdef BROKEN_RULE_WITHOUT_LIFETIME
  if :: k_rule == live :: else -> down(k_ttl) fi;
#else
  down(k_ttl);
#endif
#endif
  if :: k_ttl == 0 -> k_rule = idle; k_seq = 0; pending_age = 0 :: else fi
}

inline ages() {
  n = 0;
  do
  :: n < SEQS -> older(open_age[n], WINDOW); older(token_age[n], TOKEN + 1); n++
  :: else -> break
  od;
  n = 0;
  do :: n < KEYS -> older(told_age[n], TOKEN + 1); n++ :: else -> break od
}

inline check_tick() {
  if :: (i_st == ended || i_st == idle) && (r_st == ended || r_st == idle) -> older(gone, OLD)
     :: else -> gone = 0
  fi;
  /* a rule that nobody confirmed: the ACCEPTs of 5 s, each good for its token's 10 s, and 5 s */
  assert(pending_age <= PENDING + TOKEN + PENDING);                     /* [pending] */
  /* no orphan: with both ends gone, the last ACCEPT is good for its token's time, and what was
     withheld can confirm what is there, and what was offered last */
  assert(k_rule == idle || gone <= TOKEN + 2 * LIFE);                   /* [orphan] */
  if
  :: calm ->
    calm_ticks++;
    if :: i_up != r_up -> apart++ :: else -> apart = 0 fi;
    /* no dead end: nobody waits for ever, and the ends agree again within a lifetime */
    assert(calm_ticks < 2 || !(i_st == opening || i_st == closing || r_st == closing)); /* [waits] */
    assert(apart <= LIFE);                                              /* [apart] */
    /* what both had when faults ended, and want, stays */
    assert(!kept || calm_ticks != LIFE || (i_up && r_up) || seq_of(i_key) == SEQS - 1); /* [kept] */
    /* a CLOSE of which two datagrams are lost still ends both ends and the gate's rule at once */
    assert(!cutting || (!i_up && !r_up && i_st != closing && r_st != closing))  /* [close] */
  :: else
  fi
}

/* --- faults, and their end --- */

inline i_crash() {
  if
  :: i_up -> i_asking = false; i_wait = 0; i_exp = LIFE
#ifdef BROKEN_SAVES_ONE_KEY
    ; i_key2 = NONE
#endif
  :: else -> i_end()
  fi
}

inline r_crash() {
  if
  :: r_up -> r_exp = LIFE; r_wait = 0;
    if :: r_confirmed -> r_offer = NONE; r_confirmed = false :: else fi
#ifdef BROKEN_SAVES_AT_CONFIRM
    ; r_offer = NONE; r_confirmed = false
#endif
#ifdef BROKEN_SAVES_ONE_KEY
    ; r_key2 = NONE
#endif
  :: else ->
    r_st = idle; r_offer = NONE; r_key = NONE; r_key2 = NONE; r_confirmed = false; r_wait = 0
  fi;
  r_life = 1; r_spent = 0
}

inline g_crash() {
  if
  :: k_rule == idle ->
    g_st = idle; g_seq = 0; g_offered = 0; g_until = 0;
#ifndef BROKEN_TOKEN_OUTLIVES_GATE   /* no token from before the start for what the kernel lacks */
    n = 0;
    do
    :: n < SEQS ->
      if :: token_age[n] <= TOKEN -> token_age[n] = TOKEN + 1 :: else fi; n++
    :: else -> break
    od;
    n = 0;
    do
    :: n < KEYS -> if :: told_age[n] <= TOKEN -> told_age[n] = TOKEN + 1 :: else fi; n++
    :: else -> break
    od
#endif
  :: else -> g_st = k_rule; g_seq = k_seq; g_offered = k_seq; g_until = k_ttl
  fi
}

inline i_close() { i_st = closing; i_wait = PENDING; i_exp = 0; i_asking = false; closes_i = with(closes_i, i_key) }

inline r_close() { r_st = closing; r_wait = PENDING; r_exp = 0; closes_r = with(closes_r, r_key) }

inline calm_down() {
  calm = true; crashes = 0; confirms = 0;
  /* what is still unanswered is said again, while there are tries left */
  opens = (i_asking -> 1 << i_seq : 0);
  if :: accepts = 0
     :: (r_st == offered || r_up) && r_offer != NONE && !r_confirmed -> accepts = 1 << r_offer
  fi;
  if :: closes_i = 0 :: i_st == closing -> closes_i = 1 << i_key fi;
  if :: closes_r = 0 :: r_st == closing -> closes_r = 1 << r_key fi;
  kept = i_exp == LIFE && r_exp == LIFE && g_st != ended && (i_seq + 1 < SEQS || i_asking);
#ifndef KEEPING
  if
  :: i_up && r_up -> kept = false; cutting = true; losses = 2; tries = 2; i_close()
  :: i_up && r_up -> kept = false; cutting = true; losses = 2; tries = 2; r_close()
  :: true
  fi
#endif
#ifdef BROKEN_CLOSE_NOT_REPEATED
  ; tries = 0
#endif
}

inline any_of(set) {
  if
  :: has(set, 0) -> key = 0 :: has(set, 1) -> key = 1 :: has(set, 2) -> key = 2
  :: has(set, 3) -> key = 3 :: has(set, 4) -> key = 4 :: has(set, 5) -> key = 5
  fi
}

inline done() { n = 0; key = 0; pass = false; reach_gate = false; reach_end = false }

active proctype world() {
  do
  :: atomic { i_st == idle -> printf("i asks\n"); i_st = opening; ask(0) }
  :: atomic { refresh_due -> ask(i_seq + 1); printf("i refreshes: OPEN %d\n", i_seq) }
  :: atomic { opens != 0 -> any_of(opens); deliver_open(key);
       printf("OPEN %d: gate %d, end %d\n", key, reach_gate, reach_end); done() }
  :: atomic { accepts != 0 -> any_of(accepts); deliver_accept(key);
       printf("ACCEPT %d: gate %d, end %d\n", key, reach_gate, reach_end); done() }
  :: atomic { confirms != 0 -> any_of(confirms); deliver_confirm(key);
       printf("CONFIRM %d: gate %d, end %d\n", key, reach_gate, reach_end); done() }
  :: atomic { closes_i != 0 -> any_of(closes_i); deliver_close_i(key);
       printf("CLOSE %d of i: gate %d, end %d\n", key, reach_gate, reach_end); done() }
  :: atomic { closes_r != 0 -> any_of(closes_r); deliver_close_r(key);
       printf("CLOSE %d of r: gate %d, end %d\n", key, reach_gate, reach_end); done() }
#ifdef BROKEN_CONFIRM_WITHOUT_MAC
  :: atomic { !calm && r_offer != NONE -> printf("forged CONFIRM\n"); r_on_confirm(r_offer) }
#endif
  :: atomic { k_rule == live && k_ttl < LIFE && (i_up || r_up) -> printf("packets\n"); k_ttl = LIFE }
  :: atomic { !calm && i_up -> printf("i closes\n"); i_close() }
  :: atomic { !calm && r_up -> printf("r closes\n"); r_close() }
  :: atomic { crashes > 0 -> crashes--;
       if
       :: true -> printf("i restarts\n"); i_crash()
       :: r_life == 0 -> printf("r restarts\n"); r_crash()
       :: true -> printf("gate restarts\n"); g_crash(); done()
       fi }
#ifndef ATTACK
  :: atomic { !calm && i_st != idle -> printf("faults end\n"); calm_down() }
  :: atomic { stuck_close && quiet -> printf("CLOSE again\n"); tries--;
       if
       :: i_st == closing -> closes_i = with(closes_i, i_key)
       :: else -> closes_r = with(closes_r, r_key)
       fi }
#endif
  :: atomic { quiet && !(calm && refresh_due) && !stuck_close && calm_ticks < CALM ->
       printf("tick\n"); i_tick(); r_tick(); g_tick(); ages(); done(); check_tick() }
  :: calm_ticks == CALM -> break
  od
}
