#include "untrusted/cpu/build.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/checked.h"
#include "untrusted/sgx/measure.h"
#include "untrusted/sgx/sealed.h"

static bool same_file(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size &&
           memcmp(&a->st_mtim, &b->st_mtim, sizeof a->st_mtim) == 0 &&
           memcmp(&a->st_ctim, &b->st_ctim, sizeof a->st_ctim) == 0;
}

static struct err pread_all(int fd, void *out, size_t size, uint64_t offset)
{
    for (size_t done = 0; done < size;) {
        ssize_t count = pread(fd, (uint8_t *)out + done, size - done, (off_t)(offset + done));
        if (count < 0 && errno == EINTR) continue;
        ENSURE(count > 0, SYSTEM);
        done += (size_t)count;
    }
    return OK;
}

static void close_fd(const int *fd)
{
    if (*fd >= 0) close(*fd);
}

static bool image_in_use(const struct build_image *image)
{
    return image->used > 0;
}

static void image_drop(struct build_image *image)
{
    if (image_in_use(image)) close(image->fd);
    memset(image, 0, sizeof *image);
}

/* The entry that was not used for the longest time, or never. */
static struct build_image *image_slot(struct build_images *images)
{
    struct build_image *oldest = &images->images[0];
    for (size_t i = 1; i < BUILD_IMAGES_MAX; i++)
        if (images->images[i].used < oldest->used) oldest = &images->images[i];
    return oldest;
}

struct err build_seal(struct build_images *images, int file_fd, int *out_fd)
{
    struct stat source;
    int flags = fcntl(file_fd, F_GETFL);
    ENSURE(flags >= 0 && fstat(file_fd, &source) == 0, SYSTEM);
    /* O_PATH and write-only descriptors must not get what their holder could not read. */
    bool readable = S_ISREG(source.st_mode) && (flags & O_ACCMODE) != O_WRONLY && !(flags & O_PATH);
    if (!readable || source.st_size <= 0) return (struct err){ERR_IMAGE_MAGIC};
    ENSURE((uint64_t)source.st_size <= IMAGE_SIZE_MAX, TOO_LARGE);
    images->turn++;
    for (size_t i = 0; i < BUILD_IMAGES_MAX; i++) {
        struct build_image *image = &images->images[i];
        if (!image_in_use(image) || !same_file(&image->source, &source)) continue;
        image->used = images->turn;
        *out_fd = image->fd;
        return OK;
    }
    int fd DEFER(close_fd) = -1;
    struct stat sealed;
    TRY(sealed_copy(file_fd, (uint64_t)source.st_size, &fd));
    ENSURE(fstat(fd, &sealed) == 0, SYSTEM);
    struct build_image *image = image_slot(images);
    image_drop(image);
    *image = (struct build_image){.fd = fd, .source = source, .sealed = sealed, .used = images->turn};
    *out_fd = fd;
    fd = -1;
    return OK;
}

struct err build_start(struct build *build, const struct sgx_secs *secs, int image_fd)
{
    struct stat status;
    int needed = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;
    int seals = fcntl(image_fd, F_GET_SEALS);
    ENSURE(seals >= 0 && (seals & needed) == needed, IMAGE_UNSEALED);
    ENSURE(fstat(image_fd, &status) == 0 && status.st_size >= 0, SYSTEM);
    memset(build, 0, sizeof *build);
    build->image_fd = image_fd;
    build->image_size = (uint64_t)status.st_size;
    build->transcript.ssaframesize = secs->SSAFRAMESIZE;
    build->transcript.size = secs->SIZE;
    return OK;
}

static struct err page_content(const struct build *build, const struct build_run *run, uint64_t position,
                               uint8_t out_page[SGX_PAGE_SIZE])
{
    if (run->file_offset) return pread_all(build->image_fd, out_page, SGX_PAGE_SIZE, run->file_offset + position);
    memset(out_page, 0, SGX_PAGE_SIZE);
    return OK;
}

static struct err check_run(const struct build *build, const struct build_run *run)
{
    uint64_t end = 0;
    ENSURE(run->length > 0 && run->length % SGX_PAGE_SIZE == 0 && run->measured <= 1, SGX_SECINFO);
    ENSURE(checked_add(run->offset, run->length, &end) && end <= build->transcript.size, SGX_SECINFO);
    if (run->file_offset == 0) return OK;
    ENSURE(run->file_offset % SGX_PAGE_SIZE == 0, SGX_SECINFO);
    ENSURE(checked_add(run->file_offset, run->length, &end) && end <= build->image_size, SGX_SECINFO);
    return OK;
}

struct err build_add(struct build *build, struct processor_enclave *enclave, const struct device_pages *pages)
{
    struct build_transcript *transcript = &build->transcript;
    struct build_run run = {
        .offset = pages->offset,
        .length = pages->length,
        .file_offset = pages->file_offset,
        .secinfo_flags = pages->secinfo.FLAGS,
        .measured = pages->measured,
    };
    ENSURE(transcript->run_count < IMAGE_SEGMENTS_MAX, TOO_LARGE);
    TRY(check_run(build, &run));
    bool tcs = run.secinfo_flags == SGX_SECINFO_TCS;
    uint8_t content[SGX_PAGE_SIZE];
    for (uint64_t position = 0; position < run.length; position += SGX_PAGE_SIZE) {
        if (tcs) TRY(page_content(build, &run, position, content));
        TRY(processor_eadd(enclave, run.offset + position, &pages->secinfo, tcs ? content : NULL));
    }
    transcript->runs[transcript->run_count++] = run;
    return OK;
}

static struct err measure_run(const struct build *build, const struct build_run *run, struct measurement *measurement)
{
    uint8_t content[SGX_PAGE_SIZE];
    for (uint64_t position = 0; position < run->length; position += SGX_PAGE_SIZE) {
        TRY(measurement_add(measurement, run->offset + position, run->secinfo_flags));
        if (!run->measured) continue;
        TRY(page_content(build, run, position, content));
        TRY(measurement_extend_page(measurement, run->offset + position, content));
    }
    return OK;
}

static struct err measure(const struct build *build, uint8_t out_mrenclave[SGX_HASH_SIZE])
{
    const struct build_transcript *transcript = &build->transcript;
    struct measurement *measurement DEFER(measurement_close) = NULL;
    TRY(measurement_create((uint32_t)transcript->ssaframesize, transcript->size, &measurement));
    for (uint64_t i = 0; i < transcript->run_count; i++)
        TRY(measure_run(build, &transcript->runs[i], measurement));
    return measurement_finish(measurement, out_mrenclave);
}

static struct build_image *image_of(struct build_images *images, int fd)
{
    struct stat status;
    if (fstat(fd, &status) != 0) return NULL;
    for (size_t i = 0; i < BUILD_IMAGES_MAX; i++) {
        struct build_image *image = &images->images[i];
        if (image_in_use(image) && image->sealed.st_dev == status.st_dev && image->sealed.st_ino == status.st_ino)
            return image;
    }
    return NULL;
}

struct err build_measure(const struct build *build, struct build_images *images, uint8_t out_mrenclave[SGX_HASH_SIZE])
{
    struct build_image *image = image_of(images, build->image_fd);
    if (image && image->measured && memcmp(&image->transcript, &build->transcript, sizeof image->transcript) == 0) {
        memcpy(out_mrenclave, image->mrenclave, SGX_HASH_SIZE);
        return OK;
    }
    TRY(measure(build, out_mrenclave));
    if (!image) return OK;
    image->transcript = build->transcript;
    memcpy(image->mrenclave, out_mrenclave, SGX_HASH_SIZE);
    image->measured = true;
    return OK;
}

void build_close(struct build *build)
{
    if (build->image_fd >= 0) close(build->image_fd);
    build->image_fd = -1;
}

void build_images_close(struct build_images *images)
{
    for (size_t i = 0; i < BUILD_IMAGES_MAX; i++)
        image_drop(&images->images[i]);
}
