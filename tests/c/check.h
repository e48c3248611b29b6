/* CHECK(condition) ends the test process with a message when the condition does not hold. */
#ifndef CHECK_H
#define CHECK_H

#include <stdio.h>
#include <stdlib.h>

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: %s: CHECK(%s)\n", __FILE__, __LINE__, __func__, #condition);                       \
            _Exit(1);                                                                                                  \
        }                                                                                                              \
    } while (0)

/* Is this a build with AddressSanitizer or ThreadSanitizer? */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define CHECK_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define CHECK_SANITIZER 1
#endif
#endif
#ifndef CHECK_SANITIZER
#define CHECK_SANITIZER 0
#endif

#endif
