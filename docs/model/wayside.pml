/*
 * What all models share: how time, keys and the network are abstracted.
 *
 * Time. One tick is five seconds. A timer set to n is over at the nth tick from now, so it stands
 * for any time in (n - 1, n] ticks. Ages stop counting at their cap: what is older than every limit
 * is simply old. A tick is a step like any other: everything may happen before it or after it.
 *
 * Network. Whoever says something adds it to a set that nothing leaves: so it may arrive now, late,
 * twice, behind what was said later, or never. That is loss, duplication, delay, reordering, and an
 * attacker who hears all and repeats it, in one. Where progress is checked, faults end at some
 * moment ("calm"): old messages are gone then, and what is said from then on arrives once.
 *
 * Cryptography is perfect. What only the holder of a secret can say is a member of a set that only
 * the holder's steps add to. What an attacker can say with secrets of its own is a step of its own.
 */

#define PENDING 1  /* a rule between ACCEPT and CONFIRM; the patience of OPEN and ACCEPT: 5 s */
#define LINGER 1   /* an end remembers an ended connection: 5 s */
#define TOKEN 1    /* a token brings an ACCEPT through its gate: 10 s */
#define LIFE 2     /* the agreed lifetime: 10 s, refreshed at half */
#define WINDOW 3   /* an OPEN's time is believed: longer than TOKEN, shorter than `spent` lasts */

#define has(set, n) (((set) >> (n)) & 1)
#define with(set, n) ((set) | (1 << (n)))
#define without(set, n) ((set) & ~(1 << (n)))
#define most(a, b) ((a) > (b) -> (a) : (b))
#define down(timer) if :: timer > 0 -> timer-- :: else fi
#define older(age, cap) if :: age < (cap) -> age++ :: else fi
