/* Reclaiming: the pages of a lane in a memory without files go back when nobody maps them, and never before.

   Who maps the lane has a shared lock on its number (a byte of a file description: the kernel frees it with the last process
   that has that description, so a forked child keeps it as it keeps the mapping). The number is in the table while the lane
   is open, ended or lost, and never again afterwards.
   Builder: lock, first byte, into the table; at its end unmap, THEN unlock. It may keep arrays over its slots for ever.
   Attacher: lock, THEN look into the table; map if the number is there, else unlock.
   Sweeper, when it sees pages: nobody has the lock; the number is not in the table; nobody has the lock: give them back.
     The first look: a number that is not in the table afterwards is not one that is being built.
     The second: nobody is left of those who saw it in the table.
   A lane leaves the table when it has ended or its builder is dead, and its message is done with.

@ holds  short  ATTACHERS=2 KILLS=1
@ holds  short  ATTACHERS=1 KILLS=2 FORKS=1
@ holds  long   ATTACHERS=2 KILLS=2 FORKS=1 SWEEPERS=2
@ mutant NO_LOCKS                  | | any error
@ mutant LOCKS_THEN_TABLE          | | mapped
@ mutant TABLE_THEN_LOCKS          | | any error
@ mutant TABLE_LOCKS_TABLE         | | mapped
@ mutant LOCKS_ONLY                | | in_table
@ mutant BUILDER_WRITES_THEN_LOCKS | | any error
@ mutant BUILDER_UNLOCKS_TOO_SOON  | | any error
@ mutant ATTACHER_LOOKS_THEN_LOCKS | | pages
@ mutant UNLOCKS_THEN_UNMAPS       | | mapped
@ mutant LOCKS_DIE_WITH_THE_PARENT | KILLS=1 FORKS=1 | mapped
*/
#ifndef ATTACHERS
#define ATTACHERS 1
#endif
#ifndef KILLS
#define KILLS 0
#endif
#ifndef FORKS
#define FORKS 0
#endif
#ifndef SWEEPERS
#define SWEEPERS 1
#endif
#define BUILDER  0

#define NONE     0                      /* the lane: before it is in the table, in it, after */
#define OPEN     1
#define ENDED    2
#define LOST     3
#define OVER     4
byte lane;
#define IN_TABLE (lane == OPEN || lane == ENDED || lane == LOST)

#define NEW      0                      /* the word of its one message */
#define READY    1
#define TAKEN    2
#define DONE     3
byte word, owner;

bool pages, in_table;
byte locks, mapped;                     /* ends (or what they forked) that have the lock; that map: a ghost */
bool dead[ATTACHERS + 1]; byte kills, forks;

#ifdef LOCKS_DIE_WITH_THE_PARENT
#define STAYS 0
#else
#define STAYS child
#endif
/* The kernel ends a process: lock and mapping go in one step, unless a child of it has them too. */
#define KILL \
    if \
    :: atomic { kills < KILLS -> \
           kills++; dead[me] = 1; \
           locks = locks - (STAYS -> 0 : lock); lock = (STAYS -> lock : 0); \
           mapped = mapped - (child -> 0 : map); map = (child -> map : 0); \
           goto killed } \
    :: true \
    fi
#define FORK   if :: atomic { forks < FORKS -> forks++; child = 1 } :: true fi
#define LOCK   atomic { locks++; lock = 1 }
#define MAP    atomic { mapped++; map = 1 }
/* What a child has too stays. */
#define UNLOCK atomic { locks = locks - (child -> 0 : lock); lock = (child -> lock : 0) }
#define UNMAP  atomic { mapped = mapped - (child -> 0 : map); map = (child -> map : 0) }
#ifdef UNLOCKS_THEN_UNMAPS
#define LET_GO UNLOCK; UNMAP
#else
#define LET_GO UNMAP; UNLOCK
#endif
#define CHILD_ENDS \
    if :: atomic { child -> locks = locks - lock; mapped = mapped - map; lock = 0; map = 0 } :: true fi

active proctype Builder()
{   byte me = BUILDER; bool lock, map, child;
#ifdef BUILDER_WRITES_THEN_LOCKS
    pages = 1;
    LOCK;
#else
    LOCK;
    KILL;
    pages = 1;
#endif
    KILL;
    MAP;
    KILL;
#ifdef BUILDER_UNLOCKS_TOO_SOON
    UNLOCK;
#endif
    lane = OPEN;
    KILL;
    FORK;
    if :: word = READY :: true fi;
    KILL;
    lane = ENDED;
    KILL;
    if :: LET_GO :: true fi;            /* or it keeps arrays over its slots */
killed:
    CHILD_ENDS
}

proctype Attacher(byte me)
{   bool lock, map, child;
#ifdef ATTACHER_LOOKS_THEN_LOCKS
    if :: IN_TABLE :: else -> goto killed fi;
    LOCK;
#else
    LOCK;
    KILL;
    if :: IN_TABLE :: else -> UNLOCK; goto killed fi;
#endif
    atomic { assert(pages); MAP }
    KILL;
    FORK;
    if
    :: atomic { word == READY -> word = TAKEN; owner = me }
       KILL;
       word = DONE
    :: true
    fi;
    KILL;
    LET_GO;
killed:
    CHILD_ENDS
}

active proctype Undertaker()            /* any member: buries, and takes lanes that are over out of the table */
{
end:
    do
    :: atomic { lane == OPEN && dead[BUILDER] -> lane = LOST }
    :: atomic { word == TAKEN && dead[owner] -> if :: word = READY :: word = DONE fi }
    :: atomic { (lane == ENDED || lane == LOST) && (word == NEW || word == DONE) -> lane = OVER }
    od
}

#if defined(NO_LOCKS) || defined(TABLE_THEN_LOCKS) || defined(TABLE_LOCKS_TABLE)
#define FIRST_LOOK  if :: !IN_TABLE :: else -> goto end_in_vain fi
#else
#define FIRST_LOOK  if :: locks == 0 :: else -> goto end_in_vain fi
#endif
#if defined(NO_LOCKS) || defined(LOCKS_ONLY)
#define SECOND_LOOK skip
#elif defined(TABLE_THEN_LOCKS) || defined(TABLE_LOCKS_TABLE)
#define SECOND_LOOK if :: locks == 0 :: else -> goto end_in_vain fi
#else
#define SECOND_LOOK if :: !IN_TABLE :: else -> goto end_in_vain fi
#endif
#if defined(NO_LOCKS) || defined(LOCKS_THEN_TABLE) || defined(TABLE_THEN_LOCKS)
#define THIRD_LOOK  skip
#elif defined(TABLE_LOCKS_TABLE)
#define THIRD_LOOK  if :: !IN_TABLE :: else -> goto end_in_vain fi
#else
#define THIRD_LOOK  if :: locks == 0 :: else -> goto end_in_vain fi
#endif

proctype Sweeper()
{
end:
    do
    :: pages ->
       FIRST_LOOK;
       SECOND_LOOK;
       THIRD_LOOK;
       atomic {
           in_table = IN_TABLE; assert(!in_table);
           assert(mapped == 0);
           pages = 0 }
       goto end;
end_in_vain:
       !IN_TABLE && locks == 0          /* later: nothing would come of it before */
    od
}

active proctype Monitor()
{
end:
    timeout;
    assert(!pages || IN_TABLE || locks > 0)     /* what is over and nobody's has gone back */
}

init {
    byte m;
    atomic {
        m = 1;
        do :: m <= ATTACHERS -> run Attacher(m); m++ :: else -> break od;
        m = 0;
        do :: m < SWEEPERS -> run Sweeper(); m++ :: else -> break od;
        m = 0 }
}
