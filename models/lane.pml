/* The life of a slot in one lane: a sender that looks ahead, a chain of three stages, members that are killed and buried.

   Who only reads goes on when the stage before has let go, PASSED or DONE: PASSED means "ended, but a view on it lives".
   Who writes (a mutating stage, the sender) waits for DONE of ALL stages before it (the sender: of all stages), so no byte
   changes under a view. A mutating stage whose view stays writable never says PASSED, but DONE when the view is gone. (The library
   turns the arrays of a mutating stage read-only first: then it reads only, and PASSED is right for it as well.)
   Burial, by CAS: TAKEN -> ORPHAN, but DIRTY ones and those on which MAX_DEATHS owners died -> DONE|DROP; PASSED -> DONE.
   Stages after a DROP ack it as DONE|DROP and deliver nothing.

   MUTATES is a mask of the stages that write in place; PAIR is a stage that has two members. Ids are not reused here and burial is never interrupted: burial.pml.

@ holds  short  MUTATES=4 SLOTS=2 MESSAGES=2 KILLS=1
@ holds  short  MUTATES=2 SLOTS=1 MESSAGES=2 KILLS=1
@ holds  short  MUTATES=0 SLOTS=1 MESSAGES=2 KILLS=1 MAX_DEATHS=1
@ holds  short  MUTATES=4 SLOTS=1 MESSAGES=2 KILLS=0 KEPT_UNTIL_READ
@ holds  long   MUTATES=4 SLOTS=1 MESSAGES=2 KILLS=1 PAIR=0
@ holds  long   MUTATES=2 SLOTS=2 MESSAGES=2 KILLS=1 PAIR=1
@ holds  long   MUTATES=4 SLOTS=2 MESSAGES=2 KILLS=2
@ holds  long   MUTATES=2 SLOTS=2 MESSAGES=3 KILLS=2
@ mutant WRITER_GOES_ON_AT_PASSED        | MUTATES=4                   | readers[
@ mutant WRITER_ASKS_STAGE_BEFORE_ONLY   | MUTATES=4                   | readers[
@ mutant SENDER_GOES_ON_AT_PASSED        | MUTATES=2                   | readers[
@ mutant SENDER_ASKS_LAST_STAGE_ONLY     | MUTATES=0                   | readers[
@ mutant READER_WAITS_FOR_DONE           | MUTATES=4 KILLS=0 KEPT_UNTIL_READ | invalid end state
@ mutant MUTATING_STAGE_SAYS_PASSED      | MUTATES=2                   | writers[
@ mutant BURIAL_FORGETS_PASSED           | MUTATES=4 KILLS=1           | invalid end state
@ mutant BURIAL_FORGETS_DIRTY            | MUTATES=2 KILLS=1           | content[
@ mutant DROP_NOT_PASSED_ON              | MUTATES=2 KILLS=1           | dropped[
@ mutant BURIAL_TELLS_NOBODY             | MUTATES=4 KILLS=1           | invalid end state
*/
#ifndef MUTATES
#define MUTATES 4
#endif
#ifndef SLOTS
#define SLOTS 1
#endif
#ifndef MESSAGES
#define MESSAGES 2
#endif
#ifndef KILLS
#define KILLS 1
#endif
#ifndef MAX_DEATHS
#define MAX_DEATHS 2
#endif
#define STAGES 3
#define LOOK_AHEAD 2

#define SLOT(p)        ((p) % SLOTS)
#define LAP(p)         (1 + (p) / SLOTS)               /* laps count from 1: zeroed memory is DONE(0) */
#define POSITION(l, i) (((l) - 1) * SLOTS + (i))
#define BIT(p)         (1 << (p))
#define WRITES(s)      ((MUTATES >> (s)) & 1)

#define DONE   0
#define TAKEN  1
#define PASSED 2
#define ORPHAN 3

typedef Word { byte lap; byte state; byte owner; bit dirty; bit drop; byte deaths };
Word ack[STAGES * SLOTS];
byte ready[SLOTS];                                      /* lap of READY */
#define ACK(s, p)      ack[(s) * SLOTS + SLOT(p)]
byte orphans[STAGES];                                   /* counted up by each burial */

/* what the kernel says: members that are dead and not buried, as a mask of ids */
byte dead[STAGES]; byte kills; bool ended;

/* ghosts: live views, what the bytes are, who saw what */
byte readers[SLOTS], writers[SLOTS], content[SLOTS];
byte delivered[STAGES], dropped[STAGES], finished[STAGES], published;
#define TORN 255
#define CONTENT(s, p)  ((p) + 16 * (MUTATES & (BIT(s) - 1)))   /* the bytes that stage s must find */

#define IS_DONE(s, p)   (ACK(s, p).lap == LAP(p) && ACK(s, p).state == DONE)
#define IS_PASSED(s, p) (ACK(s, p).lap == LAP(p) && ACK(s, p).state == PASSED)
#define LET_GO(s, p)    (IS_DONE(s, p) || IS_PASSED(s, p))

#ifdef READER_WAITS_FOR_DONE
#define MAY_READ(s, p)  IS_DONE(s - 1, p)
#else
#define MAY_READ(s, p)  LET_GO(s - 1, p)
#endif
#if defined(WRITER_GOES_ON_AT_PASSED)
#define MAY_WRITE(s, p) MAY_READ(s, p)
#elif defined(WRITER_ASKS_STAGE_BEFORE_ONLY)
#define MAY_WRITE(s, p) IS_DONE(s - 1, p)
#else
#define MAY_WRITE(s, p) (IS_DONE(0, p) && (s == 1 || IS_DONE(1, p)))
#endif
#define MAY_TAKE(s, p)  (s == 0 || (!WRITES(s) && MAY_READ(s, p)) || (WRITES(s) && MAY_WRITE(s, p)))
#ifdef DROP_NOT_PASSED_ON
#define WAS_DROPPED(s, p) false
#else
#define WAS_DROPPED(s, p) (s > 0 && ACK(s - 1, p).drop)
#endif

/* the sender may write p: every stage is DONE with the lap before */
#define CLEAR(s, p)     (ACK(s, p).lap == LAP(p) - 1 && (ACK(s, p).state == DONE || SENDER_TAKES(s, p)))
#ifdef SENDER_GOES_ON_AT_PASSED
#define SENDER_TAKES(s, p) (ACK(s, p).state == PASSED)
#else
#define SENDER_TAKES(s, p) false
#endif
#ifdef SENDER_ASKS_LAST_STAGE_ONLY
#define FREE(p)         CLEAR(2, p)
#else
#define FREE(p)         (CLEAR(0, p) && CLEAR(1, p) && CLEAR(2, p))
#endif

active proctype Sender()
{   byte p, free;                                       /* positions below `free` are known to be free, for good */
    do
    :: p < MESSAGES && p < free ->
       atomic { assert(readers[SLOT(p)] == 0 && writers[SLOT(p)] == 0); content[SLOT(p)] = TORN }
       if :: atomic { kills < KILLS -> kills++ } break :: true fi;
       content[SLOT(p)] = p;
       atomic { assert(readers[SLOT(p)] == 0); ready[SLOT(p)] = LAP(p); published++; p++ }
       if :: atomic { kills < KILLS -> kills++ } break :: true fi
    :: p < MESSAGES && p == free ->
       FREE(p); free++;
       do :: free < MESSAGES && free < p + LOOK_AHEAD && FREE(free) -> free++ :: else -> break od
    :: p == MESSAGES -> break
    od;
    ended = 1
}

#ifdef KEPT_UNTIL_READ                                  /* stage 0 keeps its views until stage 1 has read: it must not wait */
#define MAY_LET_GO(s, p) (s != 0 || (delivered[1] & BIT(p)))
#else
#define MAY_LET_GO(s, p) true
#endif

inline finish(p) { ACK(stage, p).state = DONE; ACK(stage, p).dirty = 0; finished[stage]++ }
inline drop_view(p) {
    if :: WRITES(stage) -> writers[SLOT(p)]--
       :: else -> assert(content[SLOT(p)] == CONTENT(stage, p)); readers[SLOT(p)]--
    fi }

proctype Member(byte stage; byte me)
{   byte cursor, p, seen = 255, i;
    byte kept;                                          /* 1 + position of a message ended as PASSED */
    bool viewing;
next:
    do
    :: atomic { seen != orphans[stage] ->               /* orphans lie behind the cursor: look for them first */
           i = 0;
           do
           :: i < SLOTS && ack[stage * SLOTS + i].state == ORPHAN ->
              ack[stage * SLOTS + i].state = TAKEN; ack[stage * SLOTS + i].owner = me;
              p = POSITION(ack[stage * SLOTS + i].lap, i); i = 0; goto use
           :: i < SLOTS && ack[stage * SLOTS + i].state != ORPHAN -> i++
           :: i == SLOTS -> break
           od;
           seen = orphans[stage]; i = 0 }
    :: atomic { cursor < MESSAGES && ACK(stage, cursor).lap >= LAP(cursor) -> cursor++ }
    :: atomic { cursor < MESSAGES && ACK(stage, cursor).lap < LAP(cursor) &&
                ready[SLOT(cursor)] == LAP(cursor) && MAY_TAKE(stage, cursor) ->
           p = cursor; cursor++;
           ACK(stage, p).lap = LAP(p); ACK(stage, p).deaths = 0; ACK(stage, p).drop = 0;
           if
           :: WAS_DROPPED(stage, p) ->
              ACK(stage, p).drop = 1; dropped[stage] = dropped[stage] | BIT(p); finish(p); p = 0
           :: else ->
              assert(!(delivered[stage] & BIT(p)));     /* nobody gets it twice without its flag */
              ACK(stage, p).state = TAKEN; ACK(stage, p).owner = me; goto use
           fi }
    :: atomic { kept && MAY_LET_GO(stage, kept - 1) ->  /* the last view is gone */
           assert(IS_PASSED(stage, kept - 1) && ACK(stage, kept - 1).owner == me);
           drop_view(kept - 1); finish(kept - 1); kept = 0 }
    :: atomic { kept && kills < KILLS -> kills++ } goto killed
    :: ended && finished[stage] == published && !kept -> break
    od;
    assert((delivered[stage] | dropped[stage]) == BIT(published) - 1);
    goto over;
use:
    atomic {
        assert(stage == 0 || !(dropped[stage - 1] & BIT(p)));
        assert(content[SLOT(p)] == CONTENT(stage, p) && writers[SLOT(p)] == 0);
        delivered[stage] = delivered[stage] | BIT(p) }
    if
    :: !WRITES(stage) -> atomic { readers[SLOT(p)]++; viewing = 1 }
    :: WRITES(stage) ->
       if :: atomic { kills < KILLS -> kills++ } goto killed :: true fi;
       ACK(stage, p).dirty = 1;                         /* before the first writable view leaves receive() */
       atomic { assert(readers[SLOT(p)] == 0 && writers[SLOT(p)] == 0);
                writers[SLOT(p)]++; viewing = 1; content[SLOT(p)] = TORN }
       if :: atomic { kills < KILLS -> kills++ } goto killed :: true fi;
       atomic { assert(readers[SLOT(p)] == 0); content[SLOT(p)] = CONTENT(stage + 1, p) }
    fi;
    if :: atomic { kills < KILLS -> kills++ } goto killed :: true fi;
    atomic {
        assert(ACK(stage, p).lap == LAP(p) && ACK(stage, p).state == TAKEN && ACK(stage, p).owner == me);
        if
        :: drop_view(p); finish(p)
#ifndef MUTATING_STAGE_SAYS_PASSED
        :: !WRITES(stage) && !kept -> ACK(stage, p).state = PASSED; kept = 1 + p
#else
        :: !kept -> ACK(stage, p).state = PASSED; kept = 1 + p
#endif
        fi;
        viewing = 0; p = 0 }
    goto next;
killed:                                                 /* views die with their process; a new member joins */
    atomic {
        if :: viewing && WRITES(stage) -> writers[SLOT(p)]-- :: viewing && !WRITES(stage) -> readers[SLOT(p)]-- :: else fi;
        if :: kept -> readers[SLOT(kept - 1)]-- :: else fi;
        dead[stage] = dead[stage] | BIT(me);
        me++; cursor = 0; seen = 255; kept = 0; viewing = 0; p = 0 }
    goto next;
over:
    skip
}

#ifdef BURIAL_FORGETS_DIRTY
#define HALF_WRITTEN(w) false
#else
#define HALF_WRITTEN(w) w.dirty
#endif
active proctype Undertaker()
{   byte s, d, i;
end:
    do
    :: atomic { if :: dead[0] -> s = 0 :: dead[1] -> s = 1 :: dead[2] -> s = 2 fi; d = dead[s]; i = 0 }
       do
       :: i < SLOTS ->
          atomic {
              if
              :: ack[s * SLOTS + i].state == TAKEN && (d & BIT(ack[s * SLOTS + i].owner)) ->
                 ack[s * SLOTS + i].deaths++;
                 if
                 :: HALF_WRITTEN(ack[s * SLOTS + i]) || ack[s * SLOTS + i].deaths == MAX_DEATHS ->
                    ack[s * SLOTS + i].state = DONE; ack[s * SLOTS + i].drop = 1; ack[s * SLOTS + i].dirty = 0;
                    finished[s]++; dropped[s] = dropped[s] | BIT(POSITION(ack[s * SLOTS + i].lap, i))
                 :: else -> ack[s * SLOTS + i].state = ORPHAN
                 fi
#ifndef BURIAL_FORGETS_PASSED
              :: ack[s * SLOTS + i].state == PASSED && (d & BIT(ack[s * SLOTS + i].owner)) ->
                 ack[s * SLOTS + i].state = DONE; finished[s]++
#endif
              :: else
              fi;
              i++ }
       :: i == SLOTS -> break
       od;
       atomic {
#ifndef BURIAL_TELLS_NOBODY
           orphans[s]++;
#endif
           dead[s] = dead[s] & ~d; s = 0; d = 0; i = 0 }
    od
}

init {
    atomic {
        run Member(0, 1); run Member(1, 1); run Member(2, 1);
#ifdef PAIR
        run Member(PAIR, 4)
#endif
    }
}
