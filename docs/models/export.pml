/*
 * What one enclave exports and another one takes over (link/k2.h: EXPORT, BUNDLE; abi/peer.h: REDEEM), while the host keeps
 * every export, gives any of them to any enclave at any time, and delays or withholds every word. One instance, one manager,
 * whose records are durable when they are made: commit.pml has what that takes.
 *
 * Terms. What a TPM has seen is the number of commands that were answered to it: moment. It is volatile state too, so two
 * enclaves that go on from one moment are two TPMs with the same PCRs and sessions, whether they commit or not. An export
 * is named by its version, because one is made with each commit that exports, and leaves the enclave when that is recorded.
 *
 * SNAPSHOTS: holders stop, are declared dead (and are) and start again, owners act, and the host gives a holder any export
 * with INIT. It goes on from one that was not left; to one that was left it goes back, if the row allows that (LOADS: how
 * often). A life that goes back is another one: of it, too, everybody has to have seen all. Counter: one that every commit
 * raises, as what lockout, resets and NV count.
 */

#ifndef ENCLAVES
#define ENCLAVES 3
#endif
#ifndef MOMENTS
#define MOMENTS 6
#endif
#ifndef VERSIONS
#define VERSIONS 7
#endif
#ifndef LOADS
#define LOADS 0
#endif
#define STARTS 5
#define EPOCHS 2

/* the row */
byte start = 1, version = 1, epoch, era, loads, counter;
bool held = true;
byte holder; /* an enclave's number */

/* exports: those that left an enclave */
bool left[VERSIONS + 1];
byte b_start[VERSIONS + 1], b_epoch[VERSIONS + 1], b_era[VERSIONS + 1], b_life[VERSIONS + 1], b_moment[VERSIONS + 1],
    b_counter[VERSIONS + 1];

/* enclaves */
mtype = { blank, checked, serving, committing, answered_later, ended };
mtype e_step[ENCLAVES] = blank;
byte e_start[ENCLAVES], e_version[ENCLAVES], e_epoch[ENCLAVES], e_era[ENCLAVES];
byte e_life[ENCLAVES], e_moment[ENCLAVES], e_counter[ENCLAVES]; /* of its TPM; life: how often it has gone back */
bool e_open[ENCLAVES];      /* it has exported, or taken over, or begun, and not committed since */
bool e_untouched[ENCLAVES]; /* since it has begun */
bool e_exports[ENCLAVES];   /* what is being committed is an export, else a command */
bool e_loads[ENCLAVES];     /* or what it has gone back to */
byte e_bundle[ENCLAVES];    /* what a candidate has checked */

byte now_at; /* the moment that clients have seen, in the life that is recorded */
byte said;   /* the highest counter that they were told */
#ifdef REACHABLE
bool taken_over, taken_back, went_on, loaded_open;
#define BOTH        (taken_over && taken_back)
#define LOADED_OPEN (loads > 1 && loaded_open)
#define WENT_ON     went_on
#ifndef GOAL
#define GOAL BOTH
#endif
#endif

/* A command is answered: whoever answers has seen everything that was answered before. */
inline answer(e)
{
    assert(e_life[e] == loads && e_moment[e] == now_at);
    now_at++;
    e_moment[e] = now_at
}

inline say_counter(e)
{
    assert(e_counter[e] > said);
    said = e_counter[e]
}

#ifdef LOAD_KEEPS_VERSION
#define VERSION_NEXT(e) (e_version[e] + !e_loads[e])
#else
#define VERSION_NEXT(e) (e_version[e] + 1)
#endif

/* The enclave hears that its commit is recorded. */
inline hear(e)
{
    e_version[e] = VERSION_NEXT(e);
    if
    :: e_exports[e] ->
        left[e_version[e]] = true;
        b_start[e_version[e]] = e_start[e];
        b_epoch[e_version[e]] = e_epoch[e];
        b_era[e_version[e]] = e_era[e];
        b_life[e_version[e]] = e_life[e];
        b_moment[e_version[e]] = e_moment[e];
        b_counter[e_version[e]] = e_counter[e];
        e_open[e] = true
    :: else ->
#ifdef REACHABLE
        if
        :: e_open[e] && e == 0 -> taken_back = true
        :: e_open[e] && e != 0 -> taken_over = true
        :: else
        fi;
#endif
        e_open[e] = false;
        say_counter(e);
        answer(e)
    fi;
    e_exports[e] = false;
    e_loads[e] = false;
    e_step[e] = serving
}

#define SAME_START(e) (b_start[e_bundle[e]] == start)
#ifdef NO_EPOCH
#define SAME_EPOCH(a, b) true
#else
#define SAME_EPOCH(a, b) ((a) == (b))
#endif
#ifdef NO_VERSION
#define SAME_VERSION(e) true
#else
#define SAME_VERSION(e) (e_bundle[e] == version)
#endif
#ifdef NO_ERA
#define SAME_ERA(e, b) true
#else
#define SAME_ERA(e, b) (b_era[b] == e_era[e])
#endif

/* was_left: of the newest version, and of this epoch, by this start, or by an earlier one before this one was touched */
#define IS_NEWEST(e, b)                                                                                                \
    (b == e_version[e] && SAME_EPOCH(b_epoch[b], e_epoch[e]) &&                                                        \
     ((b_start[b] == e_start[e] && e_open[e]) || (b_start[b] < e_start[e] && e_untouched[e])))

#define HIGHER(a, b) ((a) > (b) -> (a) : (b))
#ifdef NO_FLOORS
#define RAISED(e, b) (b_counter[b])
#else
#define RAISED(e, b) HIGHER(b_counter[b], e_counter[e])
#endif

inline go_on_from(e, b)
{
    assert(b_era[b] == e_era[e]);
    e_life[e] = b_life[b];
    e_moment[e] = b_moment[b];
    e_counter[e] = b_counter[b];
    e_untouched[e] = false;
    e_open[e] = true
}

inline go_back_to(e, b)
{
#ifdef REACHABLE
    loaded_open = loaded_open || (e_open[e] && left[e_version[e]] && b < e_version[e]);
#endif
    e_life[e]++;
    e_moment[e] = b_moment[b];
    e_counter[e] = RAISED(e, b) + 1; /* one reset more than there ever was */
    e_untouched[e] = false;
    e_open[e] = false;
    e_bundle[e] = b;
#ifndef LOAD_IN_MEMORY
    e_loads[e] = true;
    e_step[e] = committing
#endif
}

#ifdef OPEN_ANSWERS /* an export is not left by a commit */
#define MAY_ANSWER(e) true
#else
#define MAY_ANSWER(e) (!e_open[e])
#endif

inline enclave_step(e)
{
    if
    /* a command that commits nothing: the host may have it run at any time, also in one that was fenced */
    :: e_step[e] == serving && MAY_ANSWER(e) && now_at < MOMENTS -> answer(e); e_untouched[e] = false
    :: e_step[e] == serving && e_version[e] < VERSIONS ->
        e_step[e] = committing;
        e_counter[e]++;
        e_untouched[e] = false
    :: e_step[e] == serving && e_version[e] < VERSIONS && !e_open[e] -> e_step[e] = committing; e_exports[e] = true
    /* the manager judges a commit, and the holder hears of it, or not yet, or never */
    :: e_step[e] == committing && held && holder == e && e_start[e] == start && e_version[e] == version ->
        version = VERSION_NEXT(e);
        counter = e_counter[e];
        if
        :: e_loads[e] ->
            assert(b_era[e_bundle[e]] == era);
#ifndef UNCOUNTED
            loads++;
            now_at = e_moment[e]
#endif
        :: else
        fi;
        e_step[e] = answered_later
    :: e_step[e] == answered_later && now_at < MOMENTS -> hear(e)
    /* a blank one is given an export, which it can open, whichever it is */
    :: e_step[e] == blank && e != 0 ->
        select(b : 1 .. VERSIONS);
        if
        :: left[b] -> e_bundle[e] = b; e_step[e] = checked
        :: else
        fi
    /* the first word after an export decides */
#ifdef UNASKED
    :: e_step[e] == checked ->
#else
    :: e_step[e] == checked && SAME_START(e) && SAME_VERSION(e) && SAME_EPOCH(b_epoch[e_bundle[e]], epoch) ->
#endif
        start++;
        held = true;
        holder = e;
        e_start[e] = start;
        e_version[e] = version;
        e_epoch[e] = epoch;
        e_era[e] = era;
        go_on_from(e, e_bundle[e]);
        e_step[e] = serving
#ifdef SNAPSHOTS
    /* a start from the newest state; an end in order; a death; what an owner changes in between */
    :: e_step[e] == blank && !held ->
        start++;
        held = true;
        holder = e;
        e_start[e] = start;
        e_version[e] = version;
        e_epoch[e] = epoch;
        e_era[e] = era;
        e_life[e] = loads;
        e_moment[e] = now_at; /* its machine is reset, too: it misses nothing */
        e_counter[e] = counter;
        e_untouched[e] = true;
#ifndef START_ANSWERS /* the first answer goes with a commit */
        e_open[e] = true;
#endif
        e_step[e] = serving
    :: e_step[e] == serving && held && holder == e && e_version[e] == version -> held = false; e_step[e] = ended
    :: held && holder == e && epoch < EPOCHS -> held = false; epoch++; e_step[e] = ended
    :: !held && epoch < EPOCHS -> epoch++; era++
    /* INIT with an export, whichever it is */
    :: e_step[e] == serving ->
        select(b : 1 .. VERSIONS);
        if
        :: left[b] && IS_NEWEST(e, b) ->
#ifdef REACHABLE
            went_on = went_on || e_untouched[e];
#endif
            go_on_from(e, b)
        :: left[b] && !IS_NEWEST(e, b) && SAME_ERA(e, b) && e_life[e] < LOADS && e_version[e] < VERSIONS -> go_back_to(e, b)
        :: else
        fi
#endif
    fi
}

init {
    byte e, b;
    e_step[0] = serving;
    e_start[0] = 1;
    e_version[0] = 1;
    do
    :: start < STARTS ->
        atomic {
            select(e : 0 .. ENCLAVES - 1);
            if
            :: enclave_step(e)
            :: true /* this one cannot do anything now */
            fi;
            e = 0;
            b = 0
        }
#ifdef REACHABLE
        assert(!GOAL)
#endif
    :: start == STARTS -> break
    od
}
