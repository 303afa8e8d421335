/*
 * swtpm_setup: makes a TPM for a state directory, with endorsement keys, certificates and PCR banks, as swtpm's does.
 *
 * The instance is made by vtpmd, started on a pair of sockets, set up through them, and stopped; its state directory then
 * names it. What swtpm would have written there is vtpmd's.
 *
 * Guarantees: a directory that names a TPM keeps it, unless --overwrite says otherwise; a TPM whose making fails half way
 * is deleted again. It sees what goes through the TPM's data channel, as swtpm_setup does: public keys, no secret.
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <openssl/evp.h>

#include "untrusted/host/log.h"
#include "untrusted/swtpm/control_client.h"
#include "untrusted/swtpm/held.h"
#include "untrusted/swtpm/key.h"
#include "untrusted/swtpm/setup_certificate.h"
#include "untrusted/swtpm/setup_config.h"
#include "untrusted/swtpm/setup_options.h"
#include "untrusted/swtpm/setup_tpm.h"
#include "untrusted/swtpm/setup_tpm12.h"

#define COMPATIBLE_VERSION   "0.7.1"
#define STATE_MODE           0640u
#define PLATFORM_CERTIFICATE 0x01c08000u
#define INFO_FLAGS           3u /* TPMSpecification, TPMAttributes */

static const char capabilities[] =
    "{ \"type\": \"swtpm_setup\", \"features\": [ \"tpm-1.2\", \"tpm-2.0\", \"cmdarg-keyfile-fd\", "
    "\"cmdarg-pwdfile-fd\", \"tpm12-not-need-root\", \"cmdarg-write-ek-cert-files\", \"cmdarg-create-config-files\", "
    "\"cmdarg-reconfigure-pcr-banks\", "
    "\"tpm2-rsa-keysize-2048\", \"tpm2-rsa-keysize-3072\" ], \"version\": \"" COMPATIBLE_VERSION "\" }\n";

struct setup {
    struct setup_options options;
    struct setup_config config;
    struct place place;
    struct held held;
    struct swtpm_sockets sockets;
    int data, control; /* -1 */
    struct setup_tpm *tpm;
    char info[CONTROL_TEXT_MAX];
    bool made; /* the instance, by this process */
};

/* --- before --- */

static struct err open_log(const char *path, struct explanation *why)
{
    if (!path) return OK;
    const int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0640);
    if (fd >= 0 && dup2(fd, STDERR_FILENO) >= 0) return OK;
    return explain(why, FAIL(SYSTEM), "--logfile %.200s: %s", path, strerror(errno));
}

static struct err become_user(const char *name, struct explanation *why)
{
    char *end = NULL;
    const struct passwd *user = name ? getpwnam(name) : NULL;
    if (name && !user) user = getpwuid((uid_t)strtoul(name, &end, 10));
    if (!name || (user && user->pw_uid == geteuid())) return OK;
    if (!user || (end && *end)) return explain(why, FAIL(USAGE), "Error: User '%.60s' does not exist.", name);
    if (initgroups(user->pw_name, user->pw_gid) == 0 && setgid(user->pw_gid) == 0 && setuid(user->pw_uid) == 0)
        return OK;
    return explain(why, FAIL(SYSTEM), "--runas %.60s: %s", name, strerror(errno));
}

static struct err drain_keys(const struct setup_options *options, struct explanation *why)
{
    const char *const files[] = {options->key_file, options->password_file};
    const char *const fds[] = {options->key_fd, options->password_fd};
    bool any = false;
    for (size_t i = 0; i < 2; i++) {
        struct swtpm_key key = {.fd = fds[i] ? atoi(fds[i]) : -1, .file = files[i], .password_fd = -1};
        if (!fds[i] && !files[i]) continue;
        any = true;
        TRY(key_drain(&key, why));
    }
    if (any) log_line(LOG_LEVEL_NOTICE, "%s", key_sentence);
    return OK;
}

static void log_time(const struct setup *s, const char *what, bool who)
{
    char text[64];
    const time_t now = time(NULL);
    const struct passwd *user = getpwuid(geteuid());
    const struct group *group = getgrgid(getegid());
    (void)strftime(text, sizeof text, "%c", localtime(&now));
    if (who)
        log_line(LOG_LEVEL_INFO, "%s vTPM %s as %s:%s @ %s", what,
                 s->options.reconfigure ? "reconfiguration" : "manufacturing", user ? user->pw_name : "?",
                 group ? group->gr_name : "?", text);
    else
        log_line(LOG_LEVEL_INFO, "%s vTPM manufacturing @ %s", what, text);
}

/* --- the instance --- */

/* out_done: there is nothing to do. */
static struct err choose_instance(struct setup *s, bool *out_done, struct explanation *why)
{
    *out_done = s->place.has_id && s->options.not_overwrite && !s->options.reconfigure;
    if (*out_done) {
        log_line(LOG_LEVEL_INFO, "Not overwriting existing state file.");
        return OK;
    }
    if (s->options.reconfigure && !s->place.has_id)
        return explain(why, FAIL(STATE_MISSING), "%.200s names no TPM to be reconfigured", s->place.directory);
    if (s->place.has_id && !s->options.overwrite && !s->options.reconfigure)
        return explain(why, FAIL(STORE_EXISTS), "Found existing TPM state '%s' (%.200s/" PLACE_MARKER ").", s->place.id,
                       s->place.directory);
    if (!s->place.has_id || s->options.reconfigure) return held_find(&s->held, &s->place, &s->made, why);
    TRY(held_find(&s->held, &s->place, &s->made, why));
    TRY(held_delete(&s->held, &s->place, why));
    log_line(LOG_LEVEL_NOTICE, "%s was deleted, as --overwrite says", s->held.label);
    return held_find(&s->held, &s->place, &s->made, why);
}

static struct err start(struct setup *s, struct explanation *why)
{
    const struct swtpm_options options = {.not_need_init = true, .startup_clear = true};
    uint32_t result = 0;
    TRY(swtpm_sockets_pair(&s->sockets, "data-client", &s->data, why));
    TRY(swtpm_sockets_pair(&s->sockets, "control-client", &s->control, why));
    TRY(held_start(&s->held, &options, &s->place, &s->sockets, why));
    if (control_info(s->control, INFO_FLAGS, &result, s->info).code || result)
        return explain(why, FAIL(PROTOCOL), "Could not get the TPM spec and attribute parameters.");
    return s->options.tpm2 ? setup_tpm_open(s->data, &s->tpm, why) : OK;
}

/* --- what is made --- */

static struct err keep_file(const struct setup *s, const char *name, const struct certificate *certificate,
                            struct explanation *why)
{
    char path[PATH_MAX];
    if (!s->options.certificates) return OK;
    (void)snprintf(path, sizeof path, "%.3800s/ek-%s.crt", s->options.certificates, name);
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0640);
    const bool written = fd >= 0 && write(fd, certificate->bytes, certificate->size) == (ssize_t)certificate->size;
    const int number = errno;
    if (fd >= 0) (void)close(fd);
    return written ? OK : explain(why, FAIL(SYSTEM), "%.200s: %s", path, strerror(number));
}

static struct err certify(struct setup *s, const char *type, const struct setup_ek_made *ek, TPM2_HANDLE index,
                          struct explanation *why)
{
    static struct certificate certificate;
    const char *file = strncmp(ek->text, "x=", 2) == 0 ? "secp384r1"
                       : s->options.rsa_bits == 2048   ? "rsa2048"
                                                       : "rsa3072";
    const struct certificate_request request = {type, ek->text, s->info, &s->options, &s->config};
    const bool of_ek = strcmp(type, "ek") == 0;
    TRY(certificate_make(&request, &certificate, why));
    TRY(setup_tpm_write_index(s->tpm, index, span_of(certificate.bytes, certificate.size), s->options.lock, why));
    log_line(LOG_LEVEL_INFO, "Successfully created NVRAM area 0x%x for %s%s certificate.", index, of_ek ? ek->name : "",
             of_ek ? " EK" : "platform");
    return of_ek ? keep_file(s, file, &certificate, why) : OK;
}

static struct err make_ek(struct setup *s, bool ecc, struct explanation *why)
{
    static struct setup_ek_made made;
    const struct setup_ek ek = {ecc, s->options.rsa_bits, s->options.allow_signing, s->options.decryption};
    TRY(setup_tpm_make_ek(s->tpm, &ek, &made, why));
    log_line(LOG_LEVEL_INFO, "Successfully created %s EK with handle 0x%x.", made.name, made.handle);
    if (s->options.allow_signing) {
        TRY(setup_tpm_write_index(s->tpm, made.template_index, span_of(made.template, made.template_size),
                                  s->options.lock, why));
        log_line(LOG_LEVEL_INFO, "Successfully created NVRAM area 0x%x for %s EK template.", made.template_index,
                 made.name);
    }
    if (s->options.create_ek_certificate) TRY(certify(s, "ek", &made, made.certificate_index, why));
    if (!ecc && s->options.create_platform_certificate) TRY(certify(s, "platform", &made, PLATFORM_CERTIFICATE, why));
    return OK;
}

static struct err make_keys(struct setup *s, struct explanation *why)
{
    TPM2_HANDLE handle = 0;
    if (s->options.create_spk) {
        TRY(setup_tpm_make_spk(s->tpm, s->options.ecc, s->options.rsa_bits, &handle, why));
        log_line(LOG_LEVEL_INFO, "Successfully created storage primary key with handle 0x%x.", handle);
    }
    if (!s->options.create_ek) return OK;
    TRY(make_ek(s, false, why));
    return make_ek(s, true, why);
}

static struct err choose_banks(struct setup *s, struct explanation *why)
{
    char active[64];
    char all[64];
    const char *banks = s->options.banks ? s->options.banks : s->config.banks;
    if (strcmp(banks, "-") == 0) return OK;
    TRY(setup_tpm_choose_banks(s->tpm, banks, active, all, why));
    log_line(LOG_LEVEL_INFO, "Successfully activated PCR banks %s among %s.", active, all);
    return OK;
}

static struct err author_20(struct setup *s, struct explanation *why)
{
    TRY(make_keys(s, why));
    TRY(choose_banks(s, why));
    return setup_tpm_shut_down(s->tpm, why);
}

/* --- of a TPM 1.2 --- */

#define OWNER_PASSWORD "ooo" /* swtpm_setup's */
#define SRK_PASSWORD   "sss"

static struct err secret_of(const char *password, const char *otherwise, bool well_known,
                            uint8_t out_secret[SETUP12_SECRET_SIZE])
{
    const char *text = password ? password : otherwise;
    memset(out_secret, 0, SETUP12_SECRET_SIZE);
    ENSURE(well_known || EVP_Digest(text, strlen(text), out_secret, NULL, EVP_sha1(), NULL) == 1, CRYPTO);
    return OK;
}

static struct err take_ownership(struct setup *s, const uint8_t ek[SETUP12_MODULUS_SIZE], struct explanation *why)
{
    uint8_t owner[SETUP12_SECRET_SIZE];
    uint8_t srk[SETUP12_SECRET_SIZE];
    TRY(secret_of(s->options.owner_password, OWNER_PASSWORD, s->options.owner_well_known, owner));
    TRY(secret_of(s->options.srk_password, SRK_PASSWORD, s->options.srk_well_known, srk));
    TRY(setup12_take_ownership(s->data, ek, owner, srk, why));
    log_line(LOG_LEVEL_INFO, "Successfully took ownership of the TPM.");
    return OK;
}

static struct err certify_12(struct setup *s, enum setup12_certificate which, const char *key, struct explanation *why)
{
    static struct certificate certificate;
    const bool of_ek = which == SETUP12_EK;
    const struct certificate_request request = {of_ek ? "ek" : "platform", key, s->info, &s->options, &s->config};
    TRY(certificate_make(&request, &certificate, why));
    TRY(setup12_keep_certificate(s->data, which, span_of(certificate.bytes, certificate.size), why));
    log_line(LOG_LEVEL_INFO, "Successfully created NVRAM area for %s certificate.", of_ek ? "EK" : "Platform");
    return of_ek ? keep_file(s, "rsa2048", &certificate, why) : OK;
}

static struct err author_12(struct setup *s, struct explanation *why)
{
    uint8_t modulus[SETUP12_MODULUS_SIZE];
    char text[2 * SETUP12_MODULUS_SIZE + 1];
    TRY(setup12_enable(s->data, why));
    if (s->options.create_ek) {
        TRY(setup12_make_ek(s->data, modulus, why));
        log_line(LOG_LEVEL_INFO, "Successfully created EK.");
        for (size_t i = 0; i < sizeof modulus; i++)
            (void)snprintf(text + 2 * i, 3, "%02x", modulus[i]);
    }
    if (s->options.take_ownership) TRY(take_ownership(s, modulus, why));
    if (s->options.create_ek_certificate) TRY(certify_12(s, SETUP12_EK, text, why));
    if (s->options.create_platform_certificate) TRY(certify_12(s, SETUP12_PLATFORM, text, why));
    if (!s->options.lock) return OK;
    TRY(setup12_lock(s->data, why));
    log_line(LOG_LEVEL_INFO, "Successfully locked NVRAM access.");
    return OK;
}

static struct err author(struct setup *s, struct explanation *why)
{
    json_int_t version = 0;
    TRY(start(s, why));
    TRY((s->options.tpm2 ? author_20 : author_12)(s, why));
    TRY(held_stop(&s->held, why));
    held_copy_state(&s->held, &s->place, &version);
    return OK;
}

static struct err run(struct setup *s, struct explanation *why)
{
    bool done = false;
    TRY(open_log(s->options.log_file, why));
    TRY(held_open(&s->held, why));
    TRY(become_user(s->options.user, why));
    TRY(drain_keys(&s->options, why));
    TRY(setup_config_read(s->options.config, &s->config, why));
    if (s->options.tpm) log_line(LOG_LEVEL_NOTICE, "--tpm %s: the TPM is vtpmd's", s->options.tpm);
    TRY(place_open(s->options.directory, STATE_MODE, !s->options.tpm2, &s->place, why));
    TRY(choose_instance(s, &done, why));
    if (done) return OK;
    log_time(s, "Starting", true);
    struct err err = author(s, why);
    if (err.code && s->made) held_undo(&s->held, &s->place);
    if (!err.code) log_line(LOG_LEVEL_INFO, "Successfully authored TPM state.");
    log_time(s, "Ending", false);
    return err;
}

/* --- the program --- */

static void end(struct setup *s)
{
    setup_tpm_close(&s->tpm);
    if (s->data >= 0) (void)close(s->data);
    if (s->control >= 0) (void)close(s->control);
    swtpm_sockets_close(&s->sockets);
    held_close(&s->held);
}

static int inform(const struct setup_options *options)
{
    (void)fputs(options->version ? "TPM emulator setup tool version " COMPATIBLE_VERSION "\n"
                : options->help  ? setup_help
                                 : capabilities,
                stdout);
    return fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

int main(int argc, char **argv)
{
    static struct setup s = {.data = -1, .control = -1, .held = {.there = -1, .ctl.fd = -1}};
    struct explanation why = {0};
    log_open("swtpm_setup");
    (void)setenv("TSS2_LOG", "all+none", 0); /* errors are told here */
    struct err err = setup_options_parse(argc, argv, &s.options, &why);
    if (!err.code && (s.options.version || s.options.help || s.options.print_capabilities)) return inform(&s.options);
    if (!err.code) err = s.options.config_files ? setup_config_create(s.options.config_files, &why) : run(&s, &why);
    if (err.code) log_line(LOG_LEVEL_ERROR, "%s", explanation_text(&why, err));
    end(&s);
    return err.code ? EXIT_FAILURE : EXIT_SUCCESS;
}
