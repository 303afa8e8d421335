/*
 * An enclave that is being built: the sealed image it comes from, what was added in which order, and its measurement.
 * And the images: copies that nobody can change any more, which all enclaves of one file share.
 *
 * Guarantees: what is measured is what a process maps, because both are the same sealed memory, and the seals were
 * checked here; a remembered measurement is only used for the very memory it was made over, which is held open here,
 * and for the very same sequence of CREATE and ADD_PAGES.
 * Not guaranteed: that a copy is of the newest content of its file. A client that wants to mislead can only mislead
 * itself: what comes back is what is measured. A client that may connect can also hold up the others for as long as a
 * read of its file takes.
 */
#pragma once

#include <stdbool.h>
#include <sys/stat.h>

#include "base/err.h"
#include "untrusted/cpu/processor.h"
#include "untrusted/sgx/device.h"
#include "untrusted/sgx/image.h"

#define BUILD_IMAGES_MAX 4u

/* One run of pages, as it goes into the measurement. No padding: transcripts are compared as bytes. */
struct build_run {
    uint64_t offset, length, file_offset, secinfo_flags, measured;
};

struct build_transcript {
    uint64_t ssaframesize, size, run_count;
    struct build_run runs[IMAGE_SEGMENTS_MAX];
};

struct build {
    int image_fd; /* owned; -1: none */
    uint64_t image_size;
    struct build_transcript transcript;
};

struct build_image {
    int fd;             /* owned */
    struct stat source; /* of the file it was copied from */
    struct stat sealed; /* of the copy */
    uint64_t used;      /* turn of the last use; 0: the entry is free */
    bool measured;      /* the two below are set */
    struct build_transcript transcript;
    uint8_t mrenclave[SGX_HASH_SIZE];
};

struct build_images {
    uint64_t turn;
    struct build_image images[BUILD_IMAGES_MAX];
};

/*
 * The sealed copy of an image file; out_fd stays owned by images. ERR_IMAGE_MAGIC (not a regular file that can be
 * read), ERR_TOO_LARGE, ERR_NO_MEMORY, ERR_SYSTEM.
 */
struct err build_seal(struct build_images *images, int file_fd, int *out_fd);

/* CREATE: takes image_fd over when it succeeds. ERR_IMAGE_UNSEALED. */
struct err build_start(struct build *build, const struct sgx_secs *secs, int image_fd);

/* ADD_PAGES: checks the run against the image, adds its pages to the enclave. ERR_SGX_SECINFO, ERR_TOO_LARGE. */
struct err build_add(struct build *build, struct processor_enclave *enclave, const struct device_pages *pages);

/* MRENCLAVE of what was added. ERR_SYSTEM, ERR_CRYPTO. */
struct err build_measure(const struct build *build, struct build_images *images, uint8_t out_mrenclave[SGX_HASH_SIZE]);

void build_close(struct build *build);
void build_images_close(struct build_images *images);
