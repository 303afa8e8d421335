/*
 * An instance that moves between the managers of one trust domain (abi/manager.h, enum member_act; trusted/manager/members.h),
 * each with a ledger and an anchor of its own. The host carries what they say: it loses, keeps and repeats any question and
 * any answer, and crashes any manager between any two steps; what was not anchored by then is lost. commit.pml has what it
 * takes for a record to be durable, export.pml what becomes of a TPM's volatile state.
 *
 * Terms. A question is all that it says, made once it was asked. An answer is of use to whoever asked, as long as that
 * question is the last one and its asker lives. The holder is named by its start. LOOK is one step: it decides nothing.
 * DEATHS: any operator declares holders dead, whether they are or not. DELETES: he deletes what is stopped with him.
 */

#ifndef MANAGERS
#define MANAGERS 2
#endif
#ifndef STARTS
#define STARTS 4
#endif
#ifndef VERSIONS
#define VERSIONS 3
#endif
#ifndef DEATHS
#define DEATHS 0 /* how many holders are declared dead, whether they are or not */
#endif

#define NONE    0
#define STOPPED 1
#define HELD    2
#define MOVED   3
#define DELETED 4

typedef row {
    byte state, to, epoch, start, version;
    bool key
};
row now_is[MANAGERS];   /* as the manager has it */
row anchored[MANAGERS]; /* what is left of it after a crash */

#define COMMIT  1
#define MOVE    2
#define BEGIN   3 /* an enclave is given the keys */
#define ANOTHER 4
byte pending[MANAGERS]; /* what the record is for that is not anchored yet */
byte pending_for[MANAGERS]; /* MOVE: whoever asked; BEGIN: the version that the enclave has */

/* the newest enclave of each manager: those of earlier starts are not its holder any more */
byte e_start[MANAGERS], e_version[MANAGERS];

/* what a manager knows of the instance elsewhere, and what it has asked for */
byte v_epoch[MANAGERS], v_start[MANAGERS], v_version[MANAGERS]; /* start 0: nothing */
bool asked[MANAGERS], q_takes[MANAGERS];
byte q_epoch[MANAGERS], q_start[MANAGERS], q_version[MANAGERS];
byte c_epoch[MANAGERS], c_start[MANAGERS]; /* what the candidate was told, which takes over as the start behind it */
bool a_there[MANAGERS];
byte a_from[MANAGERS], a_epoch[MANAGERS], a_start[MANAGERS], a_version[MANAGERS];

/*
 * Whatever was asked may be said again. Kept of it is what can have an effect: that m has asked MOVE, for a candidate or not,
 * for the very row that k has, and the highest start that m has said in CONFIRM.
 */
#define Q(k, m, takes) (((k) * MANAGERS + (m)) * 2 + (takes))
bool asked_move[MANAGERS * MANAGERS * 2];
byte asked_confirm[MANAGERS];

byte newest = 1; /* version that was recorded last */
byte gone;       /* how often it was deleted */
bool over;
#ifdef REACHABLE
bool went, taken_over, came_home, died, deleted_unconfirmed, passed_on;
#define CAME_HOME           (taken_over && came_home)
#define DIED                (died && taken_over)
#define DELETED_UNCONFIRMED deleted_unconfirmed
#define PASSED_ON           passed_on
#ifndef GOAL
#define GOAL CAME_HOME
#endif
#endif

#define LIVES(m) (anchored[m].state == STOPPED || anchored[m].state == HELD)
/* The member that it has moved to can still fetch it. */
#define WAITS(m, t)                                                                                                    \
    (anchored[m].state == MOVED && anchored[m].to == t && anchored[m].key && !LIVES(t) &&                              \
     anchored[t].start < anchored[m].start)

#define IS_LAST(m) (now_is[m].start == STARTS)
#if MANAGERS == 2
#define AT_LAST_START (IS_LAST(0) || IS_LAST(1))
#define KEYS      (anchored[0].key + anchored[1].key)
#define LIVING    (LIVES(0) + LIVES(1))
#define WAITING   (WAITS(0, 1) + WAITS(1, 0))
#else
#define AT_LAST_START (IS_LAST(0) || IS_LAST(1) || IS_LAST(2))
#define KEYS      (anchored[0].key + anchored[1].key + anchored[2].key)
#define LIVING    (LIVES(0) + LIVES(1) + LIVES(2))
#define WAITING   (WAITS(0, 1) + WAITS(0, 2) + WAITS(1, 0) + WAITS(1, 2) + WAITS(2, 0) + WAITS(2, 1))
#endif

inline copy(a_row, b_row)
{
    b_row.state = a_row.state;
    b_row.to = a_row.to;
    b_row.epoch = a_row.epoch;
    b_row.start = a_row.start;
    b_row.version = a_row.version;
    b_row.key = a_row.key
}

inline forget(idle)
{
    v_epoch[idle] = 0;
    v_start[idle] = 0;
    v_version[idle] = 0;
    asked[idle] = false;
    q_takes[idle] = false;
    q_epoch[idle] = 0;
    q_start[idle] = 0;
    q_version[idle] = 0;
    a_there[idle] = false;
    a_from[idle] = 0;
    a_epoch[idle] = 0;
    a_start[idle] = 0;
    a_version[idle] = 0
}

inline forget_candidate(lone)
{
    c_epoch[lone] = 0;
    c_start[lone] = 0
}

inline crash(dead)
{
    copy(anchored[dead], now_is[dead]);
    pending[dead] = 0;
    pending_for[dead] = 0;
    forget(dead);
    forget_candidate(dead)
}

/* The root key leaves one manager, for another one that has asked for this row. */
inline tell(src, dst)
{
    a_there[dst] = true;
    a_from[dst] = src;
    a_epoch[dst] = now_is[src].epoch;
    a_start[dst] = now_is[src].start;
    a_version[dst] = now_is[src].version
}

#ifdef NO_EPOCH
#define SAME_EPOCH(a, b) true
#else
#define SAME_EPOCH(a, b) ((a) == (b))
#endif
#ifdef NO_START
#define SAME_START(a, b) true
#else
#define SAME_START(a, b) ((a) == (b))
#endif
#ifdef NO_VERSION
#define SAME_VERSION(a, b) true
#else
#define SAME_VERSION(a, b) ((a) == (b))
#endif
#define SAME_ROW(k, m)                                                                                                 \
    (SAME_EPOCH(q_epoch[m], anchored[k].epoch) && SAME_START(q_start[m], anchored[k].start) &&                         \
     SAME_VERSION(q_version[m], anchored[k].version))
#define UNCHANGED(k)                                                                                                   \
    (SAME_EPOCH(now_is[k].epoch, anchored[k].epoch) && SAME_START(now_is[k].start, anchored[k].start) &&               \
     SAME_VERSION(now_is[k].version, anchored[k].version))
#define IS_ASKED(k, m) (asked[m] && SAME_ROW(k, m))

/* The record is durable and anchored; what waited for it goes out. */
inline record(who)
{
    if
    :: !UNCHANGED(who) ->
        for (v : 0 .. MANAGERS - 1) {
            asked_move[Q(who, v, 0)] = false;
            asked_move[Q(who, v, 1)] = false
        }
    :: else
    fi;
    if
    :: now_is[who].state == DELETED && anchored[who].state != DELETED ->
        gone++;
#ifdef REACHABLE
        deleted_unconfirmed = deleted_unconfirmed || (who != 0 && anchored[0].key)
#endif
    :: else
    fi;
    copy(now_is[who], anchored[who]);
    if
    :: pending[who] == COMMIT ->
        assert(e_version[who] == newest);
        newest++;
        e_version[who] = newest
    :: pending[who] != COMMIT && now_is[who].version > newest -> newest = now_is[who].version /* nobody was answered */
    :: else
    fi;
    if
    :: pending[who] == BEGIN ->
        assert(pending_for[who] == newest);
        e_start[who] = now_is[who].start;
        e_version[who] = pending_for[who]
    :: pending[who] == MOVE ->
        if
        :: IS_ASKED(who, pending_for[who]) -> tell(who, pending_for[who])
        :: else
        fi
    :: else
    fi;
#ifndef NO_FENCE
    if
    :: now_is[who].state != HELD -> e_start[who] = 0; e_version[who] = 0 /* from now on its commits are refused */
    :: else
    fi;
#endif
    pending[who] = 0;
    pending_for[who] = 0
}

/* ledger_check_arrival */
#ifdef NO_TOMBSTONE
#define MAY_ARRIVE(m, s) (!LIVES(m) && (now_is[m].state != MOVED || now_is[m].start < (s)))
#else
#define MAY_ARRIVE(m, s) (now_is[m].state == NONE || (now_is[m].state == MOVED && now_is[m].start < (s)))
#endif

#ifdef ANY_MEMBER
#define IS_WITH(k, m) (now_is[k].state == MOVED && k != m)
#else
#define IS_WITH(k, m) (now_is[k].state == MOVED && now_is[k].to == m)
#endif

inline look(asker, there)
{
    if
    :: asker != there && !pending[there] && now_is[there].key && (LIVES(there) || IS_WITH(there, asker)) && MAY_ARRIVE(asker, now_is[there].start) ->
        forget(asker);
        v_epoch[asker] = now_is[there].epoch;
        v_start[asker] = now_is[there].start;
        v_version[asker] = now_is[there].version;
#ifndef ANY_LOOK /* one that came at an earlier look may say REDEEM no more */
        forget_candidate(asker)
#endif
    :: else
    fi
}

/* takes: a candidate of what was looked at has said REDEEM */
inline ask_move(asks, takes, version_of)
{
    if
    :: takes && !c_start[asks] -> c_epoch[asks] = v_epoch[asks]; c_start[asks] = v_start[asks]
    :: else
    fi;
    asked[asks] = true;
    q_takes[asks] = takes;
    q_epoch[asks] = v_epoch[asks];
    q_start[asks] = v_start[asks];
    q_version[asks] = version_of;
    a_there[asks] = false;
    a_from[asks] = 0;
    a_epoch[asks] = 0;
    a_start[asks] = 0;
    a_version[asks] = 0;
    for (s : 0 .. MANAGERS - 1) {
        if
        :: s != asks && SAME_ROW(s, asks) -> asked_move[Q(s, asks, takes)] = true
        :: else
        fi
    }
}

#define MAY_MOVE(k, takes) (now_is[k].state == STOPPED || (takes && now_is[k].state == HELD))
/* give_row: a question is given to the one that it is for, now or later */
inline answer_move(at, by, qt)
{
    if
    :: !now_is[at].key
    :: else ->
        if
        :: IS_WITH(at, by) ->
#ifndef TOLD_ONCE
            if
            :: IS_ASKED(at, by) -> tell(at, by)
            :: else
            fi
#else
            skip
#endif
        :: !IS_WITH(at, by) && MAY_MOVE(at, qt) ->
            now_is[at].state = MOVED;
            now_is[at].to = by;
            pending[at] = MOVE;
            pending_for[at] = by;
#ifdef ANSWER_BEFORE_ANCHOR
            if
            :: IS_ASKED(at, by) -> tell(at, by)
            :: else
            fi
#endif
        :: else
        fi
    fi
}

#ifdef SAME_START_THERE
#define START_THERE(s) (s)
#else
#define START_THERE(s) ((s) + 1)
#endif

/* take_row: the one that took over is the holder, if it still lives, and was admitted for this start */
inline take(taker, lives)
{
    if
    :: a_there[taker] && MAY_ARRIVE(taker, a_start[taker]) && a_start[taker] < STARTS ->
        assert(anchored[a_from[taker]].state == MOVED && anchored[a_from[taker]].to == taker);
#ifdef REACHABLE
        went = went || taker == 1;
        taken_over = taken_over || (q_takes[taker] && lives);
        came_home = came_home || (taker == 0 && went);
        passed_on = passed_on || (a_from[taker] == 1 && taker != 0 && anchored[0].key); /* before 1 has confirmed */
#endif
        now_is[taker].epoch = a_epoch[taker];
        now_is[taker].start = START_THERE(a_start[taker]);
        now_is[taker].version = a_version[taker];
        now_is[taker].key = true;
        now_is[taker].to = 0;
        if
        :: q_takes[taker] && lives && SAME_START(c_start[taker], a_start[taker]) ->
            assert(c_epoch[taker] == a_epoch[taker] && c_start[taker] == a_start[taker]); /* else no manager knows it again */
            now_is[taker].state = HELD;
            pending[taker] = BEGIN;
            pending_for[taker] = q_version[taker]
        :: else -> now_is[taker].state = STOPPED; pending[taker] = ANOTHER
        fi;
        forget(taker);
        forget_candidate(taker)
    :: else
    fi
}

#ifdef UNCONFIRMED_START
#define LATER(k, s) true
#else
#define LATER(k, s) (s > now_is[k].start)
#endif

/* erase_row */
inline answer_confirm(keeper, by)
{
    if
    :: IS_WITH(keeper, by) && asked_confirm[by] && LATER(keeper, asked_confirm[by]) && now_is[keeper].key ->
        now_is[keeper].key = false;
        now_is[keeper].version = 0;
        pending[keeper] = ANOTHER
    :: else
    fi
}

#ifdef CONFIRM_EARLY /* the question does not wait for the record */
#define MAY_CONFIRM(m) true
#elif defined(CONFIRM_LIVING) /* only whoever has it still may ask */
#define MAY_CONFIRM(m) (!pending[m] && LIVES(m))
#else
#define MAY_CONFIRM(m) (!pending[m])
#endif

#ifdef NO_FENCE
#define SERVED(m) (now_is[m].state == HELD || now_is[m].state == MOVED)
#else
#define SERVED(m) (now_is[m].state == HELD)
#endif

#ifdef DELETE_MOVED
#define MAY_DELETE(m) (now_is[m].state == STOPPED || now_is[m].state == MOVED)
#else
#define MAY_DELETE(m) (now_is[m].state == STOPPED)
#endif

inline step(m, k)
{
    if
    :: pending[m] -> record(m)
    :: pending[m] || v_start[m] -> crash(m)
    /* what holds it, and its operator */
    :: !pending[m] && now_is[m].state == STOPPED && now_is[m].start < STARTS ->
        now_is[m].start++;
        now_is[m].state = HELD;
        pending[m] = BEGIN;
        pending_for[m] = now_is[m].version
    :: !pending[m] && now_is[m].state == HELD -> now_is[m].state = STOPPED; pending[m] = ANOTHER
    :: !pending[m] && SERVED(m) && e_start[m] == now_is[m].start && now_is[m].version < VERSIONS ->
        now_is[m].version++;
        pending[m] = COMMIT
    /* whether it is dead or not, and whatever it is about to do */
    :: now_is[m].state == HELD && now_is[m].epoch < DEATHS ->
#ifdef REACHABLE
        died = true;
#endif
        now_is[m].epoch++;
        now_is[m].state = STOPPED;
        pending[m] = ANOTHER;
        pending_for[m] = 0
#ifdef DELETES
    :: !pending[m] && MAY_DELETE(m) ->
        now_is[m].state = DELETED;
        now_is[m].to = 0;
        now_is[m].version = 0;
        now_is[m].key = false;
        pending[m] = ANOTHER
#endif
    /* the asker */
    :: !pending[m] && now_is[m].state != HELD && now_is[m].state != STOPPED -> look(m, k)
    :: v_start[m] && !asked[m] -> ask_move(m, false, v_version[m])
#ifndef STOPPED_ONLY
    :: v_start[m] && !asked[m] ->
        select(v : 1 .. VERSIONS); /* of what was exported, whatever the host has kept */
        if
        :: v <= newest -> ask_move(m, true, v)
        :: else
        fi
#endif
    :: !pending[m] && a_there[m] -> take(m, true)
    :: !pending[m] && a_there[m] -> take(m, false)
    :: MAY_CONFIRM(m) && now_is[m].start > 1 -> asked_confirm[m] = now_is[m].start
    /* the asked */
    :: !pending[m] && k != m && now_is[m].state != NONE ->
        if
        :: asked_move[Q(m, k, 0)] -> answer_move(m, k, false)
        :: asked_move[Q(m, k, 1)] -> answer_move(m, k, true)
        :: else
        fi
    :: !pending[m] && k != m && now_is[m].state == MOVED -> answer_confirm(m, k)
    :: else
    fi
}

/* What vtpmd asks for when it is told to move: CONFIRM; else LOOK and MOVE (untrusted/daemon/member.c, has_come). */
#ifdef ASKS_BY_STATE
#define IS_LATER(m, k) true
#else
#define IS_LATER(m, k) (now_is[m].start > now_is[k].start)
#endif
#define HAS_COME(m, k)                                                                                                 \
    (LIVES(m) || now_is[m].state == DELETED || (now_is[m].state == MOVED && now_is[k].state == MOVED && IS_LATER(m, k)))

/* From here on nothing is lost: all managers are started anew, the one that it has moved to asks for it, and all confirm. */
inline ask_again(m, k)
{
    if
    :: m != k && WAITS(k, m) && !HAS_COME(m, k) && anchored[k].start < STARTS ->
        look(m, k);
        ask_move(m, false, v_version[m]);
        answer_move(k, m, false);
        take(m, false);
        record(m)
    :: else
    fi
}

inline confirm_again(m, k)
{
    if
    :: m != k && MAY_CONFIRM(m) && HAS_COME(m, k) ->
        asked_confirm[m] = now_is[m].start;
        answer_confirm(k, m);
        record(k)
    :: else
    fi
}

init {
    byte m, k, s, v;
    now_is[0].state = STOPPED;
    now_is[0].start = 1;
    now_is[0].version = 1;
    now_is[0].key = true;
    copy(now_is[0], anchored[0]);
    do
    :: !over ->
        atomic {
            select(m : 0 .. MANAGERS - 1);
            select(k : 0 .. MANAGERS - 1);
            step(m, k);
            m = 0;
            k = 0;
            s = 0;
            v = 0;
            assert(LIVING <= 1);
            assert(LIVING + WAITING + gone == 1);
#ifdef REACHABLE
            assert(!GOAL)
#endif
        }
    :: !over ->
        atomic {
            for (m : 0 .. MANAGERS - 1) {
                crash(m)
            }
            for (m : 0 .. MANAGERS - 1) {
                for (k : 0 .. MANAGERS - 1) {
                    ask_again(m, k)
                }
            }
            assert(LIVING + gone == 1 || AT_LAST_START);
            for (m : 0 .. MANAGERS - 1) {
                for (k : 0 .. MANAGERS - 1) {
                    confirm_again(m, k)
                }
            }
            assert(KEYS == LIVING || LIVING + gone == 0);
            over = true
        }
    :: over -> break
    od
}
