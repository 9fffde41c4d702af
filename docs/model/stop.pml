/*
 * STOP: the receiver of unwanted packets asks a gate on the path to drop a flow for a while.
 *
 * One flow (a 5-tuple) that belongs to one connection after another: first s and v agree to it, then,
 * when that is over and v has lost its address, s and w. Anybody may sign a STOP about the flow; the
 * attacker m has a key of its own, hears every STOP, and repeats it for ever. The gate restarts.
 * It installs a filter only for a key of the connection that it knows the flow by.
 */
#include "wayside.pml"

#define FRESH 1                  /* ticks that a STOP is believed after it was said */
#define FILTER 2                 /* ticks that a filter lasts */
#define OLD 7

#define NOBODY 0
#define S 1
#define V 2
#define W 3
#define M 4

byte from, to;                   /* who agreed to the flow; NOBODY: no connection has it */
byte know_from, know_to;         /* what the gate knows of that */
byte said;                       /* set of those who said STOP */
byte age[5];                     /* of each one's newest */
byte filter, by;                 /* ticks left; who asked for it */
byte n;

#ifdef BROKEN_STOP_BY_ANYONE
#define may_stop(key) (know_to != NOBODY)
#else
#define may_stop(key) (key == know_from || key == know_to)
#endif
#ifdef BROKEN_STOP_OF_ANY_AGE
#define fresh(key) true
#else
#define fresh(key) (age[key] <= FRESH)
#endif

inline agree(a, b) {
  from = a; to = b; know_from = a; know_to = b;
#ifndef BROKEN_FILTER_OUTLIVES_ITS_OWNER
  if :: by != a && by != b -> filter = 0; by = NOBODY :: else fi
#endif
}

inline on_stop(key) {
  if :: to != NOBODY && may_stop(key) && fresh(key) -> filter = FILTER; by = key :: else fi
}

inline say(key) { said = with(said, key); age[key] = 0 }

inline check() {
  /* only who agreed to the flow can have it filtered */
  assert(filter == 0 || by == S || by == V || by == W);       /* [owner] */
  /* and nobody else's word holds for those who have it now */
  assert(filter == 0 || to == NOBODY || by == from || by == to);  /* [former] */
  /* a filter is gone soon after its author last asked for it */
  assert(filter == 0 || age[by] <= FRESH + FILTER)            /* [ends] */
}

inline tick() {
  n = 0;
  do :: n < 5 -> older(age[n], OLD); n++ :: else -> break od;
  n = 0;
  down(filter); if :: filter == 0 -> by = NOBODY :: else fi
}

active proctype world() {
end:
  do
  :: atomic { to == NOBODY && !has(said, 5) -> printf("s and v agree\n"); agree(S, V); check() }
  :: atomic { to == NOBODY -> printf("s and w agree\n"); said = with(said, 5); agree(S, W); check() }
  :: atomic { to != NOBODY -> printf("over\n"); from = NOBODY; to = NOBODY; know_from = NOBODY; know_to = NOBODY }
  :: atomic { printf("m says STOP\n"); say(M) }
  :: atomic { to != NOBODY -> printf("s says STOP\n"); say(S) }
  :: atomic { to != NOBODY -> printf("%d says STOP, and it arrives\n", to); say(to); on_stop(to);
       /* who agreed can always stop it */
       assert(filter == FILTER);                               /* [can] */
       check() }
  :: atomic { has(said, S) -> printf("STOP of s\n"); on_stop(S); check() }
  :: atomic { has(said, V) -> printf("STOP of v\n"); on_stop(V); check() }
  :: atomic { has(said, W) -> printf("STOP of w\n"); on_stop(W); check() }
  :: atomic { has(said, M) -> printf("STOP of m\n"); on_stop(M); check() }
  :: atomic { printf("the gate restarts\n");
#ifdef BROKEN_NOTE_HAS_NO_KEYS
       know_from = NOBODY; know_to = NOBODY
#else
       know_from = from; know_to = to   /* the rule's note has them */
#endif
     }
  :: atomic { printf("tick\n"); tick(); check() }
  od
}
