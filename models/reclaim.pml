/* Reclaiming: the places of a memory without files are used again, and nobody finds there what he did not look for.

   One place, and the cell that names the slab in it: numbers never come back. Two locks, bytes of a file description: the
   kernel frees them with the last process that has that description, so a forked child keeps one as it keeps the mapping.
   Those who map the place share the one; who makes room there has the other alone, and who does not get it goes elsewhere.
   Maker, for a cell that names no slab: the room; nobody maps the place? give back what was there; share the lock; let go
     of the room; write; only then into the cell. It may keep arrays over its slots when its lane is long over.
   Attacher, who saw a slab in the cell: lock, THEN look whether the cell still names it; map it, else unlock: it is gone
     for ever.
   Sweeper, when it sees pages: the room; nobody maps the place; the cell names no slab; nobody maps it: give them back.
     The first look: no maker is left whose slab is not in the cell yet. The second: from now on nobody attaches.
     The third: nobody is left of those who saw it in the cell.
   A slab is retired (taken out of its cell, by its number) when it is over or its maker dead, and its message done with.
   Nobody waits for anybody: who is stopped anywhere holds up only those who would make room in this place.

@ holds  short  SLABS=2 ATTACHERS=1 KILLS=1
@ holds  short  SLABS=2 ATTACHERS=1 KILLS=1 FORKS=1
@ holds  short  SLABS=2 ATTACHERS=1 UNDERTAKERS=2
@ holds  long   SLABS=2 ATTACHERS=1 UNDERTAKERS=2 SWEEPERS=2
@ holds  long   SLABS=2 ATTACHERS=2 KILLS=1
@ holds  long   SLABS=3 ATTACHERS=1 KILLS=1
@ mutant MAKER_DOES_NOT_LOOK         | | mapped
@ mutant MAKER_WITHOUT_ROOM          | | mapped
@ mutant MAKER_LETS_GO_THEN_SHARES   | | any error
@ mutant MAKER_WRITES_THEN_SHARES    | | any error
@ mutant MAKER_UNSHARES_TOO_SOON     | | any error
@ mutant MAKER_KEEPS_WHAT_WAS_THERE  | | mixed
@ mutant ATTACHER_WITHOUT_LOCK       | | any error
@ mutant ATTACHER_LOOKS_THEN_LOCKS   | | any error
@ mutant ATTACHER_TAKES_ANY_SLAB     | | content
@ mutant UNLOCKS_THEN_UNMAPS         | | mapped
@ mutant LOCKS_DIE_WITH_THE_PARENT   | KILLS=1 FORKS=1 | mapped
@ mutant SWEEPER_WITHOUT_ROOM        | | any error
@ mutant SWEEPER_LOOKS_THEN_ROOM     | KILLS=1 | named
@ mutant SWEEPER_ONLY_LOOKS_FOR_MAPS | | named
@ mutant SWEEPER_LEAVES_OUT_THE_FIRST  | | any error
@ mutant SWEEPER_LEAVES_OUT_THE_THIRD  | | mapped
@ mutant SWEEPER_LOCKS_OUT_ATTACHERS | | cell
@ mutant RETIRES_WHAT_IS_THERE       | UNDERTAKERS=2 | retired
*/
#ifndef SLABS
#define SLABS 2
#endif
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
#ifndef UNDERTAKERS
#define UNDERTAKERS 1
#endif

byte cell;                              /* 0: names none, else the number of a slab */
byte maker;                             /* the slab that the lane's sender makes or sends in; 0: free for the next */
bool over[SLABS + 1];                   /* its sender is done with it, or dead */

#define NEW      0                      /* the word of a slab's one message */
#define READY    1
#define TAKEN    2
#define DONE     3
byte word[SLABS + 1], owner[SLABS + 1];
#define FINISHED(n) (over[n] && (word[n] == NEW || word[n] == DONE))

bool pages, mixed;                      /* mixed: words of two slabs */
byte content;                           /* whose words the pages have; 0: zeros */
byte mapped, sharers;                   /* ends (or what they forked) that map the place: a ghost; that share the lock */
bool room, shut, named, retired;        /* shut: only in a mutant */
bool dead[SLABS + ATTACHERS + 1]; byte kills, forks;

#ifdef LOCKS_DIE_WITH_THE_PARENT
#define STAYS 0
#else
#define STAYS child
#endif
/* The kernel ends a process: locks and mapping go in one step, unless a child of it has them too. */
#define DIE \
    sharers = sharers - (STAYS -> 0 : lock); lock = (STAYS -> lock : 0); \
    mapped = mapped - (child -> 0 : map); map = (child -> map : 0); \
    room = room && !inside; inside = 0
#define KILL   if :: atomic { kills < KILLS -> kills++; dead[me] = 1; DIE; goto killed } :: true fi
#define FORK   if :: atomic { forks < FORKS -> forks++; child = 1 } :: true fi
#define LOCK   atomic { sharers++; lock = 1 }
#define MAP    atomic { mapped++; map = 1 }
/* What a child has too stays. */
#define UNLOCK atomic { sharers = sharers - (child -> 0 : lock); lock = (child -> lock : 0) }
#define UNMAP  atomic { mapped = mapped - (child -> 0 : map); map = (child -> map : 0) }
#ifdef UNLOCKS_THEN_UNMAPS
#define LET_GO UNLOCK; UNMAP
#else
#define LET_GO UNMAP; UNLOCK
#endif
#define CHILD_ENDS \
    if :: atomic { child -> sharers = sharers - lock; mapped = mapped - map; lock = 0; map = 0 } :: true fi
#define GET_ROOM    atomic { inside = !room; room = 1 }
#define LEAVE_ROOM  atomic { room = room && !inside; inside = 0 }
#define GIVE_BACK \
    atomic { named = cell != 0; assert(!named); assert(mapped == 0); pages = 0; content = 0 }

proctype Maker(byte me)
{   bool lock, map, child, inside;
end:
    atomic { maker == 0 && cell == 0 -> maker = me };
    KILL;
#ifndef MAKER_WITHOUT_ROOM
    GET_ROOM;
    KILL;
    if :: inside :: else -> goto elsewhere fi;
#endif
#ifndef MAKER_DOES_NOT_LOOK
    if :: sharers == 0 :: else -> goto elsewhere fi;
    KILL;
#endif
#ifndef MAKER_KEEPS_WHAT_WAS_THERE
    GIVE_BACK;
    KILL;
#endif
#ifdef MAKER_LETS_GO_THEN_SHARES
    LEAVE_ROOM;
    LOCK;
#elif defined(MAKER_WRITES_THEN_SHARES)
    LEAVE_ROOM;
    pages = 1;
    LOCK;
#else
    LOCK;
    KILL;
    LEAVE_ROOM;
#endif
    KILL;
    pages = 1;
    KILL;
    MAP;
    KILL;
    atomic { mixed = content != 0; content = me; pages = 1 }
    KILL;
#ifdef MAKER_UNSHARES_TOO_SOON
    UNLOCK;
#endif
    atomic { assert(content == me); cell = me };
    KILL;
    FORK;
    if :: word[me] = READY :: true fi;
    KILL;
    assert(content == me);
    atomic { over[me] = 1; maker = 0 };
    KILL;
    if :: LET_GO :: true fi;            /* or it keeps arrays over its slots */
    goto killed;
elsewhere:                              /* the next cell may do */
    atomic { LEAVE_ROOM; maker = 0 };
killed:
    CHILD_ENDS
}

proctype Attacher(byte me)
{   bool lock, map, child, inside; byte n;
end:
    do
    :: atomic { cell > n -> n = cell };
#ifndef ATTACHER_LOOKS_THEN_LOCKS
       KILL;
#ifdef SWEEPER_LOCKS_OUT_ATTACHERS
       atomic { if :: shut -> assert(cell != n); goto end :: else -> LOCK fi };
#elif !defined(ATTACHER_WITHOUT_LOCK)
       LOCK;
#endif
       KILL;
#endif
#ifdef ATTACHER_TAKES_ANY_SLAB
       if :: cell != 0 :: else -> UNLOCK; goto end fi;
#else
       if :: cell == n :: else -> UNLOCK; goto end fi;
#endif
#ifdef ATTACHER_LOOKS_THEN_LOCKS
       LOCK;
#endif
       KILL;
       atomic { assert(content == n && pages && !mixed); MAP };
       KILL;
       FORK;
       if
       :: atomic { word[n] == READY -> word[n] = TAKEN; owner[n] = me };
          KILL;
          atomic { assert(content == n); word[n] = DONE }
       :: true
       fi;
       KILL;
       assert(content == n);            /* it looks again, perhaps long after the slab was retired */
       LET_GO;
       if :: child -> goto killed :: else fi
    od;
killed:
    CHILD_ENDS
}

proctype Undertaker()                   /* any member: buries, and retires slabs */
{   byte n;
end:
    do
    :: atomic { maker != 0 && dead[maker] -> over[maker] = 1; maker = 0 }
    :: atomic { cell != 0 && word[cell] == TAKEN && dead[owner[cell]] ->
           if :: word[cell] = READY :: word[cell] = DONE fi }
    :: atomic { cell != 0 && FINISHED(cell) -> n = cell };
#ifdef RETIRES_WHAT_IS_THERE
       atomic { retired = cell == 0 || FINISHED(cell); assert(retired); cell = 0; n = 0 }
#else
       atomic { if :: cell == n -> cell = 0 :: else fi; n = 0 }
#endif
    od
}

#ifdef SWEEPER_WITHOUT_ROOM
#define ENTER        skip
#elif defined(SWEEPER_LOCKS_OUT_ATTACHERS)
#define ENTER        GET_ROOM; KILL; if :: inside :: else -> goto end fi; \
                     atomic { if :: sharers == 0 -> shut = 1 :: else -> goto leave fi }
#else
#define ENTER        GET_ROOM; KILL; if :: inside :: else -> goto end fi
#endif
#define NOBODY_MAPS  if :: sharers == 0 :: else -> goto leave fi
#define NAMES_NONE   if :: cell == 0 :: else -> goto leave fi
proctype Sweeper()
{   byte me; bool lock, map, child, inside;
    me = 0;
end:
    pages && cell == 0 && sharers == 0 && !room;    /* nothing would come of it before */
#ifdef SWEEPER_LOOKS_THEN_ROOM
    NOBODY_MAPS;
    ENTER;
#else
    ENTER;
#ifndef SWEEPER_LEAVES_OUT_THE_FIRST
    NOBODY_MAPS;
#endif
#endif
    KILL;
#ifndef SWEEPER_ONLY_LOOKS_FOR_MAPS
    NAMES_NONE;
    KILL;
#endif
#ifndef SWEEPER_LEAVES_OUT_THE_THIRD
    NOBODY_MAPS;
    KILL;
#endif
    GIVE_BACK;
    KILL;
leave:
    shut = 0;
    LEAVE_ROOM;
killed:
    dead[0] = 0;                        /* another member sweeps */
    goto end
}

active proctype Monitor()
{
end:
    timeout;
    assert(!pages || cell != 0 || sharers > 0)      /* what is over and nobody's has gone back */
}

init {
    byte m;
    atomic {
        m = 1;
        do :: m <= SLABS -> run Maker(m); m++ :: else -> break od;
        do :: m <= SLABS + ATTACHERS -> run Attacher(m); m++ :: else -> break od;
        m = 0;
        do :: m < SWEEPERS -> run Sweeper(); m++ :: else -> break od;
        m = 0;
        do :: m < UNDERTAKERS -> run Undertaker(); m++ :: else -> break od;
        m = 0 }
}
