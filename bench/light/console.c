/* Consoles: what stands behind a relay, and what a client does with it. */
#define _GNU_SOURCE
#include "light.h"

#include <string.h>
#include <sys/socket.h>

/* -- behind the relay, over plain TCP */

static bool give(struct stream *stream, long long asked) {
    for (long long offset = 0; offset < asked * PATTERN; offset += PIECE)
        if (!stream_write(stream, pattern_at(offset), PIECE)) return false;
    return true;
}

/* A byte for each MiB that ends within the next *count* bytes after *taken*. */
static bool confirm(struct stream *stream, long long taken, ssize_t count) {
    for (long long due = (taken + count) / PATTERN - taken / PATTERN; due > 0; due--)
        if (!stream_write(stream, "", 1)) return false;
    return true;
}

/* *kind* is "flood", a MiB for each byte; "sink", a byte for each MiB; or "echo". */
void console(const char *kind, struct stream *stream, char *piece) {
    struct timeval forever = {0};
    bool flood = !strcmp(kind, "flood"), sink = !strcmp(kind, "sink"), more = true;
    long long taken = 0;
    setsockopt(stream->fd, SOL_SOCKET, SO_RCVTIMEO, &forever, sizeof forever);
    for (ssize_t count; more && (count = stream_read(stream, piece, PIECE)) > 0; taken += count) {
        if (flood) more = give(stream, count);
        else if (sink) more = pattern_is(piece, (size_t)count, taken) && confirm(stream, taken, count);
        else more = stream_write(stream, piece, (size_t)count);
    }
}

/* -- before the relay */

static void take(struct line *line, long long size, bool known) {
    const char *found;
    for (long long first = 0; first < size;) {
        size_t most = size - first > PIECE ? PIECE : (size_t)(size - first);
        size_t count = line_hear(line, &found, most);
        if (known && !pattern_is(found, count, first)) refused("console", "wrong bytes");
        first += (long long)count;
    }
}

/* Does once what *order* says; "down" and "up" move whole MiB. */
void use_console(struct line *line, const struct order *order) {
    if (!strcmp(order->mode, "up")) {
        for (long long first = 0; first < order->bytes; first += order->frame)
            line_say(line, pattern_at(first), (size_t)order->frame);
        take(line, order->bytes / PATTERN, false);
        return;
    }
    bool down = !strcmp(order->mode, "down");
    line_say(line, pattern_at(0), (size_t)(down ? order->bytes / PATTERN : order->bytes));
    take(line, order->bytes, true);
}
