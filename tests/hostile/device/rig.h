/*
 * A vtpm-cpu of the test's own and the probe enclave on one of the two devices. Whatever does not work on the way there
 * fails the test.
 *
 * The kernel's device has the driver of tests/fakes/fake_sgx.h, and is entered through it: what runs behind it is the
 * probe on the software device.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "abi/sgx.h"
#include "untrusted/sgx/device.h"
#include "untrusted/sgx/image.h"

struct rig {
    char directory[64];
    char socket[96];
    pid_t cpu;
    int image_fd; /* sealed */
    struct image image;
    struct image shown;    /* what a kernel's device reads, mapped anew from image_fd */
    struct device *device; /* NULL: none is open */
    uint64_t tcs_offset;
};

/* What is under test; main() sets it from its arguments. */
extern const char *rig_cpu_program;
extern const char *rig_image_path;
extern const char *rig_other_image_path; /* of the same probe, signed with another key */

extern bool rig_is_sgx; /* the kernel's device is under test */

/* argv: vtpm-cpu, the probe's image, the other one, the name of the device. */
void rig_arguments(int argc, char **argv);

/* Starts vtpm-cpu, seals the image, opens no device. */
void rig_start(struct rig *rig);
/* Ends what rig_start and rig_open made. */
void rig_stop(struct rig *rig);

/* A device over the rig's image on a connection of its own. */
struct err rig_device(struct rig *rig, bool ordinary_memory, struct device **out_device);
/* The ADD_PAGES of a segment. */
struct device_pages rig_pages(const struct image_segment *segment);
/* CREATE and ADD_PAGES of the rig's image. Changes to secs come from change, which may be NULL. */
struct err rig_build(struct rig *rig, struct device *device, void (*change)(struct sgx_secs *secs));
/* A running probe. */
void rig_open(struct rig *rig);

/* One entry that must come back by EEXIT; returns RDI. */
uint64_t rig_call(struct rig *rig, uint64_t request, uint64_t a, uint64_t b, uint64_t c, uint64_t d);
/* One entry that may do anything. */
struct err rig_enter(struct rig *rig, uint64_t request, uint64_t a, uint64_t b, struct device_run *out_run);

/* Runs body in a child; returns its wait status. */
int rig_child(void (*body)(void *ctx), void *ctx);

/* The content of a file of /proc/self, as a string to be freed. */
char *rig_read_proc(const char *path);
