/*
 * The handshake of a link (link/link.h): K1 between vtpmd and the manager enclave, K2 between a front-end and an
 * instance enclave, while everything between the two ends is the adversary's. README.md says how to run it and what
 * is left out.
 *
 *   one of        K1, K2_NAMED, K2_ENROLLED
 *   adversary     a relay, which handles every byte between the ends but is neither vtpmd nor the manager;
 *                 OPERATOR (K2 only): vtpmd itself, who names each end's share to the other
 *   the others    two links at once: two VMs, or with SECOND_START two starts of one VM; for K1 two lives of both ends
 *   ONE_FRONT_KEY the owner enrolled the same key for both VMs
 *
 * Terms. An X25519 key is a number, its "base". A share is 2 * base, or 2 * base + 1 for other bytes that give the
 * same shared secret (X25519 ignores the top bit and points of small order): the adversary can make those of any
 * share. The shared secret of two keys is the set of their bases, and is known to who knows a private one: the
 * adversary knows its own only. A FINISH is its direction, the key it was made with, and h; an end takes one if some
 * end has sent exactly that one, whenever and to whomever, or if the adversary can make it. So the adversary drops,
 * delays, replays, reorders, reflects and crosses at will.
 */

#define N        2 /* ends 0, 1 are hosts; 2, 3 are enclaves; 0 belongs to 2, and 1 to 3 */
#define HOST     0
#define ENCLAVE  1
#define EVIL     5 /* the adversary's key */

#define ROLE(x)  ((x) / N)
#define BASE(x)  ((x) + 1)
#define SHARE(b) (2 * (b))
#define BASE_OF(share) ((share) / 2)

#if defined(K1)
#define ID(x)    0
#define EPOCH(x) 0
#define START(x) 0
#elif defined(SECOND_START)
#define ID(x)    1
#define EPOCH(x) ((x) % N)
#define START(x) (1 + (x) % N)
#else
#define ID(x)    (1 + (x) % N)
#define EPOCH(x) 0
#define START(x) 1
#endif

/* The enrolled key: its private half at the host, its public half in the enclave, from the owner through the ledger. */
#ifdef ONE_FRONT_KEY
#define ENROLLED(x) 6
#else
#define ENROLLED(x) (5 + ID(x))
#endif

#define IDLE     0
#define KEYED    1 /* has the keys, and has sent its FINISH */
#define FINISHED 2 /* has verified the other end's */

byte step[2 * N];
byte peer[2 * N]; /* the other end's share, as this end was told */
byte epoch[2 * N];
byte start[2 * N];

/* What x thinks. */
#define HOST_SHARE(x)    (ROLE(x) == HOST -> SHARE(BASE(x)) : peer[x])
#define ENCLAVE_SHARE(x) (ROLE(x) == HOST -> peer[x] : SHARE(BASE(x)))
#define SAME_VIEW(x, y) \
    (ID(x) == ID(y) && epoch[x] == epoch[y] && start[x] == start[y] && HOST_SHARE(x) == HOST_SHARE(y) && \
     ENCLAVE_SHARE(x) == ENCLAVE_SHARE(y))

/* h, the transcript, and what a broken one leaves out */
#ifdef NO_ID
#define SAME_ID(x, y) true
#else
#define SAME_ID(x, y) (ID(x) == ID(y))
#endif
#ifdef NO_EPOCH
#define SAME_EPOCH(x, y) true
#else
#define SAME_EPOCH(x, y) (epoch[x] == epoch[y])
#endif
#ifdef NO_START
#define SAME_START(x, y) true
#else
#define SAME_START(x, y) (start[x] == start[y])
#endif
#ifdef NO_SHARES
#define SAME_SHARES(x, y) true
#else
#define SAME_SHARES(x, y) (HOST_SHARE(x) == HOST_SHARE(y) && ENCLAVE_SHARE(x) == ENCLAVE_SHARE(y))
#endif
#define SAME_H(x, y) (SAME_ID(x, y) && SAME_EPOCH(x, y) && SAME_START(x, y) && SAME_SHARES(x, y))

/* the input keying material */
#define SAME_EPHEMERAL(x, y) \
    ((BASE(x) == BASE_OF(peer[y]) && BASE(y) == BASE_OF(peer[x])) || \
     (BASE(x) == BASE(y) && BASE_OF(peer[x]) == BASE_OF(peer[y])))
#ifdef K2_ENROLLED
#define ENCLAVE_BASE(x) (ROLE(x) == HOST -> BASE_OF(peer[x]) : BASE(x))
#define SAME_ENROLLED(x, y) (ENROLLED(x) == ENROLLED(y) && ENCLAVE_BASE(x) == ENCLAVE_BASE(y))
#define KNOWN_ENROLLED(x) (ENCLAVE_BASE(x) == EVIL)
#else
#define SAME_ENROLLED(x, y) true
#define KNOWN_ENROLLED(x) true
#endif
#define SAME_KEY(x, y) (SAME_EPHEMERAL(x, y) && SAME_ENROLLED(x, y) && SAME_H(x, y))

#ifdef LITERAL /* the relay makes K1 and hands it to both ends */
#define KNOWN(x) true
#else
#define KNOWN(x) (BASE_OF(peer[x]) == EVIL && KNOWN_ENROLLED(x))
#endif

#ifdef NO_ROLES /* one label for both directions */
#define OPPOSITE(x, y) true
#else
#define OPPOSITE(x, y) (ROLE(x) != ROLE(y))
#endif
#define SENT_FOR(x, y) (step[y] >= KEYED && OPPOSITE(x, y) && SAME_KEY(x, y))
#ifdef NO_FINISH /* keys are enough */
#define CAN_FINISH(x) true
#else
#define CAN_FINISH(x) (KNOWN(x) || SENT_FOR(x, 0) || SENT_FOR(x, 1) || SENT_FOR(x, 2) || SENT_FOR(x, 3))
#endif

/* --- properties --- */

/*
 * Which ends can rely on the link at all. In K1 the manager does not know who its other end is, and does not have to.
 * An operator can show a front-end a TPM of his own making; what the enrolled key is for is that nobody else's
 * front-end, nor the operator, uses the VM's TPM, and that two VMs are not crossed.
 */
#if defined(K1) && !defined(MANAGER_RELIES)
#define RELIES(x) (ROLE(x) == HOST)
#elif defined(OPERATOR) && !defined(FRONT_RELIES)
#define RELIES(x) (ROLE(x) == ENCLAVE)
#else
#define RELIES(x) true
#endif

#define IS_OTHER_END(x, y) (step[y] >= KEYED && ROLE(x) != ROLE(y) && SAME_KEY(x, y))
#define AGREES(x, y) (!IS_OTHER_END(x, y) || SAME_VIEW(x, y))

inline check_end(x)
{
    if
    :: step[x] == FINISHED ->
        /* both ends agree on id, epoch, start and shares: no two VMs and no two starts were crossed */
        assert(AGREES(x, 0) && AGREES(x, 1) && AGREES(x, 2) && AGREES(x, 3));
        if
        :: RELIES(x) ->
            assert(!KNOWN(x)); /* secrecy */
            assert(IS_OTHER_END(x, 0) || IS_OTHER_END(x, 1) || IS_OTHER_END(x, 2) || IS_OTHER_END(x, 3))
        :: else
        fi
    :: else
    fi
}

#define BOTH_FINISHED(x, y) (step[x] == FINISHED && step[y] == FINISHED && SAME_KEY(x, y))

inline check()
{
    d_step {
        check_end(0); check_end(1); check_end(2); check_end(3);
#ifdef REACHABLE /* the model is not empty: both links can come into being at once */
        assert(!(BOTH_FINISHED(0, 2) && BOTH_FINISHED(1, 3)))
#endif
    }
}

/* --- the ends --- */

inline any_share(out)
{
    if
    :: out = 2 :: out = 3 :: out = 4 :: out = 5 :: out = 6 :: out = 7 :: out = 8 :: out = 9 :: out = 10 :: out = 11
    fi
}

/* What this end is told about the other: the truth where somebody says it whom it trusts. */
inline be_told(x)
{
    epoch[x] = EPOCH(x);
    start[x] = START(x);
    peer[x] = SHARE(BASE((x + N) % (2 * N)));
#if defined(K1)
    if
    :: ROLE(x) == ENCLAVE -> any_share(peer[x]) /* START comes through the relay */
#ifdef SHARE_FROM_RELAY /* not what came out of the enclave's first entry */
    :: ROLE(x) == HOST -> any_share(peer[x])
#else
    :: ROLE(x) == HOST
#endif
    fi
#elif defined(OPERATOR)
    any_share(peer[x]);
    if
    :: ROLE(x) == HOST ->
        if
        :: epoch[x] = 0 :: epoch[x] = 1
        fi;
        if
        :: start[x] = 1 :: start[x] = 2
        fi
    :: else /* id, epoch and start are the manager's word */
    fi
#elif defined(SHARE_FROM_RELAY) /* the instance takes whatever share the front-end's connection brings */
    if
    :: ROLE(x) == ENCLAVE -> any_share(peer[x])
    :: else
    fi
#endif
}

proctype end_of_link(byte x)
{
    atomic {
        be_told(x);
        step[x] = KEYED;
        check()
    }
end:
    atomic {
        CAN_FINISH(x) ->
        step[x] = FINISHED;
        check()
    }
}

init {
    atomic {
        run end_of_link(0);
        run end_of_link(1);
        run end_of_link(2);
        run end_of_link(3)
    }
}
