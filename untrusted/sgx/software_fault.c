/*
 * The asynchronous exit: a fault in the enclave becomes a signal, and here what a processor does with it: the
 * registers go into the SSA frame, the host sees none of them and continues behind its EENTER.
 *
 * The handler runs with whatever FS base and flags the enclave had, so it touches neither thread-local storage nor a
 * stack canary before FS is the host's.
 */
#include "untrusted/sgx/software_gate.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include <cpuid.h>

#include "base/memory.h"
#include "untrusted/host/secret_memory.h"

#define HANDLER_STACK  16384u /* besides the signal frame */
#define XSAVE_LEGACY   512u
#define XSAVE_SOFTWARE 464u /* of the legacy part: the kernel's own data about the frame */
#define XSAVE_HEADER   64u
#define XSAVE_MXCSR    24u
#define FCW_INITIAL    0x037Fu
#define MXCSR_INITIAL  0x1F80u
#define COMPONENT_PKRU 9u
#define EXINFO_SIZE    16u

struct gate *software_gate_current;

static struct {
    struct secret_memory stack;
    bool stack_ordinary;
    pid_t stack_process;  /* a forked child has no page of it */
    uint32_t pkru_offset; /* in an XSAVE area; 0: this processor has no PKRU */
} fault_state;

static const int fault_signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP};

/* Vectors that EXITINFO reports whatever MISCSELECT says (SDM volume 3D, "EXITINFO Vector Information"). */
static bool always_reported(uint16_t vector)
{
    static const uint8_t vectors[] = {0, 1, 3, 5, 6, 16, 17, 19};
    for (size_t i = 0; i < sizeof vectors; i++)
        if (vectors[i] == vector) return true;
    return false;
}

void software_fault_record(struct gate *gate, const struct gate_fault *fault)
{
    struct sgx_gprsgx *saved = (struct sgx_gprsgx *)gate->gprsgx;
    bool extended = (gate->miscselect & 1) && (fault->vector == VECTOR_GP || fault->vector == VECTOR_PF);
    saved->EXITINFO = 0;
    if (extended || always_reported(fault->vector))
        saved->EXITINFO = SGX_EXITINFO_VALID | SGX_EXITINFO_HARDWARE | fault->vector;
    if (extended) {
        uint8_t *exinfo = (uint8_t *)saved - EXINFO_SIZE;
        uint64_t error_code = fault->error_code;
        memcpy(exinfo, &fault->address, sizeof fault->address);
        memcpy(exinfo + 8, &error_code, sizeof error_code);
    }
    saved->GSBASE = gate->gs_base;
    gate->vector = fault->vector;
    gate->error_code = fault->error_code;
    gate->address = fault->address & ~(uint64_t)(SGX_PAGE_SIZE - 1);
    gate->faulted = true;
}

static void save_registers(struct gate *gate, const greg_t *registers)
{
    struct sgx_gprsgx *saved = (struct sgx_gprsgx *)gate->gprsgx;
    saved->RAX = (uint64_t)registers[REG_RAX];
    saved->RCX = (uint64_t)registers[REG_RCX];
    saved->RDX = (uint64_t)registers[REG_RDX];
    saved->RBX = (uint64_t)registers[REG_RBX];
    saved->RSP = (uint64_t)registers[REG_RSP];
    saved->RBP = (uint64_t)registers[REG_RBP];
    saved->RSI = (uint64_t)registers[REG_RSI];
    saved->RDI = (uint64_t)registers[REG_RDI];
    saved->R8 = (uint64_t)registers[REG_R8];
    saved->R9 = (uint64_t)registers[REG_R9];
    saved->R10 = (uint64_t)registers[REG_R10];
    saved->R11 = (uint64_t)registers[REG_R11];
    saved->R12 = (uint64_t)registers[REG_R12];
    saved->R13 = (uint64_t)registers[REG_R13];
    saved->R14 = (uint64_t)registers[REG_R14];
    saved->R15 = (uint64_t)registers[REG_R15];
    saved->RFLAGS = (uint64_t)registers[REG_EFL] & ~(uint64_t)FLAGS_TF;
    saved->RIP = (uint64_t)registers[REG_RIP];
}

/* The frame's XSAVE area has the standard format, like the SSA's. */
static void save_extended(struct gate *gate, const struct _fpx_sw_bytes *software, const uint8_t *area)
{
    uint8_t *saved = (uint8_t *)gate->frame;
    size_t size = gate->xsave_size < software->xstate_size ? gate->xsave_size : software->xstate_size;
    uint64_t components = 0;
    memset(saved, 0, gate->xsave_size);
    memcpy(saved, area, XSAVE_SOFTWARE);
    memcpy(&components, area + XSAVE_LEGACY, sizeof components);
    components &= gate->xfrm;
    memcpy(saved + XSAVE_LEGACY, &components, sizeof components);
    size_t extended = XSAVE_LEGACY + XSAVE_HEADER;
    if (size > extended) memcpy(saved + extended, area + extended, size - extended);
}

/* What the host gets back: initial state, but for PKRU, without which it might not reach its own memory. */
static void reset_extended(const struct _fpx_sw_bytes *software, uint8_t *area)
{
    uint16_t control = FCW_INITIAL;
    uint32_t mxcsr = MXCSR_INITIAL;
    uint64_t components = 0;
    uint32_t pkru = 0;
    uint32_t at = fault_state.pkru_offset;
    size_t extended = XSAVE_LEGACY + XSAVE_HEADER;
    bool has_pkru = at >= extended && at + sizeof pkru <= software->xstate_size;
    memcpy(&components, area + XSAVE_LEGACY, sizeof components);
    components &= has_pkru ? UINT64_C(1) << COMPONENT_PKRU : 0;
    if (has_pkru) memcpy(&pkru, area + at, sizeof pkru);
    wipe(area, XSAVE_SOFTWARE);
    wipe(area + XSAVE_LEGACY, software->xstate_size - XSAVE_LEGACY);
    memcpy(area, &control, sizeof control);
    memcpy(area + XSAVE_MXCSR, &mxcsr, sizeof mxcsr);
    memcpy(area + XSAVE_LEGACY, &components, sizeof components);
    if (has_pkru) memcpy(area + at, &pkru, sizeof pkru);
}

static void handle_extended(struct gate *gate, uint8_t *area)
{
    struct _fpx_sw_bytes software;
    memcpy(&software, area + XSAVE_SOFTWARE, sizeof software);
    if (software.magic1 != FP_XSTATE_MAGIC1 || software.xstate_size < XSAVE_LEGACY + XSAVE_HEADER) abort();
    save_extended(gate, &software, area);
    reset_extended(&software, area);
}

static struct gate_fault fault_of(const greg_t *registers)
{
    struct gate_fault fault = {
        .vector = (uint16_t)registers[REG_TRAPNO],
        .error_code = (uint16_t)registers[REG_ERR],
    };
    if (fault.vector == VECTOR_PF) fault.address = (uint64_t)registers[REG_CR2];
    /* INT3 is illegal in an enclave, unless a debugger opted in. */
    if (fault.vector == VECTOR_BP) fault.vector = VECTOR_UD;
    return fault;
}

static void leave_enclave(struct gate *gate, ucontext_t *context)
{
    greg_t *registers = context->uc_mcontext.gregs;
    struct gate_fault fault = fault_of(registers);
    uint64_t host_flags = 0;
    memcpy(&host_flags, (const uint8_t *)gate->host_rsp + 8, sizeof host_flags);
    save_registers(gate, registers);
    handle_extended(gate, (uint8_t *)context->uc_mcontext.fpregs);
    software_fault_record(gate, &fault);
    for (int i = REG_R8; i <= REG_RCX; i++)
        registers[i] = 0;
    registers[REG_RSP] = (greg_t)gate->host_rsp;
    registers[REG_RBP] = (greg_t)gate->host_rbp;
    registers[REG_RIP] = (greg_t)(uintptr_t)software_gate_unwind;
    registers[REG_EFL] = (greg_t)host_flags;
    registers[REG_CR2] = 0;
    gate->inside = 0;
}

__attribute__((no_stack_protector)) static long thread_id(void)
{
    long id = SYS_gettid;
    __asm__ volatile("syscall" : "+a"(id) : : "rcx", "r11", "memory");
    return id;
}

__attribute__((no_stack_protector)) static void restore_fs(struct gate *gate)
{
    uint64_t inside_fs = 0;
    if (gate->fs_base == 0) return;
    __asm__ volatile("rdfsbase %0" : "=r"(inside_fs));
    __asm__ volatile("wrfsbase %0" : : "r"(gate->host_fs));
    ((struct sgx_gprsgx *)gate->gprsgx)->FSBASE = inside_fs;
}

/* A fault that is not an enclave's stays what it would be without us. */
static void give_up(int signal)
{
    struct sigaction action = {.sa_handler = SIG_DFL};
    sigaction(signal, &action, NULL);
    raise(signal); /* blocked until the handler has returned */
}

__attribute__((no_stack_protector)) void software_fault_handler(int signal, void *info, void *context)
{
    struct gate *gate = software_gate_current;
    /* si_code <= 0: sent by a process, not by the processor */
    bool inside = gate && gate->inside && gate->thread == (uint64_t)thread_id();
    if (inside) restore_fs(gate);
    if (inside && ((siginfo_t *)info)->si_code > 0)
        leave_enclave(gate, context);
    else
        give_up(signal);
}

static struct err install_handlers(void)
{
    struct sigaction action = {.sa_flags = SA_SIGINFO | SA_ONSTACK};
    action.sa_handler = software_fault_entry; /* takes all three arguments */
    sigfillset(&action.sa_mask);
    for (size_t i = 0; i < sizeof fault_signals / sizeof *fault_signals; i++)
        ENSURE(sigaction(fault_signals[i], &action, NULL) == 0, SYSTEM);
    return OK;
}

struct err software_fault_install(bool ordinary_memory)
{
    unsigned int eax = 0, ebx = 0, ecx = 0, edx = 0;
    bool usable = fault_state.stack.data && fault_state.stack_process == getpid();
    /* A thread may still have the old stack: it stays mapped. */
    if (!usable || (fault_state.stack_ordinary && !ordinary_memory)) {
        size_t frame = getauxval(AT_MINSIGSTKSZ);
        TRY(secret_memory_open(frame + HANDLER_STACK, ordinary_memory, &fault_state.stack));
        fault_state.stack_ordinary = ordinary_memory;
        fault_state.stack_process = getpid();
        if (__get_cpuid_count(0x0D, COMPONENT_PKRU, &eax, &ebx, &ecx, &edx) && eax) fault_state.pkru_offset = ebx;
    }
    return install_handlers();
}

struct err software_fault_thread(void)
{
    stack_t stack = {.ss_sp = fault_state.stack.data, .ss_size = fault_state.stack.size};
    sigset_t faults;
    sigemptyset(&faults);
    for (size_t i = 0; i < sizeof fault_signals / sizeof *fault_signals; i++)
        sigaddset(&faults, fault_signals[i]);
    ENSURE(sigaltstack(&stack, NULL) == 0, SYSTEM);
    ENSURE(pthread_sigmask(SIG_UNBLOCK, &faults, NULL) == 0, SYSTEM);
    return OK;
}
