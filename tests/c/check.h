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

#endif
