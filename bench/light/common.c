#define _GNU_SOURCE
#include "light.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

/* -- http */

const char *field(const char *head, const char *name) {
    size_t length = strlen(name);
    for (const char *line = strstr(head, "\r\n"); line != NULL; line = strstr(line, "\r\n")) {
        line += 2;
        if (!strncasecmp(line, name, length) && line[length] == ':') {
            line += length + 1;
            return line + strspn(line, " \t");
        }
    }
    return NULL;
}

int status_of(const char *head) {
    return head != NULL && strlen(head) > 9 ? atoi(head + 9) : 0;
}

void place_of(const char *head, const char *name, long long *first, long long *last) {
    const char *value = field(head, name);
    if (value != NULL && sscanf(value, "bytes%*1[= ]%lld-%lld", first, last) < 1) *first = 0;
}

/* -- what images hold */

static char pattern[PATTERN + PIECE];

void pattern_make(void) {
    unsigned state = 2463534242;
    for (size_t i = 0; i < PATTERN; i++) {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        pattern[i] = (char)state;
    }
    memcpy(pattern + PATTERN, pattern, PIECE);
}

const char *pattern_at(long long offset) {
    return pattern + offset % PATTERN;
}

/* A look at both ends of each piece finds lost and swapped bytes, and costs nothing. */
bool pattern_is(const char *data, size_t length, long long offset) {
    size_t look = length < 64 ? length : 64;
    return !memcmp(data, pattern_at(offset), look) &&
           !memcmp(data + length - look, pattern_at(offset + (long long)(length - look)), look);
}

/* -- time */

double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

void rest(double seconds) {
    struct timespec time = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    nanosleep(&time, NULL);
}

void pace(struct pace *pace, size_t moved) {
    if (pace->rate <= 0) return;
    if (pace->moved == 0) pace->began = now();
    pace->moved += (long long)moved;
    double ahead = pace->began + (double)pace->moved / pace->rate - now();
    if (ahead > 0) rest(ahead);
}
