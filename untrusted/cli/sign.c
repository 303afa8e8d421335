/*
 * vtpm-sign: makes the signing key, makes a signed enclave image out of a linked ELF file, in one step or, for keys
 * that stay in a token, in two, shows what an image is, signs the manifest that allows an upgrade, signs what the
 * owner of an instance wants done to it, and answers for a holder of a recovery key.
 *
 * Guarantees: an image that it writes was parsed, measured and verified again as a loader and EINIT would. It does not
 * look at the code; tools/check-image does.
 *
 * Exit status: 0 done, 1 failed, 2 the command line is wrong.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>

#include "abi/sgx.h"
#include "link/recovery.h"
#include "untrusted/cli/ctl_key.h"
#include "untrusted/cli/draft.h"
#include "untrusted/cli/elf_file.h"
#include "untrusted/cli/explain.h"
#include "untrusted/cli/file.h"
#include "untrusted/cli/key.h"
#include "untrusted/cli/manifest.h"
#include "untrusted/cli/owner_act.h"
#include "untrusted/cli/show.h"
#include "untrusted/cli/signature.h"
#include "untrusted/sgx/image.h"
#include "untrusted/sgx/measure.h"
#include "untrusted/sgx/sigstruct.h"

#define MESSAGE_SIZE ((size_t)2 * SGX_SIGNED_PART_SIZE)

/* One SIGSTRUCT for each, the weakest first: what processors with AVX-512, with AVX or with neither can run. */
static const uint64_t variants[] = {
    SGX_XFRM_LEGACY,
    SGX_XFRM_LEGACY | SGX_XFRM_AVX,
    SGX_XFRM_LEGACY | SGX_XFRM_AVX | SGX_XFRM_AVX512,
};
#define VARIANT_COUNT (sizeof variants / sizeof *variants)

/* The options of the command line that every command draws its own from */
struct request {
    const char *path; /* the argument that is no option */
    const char *elf;
    const char *key;
    const char *public_key;
    const char *out;
    const char *old_mrenclave, *new_mrenclave;
    const char *record;
    const char *signatures[VARIANT_COUNT];
    size_t signature_count;
    const char *prodid_text, *svn_text, *date_text;
    uint16_t prodid;
    uint16_t svn;
    uint32_t date; /* binary-coded decimal */
    bool json;
};

static struct err parse_u16(const char *option, const char *text, uint16_t *out_value, struct explanation *why)
{
    char *end = NULL;
    errno = 0;
    unsigned long value = strtoul(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end || errno || value > UINT16_MAX)
        return explain(why, FAIL(USAGE), "--%s %s: not a number from 0 to %u", option, text, UINT16_MAX);
    *out_value = (uint16_t)value;
    return OK;
}

static uint32_t date_of(const struct tm *day)
{
    char text[16];
    (void)strftime(text, sizeof text, "%Y%m%d", day);
    return (uint32_t)strtoul(text, NULL, 16); /* hexadecimal digits that look like the decimal ones are BCD */
}

static struct err parse_date(const char *text, uint32_t *out_date, struct explanation *why)
{
    struct tm day = {0};
    const char *end = strlen(text) == 8 && strspn(text, "0123456789") == 8 ? strptime(text, "%Y%m%d", &day) : NULL;
    uint32_t date = end && *end == '\0' ? date_of(&day) : 0;
    struct tm normal = day;
    if (date == 0 || timegm(&normal) == (time_t)-1 || date_of(&normal) != date)
        return explain(why, FAIL(USAGE), "--date %s: not a day, YYYYMMDD", text);
    *out_date = date;
    return OK;
}

/* SOURCE_DATE_EPOCH, or now (https://reproducible-builds.org/specs/source-date-epoch/) */
static struct err default_date(uint32_t *out_date, struct explanation *why)
{
    time_t now = time(NULL);
    const char *epoch = getenv("SOURCE_DATE_EPOCH");
    struct tm day;
    if (epoch) {
        char *end = NULL;
        errno = 0;
        now = strtoll(epoch, &end, 10);
        if (epoch[0] < '0' || epoch[0] > '9' || *end || errno)
            return explain(why, FAIL(USAGE), "SOURCE_DATE_EPOCH=%s: not a number of seconds", epoch);
    }
    if (!gmtime_r(&now, &day) || day.tm_year > 9999 - 1900)
        return explain(why, FAIL(USAGE), "SOURCE_DATE_EPOCH=%s: not a time that a SIGSTRUCT can hold", epoch);
    *out_date = date_of(&day);
    return OK;
}

static struct err parse_identity(struct request *request, struct explanation *why)
{
    TRY(parse_u16("prodid", request->prodid_text, &request->prodid, why));
    TRY(parse_u16("svn", request->svn_text, &request->svn, why));
    if (request->date_text) return parse_date(request->date_text, &request->date, why);
    return default_date(&request->date, why);
}

/* Reads the ELF file into a draft whose SIGSTRUCTs wait for their signatures. */
static struct err open_draft(struct request *request, struct draft *out_draft, struct explanation *why)
{
    TRY(parse_identity(request, why));
    struct file elf DEFER(file_close) = {0};
    struct layout layout DEFER(layout_close) = {0};
    TRY(file_read(request->elf, 2 * (size_t)IMAGE_SIZE_MAX, &elf, why)); /* twice: it may hold symbols and debug data */
    TRY(elf_file_read(span_of(elf.data, elf.size), request->elf, &layout, why));
    struct draft draft DEFER(draft_close) = {0};
    TRY(draft_open(&layout, VARIANT_COUNT, &draft, why));
    struct identity identity = {
        .miscselect = DRAFT_MISCSELECT,
        .isvprodid = request->prodid,
        .isvsvn = request->svn,
        .date = request->date,
    };
    TRY(measure_image(&draft.image, identity.mrenclave));
    for (uint32_t i = 0; i < VARIANT_COUNT; i++) {
        identity.attributes = (struct sgx_attributes){.FLAGS = DRAFT_FLAGS, .XFRM = variants[i]};
        struct sgx_sigstruct sigstruct;
        signature_prepare(&identity, &sigstruct);
        draft_set_signature(&draft, i, &sigstruct);
    }
    *out_draft = draft;
    draft.data = NULL;
    return OK;
}

static void print_hash(const char *name, const uint8_t hash[SGX_HASH_SIZE])
{
    (void)printf("%s ", name);
    for (size_t i = 0; i < SGX_HASH_SIZE; i++)
        (void)printf("%02x", hash[i]);
    (void)printf("\n");
}

static struct err end_of_output(struct explanation *why)
{
    if (fflush(stdout) != 0 || ferror(stdout))
        return explain(why, FAIL(SYSTEM), "standard output: %s", strerror(errno));
    return OK;
}

/* Looks at the finished file with a loader's eyes before anybody else can. */
static struct err finish_image(const struct request *request, const struct draft *draft, struct explanation *why)
{
    struct image image;
    struct identity_of_image identity;
    TRY(image_parse(draft->image.file, &image));
    TRY(show_check(&image, request->elf, &identity, why));
    TRY(file_replace(request->out, draft->image.file, why));
    print_hash("MRENCLAVE", identity.mrenclave);
    print_hash("MRSIGNER ", identity.mrsigner);
    return end_of_output(why);
}

static struct err run_key(struct request *request, struct explanation *why)
{
    return key_make(request->path, why);
}

static struct err run_image(struct request *request, struct explanation *why)
{
    EVP_PKEY *key DEFER(key_close) = NULL;
    struct draft draft DEFER(draft_close) = {0};
    TRY(open_draft(request, &draft, why));
    TRY(key_read_private(request->key, &key, why));
    for (uint32_t i = 0; i < VARIANT_COUNT; i++) {
        struct sgx_sigstruct sigstruct = draft.image.signatures[i];
        TRY(signature_sign(&sigstruct, key));
        draft_set_signature(&draft, i, &sigstruct);
    }
    return finish_image(request, &draft, why);
}

static struct err run_message(struct request *request, struct explanation *why)
{
    struct draft draft DEFER(draft_close) = {0};
    TRY(open_draft(request, &draft, why));
    uint8_t messages[VARIANT_COUNT][MESSAGE_SIZE];
    for (uint32_t i = 0; i < VARIANT_COUNT; i++)
        sigstruct_message(&draft.image.signatures[i], messages[i]);
    TRY(file_replace(request->out, span_of(messages, sizeof messages), why));
    print_hash("MRENCLAVE      ", draft.image.signatures[0].ENCLAVEHASH);
    for (size_t i = 0; i < VARIANT_COUNT; i++) {
        uint8_t hash[SGX_HASH_SIZE];
        char name[32];
        ENSURE(EVP_Digest(messages[i], MESSAGE_SIZE, hash, NULL, EVP_sha256(), NULL) == 1, CRYPTO);
        (void)snprintf(name, sizeof name, "SHA-256 of %zu   ", i);
        print_hash(name, hash);
    }
    return end_of_output(why);
}

/* The signatures of all variants, in their order, from one file or from several */
static struct err read_signatures(const struct request *request, uint8_t (*out_signatures)[SGX_RSA_SIZE],
                                  struct explanation *why)
{
    size_t count = 0;
    for (size_t i = 0; i < request->signature_count; i++) {
        struct file file DEFER(file_close) = {0};
        TRY(file_read(request->signatures[i], VARIANT_COUNT * SGX_RSA_SIZE, &file, why));
        if (file.size == 0 || file.size % SGX_RSA_SIZE || file.size / SGX_RSA_SIZE > VARIANT_COUNT - count)
            return explain(why, FAIL(SGX_SIGNATURE),
                           "%s: %zu bytes; expected are raw signatures of %u bytes each, %zu in all",
                           request->signatures[i], file.size, SGX_RSA_SIZE, VARIANT_COUNT);
        memcpy(out_signatures[count], file.data, file.size);
        count += file.size / SGX_RSA_SIZE;
    }
    if (count != VARIANT_COUNT)
        return explain(why, FAIL(SGX_SIGNATURE), "%zu signatures were given; there are %zu messages to sign", count,
                       VARIANT_COUNT);
    return OK;
}

static struct err run_attach(struct request *request, struct explanation *why)
{
    EVP_PKEY *key DEFER(key_close) = NULL;
    struct draft draft DEFER(draft_close) = {0};
    uint8_t signatures[VARIANT_COUNT][SGX_RSA_SIZE];
    TRY(open_draft(request, &draft, why));
    TRY(key_read_public(request->public_key, &key, why));
    TRY(read_signatures(request, signatures, why));
    for (uint32_t i = 0; i < VARIANT_COUNT; i++) {
        struct sgx_sigstruct sigstruct = draft.image.signatures[i];
        struct err err = signature_attach(&sigstruct, key, signatures[i]);
        if (err.code == ERR_SGX_SIGNATURE)
            return explain(why, err,
                           "signature %u is not that of message %u under %s; ELF file, --prodid, --svn and --date must "
                           "be those that were given to \"vtpm-sign message\"",
                           i, i, request->public_key);
        TRY(err);
        draft_set_signature(&draft, i, &sigstruct);
    }
    return finish_image(request, &draft, why);
}

static struct err run_show(struct request *request, struct explanation *why)
{
    struct file file DEFER(file_close) = {0};
    struct image image;
    struct identity_of_image identity;
    TRY(file_read(request->path, IMAGE_SIZE_MAX, &file, why));
    struct err err = image_parse(span_of(file.data, file.size), &image);
    if (err.code) {
        const struct explanation none = {0};
        return explain(why, err, "%s: %s", request->path, explanation_text(&none, err));
    }
    TRY(show_check(&image, request->path, &identity, why));
    show_print(&image, &identity, request->json, stdout);
    return end_of_output(why);
}

static struct err run_manifest(struct request *request, struct explanation *why)
{
    uint8_t bytes[MANIFEST_SIZE];
    TRY(parse_u16("svn", request->svn_text, &request->svn, why));
    const struct manifest manifest = {
        .old = request->old_mrenclave, .new = request->new_mrenclave, .security_version = request->svn};
    TRY(manifest_make(&manifest, request->key, bytes, why));
    return file_replace(request->out, span_of(bytes, sizeof bytes), why);
}

static void act_close(struct owner_act *act)
{
    owner_act_close(act);
}

static struct err run_owner_act(struct request *request, struct explanation *why)
{
    struct owner_act act DEFER(act_close) = {0};
    uint8_t signature[ED25519_SIGNATURE_SIZE];
    TRY(owner_act_read(request->path, &act, why));
    owner_act_tell(&act, stdout);
    TRY(end_of_output(why));
    TRY(owner_act_sign(&act, request->key, signature, why));
    return file_replace(request->out, span_of(signature, sizeof signature), why);
}

static void wipe_holder(struct x25519_key *key)
{
    OPENSSL_cleanse(key, sizeof *key);
}

static void tell_request(const struct recovery_record *record, const struct recovery_request *request)
{
    char domain[ID_TEXT_SIZE];
    id_format(&request->domain, domain);
    (void)printf("trust domain  %s\nit takes      %u of %u holders\n", domain, record->rule.threshold,
                 record->rule.count);
    print_hash("asks, by MRENCLAVE", request->manager);
    (void)printf(
        "Nothing proves that an enclave of this MRENCLAVE asks, and not a program of whoever brought the request:\n"
        "answer only to a host that you trust with the keys of all its TPMs.\n");
}

static struct err answer_request(const struct request *request, struct span record_bytes, struct span request_bytes,
                                 struct explanation *why)
{
    struct crypto crypto;
    struct recovery_record record;
    struct recovery_request asked;
    struct x25519_key holder DEFER(wipe_holder) = {0};
    uint8_t answer[RECOVERY_ANSWER_SIZE];
    struct writer w = writer_of(answer, sizeof answer);
    if (recovery_parse(record_bytes, &record).code)
        return explain(why, FAIL(BAD_VALUE), "%s: this is no recovery record", request->record);
    if (recovery_read_request(request_bytes, &asked).code)
        return explain(why, FAIL(BAD_VALUE), "%s: this is no request for a recovery", request->path);
    TRY(ctl_read_x25519(request->key, &holder, why));
    tell_request(&record, &asked);
    TRY(end_of_output(why));
    TRY(crypto_init(&crypto));
    struct err err = recovery_answer(&crypto, &record, &holder, request_bytes, &w);
    if (err.code == ERR_KEY_UNUSABLE) return explain(why, err, "%s: this key is none of the record's", request->key);
    if (err.code == ERR_BAD_VALUE)
        return explain(why, err, "%s is for another trust domain than %s", request->path, request->record);
    if (err.code == ERR_AUTHENTICATION) return explain(why, err, "%s: it was altered", request->record);
    TRY(err);
    return file_replace(request->out, writer_span(&w), why);
}

static struct err run_recovery_answer(struct request *request, struct explanation *why)
{
    struct file record DEFER(file_close) = {0};
    struct file asked DEFER(file_close) = {0};
    TRY(file_read(request->record, RECOVERY_RECORD_MAX, &record, why));
    TRY(file_read(request->path, RECOVERY_REQUEST_SIZE, &asked, why));
    return answer_request(request, span_of(record.data, record.size), span_of(asked.data, asked.size), why);
}

enum option_number {
    ELF_FILE,
    KEY,
    PUBLIC_KEY,
    SIGNATURE,
    PRODID,
    SVN,
    DATE,
    OUT,
    OLD,
    NEW,
    RECORD,
    JSON,
    HELP,
    OPTION_COUNT
};

static const struct option long_options[] = {
    {"elf", required_argument, NULL, ELF_FILE},
    {"key", required_argument, NULL, KEY},
    {"public-key", required_argument, NULL, PUBLIC_KEY},
    {"signature", required_argument, NULL, SIGNATURE},
    {"prodid", required_argument, NULL, PRODID},
    {"svn", required_argument, NULL, SVN},
    {"date", required_argument, NULL, DATE},
    {"out", required_argument, NULL, OUT},
    {"old", required_argument, NULL, OLD},
    {"new", required_argument, NULL, NEW},
    {"record", required_argument, NULL, RECORD},
    {"json", no_argument, NULL, JSON},
    {"help", no_argument, NULL, HELP},
    {0},
};

#define BIT(option) (1u << (option))

static const struct command {
    const char *name;
    bool takes_path;
    unsigned needs, may_have; /* sets of options */
    struct err (*run)(struct request *request, struct explanation *why);
} commands[] = {
    {"key", true, 0, 0, run_key},
    {"image", false, BIT(ELF_FILE) | BIT(KEY) | BIT(PRODID) | BIT(SVN) | BIT(OUT), BIT(DATE), run_image},
    {"message", false, BIT(ELF_FILE) | BIT(PRODID) | BIT(SVN) | BIT(OUT), BIT(DATE), run_message},
    {"attach", false, BIT(ELF_FILE) | BIT(PUBLIC_KEY) | BIT(SIGNATURE) | BIT(PRODID) | BIT(SVN) | BIT(OUT), BIT(DATE),
     run_attach},
    {"show", true, 0, BIT(JSON), run_show},
    {"manifest", false, BIT(OLD) | BIT(NEW) | BIT(SVN) | BIT(KEY) | BIT(OUT), 0, run_manifest},
    {"owner-act", true, BIT(KEY) | BIT(OUT), 0, run_owner_act},
    {"recovery-answer", true, BIT(KEY) | BIT(RECORD) | BIT(OUT), 0, run_recovery_answer},
};

static const char usage[] =
    "usage: vtpm-sign key FILE\n"
    "       vtpm-sign image --elf ELF --key KEY --prodid N --svn N [--date YYYYMMDD] --out IMAGE\n"
    "       vtpm-sign message --elf ELF --prodid N --svn N [--date YYYYMMDD] --out FILE\n"
    "       vtpm-sign attach --elf ELF --public-key PEM --signature FILE... --prodid N --svn N [--date YYYYMMDD]\n"
    "                 --out IMAGE\n"
    "       vtpm-sign show IMAGE [--json]\n"
    "       vtpm-sign manifest --old MRENCLAVE --new MRENCLAVE --svn N --key RELEASEKEY --out FILE\n"
    "       vtpm-sign owner-act --key OWNER.pem --out SIGNATURE FILE\n"
    "       vtpm-sign recovery-answer --key HOLDER.pem --record RECORD --out ANSWER REQUEST\n"
    "See vtpm-sign(1).\n";

static struct err take_option(int option, const char *argument, struct request *request, struct explanation *why)
{
    const char **const texts[OPTION_COUNT] = {
        [ELF_FILE] = &request->elf,
        [KEY] = &request->key,
        [PUBLIC_KEY] = &request->public_key,
        [PRODID] = &request->prodid_text,
        [SVN] = &request->svn_text,
        [DATE] = &request->date_text,
        [OUT] = &request->out,
        [OLD] = &request->old_mrenclave,
        [NEW] = &request->new_mrenclave,
        [RECORD] = &request->record,
    };
    if (option == JSON) request->json = true;
    if (option != SIGNATURE) {
        if (texts[option]) *texts[option] = argument;
        return OK;
    }
    if (request->signature_count == VARIANT_COUNT)
        return explain(why, FAIL(USAGE), "--signature was given more than %zu times", VARIANT_COUNT);
    request->signatures[request->signature_count++] = argument;
    return OK;
}

static struct err check_options(const struct command *command, unsigned seen, struct explanation *why)
{
    for (unsigned i = 0; i < OPTION_COUNT; i++) {
        if (seen & BIT(i) && !((command->needs | command->may_have) & BIT(i)))
            return explain(why, FAIL(USAGE), "%s does not take --%s", command->name, long_options[i].name);
        if (command->needs & BIT(i) && !(seen & BIT(i)))
            return explain(why, FAIL(USAGE), "%s needs --%s", command->name, long_options[i].name);
    }
    return OK;
}

/* argv begins with the command's name. out_help: the usage was asked for. */
static struct err parse_arguments(const struct command *command, int argc, char **argv, struct request *request,
                                  bool *out_help, struct explanation *why)
{
    unsigned seen = 0;
    int option = 0;
    opterr = 0;
    while ((option = getopt_long(argc, argv, ":", long_options, NULL)) != -1) {
        if (option == HELP) {
            *out_help = true;
            return OK;
        }
        if (option == '?') return explain(why, FAIL(USAGE), "%s: unknown option", argv[optind - 1]);
        if (option == ':') return explain(why, FAIL(USAGE), "%s: a value is missing", argv[optind - 1]);
        seen |= BIT(option);
        TRY(take_option(option, optarg, request, why));
    }
    TRY(check_options(command, seen, why));
    if (argc - optind != (command->takes_path ? 1 : 0))
        return explain(why, FAIL(USAGE), "%s takes %s", command->name,
                       command->takes_path ? "the name of one file" : "options only");
    request->path = argv[optind];
    return OK;
}

static const struct command *find_command(const char *name)
{
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        if (strcmp(commands[i].name, name) == 0) return &commands[i];
    return NULL;
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "--help") == 0) return fputs(usage, stdout) < 0 || fflush(stdout) != 0;
    const struct command *command = argc >= 2 ? find_command(argv[1]) : NULL;
    if (!command) {
        if (argc >= 2) (void)fprintf(stderr, "vtpm-sign: %s: unknown command\n", argv[1]);
        (void)fputs(usage, stderr);
        return 2;
    }
    struct request request = {0};
    struct explanation why = {0};
    bool help = false;
    struct err err = parse_arguments(command, argc - 1, argv + 1, &request, &help, &why);
    if (help) return fputs(usage, stdout) < 0 || fflush(stdout) != 0;
    if (!err.code) err = command->run(&request, &why);
    if (!err.code) return 0;
    (void)fprintf(stderr, "vtpm-sign: %s\n", explanation_text(&why, err));
    if (err.code != ERR_USAGE) return 1;
    (void)fputs("Try \"vtpm-sign --help\".\n", stderr);
    return 2;
}
