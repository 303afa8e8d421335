/* Numbers that gate.S shares with C. software_gate.h asserts that they are right. */
#pragma once

/* struct gate */
#define GATE_ENTRY       0
#define GATE_TCS         8
#define GATE_AEP         16
#define GATE_FRAME       24
#define GATE_GPRSGX      32
#define GATE_XFRM        40
#define GATE_FS_BASE     48
#define GATE_HOST_FS     56
#define GATE_HOST_RSP    64
#define GATE_HOST_RBP    72
#define GATE_INSIDE      80
#define GATE_LEAF        88
#define GATE_RDI         96
#define GATE_RSI         104
#define GATE_RDX         112
#define GATE_R8          120
#define GATE_R9          128

/* struct sgx_gprsgx */
#define GPRSGX_RAX       0
#define GPRSGX_RCX       8
#define GPRSGX_RDX       16
#define GPRSGX_RBX       24
#define GPRSGX_RSP       32
#define GPRSGX_RBP       40
#define GPRSGX_RSI       48
#define GPRSGX_RDI       56
#define GPRSGX_R8        64
#define GPRSGX_R9        72
#define GPRSGX_R10       80
#define GPRSGX_R11       88
#define GPRSGX_R12       96
#define GPRSGX_R13       104
#define GPRSGX_R14       112
#define GPRSGX_R15       120
#define GPRSGX_RFLAGS    128
#define GPRSGX_URSP      144
#define GPRSGX_URBP      152
#define GPRSGX_FSBASE    168

#define SGX_LEAF_EEXIT   4

/* RFLAGS */
#define FLAGS_ARITHMETIC 0x8D5 /* CF PF AF ZF SF OF */
#define FLAGS_ZF         0x40
#define FLAGS_TF         0x100
#define FLAGS_AC         0x40000
