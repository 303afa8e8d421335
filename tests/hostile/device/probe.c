/*
 * An enclave that does what it is asked, every wrong thing included: it shows what the device makes of it. It trusts
 * its host completely and reads and writes wherever the host says.
 */
#include "tests/hostile/device/probe.h"

#include "abi/sgx.h"

#pragma GCC visibility push(hidden)
extern char probe_base[], probe_code_page[], probe_constants[], probe_guard[], probe_tcs[], probe_ssa[];
extern struct probe_state probe_entry_state;
uint64_t probe_enclu(uint64_t leaf, const void *rbx, const void *rcx, const void *rdx);
uint64_t probe_preserve(const void *keyrequest, void *key);
void probe_hold(volatile uint32_t *flag, volatile uint32_t *wait, uint64_t value);
_Noreturn void probe_spoil(void);
_Noreturn void probe_eexit_elsewhere(void);
_Noreturn void probe_eexit_stack(void);
uint64_t probe_main(uint64_t request, uint64_t a, uint64_t b, uint64_t c, uint64_t d);
void __stack_chk_fail(void);
void *memcpy(void *restrict to, const void *restrict from, size_t size);
void *memset(void *to, int value, size_t size);
#pragma GCC visibility pop

static _Alignas(4096) uint8_t buffer[4096];
static struct sgx_targetinfo targetinfo;
static _Alignas(128) uint8_t reportdata[SGX_REPORTDATA_SIZE];
static struct sgx_report report;
static struct sgx_keyrequest keyrequest;
static _Alignas(16) uint8_t key[SGX_KEY_SIZE];
static uint8_t secret[64];
static const uint64_t constant = 0x1122334455667788;

void __stack_chk_fail(void)
{
    __asm__ volatile("ud2");
}

void *memcpy(void *restrict to, const void *restrict from, size_t size)
{
    void *result = to;
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size) : : "memory");
    return result;
}

void *memset(void *to, int value, size_t size)
{
    void *result = to;
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(size) : "a"(value) : "memory");
    return result;
}

static uint64_t fault(uint64_t kind)
{
    volatile uint32_t zero = 0;
    switch ((enum probe_fault)kind) {
    case FAULT_UD2:
        __asm__ volatile("ud2");
        break;
    case FAULT_INT3:
        __asm__ volatile("int3");
        break;
    case FAULT_LOAD_NULL:
        __asm__ volatile("movl 0x123, %%eax" : : : "eax");
        break;
    case FAULT_DIVIDE:
        __asm__ volatile("xorl %%edx, %%edx; movl $1, %%eax; divl %0" : : "m"(zero) : "eax", "edx");
        break;
    case FAULT_WRITE_CODE:
        *(volatile uint8_t *)probe_base = 0;
        break;
    case FAULT_WRITE_CONSTANT:
        *(volatile uint64_t *)(uintptr_t)&constant = 0;
        break;
    case FAULT_READ_TCS:
        (void)*(volatile uint8_t *)probe_tcs;
        break;
    case FAULT_READ_GUARD:
        (void)*(volatile uint8_t *)probe_guard;
        break;
    case FAULT_ENCLU:
        __asm__ volatile("enclu" : : "a"(SGX_EGETKEY), "b"(&keyrequest), "c"(key));
        break;
    case FAULT_JUMP_NULL:
        __asm__ volatile("xorl %%eax, %%eax; call *%%rax" : : : "rax");
        break;
    case FAULT_EXECUTE_DATA:
        buffer[0] = 0xC3;
        __asm__ volatile("call *%0" : : "r"(buffer));
        break;
    case FAULT_SYSCALL:
        __asm__ volatile("syscall" : : "a"(39) : "rcx", "r11");
        break;
    case FAULT_EEXIT_ELSEWHERE:
        probe_eexit_elsewhere();
    case FAULT_EEXIT_STACK:
        probe_eexit_stack();
    case FAULT_MISALIGNED:
        __asm__ volatile("pushfq; orl $0x40000, (%%rsp); popfq; movl 1(%0), %%eax" : : "r"(buffer) : "eax");
        break;
    case FAULT_STACK:
        __asm__ volatile("movabsq $0x10000, %%rsp; pushq %%rax" : : : "memory");
        break;
    }
    return 0;
}

static uint64_t ereport(const uint8_t *in, void *out)
{
    memcpy(&targetinfo, in, sizeof targetinfo);
    memcpy(reportdata, in + sizeof targetinfo, sizeof reportdata);
    uint64_t rax = probe_enclu(SGX_EREPORT, &targetinfo, reportdata, &report);
    memcpy(out, &report, SGX_REPORT_SIZE);
    return rax;
}

static uint64_t egetkey(const void *in, void *out)
{
    memcpy(&keyrequest, in, sizeof keyrequest);
    memset(key, 0xEE, sizeof key);
    uint64_t rax = probe_enclu(SGX_EGETKEY, &keyrequest, key, NULL);
    memcpy(out, key, sizeof key);
    return rax;
}

static uint64_t address_of(uint64_t place)
{
    switch ((enum probe_place)place) {
    case PLACE_BASE:
        return (uint64_t)probe_base;
    case PLACE_CONSTANTS:
        return (uint64_t)probe_constants;
    case PLACE_GUARD:
        return (uint64_t)probe_guard;
    case PLACE_TCS:
        return (uint64_t)probe_tcs;
    case PLACE_SSA:
        return (uint64_t)probe_ssa;
    case PLACE_CODE:
        return (uint64_t)probe_code_page;
    case PLACE_BUFFER:
        return (uint64_t)buffer;
    }
    return 0;
}

static uint64_t keep_secret(uint64_t pattern)
{
    for (size_t i = 0; i < sizeof secret; i++)
        secret[i] = (uint8_t)(pattern >> (8 * (i % 8))) ^ 0xA5;
    return (uint64_t)secret;
}

static __attribute__((noinline)) void protected_function(volatile uint64_t *counter)
{
    volatile uint8_t local[16];
    local[*counter % sizeof local] = 1;
    *counter += local[*counter % sizeof local];
}

static uint64_t use_canaries(uint64_t millions)
{
    volatile uint64_t counter = 0;
    for (uint64_t i = 0; i < millions * 1000000; i++)
        protected_function(&counter);
    return counter;
}

static uint64_t spin(volatile uint32_t *flag, const volatile uint32_t *wait)
{
    *flag = 1;
    while (*wait == 0)
        __asm__ volatile("pause");
    return 0;
}

static uint64_t canary(void)
{
    uint64_t value = 0;
    __asm__ volatile("movq %%fs:0x28, %0" : "=r"(value));
    return value;
}

uint64_t probe_main(uint64_t request, uint64_t a, uint64_t b, uint64_t c, uint64_t d)
{
    switch ((enum probe_request)request) {
    case PROBE_ECHO:
        return a + b + c + d;
    case PROBE_FAULT:
        return fault(a);
    case PROBE_EREPORT:
        return ereport((const uint8_t *)a, (void *)b);
    case PROBE_EGETKEY:
        return egetkey((const void *)a, (void *)b);
    case PROBE_LEAF:
        return probe_enclu(a, (const void *)b, (const void *)c, (const void *)d);
    case PROBE_SPIN:
        return spin((volatile uint32_t *)a, (const volatile uint32_t *)b);
    case PROBE_ENTRY_STATE:
        memcpy((void *)a, &probe_entry_state, sizeof probe_entry_state);
        return 0;
    case PROBE_ADDRESS:
        return address_of(a);
    case PROBE_SECRET:
        return keep_secret(a);
    case PROBE_PRESERVE:
        memcpy(&keyrequest, (const void *)a, sizeof keyrequest);
        return probe_preserve(&keyrequest, key);
    case PROBE_CANARIES:
        return use_canaries(a);
    case PROBE_HOLD_REGISTER:
        probe_hold((volatile uint32_t *)a, (volatile uint32_t *)b, c);
        return 0;
    case PROBE_SPOIL:
        probe_spoil();
    case PROBE_SSA:
        memcpy((void *)a, probe_ssa + SGX_PAGE_SIZE - 200, 200);
        return 0;
    case PROBE_HOST_CANARY:
        return canary();
    }
    return 0;
}
