#include "tests/fakes/fake_sgx_inner.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "untrusted/host/log.h"
#include "untrusted/sgx/cpu_client.h"
#include "untrusted/sgx/sealed.h"
#include "untrusted/sgx/software.h"

static void must(const char *what, struct err result)
{
    if (!result.code) return;
    log_line(LOG_LEVEL_ERROR, "behind the fake SGX driver: %s: %s", what, err_sentence(result));
    abort();
}

static bool all_zero(const uint8_t page[SGX_PAGE_SIZE])
{
    for (size_t i = 0; i < SGX_PAGE_SIZE; i++)
        if (page[i]) return false;
    return true;
}

/* Code and a TCS are wanted in the file, even where they are zero. */
static bool needs_content(const struct sgx_secinfo *secinfo, const uint8_t *content)
{
    return secinfo->FLAGS == SGX_SECINFO_TCS || secinfo->FLAGS & SGX_SECINFO_X || !all_zero(content);
}

/* The run that this page goes on with, or a new one. */
static struct device_pages *run_of(struct fake_sgx_inner *inner, const struct device_pages *page)
{
    struct device_pages *last = inner->run_count ? &inner->runs[inner->run_count - 1] : NULL;
    if (last && last->offset + last->length == page->offset && last->secinfo.FLAGS == page->secinfo.FLAGS &&
        last->measured == page->measured && (last->file_offset || !page->file_offset))
        return last;
    must("its pages", inner->run_count < IMAGE_SEGMENTS_MAX ? OK : FAIL(TOO_LARGE));
    inner->runs[inner->run_count] = *page;
    return &inner->runs[inner->run_count++];
}

void fake_sgx_inner_add(struct fake_sgx_inner *inner, uint64_t offset, const struct sgx_secinfo *secinfo, bool measured,
                        const uint8_t *content)
{
    struct device_pages page = {.offset = offset, .secinfo = *secinfo, .measured = measured};
    if (!inner->content_size) {
        inner->content_fd = memfd_create("fake-sgx-pages", MFD_CLOEXEC);
        inner->content_size = SGX_PAGE_SIZE; /* no content lies at 0 */
    }
    if (needs_content(secinfo, content)) page.file_offset = inner->content_size;
    struct device_pages *run = run_of(inner, &page);
    run->length += SGX_PAGE_SIZE;
    if (!run->file_offset) return;
    ssize_t size = pwrite(inner->content_fd, content, SGX_PAGE_SIZE, (off_t)inner->content_size);
    must("its pages", size == SGX_PAGE_SIZE ? OK : FAIL(SYSTEM));
    inner->content_size += SGX_PAGE_SIZE;
    if (secinfo->FLAGS & SGX_SECINFO_X && memcmp(content, image_stub, IMAGE_STUB_SIZE) == 0)
        inner->stub_offset = offset;
}

static void seal(struct fake_sgx_inner *inner, int *out_fd)
{
    int fd = -1;
    must("its pages", sealed_copy(inner->content_fd, inner->content_size, &fd));
    must("its pages", sealed_reopen(fd, out_fd));
    close(fd);
    close(inner->content_fd);
    inner->content_fd = -1;
}

void fake_sgx_inner_start(struct fake_sgx_inner *inner, const char *cpu, bool ordinary_memory)
{
    const struct image image = {.stub_offset = inner->stub_offset};
    struct software_options options = {.ordinary_memory = ordinary_memory};
    struct device *device = NULL;
    seal(inner, &options.image_fd);
    must("its processor", cpu_connect(cpu, &options.cpu_fd));
    must("its device", software_device_open(&options, &image, &device));
    must("ECREATE", device->ops->create(device, &inner->secs));
    for (size_t i = 0; i < inner->run_count; i++)
        must("EADD", device->ops->add_pages(device, &inner->runs[i]));
    must("EINIT", device->ops->init(device, &inner->sigstruct));
    close(options.image_fd);
    inner->device = device;
}

void fake_sgx_inner_close(struct fake_sgx_inner *inner)
{
    if (inner->device) inner->device->ops->destroy(inner->device);
    if (inner->content_size && inner->content_fd >= 0) close(inner->content_fd);
    *inner = (struct fake_sgx_inner){.content_fd = -1};
}
