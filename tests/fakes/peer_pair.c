#include "tests/fakes/peer_pair.h"

#include <stdlib.h>
#include <string.h>

#include "abi/call.h"

const uint8_t fake_manager_mrenclave[SGX_HASH_SIZE] = "the manager image under test";
const uint8_t fake_instance_mrenclave[SGX_HASH_SIZE] = "the instance image under test";

static void must(struct err err)
{
    if (err.code) abort();
}

void become_manager(void)
{
    memcpy(fake_processor.MRENCLAVE, fake_manager_mrenclave, SGX_HASH_SIZE);
    fake_processor.ISVPRODID = PRODID_MANAGER;
}

void become_instance(void)
{
    memcpy(fake_processor.MRENCLAVE, fake_instance_mrenclave, SGX_HASH_SIZE);
    fake_processor.ISVPRODID = PRODID_INSTANCE;
}

/* libcrypto is initialised once in a program's life. */
static struct crypto once(void)
{
    static struct crypto crypto;
    if (!crypto.sha256) must(crypto_init(&crypto));
    return crypto;
}

void peer_pair_init(struct peer_pair *pair)
{
    *pair = (struct peer_pair){.id = {.bytes = "instance of test"}, .start = 0x0102030405060708};
    pair->crypto = once();
    memset(pair->holder, 0xC3, sizeof pair->holder);
    memset(pair->base, 0xD4, sizeof pair->base);
    pair->resumption = (struct peer_resumption){.instance = pair->id, .epoch = 3, .start = pair->start};
    memcpy(pair->resumption.holder, pair->holder, sizeof pair->holder);
    memset(pair->resumption.key, 0xE5, sizeof pair->resumption.key);
    struct writer *messages[] = {&pair->challenge, &pair->proof,  &pair->admit,
                                 &pair->resume,    &pair->accept, &pair->confirm};
    for (size_t i = 0; i < 6; i++)
        *messages[i] = writer_of(pair->bytes[i], sizeof pair->bytes[i]);
}

void peer_pair_close(struct peer_pair *pair)
{
    peer_close(&pair->manager);
    peer_close(&pair->instance);
}

struct err peer_pair_challenge(struct peer_pair *pair)
{
    become_manager();
    pair->challenge.size = 0;
    return peer_challenge(&pair->crypto, &pair->id, pair->start, pair->base, &pair->manager, &pair->challenge);
}

struct err peer_pair_prove(struct peer_pair *pair)
{
    become_instance();
    pair->proof.size = 0;
    return peer_prove(&pair->crypto, writer_span(&pair->challenge), &pair->id, pair->holder, &pair->instance,
                      &pair->proof);
}

struct err peer_pair_check_proof(struct peer_pair *pair)
{
    become_manager();
    return peer_check_proof(&pair->crypto, &pair->manager, writer_span(&pair->proof), fake_instance_mrenclave);
}

struct err peer_pair_admit(struct peer_pair *pair)
{
    become_manager();
    pair->admit.size = 0;
    return peer_admit(&pair->crypto, &pair->manager, &pair->admit);
}

struct err peer_pair_check_admission(struct peer_pair *pair)
{
    become_instance();
    return peer_check_admission(&pair->crypto, &pair->instance, writer_span(&pair->admit));
}

struct err peer_pair_resume(struct peer_pair *pair)
{
    pair->resume.size = 0;
    return peer_resume(&pair->crypto, &pair->resumption, &pair->instance, &pair->resume);
}

struct err peer_pair_accept(struct peer_pair *pair)
{
    pair->accept.size = 0;
    return peer_accept(&pair->crypto, writer_span(&pair->resume), &pair->resumption, &pair->manager, &pair->accept);
}

struct err peer_pair_confirm(struct peer_pair *pair)
{
    pair->confirm.size = 0;
    return peer_confirm(&pair->crypto, &pair->resumption, &pair->instance, writer_span(&pair->accept), &pair->confirm);
}

struct err peer_pair_check_confirmation(struct peer_pair *pair)
{
    return peer_check_confirmation(&pair->crypto, &pair->resumption, &pair->manager, writer_span(&pair->confirm));
}

void peer_pair_establish(struct peer_pair *pair)
{
    must(peer_pair_challenge(pair));
    must(peer_pair_prove(pair));
    must(peer_pair_check_proof(pair));
    must(peer_pair_admit(pair));
    must(peer_pair_check_admission(pair));
}

void peer_pair_reestablish(struct peer_pair *pair)
{
    must(peer_pair_resume(pair));
    must(peer_pair_accept(pair));
    must(peer_pair_confirm(pair));
    must(peer_pair_check_confirmation(pair));
}
