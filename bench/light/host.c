/* An image host: as much of the image daemon's protocol as relays need, without a disk; and consoles. */
#define _GNU_SOURCE
#include "light.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

struct listener {
    int fd;
    SSL_CTX *context;
    const char *offered; /* the unix socket that OPTIONS names, if any */
    long long size;
    double rate;
    const char *console; /* which one is here; NULL: images */
};

struct guest {
    const struct listener *listener;
    int fd;
};

static bool say(struct stream *stream, const char *status, const char *fields, const char *body) {
    char answer[1024];
    int length = snprintf(answer, sizeof answer, "HTTP/1.1 %s\r\n%sContent-Length: %zu\r\n\r\n%s", status,
                          fields, strlen(body), body);
    return stream_write(stream, answer, (size_t)length);
}

static bool options(const struct listener *listener, struct stream *stream) {
    char body[512], socket[256] = "";
    if (listener->offered != NULL)
        snprintf(socket, sizeof socket, ", \"unix_socket\": \"%s\"", listener->offered);
    snprintf(body, sizeof body,
             "{\"features\": [\"zero\", \"flush\"], \"max_readers\": 8, \"max_writers\": 8%s}", socket);
    return say(stream, "200 OK", "Allow: OPTIONS,GET,PUT,PATCH\r\nContent-Type: application/json\r\n", body);
}

static bool get(const struct listener *listener, struct stream *stream, const char *head) {
    long long first = 0, last = listener->size - 1;
    bool part = field(head, "range") != NULL;
    char answer[512], place[128] = "";
    place_of(head, "range", &first, &last);
    if (last >= listener->size) last = listener->size - 1;
    if (first > last) return say(stream, "416 Range Not Satisfiable", "", "");
    if (part)
        snprintf(place, sizeof place, "Content-Range: bytes %lld-%lld/%lld\r\n", first, last, listener->size);
    int length = snprintf(answer, sizeof answer,
                          "HTTP/1.1 %s\r\nContent-Type: application/octet-stream\r\n%sContent-Length: %lld\r\n\r\n",
                          part ? "206 Partial Content" : "200 OK", place, last - first + 1);
    if (!stream_write(stream, answer, (size_t)length)) return false;
    while (!strncmp(head, "GET", 3) && first <= last) {
        size_t piece = last - first + 1 > PIECE ? PIECE : (size_t)(last - first + 1);
        if (!stream_write(stream, pattern_at(first), piece)) return false;
        first += (long long)piece;
    }
    return true;
}

/* Take *left* bytes; *offset* is negative when they are not of an image. */
static bool swallow(struct stream *stream, char *piece, long long left, long long offset, struct pace *slow) {
    while (left > 0) {
        ssize_t count = stream_read(stream, piece, left > PIECE ? PIECE : (size_t)left);
        if (count <= 0) return false;
        if (offset >= 0) {
            if (!pattern_is(piece, (size_t)count, offset)) {
                fprintf(stderr, "wrong bytes at %lld\n", offset);
                return false;
            }
            offset += count;
        }
        left -= count;
        pace(slow, (size_t)count);
    }
    return true;
}

static bool swallow_chunks(struct stream *stream, char *piece, long long offset, struct pace *slow) {
    for (;;) {
        char line[64];
        size_t length = 0;
        do {
            if (length == sizeof line - 1 || stream_read(stream, line + length, 1) != 1) return false;
        } while (line[length++] != '\n');
        line[length] = 0;
        long long size = strtoll(line, NULL, 16);
        if (!swallow(stream, piece, size, offset, slow) || !swallow(stream, piece, 2, -1, slow)) return false;
        if (size == 0) return true;
        offset += size;
    }
}

static bool put(const struct listener *listener, struct stream *stream, const char *head, char *piece) {
    const char *length = field(head, "content-length"), *coding = field(head, "transfer-encoding");
    long long first = 0, last = 0;
    struct pace slow = {.rate = listener->rate};
    place_of(head, "content-range", &first, &last);
    if (!strncmp(head, "PATCH", 5)) first = -1;
    if (field(head, "expect") != NULL && !stream_write(stream, "HTTP/1.1 100 Continue\r\n\r\n", 25)) return false;
    bool taken = coding != NULL && !strncasecmp(coding, "chunked", 7)
                     ? swallow_chunks(stream, piece, first, &slow)
                     : swallow(stream, piece, length != NULL ? atoll(length) : 0, first, &slow);
    return taken && say(stream, "200 OK", "", "");
}

static void *serve(void *argument) {
    struct guest guest = *(struct guest *)argument;
    const struct listener *listener = guest.listener;
    free(argument);
    struct stream *stream = stream_accept(guest.fd, listener->context);
    if (stream == NULL) return NULL;
    char *piece = malloc(PIECE), *head;
    if (listener->console != NULL) console(listener->console, stream, piece);
    else for (bool more = true; more && (head = stream_head(stream)) != NULL; free(head)) {
        const char *path = strchr(head, ' ');
        if (path == NULL || strncmp(path, " /images/", 9)) more = say(stream, "404 Not Found", "", "") && false;
        else if (!strncmp(head, "OPTIONS", 7)) more = options(listener, stream);
        else if (!strncmp(head, "GET", 3) || !strncmp(head, "HEAD", 4)) more = get(listener, stream, head);
        else more = put(listener, stream, head, piece);
    }
    free(piece);
    stream_close(stream);
    return NULL;
}

static void start(void *(*what)(void *), void *argument) {
    pthread_attr_t attributes;
    pthread_t thread;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 256 * 1024);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    if ((errno = pthread_create(&thread, &attributes, what, argument))) fail("thread");
}

static void *wait_at(void *argument) {
    struct listener *listener = argument;
    for (int fd; (fd = accept(listener->fd, NULL, NULL)) >= 0 || errno == EINTR || errno == ECONNABORTED;) {
        if (fd < 0) continue;
        struct guest *guest = malloc(sizeof *guest);
        *guest = (struct guest){listener, fd};
        start(serve, guest);
    }
    fail("accept");
}

/* Listens at all *places* and prints them as JSON; ends when it is killed. */
int host(int count, char **places, SSL_CTX *context, long long size, double rate, const char *offered) {
    char said[512];
    printf("{");
    for (int i = 0; i < count; i++) {
        struct listener *listener = calloc(1, sizeof *listener);
        bool tls = !strcmp(places[i], "tls"), tcp = !strcmp(places[i], "tcp"), unix = !strncmp(places[i], "unix:", 5);
        /* An image daemon offers its socket over TLS; we do so at another port, so that TLS stays TLS. */
        *listener = (struct listener){listen_on(places[i], said, sizeof said), tls ? context : NULL,
                                      tcp ? offered : NULL, size, rate, tls || tcp || unix ? NULL : places[i]};
        printf("%s\"%s\": %s", i ? ", " : "", unix ? "unix" : places[i], said);
        start(wait_at, listener);
    }
    printf("}\n");
    fflush(stdout);
    for (;;) pause();
}
