#include "untrusted/swtpm/setup_options.h"

#include <getopt.h>
#include <stddef.h>
#include <string.h>

#define AT(member) offsetof(struct setup_options, member)

const char setup_help[] =
    "Usage: swtpm_setup [options]\n"
    "\n"
    "Makes a TPM of enclave-vtpm for a state directory, as swtpm_setup makes one of swtpm's. See swtpm(8).\n"
    "\n"
    "--tpm-state <dir>, --tpmstate <dir>\n"
    "                 : the state directory; its file vtpm-instance will name the TPM\n"
    "--tpm2           : a TPM 2.0; without it a TPM 1.2\n"
    "--createek       : create an RSA and an ECC endorsement key; of a TPM 1.2 the one there is\n"
    "--take-ownership : of a TPM 1.2; with\n"
    "  --ownerpass <password>, --owner-well-known, --srkpass <password>, --srk-well-known\n"
    "                 : ooo and sss if they are not given\n"
    "--allow-signing, --decryption\n"
    "                 : what these keys may do; with signing they are not standard ones\n"
    "--create-spk     : create a storage primary key, RSA or with --ecc ECC\n"
    "--ecc            : see --create-spk\n"
    "--create-ek-cert, --create-platform-cert\n"
    "                 : have certificates made, by the create_certs_tool of the configuration\n"
    "--lock-nvram     : certificates cannot be written again\n"
    "--pcr-banks <banks>\n"
    "                 : the banks to be active, with commas; - leaves all; sha256 if the configuration says no other\n"
    "--rsa-keysize <bits>\n"
    "                 : of the RSA key: 2048 or 3072\n"
    "--write-ek-cert-files <dir>\n"
    "                 : certificates of EKs are put there too\n"
    "--reconfigure    : only change the active PCR banks of a TPM that there is\n"
    "--overwrite      : delete the TPM that the directory names, and make another\n"
    "--not-overwrite  : do nothing if the directory names a TPM\n"
    "--vmid <id>      : whose certificates they are\n"
    "--runas <user>   : become this user\n"
    "--config <file>  : instead of swtpm_setup.conf in $XDG_CONFIG_HOME, ~/.config or /etc\n"
    "--logfile <file> : instead of standard error\n"
    "--keyfile <file>, --keyfile-fd <fd>, --pwdfile <file>, --pwdfile-fd <fd>, --cipher <cipher>\n"
    "                 : read and not used: the state is always sealed, under keys that are nobody's\n"
    "--create-config-files [[overwrite][,root][,skip-if-exist]]\n"
    "                 : write swtpm_setup's and swtpm_localca's configuration for this user\n"
    "--print-capabilities, --version, --help\n"
    "\n"
    "VTPM_SOCKET in the environment names the socket of vtpmd (/run/vtpm/admin.sock).\n";

enum row_kind { ROW_FLAG, ROW_TEXT, ROW_MAYBE, ROW_IGNORED_TEXT };

static const struct row {
    const char *name;
    enum row_kind kind;
    size_t offset;
} rows[] = {
    {"tpm-state", ROW_TEXT, AT(directory)},
    {"tpmstate", ROW_TEXT, AT(directory)},
    {"tpm", ROW_TEXT, AT(tpm)},
    {"swtpm_ioctl", ROW_IGNORED_TEXT, 0},
    {"tpm2", ROW_FLAG, AT(tpm2)},
    {"ecc", ROW_FLAG, AT(ecc)},
    {"createek", ROW_FLAG, AT(create_ek)},
    {"create-spk", ROW_FLAG, AT(create_spk)},
    {"allow-signing", ROW_FLAG, AT(allow_signing)},
    {"decryption", ROW_FLAG, AT(decryption)},
    {"take-ownership", ROW_FLAG, AT(take_ownership)},
    {"ownerpass", ROW_TEXT, AT(owner_password)},
    {"owner-well-known", ROW_FLAG, AT(owner_well_known)},
    {"srkpass", ROW_TEXT, AT(srk_password)},
    {"srk-well-known", ROW_FLAG, AT(srk_well_known)},
    {"create-ek-cert", ROW_FLAG, AT(create_ek_certificate)},
    {"create-platform-cert", ROW_FLAG, AT(create_platform_certificate)},
    {"lock-nvram", ROW_FLAG, AT(lock)},
    {"display", ROW_FLAG, AT(display)},
    {"config", ROW_TEXT, AT(config)},
    {"logfile", ROW_TEXT, AT(log_file)},
    {"keyfile", ROW_TEXT, AT(key_file)},
    {"keyfile-fd", ROW_TEXT, AT(key_fd)},
    {"pwdfile", ROW_TEXT, AT(password_file)},
    {"pwdfile-fd", ROW_TEXT, AT(password_fd)},
    {"cipher", ROW_TEXT, AT(cipher)},
    {"overwrite", ROW_FLAG, AT(overwrite)},
    {"not-overwrite", ROW_FLAG, AT(not_overwrite)},
    {"pcr-banks", ROW_TEXT, AT(banks)},
    {"rsa-keysize", ROW_TEXT, AT(rsa_bits_text)},
    {"write-ek-cert-files", ROW_TEXT, AT(certificates)},
    {"tcsd-system-ps-file", ROW_IGNORED_TEXT, 0},
    {"vmid", ROW_TEXT, AT(vm)},
    {"runas", ROW_TEXT, AT(user)},
    {"create-config-files", ROW_MAYBE, AT(config_files)},
    {"reconfigure", ROW_FLAG, AT(reconfigure)},
    {"print-capabilities", ROW_FLAG, AT(print_capabilities)},
    {"version", ROW_FLAG, AT(version)},
    {"help", ROW_FLAG, AT(help)},
};
#define ROW_COUNT (sizeof rows / sizeof *rows)

static int argument_of(enum row_kind kind)
{
    if (kind == ROW_MAYBE) return optional_argument;
    return kind == ROW_TEXT || kind == ROW_IGNORED_TEXT ? required_argument : no_argument;
}

static void take_row(const struct row *row, const char *value, struct setup_options *options)
{
    char *field = (char *)options + row->offset;
    if (row->kind == ROW_FLAG) *(bool *)field = true;
    if (row->kind == ROW_TEXT) *(const char **)field = value;
    if (row->kind == ROW_MAYBE) *(const char **)field = value ? value : "";
}

static struct err check_12(const struct setup_options *options, struct explanation *why)
{
    const struct {
        const char *name;
        bool given;
    } of_20[] = {
        {"create-spk", options->create_spk},
        {"reconfigure", options->reconfigure},
        {"ecc", options->ecc},
        {"allow-signing", options->allow_signing},
        {"decryption", options->decryption},
        {"pcr-banks", options->banks != NULL},
        {"rsa-keysize", options->rsa_bits_text != NULL},
    };
    for (size_t i = 0; i < sizeof of_20 / sizeof *of_20; i++)
        if (of_20[i].given) return explain(why, FAIL(USAGE), "--%s requires --tpm2.", of_20[i].name);
    return OK;
}

static struct err check(struct setup_options *options, struct explanation *why)
{
    if (!options->directory) return explain(why, FAIL(USAGE), "--tpm-state must be provided");
    if (strncmp(options->directory, "dir://", 6) == 0) options->directory += 6;
    if (strncmp(options->directory, "file://", 7) == 0)
        return explain(why, FAIL(USAGE), "--tpm-state %.100s: a single file is not kept here; name a directory",
                       options->directory);
    if (options->tpm2 && options->take_ownership)
        return explain(why, FAIL(USAGE), "Taking ownership is not supported for TPM 2.");
    if (!options->tpm2) TRY(check_12(options, why));
    if (options->take_ownership) options->create_ek = true;
    if (options->create_platform_certificate) options->create_ek_certificate = true;
    if (options->create_ek_certificate) options->create_ek = true;
    if (options->reconfigure && (options->create_ek || options->create_spk))
        return explain(why, FAIL(USAGE), "Reconfiguration is not supported with creation of EK or certificates");
    options->rsa_bits = 2048;
    if (options->rsa_bits_text && strcmp(options->rsa_bits_text, "3072") == 0) options->rsa_bits = 3072;
    if (options->rsa_bits_text && options->rsa_bits == 2048 && strcmp(options->rsa_bits_text, "2048") != 0)
        return explain(why, FAIL(USAGE), "--rsa-keysize %.20s: it is 2048 or 3072", options->rsa_bits_text);
    return OK;
}

struct err setup_options_parse(int argc, char **argv, struct setup_options *out_options, struct explanation *why)
{
    struct setup_options options = {0};
    struct option table[ROW_COUNT + 1] = {0};
    for (size_t i = 0; i < ROW_COUNT; i++)
        table[i] = (struct option){rows[i].name, argument_of(rows[i].kind), NULL, (int)i};
    optind = 0;
    opterr = 0;
    for (int option; (option = getopt_long(argc, argv, ":h", table, NULL)) != -1;) {
        if (option == ':') return explain(why, FAIL(USAGE), "%.80s: its value is missing", argv[optind - 1]);
        if (option == '?') return explain(why, FAIL(USAGE), "%.80s: there is no such option", argv[optind - 1]);
        if (option == 'h') options.help = true;
        if (option < (int)ROW_COUNT) take_row(&rows[option], optarg, &options);
    }
    /* The value of --create-config-files may be the next word, which getopt takes for one by itself. */
    if (options.config_files && !*options.config_files && optind < argc) options.config_files = argv[optind++];
    if (optind < argc) return explain(why, FAIL(USAGE), "%.80s: this is no option", argv[optind]);
    if (!options.print_capabilities && !options.version && !options.help && !options.config_files)
        TRY(check(&options, why));
    *out_options = options;
    return OK;
}
