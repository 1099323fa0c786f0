/* A stage that joins a running lane, and leaves it again: whom the sender waits for, and from which message on.

   Sender: each loan looks at `graph`; if it changed: from = the next loan position, THEN admitted = generation. It lends q when
   its own message at p = q - capacity was sent (or never will be), and the stage does not gate p. The stage WORD is read first,
   the ack word after it. A stage gates p if admitted with this generation, p >= from, and the ack word (OPEN) is not DONE,
   (DRAINING) is TAKEN or PASSED. Members touch no ack word before admitted == generation, take p >= from only, from whatever
   older word is there, and see no ORPHAN below `from`: it is of a generation before.
   Join: register, then CAS joins + 1 on the OPEN word. Refused, or too late: leave; the last leaver may have seen us.
   Leave: say LEAVING, the close check, keep the views, FREE with the last view. FREE means that nobody buries us.
   Close check: read the word, look whether a living member is ACTIVE, CAS OPEN -> DRAINING from exactly what was read.
   Burial: TAKEN -> ORPHAN, PASSED -> DONE, the close check, SWEPT; an undertaker may be killed at each step, the next begins anew.
   The bit of a DRAINING stage is cleared, by CAS on the graph's version, when no record, LEAVING or unburied, names it; only
   then it opens again, with generation + 1. (How a stage is proposed: graph.pml.)

   LOAN_ASKS: the sender does not ask in its look-ahead whether its own loan is still open, but when it lends. Then the look-ahead must
   be cut to from + capacity at an admission: loans may have been rewound since. Otherwise this follows.
   TRIES_ALWAYS: the sender looks at any time, not only when it would find something.
   SKIP is not here: a stage takes it like a message.

@ holds  short  SLOTS=1 MESSAGES=3
@ holds  short  SLOTS=1 MESSAGES=2 TRIES_ALWAYS
@ holds  short  SLOTS=1 MESSAGES=1 KILLS=1
@ holds  long   SLOTS=1 MESSAGES=2 KILLS=1
@ holds  long   SLOTS=2 MESSAGES=4
@ holds  long   SLOTS=2 MESSAGES=3 LOAN_ASKS
@ mutant JOINER_DECIDES_FIRST      | MESSAGES=4           | got
@ mutant NOT_CAPPED_AFTER_REWIND   | MESSAGES=4 LOAN_ASKS | got
@ mutant LENDS_OVER_OPEN_LOANS     | MESSAGES=4           | open
@ mutant TAKER_WANTS_LAP_BEFORE    | MESSAGES=4           | got
@ mutant TOUCHES_BEFORE_ADMITTED   | MESSAGES=4           | content
@ mutant LEAVER_STOPS_GATING       | MESSAGES=4           | readers
@ mutant LEAVER_KEEPS_GATING       | MESSAGES=4           | finished
@ mutant ACK_READ_FIRST            | SLOTS=1 MESSAGES=3 TRIES_ALWAYS | readers
@ mutant RECORD_USED_AGAIN_TOO_SOON | SLOTS=1 MESSAGES=3  | readers
@ mutant CLOSED_WITHOUT_JOINS      | SLOTS=1 MESSAGES=3   | inside
@ mutant REFUSED_JUST_GOES         | SLOTS=1 MESSAGES=3   | finished
@ mutant FREE_BEFORE_CLOSE_CHECK   | SLOTS=1 MESSAGES=2 KILLS=1 | finished
@ mutant LOOKS_BEFORE_IT_LEAVES    | SLOTS=1 MESSAGES=3   | finished
@ mutant STALE_ORPHAN_TAKEN        | SLOTS=1 MESSAGES=3   | from
@ mutant SWEPT_BEFORE_CLOSED       | SLOTS=1 MESSAGES=2 KILLS=1 | finished
*/
#ifndef MESSAGES
#define MESSAGES 3
#endif
#ifndef ROUNDS
#define ROUNDS 1
#endif
#ifndef KILLS
#define KILLS 0
#endif
#ifndef SLOTS
#define SLOTS 2
#endif
#define MEMBERS 2
#define LOANS   2                                       /* open at a time */

#define SLOT(p)        ((p) % SLOTS)
#define LAP(p)         (1 + (p) / SLOTS)
#define POSITION(l, i) (((l) - 1) * SLOTS + (i))
#define BIT(p)         (1 << (p))

#define DONE   0
#define TAKEN  1
#define PASSED 2
#define ORPHAN 3
typedef Word { byte lap; byte state; byte owner };
Word ack[SLOTS];                                        /* the stage's row */
byte ready[SLOTS];                                      /* lap of READY */

#define NEVER    0
#define OPEN     1
#define DRAINING 2
byte generation, joins, state;                          /* the stage word */
byte version; bool in_mask;                             /* `graph` */
byte admitted, from;                                    /* of the lane, written by its sender */

#define FREE     0
#define ACTIVE   1
#define LEAVING  2
byte record[MEMBERS]; byte dead, kills, returns;        /* dead: a mask, the kernel's word, until buried */

byte readers[SLOTS], content[SLOTS], open, got, inside; /* ghosts: `got` of this generation; `inside`: counted in, ACTIVE */
bool finished;

/* The sender lends q: what it has read of the stage word and the ack word of q - capacity. */
#define NOT_GATING(g, q) (q < SLOTS || (g) == 0 || admitted != (g) || q - SLOTS < from)
#if defined(LEAVER_STOPS_GATING)
#define HOLDS(a) false
#elif defined(LEAVER_KEEPS_GATING)
#define HOLDS(a) (a != DONE)
#else
#define HOLDS(a) (a == TAKEN || a == PASSED)
#endif
#ifdef LEAVER_KEEPS_GATING
#define DRAINED(s, l, a, q) false
#else
#define DRAINED(s, l, a, q) ((s) == DRAINING && !((l) == LAP(q) - 1 && HOLDS(a)))
#endif
#define LET_GO(g, s, l, a, q) (NOT_GATING(g, q) || ((l) == LAP(q) - 1 && (a) == DONE) || DRAINED(s, l, a, q))
#if defined(LOAN_ASKS) || defined(LENDS_OVER_OPEN_LOANS)
#define WAS_SENT(q) true
#else
#define WAS_SENT(q) (ready[SLOT(q)] == LAP(q) - 1)
#endif
#ifdef LOAN_ASKS
#define MAY_LEND(p) (ready[SLOT(p)] == LAP(p) - 1)
#else
#define MAY_LEND(p) true
#endif
#ifdef TRIES_ALWAYS
#define TRIES(q) true                                   /* in vain as well; then "stuck" does not show */
#else
#define TRIES(q) FREE_NOW(q)
#endif
#define FREE_NOW(q) (WAS_SENT(q) && LET_GO(generation, state, ack[SLOT(q)].lap, ack[SLOT(q)].state, q))

inline read_stage() { atomic { g = generation; s = state } }
inline read_ack()   { atomic { l = ack[SLOT(free)].lap; a = ack[SLOT(free)].state } }

active proctype Sender()
{   byte next, free, p, g, s, l, a, count, saw;
    do
    :: atomic { version != saw ->                       /* graph, word, graph again: one step here */
           saw = version;
           if :: in_mask && state == OPEN -> g = generation :: else -> g = admitted fi }
#ifndef JOINER_DECIDES_FIRST
       if
       :: g != admitted ->
          from = next;
          atomic { admitted = g; g = 0 }
#if defined(LOAN_ASKS) && !defined(NOT_CAPPED_AFTER_REWIND)
          free = (free > next + SLOTS -> next + SLOTS : free)
#endif
       :: else -> g = 0
       fi
#endif
    :: version == saw && next < MESSAGES && count < LOANS && free < MESSAGES && free < next + SLOTS && TRIES(free) ->
#ifdef ACK_READ_FIRST
       read_ack(); read_stage();
#else
       read_stage(); read_ack();
#endif
       atomic { if :: WAS_SENT(free) && LET_GO(g, s, l, a, free) -> free++ :: else fi; g = 0; s = 0; l = 0; a = 0 }
    :: atomic { version == saw && next < MESSAGES && count < LOANS && next < free && MAY_LEND(next) ->
           assert(readers[SLOT(next)] == 0);
           assert(!(next >= SLOTS && (open & BIT(next - SLOTS))));
           if                                           /* nothing is lost for a stage that has members */
           :: next >= SLOTS && inside && state == OPEN && admitted == generation && next - SLOTS >= from ->
              assert(got & BIT(next - SLOTS))
           :: else
           fi;
#ifndef JOINER_DECIDES_FIRST
           assert(!(in_mask && state == OPEN) || admitted == generation);
#endif
           content[SLOT(next)] = next; open = open | BIT(next); next++; count++ }
    :: atomic { open ->
           p = 0;
           do :: (open & BIT(p)) -> break :: (open >> (p + 1)) -> p++ od;
           if
           :: assert(readers[SLOT(p)] == 0 && content[SLOT(p)] == p); ready[SLOT(p)] = LAP(p); open = open & ~BIT(p)
           :: p + 1 == next -> open = open & ~BIT(p); next = p                       /* rewound */
           fi;
           count--; p = 0 }
    :: atomic { next == MESSAGES && !open -> finished = 1; next = 0; free = 0; saw = 0 } break
    od
}

/* CAS OPEN -> DRAINING from exactly the word that was read, if nobody living is ACTIVE. */
inline read_word() { atomic { g = generation; j = joins; s = state } }
inline look_at(other) { nobody = (record[other] != ACTIVE || (dead & BIT(other))) }
#ifdef CLOSED_WITHOUT_JOINS
#define SAME_JOINS true
#else
#define SAME_JOINS (joins == j)
#endif
inline close_check(other) {
    read_word();
    look_at(other);
    atomic {
        if
        :: nobody && s == OPEN && state == OPEN && generation == g && SAME_JOINS ->
           assert(!(inside & ~dead)); state = DRAINING
        :: else
        fi;
        g = 0; j = 0; s = 0; nobody = 0 } }

#ifdef RECORD_USED_AGAIN_TOO_SOON
#define PRESENT(m) (record[m] == ACTIVE)
#else
#define PRESENT(m) (record[m] != FREE)
#endif

/* Views die with the process. */
#define KILL \
    if \
    :: atomic { kills < KILLS && record[me] != FREE -> \
           kills++; dead = dead | BIT(me); inside = inside & ~BIT(me); \
           readers[SLOT(held + SLOTS - 1)] = readers[SLOT(held + SLOTS - 1)] - (held -> 1 : 0); held = 0; \
           goto killed } \
    :: true \
    fi

#if defined(REFUSED_JUST_GOES)
#define UNREGISTER record[me] = FREE
#elif defined(FREE_BEFORE_CLOSE_CHECK)
#define UNREGISTER \
    atomic { if :: kills < KILLS -> kills++; record[me] = FREE; goto gone :: record[me] = FREE fi } close_check(1 - me)
#else
#define UNREGISTER record[me] = LEAVING; KILL; close_check(1 - me); KILL; record[me] = FREE
#endif

#ifdef TAKER_WANTS_LAP_BEFORE
#define TAKES_FROM(p) (ack[SLOT(p)].lap == LAP(p) - 1 && ack[SLOT(p)].state == DONE)
#else
#define TAKES_FROM(p) (ack[SLOT(p)].lap < LAP(p))
#endif
#ifdef TOUCHES_BEFORE_ADMITTED
#define MAY_TOUCH (admitted != 0)
#else
#define MAY_TOUCH (admitted == mine)
#endif
#ifdef STALE_ORPHAN_TAKEN
#define COUNTS(p) true
#else
#define COUNTS(p) ((p) >= from)
#endif
#define IS_ORPHAN(i) (ack[i].state == ORPHAN && COUNTS(POSITION(ack[i].lap, i)))

inline take(q) {
    ack[SLOT(q)].lap = LAP(q); ack[SLOT(q)].state = TAKEN; ack[SLOT(q)].owner = me;
    assert(q >= from && content[SLOT(q)] == q);
    readers[SLOT(q)]++; got = got | BIT(q); held = 1 + q }
inline let_view_go(x) {
    assert(content[SLOT(held - 1)] == held - 1 && ack[SLOT(held - 1)].lap == LAP(held - 1) && ack[SLOT(held - 1)].owner == me);
    readers[SLOT(held - 1)]--; ack[SLOT(held - 1)].state = x; held = 0 }

proctype Member(byte me)
{   byte mine, cursor, held, rounds;                    /* generation; position; 1 + what it holds */
    byte g, j, s; bool nobody, knows_from, over;
join:
    rounds++;
again:
    do
    :: atomic { state == OPEN -> g = generation; j = joins }
       record[me] = ACTIVE;
       KILL;
       if
       :: atomic { state == OPEN && generation == g && joins == j ->
                   joins++; inside = inside | BIT(me); mine = g; g = 0; j = 0 } goto entered
       :: atomic { !(state == OPEN && generation == g && joins == j) -> g = 0; j = 0 }
       :: atomic { g = 0; j = 0; over = 1 }             /* refused */
       fi;
       UNREGISTER;
       if :: over -> goto gone :: else fi
    :: state != OPEN && !in_mask ->
       record[me] = ACTIVE;
       if
       :: atomic { state != OPEN && !in_mask -> in_mask = 1; version++; generation++; state = OPEN; joins = 1;
                   inside = BIT(me); got = 0; mine = generation } goto entered
       :: else -> UNREGISTER
       fi
    :: atomic { state == DRAINING && in_mask && !PRESENT(0) && !PRESENT(1) -> version++; in_mask = 0 }   /* the CAS makes it one step */
    :: rounds > 1 -> goto gone
    od;

entered:
#ifdef JOINER_DECIDES_FIRST
    atomic { if :: admitted != mine -> cursor = 0; do :: ready[SLOT(cursor)] >= LAP(cursor) -> cursor++ :: else -> break od :: else fi }
    atomic { if :: admitted != mine -> from = cursor; admitted = mine :: else fi; cursor = 0 }
#endif
    KILL;
next:
    if :: goto leave :: true fi;
end_waits:
    do
    :: atomic { !held && !knows_from && MAY_TOUCH -> cursor = from; knows_from = 1 }
    :: atomic { !held && knows_from && IS_ORPHAN(0) -> take(POSITION(ack[0].lap, 0)) } goto use
#if SLOTS > 1
    :: atomic { !held && knows_from && IS_ORPHAN(1) -> take(POSITION(ack[1].lap, 1)) } goto use
#endif
    :: atomic { !held && knows_from && cursor < MESSAGES && ack[SLOT(cursor)].lap >= LAP(cursor) -> cursor++ }
    :: atomic { !held && knows_from && cursor < MESSAGES && ready[SLOT(cursor)] == LAP(cursor) && TAKES_FROM(cursor) ->
                assert(!(got & BIT(cursor))); take(cursor); cursor++ } goto use
    od;
use:
    KILL;
    if
    :: atomic { let_view_go(DONE) } goto next
    :: atomic { returns == 0 -> returns++; let_view_go(ORPHAN) } goto next      /* the caller never saw it */
    :: goto leave                                                               /* with a message in its hands */
    :: atomic { ack[SLOT(held - 1)].state = PASSED }
       if :: atomic { let_view_go(DONE) } goto next :: goto leave fi
    fi;

leave:
#ifdef LOOKS_BEFORE_IT_LEAVES
    read_word();
    look_at(1 - me);
    atomic {
        if :: nobody && s == OPEN && state == OPEN && generation == g && joins == j -> state = DRAINING :: else fi;
        g = 0; j = 0; s = 0; nobody = 0; inside = inside & ~BIT(me) }
    record[me] = LEAVING;
#else
    atomic { record[me] = LEAVING; inside = inside & ~BIT(me) }
    KILL;
    close_check(1 - me);
#endif
    KILL;
    if
    :: atomic { held && ack[SLOT(held - 1)].state == TAKEN -> ack[SLOT(held - 1)].state = PASSED }
       atomic { let_view_go(DONE) }
    :: atomic { held -> let_view_go(DONE) }
    :: !held
    fi;
    atomic { record[me] = FREE; mine = 0; cursor = 0; knows_from = 0 }
gone:
    if
    :: rounds < ROUNDS && !over -> goto join
    :: else
    fi;
    goto end;
killed:                                                 /* another process comes with the same id */
    atomic {
        mine = 0; cursor = 0; knows_from = 0; g = 0; j = 0; s = 0; nobody = 0 }
end_buried:
    if :: rounds < ROUNDS && !(dead & BIT(me)) && record[me] == FREE -> goto join fi;
end:
    atomic { over = 0; rounds = 0 }
}

#if KILLS
#define RESTART if :: atomic { restarts == 0 -> restarts = 1; d = 0; i = 0; g = 0; j = 0; s = 0; nobody = 0 } goto end :: true fi
active proctype Undertaker()
{   byte d, i, g, j, s; bool nobody, restarts;          /* restarts: it was killed, the next one begins */
end:
    do
    :: atomic { (dead & BIT(0)) -> d = 0 }   break
    :: atomic { (dead & BIT(1)) -> d = 1 }   break
    od;
    do
    :: atomic {
           i < SLOTS ->
           if
           :: ack[i].state == TAKEN && ack[i].owner == d -> ack[i].state = ORPHAN
           :: ack[i].state == PASSED && ack[i].owner == d -> ack[i].state = DONE
           :: else
           fi;
           i++ }
    :: atomic { i == SLOTS -> i = 0 } break
    od;
    RESTART;
#ifdef SWEPT_BEFORE_CLOSED
    atomic { record[d] = FREE; dead = dead & ~BIT(d) }
    RESTART;
    close_check(1 - d);
#else
    close_check(1 - d);
    RESTART;
    atomic { record[d] = FREE; dead = dead & ~BIT(d) }
#endif
    d = 0;
    goto end
}
#endif

active proctype Monitor()
{
end:
    timeout;
    assert(finished);
    if                                                  /* whoever is in has got all of it, from `from` on */
    :: inside && admitted == generation ->
       assert((got >> from) == BIT(MESSAGES - from) - 1);
       assert(ack[0].state != ORPHAN || POSITION(ack[0].lap, 0) < from);
       assert(ack[SLOTS - 1].state != ORPHAN || POSITION(ack[SLOTS - 1].lap, SLOTS - 1) < from)
    :: else
    fi
}

init { atomic { run Member(0); run Member(1) } }
