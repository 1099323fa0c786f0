/* Bells: members of one stage that event loops wait for, beside one that sleeps on its futex word. Nobody sleeps who has
   something to do, a wake that a member does not use goes on, and a level that is kept up has a reason.

   A bell is a FIFO; `bell` in the record says that its owner watches it instead of sleeping on its futex word.
   Waker: after a publish claim one bit and bump the futex word of its owner; read its `bell`; ring, or wake the futex.
     It may be preempted between claiming and ringing.
   Arming: drain the FIFO; `bell`, the bit; look again. A sleeper on the futex word clears `bell`, sets the bit, looks again.
   Getting up: clear the bit. Who took looks whether there is more and wakes one more; who gives up with a claimed bit,
     cancelled or because its time is over, wakes another one.
   Level (fileno): after each call: nothing to take: drain, THEN see whether the bit is still there, if not arm and look again;
     something to take: clear the bit, wake another one for it (its user may be slow), ring one's own bell once.

   Member 0 is a task of asyncio, member 1 keeps a level, member 2 sleeps in select(). Each one may also be left out.

@ holds  short  MEMBERS=TASK+LEVEL MESSAGES=2 CANCELS=1
@ holds  short  MEMBERS=LEVEL+SELECT MESSAGES=2 CANCELS=1
@ holds  long   MEMBERS=TASK+LEVEL MESSAGES=3 CANCELS=1
@ holds  long   MEMBERS=TASK+LEVEL+SELECT MESSAGES=1 CANCELS=1
@ mutant CANCELLED_IN_SILENCE     | MEMBERS=TASK+LEVEL MESSAGES=1 CANCELS=1   | takeable
@ mutant SELECT_ENDS_IN_SILENCE   | MEMBERS=LEVEL+SELECT MESSAGES=1 CANCELS=1 | takeable
@ mutant NO_SECOND_LOOK           | MEMBERS=TASK MESSAGES=1                   | takeable
@ mutant LOOKS_THEN_ARMS_LEVEL    | MEMBERS=LEVEL MESSAGES=1                  | takeable
@ mutant DRAINS_AFTER_ARMING      | MEMBERS=TASK MESSAGES=1                   | takeable
@ mutant BELL_STAYS               | MEMBERS=LEVEL MESSAGES=1                  | takeable
@ mutant LEVEL_DRAINS_ONLY_TO_ARM | MEMBERS=TASK+LEVEL MESSAGES=2             | reason
@ mutant LEVEL_DRAINS_LAST        | MEMBERS=TASK+LEVEL MESSAGES=2             | takeable
@ mutant NO_PASS_ON               | MEMBERS=TASK+LEVEL MESSAGES=2             | takeable
*/

#define TASK     1
#define LEVEL    2
#define SELECT   4
#ifndef MESSAGES
#define MESSAGES 1
#endif
#ifndef CANCELS
#define CANCELS 0
#endif
#define NOBODY   3

byte published, taken;                  /* taken: the stage's prefix, each message by one member */
bool idle[3], bell[3], fifo[3];         /* shared: the mask, what each one watches, its FIFO */
bool bumped[3], asleep[3];              /* futex word: changed since its owner read it; the kernel's queue */
byte cancels, waiting;                  /* waiting: members that have not gone */
bool rang[3], reason, takeable;         /* ghosts */

#define THERE      (taken < published)
#define SOMEBODY   (idle[0] || idle[1] || idle[2])

inline wake_one() {
    atomic {
        if
        :: idle[0] -> idle[0] = 0; bumped[0] = 1; w = 0
        :: idle[1] -> idle[1] = 0; bumped[1] = 1; w = 1
        :: idle[2] -> idle[2] = 0; bumped[2] = 1; w = 2
        :: else -> w = NOBODY
        fi }
    atomic {
        if
        :: w != NOBODY && bell[w] -> fifo[w] = 1; rang[w] = 1
        :: w != NOBODY && !bell[w] -> asleep[w] = 0
        :: else
        fi;
        w = 0 } }
inline pass_on() { if :: atomic { SOMEBODY && THERE -> skip }; wake_one() :: else fi }
#define TAKE(where) if :: atomic { THERE -> taken++; goto where } :: else fi
#define CANCEL      atomic { cancels < CANCELS -> cancels++ }
#define LEAVE       atomic { waiting--; goto gone }
/* Getting up with nothing: a wake that came goes on. */
inline rise() {
    atomic { was = idle[me]; idle[me] = 0 }
    if :: !was -> wake_one() :: else fi;
    was = 0 }

active proctype Sender()
{   byte w;
    do :: published < MESSAGES -> published++; wake_one() :: else -> break od
}

proctype Task()
{   byte me = 0, w; bool was;
    bell[me] = 1;
again:
    TAKE(took);
arm:
#ifndef DRAINS_AFTER_ARMING
    fifo[me] = 0;
#endif
    idle[me] = 1;
#ifndef NO_SECOND_LOOK
    TAKE(took);
#endif
#ifdef DRAINS_AFTER_ARMING
    fifo[me] = 0;
#endif
end:
    if
    :: fifo[me] -> fifo[me] = 0; TAKE(took); goto arm
    :: CANCEL;
#ifdef CANCELLED_IN_SILENCE
       idle[me] = 0;
#else
       rise();
#endif
       LEAVE
    fi;
took:
    pass_on();
    idle[me] = 0;
#ifndef NO_PASS_ON
    pass_on();
#endif
    if :: goto again :: LEAVE fi;       /* or works on it for ever */
gone:
    skip
}

proctype Level()
{   byte me = 1, w; bool was, in, rings, there, blocked;
    if :: blocked = 1 :: true fi;       /* never calls one that waits, or once */
    goto keep;
end:
    if
    :: fifo[me] -> TAKE(took); goto keep
    :: !blocked -> blocked = 1          /* a call that waits: on the futex word, with the same bit */
    :: CANCEL; if :: in -> rise() :: else fi; LEAVE
    fi;
block:
    bumped[me] = 0;
#ifndef BELL_STAYS
    bell[me] = 0;
#endif
    idle[me] = 1;
    TAKE(got);
    atomic { if :: !bumped[me] -> asleep[me] = 1 :: else fi }
end_asleep:
    if
    :: !asleep[me] -> TAKE(got); goto block
    :: atomic { CANCEL; asleep[me] = 0 }; rise(); goto keep
    fi;
got:
    pass_on();
    idle[me] = 0;
took:
    pass_on();
keep:
    atomic { rang[me] = 0; there = THERE }
    if
    :: !there ->
#ifdef LEVEL_DRAINS_LAST
       if :: atomic { in && idle[me] -> skip } ; fifo[me] = 0; rings = 0; goto kept :: else fi;
#endif
#ifndef LEVEL_DRAINS_ONLY_TO_ARM
       fifo[me] = 0; rings = 0;
#endif
       if
       :: in && idle[me]
       :: else ->
          fifo[me] = 0; rings = 0;
          bell[me] = 1;
          idle[me] = 1; in = 1;
#ifndef LOOKS_THEN_ARMS_LEVEL
          there = THERE
#endif
       fi
    :: else
    fi;
    if
    :: there ->
       if :: in -> in = 0; idle[me] = 0 :: else fi;
       pass_on();
       if :: !rings -> fifo[me] = 1; rings = 1 :: else fi;
       assert(fifo[me]);                /* readable while a call would not wait */
    :: else
    fi;
kept:
    atomic { reason = there || rang[me]; assert(!fifo[me] || reason) }
    if
    :: goto end
    :: there -> LEAVE                   /* its user is slow */
    fi;
gone:
    skip
}

proctype Select()
{   byte me = 2, w; bool was;
    bell[me] = 1;
again:
    if :: THERE -> goto found :: else fi;
arm:
    fifo[me] = 0;
    idle[me] = 1;
    if :: THERE -> goto found :: else fi;
end:
    if
    :: fifo[me] -> goto arm
    :: CANCEL;                          /* its time is over */
#ifdef SELECT_ENDS_IN_SILENCE
       idle[me] = 0;
#else
       rise();
#endif
       LEAVE
    fi;
found:
    idle[me] = 0;                       /* a wake that came is kept for the call that follows */
    TAKE(took);
    goto again;                         /* another one was faster */
took:
    pass_on();
    if :: goto again :: LEAVE fi;
gone:
    skip
}

active proctype Monitor()
{
end:
    timeout;
    takeable = THERE && waiting != 0; assert(!takeable)
}

init {
    atomic {
        if :: (MEMBERS) & TASK -> waiting++; run Task() :: else fi;
        if :: (MEMBERS) & LEVEL -> waiting++; run Level() :: else fi;
        if :: (MEMBERS) & SELECT -> waiting++; run Select() :: else fi }
}
