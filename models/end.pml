/* The end of a channel for the members of one stage, who may keep their messages and views while they ask for more; one is
   killed; a second sender adds its lane before the first one closes, so until both have closed there was never a moment
   without a sender, and nobody may see the end.

   A member that finds nothing to take sets its at_end word, reads the count of lanes, looks at every lane and reads the count
   again. The channel has ended for it when the count is the same, every lane is closed, and each word of its stage is DONE or
   PASSED, or TAKEN by itself or by a LIVING member whose at_end word is set: the word first, then at_end, then life.
   It clears at_end before it takes again, and when it leaves the wait with empty hands. Who leaves for good and keeps
   something sets it, too. A sender counts its lane after the lane can be seen.
   So nobody leaves while a message may come back as an orphan, and nobody waits for members that keep what they have.

   All messages are published when their lane appears; waking is in wake.pml, holes of dead senders in holes.pml.

@ holds  short  MEMBERS=2 LANES=2 QUITS=0
@ holds  short  MEMBERS=2 LANES=1 QUITS=2
@ holds  long   MEMBERS=3 LANES=2 QUITS=0 LOOKS=0
@ holds  long   MEMBERS=3 LANES=1 QUITS=1 LOOKS=0
@ holds  long   MEMBERS=2 LANES=2 QUITS=2
@ mutant ENDS_WHEN_ALL_TAKEN       | MEMBERS=2 LANES=1 | owed
@ mutant ENDS_WHEN_ALL_DONE        | MEMBERS=2 LANES=1 | invalid end state
@ mutant PASSED_IS_NOT_ENOUGH      | MEMBERS=2 LANES=1 | invalid end state
@ mutant AT_END_CLEARED_AFTER_TAKE | MEMBERS=2 LANES=2 | owed
@ mutant AT_END_READ_FIRST         | MEMBERS=2 LANES=2 | owed
@ mutant DEAD_MEMBERS_COUNT        | MEMBERS=2 LANES=1 | owed
@ mutant LEAVER_DOES_NOT_COUNT     | MEMBERS=2 LANES=1 QUITS=1 | invalid end state
@ mutant LANES_COUNTED_ONCE        | MEMBERS=2 LANES=2 | closed
@ mutant COUNTED_BEFORE_SEEN       | MEMBERS=2 LANES=2 | closed
*/
#ifndef MEMBERS
#define MEMBERS 3
#endif
#ifndef LANES
#define LANES 2                         /* with 1, the only lane is closed from the start */
#endif
#define WORDS    2
#define LANE(i)  ((i) * LANES / WORDS)  /* a message in each of two lanes, or two in one */
#ifndef QUITS
#define QUITS    0
#endif
#ifndef LOOKS
#define LOOKS    1                      /* times that a member looks again for the end although it is not there yet */
#endif

#define NEW      0
#define TAKEN    1
#define PASSED   2
#define DONE     3
#define ORPHAN   4
byte state[WORDS], owner[WORDS];
bool at_end[MEMBERS], dead[MEMBERS];
bool visible[2], closed[2]; byte lanes = 1;
bool killed;

bool looking[MEMBERS], ended[MEMBERS], seen_end, fresh[WORDS], owed[WORDS];    /* ghosts */
byte quits;                             /* waits left with empty hands, and leavers */

proctype Senders()
{
#ifdef COUNTED_BEFORE_SEEN
    lanes++; visible[1] = 1;
#else
    visible[1] = 1; lanes++;
#endif
    if :: closed[0] = 1; closed[1] = 1 :: closed[1] = 1; closed[0] = 1 fi
}

#define TAKABLE(i)    (visible[LANE(i)] && (state[i] == NEW || state[i] == ORPHAN))
#ifdef DEAD_MEMBERS_COUNT
#define WAITS(o)      at_end[o]
#else
#define WAITS(o)      (at_end[o] && !dead[o])
#endif
#if defined(ENDS_WHEN_ALL_TAKEN)
#define TAKEN_COUNTS(i)   true
#elif defined(ENDS_WHEN_ALL_DONE)
#define TAKEN_COUNTS(i)   false
#else
#define TAKEN_COUNTS(i)   (owner[i] == me || WAITS(owner[i]))
#endif
#if defined(PASSED_IS_NOT_ENOUGH) || defined(ENDS_WHEN_ALL_DONE)
#define PASSED_COUNTS     false
#else
#define PASSED_COUNTS     true
#endif
#define COUNTS(i)     (state[i] == DONE || (state[i] == PASSED && PASSED_COUNTS) || (state[i] == TAKEN && TAKEN_COUNTS(i)))
#define LANE_OVER(i)  (!visible[LANE(i)] || (closed[LANE(i)] && COUNTS(i)))
#define ANY_TAKABLE   (TAKABLE(0) || TAKABLE(1))
#define ALL_OVER      (LANE_OVER(0) && LANE_OVER(1))

/* Ghosts. What a member took since it last waited is owed to the others if it dies; what it kept while it waited, only to
   those who have not yet begun their last look. */
inline now_waits() {
    at_end[me] = 1; i = 0;
    do :: i < WORDS -> if :: owner[i] == me -> fresh[i] = 0 :: else fi; i++ :: i == WORDS -> break od;
    i = 0 }
inline die() {
    looking[me] = 0; over = 0; i = 0;
    do
    :: i < MEMBERS -> if :: !dead[i] && !ended[i] && !looking[i] -> over = 1 :: else fi; i++
    :: i == MEMBERS -> break
    od;
    i = 0;
    do
    :: i < WORDS -> if :: state[i] == TAKEN && owner[i] == me -> owed[i] = fresh[i] || over :: else fi; i++
    :: i == WORDS -> break
    od;
    i = 0; over = 0 }
#define KILL if :: atomic { !killed -> killed = 1; dead[me] = 1; die() } goto gone :: true fi

inline read_word() {
    if
    :: state[i] == DONE
    :: state[i] == PASSED -> over = PASSED_COUNTS
    :: state[i] == NEW || state[i] == ORPHAN -> over = 0
#if defined(ENDS_WHEN_ALL_TAKEN) || defined(ENDS_WHEN_ALL_DONE)
    :: state[i] == TAKEN -> over = TAKEN_COUNTS(i)
#else
    :: state[i] == TAKEN -> o = owner[i]
#endif
    fi }

proctype Member(byte me)
{   byte i, o, count, looks; bool over;
#ifdef AT_END_READ_FIRST
    bool waits[MEMBERS];
#endif
next:
    if
    :: ANY_TAKABLE -> goto take
    :: looks < LOOKS -> looks++; goto look
    :: !at_end[me] || ALL_OVER -> goto look
    :: atomic { quits < QUITS -> quits++ } goto leave
    fi;

take:
#ifndef AT_END_CLEARED_AFTER_TAKE
    at_end[me] = 0;
#endif
    atomic {
        if
        :: TAKABLE(0) -> i = 0
        :: TAKABLE(1) -> i = 1
        :: else -> goto next
        fi;
        state[i] = TAKEN; owner[i] = me; owed[i] = 0; fresh[i] = 1 }
#ifdef AT_END_CLEARED_AFTER_TAKE
    at_end[me] = 0;
#endif
    KILL;
    atomic {
        if
        :: state[i] = DONE; owner[i] = 0; fresh[i] = 0  /* ended, no view */
        :: state[i] = PASSED; fresh[i] = 0              /* ended, its view is kept */
        :: true                                         /* the message itself is kept */
        fi;
        i = 0 }
    goto next;

look:
    atomic { now_waits(); looking[me] = 1; over = 1; i = WORDS }
#ifdef AT_END_READ_FIRST
    do :: o < MEMBERS -> waits[o] = WAITS(o); o++ :: o == MEMBERS -> break od;
#endif
    count = lanes;
    do
    :: atomic {                                         /* the word, */
           over && i > 0 -> i--; o = me;
           if
           :: !visible[LANE(i)]
           :: visible[LANE(i)] && !closed[LANE(i)] -> over = 0
           :: visible[LANE(i)] && closed[LANE(i)] -> read_word()
           fi }
       if                                               /* then its owner's at_end, then its life */
       :: o != me ->
#ifdef AT_END_READ_FIRST
          over = waits[o];
#else
          over = at_end[o];
#endif
#ifndef DEAD_MEMBERS_COUNT
          over = over && !dead[o]
#endif
       :: o == me
       fi
    :: else -> break
    od;
#ifndef LANES_COUNTED_ONCE
    if :: lanes != count -> over = 0 :: lanes == count fi;
#endif
    if
    :: over -> assert(closed[0] && closed[1]); atomic { seen_end = 1; ended[me] = 1; looking[me] = 0; goto gone }
    :: !over -> atomic { looking[me] = 0; i = 0; count = 0; o = 0 }
    fi;
    KILL;
    if                                                  /* waits on; or a time-out: does other things, asks again later */
    :: true
    :: atomic { quits < QUITS -> quits++; at_end[me] = 0 } KILL
    fi;
    goto next;

leave:                                                  /* it may keep what it has, and will not ask again */
    atomic {
        ended[me] = 1;
        do :: i < WORDS -> owed[i] = 0; i++ :: i == WORDS -> break od;
        i = 0;
#ifdef LEAVER_DOES_NOT_COUNT
        at_end[me] = 0
#else
        now_waits()
#endif
    }
    KILL;

gone:
    skip
}

active proctype Undertaker()
{   byte i;
end:
    killed;
    do
    :: i < WORDS ->
       atomic {
           if
           :: state[i] == TAKEN && dead[owner[i]] -> state[i] = ORPHAN
           :: state[i] == PASSED && dead[owner[i]] -> state[i] = DONE
           :: else
           fi;
           i++ }
    :: i == WORDS -> break
    od
}

active proctype Monitor()
{   byte i;
end:
    timeout;
    do :: i < WORDS -> assert(!(seen_end && owed[i] && state[i] == ORPHAN)); i++ :: i == WORDS -> break od
}

init {
    atomic {
        visible[0] = 1;
#if LANES == 2
        run Senders();
#else
        closed[0] = 1; closed[1] = 1;
#endif
        run Member(0); run Member(1);
#if MEMBERS > 2
        run Member(2)
#endif
    }
}
