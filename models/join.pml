/* Opening and closing a named channel: one live channel per name, whoever opens, closes or is killed, at any step.

   A channel is a file of its own name, (name, generation); a generation is never used again, or who still has to unlink a
   closed file removes a later one. Its header word is (joins, state), changed by CAS only.
   open:  list the files. One is OPEN: register (lock, record), then CAS joins + 1; if the word changed, unregister, run the
          close check, start again. None is OPEN: link a file of my own as PROPOSED, with myself registered and joins = 1; list
          again; every other PROPOSED file: CAS to CLOSED; one is OPEN: withdraw mine (CAS to CLOSED), start again; else CAS
          mine PROPOSED -> OPEN; that fails when somebody closed it: start again.
   close: unregister, then the close check: read the word, look at all records, CAS OPEN -> CLOSED from exactly what was read
          if nobody living is registered; who closed it, unlinks it, by its own name. A refused joiner is a leaver, too.
          An opener may run the close check on an OPEN file of the dead instead of joining it, and unlinks CLOSED files.
   Two openers may close each other's proposal and start again for ever: they back off for a random time.

   A listing is not atomic: a file linked while it runs may be missed.
   Each process has ATTEMPTS files; who has used them up gives up. The newcomer comes when all others are gone or dead,
   and must get in at its first attempt; if nobody was killed, it finds no file at all.

@ holds  short  PROCESSES=2 ATTEMPTS=2 KILLS=1
@ holds  long   PROCESSES=2 ATTEMPTS=3 KILLS=2
@ holds  long   PROCESSES=3 ATTEMPTS=1 KILLS=0
@ holds  long   PROCESSES=3 ATTEMPTS=1 KILLS=1
@ mutant CREATED_OPEN                 | | open_files
@ mutant LISTS_ONCE                   | | open_files
@ mutant PROPOSAL_OPENED_BY_STORE     | | open_files
@ mutant NO_JOINS_COUNT               | | state
@ mutant COUNTS_IN_BEFORE_REGISTERING | | state
@ mutant LOOKS_BEFORE_READING_WORD    | | state
@ mutant REFUSED_JUST_GOES            | | linked
@ mutant GENERATIONS_USED_AGAIN       | | state[i]
*/
#ifndef PROCESSES
#define PROCESSES 2
#endif
#ifndef ATTEMPTS
#define ATTEMPTS 2
#endif
#ifndef KILLS
#define KILLS 0
#endif
#define NEWCOMER PROCESSES
#define FILES    (PROCESSES * ATTEMPTS + 1)
#define BIT(x)   (1 << (x))

#define PROPOSED 1
#define OPEN     2
#define CLOSED   3
byte state[FILES], joins[FILES];        /* the header word */
byte record[FILES];                     /* mask: who is registered */
byte linked;                            /* the directory: mask of files */
byte living = BIT(PROCESSES + 1) - 1;   /* the kernel's word */
byte name[FILES];                       /* the generation in its file name */
byte kills, gone;

byte inside[FILES], open_files;         /* ghosts: who believes to be in; how many files are OPEN */

#define KILL if :: atomic { kills < KILLS && me != NEWCOMER -> kills++; living = living & ~BIT(me) } goto over :: true fi

inline now_open(x)   { open_files++; assert(open_files == 1) }
inline now_closed(x) { open_files--; assert(!(inside[x] & living)) }

inline give_name(x) {
#ifdef GENERATIONS_USED_AGAIN
    i = 0;                              /* one more than the highest that is there */
    do
    :: i < FILES -> if :: (linked & BIT(i)) && name[i] >= name[x] -> name[x] = name[i] + 1 :: else fi; i++
    :: i == FILES -> break
    od;
    i = 0
#else
    name[x] = x
#endif
}
inline unlink(x) {                      /* by name: who is called so is removed */
    d_step {
        i = 0;
        do
        :: i < FILES ->
           if :: (linked & BIT(i)) && name[i] == name[x] -> assert(state[i] == CLOSED); linked = linked & ~BIT(i) :: else fi;
           i++
        :: i == FILES -> break
        od;
        i = 0 } }

/* Close f if nobody living is registered in it. */
inline read_word() { atomic { was = state[f]; count = joins[f] } }
inline look_at_records() {
    nobody = 1; i = 0;
    do
    :: i <= PROCESSES && !(record[f] & living & BIT(i)) -> i++
    :: i <= PROCESSES && (record[f] & living & BIT(i)) -> nobody = 0; break
    :: i > PROCESSES -> break
    od;
    i = 0 }
#ifdef NO_JOINS_COUNT
#define SAME_COUNT true
#else
#define SAME_COUNT (joins[f] == count)
#endif
inline close_if_empty() {
#ifdef LOOKS_BEFORE_READING_WORD
    look_at_records();
    read_word();
#else
    read_word();
    look_at_records();
#endif
    atomic {
        if
        :: nobody && was == OPEN && state[f] == OPEN && SAME_COUNT -> state[f] = CLOSED; now_closed(f); was = CLOSED
        :: else
        fi }
    KILL;
    atomic {
        if :: was == CLOSED -> unlink(f) :: else fi;
        was = 0; count = 0; nobody = 0 } }

proctype Process(byte me)
{   byte f, names, attempts, was, count, i; bool nobody, leaving;
    if :: me == NEWCOMER -> gone == PROCESSES; assert(kills > 0 || linked == 0) :: else fi;
again:
    atomic {                            /* the first listing: any file, or none, as if it had missed the others */
        f = 0;
        do
        :: f < FILES && (linked & BIT(f)) && state[f] == OPEN -> goto register
        :: f < FILES && (linked & BIT(f)) && state[f] == OPEN -> goto check       /* perhaps all its members are dead */
        :: f < FILES && (linked & BIT(f)) && state[f] == CLOSED -> unlink(f); f++
        :: f < FILES && !((linked & BIT(f)) && state[f] == CLOSED) && !(me == NEWCOMER && state[f] == OPEN) -> f++
        :: f == FILES -> goto propose
        od }

register:
#ifdef COUNTS_IN_BEFORE_REGISTERING
    if :: atomic { state[f] == OPEN -> joins[f]++ } :: else -> goto unregister fi;
    KILL;
    record[f] = record[f] | BIT(me);
    goto entered;
#endif
    record[f] = record[f] | BIT(me);
    KILL;
    if
    :: atomic { state[f] == OPEN ->     /* load and CAS in one: a CAS that fails on the count only starts again */
#ifndef NO_JOINS_COUNT
                joins[f]++;
#endif
                goto entered }
    :: state[f] != OPEN -> goto unregister
#ifdef REFUSED_JUST_GOES
    :: me != NEWCOMER -> record[f] = record[f] & ~BIT(me); goto over
#else
    :: me != NEWCOMER -> leaving = 1; goto unregister           /* refused: another type, one too many */
#endif
    fi;

propose:
    atomic {
        if :: attempts == ATTEMPTS || (me == NEWCOMER && attempts == 1) -> assert(me != NEWCOMER); goto over :: else fi;
        f = me * ATTEMPTS + attempts; attempts++;
        record[f] = BIT(me); joins[f] = 1; give_name(f); linked = linked | BIT(f);
#ifdef CREATED_OPEN
        state[f] = OPEN; now_open(f); goto entered
#else
        state[f] = PROPOSED
#endif
    }
    KILL;
#ifndef LISTS_ONCE
    atomic { names = linked & ~BIT(f); i = 0 }
    do
    :: atomic {
           do :: i < FILES && !(names & BIT(i)) -> i++ :: else -> break od;
           if
           :: i == FILES -> i = 0; break
           :: i < FILES && state[i] == PROPOSED -> state[i] = CLOSED; i++                    /* CAS */
           :: i < FILES && state[i] == CLOSED -> i++
           :: i < FILES && state[i] == OPEN -> i = 0; goto withdraw
           fi }
       KILL
    od;
#endif
#ifdef PROPOSAL_OPENED_BY_STORE
    atomic { state[f] = OPEN; now_open(f); goto entered }
#else
    if
    :: atomic { state[f] == PROPOSED -> state[f] = OPEN; now_open(f); goto entered }         /* CAS */
    :: else
    fi;
#endif
withdraw:
    state[f] = CLOSED;                  /* CAS: it is PROPOSED or CLOSED, and only its creator opens it */
    KILL;
    atomic { unlink(f); names = 0 }
    goto again;

entered:
    atomic { assert(state[f] == OPEN); inside[f] = inside[f] | BIT(me) }
    KILL;
    leaving = 1;
unregister:
    atomic { inside[f] = inside[f] & ~BIT(me); record[f] = record[f] & ~BIT(me) }
    KILL;
check:
    close_if_empty();
    if :: leaving :: else -> goto again fi;
over:
    atomic { gone++; f = 0; names = 0; attempts = 0; i = 0; leaving = 0 }
}

init { byte p; atomic { do :: p <= PROCESSES -> run Process(p); p++ :: else -> break od } }
