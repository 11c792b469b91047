#define _GNU_SOURCE
#include "light.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

enum { HEAD = 64 * 1024, READ_AHEAD = 64 * 1024 + 1024 };

void fail(const char *what) {
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    ERR_print_errors_fp(stderr);
    exit(1);
}

void refused(const char *what, const char *said) {
    fprintf(stderr, "%s: %.400s\n", what, said != NULL ? said : "no answer");
    exit(1);
}

static SSL_CTX *context_for(const SSL_METHOD *method) {
    SSL_CTX *context = SSL_CTX_new(method);
    SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION);
    SSL_CTX_set_read_ahead(context, 1);
    SSL_CTX_set_default_read_buffer_len(context, READ_AHEAD);
    return context;
}

SSL_CTX *client_tls(const char *ca) {
    SSL_CTX *context = context_for(TLS_client_method());
    if (SSL_CTX_load_verify_locations(context, ca, NULL) != 1) fail(ca);
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_CLIENT);
    return context;
}

SSL_CTX *host_tls(const char *certificate, const char *key) {
    SSL_CTX *context = context_for(TLS_server_method());
    if (SSL_CTX_use_certificate_chain_file(context, certificate) != 1) fail(certificate);
    if (SSL_CTX_use_PrivateKey_file(context, key, SSL_FILETYPE_PEM) != 1) fail(key);
    return context;
}

static void settle(int fd) {
    struct timeval limit = {.tv_sec = 30};
    int on = 1;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* a unix socket refuses, rightly */
}

static socklen_t unix_address(const char *path, struct sockaddr_un *address) {
    memset(address, 0, sizeof *address);
    address->sun_family = AF_UNIX;
    if (strlen(path) >= sizeof address->sun_path) {
        errno = ENAMETOOLONG;
        fail(path);
    }
    strcpy(address->sun_path, path);
    return sizeof *address;
}

/* *place* is "tls", "tcp" or "unix:PATH"; *said* gets the port, or the path in quotes. */
int listen_on(const char *place, char *said, size_t room) {
    int fd;
    if (!strncmp(place, "unix:", 5)) {
        struct sockaddr_un address;
        socklen_t length = unix_address(place + 5, &address);
        unlink(place + 5);
        fd = socket(AF_UNIX, SOCK_STREAM, 0);
        if (fd < 0 || bind(fd, (struct sockaddr *)&address, length)) fail(place);
        snprintf(said, room, "\"%s\"", place + 5);
    } else {
        struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        socklen_t length = sizeof address;
        fd = socket(AF_INET, SOCK_STREAM, 0);
        if (fd < 0 || bind(fd, (struct sockaddr *)&address, length)) fail(place);
        getsockname(fd, (struct sockaddr *)&address, &length);
        snprintf(said, room, "%d", ntohs(address.sin_port));
    }
    if (listen(fd, 1024)) fail(place);
    return fd;
}

static struct stream *stream_new(int fd, SSL_CTX *context) {
    struct stream *stream = calloc(1, sizeof *stream);
    settle(fd);
    stream->fd = fd;
    if (context != NULL) {
        stream->tls = SSL_new(context);
        SSL_set_fd(stream->tls, fd);
    }
    return stream;
}

struct stream *stream_accept(int fd, SSL_CTX *context) {
    struct stream *stream = stream_new(fd, context);
    if (context != NULL && SSL_accept(stream->tls) != 1) {
        stream_close(stream);
        return NULL;
    }
    return stream;
}

/* *place* is a port of 127.0.0.1, where "localhost" is to be certified. */
struct stream *stream_connect(const char *place, SSL_CTX *context, SSL_SESSION *before) {
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)atoi(place)),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address)) fail("connect");
    struct stream *stream = stream_new(fd, context);
    if (context != NULL) {
        SSL_set_tlsext_host_name(stream->tls, "localhost");
        SSL_set1_host(stream->tls, "localhost");
        if (before != NULL) SSL_set_session(stream->tls, before);
        if (SSL_connect(stream->tls) != 1) fail("TLS handshake");
    }
    return stream;
}

struct stream *stream_tunnel(const char *place, const char *target, SSL_CTX *context) {
    struct stream *stream = stream_connect(place, context, NULL);
    char request[1024];
    if (!strcmp(target, "-")) return stream;
    int length = snprintf(request, sizeof request, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", target, target);
    if (!stream_write(stream, request, (size_t)length)) refused("CONNECT", "the connection is gone");
    char *head = stream_head(stream);
    if (status_of(head) != 200) refused("CONNECT", head);
    free(head);
    return stream;
}

static ssize_t receive(struct stream *stream, void *into, size_t most) {
    if (stream->tls != NULL) return SSL_read(stream->tls, into, (int)most);
    ssize_t count;
    do count = read(stream->fd, into, most);
    while (count < 0 && errno == EINTR);
    return count;
}

ssize_t stream_read(struct stream *stream, void *into, size_t most) {
    size_t ready = stream->end - stream->begin;
    if (ready == 0) return receive(stream, into, most);
    if (ready > most) ready = most;
    memcpy(into, stream->head + stream->begin, ready);
    stream->begin += ready;
    return (ssize_t)ready;
}

bool stream_write(struct stream *stream, const void *data, size_t length) {
    if (stream->tls != NULL) return length == 0 || SSL_write(stream->tls, data, (int)length) > 0;
    for (size_t sent = 0; sent < length;) {
        ssize_t count = write(stream->fd, (const char *)data + sent, length - sent);
        if (count > 0) sent += (size_t)count;
        else if (count == 0 || errno != EINTR) return false;
    }
    return true;
}

char *stream_head(struct stream *stream) {
    if (stream->head == NULL) stream->head = malloc(HEAD);
    memmove(stream->head, stream->head + stream->begin, stream->end - stream->begin);
    stream->end -= stream->begin;
    stream->begin = 0;
    for (;;) {
        char *over = stream->end ? memmem(stream->head, stream->end, "\r\n\r\n", 4) : NULL;
        if (over != NULL) {
            stream->begin = (size_t)(over + 4 - stream->head);
            return strndup(stream->head, stream->begin);
        }
        if (stream->end == HEAD) return NULL;
        ssize_t count = receive(stream, stream->head + stream->end, HEAD - stream->end);
        if (count <= 0) return NULL;
        stream->end += (size_t)count;
    }
}

void stream_close(struct stream *stream) {
    if (stream->tls != NULL) {
        if (SSL_is_init_finished(stream->tls)) SSL_shutdown(stream->tls);
        SSL_free(stream->tls);
    }
    close(stream->fd);
    free(stream->head);
    free(stream);
}
