/* A stage of one member: patterns with one receiver take by plain stores, so never two may take at once.

   The stage has a word `holder`: the join number of its member (with its id beside it, in one word). A joiner registers first
   (lock, record), then reads `holder`: if it names a living member (lock held, record still under that join number) the stage
   is busy; else CAS from exactly what was read to its own join number; when that fails it looks again.
   The dead never take again, so the successor may store at once; what they had TAKEN it gets as ORPHAN from the burial.
   Who leaves gives `holder` back first; it may keep a message that it took, and says DONE later, by its own word.

   Process k joins with join number k + 1, on any free id; the last one comes when all others are gone: it must get in.

@ holds  short  PROCESSES=3 IDS=2 KILLS=2
@ holds  long   PROCESSES=4 IDS=2 KILLS=2
@ mutant LOAD_THEN_STORE            | | inside
@ mutant HOLDER_WITHOUT_JOIN_NUMBER | PROCESSES=4 IDS=3 KILLS=1 | inside
@ mutant HOLDER_BEFORE_RECORD       | | inside
@ mutant SUCCESSOR_TAKES_TAKEN      | | delivered
*/
#ifndef PROCESSES
#define PROCESSES 3
#endif
#ifndef IDS
#define IDS 2
#endif
#ifndef KILLS
#define KILLS 1
#endif
#define MESSAGES 2
#define LAST     (PROCESSES - 1)

#define NEW      0
#define TAKEN    1
#define DONE     2
#define ORPHAN   3
byte word[MESSAGES], owner[MESSAGES];   /* owner: an id */
byte orphans;

#define FREE     0                      /* or SWEPT */
#define ACTIVE   1
byte record[IDS], join[IDS];            /* one word */
bool lock[IDS];                         /* the kernel's word */
byte holder, holder_id;                 /* one word; holder: a join number, 0 is nobody */
byte kills, gone;

byte inside;                            /* ghosts: living members that believe to be the only one; who was given what */
bool delivered[MESSAGES], used[MESSAGES];

#define ALL_DONE (word[0] == DONE && word[1] == DONE)
#define KILL if :: atomic { kills < KILLS && mine != PROCESSES -> kills++ } goto killed :: true fi

#ifdef HOLDER_WITHOUT_JOIN_NUMBER
#define SAME_HOLDER    (holder_id == was_id && (holder == 0) == (was == 0))
#define IS_LIVING(h)   (lock[was_id] && was_id != me)
#else
#define SAME_HOLDER    (holder == was)
#define IS_LIVING(h)   (lock[was_id] && join[was_id] == h)
#endif
#ifdef SUCCESSOR_TAKES_TAKEN
#define TAKABLE(p)     (word[p] == NEW || (word[p] == TAKEN && owner[p] != me))
#else
#define TAKABLE(p)     (word[p] == NEW)
#endif

inline write_record() { atomic { record[me] = ACTIVE; join[me] = mine } }

proctype Process(byte mine)
{   byte me, was, was_id, p, seen = 255, count;
    bool again, in, using;
    if :: mine == PROCESSES -> gone == LAST :: else fi;
    atomic {
        if
        :: !lock[0] && record[0] == FREE -> me = 0
        :: !lock[1] && record[1] == FREE -> me = 1
#if IDS > 2
        :: !lock[2] && record[2] == FREE -> me = 2
#endif
        fi;
        lock[me] = 1 }
    KILL;
#ifndef HOLDER_BEFORE_RECORD
    write_record();
    KILL;
#endif
look:
    atomic { was = holder; was_id = holder_id }
    if
    :: was && IS_LIVING(was) -> assert(mine != PROCESSES); goto leave      /* busy */
    :: else
    fi;
#ifdef LOAD_THEN_STORE
    atomic { holder = mine; holder_id = me; in = 1; inside++; assert(inside == 1) }
#else
    if
    :: atomic { SAME_HOLDER -> holder = mine; holder_id = me; in = 1; inside++; assert(inside == 1) }
    :: else -> goto look
    fi;
#endif
    KILL;
#ifdef HOLDER_BEFORE_RECORD
    write_record();
    KILL;
#endif
next:
    if
    :: seen != orphans ->
       count = orphans; p = 0;
       do
       :: p < MESSAGES && word[p] == ORPHAN -> again = 1; goto take
       :: p < MESSAGES && word[p] != ORPHAN -> p++
       :: p == MESSAGES -> break
       od;
       seen = count; goto next
    :: TAKABLE(0) -> p = 0; goto take
    :: !TAKABLE(0) && TAKABLE(1) -> p = 1; goto take
    :: ALL_DONE -> goto stop
    :: goto stop                        /* it may leave at any time */
    fi;
take:                                   /* the word was loaded: a plain store */
    atomic {
        word[p] = TAKEN; owner[p] = me;
        assert(!used[p] && (again || !delivered[p])); used[p] = 1; using = 1; delivered[p] = 1; again = 0 }
    KILL;
    if
    :: atomic { assert(word[p] == TAKEN && owner[p] == me); word[p] = DONE; used[p] = 0; using = 0; p = 0 } goto next
    :: mine != PROCESSES                /* leaves, and keeps it */
    fi;
stop:
    atomic { assert(holder == mine && holder_id == me); holder = 0; holder_id = 0; in = 0; inside-- }
    KILL;
    if
    :: using -> atomic { assert(word[p] == TAKEN && owner[p] == me); word[p] = DONE; used[p] = 0; using = 0 }
    :: else
    fi;
leave:
    atomic { record[me] = FREE; join[me] = 0 }
    lock[me] = 0;
    goto over;
killed:
    atomic { lock[me] = 0; inside = inside - in; if :: using -> used[p] = 0 :: else fi }
over:
    atomic { gone++; me = 0; was = 0; was_id = 0; p = 0; seen = 0; count = 0; again = 0; in = 0; using = 0 }
}

active proctype Undertaker()
{   byte d, p;
end:
    do
    :: atomic {
           if
           :: record[0] == ACTIVE && !lock[0] -> d = 0
           :: record[1] == ACTIVE && !lock[1] -> d = 1
#if IDS > 2
           :: record[2] == ACTIVE && !lock[2] -> d = 2
#endif
           fi }
       do
       :: p < MESSAGES -> atomic { if :: word[p] == TAKEN && owner[p] == d -> word[p] = ORPHAN :: else fi; p++ }
       :: p == MESSAGES -> break
       od;
       orphans++;
       atomic { record[d] = FREE; join[d] = 0; d = 0; p = 0 }
    od
}

init { byte p; atomic { do :: p < PROCESSES -> p++; run Process(p) :: else -> break od } }
