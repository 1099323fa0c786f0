/* The eventcount: at rest nobody sleeps who has something to take, whose channel has ended, or who has a free slot to write.
   Steps that could only make somebody look later, or wake more of them, are merged: claiming a bit and bumping its owner,
   all wakes after one publish or ending, a look over several words (what can be taken stays so until somebody takes it).

   Each stage has an idle mask, a bit per member; the sender has a bit; everybody sleeps on a futex word of its own.
   Sleeper: read own futex word, set the bit, full fence, LOOK AGAIN, sleep.
   Waker: after a publish or an ending and a full fence: claim one bit, bump and wake that member.
     A publish (of any number) wakes one member of the first stage; PASSED or DONE one of the stage directly after;
     DONE also one of every MUTATING stage after it (they wait for the views of all stages before them) and the sender.
   Who takes clears its own bit, THEN looks, and if more is there wakes one more of its stage.
   Who leaves a wait with empty hands (time-out, Ctrl-C, close) does the same: its wake may have been meant for a message.
   Once the lane is closed, an ending and a member that sets at_end wake all of their own stage: they may wait for the end.
   A close and a burial wake all. A member may work for ever on what it took, or keep it.

@ holds  short  STAGES=1 MEMBERS=2 MESSAGES=3 CAPACITY=1 GIVE_UPS=1
@ holds  short  STAGES=1 MEMBERS=2 MESSAGES=2 CAPACITY=1 KILLS=1
@ holds  short  STAGES=2 MEMBERS=2 MESSAGES=1 CAPACITY=1
@ holds  short  STAGES=3 MEMBERS=1 MESSAGES=1 CAPACITY=1 MUTATES=4
@ holds  long   STAGES=1 MEMBERS=3 MESSAGES=2 CAPACITY=2 GIVE_UPS=1
@ holds  long   STAGES=1 MEMBERS=3 MESSAGES=2 CAPACITY=1 KILLS=1
@ holds  long   STAGES=3 MEMBERS=1 MESSAGES=2 CAPACITY=1 MUTATES=4 KILLS=1
@ mutant NO_SECOND_LOOK            | MEMBERS=1                              | (p<
@ mutant ONE_ARMED_FLAG            | MEMBERS=2                              | (p<
@ mutant NO_CHAIN                  | MEMBERS=2                              | (p<
@ mutant LOOKS_THEN_CLEARS         | MEMBERS=2                              | (p<
@ mutant GIVES_UP_IN_SILENCE       | MEMBERS=2 GIVE_UPS=1                   | (p<
@ mutant ENDING_WAKES_NO_COLLEAGUE | MEMBERS=2                              | over
@ mutant AT_END_WAKES_NO_COLLEAGUE | MEMBERS=2                              | over
@ mutant DONE_WAKES_NEXT_ONLY      | STAGES=3 MEMBERS=1 MESSAGES=1 MUTATES=4 | (p<
@ mutant PASSED_WAKES_NOBODY       | STAGES=3 MEMBERS=1 MESSAGES=1 MUTATES=4 | (p<
@ mutant BURIAL_WAKES_NOBODY       | MEMBERS=2 KILLS=1                      | (p<
@ mutant BURIAL_WAKES_OWN_STAGE    | STAGES=2 MEMBERS=1 MESSAGES=1 MUTATES=2 KILLS=1 | (p<
*/
#ifndef STAGES
#define STAGES 1
#endif
#ifndef MEMBERS
#define MEMBERS 2
#endif
#ifndef MESSAGES
#define MESSAGES 2
#endif
#ifndef CAPACITY
#define CAPACITY 2
#endif
#ifndef MUTATES
#define MUTATES 0
#endif
#ifndef KILLS
#define KILLS 0
#endif
#ifndef GIVE_UPS
#define GIVE_UPS 0
#endif
#define WRITES(s) ((MUTATES >> (s)) & 1)
#define SENDER    (STAGES * MEMBERS)

#define NEW       0
#define TAKEN     1
#define PASSED    2
#define DONE      3
#define ORPHAN    4
byte state[STAGES * MESSAGES], owner[STAGES * MESSAGES];
#define STATE(s, p) state[(s) * MESSAGES + (p)]
#define OWNER(s, p) owner[(s) * MESSAGES + (p)]
byte published, taken[STAGES];          /* taken: the length of the stage's prefix */
bool closed, at_end[STAGES * MEMBERS];

bool idle[SENDER + 1];                  /* the masks */
bool bumped[SENDER + 1];                /* futex word: changed since its owner read it */
bool asleep[SENDER + 1];                /* ghost */
bool dead[SENDER + 1]; byte kills, give_ups;
#ifdef ONE_ARMED_FLAG
bool armed;
#endif

/* The looks: each sets its result, in one step. */
inline look() {                         /* p: what stage s can take, or MESSAGES */
    d_step {
        p = 0;
        do :: p < taken[s] && STATE(s, p) != ORPHAN -> p++ :: else -> break od;
        q = 0;
        if
        :: p == taken[s] && p < published && s > 0 ->
           do
           :: q < s && !(STATE(q, p) == DONE || (STATE(q, p) == PASSED && !WRITES(s))) -> break
           :: q < s && (STATE(q, p) == DONE || (STATE(q, p) == PASSED && !WRITES(s))) -> q++
           :: q == s -> break
           od;
           if :: q < s -> p = MESSAGES :: else fi
        :: p == published -> p = MESSAGES
        :: else
        fi;
        q = 0 } }
inline look_for_end() {                 /* over: the end has come for `me` */
    d_step {
        over = closed && taken[s] == published; q = 0;
        do
        :: q < taken[s] ->
           if
           :: STATE(s, q) == ORPHAN -> over = 0
           :: STATE(s, q) == TAKEN && OWNER(s, q) != me && !(at_end[OWNER(s, q)] && !dead[OWNER(s, q)]) -> over = 0
           :: else
           fi;
           q++
        :: else -> break
        od;
        q = 0 } }
inline look_for_slot() {                /* free: the sender may write the next position */
    d_step {
        free = 1; q = 0;
        do
        :: published >= CAPACITY && q < STAGES -> if :: STATE(q, published - CAPACITY) != DONE -> free = 0 :: else fi; q++
        :: else -> break
        od;
        q = 0 } }

inline wake_one(t) {                    /* after a full fence; inside an atomic */
#ifdef ONE_ARMED_FLAG
    if                                  /* FUTEX_WAKE of one on the stage's word; who is about to sleep sees it changed */
    :: armed && asleep[(t) * MEMBERS] -> armed = 0; bumped[(t) * MEMBERS] = 1
    :: armed && asleep[(t) * MEMBERS + 1] -> armed = 0; bumped[(t) * MEMBERS + 1] = 1
    :: armed && !asleep[(t) * MEMBERS] && !asleep[(t) * MEMBERS + 1] ->
       armed = 0; bumped[(t) * MEMBERS] = 1; bumped[(t) * MEMBERS + 1] = 1
    :: else
    fi
#else
    if
    :: idle[(t) * MEMBERS] -> idle[(t) * MEMBERS] = 0; bumped[(t) * MEMBERS] = 1
#if MEMBERS > 1
    :: idle[(t) * MEMBERS + 1] -> idle[(t) * MEMBERS + 1] = 0; bumped[(t) * MEMBERS + 1] = 1
#endif
#if MEMBERS > 2
    :: idle[(t) * MEMBERS + 2] -> idle[(t) * MEMBERS + 2] = 0; bumped[(t) * MEMBERS + 2] = 1
#endif
    :: else
    fi
#endif
}
inline wake_members(first, last) {      /* all but oneself; inside an atomic */
    q = first;
    do
    :: q <= last -> if :: q != me && idle[q] -> idle[q] = 0; bumped[q] = 1 :: else fi; q++
    :: else -> break
    od;
    q = 0 }
#define WAKE_COLLEAGUES wake_members(s * MEMBERS, s * MEMBERS + MEMBERS - 1)
#define WAKE_ALL        wake_members(0, SENDER)
#ifdef ENDING_WAKES_NO_COLLEAGUE
#define ENDING_WAKES_COLLEAGUES skip
#else
#define ENDING_WAKES_COLLEAGUES if :: closed -> WAKE_COLLEAGUES :: else fi
#endif

#define KILL(m) if :: atomic { kills < KILLS -> kills++; dead[m] = 1; asleep[m] = 0 } goto killed :: true fi

active proctype Sender()
{   byte q, me = SENDER; bool free;
    do
    :: published < MESSAGES ->
       look_for_slot();
       if
       :: !free ->
          atomic { bumped[me] = 0; idle[me] = 1 }
          look_for_slot();
          if
          :: !free ->
             asleep[me] = 1;
end:         atomic { bumped[me] -> asleep[me] = 0 }
          :: free
          fi;
          idle[me] = 0
       :: free ->
          published++;
          KILL(me);
          atomic {
              look_for_slot();
              if
              :: published < MESSAGES && free       /* a batch: published word by word, one wake */
              :: wake_one(0)
              fi }
       fi
    :: published == MESSAGES -> break
    od;
    if :: goto killed :: closed = 1 fi;             /* it may also stay, and publish nothing more */
    KILL(me);
    atomic { WAKE_ALL }
killed:
    skip
}

inline take_if_there() {                /* inside an atomic */
    look();
    if
    :: p < MESSAGES ->
       at_end[me] = 0; mine = p; STATE(s, p) = TAKEN; OWNER(s, p) = me;
       if :: p == taken[s] -> taken[s]++ :: else fi;
       p = 0; goto took
    :: else -> p = 0
    fi }

proctype Member(byte me; byte s)
{   byte p, q, t, mine; bool over, passed;
again:
    atomic { take_if_there() }
    atomic {
        bumped[me] = 0; idle[me] = 1;
#ifdef ONE_ARMED_FLAG
        armed = 1
#endif
    }
    atomic {
#ifndef NO_SECOND_LOOK
        take_if_there();
#endif
        if :: closed && !at_end[me] :: else -> goto sleep fi }
    at_end[me] = 1;                     /* once: two that wait for the end must not wake each other for ever */
#ifndef AT_END_WAKES_NO_COLLEAGUE
    atomic { WAKE_COLLEAGUES }
#endif
sleep:
    atomic {
        look_for_end();
        if :: over -> idle[me] = 0; goto gone :: else -> asleep[me] = 1 fi }
end:
    if
    :: atomic { bumped[me] -> asleep[me] = 0 }
       KILL(me);
       goto again
    :: atomic { give_ups < GIVE_UPS -> give_ups++; asleep[me] = 0 }
       atomic {
           idle[me] = 0;
           look();
#ifndef GIVES_UP_IN_SILENCE
           if :: p < MESSAGES -> wake_one(s) :: else fi;
#endif
           goto gone }
    fi;

took:
#ifdef LOOKS_THEN_CLEARS
    look();
    idle[me] = 0;
#else
    atomic { idle[me] = 0; look() }
#endif
    atomic {
#ifndef NO_CHAIN
        if :: p < MESSAGES -> wake_one(s) :: else fi;
#endif
        p = 0 }
    KILL(me);
    if
    :: goto gone                        /* works on it for ever */
    :: mine = 0; goto again             /* keeps the message and asks for more */
    :: s + 1 < STAGES && !WRITES(s) ->
       STATE(s, mine) = PASSED;
       atomic {
#ifndef PASSED_WAKES_NOBODY
           wake_one(s + 1);
#endif
           ENDING_WAKES_COLLEAGUES }
       if :: mine = 0; goto again :: passed = 1 fi      /* keeps the view, or lets it go */
    :: true
    fi;
    STATE(s, mine) = DONE;
    atomic {
        t = s + 1;
        do
        :: t < STAGES && ((t == s + 1 && !passed) || WRITES(t)) -> wake_one(t); t++
        :: t < STAGES && !((t == s + 1 && !passed) || WRITES(t)) -> t++
        :: t >= STAGES -> break
#ifdef DONE_WAKES_NEXT_ONLY
        :: t > s + 1 -> break
#endif
        od;
        if :: idle[SENDER] -> idle[SENDER] = 0; bumped[SENDER] = 1 :: else fi;
        ENDING_WAKES_COLLEAGUES;
        t = 0; mine = 0; passed = 0;
        if :: goto again :: goto gone fi }          /* or never asks again */
killed:
gone:
    skip
}

active proctype Undertaker()
{   byte me = 255, q, d, buried;
end:
    do
    :: kills > buried ->
       atomic {
           buried++;
           if :: dead[SENDER] -> closed = 1 :: else fi;            /* its lane has ended */
           q = 0;
           do
           :: q < STAGES * MESSAGES ->
              if
              :: state[q] == TAKEN && dead[owner[q]] -> state[q] = ORPHAN
              :: state[q] == PASSED && dead[owner[q]] -> state[q] = DONE
              :: else
              fi;
              q++
           :: else -> break
           od;
           q = 0 }
#if defined(BURIAL_WAKES_OWN_STAGE)
       atomic {
           d = 0; do :: d < SENDER && !dead[d] -> d++ :: else -> break od;
           wake_members(d / MEMBERS * MEMBERS, d / MEMBERS * MEMBERS + MEMBERS - 1); d = 0 }
#elif !defined(BURIAL_WAKES_NOBODY)
       atomic { WAKE_ALL }
#endif
    od
}

active proctype Monitor()
{   byte p, q, me, s; bool over, free;
end:
    timeout;
    do
    :: me < SENDER ->
       s = me / MEMBERS;
       look(); assert(!(asleep[me] && p < MESSAGES));              /* nobody sleeps on a message */
       look_for_end(); assert(!(asleep[me] && over));              /* nor on the end */
       me++
    :: me == SENDER -> break
    od;
    look_for_slot(); assert(!(asleep[SENDER] && free))             /* nor on a free slot */
}

init {
    byte m;
    atomic {
        do                        /* the first stage has all its members, the others one each */
        :: m < SENDER -> if :: m < MEMBERS || m % MEMBERS == 0 -> run Member(m, m / MEMBERS) :: else fi; m++
        :: else -> break
        od }
}
