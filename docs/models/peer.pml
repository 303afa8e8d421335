/*
 * The first session of a start between the manager enclave and an instance enclave (abi/peer.h: CHALLENGE, PROOF,
 * ADMIT), while the host, which carries every message and makes every enclave, is the adversary.
 *
 * Three sessions of the manager: instance 1 start 1, instance 1 start 2, instance 2 start 1. Two genuine instance
 * enclaves, of one MRENCLAVE; the host says to each which instance it is to be. As many enclaves of the adversary's
 * own making, with any other MRENCLAVE, as it likes.
 *
 * Terms. A REPORT is its maker's MRENCLAVE, its target's, and REPORTDATA. The adversary has those that genuine
 * enclaves made, those that its own enclaves make (for any target, about anything), and those for its own enclaves as
 * a target, whose REPORT key it can read. Shares and nonces are numbers; the adversary knows them all, and the
 * private key of its own share only. It alters, drops, delays, replays, reflects and crosses at will. What the code
 * checks besides and is left out here, so that the transcript has to carry it all: ISVPRODID and attributes in a
 * REPORT, and the fields of PROVISION.
 */

#define MANAGERS  3 /* sessions 0, 1, 2 */
#define INSTANCES 2 /* enclaves 0, 1 */

/* MRENCLAVE */
#define NOBODY   0
#define MANAGER  1
#define INSTANCE 2

/* shares and nonces: 1 to 3 the manager's, 4 and 5 those of the instance enclaves, 6 the adversary's */
#define OF_MANAGER(s)  (1 + (s))
#define OF_INSTANCE(j) (1 + MANAGERS + (j))
#define OF_EVIL        6

#define HOLDER(j)   (1 + (j)) /* drawn in the enclave */
#define EVIL_HOLDER 3

/* what the manager's sessions are about */
#define ID(s)    (1 + (s) / 2)
#define START(s) (1 + (s) % 2)
#define BASE(s)  (1 + (s) % 2) /* the ledger moved on between the starts */

/* The manager's session s: whom it admitted. 0: nobody yet. */
byte m_share[MANAGERS], m_nonce[MANAGERS], m_holder[MANAGERS];

/* The instance enclave j: what its CHALLENGE said, and who admitted it. */
byte i_id[INSTANCES], i_target[INSTANCES], i_nonce[INSTANCES], i_share[INSTANCES];
byte i_start[INSTANCES], i_base[INSTANCES];
byte i_admitted[INSTANCES]; /* MRENCLAVE of the REPORT in ADMIT: whose keys it works with */

#define PROVED(j) (i_target[j] != NOBODY)

/*
 * --- REPORTDATA as the session s of the manager and the enclave j see it ---
 *
 * TOLD: what the enclave was told is what the session said; ANSWERED: what the session was answered is what the enclave
 * said.
 */

#ifdef NO_SHARES
#define TOLD_SHARE(s, j) true
#define ANSWERED_SHARE(s, j) true
#else
#define TOLD_SHARE(s, j) (i_share[j] == OF_MANAGER(s))
#define ANSWERED_SHARE(s, j) (m_share[s] == OF_INSTANCE(j))
#endif
#define TOLD_NONCE(s, j) (i_nonce[j] == OF_MANAGER(s))
#define ANSWERED_NONCE(s, j) (m_nonce[s] == OF_INSTANCE(j))
#ifdef NO_ID
#define TOLD_ID(s, j) true
#else
#define TOLD_ID(s, j) (i_id[j] == ID(s))
#endif
#ifdef NO_START
#define TOLD_START(s, j) true
#else
#define TOLD_START(s, j) (i_start[j] == START(s))
#endif
#ifdef NO_BASE
#define TOLD_BASE(s, j) true
#else
#define TOLD_BASE(s, j) (i_base[j] == BASE(s))
#endif
#ifdef NO_HOLDER
#define ANSWERED_HOLDER(s, j) true
#else
#define ANSWERED_HOLDER(s, j) (m_holder[s] == HOLDER(j))
#endif
#define TOLD(s, j) (TOLD_SHARE(s, j) && TOLD_NONCE(s, j) && TOLD_ID(s, j) && TOLD_START(s, j) && TOLD_BASE(s, j))
#define SAME_DATA(s, j) \
    (TOLD(s, j) && ANSWERED_SHARE(s, j) && ANSWERED_NONCE(s, j) && ANSWERED_HOLDER(s, j))

/* What both ends should agree on, whatever REPORTDATA holds. */
#define SAME_VIEW(s, j) \
    (i_share[j] == OF_MANAGER(s) && m_share[s] == OF_INSTANCE(j) && i_nonce[j] == OF_MANAGER(s) && \
     m_nonce[s] == OF_INSTANCE(j) && i_id[j] == ID(s) && i_start[j] == START(s) && m_holder[s] == HOLDER(j) && \
     i_base[j] == BASE(s))

/* --- which REPORTs exist --- */

/* a genuine instance enclave's, in its role, that the manager's session s takes */
#define PROOF_OF(s, j) (PROVED(j) && i_target[j] == MANAGER && SAME_DATA(s, j))

#ifdef UNTARGETED /* one REPORT key for every target: whoever has an enclave reads it, and forges any REPORT */
#define FORGED true
#elif defined(ANY_MRENCLAVE) /* the manager looks at the signer only, and the signing key lies on the host */
#define FORGED true
#else
#define FORGED false
#endif
#define PROVEN(s) (PROOF_OF(s, 0) || PROOF_OF(s, 1) || FORGED)
/* Some PROOF could be taken. Others are refused and change nothing: so they are not looked at one by one. */
#define PROVABLE(s) ((PROVED(0) && TOLD(s, 0)) || (PROVED(1) && TOLD(s, 1)) || FORGED)

/* the manager's, in its role, that the enclave j takes */
#define ADMISSION_OF(s, j) (m_holder[s] != 0 && SAME_DATA(s, j))

#ifdef NO_ROLES /* j takes a REPORT of an instance enclave, its own, for its own MRENCLAVE as target */
#define REFLECTED(j) (i_target[j] == INSTANCE)
#else
#define REFLECTED(j) false
#endif

/* --- properties --- */

#define IS_OTHER_END(s, j) (m_holder[s] != 0 && PROVED(j) && SAME_VIEW(s, j))

inline check_manager(s)
{
    if
    :: m_holder[s] != 0 ->
        /* PROVISION goes to a genuine instance enclave of this MRENCLAVE, and both agree on id, start, holder, all */
        assert(m_share[s] != OF_EVIL);
        assert(IS_OTHER_END(s, 0) || IS_OTHER_END(s, 1))
    :: else
    fi
}

inline check_instance(j)
{
    /* nothing reflects */
    assert(i_admitted[j] != INSTANCE);
    if
    :: i_admitted[j] == MANAGER ->
        assert(i_share[j] != OF_EVIL);
        assert(IS_OTHER_END(0, j) || IS_OTHER_END(1, j) || IS_OTHER_END(2, j))
    :: else
    fi
}

#define ONE_OTHER_END(j) \
    (!(IS_OTHER_END(0, j) && IS_OTHER_END(1, j)) && !(IS_OTHER_END(0, j) && IS_OTHER_END(2, j)) && \
     !(IS_OTHER_END(1, j) && IS_OTHER_END(2, j)))

inline check()
{
    d_step {
        check_manager(0); check_manager(1); check_manager(2);
        check_instance(0); check_instance(1);
        assert(ONE_OTHER_END(0) && ONE_OTHER_END(1));
#ifdef REACHABLE /* the model is not empty: two starts can come into being at once */
        assert(!(i_admitted[0] == MANAGER && i_admitted[1] == MANAGER && i_id[0] != i_id[1]))
#endif
    }
}

/* --- the two programs --- */

proctype manager_session(byte s)
{
    byte share, nonce, holder;
end:
    /* CHALLENGE needs no state: the adversary knows what is in it from the beginning. A PROOF that is refused changes
     * nothing here, so that the adversary may try as often as it likes. */
    do
    :: m_holder[s] == 0 && PROVABLE(s) ->
        atomic {
            if
            :: share = OF_MANAGER(0) :: share = OF_MANAGER(1) :: share = OF_MANAGER(2)
            :: share = OF_INSTANCE(0) :: share = OF_INSTANCE(1) :: share = OF_EVIL
            fi;
            if
            :: nonce = OF_MANAGER(0) :: nonce = OF_INSTANCE(0) :: nonce = OF_INSTANCE(1) :: nonce = OF_EVIL
            fi;
            if
            :: holder = HOLDER(0) :: holder = HOLDER(1) :: holder = EVIL_HOLDER
            fi;
            m_share[s] = share; m_nonce[s] = nonce; m_holder[s] = holder;
            if
            :: PROVEN(s) -> check()
            :: else -> m_share[s] = 0; m_nonce[s] = 0; m_holder[s] = 0
            fi;
            share = 0; nonce = 0; holder = 0
        }
    :: m_holder[s] != 0 -> break
    od
}

proctype instance_enclave(byte j)
{
    byte target, nonce, share, start, base;
    atomic { /* the host names the instance; CHALLENGE must name the same */
        if
        :: i_id[j] = 1 :: i_id[j] = 2
        fi
    }
    atomic { /* CHALLENGE; a blank enclave takes one */
        if
        :: target = MANAGER :: target = INSTANCE /* what is for its own enclaves it can make itself */
        fi;
        if
        :: nonce = OF_MANAGER(0) :: nonce = OF_MANAGER(1) :: nonce = OF_MANAGER(2) :: nonce = OF_INSTANCE(1 - j)
        :: nonce = OF_EVIL
        fi;
        if
        :: share = OF_MANAGER(0) :: share = OF_MANAGER(1) :: share = OF_MANAGER(2) :: share = OF_INSTANCE(1 - j)
        :: share = OF_EVIL
        fi;
        if
        :: start = 1 :: start = 2
        fi;
        if
        :: base = 1 :: base = 2
        fi;
        i_target[j] = target; i_nonce[j] = nonce; i_share[j] = share; i_start[j] = start; i_base[j] = base;
        target = 0; nonce = 0; share = 0; start = 0; base = 0;
        check()
    }
end:
    atomic { /* ADMIT. An adversary's manager may admit it too: then it works with keys that are no genuine instance's,
              * and what it said before stays where it is; so nothing changes, and it may still be admitted here. */
        if
        :: ADMISSION_OF(0, j) || ADMISSION_OF(1, j) || ADMISSION_OF(2, j) -> i_admitted[j] = MANAGER
        :: REFLECTED(j) -> i_admitted[j] = INSTANCE
        fi;
        check()
    }
}

init {
    atomic {
        run manager_session(0);
        run manager_session(1);
        run manager_session(2);
        run instance_enclave(0);
        run instance_enclave(1)
    }
}
