/* Several open loans of one sender, committed in any order or abandoned, and the sender killed at any step; two stages read.

   A loan that is abandoned and is the last one is rewound: its position is loaned again. One that is not the last becomes SKIP.
   A lane is taken strictly in order. SKIP is acked like a message (in one step), by every stage.
   In a lane whose sender is dead an unpublished position with a published one after it, within one ring, is a hole: every stage
   passes it over without an ack. With none after it the lane has ended.
   Ask for death first, then read the words again: the words of the dead no longer change.
   Who closes abandons its open loans first.

@ holds  short  SLOTS=3 MESSAGES=5 LOANS=3
@ holds  long   SLOTS=4 MESSAGES=7 LOANS=4
@ mutant STOPS_AT_FIRST_HOLE        |          | committed
@ mutant LOOKS_ONE_AHEAD            |          | committed
@ mutant PASSES_HOLES_OF_THE_LIVING |          | lap[
@ mutant WORDS_BEFORE_DEATH         |          | any error
@ mutant SKIP_WITHOUT_ACK           |          | invalid end state
@ mutant REWINDS_ANY_LOAN           |          | any error
@ mutant CLOSES_OVER_OPEN_LOANS     |          | invalid end state
*/
#ifndef SLOTS
#define SLOTS 3
#endif
#ifndef MESSAGES
#define MESSAGES 5
#endif
#ifndef LOANS
#define LOANS 3
#endif
#define STAGES   2
#define SLOT(p)  ((p) % SLOTS)
#define LAP(p)   (1 + (p) / SLOTS)
#define BIT(p)   (1 << (p))

#define READY    1
#define SKIP     2
byte lap[SLOTS], kind[SLOTS];           /* ready words */
byte ack[STAGES * SLOTS];               /* lap that is DONE */
bool dead, closed; byte end_at;

byte committed, read[STAGES];           /* ghosts: masks of positions */

#define PUBLISHED(p)  (lap[SLOT(p)] == LAP(p))
#define LET_GO(s, p)  (ack[(s) * SLOTS + SLOT(p)] >= LAP(p))
#define FREE(p)       (ack[SLOT(p)] == LAP(p) - 1 && ack[SLOTS + SLOT(p)] == LAP(p) - 1)

active proctype Sender()
{   byte next, open, p;                 /* open: mask of the loans; a loan is one bit */
    byte loans; bool closing;
    do
    :: !closing && next < MESSAGES && loans < LOANS && FREE(next) ->
       atomic { assert(!(open & BIT(next)) && !PUBLISHED(next)); open = open | BIT(next); loans++; next++ }
    :: !closing -> closing = 1          /* then its open loans are abandoned */
    :: open ->
       atomic {                         /* any of the open loans */
           p = 0;
           do
           :: !(open & BIT(p)) -> p++
           :: (open & BIT(p)) -> break
           :: (open & BIT(p)) && (open >> (p + 1)) -> p++
           od;
           open = open & ~BIT(p); loans--;
           if
           :: !closing -> lap[SLOT(p)] = LAP(p); kind[SLOT(p)] = READY; committed = committed | BIT(p)
           :: p == next - 1 -> next--
#ifdef REWINDS_ANY_LOAN
           :: p != next - 1 -> next = p
#else
           :: p < next - 1 -> lap[SLOT(p)] = LAP(p); kind[SLOT(p)] = SKIP
#endif
           fi;
           p = 0 }
#ifdef CLOSES_OVER_OPEN_LOANS
    :: closing -> goto close
#else
    :: closing && !open -> goto close
#endif
    :: dead = 1 -> goto over            /* killed */
    od;
close:
    end_at = next;
    closed = 1;
over:
    skip
}

/* The guard asks for death; the words are read after it. `more`: something is published after p, within one ring. */
#ifdef LOOKS_ONE_AHEAD
#define WITHIN 2
#else
#define WITHIN SLOTS
#endif
inline look_ahead() {
    more = 0; q = p + 1;
    do
    :: q < MESSAGES && q < p + WITHIN && !more ->
       if :: PUBLISHED(q) -> more = 1 :: else -> q++ fi
    :: else -> break
    od }

inline pass_over() { atomic { assert(!PUBLISHED(p)); p++ } }

proctype Stage(byte s)
{   byte p, q; bool more;
    do
    :: closed && p == end_at -> break
    :: p < MESSAGES && PUBLISHED(p) && (s == 0 || LET_GO(0, p)) ->
       if
       :: kind[SLOT(p)] == READY ->
          read[s] = read[s] | BIT(p); ack[s * SLOTS + SLOT(p)] = LAP(p)
       :: kind[SLOT(p)] == SKIP ->
#ifndef SKIP_WITHOUT_ACK
          ack[s * SLOTS + SLOT(p)] = LAP(p)
#endif
       fi;
       p++
#ifdef PASSES_HOLES_OF_THE_LIVING
    :: p + 1 < MESSAGES && !PUBLISHED(p) && PUBLISHED(p + 1) -> pass_over()
#endif
#ifdef WORDS_BEFORE_DEATH
    :: p < MESSAGES && !PUBLISHED(p) ->
       look_ahead();
       if :: dead && more -> pass_over() :: dead && !more -> break :: !dead -> skip fi
#else
    :: p < MESSAGES && !PUBLISHED(p) && dead ->
#ifdef STOPS_AT_FIRST_HOLE
       break
#else
       look_ahead();
       if :: more -> pass_over() :: !more -> break fi
#endif
#endif
    :: p == MESSAGES && dead -> break
    od;
    assert(read[s] == committed)
}

init { atomic { run Stage(0); run Stage(1) } }
