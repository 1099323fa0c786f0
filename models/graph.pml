/* Adding stages while a channel runs: two at once, one name twice, proposers that are killed between any two steps.

   `graph` is one word: a version and a bit per added stage. A stage's word: generation, joins (PROPOSED: who proposes it), state.
   Propose: register as a member of a record that is FREE, or DRAINING without its bit (read the word, THEN the graph, CAS from that
   word); PROPOSED with my id, generation + 1; fill it in; read the graph; check the stages whose bit is set; CAS the graph from
   exactly that word: version + 1 and my bit; CAS PROPOSED -> OPEN with joins = 1. If the graph changed: look again. Refused, or the
   name is there: PROPOSED -> FREE, LEAVING, the close check, FREE.
   Help: who reads PROPOSED and THEN sees its bit, CASes it to OPEN, from exactly what was read.
   Check: DRAINING ones do not count. One name twice, or one of two mutates and neither is behind the other: no. `after` must be OPEN.
   Burial: PROPOSED by the dead: with its bit help, without it CAS to FREE; the close check; SWEPT.
   Clear: read the graph, then the word: DRAINING, no member (also LEAVING, also unburied) in it, no stage of the mask behind it (masks
   name records, and the next stage in this record is another one); CAS the graph from exactly that word.

   Who joins, leaves and closes: added_stage.pml. CASE: what the three want to be.

@ holds  short  CASE=0
@ holds  short  CASE=1
@ holds  short  CASE=2 KILLS=1 LIVES=1
@ holds  long   CASE=2 KILLS=1
@ holds  long   CASE=0 KILLS=2 LIVES=1
@ holds  long   CASE=1 KILLS=1
@ mutant PUBLISHED_WITHOUT_CAS      | CASE=0         | ordered
@ mutant NAME_NOT_LOOKED_AT_AGAIN   | CASE=2         | name
@ mutant CAS_WITHOUT_VERSION        | CASE=0         | any error
@ mutant NOBODY_HELPS               | CASE=2 KILLS=1 | state
@ mutant BURIAL_FREES_BLINDLY       | CASE=2 KILLS=1 | mask
@ mutant HELPS_AN_EARLIER_BIT       | CASE=0         | mask
@ mutant GRAPH_READ_BEFORE_WORD     | CASE=2         | mask
@ mutant CLEARED_WITH_ONE_BEHIND    | CASE=1         | ordered
@ mutant REFUSED_JUST_GOES          | CASE=0         | lives
@ mutant FREE_BEFORE_CLOSE_CHECK    | CASE=2 KILLS=1 | lives
*/
#ifndef CASE
#define CASE 0
#endif
#ifndef KILLS
#define KILLS 0
#endif
#ifndef LIVES
#define LIVES 2
#endif
#define MEMBERS 2                       /* member 0 has two lives: as 0, and when it has left or is buried, as 2 */
#define ROLES   3
#define BIT(x)  (1 << (x))

#if CASE == 0                           /* 0 and 2 are one stage that mutates, 1 reads, unordered to it */
#define NAME(m)    ((m) == 1 -> 2 : 1)
#define MUTATES(m) ((m) != 1)
#define AFTER(m)   0
#elif CASE == 1                         /* 1 reads behind 0; 2 mutates, unordered to both */
#define NAME(m)    ((m) + 1)
#define MUTATES(m) ((m) == 2)
#define AFTER(m)   ((m) == 1 -> 1 : 0)
#else                                   /* all the same */
#define NAME(m)    1
#define MUTATES(m) 0
#define AFTER(m)   0
#endif

#define FREE     0
#define PROPOSED 1
#define OPEN     2
#define DRAINING 3
byte state[2], generation[2], joins[2];                 /* the stage words */
byte name[2], before[2]; bool mutates[2];               /* what the records say; `before`: a mask of records, its ancestors */
byte version, mask;                                     /* `graph` */

#define ACTIVE   1
#define LEAVING  2
byte record[MEMBERS], stage[MEMBERS]; byte dead, kills; /* dead: a mask, until buried */

byte who[2], behind[ROLES];                           /* ghosts: who proposed it; a mask of those it is really behind */
bool ordered, lives;

#define PRESENT(m, x) (record[m] != FREE && stage[m] == (x))
#define MEMBER(m, x)  (record[m] == ACTIVE && stage[m] == (x) && !(dead & BIT(m)))
#define REUSABLE(x)   (state[x] == FREE || (state[x] == DRAINING && !(mask & BIT(x))))
#ifdef CLEARED_WITH_ONE_BEHIND
#define BEHIND(x, m)  false
#else
#define BEHIND(x, m)  ((m & BIT(1 - (x))) && (before[1 - (x)] & BIT(x)))
#endif
#ifdef CAS_WITHOUT_VERSION
#define SAME_GRAPH    (mask == m)
#else
#define SAME_GRAPH    (version == v)
#endif
#define KILL if :: atomic { kills < KILLS && record[me] != FREE -> kills++; dead = dead | BIT(me) } goto over :: true fi

inline read_graph() { atomic { v = version; m = mask } }
inline read_word(x) { atomic { s = state[x]; g = generation[x]; j = joins[x] } }
inline open_word(x) {                                   /* CAS from (g, PROPOSED) */
    atomic {
        if
        :: state[x] == PROPOSED && generation[x] == g -> assert(mask & BIT(x)); state[x] = OPEN; joins[x] = 1
        :: else
        fi } }
inline close_check(x) {
    read_word(x);
    lives_one = (MEMBER(0, x) || MEMBER(1, x));
    atomic {
        if
        :: !lives_one && s == OPEN && state[x] == OPEN && generation[x] == g && joins[x] == j -> state[x] = DRAINING
        :: else
        fi;
        g = 0; j = 0; s = 0; lives_one = 0 } }
inline clear(x) {
    read_graph();
    if
    :: (m & BIT(x)) && state[x] == DRAINING && !PRESENT(0, x) && !PRESENT(1, x) && !BEHIND(x, m) ->
       atomic { if :: SAME_GRAPH -> assert(state[x] == DRAINING); version++; mask = mask & ~BIT(x) :: else fi }
    :: else
    fi;
    atomic { v = 0; m = 0 } }

#if defined(REFUSED_JUST_GOES)
#define UNREGISTER record[me] = FREE
#elif defined(FREE_BEFORE_CLOSE_CHECK)
#define UNREGISTER record[me] = FREE; if :: atomic { kills < KILLS -> kills++ } goto over :: true fi; close_check(r)
#else
#define UNREGISTER record[me] = LEAVING; KILL; close_check(r); KILL; record[me] = FREE
#endif

proctype Proposer(byte me)
{   byte role = me, r, v, m, g, j, s, mine; bool lives_one, refused;
find:
    atomic {                            /* stale at once, so one step */
        v = 0; m = 0; g = 0; j = 0; s = 0; mine = 0;
        if
        :: (mask & BIT(0)) && state[0] == OPEN && name[0] == NAME(role) -> r = 0; read_word(r); goto join
        :: (mask & BIT(1)) && state[1] == OPEN && name[1] == NAME(role) -> r = 1; read_word(r); goto join
        :: else -> if :: r = 0 :: r = 1 fi
        fi }
#ifdef GRAPH_READ_BEFORE_WORD
    read_graph();
    read_word(r);
#else
    read_word(r);
    read_graph();
#endif
    if :: s == FREE || (s == DRAINING && !(m & BIT(r))) :: else -> goto over fi;      /* no room */
    atomic { record[me] = ACTIVE; stage[me] = r }
    KILL;
    if
    :: atomic { state[r] == s && generation[r] == g ->                               /* CAS */
                assert(!(mask & BIT(r)));
                state[r] = PROPOSED; generation[r]++; joins[r] = me; mine = generation[r]; g = 0; j = 0; s = 0 }
    :: else -> UNREGISTER; goto find
    fi;
    KILL;
    atomic { name[r] = NAME(role); mutates[r] = MUTATES(role); before[r] = 0; who[r] = role; behind[role] = 0 }
    KILL;
look:
    read_graph();
    if
    :: m & BIT(1 - r) ->
       read_word(1 - r);
       if
       :: s == PROPOSED ->
#ifndef HELPS_AN_EARLIER_BIT
          if :: SAME_GRAPH :: else -> goto look fi;
#endif
          open_word(1 - r)
       :: else
       fi;
       if
       :: s == PROPOSED || s == OPEN ->
          atomic {
              if :: AFTER(role) && AFTER(role) == name[1 - r] -> before[r] = BIT(1 - r) | before[1 - r] :: else -> before[r] = 0 fi;
              if
#ifdef NAME_NOT_LOOKED_AT_AGAIN
              :: name[1 - r] == NAME(role) && version == 0 -> goto withdraw
#else
              :: name[1 - r] == NAME(role) -> goto withdraw                             /* to join it */
#endif
              :: name[1 - r] != NAME(role) && (mutates[r] || mutates[1 - r]) &&
                 !(before[r] & BIT(1 - r)) && !(before[1 - r] & BIT(r)) -> refused = 1; goto withdraw
              :: else
              fi }
       :: s == DRAINING || s == FREE -> before[r] = 0
       fi
    :: !(m & BIT(1 - r)) -> before[r] = 0
    fi;
    if :: AFTER(role) && !before[r] -> refused = 1; goto withdraw :: else fi;
    KILL;
    atomic {
        if
#ifdef PUBLISHED_WITHOUT_CAS
        :: true ->
#else
        :: SAME_GRAPH ->
#endif
           version++; mask = mask | BIT(r);
           if                           /* the truth: by who they are, not by their records */
           :: before[r] -> behind[role] = BIT(who[1 - r]) | behind[who[1 - r]]
           :: else
           fi;
           if
           :: (mask & BIT(1 - r)) && (state[1 - r] == OPEN || state[1 - r] == PROPOSED) ->
              assert(name[0] != name[1]);
              ordered = ((behind[role] & BIT(who[1 - r])) || (behind[who[1 - r]] & BIT(role)));
              assert(!(mutates[0] || mutates[1]) || ordered); ordered = 0
           :: else
           fi
#ifndef PUBLISHED_WITHOUT_CAS
        :: else -> goto look
#endif
        fi }
    KILL;
    atomic { g = mine }
    open_word(r);
    goto entered;

withdraw:
    atomic { assert(state[r] == PROPOSED && generation[r] == mine && !(mask & BIT(r))); state[r] = FREE }
    KILL;
    UNREGISTER;
    if :: refused -> goto over :: else -> goto find fi;

join:
    atomic { record[me] = ACTIVE; stage[me] = r }
    KILL;
    if
    :: atomic { state[r] == OPEN && generation[r] == g && joins[r] == j -> joins[r]++; mine = g; g = 0; j = 0; s = 0 }
    :: else -> UNREGISTER; goto find
    fi;

entered:
    atomic { assert(state[r] == OPEN && generation[r] == mine && (mask & BIT(r))); g = 0; j = 0; s = 0; v = 0; m = 0 }
    KILL;
    if :: goto end_stays :: true fi;                    /* and stays */
    record[me] = LEAVING;
    KILL;
    close_check(r);
    KILL;
    record[me] = FREE;
    clear(r);
over:
    atomic { r = 0; v = 0; m = 0; g = 0; j = 0; s = 0; mine = 0; refused = 0; lives_one = 0 }
end_buried:
    if
    :: atomic { role == 0 && LIVES == 2 && record[me] == FREE -> dead = dead & ~BIT(me); role = 2 } goto find
    fi;
end_stays:
    false
}

#define CLEARABLE(x) ((mask & BIT(x)) && state[x] == DRAINING && !PRESENT(0, x) && !PRESENT(1, x) && !BEHIND(x, mask))
#define TO_BURY(i)   ((dead & BIT(i)) && record[i] != FREE)
#define RESTART      if :: atomic { KILLS > 1 && restarts == 0 -> restarts = 1; d = 0; x = 0; v = 0; m = 0; g = 0; j = 0; s = 0 } goto end :: true fi

active proctype Undertaker()            /* whoever looks around; when it is killed, the next one begins */
{   byte d, x, v, m, g, j, s; bool lives_one, restarts;
end:
    do
    :: CLEARABLE(0) -> clear(0)
    :: CLEARABLE(1) -> clear(1)
#if KILLS
    :: atomic { TO_BURY(0) -> d = 0 } break
    :: atomic { TO_BURY(1) -> d = 1 } break
#endif
    od;
#if KILLS
    x = stage[d];
    read_word(x);
    if
    :: s == PROPOSED && j == d ->
       read_graph();
       RESTART;
       if
#ifndef NOBODY_HELPS
#ifndef BURIAL_FREES_BLINDLY
       :: (m & BIT(x)) -> open_word(x)
#endif
#endif
#ifdef BURIAL_FREES_BLINDLY
       :: true ->
#else
       :: !(m & BIT(x)) ->
#endif
          atomic { if :: state[x] == PROPOSED && generation[x] == g -> assert(!(mask & BIT(x))); state[x] = FREE :: else fi }
#ifdef NOBODY_HELPS
       :: (m & BIT(x))
#endif
       fi;
       RESTART
    :: else
    fi;
    close_check(x);
    RESTART;
    atomic { record[d] = FREE; dead = dead & ~BIT(d); d = 0; x = 0; v = 0; m = 0; g = 0; j = 0; s = 0 }
    goto end
#endif
}

active proctype Monitor()
{   byte x;
end:
    timeout;
    do                                  /* nothing leaks: a record is free, or in the mask with a living member */
    :: x < 2 ->
       lives = (MEMBER(0, x) || MEMBER(1, x));
       assert(state[x] != PROPOSED);
       assert((state[x] == OPEN) == lives);
       assert(((mask >> x) & 1) == lives || (state[x] == DRAINING && BEHIND(x, mask)));
       x++
    :: x == 2 -> break
    od
}

init { atomic { run Proposer(0); run Proposer(1) } }
