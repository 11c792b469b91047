/* A client of images: transfers, small ranges, new connections; and of consoles. Prints what it saw as JSON. */
#define _GNU_SOURCE
#include "light.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

/* The image that ranges and repeated transfers wander through is at least so long. */
static const long long LONG_WAY = 1LL << 30;

struct connection {
    const struct order *order;
    int number;
    pthread_barrier_t *all; /* open */
    double began;
    double *times; /* seconds of each request */
    long requests, room;
};

static void ask(struct stream *stream, const struct order *order, const char *method, long long first) {
    char request[2048];
    long long last = first + order->bytes - 1;
    int length = !strcmp(method, "PUT")
                     ? snprintf(request, sizeof request,
                                "PUT %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\n"
                                "Content-Length: %lld\r\nContent-Range: bytes %lld-%lld/*\r\n\r\n",
                                order->path, order->bytes, first, last)
                     : snprintf(request, sizeof request,
                                "GET %s HTTP/1.1\r\nHost: localhost\r\nRange: bytes=%lld-%lld\r\n\r\n", order->path,
                                first, last);
    if (!stream_write(stream, request, (size_t)length)) refused(method, "the connection is gone");
}

static void get(struct stream *stream, const struct order *order, char *piece, long long first) {
    struct pace slow = {.rate = order->rate};
    ask(stream, order, "GET", first);
    char *head = stream_head(stream);
    const char *length = head != NULL ? field(head, "content-length") : NULL;
    if (status_of(head) / 100 != 2 || length == NULL || atoll(length) != order->bytes) refused("GET", head);
    free(head);
    for (long long left = order->bytes; left > 0;) {
        ssize_t count = stream_read(stream, piece, left > PIECE ? PIECE : (size_t)left);
        if (count <= 0) refused("GET", "cut short");
        if (!pattern_is(piece, (size_t)count, first)) refused("GET", "wrong bytes");
        first += count;
        left -= count;
        pace(&slow, (size_t)count);
    }
}

static void put(struct stream *stream, const struct order *order, long long first) {
    struct pace slow = {.rate = order->rate};
    ask(stream, order, "PUT", first);
    for (long long left = order->bytes; left > 0;) {
        size_t count = left > PIECE ? PIECE : (size_t)left;
        if (!stream_write(stream, pattern_at(first), count)) refused("PUT", stream_head(stream));
        first += (long long)count;
        left -= (long long)count;
        pace(&slow, count);
    }
    char *head = stream_head(stream);
    const char *length = head != NULL ? field(head, "content-length") : NULL;
    if (status_of(head) / 100 != 2) refused("PUT", head);
    char rest[256];
    for (long long left = length != NULL ? atoll(length) : 0; left > 0;) {
        ssize_t count = stream_read(stream, rest, left > 256 ? 256 : (size_t)left);
        if (count <= 0) refused("PUT", "the answer is cut short");
        left -= count;
    }
    free(head);
}

static void note(struct connection *connection, double seconds) {
    if (connection->requests == connection->room) {
        connection->room = connection->room ? 2 * connection->room : 1024;
        connection->times = realloc(connection->times, (size_t)connection->room * sizeof(double));
    }
    connection->times[connection->requests++] = seconds;
}

static void *work(void *argument) {
    struct connection *connection = argument;
    const struct order *order = connection->order;
    bool upload = !strcmp(order->mode, "put"), anew = !strcmp(order->mode, "connect");
    struct stream *stream = anew ? NULL : stream_connect(order->place, order->context, NULL);
    SSL_SESSION *session = NULL;
    char *piece = malloc(PIECE);
    connection->began = now();
    long long way = LONG_WAY / order->bytes;
    for (long i = 0; order->seconds > 0 ? now() - connection->began < order->seconds : i < order->count; i++) {
        /* Parts side by side, and further on with each turn. */
        long long first = (connection->number + (way > 1 ? i * order->connections * 7 % way : 0)) * order->bytes;
        double before = now();
        if (anew) stream = stream_connect(order->place, order->context, session);
        if (upload) put(stream, order, first);
        else get(stream, order, piece, first);
        note(connection, now() - before);
        if (anew && order->resume) {
            if (session != NULL && i > 1 && !SSL_session_reused(stream->tls)) refused("connect", "not resumed");
            SSL_SESSION_free(session);
            session = SSL_get1_session(stream->tls);
        }
        if (anew) stream_close(stream);
    }
    if (!anew) stream_close(stream);
    free(piece);
    return NULL;
}

/* Connecting is not measured, and who sends now and then does not do it together with the others. */
static void *work_on_console(void *argument) {
    struct connection *connection = argument;
    const struct order *order = connection->order;
    struct pace slow = {.rate = order->rate};
    struct line *line = line_open(order);
    pthread_barrier_wait(connection->all);
    if (order->rate > 0) rest((double)order->bytes / order->rate * connection->number / order->connections);
    connection->began = now();
    for (long i = 0; order->seconds > 0 ? now() - connection->began < order->seconds : i < order->count; i++) {
        double before = now();
        use_console(line, order);
        note(connection, now() - before);
        pace(&slow, (size_t)order->bytes);
    }
    line_close(line);
    return NULL;
}

static int by_size(const void *left, const void *right) {
    double a = *(const double *)left, b = *(const double *)right;
    return a < b ? -1 : a > b;
}

int client(const struct order *order) {
    int number = order->connections;
    struct connection *connections = calloc((size_t)number, sizeof *connections);
    struct order *orders = calloc((size_t)number, sizeof *orders);
    pthread_t *threads = calloc((size_t)number, sizeof *threads);
    pthread_barrier_t all;
    pthread_barrier_init(&all, NULL, (unsigned)number);
    bool image = strcmp(order->mode, "down") && strcmp(order->mode, "up") && strcmp(order->mode, "echo");
    double begin = now();
    for (int i = 0; i < number; i++) {
        orders[i] = *order;
        orders[i].path = order->paths[i % order->path_count];
        connections[i] = (struct connection){.order = &orders[i], .number = i, .all = &all};
        if ((errno = pthread_create(&threads[i], NULL, image ? work : work_on_console, &connections[i])))
            fail("thread");
    }
    long requests = 0;
    for (int i = 0; i < number; i++) {
        pthread_join(threads[i], NULL);
        requests += connections[i].requests;
    }
    if (!image) begin = connections[0].began;
    double seconds = now() - begin, *times = calloc((size_t)requests + 1, sizeof *times), *next = times;
    for (int i = 0; i < number; i++) {
        memcpy(next, connections[i].times, (size_t)connections[i].requests * sizeof *next);
        next += connections[i].requests;
    }
    qsort(times, (size_t)requests, sizeof *times, by_size);
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    printf("{\"requests\": %ld, \"bytes\": %lld, \"seconds\": %.6f, \"p50\": %.7f, \"p99\": %.7f, \"cpu\": %.6f}\n",
           requests, (long long)requests * order->bytes, seconds, times[requests / 2], times[requests * 99 / 100],
           (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
               (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6);
    return 0;
}
