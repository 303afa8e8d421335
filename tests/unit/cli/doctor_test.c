/* vtpmctl doctor on machines that nobody here has: what it says of them, and what it tells the operator to do. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <string.h>

#include "untrusted/cli/doctor.h"

/* What there is on a server with everything in order. */
static const struct doctor_facts good = {
    .vendor = "GenuineIntel",
    .brand = "Intel(R) Xeon(R) Gold",
    .features = 0xFFFFFFFF & ~(UINT32_C(1) << 31),
    .SGX = true,
    .SGX_LC = true,
    .SGX1 = true,
    .epc_size = UINT64_C(1) << 30,
    .kernel_sees_sgx = true,
    .release = "6.1.0",
    .major = 6,
    .minor = 1,
    .driver = true,
    .vdso = true,
    .fsgsbase = true,
    .landlock = 2,
    .seccomp = true,
    .user_dispatch = true,
    .smt = DOCTOR_NO,
    .node = DOCTOR_NODE_DEVICE,
    .user = "alice",
    .group = "sgx",
    .service_may = DOCTOR_YES,
    .memlock = UINT64_C(20) << 20,
    .synchronised = true,
    .now = 1790000000,
};

static struct doctor_report judged(const struct doctor_facts *facts, enum device_kind wanted)
{
    struct doctor_report report;
    doctor_judge(facts, wanted, &report);
    return report;
}

static const struct doctor_finding *finding(const struct doctor_report *report, const char *check)
{
    for (size_t i = 0; i < report->count; i++)
        if (strcmp(report->findings[i].check, check) == 0) return &report->findings[i];
    fail_msg("nothing is said of %s", check);
    return NULL;
}

static void has(const char *text, const char *part)
{
    if (!strstr(text, part)) fail_msg("\"%s\" does not say \"%s\"", text, part);
}

/* A device that was asked for cannot be used, over one check, and this is the cure. */
static void is_problem(const struct doctor_facts *facts, enum device_kind wanted, const char *check, const char *cure)
{
    const struct doctor_report report = judged(facts, wanted);
    const struct doctor_finding *found = finding(&report, check);
    assert_int_equal(found->verdict, DOCTOR_PROBLEM);
    has(found->cure, cure);
    assert_false(report.usable);
    has(report.conclusion, "cannot be used here");
}

/* ... and then auto takes the software device, says over what, and the same is a note. */
static void is_note_to_auto(const struct doctor_facts *facts, const char *check)
{
    const struct doctor_report report = judged(facts, DEVICE_AUTO);
    const struct doctor_finding *found = finding(&report, check);
    assert_int_equal(report.device, DEVICE_SOFTWARE);
    assert_int_equal(found->verdict, DOCTOR_NOTE);
    assert_true(report.usable);
    has(report.conclusion, "auto takes the software device");
    has(report.conclusion, found->found);
}

static void stands_in_sgx_way(const struct doctor_facts *facts, const char *check, const char *cure)
{
    is_problem(facts, DEVICE_SGX, check, cure);
    is_note_to_auto(facts, check);
}

/* Nobody advises what has been found in order. */
static void a_good_server_has_no_problem_and_auto_takes_sgx(void **state)
{
    (void)state;
    const enum device_kind devices[] = {DEVICE_AUTO, DEVICE_SGX, DEVICE_SOFTWARE};
    for (size_t d = 0; d < sizeof devices / sizeof *devices; d++) {
        const struct doctor_report report = judged(&good, devices[d]);
        assert_true(report.usable);
        assert_int_equal(report.device, devices[d] == DEVICE_SOFTWARE ? DEVICE_SOFTWARE : DEVICE_SGX);
        for (size_t i = 0; i < report.count; i++)
            if (report.findings[i].verdict == DOCTOR_OK) assert_string_equal(report.findings[i].cure, "");
        assert_null(doctor_first_problem(&report));
    }
    const struct doctor_report report = judged(&good, DEVICE_AUTO);
    has(report.conclusion, "auto takes the sgx device");
    has(doctor_found(&report, "EPC"), "1024 MiB");
    has(doctor_found(&report, "EPC"), "room for 169 instances");
}

static void it_says_that_sgx_hardware_was_never_tried(void **state)
{
    (void)state;
    has(doctor_untried, "never run on SGX hardware");
}

static void disabled_in_the_firmware(void **state)
{
    (void)state;
    struct doctor_facts facts = good;
    facts.SGX1 = facts.kernel_sees_sgx = facts.driver = facts.vdso = false;
    facts.epc_size = 0;
    facts.node = DOCTOR_NODE_ABSENT;
    facts.obstacle = FAIL(SGX_NO_DEVICE);
    stands_in_sgx_way(&facts, "SGX", "enable SGX in the firmware");
    is_problem(&facts, DEVICE_SGX, "firmware", "enable both");
}

static void what_the_register_says_goes_before_what_the_kernel_shows(void **state)
{
    (void)state;
    struct doctor_facts facts = good;
    facts.feature_control_known = true;
    facts.IA32_FEATURE_CONTROL = 1u | 1u << 17 | 1u << 18;
    assert_true(judged(&facts, DEVICE_SGX).usable);
    facts.IA32_FEATURE_CONTROL = 1u | 1u << 18; /* locked without launch control */
    is_problem(&facts, DEVICE_SGX, "firmware", "Unlocked");
    const struct doctor_report report = judged(&facts, DEVICE_SGX);
    has(doctor_found(&report, "firmware"), "launch control is off; locked");
    assert_null(strstr(doctor_found(&report, "firmware"), "SGX is off"));
}

static void without_launch_control(void **state)
{
    (void)state;
    struct doctor_facts facts = good;
    facts.SGX_LC = facts.kernel_sees_sgx = facts.driver = false;
    facts.node = DOCTOR_NODE_ABSENT;
    facts.obstacle = FAIL(SGX_NO_DEVICE);
    stands_in_sgx_way(&facts, "FLC", "Unlocked");
}

/* Of what follows from there being no SGX nothing is said. */
static void a_processor_without_sgx(void **state)
{
    (void)state;
    struct doctor_facts facts = good;
    strcpy(facts.vendor, "AuthenticAMD");
    facts.SGX = facts.SGX1 = facts.SGX_LC = facts.kernel_sees_sgx = facts.driver = facts.vdso = false;
    facts.epc_size = 0;
    facts.node = DOCTOR_NODE_ABSENT;
    facts.obstacle = FAIL(SGX_NO_DEVICE);
    stands_in_sgx_way(&facts, "SGX", "Intel Xeon");
    const struct doctor_report report = judged(&facts, DEVICE_AUTO);
    const char *const silent[] = {"FLC", "firmware", "EPC", "device", "access", "noexec", "vDSO", "AESM"};
    for (size_t i = 0; i < sizeof silent / sizeof *silent; i++)
        assert_string_equal(doctor_found(&report, silent[i]), "");
}

static void a_kernel_without_a_driver(void **state)
{
    (void)state;
    struct doctor_facts facts = good;
    strcpy(facts.release, "5.10.0");
    facts.major = 5;
    facts.minor = 10;
    facts.kernel_sees_sgx = facts.driver = facts.vdso = false;
    facts.node = DOCTOR_NODE_ABSENT;
    facts.obstacle = FAIL(SGX_NO_DEVICE);
    is_problem(&facts, DEVICE_SGX, "kernel", "from 5.11 on");
    is_problem(&facts, DEVICE_SGX, "device", "CONFIG_X86_SGX=y");
    is_problem(&facts, DEVICE_SGX, "vDSO", "CONFIG_X86_SGX=y");
    facts.minor = 11;
    const struct doctor_report report = judged(&facts, DEVICE_SGX);
    assert_int_equal(finding(&report, "kernel")->verdict, DOCTOR_OK);
}

static void dev_without_exec(void **state)
{
    (void)state;
    struct doctor_facts facts = good;
    facts.noexec = true;
    facts.obstacle = FAIL(SGX_NOEXEC);
    stands_in_sgx_way(&facts, "noexec", "mount -o remount,exec /dev");
}

static void who_may_not_open_the_device_is_named_with_its_group(void **state)
{
    (void)state;
    struct doctor_facts facts = good;
    facts.obstacle = FAIL(SGX_DEVICE_DENIED);
    stands_in_sgx_way(&facts, "access", "usermod -aG sgx alice");
    strcpy(facts.group, "root"); /* no rule of udev's has come by */
    stands_in_sgx_way(&facts, "access", "groupadd --system sgx");
}

/* Root tries it, and the service is another user. */
static void the_service_may_not_open_what_the_asker_may(void **state)
{
    (void)state;
    struct doctor_facts facts = good;
    strcpy(facts.user, "root");
    facts.service_may = DOCTOR_NO;
    is_problem(&facts, DEVICE_SGX, "access", "usermod -aG sgx vtpm");
    is_problem(&facts, DEVICE_AUTO, "access", "usermod -aG sgx vtpm");
    facts.service_may = DOCTOR_UNKNOWN;
    assert_true(judged(&facts, DEVICE_SGX).usable);
}

/* By numbers that every Debian has: root's 0, daemon's 1. */
static void the_groups_that_only_the_unit_gives_count_as_those_of_the_account(void **state)
{
    (void)state;
    struct stat device = {.st_uid = 0, .st_gid = 1, .st_mode = S_IFCHR | 0660};
    assert_int_equal(doctor_may_open(&device, "nobody", ""), DOCTOR_NO);
    assert_int_equal(doctor_may_open(&device, "nobody", "nogroup\n\n"), DOCTOR_NO);
    assert_int_equal(doctor_may_open(&device, "nobody", "nogroup\nno-such-group daemon\n"), DOCTOR_YES);
    assert_int_equal(doctor_may_open(&device, "nobody", "nogroup\n1\n"), DOCTOR_YES);
    assert_int_equal(doctor_may_open(&device, "daemon", ""), DOCTOR_YES);
    assert_int_equal(doctor_may_open(&device, "no-such-account", "daemon"), DOCTOR_UNKNOWN);
    device.st_mode = S_IFCHR | 0646; /* a group that is shut out is not one of the others */
    assert_int_equal(doctor_may_open(&device, "nobody", ""), DOCTOR_YES);
    assert_int_equal(doctor_may_open(&device, "nobody", "daemon"), DOCTOR_NO);
    device.st_gid = 0; /* what is no group's name is not root's number */
    device.st_mode = S_IFCHR | 0660;
    assert_int_equal(doctor_may_open(&device, "nobody", "no-such-group"), DOCTOR_NO);
}

static void a_container_without_the_device(void **state)
{
    (void)state;
    struct doctor_facts facts = good;
    facts.node = DOCTOR_NODE_ABSENT;
    facts.obstacle = FAIL(SGX_NO_DEVICE);
    stands_in_sgx_way(&facts, "device", "PrivateDevices=no");
    facts.container = true;
    stands_in_sgx_way(&facts, "device", "--device /dev/sgx_enclave");
    facts.node = DOCTOR_NODE_OTHER;
    stands_in_sgx_way(&facts, "device", "udevadm trigger");
}

static void little_locked_memory(void **state)
{
    (void)state;
    struct doctor_facts facts = good;
    facts.memlock = UINT64_C(8) << 20; /* without an upgrade it is enough */
    const struct doctor_report report = judged(&facts, DEVICE_SOFTWARE);
    assert_int_equal(finding(&report, "memlock")->verdict, DOCTOR_NOTE);
    assert_true(report.usable);
    facts.memlock -= 1; /* SGX has its memory elsewhere */
    is_problem(&facts, DEVICE_SOFTWARE, "memlock", "20 MiB");
    assert_true(judged(&facts, DEVICE_SGX).usable);
    facts.memlock = 65536;
    is_problem(&facts, DEVICE_SGX, "memlock", "20 MiB");
    facts.memlock_free = true;
    assert_true(judged(&facts, DEVICE_SOFTWARE).usable);
}

static void no_secret_memory(void **state)
{
    (void)state;
    struct doctor_facts facts = good;
    facts.secret_memory = FAIL(NO_SECRET_MEMORY);
    is_problem(&facts, DEVICE_SOFTWARE, "memfd_secret", "boot with secretmem.enable=1");
    is_problem(&facts, DEVICE_SGX, "memfd_secret", "boot with secretmem.enable=1"); /* connections and their keys */
}

static void what_no_program_runs_without(void **state)
{
    (void)state;
    struct doctor_facts facts = good;
    facts.seccomp = false;
    is_problem(&facts, DEVICE_SOFTWARE, "seccomp", "CONFIG_SECCOMP_FILTER=y");
    facts.seccomp = true;
    facts.user_dispatch = false;
    is_problem(&facts, DEVICE_SOFTWARE, "user dispatch", "5.11");
    assert_true(judged(&facts, DEVICE_SGX).usable);
    facts.user_dispatch = true;
    facts.features &= ~(UINT32_C(1) << 25);
    is_problem(&facts, DEVICE_SOFTWARE, "processor", "newer processor");
    const struct doctor_report report = judged(&facts, DEVICE_SOFTWARE);
    has(doctor_found(&report, "processor"), "it lacks AES-NI");
    facts.hypervisor = true;
    is_problem(&facts, DEVICE_SOFTWARE, "processor", "-cpu host");
    facts.features = 0;
    const struct doctor_report worst = judged(&facts, DEVICE_SOFTWARE);
    has(doctor_found(&worst, "processor"), "it lacks PCLMULQDQ SSSE3 SSE4.1 AES-NI XSAVE RDRAND");
}

static void what_is_less_than_it_could_be_is_a_note(void **state)
{
    (void)state;
    struct doctor_facts facts = good;
    facts.landlock = 0;
    facts.fsgsbase = facts.synchronised = false;
    facts.smt = DOCTOR_YES;
    facts.epc_size = UINT64_C(12) << 20;
    const char *const notes[] = {"Landlock", "clock", "SMT", "EPC"};
    const struct doctor_report report = judged(&facts, DEVICE_SGX);
    assert_true(report.usable);
    for (size_t i = 0; i < sizeof notes / sizeof *notes; i++) {
        assert_int_equal(finding(&report, notes[i])->verdict, DOCTOR_NOTE);
        assert_string_not_equal(finding(&report, notes[i])->cure, "");
    }
    const struct doctor_report other = judged(&facts, DEVICE_SOFTWARE);
    assert_int_equal(finding(&other, "FSGSBASE")->verdict, DOCTOR_NOTE);
    facts.now = 0;
    const struct doctor_report wrong = judged(&facts, DEVICE_SOFTWARE);
    has(doctor_found(&wrong, "clock"), "wrong by years");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_good_server_has_no_problem_and_auto_takes_sgx),
        cmocka_unit_test(it_says_that_sgx_hardware_was_never_tried),
        cmocka_unit_test(disabled_in_the_firmware),
        cmocka_unit_test(what_the_register_says_goes_before_what_the_kernel_shows),
        cmocka_unit_test(without_launch_control),
        cmocka_unit_test(a_processor_without_sgx),
        cmocka_unit_test(a_kernel_without_a_driver),
        cmocka_unit_test(dev_without_exec),
        cmocka_unit_test(who_may_not_open_the_device_is_named_with_its_group),
        cmocka_unit_test(the_service_may_not_open_what_the_asker_may),
        cmocka_unit_test(the_groups_that_only_the_unit_gives_count_as_those_of_the_account),
        cmocka_unit_test(a_container_without_the_device),
        cmocka_unit_test(little_locked_memory),
        cmocka_unit_test(no_secret_memory),
        cmocka_unit_test(what_no_program_runs_without),
        cmocka_unit_test(what_is_less_than_it_could_be_is_a_note),
    };
    return cmocka_run_group_tests_name("doctor", tests, NULL, NULL);
}
