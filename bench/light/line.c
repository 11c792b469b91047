/* A console, as a client has it: by websocket, or through a tunnel. */
#define _GNU_SOURCE
#include "light.h"

#include <stdlib.h>

struct line {
    struct websocket *socket; /* or: */
    struct stream *stream;
    char *in;
};

struct line *line_open(const struct order *order) {
    struct line *line = calloc(1, sizeof *line);
    if (order->tunnel) {
        line->stream = stream_tunnel(order->place, order->path, order->context);
        line->in = malloc(PIECE);
    } else line->socket = websocket_open(order->place, order->path, order->context);
    return line;
}

void line_say(struct line *line, const char *data, size_t length) {
    if (line->socket != NULL) websocket_send(line->socket, data, length);
    else if (!stream_write(line->stream, data, length)) refused("tunnel", "cut short");
}

size_t line_hear(struct line *line, const char **found, size_t most) {
    if (line->socket != NULL) return websocket_receive(line->socket, found, most);
    ssize_t count = stream_read(line->stream, line->in, most);
    if (count <= 0) refused("tunnel", "cut short");
    *found = line->in;
    return (size_t)count;
}

void line_close(struct line *line) {
    if (line->socket != NULL) websocket_close(line->socket);
    else stream_close(line->stream);
    free(line->in);
    free(line);
}
