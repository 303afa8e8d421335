/*
 * What one enclave exports and another one takes over (link/k2.h: EXPORT, BUNDLE; abi/peer.h: REDEEM), while the host keeps
 * every export, gives any of them to any enclave at any time, and delays or withholds every word. One instance, one manager,
 * whose records are durable when they are made: commit.pml has what that takes.
 *
 * Terms. What a TPM has seen is the number of commands that were answered to it: moment. It is volatile state too, so two
 * enclaves that go on from one moment are two TPMs with the same PCRs and sessions, whether they commit or not. An export
 * is named by its version, because one is made with each commit that exports, and leaves the enclave when that is recorded.
 */

#ifndef ENCLAVES
#define ENCLAVES 3
#endif
#ifndef MOMENTS
#define MOMENTS 6
#endif
#define VERSIONS 7

/* the row */
byte start = 1, version = 1;
byte holder; /* an enclave's number */

/* exports: those that left an enclave */
bool left[VERSIONS + 1];
byte b_start[VERSIONS + 1], b_moment[VERSIONS + 1];

/* enclaves */
mtype = { blank, checked, serving, committing, answered_later };
mtype e_step[ENCLAVES] = blank;
byte e_start[ENCLAVES], e_version[ENCLAVES], e_moment[ENCLAVES];
bool e_open[ENCLAVES];    /* it has exported, or taken over, and not committed since */
bool e_exports[ENCLAVES]; /* what is being committed is an export, else a command */
byte e_bundle[ENCLAVES];  /* what a candidate has checked */

byte now_at; /* the moment that clients have seen */
#ifdef REACHABLE
bool taken_over, taken_back;
#endif

/* A command is answered: whoever answers has seen everything that was answered before. */
inline answer(e)
{
    assert(e_moment[e] == now_at);
    now_at++;
    e_moment[e] = now_at
}

/* The enclave hears that its commit is recorded. */
inline hear(e)
{
    e_version[e]++;
    if
    :: e_exports[e] ->
        left[e_version[e]] = true;
        b_start[e_version[e]] = e_start[e];
        b_moment[e_version[e]] = e_moment[e];
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
        answer(e)
    fi;
    e_exports[e] = false;
    e_step[e] = serving
}

#define SAME_START(e) (b_start[e_bundle[e]] == start)
#ifdef NO_VERSION
#define SAME_VERSION(e) true
#else
#define SAME_VERSION(e) (e_bundle[e] == version)
#endif

#ifdef OPEN_ANSWERS /* an export is not left by a commit */
#define MAY_ANSWER(e) true
#else
#define MAY_ANSWER(e) (!e_open[e])
#endif

inline enclave_step(e)
{
    if
    /* a command that commits nothing: the host may have it run at any time, also in one that was fenced */
    :: e_step[e] == serving && MAY_ANSWER(e) && now_at < MOMENTS -> answer(e)
    :: e_step[e] == serving && e_version[e] < VERSIONS -> e_step[e] = committing
    :: e_step[e] == serving && e_version[e] < VERSIONS && !e_open[e] -> e_step[e] = committing; e_exports[e] = true
    /* the manager judges a commit, and the holder hears of it, or not yet, or never */
    :: e_step[e] == committing && holder == e && e_start[e] == start && e_version[e] + 1 == version + 1 ->
        version++;
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
    :: e_step[e] == checked && SAME_START(e) && SAME_VERSION(e) ->
#endif
        start++;
        holder = e;
        e_start[e] = start;
        e_version[e] = version;
        e_moment[e] = b_moment[e_bundle[e]];
        e_open[e] = true;
        e_step[e] = serving
    fi
}

init {
    byte e, b;
    e_step[0] = serving;
    e_start[0] = 1;
    e_version[0] = 1;
    do
    :: start < 5 ->
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
        assert(!(taken_over && taken_back))
#endif
    :: start == 5 -> break
    od
}
