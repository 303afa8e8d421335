/* For a vtpm-cpu that is compiled after this: one that says of itself that it is no software device's. */
#pragma once

#include "untrusted/sgx/cpu_wire.h"

#undef CPU_CPUSVN
#define CPU_CPUSVN "fake hardware\0\0\1"
