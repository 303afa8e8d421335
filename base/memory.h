/* Memory that holds secrets: erasing it so that no compiler leaves it out, comparing it in constant time. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

/* Overwrites size bytes with zeros; the compiler may not drop it. data may be NULL when size is 0. */
void wipe(void *data, size_t size);

/* True if the size bytes are equal. The time depends on size alone. */
[[nodiscard]] bool ct_equal(const void *a, const void *b, size_t size);
