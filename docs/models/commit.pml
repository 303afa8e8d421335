/*
 * The crash rule: a record is made, stored, anchored, seen to be anchored, and only then does anything leave that
 * depends on it. Two managers, started from copies of one store, and the instance enclaves that they admit; the host,
 * which keeps everything, offers anything, withholds and delays, is the adversary. With HONEST it is not, but it may
 * crash at any step: then nobody may be locked out. One instance; README.md has the bounds.
 *
 * Terms. A record is a number; what it says is in rec. The anchor is a value: H(base, r) is r itself, since r has one
 * base; LOST is the value of an extension that no record fits. In the variant COUNTER the anchor is a number. An
 * enclave seals a version once, so the content of a version is named by its enclave. Only the sealed state that a row
 * names by version and digest is loaded: which one the host offers makes no difference, and is no step.
 *
 * A hostile host has a record as soon as it is made, and the move of the anchor as soon as it is asked for: making,
 * storing and sending are one step there, and any move arrives at any time or never. A crash is no step either: what
 * takes no step any more has crashed, and a manager may start over at any step. Whatever a manager says reaches the
 * enclave at once: an enclave that takes no further step has not heard of it yet. What a manager sees of the anchor is
 * what the anchor was at that moment: the answer is authenticated, to a nonce of that question.
 */

#ifdef HONEST
#define MANAGERS 1
#else
#define MANAGERS 2
#endif
#ifndef ENCLAVES
#define ENCLAVES 2
#endif
#ifndef RECORDS
#define RECORDS 8
#endif
#ifndef VERSIONS
#define VERSIONS 3
#endif
#ifndef CRASHES
#define CRASHES 3 /* HONEST */
#endif
#define LIMIT 2 /* commands that commit nothing, for each lease */

#define GENESIS 1
#define LOST    255

typedef record {
    byte base;    /* what the anchor was */
    byte version; /* the instance's row: its newest state, */
    byte digest;  /* whose content that is: 1 + enclave */
    byte number;  /* of the start */
    byte epoch;
    byte holder; /* 1 + enclave */
    bool held;   /* false: never started, or declared dead */
    bool admits; /* this very record is a start */
};
record rec[RECORDS + 1];
byte made = GENESIS;
byte named; /* enclaves that a record has named */

byte anchor = GENESIS;
byte head = GENESIS; /* the record that moved it last */

/* managers */
#define DOWN     0
#define FIRST    1 /* starting; the record that the host offered is not anchored yet */
#define STARTING 2 /* its start record is not anchored yet */
#define SERVING  3
#define BUSY     4 /* a record that it made is not anchored yet */
byte m_step[MANAGERS], m_rec[MANAGERS];
#define ROW(m) rec[m_rec[m]]

/* how far the record m_rec got: made, then stored, then its move sent */
#define MADE 0
#define HALF 1
#define FULL 2
#ifdef ANCHOR_BEFORE_STORE
#define TO_STORE HALF
#define TO_SEND  MADE
#else
#define TO_STORE MADE
#define TO_SEND  HALF
#endif
byte m_way[MANAGERS];

/* enclaves: the record that is its start, and the version that it has */
byte e_rec[ENCLAVES], e_version[ENCLAVES];

/* what clients have seen: the newest version, and whose content each is */
byte answered, content[VERSIONS + 1];
#ifdef NO_DIGEST
byte sealed[VERSIONS + 1]; /* by which enclaves, one bit each */
#endif

#ifdef HONEST
byte durable = GENESIS; /* the newest record in the store */
byte wire;              /* the record whose move is on its way */
byte crashes;
bool e_gone[ENCLAVES];
#define GONE(e) e_gone[e]
#else
#define GONE(e) false
#endif

#ifdef LEASES
byte e_used[ENCLAVES];  /* commands since the lease */
byte e_since[ENCLAVES]; /* commands since the question */
mtype = { none, asked, granted };
mtype e_lease[ENCLAVES] = none;
bool e_resets[ENCLAVES];  /* the question is for a reset */
bool e_late[ENCLAVES];    /* it was asked by one that was cut off */
byte e_cut[ENCLAVES];     /* commands since it was cut off */
#endif

#ifdef COUNTER
#define VALUE(r) (rec[r].base + 1)
#else
#define VALUE(r) (r)
#endif
#define ANCHORED(r) (anchor == VALUE(r))
#define NEXT(r)     (anchor == rec[r].base)

#define SAME_HOLDER(r, e) \
    (e_rec[e] != 0 && rec[r].holder == 1 + (e) && rec[r].number == rec[e_rec[e]].number && \
     rec[r].epoch == rec[e_rec[e]].epoch)
#define CUT_OFF(e) (!(SAME_HOLDER(head, e) && rec[head].held))

/* --- properties --- */

#define CURRENT(m) (m_step[m] == SERVING && ANCHORED(m_rec[m]))

inline check_enclave(e)
{
    /* whoever is not cut off has everything that was answered */
    assert(e_rec[e] == 0 || GONE(e) || CUT_OFF(e) || e_version[e] >= answered)
}

#ifdef FORGET
#define PAST(r) (!ANCHORED(r) && !NEXT(r))
#define NEEDED(r) \
    (!PAST(r) || head == r || m_rec[0] == r || m_rec[MANAGERS - 1] == r || e_rec[0] == r || e_rec[1] == r || \
     e_rec[ENCLAVES - 1] == r)

inline forget_manager(m)
{
    if
    :: m_rec[m] != 0 && PAST(m_rec[m]) -> m_rec[m] = 0; m_step[m] = DOWN; m_way[m] = MADE
    :: else
    fi
}

/* No record or manager that the anchor has passed can ever be of use again: what they were is no part of the state. */
inline forget()
{
    forget_manager(0);
    forget_manager(MANAGERS - 1);
    for (i : 1 .. made) {
        if
        :: NEEDED(i)
        :: else ->
            rec[i].base = 0;
            rec[i].version = 0;
            rec[i].digest = 0;
            rec[i].number = 0;
            rec[i].epoch = 0;
            rec[i].holder = 0;
            rec[i].held = false;
            rec[i].admits = false
        fi
    }
    i = 0
}
#endif

/* What is to be found with REACHABLE */
#if defined(CRASHED) /* after that crash a commit is answered, the one that was under way or a later one */
bool crashed;
byte answered_then;
#define FOUND (crashed && answered > answered_then)
#elif defined(FORKED) /* a second manager answers commits; the first has a record that will never be anchored */
#define FOUND (answered == 2 && CURRENT(1) && m_step[0] == BUSY && !ANCHORED(m_rec[0]) && !NEXT(m_rec[0]))
#elif defined(REFUSED) /* in start_over() */
#define FOUND false
#elif defined(AT_LIMIT) /* cut off, and at its end */
#define FOUND (e_cut[0] == LIMIT)
#elif defined(RESET)
#define FOUND was_reset
bool was_reset;
#else /* both enclaves commit */
#define FOUND (content[1] == 1 && content[2] == 2)
#endif

inline check()
{
#ifdef FORGET
    forget();
#endif
    check_enclave(0);
    check_enclave(1);
    check_enclave(ENCLAVES - 1);
#if MANAGERS == 2 && !defined(MANY) /* MANY: for what is wrong there, look for its consequences */
    assert(!(CURRENT(0) && CURRENT(1))); /* one manager at most can answer */
#endif
#ifdef REACHABLE
    assert(!FOUND);
#endif
    skip
}

/* --- what leaves a manager --- */

inline give_keys(e, r)
{
    assert(rec[r].version >= answered);
#ifdef NO_DIGEST /* any state of that version */
    assert(content[rec[r].version] == 0 || sealed[rec[r].version] == 1 << (content[rec[r].version] - 1));
#else
    assert(content[rec[r].version] == 0 || content[rec[r].version] == rec[r].digest);
#endif
    e_rec[e] = r;
    e_version[e] = rec[r].version
}

inline answer(e, r)
{
    e_version[e] = rec[r].version;
    assert(rec[r].held); /* never one that was declared dead */
    assert(content[rec[r].version] == 0 || content[rec[r].version] == 1 + e); /* one content for each version */
    content[rec[r].version] = 1 + e;
    if
    :: rec[r].version > answered -> answered = rec[r].version
    :: else
    fi;
#ifdef LEASES
    e_used[e] = 0;
#endif
}

/* All that depends on r. A start record carries the newest row, and a manager says that again to one that resumes. */
inline release(r)
{
    if
    :: rec[r].holder != 0 && !GONE(rec[r].holder - 1) ->
        e = rec[r].holder - 1;
        if
        :: rec[r].admits && e_rec[e] == 0 -> give_keys(e, r)
        :: SAME_HOLDER(r, e) && rec[r].digest == 1 + e && rec[r].version == e_version[e] + 1 -> answer(e, r)
        :: else
        fi;
        e = 0
    :: else
    fi
}

/* --- the manager --- */

#define ROOM (made < RECORDS)

inline make(m, row, step)
{
    made++;
    rec[made].base = VALUE(row);
    rec[made].version = rec[row].version;
    rec[made].digest = rec[row].digest;
    rec[made].number = rec[row].number;
    rec[made].epoch = rec[row].epoch;
    rec[made].holder = rec[row].holder;
    rec[made].held = rec[row].held;
    m_rec[m] = made;
    m_step[m] = step;
#ifdef HONEST
    m_way[m] = MADE
#else
    m_way[m] = FULL
#endif
}

inline early(m) /* what leaves too early */
{
#if defined(ANSWER_BEFORE_ANCHOR) || defined(ANSWER_BEFORE_STORE)
    if
    :: !rec[made].admits -> release(made)
    :: else
    fi;
#endif
#ifdef KEYS_BEFORE_ANCHOR
    if
    :: rec[made].admits -> release(made)
    :: else
    fi;
#endif
    skip
}

/* The row in r is accepted, and anchored */
inline begin(m, r)
{
#ifdef NO_START_RECORD
    m_rec[m] = r;
    m_step[m] = SERVING;
    release(r)
#else
    make(m, r, STARTING)
#endif
}

inline start_over(m)
{
    if
    :: ANCHORED(r) -> begin(m, r)
    :: NEXT(r) && !ANCHORED(r) ->
        m_rec[m] = r;
        m_step[m] = FIRST;
#ifdef HONEST
        m_way[m] = TO_SEND
#else
        m_way[m] = FULL
#endif
    :: else ->
#ifdef SEARCH /* the newest that there seems to be */
        make(m, r, STARTING);
        rec[made].base = anchor
#else
#ifdef HONEST
        assert(false); /* locked out */
#endif
#if defined(REACHABLE) && defined(REFUSED)
        assert(rec[r].version >= answered);
#endif
        m_rec[m] = 0;
        m_step[m] = DOWN;
        m_way[m] = MADE
#endif
    fi
}

inline confirm(m)
{
    if
    :: m_step[m] == FIRST -> begin(m, m_rec[m])
    :: m_step[m] == STARTING || m_step[m] == BUSY ->
        m_step[m] = SERVING;
        release(m_rec[m])
    fi
}

#ifdef LEASES
#define IDLE(e) (!e_resets[e])
#else
#define IDLE(e) (!GONE(e))
#endif
#define COMMITS(m, e) \
    (SAME_HOLDER(m_rec[m], e) && ROW(m).version == e_version[e] && ROW(m).version < VERSIONS && IDLE(e))
#ifdef HONEST
#define MAY_BE_DEAD(e) e_gone[e]
#else
#define MAY_BE_DEAD(e) true
#endif

inline move(r)
{
    if
    :: NEXT(r) -> anchor = VALUE(r); head = r
#ifdef EXTEND
    :: else -> anchor = LOST
#else
    :: else /* compare, and do not set */
#endif
    fi
}

#ifdef HONEST
/* CRASHED is one of these places */
#define COMMITTING(m)     (m_step[m] == BUSY && ROW(m).version > answered)
#define BEFORE_STORE(m)   (COMMITTING(m) && m_way[m] == TO_STORE)
#define BEFORE_MOVE(m)    (COMMITTING(m) && m_way[m] == TO_SEND)
#define MOVE_LOST(m)      (COMMITTING(m) && m_way[m] == FULL && wire != 0)
#define MOVE_UNSEEN(m)    (COMMITTING(m) && m_way[m] == FULL && wire == 0)
#define WHILE_FIRST(m)    (m_step[m] == FIRST && ROW(m).version > answered)
#define WHILE_STARTING(m) (m_step[m] == STARTING && ROW(m).version > answered)
#define WHILE_SERVING(m)  (m_step[m] == SERVING)

inline crash(m)
{
    crashes++;
#ifdef CRASHED
    if
    :: CRASHED(m) -> crashed = true; answered_then = answered
    :: else
    fi;
#endif
    m_step[m] = DOWN;
    m_rec[m] = 0;
    m_way[m] = MADE;
#ifndef LATE
    wire = 0
#endif
}
#endif

#ifdef LEASE_FROM_MEMORY
#define LOOKED(m) true
#else
#define LOOKED(m) ANCHORED(m_rec[m])
#endif
#define LEASED(m, e) (SAME_HOLDER(m_rec[m], e) && e_lease[e] == asked && LOOKED(m))
#ifdef LEASE_UNBOUNDED
#define COUNT 0
#else
#define COUNT 1
#endif
#ifdef LEASE_FROM_ARRIVAL
#define COUNTED(e) 0
#else
#define COUNTED(e) e_since[e]
#endif
#ifdef RESET_UNASKED
#define RESETS_UNASKED true
#else
#define RESETS_UNASKED false
#endif

#define UNDER_WAY(m) (m_step[m] != DOWN && m_step[m] != SERVING)
#if defined(HOSTS_WORD)
#define SEEN(m) true
#elif defined(HONEST)
#define SEEN(m) (wire == 0)
#else
#define SEEN(m) ANCHORED(m_rec[m])
#endif
#ifdef TWO_IN_FLIGHT
#define FREE(m) (ROOM && (m_step[m] == SERVING || (m_step[m] == BUSY && m_way[m] == FULL)))
#else
#define FREE(m) (ROOM && m_step[m] == SERVING)
#endif

proctype manager(byte m)
{
    byte r, e, i;
end:
    do
#ifdef HONEST
    :: d_step { m_step[m] == DOWN && ROOM -> r = durable; start_over(m); r = 0; check() }
    :: d_step { UNDER_WAY(m) && m_way[m] == TO_STORE -> durable = m_rec[m]; m_way[m]++ }
    :: d_step { UNDER_WAY(m) && m_way[m] == TO_SEND && wire == 0 -> wire = m_rec[m]; m_way[m]++ }
    :: d_step { m_step[m] != DOWN && crashes < CRASHES -> crash(m) }
#else
    :: atomic {
           (m == 0 || m_step[0] != DOWN) && ROOM -> /* over, from any step */
           select (r : 1 .. made);
           d_step { start_over(m); r = 0; check() }
       }
#endif
    :: d_step {
           UNDER_WAY(m) && m_way[m] == FULL && SEEN(m) && (ROOM || m_step[m] != FIRST) ->
#ifdef HONEST
           assert(ANCHORED(m_rec[m])); /* or it would be dead */
#endif
           confirm(m);
           check()
       }
    :: atomic { /* a start: any enclave that has proved itself, while nobody holds the instance */
           FREE(m) && !ROW(m).held ->
           select (e : 0 .. ENCLAVES - 1);
           d_step {
               if
               :: e <= named && e_rec[e] == 0 && !GONE(e) ->
                   make(m, m_rec[m], BUSY);
                   rec[made].number++;
                   rec[made].holder = 1 + e;
                   rec[made].held = true;
                   rec[made].admits = true;
                   if
                   :: e == named -> named++
                   :: else
                   fi;
                   e = 0;
                   early(m);
                   check()
               :: else -> e = 0
               fi
           }
       }
    :: d_step { /* declared dead, with no proof of it */
           FREE(m) && ROW(m).held && MAY_BE_DEAD(ROW(m).holder - 1) ->
           make(m, m_rec[m], BUSY);
           rec[made].held = false;
#ifndef NO_EPOCH
           rec[made].epoch++;
#endif
       }
    :: d_step { /* a commit of the holder */
           FREE(m) && ROW(m).holder != 0 && COMMITS(m, ROW(m).holder - 1) ->
           e = ROW(m).holder - 1;
           make(m, m_rec[m], BUSY);
           rec[made].version++;
           rec[made].digest = 1 + e;
#ifdef NO_DIGEST
           sealed[rec[made].version] = sealed[rec[made].version] | (1 << e);
#endif
           e = 0;
           early(m);
           check()
       }
#ifdef LEASES
    :: d_step { /* answered after a look at the anchor, later than the question */
           m_step[m] == SERVING && ROW(m).holder != 0 && LEASED(m, ROW(m).holder - 1) ->
           e_lease[ROW(m).holder - 1] = granted
       }
#endif
    od
}

proctype tpm()
{
    byte r, i;
end:
    do
#ifdef HONEST
    :: d_step { wire != 0 -> move(wire); wire = 0 }
#else
    :: atomic {
           select (r : 1 .. made);
           d_step {
               if
               :: NEXT(r) && !ANCHORED(r) -> move(r)
               :: else
               fi;
               r = 0;
               check()
           }
       }
#ifdef EXTEND
    :: anchor != LOST -> anchor = LOST /* an extension that no record fits */
#endif
#endif
    od
}

#ifdef HONEST
proctype enclave(byte e)
{
end:
    e < named -> e_gone[e] = true
}
#elif defined(LEASES)
proctype enclave(byte e)
{
    byte i;
end:
    do
    :: d_step { /* a command that commits nothing */
           e_rec[e] != 0 && IDLE(e) && e_used[e] < LIMIT ->
           e_used[e] = e_used[e] + COUNT;
           if
           :: e_lease[e] != none -> e_since[e] = e_since[e] + COUNT
           :: else
           fi;
           if
           :: CUT_OFF(e) -> e_cut[e]++; assert(e_cut[e] <= LIMIT); check()
           :: else
           fi
       }
    :: d_step { e_rec[e] != 0 && IDLE(e) -> e_lease[e] = asked; e_since[e] = 0 }
    :: d_step { /* a reset */
           e_rec[e] != 0 && IDLE(e) ->
           e_lease[e] = asked;
           e_since[e] = 0;
           e_resets[e] = true;
           e_late[e] = CUT_OFF(e)
       }
    :: d_step {
           e_lease[e] == granted || (RESETS_UNASKED && e_resets[e]) ->
           e_lease[e] = none;
           e_used[e] = COUNTED(e);
           e_since[e] = 0;
           assert(!(e_resets[e] && e_late[e]));
#ifdef RESET
           was_reset = e_resets[e];
           check();
#endif
           e_resets[e] = false;
           e_late[e] = false
       }
    od
}
#endif

init {
    atomic {
        run manager(0);
#if MANAGERS == 2
        run manager(1);
#endif
        run tpm();
#if defined(HONEST) || defined(LEASES)
        run enclave(0);
        run enclave(1);
#if ENCLAVES == 3
        run enclave(2)
#endif
#endif
    }
}
