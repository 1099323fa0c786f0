/* A message that is too large for its slot lies in the slot's extent, whose pages are given back when it was let go: beside
   a tap that copies, and a sender that uses the slot again.

   Lend, in the sender's turn (see growth.pml): the slot was let go, then claim above it, fence; pages for the extent, if
   it has none: pages that are still there are written over, no tap is waited for. Fill; the extent's word (what is there, or 0:
   the message lies in its slot) before READY.
   Give back, by the helper in the sender's turn: the slot is not lent, its message is published, let go by all, used by no own
   view: GONE in the word, fence, no tap's tap_at names the slab (else later), the hole is punched. By the sender, in a loan that
   needs no extent: claim above the slot, fence, the same look at tap_at (else it leaves that to the helper).
   Tap: tap_at, fence, claim, READY, the word: GONE is a message that it missed; copy; claim again.

   One slot, so a message is a lap. The tap may be stopped for good at any time: it holds nobody up.

@ holds  short  MESSAGES=3
@ holds  long   MESSAGES=5
@ mutant GIVES_BACK_WITHOUT_TURN  |            | word
@ mutant GIVES_BACK_LENT_SLOTS    |            | word
@ mutant GIVES_BACK_WHEN_TAKEN    |            | word
@ mutant OWN_VIEW_FORGOTTEN       |            | has_pages
@ mutant GONE_NOT_SAID            |            | has_pages
@ mutant TAP_AT_IGNORED           |            | has_pages
@ mutant TAP_AT_AFTER_WORD        |            | has_pages
@ mutant SENDER_IGNORES_TAP_AT    |            | has_pages
@ mutant PUNCHED_BEFORE_CLAIM     |            | has_pages
@ mutant WORD_AFTER_READY         |            | word
@ mutant SENDER_WAITS_FOR_TAPS    |            | invalid end state
@ mutant LATER_IS_NEVER           |            | invalid end state
*/
#ifndef MESSAGES
#define MESSAGES 3
#endif

#define NONE  0                                         /* the extent's word */
#define THERE 1
#define GONE  2
byte claim, ready, word, acked;                         /* claim, and laps: READY, DONE */
bool taken;                                             /* of the message after `acked` */
bool tap_at, stopped;
bool inside, wanted, finished;
byte next, held;                                        /* of the sender; held: the lap on which it has a view */
bool has_pages; byte extent;                            /* the memory itself: its pages, what lies there */
byte large;                                             /* ghost: which messages lie in extents */
#define HOLE 255
#define BIT(p) (1 << (p))

inline punch() { has_pages = 0; extent = HOLE }

active proctype Sender()
{   byte p; bool in_extent;
    do
    :: next < MESSAGES ->
       inside = 1;
       !wanted;
       if
       :: acked == next && !held -> p = next + 1
       :: acked != next || held -> goto out
       fi;
       if :: in_extent = 1 :: in_extent = 0 fi;
#ifdef PUNCHED_BEFORE_CLAIM
       if :: !in_extent && !tap_at -> punch() :: in_extent || tap_at fi;
#endif
       claim = p;                                                                                   /* CLAIM */
       if
       :: in_extent -> has_pages = 1
#ifdef SENDER_IGNORES_TAP_AT
       :: !in_extent -> atomic { punch() }
#elif defined(SENDER_WAITS_FOR_TAPS)
       :: !in_extent -> atomic { !tap_at -> punch() }
#else
       :: !in_extent -> if :: atomic { !tap_at -> punch() } :: tap_at fi                            /* TAP AT */
#endif
       fi;
       next = p;
       inside = 0;
       if                                               /* outside of the turn: fills, commits or rewinds */
       :: in_extent -> atomic { assert(has_pages); extent = p; large = large | BIT(p) }
       :: !in_extent
       fi;
       if
       :: atomic { in_extent && !held -> held = p }
       :: true
       fi;
       if
       :: true ->
#ifdef WORD_AFTER_READY
          ready = p;
          word = (in_extent -> THERE : NONE)
#else
          word = (in_extent -> THERE : NONE);
          ready = p                                                                                 /* PUBLISH */
#endif
       :: true -> inside = 1; !wanted; atomic { next--; held = 0; large = large & ~BIT(p) }
       fi;
out:
       atomic { inside = 0; p = 0; in_extent = 0 }
    :: atomic { held && held == ready -> assert(has_pages && extent == held); held = 0 }
    :: atomic { next == MESSAGES && !held -> finished = 1 } break
    od
}

#ifdef OWN_VIEW_FORGOTTEN
#define VIEWED false
#else
#define VIEWED held
#endif
#ifdef GIVES_BACK_WHEN_TAKEN
#define LET_GO (acked == ready || taken)
#else
#define LET_GO (acked == ready)
#endif
#ifdef GIVES_BACK_LENT_SLOTS
#define LENT false
#else
#define LENT (next != ready)
#endif
#define MAY_GIVE_BACK (has_pages && LET_GO && !LENT && !VIEWED)

active proctype Helper()
{
    do
#ifdef GIVES_BACK_WITHOUT_TURN
    :: MAY_GIVE_BACK ->
#elif defined(LATER_IS_NEVER)
    :: has_pages && word != GONE ->
#else
    :: has_pages ->
#endif
       wanted = 1;
       if
#ifdef GIVES_BACK_WITHOUT_TURN
       :: true ->
#else
       :: !inside && MAY_GIVE_BACK ->
#endif
#ifndef GONE_NOT_SAID
          if :: atomic { word == THERE -> word = GONE } :: word != THERE fi;                        /* GONE */
#endif
          if
#ifdef TAP_AT_IGNORED
          :: atomic { true -> punch() }
#else
          :: atomic { !tap_at -> punch() }                                                          /* TAP AT */
#endif
          :: tap_at
          fi
#ifndef GIVES_BACK_WITHOUT_TURN
       :: inside || !MAY_GIVE_BACK
#endif
       fi;
       wanted = 0
    :: finished && !has_pages -> break
    :: finished && stopped && tap_at -> break
    od
}

active proctype Member()
{
    do
    :: atomic { ready == acked + 1 -> taken = 1 }                                                   /* PUBLISH */
       if
       :: large & BIT(ready) -> assert(word == THERE); atomic { assert(has_pages && extent == ready) }
       :: !(large & BIT(ready)) -> assert(word == NONE)
       fi;
       atomic { taken = 0; acked++ }                                                                /* END */
    :: finished && acked == MESSAGES -> break
    od
}

active proctype Tap()
{   byte at = 1, copied; bool whole;
    do
    :: at <= MESSAGES ->
#ifdef TAP_AT_AFTER_WORD
       whole = (claim <= at && ready == at && word == THERE);
       tap_at = 1;
#else
       tap_at = 1;                                                                                  /* TAP AT */
       whole = (claim <= at);                                                                       /* CLAIM */
       whole = (whole && ready == at && word == THERE);                                             /* PUBLISH, GONE */
#endif
       if :: atomic { true -> stopped = 1 } break :: true fi;
       if
       :: whole -> atomic { assert(has_pages); copied = extent }
       :: !whole
       fi;
       atomic { if :: whole && claim <= at -> assert(copied == at) :: else fi;                      /* CLAIM */
                whole = 0; copied = 0; tap_at = 0 }
       if :: atomic { ready >= at -> at++ } :: true fi
    :: at > MESSAGES -> break
    :: finished -> break
    od
}
