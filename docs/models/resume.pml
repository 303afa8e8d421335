/*
 * A peer session that was cut is resumed (abi/peer.h: RESUME, ACCEPT, CONFIRM), while the host, which carries every
 * message and may declare a holder dead at any moment, is the adversary.
 *
 * Instance 1 has been started twice: enclave 0 holds start 1, epoch 0; enclave 1 holds start 2, epoch 1, after the
 * first was declared dead without being so. Both know the root key of instance 1. Enclave 2 holds instance 2. All
 * three are genuine and resume whenever the host lets them. The manager runs two exchanges, for whichever instance
 * the host says.
 *
 * Terms: as in peer.pml. A MAC is its role and what prk and t are made of; it is taken if somebody has sent exactly
 * that one, or if the adversary can make it, for which it would need the root key and a private key of the two
 * shares.
 */

#define EXCHANGES 2 /* the manager's */
#define ENCLAVES  3

#define ID(e)     (1 + (e) / 2)
#define EPOCH(e)  ((e) % 2)
#define START(e)  (1 + (e) % 2)
#define HOLDER(e) (1 + (e))

/* shares and nonces */
#define OF_ENCLAVE(e) (1 + (e))
#define OF_MANAGER(s) (1 + ENCLAVES + (s))
#define OF_EVIL       6

#define IDLE        0
#define ACCEPTED    1 /* the manager: has sent ACCEPT */
#define ESTABLISHED 2

byte recorded = 0; /* the holder of instance 1 in the ledger, an enclave's number; that of instance 2 is enclave 2 */
#define RECORDED(id) ((id) == 1 -> recorded : 2)

byte m_step[EXCHANGES], m_known[EXCHANGES]; /* whom the ledger named when RESUME came */
byte m_share[EXCHANGES], m_nonce[EXCHANGES];
byte e_step[ENCLAVES], e_share[ENCLAVES], e_nonce[ENCLAVES];

/* t, with the manager's knowledge on the left */
#ifdef ONLY_ROOT_KEY /* epoch, start and holder are not in t: whoever has the root key resumes */
#define SAME_HOLDER(s, e) true
#else
#define SAME_HOLDER(s, e) \
    (EPOCH(m_known[s]) == EPOCH(e) && START(m_known[s]) == START(e) && HOLDER(m_known[s]) == HOLDER(e))
#endif
#define SAME_SHARES(s, e) (m_share[s] == OF_ENCLAVE(e) && e_share[e] == OF_MANAGER(s))
#define SAME_NONCES(s, e) (m_nonce[s] == OF_ENCLAVE(e) && e_nonce[e] == OF_MANAGER(s))
#define SAME_T(s, e) (ID(m_known[s]) == ID(e) && SAME_HOLDER(s, e) && SAME_SHARES(s, e) && SAME_NONCES(s, e))

/* prk = HKDF(root key || X25519, t): the root key follows from the id, X25519 from the shares, and both are in t */
#define SAME_PRK(s, e) SAME_T(s, e)
#ifdef NO_ROOT_KEY /* prk = HKDF(X25519, t) */
#define MANAGERS_KNOWN(s) (m_share[s] == OF_EVIL)
#define ENCLAVES_KNOWN(e) (e_share[e] == OF_EVIL)
#else
#define MANAGERS_KNOWN(s) false
#define ENCLAVES_KNOWN(e) false
#endif

#define ACCEPT_OF(s, e) (m_step[s] >= ACCEPTED && SAME_PRK(s, e))
#define CAN_ACCEPT(e) (ACCEPT_OF(0, e) || ACCEPT_OF(1, e) || ENCLAVES_KNOWN(e))
/* Some ACCEPT could be taken. Others are refused and change nothing: so they are not looked at one by one. */
#define ANSWERED(s, e) (m_step[s] >= ACCEPTED && m_share[s] == OF_ENCLAVE(e))
#ifdef NO_ROOT_KEY
#define ANSWERABLE(e) true
#else
#define ANSWERABLE(e) (ANSWERED(0, e) || ANSWERED(1, e))
#endif

#define CONFIRM_OF(s, e) (e_step[e] == ESTABLISHED && SAME_PRK(s, e))
#ifdef NO_ROLES /* the manager's own MAC comes back */
#define REFLECTED true
#else
#define REFLECTED false
#endif
#ifdef NO_MAC /* the shares are enough */
#define CONFIRMED(s) true
#else
#define CONFIRMED(s) (CONFIRM_OF(s, 0) || CONFIRM_OF(s, 1) || CONFIRM_OF(s, 2) || MANAGERS_KNOWN(s) || REFLECTED)
#endif
#ifdef STALE_RECORD /* who holds the instance is looked up once, when RESUME comes */
#define STILL_RECORDED(s) true
#else
#define STILL_RECORDED(s) (RECORDED(ID(m_known[s])) == m_known[s])
#endif

/* --- properties --- */

#define SAME_VIEW(s, e) (m_known[s] == (e) && SAME_SHARES(s, e) && SAME_NONCES(s, e))
#define MANAGERS_END(s, e) (e_step[e] == ESTABLISHED && SAME_VIEW(s, e))
#define ENCLAVES_END(s, e) (m_step[s] >= ACCEPTED && SAME_VIEW(s, e))

inline check_enclave(e)
{
    if
    :: e_step[e] == ESTABLISHED -> assert(ENCLAVES_END(0, e) || ENCLAVES_END(1, e))
    :: else
    fi
}

inline check()
{
    d_step {
        check_enclave(0); check_enclave(1); check_enclave(2);
#ifdef REACHABLE /* the model is not empty: the new holder and the other instance resume, the old holder did before */
        assert(!(m_step[0] == ESTABLISHED && m_step[1] == ESTABLISHED && m_known[0] == 1 && m_known[1] == 2))
#endif
    }
}

/* --- the programs --- */

proctype exchange(byte s)
{
    atomic { /* RESUME, with any id, share and nonce; a start that is not the recorded one is answered with FENCED */
        if
        :: m_known[s] = RECORDED(1) :: m_known[s] = RECORDED(2)
        fi;
        if
        :: m_share[s] = OF_ENCLAVE(0) :: m_share[s] = OF_ENCLAVE(1) :: m_share[s] = OF_ENCLAVE(2)
        :: m_share[s] = OF_MANAGER(1 - s) :: m_share[s] = OF_EVIL
        fi;
        if
        :: m_nonce[s] = OF_ENCLAVE(0) :: m_nonce[s] = OF_ENCLAVE(1) :: m_nonce[s] = OF_ENCLAVE(2)
        :: m_nonce[s] = OF_MANAGER(1 - s) :: m_nonce[s] = OF_EVIL
        fi;
        m_step[s] = ACCEPTED;
        check()
    }
end:
    atomic { /* CONFIRM */
        CONFIRMED(s) && STILL_RECORDED(s) ->
        m_step[s] = ESTABLISHED;
        /* only the recorded holder, at this moment, and one end for one exchange */
        assert(RECORDED(ID(m_known[s])) == m_known[s]);
        assert(MANAGERS_END(s, 0) || MANAGERS_END(s, 1) || MANAGERS_END(s, 2));
        assert(!MANAGERS_KNOWN(s));
        check()
    }
}

proctype enclave(byte e)
{
end:
    do
    :: e_step[e] == IDLE && ANSWERABLE(e) ->
        atomic { /* ACCEPT, with any share and nonce; one that is refused changes nothing, and may be tried again */
            if
            :: e_share[e] = OF_MANAGER(0) :: e_share[e] = OF_MANAGER(1) :: e_share[e] = OF_EVIL
            :: e_share[e] = OF_ENCLAVE((e + 1) % ENCLAVES) :: e_share[e] = OF_ENCLAVE((e + 2) % ENCLAVES)
            fi;
            if
            :: e_nonce[e] = OF_MANAGER(0) :: e_nonce[e] = OF_MANAGER(1) :: e_nonce[e] = OF_EVIL
            :: e_nonce[e] = OF_ENCLAVE((e + 1) % ENCLAVES) :: e_nonce[e] = OF_ENCLAVE((e + 2) % ENCLAVES)
            fi;
            if
            :: CAN_ACCEPT(e) ->
                e_step[e] = ESTABLISHED; /* and has sent CONFIRM */
                check()
            :: else -> e_share[e] = 0; e_nonce[e] = 0
            fi
        }
    :: e_step[e] == ESTABLISHED -> break
    od
}

proctype ledger()
{
end:
    recorded = 1 /* the operator declares enclave 0 dead, and another start is recorded */
}

init {
    atomic {
        run exchange(0);
        run exchange(1);
        run enclave(0);
        run enclave(1);
        run enclave(2);
        run ledger()
    }
}
