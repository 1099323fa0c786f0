/* A tap beside a sender and a mutating stage: it copies what is sent, and knows exactly how much it missed.

   Sender: before it writes at or above `claim`, claim = the end of its look-ahead (then a full fence). It claims q only
   when q - capacity was let go by the stages AND was published by itself: loans are open for as long as they like.
   So all positions below claim - capacity are settled: a message or a SKIP each, for ever.
   Once there was a SKIP (`skipped`, set before the SKIP word), each look-ahead counts the SKIPs that its claim leaves
   behind, and stores `skips`, ONE word of this claim and the count, before it stores the claim.
   Tap, at p: whole (claim <= p + capacity); READY(lap p); then the graph; every mutating stage let p go (DROP: passed
   over, missed); copy; whole still: accepted. (A stage that is added after the graph was read begins above p.)
   When p is not whole it catches up: claim, THEN skips, which is of this claim or of a later one. It goes on at
   b = the claim in that word - capacity, never further: an open loan may still become SKIP. Missed are
   (b - p) - (the count in that word - the SKIPs below p). No word yet: no SKIP is left behind, b = claim - capacity.
   Whoever wants the latest only steps on from there, word by word.
   At an unpublished word: whether the lane is frozen is read first, then whole, then the word. In a lost lane p is a
   hole if a word behind it is published.

   STAGES: 0 none · 1 a mutating stage · 2 one that is added at run time, which the sender admits at one of its loans.
   Loans are committed and skipped by other threads of the sender at any time, also in the middle of its look-ahead.
   Nothing that the tap does is read by anybody, so it holds nobody up.

@ holds  short  STAGES=0 POSITIONS=6 SLOTS=3 WINDOW=2 KILLS=1
@ holds  short  STAGES=1 POSITIONS=4 DEATHS=1 KILLS=1
@ holds  short  STAGES=2 POSITIONS=4
@ holds  long   STAGES=0 POSITIONS=8 SLOTS=2 WINDOW=2 KILLS=1
@ holds  long   STAGES=0 POSITIONS=8 SLOTS=3 WINDOW=3 KILLS=1
@ holds  long   STAGES=1 POSITIONS=6 WINDOW=2 KILLS=1 DEATHS=1
@ holds  long   STAGES=2 POSITIONS=5 WINDOW=2 KILLS=1
@ mutant READY_CHECKED_TWICE        | STAGES=0                    | low_copy
@ mutant CLAIMED_TOO_LATE           | STAGES=0                    | low_copy
@ mutant CLAIM_CHECKED_BEFORE_ONLY  | STAGES=0                    | low_copy
@ mutant STAGE_NOT_AWAITED          | STAGES=1                    | low_copy
@ mutant DROP_NOT_SEEN              | STAGES=1 DEATHS=1           | low_copy
@ mutant GRAPH_READ_BEFORE_READY    | STAGES=2 POSITIONS=3        | low_copy
@ mutant LENDS_OVER_OPEN_LOANS      | STAGES=0                    | until
@ mutant JUMPS_OVER_OPEN_LOANS      | STAGES=0                    | <<oldest
@ mutant SKIPS_STORED_AFTER_CLAIM   | STAGES=0                    | oldest
@ mutant SKIPS_IN_TWO_WORDS         | STAGES=0                    | passed
@ mutant SKIPPED_SAID_AFTERWARDS    | STAGES=0                    | passed
@ mutant UNSETTLED_COUNTED          | STAGES=0                    | passed
@ mutant RUN_COUNTED_ONCE           | STAGES=0 POSITIONS=5 WINDOW=2 | passed
@ mutant SKIPS_READ_BEFORE_CLAIM    | STAGES=0                    | passed
@ mutant OLDEST_TAKEN_FROM_CLAIM    | STAGES=0                    | passed
@ mutant CLAIM_AND_SKIPS_MUST_AGREE | STAGES=0 KILLS=1            | invalid end state
@ mutant FROZEN_READ_LAST           | STAGES=0                    | counted
@ mutant HOLES_END_THE_LANE         | STAGES=0 KILLS=1            | counted
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

#define SLOT(p)   ((p) % SLOTS)
#define LAP(p)    (1 + (p) / SLOTS)
#define BIT(p)    (1 << (p))
#define BELOW(p)  (BIT(p) - 1)

typedef SkipsWord { byte claim, count };                /* the SKIPs below claim - capacity; 0: none */
byte ready[SLOTS]; bool is_skip[SLOTS];                 /* the ready word: lap; SKIP, or READY */
byte low[SLOTS], high[SLOTS];                           /* the payload, in two halves */
byte ack[SLOTS]; bool drop[SLOTS];                      /* the stage's word: lap of DONE; DROP */
byte claim; SkipsWord skips;                            /* of the slab */
bool skipped; byte open;                                /* of the sender: there was a SKIP; a mask of open loans */
bool graph = (STAGES == 1), admitted = (STAGES == 1); byte from;
bool ended, lost;                                       /* the lane's state; `lost` is the kernel's word */
byte deaths;

byte sent, no_message;                                  /* ghosts: masks of positions that were published as that */
#define CHANGED 16                                      /* what the stage makes of a message */
#define GATES(p)      (admitted && (p) >= from)
#define PUBLISHED(p)  (ready[SLOT(p)] == LAP(p))
#define NEVER_SENT(p) (ready[SLOT(p)] < LAP(p))
#define LATER(p)      (PUBLISHED((p) + 1) || (SLOTS > 2 && PUBLISHED((p) + 2)))

#if STAGES == 1 || defined(LENDS_OVER_OPEN_LOANS)       /* a declared stage lets nothing go that was not published */
#define WAS_PUBLISHED(q) true
#else
#define WAS_PUBLISHED(q) (ready[SLOT(q)] == LAP(q) - 1)
#endif
#define FREE(q) (WAS_PUBLISHED(q) && ((q) < SLOTS || !GATES((q) - SLOTS) || ack[SLOT(q)] == LAP(q) - 1))
#define MAY_CLAIM(q) ((q) < POSITIONS && (q) < next + WINDOW && FREE(q))

inline choose_open() {                                  /* p: any open loan */
    p = 0;
    do
    :: (open & BIT(p)) -> break
    :: (open >> (p + 1)) -> p++
    od }
inline publish_skip() {                                 /* one word of a run */
    ready[SLOT(p)] = LAP(p); is_skip[SLOT(p)] = 1; open = open & ~BIT(p); no_message = no_message | BIT(p); p = 0 }

#define IS_LEFT_SKIP(q) (is_skip[SLOT(q)] && ready[SLOT(q)] == LAP(q) - 1)
#ifdef RUN_COUNTED_ONCE
#define COUNTS(q) (IS_LEFT_SKIP(q) && !((q) > free && IS_LEFT_SKIP((q) - 1)))
#else
#define COUNTS(q) IS_LEFT_SKIP(q)
#endif
#ifdef UNSETTLED_COUNTED
#define ONE_FURTHER 1
#else
#define ONE_FURTHER 0
#endif
inline count_skips() {                                  /* those that a claim up to `until` leaves behind */
    p = free + ONE_FURTHER;
    do :: p < until + ONE_FURTHER -> count = count + (COUNTS(p) -> 1 : 0); p++ :: else -> break od;
    p = 0 }

#define SETTLED(q) (((sent | no_message) & BELOW(q)) == BELOW(q))     /* everything below q */
#define ALIVE if :: lost -> goto over :: else fi         /* the first thing in each step */
#ifdef SKIPS_IN_TWO_WORDS
#define STORE_SKIPS skips.claim = until } atomic { ALIVE; skips.count = count
#else
#define STORE_SKIPS skips.claim = until; skips.count = count                                        /* CLAIM */
#endif

active proctype Sender()
{   byte next, free, until, count, p;                   /* free: positions below are claimed */
    bool saw = (STAGES == 1);
    do
    :: atomic { graph != saw && !lost -> saw = graph; from = next; admitted = 1 }                   /* ADMIT */
    :: atomic { MAY_CLAIM(free) && !lost ->                                                         /* END */
                until = free + 1; do :: MAY_CLAIM(until) -> until++ :: break od;
                assert(until <= SLOTS || SETTLED(until - SLOTS)) }
#ifdef SKIPS_STORED_AFTER_CLAIM
       atomic { ALIVE; claim = until }
#endif
       if
       :: atomic { skipped -> ALIVE; count_skips(); STORE_SKIPS }
       :: !skipped
       fi;
#if !defined(CLAIMED_TOO_LATE) && !defined(SKIPS_STORED_AFTER_CLAIM)
       atomic { ALIVE; claim = until }                                                              /* CLAIM */
#endif
       atomic { free = until; until = 0 }
    :: atomic { next < free && !lost -> assert(!(next >= SLOTS && (open & BIT(next - SLOTS)))); low[SLOT(next)] = next }
       atomic { ALIVE; high[SLOT(next)] = next }
       atomic { ALIVE; open = open | BIT(next); next++ }
#ifdef CLAIMED_TOO_LATE
       claim = free
#endif
    :: atomic { next && (open & BIT(next - 1)) && !lost -> open = open & ~BIT(next - 1); next-- }    /* rewound */
    :: break
    od;
    do                                                  /* close(): open loans become SKIP */
    :: atomic { open -> ALIVE; choose_open(); publish_skip() }
    :: atomic { !open -> ALIVE; ended = 1 } break
    od;
over:
    atomic { next = 0; free = 0; until = 0; count = 0; p = 0; saw = 0 }
}

/* The sender's other threads, which commit and discard. */
active proctype Committer()
{   byte p;
end:
    do
    :: atomic { open && !lost -> choose_open(); ready[SLOT(p)] = LAP(p); is_skip[SLOT(p)] = 0;        /* PUBLISH */
                open = open & ~BIT(p); sent = sent | BIT(p); p = 0 }
#ifdef SKIPPED_SAID_AFTERWARDS
    :: atomic { open && !lost -> choose_open(); publish_skip() }
    :: atomic { no_message && !skipped && !lost -> skipped = 1 }
#else
    :: atomic { open && !skipped && !lost -> skipped = 1 }
    :: atomic { open && skipped && !lost -> choose_open(); publish_skip() }                 /* PUBLISH */
#endif
    od
}

#if KILLS
active proctype Kill()                                  /* of the sender with all its threads, between any two steps */
{
end:
    atomic { !ended -> lost = 1 }
}
#endif

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
          atomic { ack[SLOT(p)] = LAP(p); drop[SLOT(p)] = 0; p++ }                                  /* END */
       :: atomic { deaths < DEATHS -> deaths++; ack[SLOT(p)] = LAP(p); drop[SLOT(p)] = 1; p++ }     /* killed, buried */
       fi
    :: atomic { lost && NEVER_SENT(p) && LATER(p) -> p++ }
    od
}
#endif

#ifdef READY_CHECKED_TWICE
#define WHOLE_STILL (ready[SLOT(at)] == LAP(at))
#elif defined(CLAIM_CHECKED_BEFORE_ONLY)
#define WHOLE_STILL true
#else
#define WHOLE_STILL WHOLE
#endif
#define WHOLE (claim <= at + SLOTS)                                                                 /* CLAIM */
#ifdef HOLES_END_THE_LANE
#define HOLE false
#else
#define HOLE LATER(at)
#endif
#ifdef OLDEST_TAKEN_FROM_CLAIM
#define OLDEST (claimed - SLOTS)
#else
#define OLDEST (told.claim - SLOTS)
#endif

#if defined(CLAIM_AND_SKIPS_MUST_AGREE)
#define READ_SKIPS \
    atomic { skips.claim == claim || !skips.claim -> \
             claimed = claim; told.claim = skips.claim; told.count = skips.count }
#elif defined(SKIPS_IN_TWO_WORDS)
#define READ_SKIPS told.claim = skips.claim; told.count = skips.count
#else
#define READ_SKIPS atomic { told.claim = skips.claim; told.count = skips.count }                    /* CLAIM */
#endif
inline count_bits(mask) {
    n = 0; i = 0;
    do :: i < POSITIONS -> n = n + (((mask) >> i) & 1); i++ :: else -> break od;
    i = 0 }

active proctype Tap()
{   byte at, below;                                     /* its position; the SKIPs below it */
    byte counted;                                       /* messages that it has seen, or has told as missed */
    byte claimed, oldest, passed, low_copy, high_copy, n, i;
    SkipsWord told;
    bool frozen, dropped, knows = (STAGES == 1);
next:
#ifdef GRAPH_READ_BEFORE_READY
    knows = graph;
#endif
#ifndef FROZEN_READ_LAST
    frozen = (ended || lost);
#endif
    if :: WHOLE :: else -> frozen = 0; goto catch_up fi;
    if                                                  /* PUBLISH */
    :: atomic { ready[SLOT(at)] > LAP(at) -> frozen = 0 } goto next
    :: atomic { PUBLISHED(at) && is_skip[SLOT(at)] -> at++; below++; frozen = 0 } goto next
    :: atomic { PUBLISHED(at) && !is_skip[SLOT(at)] -> at++; counted++; frozen = 0 } goto next    /* to newer ones */
    :: atomic { PUBLISHED(at) && !is_skip[SLOT(at)] -> frozen = 0 }
    :: NEVER_SENT(at) -> goto unpublished
    fi;
#if STAGES == 2 && !defined(GRAPH_READ_BEFORE_READY)
    knows = graph;
#endif
#ifndef STAGE_NOT_AWAITED
    if
    :: atomic { knows && GATES(at) && ack[SLOT(at)] >= LAP(at) ->                                   /* END */
#ifndef DROP_NOT_SEEN
                dropped = (ack[SLOT(at)] == LAP(at) && drop[SLOT(at)])
#endif
              }
    :: !(knows && GATES(at))
    :: knows && GATES(at) && ack[SLOT(at)] < LAP(at) -> goto next
    fi;
#endif
    if :: atomic { dropped -> dropped = 0; at++; counted++ } goto next :: else fi;
    low_copy = low[SLOT(at)];
    high_copy = high[SLOT(at)];
    atomic {
        if
        :: WHOLE_STILL ->
           assert(sent & BIT(at));
           assert(low_copy == at + (GATES(at) -> CHANGED : 0) && high_copy == low_copy);
           count_bits(sent & BELOW(at)); assert(counted == n); n = 0;
           at++; counted++
        :: else
        fi;
        low_copy = 0; high_copy = 0 }
    goto next;

unpublished:
#ifdef FROZEN_READ_LAST
    frozen = (ended || lost);
#endif
    if
    :: atomic { !frozen } goto next
    :: atomic { frozen && HOLE -> at++; frozen = 0 } goto next
    :: atomic { frozen && !HOLE -> frozen = 0 } goto over
    fi;

catch_up:
#ifdef SKIPS_READ_BEFORE_CLAIM
    READ_SKIPS;
    claimed = claim;
#else
    claimed = claim;
    READ_SKIPS;
#endif
    atomic {
        if
        :: told.claim -> oldest = OLDEST; passed = told.count
#ifdef JUMPS_OVER_OPEN_LOANS
           passed = passed + (PUBLISHED(oldest) && is_skip[SLOT(oldest)] -> 1 : 0); oldest++
#endif
        :: else -> oldest = claimed - SLOTS; passed = below
        fi;
        assert(oldest > at);                            /* it comes on each time */
        assert(SETTLED(oldest));
        count_bits(no_message & BELOW(oldest)); assert(passed == n); n = 0;
        counted = counted + (oldest - at) - (passed - below);
        at = oldest; below = passed; claimed = 0; oldest = 0; passed = 0; told.claim = 0; told.count = 0 }
    goto next;
over:
    atomic { count_bits(sent); assert(counted == n); n = 0 }
}
