/* The client's end of a websocket. Source: RFC 6455, section 5.2. */
#define _GNU_SOURCE
#include "light.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { CLOSE = 8, LONGEST_HEADER = 14, BINARY_WHOLE = 0x82, MASKED = 0x80 };

/* A key and what it is answered with. Source: RFC 6455, section 1.3. */
static const char KEY[] = "dGhlIHNhbXBsZSBub25jZQ==", ACCEPT[] = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

struct websocket {
    struct stream *stream;
    char *in, *out;
    size_t begin, end; /* of what was received and not taken yet */
    long long left;    /* of the frame that is coming in */
    unsigned key;
};

struct websocket *websocket_open(const char *place, const char *path, SSL_CTX *context) {
    struct websocket *socket = calloc(1, sizeof *socket);
    char request[1024];
    socket->stream = stream_connect(place, context, NULL);
    socket->in = malloc(PIECE);
    socket->out = malloc(PIECE + LONGEST_HEADER);
    socket->key = 2463534242;
    int length = snprintf(request, sizeof request,
                          "GET %s HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                          "Sec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\n"
                          "Sec-WebSocket-Protocol: binary\r\n\r\n",
                          path, KEY);
    if (!stream_write(socket->stream, request, (size_t)length)) refused("websocket", "the connection is gone");
    char *head = stream_head(socket->stream);
    const char *accept = head != NULL ? field(head, "sec-websocket-accept") : NULL;
    const char *protocol = head != NULL ? field(head, "sec-websocket-protocol") : NULL;
    if (status_of(head) != 101 || accept == NULL || strncmp(accept, ACCEPT, strlen(ACCEPT)) || protocol == NULL ||
        strncmp(protocol, "binary", 6))
        refused("websocket", head);
    free(head);
    return socket;
}

/* Sends one binary message of one frame, at most PIECE bytes, masked with a key of its own. */
void websocket_send(struct websocket *socket, const char *data, size_t length) {
    char *next = socket->out;
    *next++ = (char)BINARY_WHOLE;
    int wide = length < 126 ? 0 : length < 1 << 16 ? 2 : 8;
    *next++ = (char)(MASKED | (wide == 0 ? length : wide == 2 ? 126 : 127));
    for (int i = wide - 1; i >= 0; i--) *next++ = (char)(length >> 8 * i);
    socket->key ^= socket->key << 13;
    socket->key ^= socket->key >> 17;
    socket->key ^= socket->key << 5;
    memcpy(next, &socket->key, 4);
    const char *key = next;
    next += 4;
    unsigned long long both = (unsigned long long)socket->key << 32 | socket->key, word;
    size_t done = 0;
    for (; done + sizeof word <= length; done += sizeof word) {
        memcpy(&word, data + done, sizeof word);
        word ^= both;
        memcpy(next + done, &word, sizeof word);
    }
    for (; done < length; done++) next[done] = (char)(data[done] ^ key[done & 3]);
    if (!stream_write(socket->stream, socket->out, (size_t)(next - socket->out) + length))
        refused("websocket", "cut short");
}

static void receive(struct websocket *socket) {
    memmove(socket->in, socket->in + socket->begin, socket->end - socket->begin);
    socket->end -= socket->begin;
    socket->begin = 0;
    ssize_t count = stream_read(socket->stream, socket->in + socket->end, PIECE - socket->end);
    if (count <= 0) refused("websocket", "cut short");
    socket->end += (size_t)count;
}

/* Reads a frame's header; returns its opcode. */
static int header(struct websocket *socket) {
    while (socket->end - socket->begin < 2) receive(socket);
    int length = socket->in[socket->begin + 1];
    size_t wide = length == 126 ? 2 : length == 127 ? 8 : 0;
    if (length < 0) refused("websocket", "a server's frame is masked");
    while (socket->end - socket->begin < 2 + wide) receive(socket);
    const unsigned char *at = (const unsigned char *)socket->in + socket->begin;
    socket->left = wide ? 0 : length;
    for (size_t i = 0; i < wide; i++) socket->left = socket->left << 8 | at[2 + i];
    socket->begin += 2 + wide;
    return at[0] & 15;
}

/* The next bytes of any messages, at least one and at most *most*; valid until the next call. */
size_t websocket_receive(struct websocket *socket, const char **found, size_t most) {
    while (socket->left == 0) {
        int opcode = header(socket);
        if (opcode == CLOSE) refused("websocket", "closed");
        for (; opcode > CLOSE && socket->left > 0; socket->begin++, socket->left--)
            while (socket->begin == socket->end) receive(socket);
    }
    if (socket->begin == socket->end) receive(socket);
    size_t count = socket->end - socket->begin;
    if (count > most) count = most;
    if ((long long)count > socket->left) count = (size_t)socket->left;
    *found = socket->in + socket->begin;
    socket->begin += count;
    socket->left -= (long long)count;
    return count;
}

void websocket_close(struct websocket *socket) {
    stream_close(socket->stream);
    free(socket->in);
    free(socket->out);
    free(socket);
}
