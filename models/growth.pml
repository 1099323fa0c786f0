/* A lane that is a chain of slabs: the sender and its helper link new ones, members of a shared stage follow, slabs that
   all have let go are retired in any order, and their cells are used again; the sender (its helper dies with it) and the
   members are killed at any step.

   Link, in the sender's turn: the next slab is complete and can be opened; first = next; its cell = its number; then ONE
   store, close of the slab before = next. Open loans stay where they are. A loan below `first` of the newest slab is never
   rewound: it becomes SKIP.
   The turn: the one thread that lends or rewinds says `inside`, then waits while `wanted`; the helper says `wanted`, then
   links only if that thread is not inside, after it has looked again at what it wants to link.
   Follow: at `close` a member goes to the smallest number above its own. It scans the cells until two scans find the
   same: what the first did not see and is below was retired, so let go by all. A slab that cannot be opened was let go,
   too: the next larger. None, in a lane that was ended or lost before the scan: the lane is being removed.
   A joiner scans in the same way for the smallest of all. After each step to another slab a member looks for orphans
   again; those behind it can only be in slabs of which a word was not DONE when it went on: it keeps them.
   Retire: closed, every position published and DONE, no own view of the sender. By the helper; by anybody if the lane is
   lost. In an ended lane others unlink only: they do not know the own views of a sender that lives.
   Lost: unpublished positions below `close` are holes; where no `close` leads on, the lane ends, whatever the cells say.

   Words are named by position here, as no slot is used twice: lane.pml has that. MEMORY: a slab's words lie in its cell's
   memory, and mappings keep a lock on it; else in files, by number.

@ holds  short  SLABS=3 MESSAGES=2 MEMBERS=1 HELPER_LINKS=1
@ holds  short  SLABS=4 MESSAGES=1 MEMBERS=1 SCANNING=1 DISCARDS=0
@ holds  short  SLABS=3 MESSAGES=1
@ holds  short  SLABS=2 MESSAGES=2 MEMBERS=1 CLOSES=1
@ holds  short  SLABS=2 MESSAGES=1 OWN_VIEWS=1
@ holds  short  SLABS=3 MESSAGES=1 MEMORY=1 DISCARDS=0
@ holds  short  SLABS=3 MESSAGES=1 DRAINS=1 DISCARDS=0
@ holds  short  SLABS=2 MESSAGES=1 KILLS=1 SENDER_KILLED=0 DISCARDS=0
@ holds  long   SLABS=3 MESSAGES=3 MEMBERS=1 HELPER_LINKS=1 CLOSES=1
@ holds  long   SLABS=4 MESSAGES=1 SCANNING=1 SENDER_KILLED=0 DISCARDS=0
@ holds  long   SLABS=2 MESSAGES=2 CLOSES=1
@ holds  long   SLABS=2 MESSAGES=1 KILLS=1 REJOINS=1 DISCARDS=0
@ holds  long   SLABS=2 MESSAGES=2 KILLS=1 SENDER_KILLED=0 DISCARDS=0
@ holds  long   SLABS=3 MESSAGES=1 KILLS=1 SENDER_KILLED=0 DISCARDS=0 MEMORY=1
@ mutant LINKED_BEFORE_COMPLETE   | MEMBERS=1 HELPER_LINKS=1 | complete
@ mutant CLOSED_BEFORE_CELL       | SLABS=2 MESSAGES=1 DISCARDS=0 | consumed
@ mutant LINKS_WITHOUT_TURN       | MEMBERS=1 HELPER_LINKS=1 | any error
@ mutant LOOKED_BEFORE_TURN       | MEMBERS=1 HELPER_LINKS=1 | invalid array index
@ mutant TWO_IN_THE_TURN          | MEMBERS=1 HELPER_LINKS=1 | any error
@ mutant REWINDS_WITHOUT_TURN     | MEMBERS=1 HELPER_LINKS=1 | invalid end state
@ mutant REWINDS_BELOW_FIRST      | MEMBERS=1 HELPER_LINKS=1 | invalid end state
@ mutant ONE_SCAN                 | SLABS=4 MESSAGES=1 MEMBERS=1 SCANNING=1 DISCARDS=0 | first[(found-1)]
@ mutant NONE_FOUND_IS_THE_END    | SLABS=3 MESSAGES=1 MEMBERS=1 SCANNING=1 DISCARDS=0 | invalid end state
@ mutant GONE_IS_WAITED_FOR       | SLABS=2 MESSAGES=1 | invalid end state
@ mutant JOINS_AT_NEWEST          | SLABS=2 MESSAGES=1 | first[(found-1)]
@ mutant RETIRED_WHEN_TAKEN       | SLABS=2 MESSAGES=1 | gone
@ mutant RETIRED_OVER_OPEN_LOANS  | SLABS=2 MESSAGES=1 | gone
@ mutant OWN_VIEWS_FORGOTTEN      | SLABS=2 MESSAGES=1 OWN_VIEWS=1 | held
@ mutant PUNCHED_AFTER_END        | SLABS=2 MESSAGES=1 OWN_VIEWS=1 | held
@ mutant CELL_REUSED_WHILE_MAPPED | SLABS=3 MESSAGES=1 MEMORY=1 | lies_in
@ mutant HOLES_END_A_CLOSED_SLAB  | SLABS=2 MESSAGES=2 MEMBERS=1 DISCARDS=0 | invalid end state
@ mutant NEWEST_SWEPT_ONLY        | SLABS=2 MESSAGES=1 KILLS=1 SENDER_KILLED=0 DISCARDS=0 | invalid end state
@ mutant OLDER_FORGOTTEN          | SLABS=2 MESSAGES=1 KILLS=1 SENDER_KILLED=0 DISCARDS=0 | consumed
@ mutant NO_LOOK_AFTER_FOLLOW     | SLABS=2 MESSAGES=1 KILLS=1 SENDER_KILLED=0 DISCARDS=0 | invalid end state
*/
/* HELPER_LINKS: the helper too, and loan() steps by step. SCANNING: members below it scan cell by cell, the others at once.
   CLOSES: at any time, else when all is sent. DRAINS: only when all slabs but the newest are retired. REJOINS: a new member comes for one that was killed. */
#ifndef SLABS
#define SLABS 3
#endif
#ifndef CELLS
#define CELLS 2
#endif
#ifndef MESSAGES
#define MESSAGES 2
#endif
#ifndef KILLS
#define KILLS 0
#endif
#ifndef MEMORY
#define MEMORY 0
#endif
#ifndef OWN_VIEWS
#define OWN_VIEWS 0
#endif
#ifndef DISCARDS
#define DISCARDS 1
#endif
#ifndef HELPER_LINKS
#define HELPER_LINKS 0
#endif
#ifndef MEMBERS
#define MEMBERS 2
#endif
#ifndef SCANNING
#define SCANNING 0
#endif
#ifndef CLOSES
#define CLOSES 0
#endif
#ifndef REJOINS
#define REJOINS 0
#endif
#ifndef DRAINS
#define DRAINS 0
#endif
#ifndef SENDER_KILLED
#define SENDER_KILLED 1
#endif

#define BIT(p)    (1 << (p))
#define MOST      3                                     /* messages */

byte cell[CELLS];                                       /* 1 + number of the slab there; 0: free */
byte where[SLABS], first[SLABS], close[SLABS];          /* close: 0, or 1 + the position */
byte complete = 1, file = 1;                            /* masks of slabs: with acks; that can be opened */
byte lies_in[CELLS], locks[CELLS];                      /* MEMORY: 1 + the slab whose words lie there; who maps it */

/* the words, by position. `home`: the slab in which it was loaned */
byte ready[MOST], home[MOST], ack[MOST], owner[MOST];
#define READY  1
#define SKIP   2
#define TAKEN  1
#define ORPHAN 2
#define DONE   3
byte orphans, dead;                                     /* burials; a mask of members */
bool ended, killed, lost, removed; byte end_at;                 /* the lane's state */

/* private to the sender's process */
byte next, newest, open, held;                          /* masks of positions: loans, own views */
byte prepared;                                          /* 1 + the number of the slab that waits to be linked */
bool inside, wanted, closing, helping = 1;

byte gone, committed, consumed, kills;                  /* ghosts: slabs without pages; positions */
bool struck[2], alive[2];                              /* members; the first is the one that is killed */

#define PUBLISHED(k, p) ((p) < MESSAGES && home[p] == (k) && ready[p])
#define IN(k, p)        ((p) < MESSAGES && (p) >= first[k] && (!close[k] || (p) < close[k] - 1))
#ifdef RETIRED_WHEN_TAKEN
#define ACKED(p)        ack[p]
#elif defined(RETIRED_OVER_OPEN_LOANS)
#define ACKED(p)        (ack[p] == DONE || !ready[p])
#else
#define ACKED(p)        (ready[p] && ack[p] == DONE)
#endif
#ifdef OWN_VIEWS_FORGOTTEN
#define OWN_VIEW(p)     false
#else
#define OWN_VIEW(p)     (held & BIT(p))
#endif
#define LET_GO(k, p)    (!IN(k, p) || (ACKED(p) && !OWN_VIEW(p)))
#define DRAINED(k)      (close[k] && LET_GO(k, 0) && LET_GO(k, 1) && LET_GO(k, 2))
#define TAKEN_UP(k, p)  (!PUBLISHED(k, p) || ack[p] == DONE)
#define ALL_DONE(k)     (TAKEN_UP(k, 0) && TAKEN_UP(k, 1) && TAKEN_UP(k, 2))

/* ---- the sender's process ---- */

#ifdef CELL_REUSED_WHILE_MAPPED
#define IS_FREE(c)  (!cell[c])
#else
#define IS_FREE(c)  (!cell[c] && !(MEMORY && locks[c]))
#endif
inline prepare() {                                      /* nobody looks for it yet */
        c = 0;
        do :: !IS_FREE(c) -> c++ :: else -> break od;
        if
        :: true -> prepared = 2 + newest; where[prepared - 1] = c; lies_in[c] = prepared;
#ifndef LINKED_BEFORE_COMPLETE
           complete = complete | BIT(prepared - 1);
#endif
           file = file | BIT(prepared - 1)
        fi;
        c = 0 }
#define MAY_PREPARE (!prepared && newest + 1 < SLABS && HAS_FREE)
#define HAS_FREE    (IS_FREE(0) || IS_FREE(1) || IS_FREE(CELLS - 1))

#if HELPER_LINKS
#define TAKE_TURN inside = 1; !wanted
#endif
inline link() {
    atomic { at = next; first[prepared - 1] = at }
#ifdef CLOSED_BEFORE_CELL
    close[newest] = 1 + at;
#endif
    cell[where[prepared - 1]] = prepared;                                                           /* CELL */
    atomic { close[newest] = 1 + at; newest = prepared - 1; prepared = 0; at = 0 }                  /* CLOSE */
#ifdef LINKED_BEFORE_COMPLETE
    complete = complete | BIT(newest)
#endif
}

#ifdef PUNCHED_AFTER_END
#define PUNCH gone = gone | BIT(k - 1)
#else
#define PUNCH atomic { if :: !ended -> gone = gone | BIT(k - 1) :: else fi }    /* in an ended lane: unlinked only */
#endif
inline retire() {                                       /* the slab that was found in cell c */
    PUNCH;
    file = file & ~BIT(k - 1);
    atomic { if :: cell[c] == k -> cell[c] = 0 :: else fi; k = 0; c = 0 } }

inline lend() { atomic { home[next] = k; open = open | BIT(next); next++ } }
inline discard() {                                      /* of the last loan */
    atomic {
        if :: open & 4 -> p = 2 :: !(open & 4) && (open & 2) -> p = 1 :: open == 1 -> p = 0 :: !open -> p = MOST fi;
        assert(p == MOST || !(gone & BIT(home[p])));
        open = open & ~BIT(p);
#ifdef REWINDS_BELOW_FIRST
        if :: p != MOST && p == next - 1 -> next--
#else
        if :: p != MOST && p == next - 1 && p >= first[newest] -> next--
#endif
           :: p == MOST                                 /* another thread did it */
           :: else -> ready[p] = SKIP
        fi;
        p = 0; inside = 0 } }
#define IS_GONE(p) ((held & BIT(p)) && (gone & BIT(home[p])))
inline drop_view() { atomic { assert(!IS_GONE(0) && !IS_GONE(1) && !IS_GONE(2)); held = 0 } }
inline let_go_of_all() { next = 0; newest = 0; open = 0; prepared = 0; inside = 0; wanted = 0; closing = 0 }
proctype Sender()
{   byte p, k, at;
    {
    do
#if HELPER_LINKS
    :: !closing && (next < MESSAGES || prepared) ->     /* loan() */
       TAKE_TURN;
       if
       :: next < MESSAGES -> k = newest; lend()
       :: prepared -> link()
       :: next == MESSAGES && !prepared
       fi;
       atomic { inside = 0; k = 0 }
#else
    :: atomic { !closing && next < MESSAGES -> k = newest; lend(); k = 0 }
    :: !closing && prepared -> link()
#endif
    :: atomic { open && !closing ->                     /* commit, in any order */
           if :: p = 0 :: p = 1 :: p = 2 fi;
           if
           :: open & BIT(p) ->
              assert(!(gone & BIT(home[p])));
              open = open & ~BIT(p); ready[p] = READY; committed = committed | BIT(p);
#if OWN_VIEWS
              if :: !held -> held = BIT(p) :: true fi
#endif
           :: else
           fi;
           p = 0 }
#if OWN_VIEWS
    :: held -> drop_view()
#endif
#if HELPER_LINKS
    :: open && (DISCARDS || closing) ->
#ifndef REWINDS_WITHOUT_TURN
       TAKE_TURN;
#endif
       discard()
#else
    :: atomic { open && (DISCARDS || closing) -> discard() }
#endif
#if DRAINS
    :: atomic { !closing && next == MESSAGES && !open && (!cell[0] || !cell[1]) && !prepared && newest + 1 == SLABS -> closing = 1 }
#else
    :: atomic { !closing && (CLOSES || next == MESSAGES && !open) -> closing = 1 }
#endif
    :: atomic { closing && !open && !helping -> end_at = next; ended = 1; let_go_of_all() } break     /* the helper is joined first */
    od
    } unless { killed };
    atomic { !helping -> p = 0; k = 0; at = 0; lost = killed };
    if :: OWN_VIEWS && held -> drop_view() :: else fi
}

#if HELPER_LINKS
proctype Other()                                        /* a thread that discards as well: it never rewinds, so it needs no turn */
{
end:
    do
    :: open & 1 ->
#ifdef TWO_IN_THE_TURN
       inside = 1;
       !wanted;
#endif
       atomic {
           if :: open & 1 -> assert(!(gone & BIT(home[0]))); open = open & ~1; ready[0] = SKIP :: else fi;
#ifdef TWO_IN_THE_TURN
           inside = 0
#endif
       }
    od
}
#endif

proctype Helper()
{   byte k, c, at;
    {
    do
    :: atomic { MAY_PREPARE && !closing -> prepare() }
#if HELPER_LINKS
    :: prepared && !closing ->
       wanted = 1;
#ifdef LINKS_WITHOUT_TURN
       if :: prepared -> link() :: !prepared fi;
#elif defined(LOOKED_BEFORE_TURN)
       if :: !inside -> link() :: inside fi;
#else
       if :: !inside && prepared -> link() :: inside || !prepared fi;       /* looks again in its turn */
#endif
       wanted = 0
#endif
    :: atomic { cell[0] && DRAINED(cell[0] - 1) -> c = 0; k = cell[0] } retire()
    :: atomic { cell[1] && DRAINED(cell[1] - 1) -> c = 1; k = cell[1] } retire()
    :: atomic { closing -> helping = 0 } break
    od
    } unless { killed };
    atomic { helping = 0; k = 0; c = 0; at = 0 }
}

/* Whoever looks after the others: retires in a lost lane, removes a lane that all have let go. */
#define SEEN_DONE(k, p) (!IN(k, p) || ACKED(p))         /* the sender's own views are its own */
#define UNUSED(k)  (close[k] && SEEN_DONE(k, 0) && SEEN_DONE(k, 1) && SEEN_DONE(k, 2))
#define OVER_IN(c) (!cell[c] || ALL_DONE(cell[c] - 1))
proctype Reaper()
{   byte k, c;
    do
    :: atomic { (lost || ended) && cell[0] && UNUSED(cell[0] - 1) -> c = 0; k = cell[0] } retire()
    :: atomic { (lost || ended) && cell[1] && UNUSED(cell[1] - 1) -> c = 1; k = cell[1] } retire()
    :: atomic { (lost || ended) && OVER_IN(0) && OVER_IN(1) && (CELLS < 3 || OVER_IN(CELLS - 1)) -> break }
    od;
    file = 0;
    removed = 1
}

/* ---- members ---- */

#if MEMORY
#define OPENS(k)     (lies_in[where[k]] == 1 + (k))     /* looked at under the lock */
#define LOCK(k)      locks[where[k]]++
#define UNLOCK(k)    locks[where[k]]--
#define HERE         assert(lies_in[where[at - 1]] == at)
#else
#define OPENS(k)     ((file & BIT(k)) != 0)
#define LOCK(k)      skip
#define UNLOCK(k)    skip
#define HERE         skip
#endif
#ifdef JOINS_AT_NEWEST
#define BETTER(n)    (!found || (at -> (n) < found : (n) > found))
#else
#define BETTER(n)    (!found || (n) < found)
#endif
inline look_into_cell() { if :: cell[c] > at && BETTER(cell[c]) -> found = cell[c] :: else fi }
#define MAY_SKIP(q)  ((q) >= MESSAGES || (q) < p || (q) >= first[found - 1] || (ready[q] && ack[q] == DONE))
inline open_slab() {                                    /* number found - 1 */
    opened = OPENS(found - 1);
    if
    :: opened ->
       assert(complete & BIT(found - 1));
       assert(MAY_SKIP(0) && MAY_SKIP(1) && MAY_SKIP(2));
       LOCK(found - 1); keeps = keeps | BIT(found - 1);
       p = first[found - 1];
#ifndef NO_LOOK_AFTER_FOLLOW
       seen = (orphans -> 255 : 0)
#endif
    :: else
    fi;
#ifdef GONE_IS_WAITED_FOR
    opened;
#endif
    at = found; found = 0; last = 0; frozen = 0 }
inline let_go_of(k) { UNLOCK(k); keeps = keeps & ~BIT(k) }
inline let_go_of_kept() { q = 0; do :: q < SLABS -> if :: keeps & BIT(q) -> let_go_of(q) :: else fi; q++ :: else -> break od; q = 0 }

#define NONE_BEHIND   !PUBLISHED(at - 1, p + 1) && !PUBLISHED(at - 1, p + 2)
#ifdef HOLES_END_A_CLOSED_SLAB
#define HOLE          lost && !PUBLISHED(at - 1, p) && !(NONE_BEHIND)
#else
#define HOLE          lost && !PUBLISHED(at - 1, p) && (close[at - 1] -> p + 1 < close[at - 1] : !(NONE_BEHIND))
#endif
#define AT_END        !close[at - 1] && (ended && p == end_at || lost && !PUBLISHED(at - 1, p) && NONE_BEHIND)
#define KEPT_DONE(k)  (!(keeps & BIT(k)) || ALL_DONE(k))
#define LAGS(k)       (keeps & BIT(k)) && at != 1 + k && ALL_DONE(k)
#ifdef OLDER_FORGOTTEN
#define FORGETS(k)    true
#else
#define FORGETS(k)    ALL_DONE(k)
#endif
proctype Member(byte i)
{   byte me, at, p, c, found, last, seen, keeps, use, q; bool frozen, opened;
    me = 1 << i;
start:
    {
    at = 0;
find:                                                   /* the smallest number above `at`, which is 1 + our slab's or 0 */
    if
    :: i < SCANNING ->
       do
       :: atomic { c < CELLS -> look_into_cell(); c++ }                                             /* CELL */
       :: atomic { c == CELLS -> c = 0 } break
       od
    :: atomic { i >= SCANNING -> do :: c < CELLS -> look_into_cell(); c++ :: else -> break od;
                c = 0; last = found; goto choose }
    fi;
choose:
    atomic {
        if
#ifdef ONE_SCAN
        :: found -> open_slab()
#else
        :: found && found == last -> open_slab()
#endif
        :: found != last -> last = found; found = 0; goto find
#ifdef NONE_FOUND_IS_THE_END
        :: !found && !last && !frozen -> goto over
#endif
        :: !found && !last && frozen -> goto over
        :: !found && !last && !frozen -> frozen = (ended || lost); goto find
        fi;
        if :: opened -> opened = 0; goto receive :: else -> goto find fi }
receive:
    do
    :: atomic { seen != orphans ->
           q = 0;
           do
           :: q < MESSAGES && ack[q] == ORPHAN && (keeps & BIT(home[q])) ->
              ack[q] = TAKEN; owner[q] = me; use = 1 + q; break
           :: q < MESSAGES && !(ack[q] == ORPHAN && (keeps & BIT(home[q]))) -> q++
           :: q == MESSAGES -> seen = orphans; break
           od;
           q = 0;
           if :: use -> goto using :: else fi }
    :: atomic { PUBLISHED(at - 1, p) && ack[p] -> HERE; p++ }
    :: atomic { PUBLISHED(at - 1, p) && !ack[p] && ready[p] == SKIP -> ack[p] = DONE; p++ }
    :: atomic { PUBLISHED(at - 1, p) && !ack[p] && ready[p] == READY -> ack[p] = TAKEN; owner[p] = me; use = 1 + p; p++ } goto using
    :: atomic { close[at - 1] == 1 + p ->
                if :: FORGETS(at - 1) -> let_go_of(at - 1) :: else fi } goto find
#if MEMORY
    :: atomic { LAGS(0) -> let_go_of(0) }
    :: atomic { LAGS(1) -> let_go_of(1) }
#endif
    :: atomic { HOLE -> p++ }
    :: atomic { AT_END && seen == orphans && KEPT_DONE(0) && KEPT_DONE(1) && KEPT_DONE(2) && KEPT_DONE(3) } goto over
    :: removed -> goto over
    od;
using:
    atomic {
        assert(!(gone & BIT(home[use - 1])) && ack[use - 1] == TAKEN && owner[use - 1] == me && !(consumed & BIT(use - 1)));
        ack[use - 1] = DONE; consumed = consumed | BIT(use - 1); use = 0 }
    goto receive
    } unless { struck[i] };
    atomic {
        let_go_of_kept(); struck[i] = 0; dead = dead | me; me = me << 2;
        at = 0; p = 0; c = 0; found = 0; last = 0; seen = 0; use = 0; q = 0; frozen = 0;
        if :: REJOINS -> goto start                     /* as a new member */
           :: !REJOINS -> alive[i] = 0
        fi };
over:
    atomic { let_go_of_kept(); assert(!alive[i] || consumed == committed); alive[i] = 0 }
}

proctype Undertaker()
{   byte d, c, q;
end:
    do
    :: atomic { dead -> d = dead; c = 0 }
       do
       :: atomic { c < CELLS ->
              if
#ifdef NEWEST_SWEPT_ONLY
              :: cell[c] > cell[1 - c] ->
#else
              :: cell[c] ->
#endif
                 for (q : 0 .. MESSAGES - 1) {
                     if :: PUBLISHED(cell[c] - 1, q) && ack[q] == TAKEN && (owner[q] & d) -> ack[q] = ORPHAN :: else fi
                 }
              :: else
              fi;
              q = 0; c++ }
       :: c == CELLS -> break
       od;
       atomic { orphans++; dead = dead & ~d; d = 0; c = 0 }
    od
}

proctype Kill()
{
end:
    do
#if SENDER_KILLED
    :: atomic { !killed && !ended -> killed = 1; held = 0; let_go_of_all() }
#endif
    :: atomic { kills < KILLS && alive[0] -> kills++; struck[0] = 1 }
    od
}

init {
    atomic {
        cell[0] = 1; lies_in[0] = 1; alive[0] = 1; alive[1] = (MEMBERS == 2);
        run Sender(); run Helper(); run Reaper(); run Undertaker(); run Kill(); run Member(0);
#if HELPER_LINKS
        run Other();
#endif
        if :: MEMBERS == 2 -> run Member(1) :: else fi
    }
}
