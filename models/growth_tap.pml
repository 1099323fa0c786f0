/* A tap in a lane that is a chain of slabs: it never touches pages that were given back, and knows exactly how much it missed,
   although slabs are retired in any order, loans stay open in old ones, and the sender is killed.

   Settle, by the sender's helper, in the order of the slabs: slab i is closed and all its positions are published, and
   skips_before of i is known: skips_before of i + 1 = that + the SKIPs in i. Nothing of it is on the way of a commit.
   Retire: closed, published, let go by all, AND settled. In a lost lane by anybody; what is not settled then stays with the lane.
   It raises the claim to the top, fence, looks that no tap's tap_at names the slab (else later), gives the pages back, frees the cell.
   Tap: tap_at = the slab, fence, claim, copy, claim, tap_at = 0. It begins at the oldest slab that is there and never steps
   over an unpublished position (but a hole), so all before it is settled. Where the claim is at the top, or at `close`, it
   goes to the next slab k that is there. Missed are (first(k) - p) - (skips_before(k) - the SKIPs below p).

   No slot is used twice here (tap.pml has that), and the cells are found in one step (growth.pml has the scans).
   STAGE: 1 a stage lets messages go in any order; 0 none, what is published is let go.

@ holds  short  STAGE=1 SLABS=3 MESSAGES=2
@ holds  short  STAGE=0 SLABS=4 MESSAGES=1
@ holds  long   STAGE=1 SLABS=3 MESSAGES=3
@ holds  long   STAGE=0 SLABS=4 MESSAGES=2
@ mutant RETIRED_UNSETTLED       | STAGE=1             | skips_before
@ mutant SETTLED_BY_LAST_PUBLISH | STAGE=1 MESSAGES=2  | skips_before
@ mutant SETTLED_AT_LINK         | STAGE=1             | counted
@ mutant SKIPS_FORGOTTEN         | STAGE=1             | counted
@ mutant BEGINS_AT_NEWEST        | STAGE=1 MESSAGES=1 SLABS=2 | skips_before
@ mutant TAP_AT_FORGOTTEN        | STAGE=1 MESSAGES=1 SLABS=2 | without_pages
@ mutant PAGES_BEFORE_CLAIM      | STAGE=1 MESSAGES=1 SLABS=2 | without_pages
@ mutant TAP_AT_AFTER_CLAIM      | STAGE=1 MESSAGES=1 SLABS=2 | without_pages
@ mutant RETIRED_IS_AWAITED      | STAGE=1             | invalid end state
@ mutant HOLES_END_A_CLOSED_SLAB | STAGE=1 MESSAGES=2 SLABS=2 | counted
*/
#ifndef STAGE
#define STAGE 1
#endif
#ifndef SLABS
#define SLABS 3
#endif
#ifndef MESSAGES
#define MESSAGES 3
#endif
#ifndef KILLS
#define KILLS 1
#endif

#define MOST      4                                     /* messages */
#define BIT(p)    (1 << (p))
#define BELOW(p)  (BIT(p) - 1)

byte first[SLABS], close[SLABS];                        /* close: 0, or 1 + the position */
byte skips_before[SLABS];                               /* 1 + the SKIPs below `first`; 0: not known yet */
byte there = 1, retired;                                /* masks of slabs: in the cells; with the claim at the top */
byte tap_at;                                            /* 1 + the slab that the tap copies from */

byte ready[MOST], home[MOST], done;                     /* words, by position; `done`: a mask */
#define READY  1
#define SKIP   2
bool ended, killed, lost; byte end_at;

byte next, newest, open, settled;                       /* private to the sender's process */
bool helping = 1;
byte sent, no_message, without_pages;                   /* ghosts: positions; slabs */

#define PUBLISHED(k, p) ((p) < MESSAGES && home[p] == (k) && ready[p])
#define IN(k, p)        ((p) < MESSAGES && (p) >= first[k] && (p) + 1 < close[k])
#define LET_GO(k, p)    (!IN(k, p) || (ready[p] && (!STAGE || (done & BIT(p)))))
#define SETTLES(k, p)   (!IN(k, p) || ready[p])
#define SKIPS(k, p)     (IN(k, p) && ready[p] == SKIP)
#if defined(RETIRED_UNSETTLED) || defined(SETTLED_BY_LAST_PUBLISH) || defined(SETTLED_AT_LINK)
#define IS_SETTLED(k)   true
#else
#define IS_SETTLED(k)   (!(there & BIT((k) + 1)) || skips_before[(k) + 1])
#endif
#define DRAINED(k)      ((there & BIT(k)) && close[k] && IS_SETTLED(k) && LET_GO(k, 0) && LET_GO(k, 1) && LET_GO(k, 2) && LET_GO(k, 3))

inline count_bits(mask) {
    n = 0; i = 0;
    do :: i < MESSAGES -> n = n + (((mask) >> i) & 1); i++ :: else -> break od;
    i = 0 }

inline link() {
    atomic {
        first[newest + 1] = next;
#if defined(SETTLED_AT_LINK)
        count_bits(no_message); skips_before[newest + 1] = 1 + n; n = 0;
#elif defined(SETTLED_BY_LAST_PUBLISH)
        if :: !open -> count_bits(no_message); skips_before[newest + 1] = 1 + n; n = 0 :: else fi;
#endif
        there = there | BIT(newest + 1) }
    atomic { close[newest] = 1 + next; newest++ } }

/* The last open position below the first of a slab: it tells that slab first. */
inline tell(k, w) {
    m = no_message;
    if :: w == SKIP -> m = m | BIT(p) :: else fi;
    if :: k <= newest && p < first[k] && !(open & BELOW(first[k]) & ~BIT(p)) ->
          count_bits(m & BELOW(first[k])); skips_before[k] = 1 + n; n = 0
       :: else
    fi;
    m = 0 }
inline publish(word) {
    assert(!(without_pages & BIT(home[p])));
#ifdef SETTLED_BY_LAST_PUBLISH
    tell(1, word); tell(2, word);
#endif
    ready[p] = word; open = open & ~BIT(p);
    if :: word == SKIP -> no_message = no_message | BIT(p) :: else -> sent = sent | BIT(p) fi }

proctype Sender()
{   byte p, n, i, m; bool closing;
    {
    do
    :: atomic { !closing && next < MESSAGES -> home[next] = newest; open = open | BIT(next); next++ }
    :: !closing && newest + 1 < SLABS -> link()
    :: atomic { open ->                                 /* any loan is committed, or becomes SKIP */
           p = 0;
           do :: (open & BIT(p)) -> break :: (open >> (p + 1)) -> p++ od;
           if :: !closing -> publish(READY) :: publish(SKIP) fi;
           p = 0 }
    :: atomic { !closing && next == MESSAGES -> closing = 1 }
    :: atomic { closing && !open -> end_at = next; ended = 1; next = 0; newest = 0 } break
    od
    } unless { killed };
    atomic { !helping -> p = 0; n = 0; i = 0; closing = 0; settled = 0; lost = killed }
}

inline retire() {
#ifdef PAGES_BEFORE_CLAIM
    atomic { tap_at != 1 + k -> without_pages = without_pages | BIT(k) }
    retired = retired | BIT(k);
#else
    retired = retired | BIT(k);                                                                     /* CLAIM */
    if
#ifdef TAP_AT_FORGOTTEN
    :: true
#endif
    :: tap_at != 1 + k                                                                              /* TAP AT */
    fi;
    without_pages = without_pages | BIT(k);
#endif
    atomic { there = there & ~BIT(k); k = 0 } }
#define ANY_DRAINED (DRAINED(0) || DRAINED(1) || DRAINED(SLABS - 2))
inline choose_drained() { if :: DRAINED(0) -> k = 0 :: DRAINED(1) -> k = 1 :: SLABS == 4 && DRAINED(SLABS - 2) -> k = SLABS - 2 fi }

proctype Helper()
{   byte k;
    {
    do
#if !defined(SETTLED_BY_LAST_PUBLISH) && !defined(SETTLED_AT_LINK)
    :: atomic { settled < newest && SETTLES(settled, 0) && SETTLES(settled, 1) && SETTLES(settled, 2) && SETTLES(settled, 3) ->
           skips_before[settled + 1] = skips_before[settled] + SKIPS(settled, 0) + SKIPS(settled, 1) + SKIPS(settled, 2) + SKIPS(settled, 3);
           settled++ }
#endif
    :: atomic { ANY_DRAINED -> choose_drained() } retire()
    :: atomic { ended } break
    od
    } unless { killed };
    atomic { helping = 0; k = 0 }
}

proctype Reaper()                                       /* anybody, once the sender is dead */
{   byte k;
end:
    do
    :: atomic { lost && ANY_DRAINED -> choose_drained() } retire()
    od
}

proctype Stage()                                        /* its members let go in any order */
{
end:
    do
    :: atomic { ready[0] && !(done & 1) -> done = done | 1 }
    :: atomic { ready[1] && !(done & 2) -> done = done | 2 }
    :: atomic { ready[2] && !(done & 4) -> done = done | 4 }
    :: atomic { ready[3] && !(done & 8) -> done = done | 8 }
    od
}

proctype Kill()
{
end:
    atomic { !ended -> killed = 1; next = 0; newest = 0; open = 0 }
}

#define NEXT_THERE(k) (there >> ((k) + 1))
#define NONE_BEHIND   !PUBLISHED(k, at + 1) && !PUBLISHED(k, at + 2) && !PUBLISHED(k, at + 3)
#ifdef HOLES_END_A_CLOSED_SLAB
#define HOLE          !(NONE_BEHIND)
#else
#define HOLE          (close[k] -> at + 1 < close[k] : !(NONE_BEHIND))
#endif
#define COUNT_SEEN    count_bits(sent & BELOW(at)); assert(counted == n); n = 0

proctype Tap()
{   byte k, at, below;                                  /* its slab, its position; the SKIPs below it */
    byte counted;                                       /* messages that it has seen, or has told as missed */
    byte n, i; bool frozen, whole;
    atomic {                                            /* it may come late */
#ifdef BEGINS_AT_NEWEST
        do :: NEXT_THERE(k) -> k++ :: else -> break od;
#else
        do :: !(there & BIT(k)) -> k++ :: else -> break od;
#endif
        assert(skips_before[k]);
        at = first[k]; below = skips_before[k] - 1; count_bits(sent & BELOW(at)); counted = n; n = 0 }
look:
    frozen = (ended || lost);
    atomic {
        if
        :: retired & BIT(k) -> goto go_on                                                           /* CLAIM */
        :: !(retired & BIT(k)) && PUBLISHED(k, at) && ready[at] == SKIP -> at++; below++; goto look
        :: !(retired & BIT(k)) && PUBLISHED(k, at) && ready[at] == READY -> at++; counted++; goto look     /* to newer ones */
        :: !(retired & BIT(k)) && PUBLISHED(k, at) && ready[at] == READY -> skip
        :: !PUBLISHED(k, at) && close[k] == 1 + at -> goto go_on                                    /* CLOSE */
        :: !(retired & BIT(k)) && !PUBLISHED(k, at) && close[k] != 1 + at && !frozen -> goto look
        :: !(retired & BIT(k)) && !PUBLISHED(k, at) && close[k] != 1 + at && frozen ->
           if
           :: ended -> goto over
           :: !ended && HOLE -> at++; goto look
           :: !ended && !(HOLE) -> goto over
           fi
        fi }
#ifdef TAP_AT_AFTER_CLAIM
    whole = !(retired & BIT(k));
    tap_at = 1 + k;
#else
    tap_at = 1 + k;                                                                                 /* TAP AT */
    whole = !(retired & BIT(k));                                                                    /* CLAIM */
#endif
    if
    :: whole -> assert(!(without_pages & BIT(k)))       /* copies */
    :: !whole
    fi;
    atomic {
        whole = whole && !(retired & BIT(k));
        tap_at = 0;
        if :: whole -> assert(sent & BIT(at)); COUNT_SEEN; at++; counted++; whole = 0 :: else fi }
    goto look;
go_on:
    atomic {
        frozen = 0;
        i = k;
#ifdef RETIRED_IS_AWAITED
        there & BIT(k + 1);
#endif
        do :: i++; if :: there & BIT(i) -> break :: else fi od;
        k = i; i = 0;
        if
        :: first[k] == at
        :: first[k] != at ->
           assert(skips_before[k]);
#ifdef SKIPS_FORGOTTEN
           counted = counted + (first[k] - at);
#else
           counted = counted + (first[k] - at) - (skips_before[k] - 1 - below);
           below = skips_before[k] - 1;
#endif
           at = first[k]
        fi }
    goto look;
over:
    COUNT_SEEN;
    count_bits(sent); assert(counted == n)
}

init {
    atomic {
        skips_before[0] = 1;
        run Sender(); run Helper(); run Reaper(); run Tap();
        if :: STAGE -> run Stage() :: else fi;
        if :: KILLS -> run Kill() :: else fi
    }
}
