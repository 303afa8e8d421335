#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <netinet/in.h>

#include "untrusted/front/address.h"

static struct address parse(const char *text)
{
    struct address address;
    assert_int_equal(address_parse(text, &address).code, ERR_NONE);
    return address;
}

static const struct sockaddr_in *four(const struct address *address)
{
    assert_int_equal(address->socket.generic.sa_family, AF_INET);
    return (const struct sockaddr_in *)&address->socket.storage;
}

static void tcp_is_loopback_by_default(void **state)
{
    (void)state;
    struct address address = parse("tcp:2321");
    assert_int_equal(ntohl(four(&address)->sin_addr.s_addr), INADDR_LOOPBACK);
    assert_int_equal(ntohs(four(&address)->sin_port), 2321);
}

static void tcp_with_an_address(void **state)
{
    (void)state;
    struct address address = parse("tcp:10.0.0.1:1");
    assert_int_equal(ntohl(four(&address)->sin_addr.s_addr), 0x0a000001);
    address = parse("tcp:[::1]:65534");
    assert_int_equal(address.socket.generic.sa_family, AF_INET6);
}

static void an_address_is_told_as_it_is_taken(void **state)
{
    (void)state;
    const char *texts[] = {"tcp:127.0.0.1:2321", "tcp:[::1]:65534", "unix:/run/x"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        const struct address address = parse(texts[i]);
        char told[ADDRESS_TEXT_SIZE];
        address_format(&address, told);
        assert_string_equal(told, texts[i]);
    }
}

static void nonsense_is_refused(void **state)
{
    (void)state;
    const char *texts[] = {"",         "tcp:",       "tcp:0",           "tcp:65536",      "tcp:1x", "tcp:-1",
                           "tcp: 1",   "tcp::1",     "tcp:localhost:1", "unix:",          "udp:1",  "/run/x",
                           "tcp:[]:1", "tcp:[::1:1", "tcp:1.2.3:1",     "tcp:[1.2.3.4]:1"};
    struct address address;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        if (address_parse(texts[i], &address).code != ERR_BAD_VALUE) fail_msg("%s was taken", texts[i]);
}

static void a_path_that_no_socket_can_have_is_refused(void **state)
{
    (void)state;
    char text[200] = "unix:/";
    memset(text + 6, 'a', 120);
    struct address address;
    assert_int_equal(address_parse(text, &address).code, ERR_TOO_LARGE);
    text[5 + 105] = '\0'; /* it fits itself, its control socket does not */
    address = parse(text);
    assert_int_equal(address_beside(&address, ".ctrl", &address).code, ERR_TOO_LARGE);
}

static void beside_is_the_next_port_or_the_suffix(void **state)
{
    (void)state;
    struct address address = parse("tcp:2321");
    assert_int_equal(address_beside(&address, ".ctrl", &address).code, ERR_NONE);
    assert_int_equal(ntohs(four(&address)->sin_port), 2322);
    address = parse("unix:/run/x");
    assert_int_equal(address_beside(&address, ".ctrl", &address).code, ERR_NONE);
    assert_string_equal(address.socket.local.sun_path, "/run/x.ctrl");
    address = parse("tcp:65535");
    assert_int_equal(address_beside(&address, ".ctrl", &address).code, ERR_BAD_VALUE);
}

static char directory[] = "/tmp/address-test-XXXXXX";
static char text[64];

static int make_directory(void **state)
{
    (void)state;
    if (!mkdtemp(directory)) return -1;
    snprintf(text, sizeof text, "unix:%s/s", directory);
    return 0;
}

static int remove_directory(void **state)
{
    (void)state;
    return rmdir(directory);
}

static void a_unix_socket_is_its_owners(void **state)
{
    (void)state;
    struct address address = parse(text);
    struct stat status;
    int fd = -1;
    assert_int_equal(address_listen(&address, getuid(), getgid(), &fd).code, ERR_NONE);
    assert_int_equal(stat(address.socket.local.sun_path, &status), 0);
    assert_int_equal(status.st_mode & 07777, 0600);
    close(fd);
    address_remove(&address);
    assert_int_not_equal(stat(address.socket.local.sun_path, &status), 0);
}

static void a_socket_left_behind_is_replaced(void **state)
{
    (void)state;
    struct address address = parse(text);
    int fd = -1;
    assert_int_equal(address_listen(&address, getuid(), getgid(), &fd).code, ERR_NONE);
    close(fd);
    assert_int_equal(address_listen(&address, getuid(), getgid(), &fd).code, ERR_NONE);
    close(fd);
    address_remove(&address);
}

static void a_socket_that_is_served_is_not_replaced(void **state)
{
    (void)state;
    struct address address = parse(text);
    int first = -1;
    int second = -1;
    assert_int_equal(address_listen(&address, getuid(), getgid(), &first).code, ERR_NONE);
    assert_int_equal(address_listen(&address, getuid(), getgid(), &second).code, ERR_SYSTEM);
    close(first);
    address_remove(&address);
}

static void a_file_that_is_no_socket_is_not_replaced(void **state)
{
    (void)state;
    struct address address = parse(text);
    int fd = -1;
    FILE *file = fopen(address.socket.local.sun_path, "w");
    assert_non_null(file);
    fclose(file);
    assert_int_equal(address_listen(&address, getuid(), getgid(), &fd).code, ERR_SYSTEM);
    assert_int_equal(access(address.socket.local.sun_path, F_OK), 0);
    unlink(address.socket.local.sun_path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tcp_is_loopback_by_default),
        cmocka_unit_test(tcp_with_an_address),
        cmocka_unit_test(an_address_is_told_as_it_is_taken),
        cmocka_unit_test(nonsense_is_refused),
        cmocka_unit_test(a_path_that_no_socket_can_have_is_refused),
        cmocka_unit_test(beside_is_the_next_port_or_the_suffix),
        cmocka_unit_test(a_unix_socket_is_its_owners),
        cmocka_unit_test(a_socket_left_behind_is_replaced),
        cmocka_unit_test(a_socket_that_is_served_is_not_replaced),
        cmocka_unit_test(a_file_that_is_no_socket_is_not_replaced),
    };
    return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
