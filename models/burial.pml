/* Burial: members of one stage are killed at any step, also while they bury; undertakers are stopped for ever; ids are used again.

   A member record is ONE word (join number, state) beside a hazard word `sweeping`. To bury d:
     read d's record word: ACTIVE under join number u; THEN ask the kernel whether d is dead;
     sweeping = d, full fence; the record must still be (u, ACTIVE), else stop;
     CAS every TAKEN(d) to ORPHAN; count `orphans` up, always (who did this before may have died before it counted);
     CAS the record to (u, SWEPT); sweeping = none.
   Every step may be repeated, killed or stopped. Id d is used again when its record says SWEPT and no living `sweeping`
   names it: a stopped undertaker may hold a CAS on TAKEN(d) in its hand. Who joins may bury before it has an id of its own:
   it does so from a spare record, or a stage of nothing but dead members would stay full for ever.
   Members compare `orphans` with their copy, look for orphans first, and take over the copy that they read BEFORE they looked.
   A take that the caller never saw goes back: ORPHAN by its owner, then `orphans` is counted up.

   Lapped slots, PASSED and DIRTY are in lane.pml: here every message has a slot, all are published.

@ holds  short  MESSAGES=1 KILLS=1 STOPS=1 RETURNS=0
@ holds  short  MEMBERS=2 MESSAGES=2 KILLS=3 STOPS=0 RETURNS=1
@ holds  long   MESSAGES=1 KILLS=1 STOPS=1 RETURNS=1
@ holds  long   MESSAGES=1 KILLS=2 STOPS=1 RETURNS=0
@ mutant REUSE_IGNORES_HAZARDS      |                            | holder
@ mutant REUSE_UNSWEPT              |                            | invalid end state
@ mutant SWEPT_BEFORE_TOLD          | STOPS=1                    | invalid end state
@ mutant DEATH_ASKED_FIRST          |                            | holder
@ mutant RECORD_IN_TWO_WORDS        |                            | holder
@ mutant COUNTS_ONLY_OWN_ORPHANS    | KILLS=2                    | invalid end state
@ mutant COPY_AFTER_LOOKING         | STOPS=1 NOBODY_JOINS       | invalid end state
@ mutant LOOKS_ONCE_PER_COUNT       | MESSAGES=2 KILLS=2 NOBODY_JOINS | invalid end state
@ mutant JOINER_CANNOT_BURY         | MEMBERS=2 KILLS=2          | invalid end state
*/
#ifndef MEMBERS
#define MEMBERS 3
#endif
#ifndef MESSAGES
#define MESSAGES 1
#endif
#ifndef KILLS
#define KILLS 1
#endif
#ifndef STOPS
#define STOPS 0
#endif
#ifndef RETURNS
#define RETURNS 0
#endif
#define SPARE   MEMBERS                 /* the record from which a joiner buries */
#define NOBODY  255

#define NEW     0
#define TAKEN   1
#define ORPHAN  2
#define DONE    3
byte word[MESSAGES], owner[MESSAGES];   /* the stage's ack words */
byte orphans;

#define SWEPT   0
#define ACTIVE  1
byte join[MEMBERS], record[MEMBERS];    /* one word: join number, state */
byte sweeping[MEMBERS + 1];             /* hazard words: an id + 1 */
bool lock[MEMBERS + 1];                 /* the kernel's word: held by a living process */
byte joins = MEMBERS, kills, stops, returns;

byte holder[MESSAGES];                  /* ghosts: join number of who holds it; first deliveries */
bool delivered[MESSAGES];

#if MESSAGES == 1
#define ALL_DONE (word[0] == DONE)
#else
#define ALL_DONE (word[0] == DONE && word[1] == DONE)
#endif
#define KILL if :: atomic { kills < KILLS -> kills++ } goto killed :: true fi
#define STOP if :: atomic { stops < STOPS -> stops++ } goto over :: true fi          /* for ever: its lock is never free */

#define NAMES(h, x) (lock[h] && sweeping[h] == (x) + 1)
#if MEMBERS == 2
#define HAZARD(x) (NAMES(0, x) || NAMES(1, x) || NAMES(2, x))
#else
#define HAZARD(x) (NAMES(0, x) || NAMES(1, x) || NAMES(2, x) || NAMES(3, x))
#endif
#ifdef DEATH_ASKED_FIRST
#define TO_BURY(x) (me != x && !lock[x])
#define READ_RECORD
#else
#define TO_BURY(x) (me != x && !lock[x] && record[x] == ACTIVE)
#define READ_RECORD u = join[d]
#endif
#ifdef REUSE_UNSWEPT
#define REUSABLE(x) !lock[x]
#elif defined(REUSE_IGNORES_HAZARDS)
#define REUSABLE(x) (!lock[x] && record[x] == SWEPT)
#else
#define REUSABLE(x) (!lock[x] && record[x] == SWEPT && !HAZARD(x))   /* looked at again step by step */
#endif

inline mark_swept() {                   /* CAS */
    if :: atomic { record[d] == ACTIVE && join[d] == u -> record[d] = SWEPT } :: else fi }

proctype Member(byte me)
{   byte mine;                          /* my join number; 0 while I have no id */
    byte p, seen = NOBODY, count, d, u, i;
    byte id;                            /* 1 + the id that a joiner is about to use */
    bool again;
    if :: me == SPARE -> goto joining :: else -> mine = 1 + me fi;
next:
    do
    :: seen != orphans -> goto look
    :: atomic { word[0] == NEW -> word[0] = TAKEN; owner[0] = me; p = 0; again = 0 } goto use
#if MESSAGES > 1
    :: atomic { word[0] != NEW && word[1] == NEW -> word[1] = TAKEN; owner[1] = me; p = 1; again = 0 } goto use
#endif
    :: atomic { !ALL_DONE && TO_BURY(0) -> d = 0; READ_RECORD } goto bury
    :: atomic { !ALL_DONE && TO_BURY(1) -> d = 1; READ_RECORD } goto bury
#if MEMBERS > 2
    :: atomic { !ALL_DONE && TO_BURY(2) -> d = 2; READ_RECORD } goto bury
#endif
    :: ALL_DONE -> break
    od;
    goto over;

look:                                   /* for orphans: they lie behind every cursor */
    count = orphans; i = 0;
    do
    :: i < MESSAGES ->
       if
       :: atomic { word[i] == ORPHAN -> word[i] = TAKEN; owner[i] = me; p = i; again = 1; i = 0;
#ifdef LOOKS_ONCE_PER_COUNT
                   seen = count;
#endif
                   count = 0 } goto use
       :: word[i] != ORPHAN -> i++
       fi
    :: i == MESSAGES -> break
    od;
#ifdef COPY_AFTER_LOOKING
    count = orphans;
#endif
    atomic { seen = count; i = 0; count = 0 } goto next;

use:
    atomic {
        assert(holder[p] == 0 && (again || !delivered[p])); delivered[p] = 1; holder[p] = mine }
    KILL;
    if
    :: atomic { assert(word[p] == TAKEN && owner[p] == me && holder[p] == mine);     /* a plain store follows */
                holder[p] = 0; word[p] = DONE; p = 0; again = 0 }
    :: atomic { returns < RETURNS -> returns++; assert(word[p] == TAKEN && owner[p] == me && holder[p] == mine);
                holder[p] = 0; word[p] = ORPHAN; p = 0; again = 0 }
       KILL; orphans++
    fi;
    goto next;

bury:                                   /* d, whose record said ACTIVE under join number u */
#ifdef DEATH_ASKED_FIRST
    if :: atomic { record[d] == ACTIVE -> u = join[d] } :: else -> goto buried fi;
#else
    if :: lock[d] -> goto buried :: !lock[d] fi;
#endif
    sweeping[me] = d + 1;
#ifdef RECORD_IN_TWO_WORDS
    if :: join[d] == u :: join[d] != u -> goto buried fi;
    if :: record[d] == ACTIVE :: record[d] != ACTIVE -> goto buried fi;
#else
    if :: record[d] == ACTIVE && join[d] == u :: else -> goto buried fi;
#endif
    i = 0;
    do
    :: i < MESSAGES ->
       if
       :: word[i] == TAKEN && owner[i] == d ->
          KILL; STOP;
          if :: atomic { word[i] == TAKEN && owner[i] == d -> word[i] = ORPHAN; count = 1 } :: else fi   /* CAS */
       :: else
       fi;
       i++
    :: i == MESSAGES -> break
    od;
    KILL; STOP;
#ifdef SWEPT_BEFORE_TOLD
    mark_swept(); KILL; STOP; orphans++;
#elif defined(COUNTS_ONLY_OWN_ORPHANS)
    orphans = orphans + count; KILL; STOP; mark_swept();
#else
    orphans++; KILL; STOP; mark_swept();
#endif
    STOP;
buried:
    atomic { sweeping[me] = 0; d = 0; u = 0; i = 0; count = 0 }
    if :: mine -> goto next :: else fi;

joining:                                /* mine == 0, me == SPARE */
    do
#ifndef JOINER_CANNOT_BURY
    :: atomic { !ALL_DONE && TO_BURY(0) -> d = 0; READ_RECORD } goto bury
    :: atomic { !ALL_DONE && TO_BURY(1) -> d = 1; READ_RECORD } goto bury
#if MEMBERS > 2
    :: atomic { !ALL_DONE && TO_BURY(2) -> d = 2; READ_RECORD } goto bury
#endif
#endif
    :: atomic { !ALL_DONE && REUSABLE(0) -> lock[0] = 1; id = 0 + 1 } break
    :: atomic { !ALL_DONE && REUSABLE(1) -> lock[1] = 1; id = 1 + 1 } break
#if MEMBERS > 2
    :: atomic { !ALL_DONE && REUSABLE(2) -> lock[2] = 1; id = 2 + 1 } break
#endif
    :: ALL_DONE -> goto over
    od;
#ifndef REUSE_UNSWEPT
    if :: record[id - 1] == SWEPT :: else -> goto taken fi;
#endif
#ifndef REUSE_IGNORES_HAZARDS
    do
    :: d <= SPARE && NAMES(d, id - 1) -> goto taken
    :: d <= SPARE && !NAMES(d, id - 1) -> d++
    :: d > SPARE -> break
    od;
#endif
    atomic { sweeping[id - 1] = 0; d = 0 }
    KILL;
#ifdef RECORD_IN_TWO_WORDS
    join[id - 1] = joins + 1; record[id - 1] = ACTIVE;
#else
    atomic { join[id - 1] = joins + 1; record[id - 1] = ACTIVE }
#endif
    atomic { joins++; mine = joins; lock[SPARE] = 0; me = id - 1; id = 0 } goto next;
taken:
    atomic { lock[id - 1] = 0; id = 0; d = 0 } goto joining;

killed:                                 /* the kernel frees the lock, and the one of an id that it was about to use */
    atomic {
        lock[me] = 0;
        if :: id -> lock[id - 1] = 0 :: else fi;
        if :: mine && holder[p] == mine -> holder[p] = 0 :: else fi;
        p = 0; seen = 0; d = 0; u = 0; i = 0; id = 0; count = 0; mine = 0; again = 0 }
over:
    skip
}

init {
    atomic {
        d_step {
            lock[0] = 1; join[0] = 1; record[0] = ACTIVE;
            lock[1] = 1; join[1] = 2; record[1] = ACTIVE;
#if MEMBERS > 2
            lock[2] = 1; join[2] = 3; record[2] = ACTIVE;
#endif
            lock[SPARE] = 1 }
        run Member(0); run Member(1);
#if MEMBERS > 2
        run Member(2);
#endif
#ifndef NOBODY_JOINS
        run Member(SPARE)
#endif
    }
}
