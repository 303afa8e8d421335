#include "untrusted/cli/ctl_selftest.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <pwd.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "untrusted/cli/ctl_doctor.h"
#include "untrusted/cli/ctl_text.h"
#include "untrusted/cli/ctl_tpm.h"
#include "untrusted/sgx/cpu_client.h"

#define LABEL         "selftest"
#define START_SECONDS 60
#define WORDS_MAX     16u
#define LOG_LINES     15
#define PATH_SIZE     (PATH_MAX + 64)

struct selftest {
    const char *device, *user; /* user: NULL unless started by root */
    bool built;                /* the programs lie in a build directory */
    char programs[PATH_MAX + 16];
    char directory[64];
    pid_t cpu, daemon;
    struct ctl ctl;
    int tpm_fd;
    uint8_t kept[CTL_TPM_DATA_SIZE];
    json_t *report;
};

/* --- programs --- */

/* Beside this program in a build directory, in sbin beside its bin where it is installed. */
static struct err find_programs(struct selftest *t, struct explanation *why)
{
    char path[PATH_SIZE];
    const ssize_t size = readlink("/proc/self/exe", t->programs, PATH_MAX);
    ENSURE(size > 0, SYSTEM);
    t->programs[size] = '\0';
    *strrchr(t->programs, '/') = '\0';
    (void)snprintf(path, sizeof path, "%s/vtpmd", t->programs);
    t->built = access(path, X_OK) == 0;
    if (t->built) return OK;
    (void)strcat(t->programs, "/../sbin");
    (void)snprintf(path, sizeof path, "%s/vtpmd", t->programs);
    if (access(path, X_OK) == 0) return OK;
    return explain(why, FAIL(SYSTEM), "%.400s: %s", path, strerror(errno));
}

struct line {
    size_t count;
    char *words[WORDS_MAX];
};

static void line_close(struct line *line)
{
    for (size_t i = 0; i < line->count; i++)
        free(line->words[i]);
}

__attribute__((format(printf, 2, 3))) static void add(struct line *line, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    if (vasprintf(&line->words[line->count], format, arguments) >= 0) line->count++;
    va_end(arguments);
}

static struct err start(const struct selftest *t, const struct line *line, pid_t *out_pid, struct explanation *why)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none;
    char program[PATH_SIZE];
    const char *name = line->words[0];
    (void)snprintf(program, sizeof program, "%s/%s", t->programs, name);
    (void)sigemptyset(&none);
    (void)posix_spawn_file_actions_init(&actions);
    (void)posix_spawnattr_init(&attributes);
    (void)posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    (void)posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
    (void)posix_spawn_file_actions_addopen(&actions, 2, "log", O_WRONLY | O_CREAT | O_APPEND, 0600);
    (void)posix_spawnattr_setsigmask(&attributes, &none);
    (void)posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSID);
    const int error = posix_spawn(out_pid, program, &actions, &attributes, line->words, environ);
    (void)posix_spawn_file_actions_destroy(&actions);
    (void)posix_spawnattr_destroy(&attributes);
    return error ? explain(why, FAIL(SYSTEM), "%.400s: %s", program, strerror(error)) : OK;
}

/* Until the program has ended, or done says so. ERR_SYSTEM if it ended otherwise than well, or took too long. */
static struct err await(struct selftest *t, const char *name, pid_t *pid, bool (*done)(struct selftest *t),
                        struct explanation *why)
{
    int status = 0;
    for (unsigned i = 0; i < START_SECONDS * 100u; i++) {
        if (waitpid(*pid, &status, WNOHANG) == *pid) {
            *pid = 0;
            if (!done && WIFEXITED(status) && WEXITSTATUS(status) == 0) return OK;
            return explain(why, FAIL(SYSTEM), "%s ended with %s %d", name, WIFEXITED(status) ? "status" : "signal",
                           WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
        }
        if (done && done(t)) return OK;
        (void)usleep(10000);
    }
    return explain(why, FAIL(SYSTEM), "%s: nothing came of it within %d seconds", name, START_SECONDS);
}

static struct err run_to_end(struct selftest *t, const struct line *line, struct explanation *why)
{
    pid_t pid = 0;
    TRY(start(t, line, &pid, why));
    return await(t, line->words[0], &pid, NULL, why);
}

/* --- steps --- */

static bool processor_answers(struct selftest *t)
{
    int fd = -1;
    (void)t;
    if (cpu_connect("cpu.sock", &fd).code) return false;
    close(fd);
    return true;
}

static struct err start_processor(struct selftest *t, struct explanation *why)
{
    struct line init DEFER(line_close) = {0};
    struct line serve DEFER(line_close) = {0};
    add(&init, "vtpm-cpu");
    add(&init, "--secret=file:%s/device-secret", t->directory);
    add(&init, "--init");
    TRY(run_to_end(t, &init, why));
    add(&serve, "vtpm-cpu");
    add(&serve, "--secret=file:%s/device-secret", t->directory);
    add(&serve, "--listen=%s/cpu.sock", t->directory);
    if (t->user) add(&serve, "--user=%s", t->user);
    TRY(start(t, &serve, &t->cpu, why));
    TRY(await(t, "vtpm-cpu", &t->cpu, processor_answers, why));
    const struct passwd *user = t->user ? getpwnam(t->user) : NULL;
    ENSURE(!user || lchown("cpu.sock", user->pw_uid, user->pw_gid) == 0, SYSTEM);
    return OK;
}

static void daemon_line(const struct selftest *t, struct line *line)
{
    add(line, "vtpmd");
    add(line, "--config=%s/vtpmd.conf", t->directory);
    add(line, "--state-dir=%s/state", t->directory);
    add(line, "--run-dir=%s/run", t->directory);
    add(line, "--cpu=%s/cpu.sock", t->directory);
    add(line, "--device=%s", t->device);
    if (t->user) add(line, "--user=%s", t->user);
    if (!t->built) return;
    add(line, "--manager-image=%s/../enclave/manager.sgx", t->programs);
    add(line, "--instance-image=%s/../enclave/instance.sgx", t->programs);
    add(line, "--instance-program=%s/vtpm-instance", t->programs);
}

static struct err make_store(struct selftest *t, struct explanation *why)
{
    struct line line DEFER(line_close) = {0};
    daemon_line(t, &line);
    add(&line, "--init");
    return run_to_end(t, &line, why);
}

static bool daemon_answers(struct selftest *t)
{
    struct explanation ignored = {0};
    ctl_close(&t->ctl);
    return !ctl_open("run/admin.sock", CTL_SHORT_SECONDS, &t->ctl, &ignored).code;
}

static struct err ask(struct selftest *t, const char *verb, json_t *arguments, json_t **out_answer,
                      struct explanation *why)
{
    return ctl_call(&t->ctl, verb, arguments, CTL_LONG_SECONDS, NULL, out_answer, why);
}

static struct err start_daemon(struct selftest *t, struct explanation *why)
{
    static const char *const told[] = {"device", "memory", "manager", "instance"};
    json_t *status DEFER(ctl_json_close) = NULL;
    struct line line DEFER(line_close) = {0};
    daemon_line(t, &line);
    TRY(start(t, &line, &t->daemon, why));
    TRY(await(t, "vtpmd", &t->daemon, daemon_answers, why));
    TRY(ask(t, "status", NULL, &status, why));
    for (size_t i = 0; i < sizeof told / sizeof *told; i++)
        (void)json_object_set(t->report, told[i], json_object_get(status, told[i]));
    return OK;
}

/* create or start, and a connection to the TPM, which begins. */
static struct err begin(struct selftest *t, const char *verb, const char *name, struct explanation *why)
{
    json_t *instance DEFER(ctl_json_close) = NULL;
    TRY(ask(t, verb, json_pack("{s:s}", name, LABEL), &instance, why));
    const char *address = json_string_value(json_array_get(json_object_get(instance, "listen"), 0));
    const char *prefix = "swtpm:unix:";
    if (!address || strncmp(address, prefix, strlen(prefix)) != 0)
        return explain(why, FAIL(PROTOCOL), "vtpmd names no socket of the TPM");
    return ctl_tpm_connect(address + strlen(prefix), &t->tpm_fd, why);
}

static struct err create(struct selftest *t, struct explanation *why)
{
    return begin(t, "create", "label", why);
}

static struct err restart(struct selftest *t, struct explanation *why)
{
    json_t *instance DEFER(ctl_json_close) = NULL;
    close(t->tpm_fd);
    t->tpm_fd = -1;
    TRY(ask(t, "stop", json_pack("{s:s}", "instance", LABEL), &instance, why));
    return begin(t, "start", "instance", why);
}

static struct err compare(struct selftest *t, struct explanation *why)
{
    uint8_t read[CTL_TPM_DATA_SIZE];
    TRY(ctl_tpm_run(t->tpm_fd, CTL_TPM_NV_READ, read, why));
    if (memcmp(read, t->kept, sizeof read) == 0) return OK;
    return explain(why, FAIL(TPM), "TPM2_NV_Read: this is not what was written before the restart");
}

static struct err destroy(struct selftest *t, struct explanation *why)
{
    json_t *instance DEFER(ctl_json_close) = NULL;
    return ask(t, "delete", json_pack("{s:s, s:b}", "instance", LABEL, "force", 1), &instance, why);
}

static struct err end(struct selftest *t, struct explanation *why)
{
    ctl_close(&t->ctl);
    (void)kill(t->daemon, SIGTERM);
    TRY(await(t, "vtpmd", &t->daemon, NULL, why));
    if (!t->cpu) return OK;
    (void)kill(t->cpu, SIGTERM);
    return await(t, "vtpm-cpu", &t->cpu, NULL, why);
}

static const struct step {
    const char *name; /* NULL: the command's */
    struct err (*run)(struct selftest *t, struct explanation *why);
    enum ctl_tpm_command command; /* where there is nothing to run */
} steps[] = {
    {"vtpm-cpu", start_processor, 0},    {"vtpmd --init", make_store, 0},
    {"vtpmd", start_daemon, 0},          {"create and start an instance", create, 0},
    {NULL, NULL, CTL_TPM_STARTUP},       {NULL, NULL, CTL_TPM_SELF_TEST},
    {NULL, NULL, CTL_TPM_GET_RANDOM},    {NULL, NULL, CTL_TPM_NV_DEFINE},
    {NULL, NULL, CTL_TPM_NV_WRITE},      {"stop and start the instance", restart, 0},
    {NULL, NULL, CTL_TPM_STARTUP},       {NULL, compare, CTL_TPM_NV_READ},
    {"delete the instance", destroy, 0}, {"end vtpmd and vtpm-cpu", end, 0},
};

/* --- before and after --- */

static struct err prepare(struct selftest *t, struct explanation *why)
{
    (void)snprintf(t->directory, sizeof t->directory, "/tmp/vtpm-selftest-XXXXXX");
    if (!mkdtemp(t->directory)) {
        *t->directory = '\0';
        return explain(why, FAIL(SYSTEM), "/tmp: %s", strerror(errno));
    }
    ENSURE(chdir(t->directory) == 0 && mkdir("state", 0700) == 0 && mkdir("run", 0755) == 0, SYSTEM);
    FILE *config = fopen("vtpmd.conf", "we"); /* empty: what the service has does not count here */
    ENSURE(config && fclose(config) == 0, SYSTEM);
    if (geteuid() != 0) return OK;
    t->user = getpwnam("vtpm") ? "vtpm" : "nobody";
    ENSURE(chmod(t->directory, 0711) == 0, SYSTEM); /* its sockets are that user's, what lies beside them is root's */
    return OK;
}

static int remove_entry(const char *path, const struct stat *status, int kind, struct FTW *place)
{
    (void)status, (void)kind, (void)place;
    (void)remove(path);
    return 0;
}

/* What vtpmd has left running is a child of this process by now. */
static void selftest_close(struct selftest *t)
{
    char path[64];
    long child = 0;
    ctl_close(&t->ctl);
    if (t->tpm_fd >= 0) close(t->tpm_fd);
    (void)snprintf(path, sizeof path, "/proc/self/task/%d/children", (int)getpid());
    for (bool more = true; more;) {
        FILE *children = fopen(path, "re");
        more = children && fscanf(children, "%ld", &child) == 1;
        if (children) (void)fclose(children);
        if (more && kill((pid_t)child, SIGKILL) == 0) (void)waitpid((pid_t)child, NULL, 0);
    }
    if (*t->directory) (void)nftw(t->directory, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    json_decref(t->report);
}

static void show_log(void)
{
    char lines[LOG_LINES][1024];
    size_t count = 0;
    FILE *log = fopen("log", "re");
    while (log && fgets(lines[count % LOG_LINES], sizeof *lines, log))
        count++;
    if (log) (void)fclose(log);
    for (size_t i = count > LOG_LINES ? count - LOG_LINES : 0; i < count; i++)
        (void)fprintf(stderr, "  %s", lines[i % LOG_LINES]);
}

static struct err run_step(struct selftest *t, const struct step *step, bool told, struct explanation *why)
{
    struct timespec from, to;
    (void)clock_gettime(CLOCK_MONOTONIC, &from);
    const char *name = step->name ? step->name : ctl_tpm_name(step->command);
    const struct err err = step->run ? step->run(t, why) : ctl_tpm_run(t->tpm_fd, step->command, t->kept, why);
    (void)clock_gettime(CLOCK_MONOTONIC, &to);
    const long long took = (to.tv_sec - from.tv_sec) * 1000 + (to.tv_nsec - from.tv_nsec) / 1000000;
    (void)json_array_append_new(
        json_object_get(t->report, "steps"),
        json_pack("{s:s, s:b, s:I}", "name", name, "passed", !err.code, "milliseconds", (json_int_t)took));
    if (told) (void)printf("%-8s %6lld ms  %s\n", err.code ? "FAILED" : "ok", took, name);
    if (!err.code) return OK;
    const struct explanation cause = *why;
    (void)fflush(stdout);
    show_log();
    return explain(why, err, "selftest: \"%s\" failed: %.400s", name, explanation_text(&cause, err));
}

static void show_result(const json_t *report, FILE *out)
{
    static const char *const captions[] = {"memory", "manager.mrenclave", "instance.mrenclave", "version",
                                           "kernel", "processor"};
    for (size_t i = 0; i < sizeof captions / sizeof *captions; i++)
        (void)fprintf(out, "%-18s %s\n", captions[i], shown_member(report, captions[i]).text);
    (void)fprintf(out, "selftest: %zu steps passed, device %s\n", json_array_size(json_object_get(report, "steps")),
                  shown_member(report, "device").text);
}

struct err ctl_selftest_run(struct ctl_request *request, struct explanation *why)
{
    static struct doctor_report report;
    struct selftest t DEFER(selftest_close) = {.ctl = {.fd = -1}, .tpm_fd = -1};
    sigset_t signals;
    enum device_kind wanted = DEVICE_AUTO;
    TRY(ctl_doctor_device(request, &wanted, why));
    TRY(ctl_doctor_look(wanted, &report, why));
    TRY(find_programs(&t, why));
    /* Whoever ends this waits for the clean-up. */
    (void)sigemptyset(&signals);
    (void)sigaddset(&signals, SIGINT);
    (void)sigaddset(&signals, SIGTERM);
    (void)sigprocmask(SIG_BLOCK, &signals, NULL);
    (void)prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    TRY(prepare(&t, why));
    t.device = device_kind_name(report.device);
    t.report = json_pack("{s:[], s:s, s:s, s:s}", "steps", "version", VTPM_VERSION, "kernel",
                         doctor_found(&report, "kernel"), "processor", doctor_found(&report, "processor"));
    struct err err = OK;
    for (size_t i = 0; i < sizeof steps / sizeof *steps && !err.code; i++)
        if (steps[i].run != start_processor || report.device == DEVICE_SOFTWARE)
            err = run_step(&t, &steps[i], !request->json, why);
    if (!err.code || request->json) TRY(ctl_print(request, t.report, show_result, why));
    return err;
}
