/* A tap beside a sender and a mutating stage: it copies what is sent, and knows exactly how much it missed.

   Sender: before it writes at or above `claim`, claim = the end of its look-ahead (then a full fence). It lends q only when
   q - capacity was let go by the stages AND was published by itself: loans are open for as long as they like.
   So all positions below claim - capacity are published, and stay what they are.
   Tap, at p: READY(lap p); every mutating stage DONE (DROP: passed over, missed); copy; claim <= p + capacity, and the
   graph word is what it was: accepted. (Read between READY and the copy it does as well: a stage that is admitted after READY(p)
   begins above p.) Otherwise it jumps to b = claim - capacity, never further: an open loan may still
   become SKIP. Whoever wants the latest only walks on from there, word by word.
   Missed are (b - a) - (S(b) - S(a)) with S(b) the SKIPs below b. The sender counts `begun` before it stores a run of SKIP words
   and `done` after it. S(b) = done - the SKIP words at b and above, if begun is that same number after the scan, and still
   claim <= b + capacity. A sender that is killed within a run leaves begun - done words open: it had stored `skip_at`
   before, and who reads the lane of the dead leaves out the words from there on.

   STAGES: 0 none · 1 a mutating stage · 2 one that is added at run time, which the sender admits at its next loan.
   Nothing that the tap does is read by anybody, so it holds nobody up.

@ holds  short  STAGES=0 POSITIONS=4 KILLS=1
@ holds  short  STAGES=1 POSITIONS=3 DEATHS=1
@ holds  short  STAGES=2 POSITIONS=3
@ holds  short  STAGES=2 POSITIONS=3 GRAPH_READ_AFTER_READY
@ holds  long   STAGES=1 POSITIONS=5 KILLS=1 DEATHS=1
@ holds  long   STAGES=2 POSITIONS=4 KILLS=1
@ holds  long   STAGES=0 POSITIONS=6 SLOTS=3 WINDOW=2 KILLS=1
@ mutant READY_CHECKED_TWICE        | STAGES=0                    | low_copy
@ mutant CLAIMED_TOO_LATE           | STAGES=0                    | low_copy
@ mutant CLAIM_CHECKED_BEFORE_ONLY  | STAGES=0                    | low_copy
@ mutant STAGE_NOT_AWAITED          | STAGES=1                    | low_copy
@ mutant DROP_NOT_SEEN              | STAGES=1 DEATHS=1           | low_copy
@ mutant GRAPH_NOT_COMPARED         | STAGES=2                    | low_copy
@ mutant GRAPH_READ_BEFORE_READY    | STAGES=2                    | low_copy
@ mutant LENDS_OVER_OPEN_LOANS      | STAGES=0                    | open
@ mutant SKIPS_COUNTED_AFTER_ONLY   | STAGES=0 POSITIONS=5        | counted
@ mutant SKIPS_COUNTED_BEFORE_ONLY  | STAGES=0 POSITIONS=5        | counted
@ mutant SKIPS_EQUAL_TWICE          | STAGES=0 POSITIONS=5        | counted
@ mutant CLAIM_NOT_ASKED_AGAIN      | STAGES=0 POSITIONS=5        | counted
@ mutant JUMPS_OVER_OPEN_LOANS      | STAGES=0 POSITIONS=5        | missed
@ mutant OPEN_RUN_COUNTED           | STAGES=0 POSITIONS=5 KILLS=1 | counted
*/
#ifndef STAGES
#define STAGES 0
#endif
#ifndef POSITIONS
#define POSITIONS 4
#endif
#ifndef SLOTS
#define SLOTS 2
#endif
#ifndef WINDOW
#define WINDOW 1
#endif
#ifndef KILLS
#define KILLS 0
#endif
#ifndef DEATHS
#define DEATHS 0
#endif
#define LOANS 2                                         /* open at a time */

#define SLOT(p)        ((p) % SLOTS)
#define LAP(p)         (1 + (p) / SLOTS)
#define POSITION(l, i) (((l) - 1) * SLOTS + (i))
#define BIT(p)         (1 << (p))

byte ready[SLOTS]; bool is_skip[SLOTS];                    /* the ready word: lap; SKIP, or READY */
byte low[SLOTS], high[SLOTS];                           /* the payload, in two halves */
byte ack[SLOTS]; bool drop[SLOTS];                      /* the stage's word: lap of DONE; DROP */
byte claim, begun, done, skip_at;
bool graph = (STAGES == 1), admitted = (STAGES == 1); byte from;
bool ended, lost;                                       /* the lane's state; `lost` is the kernel's word */
byte kills, deaths;

byte sent, skipped, open;                               /* masks of positions. The first two are ghosts */
#define CHANGED 16                                      /* what the stage makes of a message */
#define GATES(p)     (admitted && (p) >= from)
#define PUBLISHED(p) (ready[SLOT(p)] == LAP(p))
#define NEVER_SENT(p) (ready[SLOT(p)] < LAP(p))
#define LATER(p)     (PUBLISHED((p) + 1) || (SLOTS > 2 && PUBLISHED((p) + 2)))     /* in a lost lane p is a hole */

#ifdef LENDS_OVER_OPEN_LOANS
#define WAS_PUBLISHED(q) true
#else
#define WAS_PUBLISHED(q) (ready[SLOT(q)] == LAP(q) - 1)
#endif
#define FREE(q) (WAS_PUBLISHED(q) && ((q) < SLOTS || !GATES((q) - SLOTS) || ack[SLOT(q)] == LAP(q) - 1))

#define KILL if :: atomic { kills < KILLS -> kills++; lost = 1 } goto over :: true fi

inline skip_run(p, k) {                                 /* k SKIP words from p on */
    KILL;
    skip_at = p;
    begun = begun + k;
    i = 0;
    do
    :: i < k -> KILL; atomic { ready[SLOT(p + i)] = LAP(p + i); is_skip[SLOT(p + i)] = 1; open = open & ~BIT(p + i);
                               skipped = skipped | BIT(p + i); i++ }
    :: i == k -> break
    od;
    KILL;
    atomic { done = done + k; i = 0 } }
inline choose_open() {                                  /* p: any open loan */
    p = 0;
    do
    :: (open & BIT(p)) -> break
    :: (open >> (p + 1)) -> p++
    od }

active proctype Sender()
{   byte next, free, p, i, count;
    bool saw = (STAGES == 1);
    do
    :: atomic { graph != saw -> saw = graph; from = next; admitted = 1 }    /* each loan begins with this look */
    :: atomic { graph == saw && next < POSITIONS && count < LOANS && next == free && FREE(next) -> free++ }
       atomic {
           do :: free < next + WINDOW && free < POSITIONS && FREE(free) -> free++ :: else -> break od
#ifndef CLAIMED_TOO_LATE
           claim = free
#endif
       }
    :: atomic { graph == saw && next < POSITIONS && count < LOANS && next < free ->
                assert(!(next >= SLOTS && (open & BIT(next - SLOTS)))); open = open | BIT(next); p = next; next++; count++ }
       KILL;
       low[SLOT(p)] = p;
       KILL;
       atomic { high[SLOT(p)] = p; p = 0 }
#ifdef CLAIMED_TOO_LATE
       claim = free
#endif
    :: atomic { open -> choose_open(); count-- }
       if
       :: atomic { ready[SLOT(p)] = LAP(p); is_skip[SLOT(p)] = 0; open = open & ~BIT(p); sent = sent | BIT(p) }
       :: atomic { p + 1 == next -> open = open & ~BIT(p); next = p }       /* rewound */
       :: skip_run(p, 1)
       :: (open & BIT(p + 1)) -> count--; skip_run(p, 2)                    /* a loan of two */
       fi;
       p = 0
    :: break                                            /* close(): open loans become SKIP */
    od;
    do
    :: atomic { open -> choose_open() }
       skip_run(p, 1); p = 0
    :: !open -> break
    od;
    ended = 1;
over:
    atomic { next = 0; free = 0; p = 0; i = 0; count = 0; saw = 0 }
}

#if STAGES
active proctype Stage()
{   byte p;
#if STAGES == 2
end_added:
    graph = 1;
end_admitted:
    atomic { admitted -> p = from }
#endif
end:
    do
    :: atomic { PUBLISHED(p) && is_skip[SLOT(p)] -> ack[SLOT(p)] = LAP(p); drop[SLOT(p)] = 0; p++ }
    :: atomic { PUBLISHED(p) && !is_skip[SLOT(p)] -> low[SLOT(p)] = low[SLOT(p)] + CHANGED }    /* TAKEN, and DIRTY */
       if
       :: high[SLOT(p)] = high[SLOT(p)] + CHANGED;
          atomic { ack[SLOT(p)] = LAP(p); drop[SLOT(p)] = 0; p++ }
       :: atomic { deaths < DEATHS -> deaths++; ack[SLOT(p)] = LAP(p); drop[SLOT(p)] = 1; p++ }     /* killed, buried */
       fi
    :: atomic { lost && NEVER_SENT(p) && LATER(p) -> p++ }
    od
}
#endif

inline count_bits(mask) {
    count = 0; i = 0;
    do :: i < POSITIONS -> count = count + (((mask) >> i) & 1); i++ :: else -> break od;
    i = 0 }

#ifdef READY_CHECKED_TWICE
#define OVERWRITTEN(p) (ready[SLOT(p)] != LAP(p))
#else
#define OVERWRITTEN(p) (claim > (p) + SLOTS)
#endif
#ifdef CLAIM_CHECKED_BEFORE_ONLY
#define CHECK_AFTER
#else
#define CHECK_AFTER if :: OVERWRITTEN(at) -> goto jump :: else fi
#endif
#if defined(SKIPS_COUNTED_BEFORE_ONLY)
#define BEFORE_SCAN begun
#else
#define BEFORE_SCAN done
#endif
#if defined(SKIPS_COUNTED_AFTER_ONLY)
#define AFTER_SCAN  done
#else
#define AFTER_SCAN  begun
#endif

active proctype Tap()
{   byte at, below;                                     /* its position; S(at): SKIPs below it */
    byte first, seen, missed, b, counted, skips, i, count, low_copy, high_copy;
    bool started, knows = (STAGES == 1), dead, dropped;
    if :: claim <= SLOTS -> started = 1 :: claim > SLOTS fi;     /* from the beginning, if that is there */
    if :: started :: else -> goto jump fi;
next:
#ifdef GRAPH_READ_BEFORE_READY
    knows = graph;
#endif
    do
    :: ready[SLOT(at)] > LAP(at) || claim > at + SLOTS -> goto jump
    :: atomic { PUBLISHED(at) && is_skip[SLOT(at)] -> at++; below++ }
    :: atomic { PUBLISHED(at) && !is_skip[SLOT(at)] } break
    :: atomic { lost && NEVER_SENT(at) && LATER(at) -> at++ }
    :: atomic { (ended || lost) && NEVER_SENT(at) && !LATER(at) && claim <= at + SLOTS } goto over
    od;
#ifdef GRAPH_READ_AFTER_READY
    knows = graph;
#endif
#ifndef STAGE_NOT_AWAITED
    if
    :: atomic { knows && GATES(at) && ack[SLOT(at)] == LAP(at) ->
#ifndef DROP_NOT_SEEN
                dropped = drop[SLOT(at)]
#endif
              }
    :: !(knows && GATES(at))
    :: knows && GATES(at) && (ack[SLOT(at)] > LAP(at) || claim > at + SLOTS) -> goto jump
    fi;
#endif
    if :: OVERWRITTEN(at) -> goto jump :: else fi;      /* before as well: a hopeless copy is not begun */
    low_copy = low[SLOT(at)];
    high_copy = high[SLOT(at)];
    CHECK_AFTER;
#if !defined(GRAPH_READ_AFTER_READY) && !defined(GRAPH_NOT_COMPARED) && !defined(GRAPH_READ_BEFORE_READY)
    if :: atomic { graph != knows -> knows = graph; dropped = 0; low_copy = 0; high_copy = 0 } goto next :: else fi;
#endif
    atomic {
        assert(sent & BIT(at));
        if
        :: dropped -> missed++
        :: else ->
           assert(low_copy == at + (GATES(at) -> CHANGED : 0) && high_copy == low_copy);
           seen++
        fi;
        at++; dropped = 0; low_copy = 0; high_copy = 0 }
    goto next;

jump:
    atomic { low_copy = 0; high_copy = 0; dropped = 0; dead = lost }
again:
#ifdef JUMPS_OVER_OPEN_LOANS
    atomic { b = claim - SLOTS + 1 }
#else
    b = claim - SLOTS;
#endif
    skips = BEFORE_SCAN;
#ifdef SKIPS_EQUAL_TWICE
    if :: begun != skips -> goto again :: else fi;
#endif
    atomic { counted = 0; i = 0 }
    do
    :: atomic {
           i < SLOTS ->
           if
           :: ready[i] && is_skip[i] && POSITION(ready[i], i) >= b &&
#ifdef OPEN_RUN_COUNTED
              true
#else
              !(dead && POSITION(ready[i], i) >= skip_at && POSITION(ready[i], i) < skip_at + begun - done)
#endif
              -> counted++
           :: else
           fi;
           i++ }
    :: atomic { i == SLOTS -> i = 0 } break
    od;
#ifdef SKIPS_EQUAL_TWICE
    if :: begun != done -> goto again :: else fi;
#else
    if :: AFTER_SCAN != skips && !dead -> dead = lost; goto again :: else fi;
#endif
#ifndef CLAIM_NOT_ASKED_AGAIN
    if :: claim > b + SLOTS -> dead = lost; goto again :: else fi;
#endif
    atomic {
        counted = skips - counted;                      /* S(b) */
        count_bits(skipped & (BIT(b) - 1));
        assert(counted == count);
        if
        :: started -> missed = missed + (b - at) - (counted - below)
        :: else -> started = 1; first = b
        fi;
        at = b; below = counted; b = 0; counted = 0; skips = 0; count = 0; dead = 0 }
    goto next;
over:
    atomic {
        count_bits(sent & ~(BIT(first) - 1));
        assert(seen + missed == count) }
}
