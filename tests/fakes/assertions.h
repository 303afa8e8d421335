/* cmocka wants these before itself. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/err.h"

#define assert_ok(call)        assert_int_equal((call).code, ERR_NONE)
#define assert_err(call, name) assert_int_equal((call).code, ERR_##name)
