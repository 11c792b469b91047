/* The light client and host: what they share. See main.c for what they do. */
#ifndef LIGHT_H
#define LIGHT_H

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* Bytes moved at a time: what fits the second-level cache beside the relay's own. */
enum { PIECE = 128 * 1024 };
/* The bytes of every image repeat after so many. */
enum { PATTERN = 1 << 20 };

/* -- stream.c: a connection, plain or TLS, blocking; nothing takes longer than thirty seconds. */

struct stream {
    int fd;
    SSL *tls;
    char *head; /* what was read ahead while looking for the end of a head */
    size_t begin, end;
};

SSL_CTX *client_tls(const char *ca);
SSL_CTX *host_tls(const char *certificate, const char *key);
int listen_on(const char *place, char *said, size_t room);
struct stream *stream_accept(int fd, SSL_CTX *context);
struct stream *stream_connect(const char *place, SSL_CTX *context, SSL_SESSION *before);
ssize_t stream_read(struct stream *stream, void *into, size_t most);
bool stream_write(struct stream *stream, const void *data, size_t length);
/* The next head up to its empty line, zero-terminated; NULL when there is none. Free it. */
char *stream_head(struct stream *stream);
void stream_close(struct stream *stream);

/* The same on the other side of a proxy, which gets a CONNECT to *target*; "-" is what *place* is for anyway. */
struct stream *stream_tunnel(const char *place, const char *target, SSL_CTX *context);

/* -- websocket.c: the same with frames around it, as a client has it. */

struct websocket;

struct websocket *websocket_open(const char *place, const char *path, SSL_CTX *context);
void websocket_send(struct websocket *socket, const char *data, size_t length);
size_t websocket_receive(struct websocket *socket, const char **found, size_t most);
void websocket_close(struct websocket *socket);

/* -- common.c */

/* The value of a field, up to the end of the head; NULL without it. */
const char *field(const char *head, const char *name);
int status_of(const char *head);
/* Where in an image the body of a request is, by its Range or Content-Range. */
void place_of(const char *head, const char *name, long long *first, long long *last);

/* What images hold, so that no relay wins by mixing bytes up. */

void pattern_make(void);
/* PIECE bytes and more of the image from *offset* on. */
const char *pattern_at(long long offset);
bool pattern_is(const char *data, size_t length, long long offset);

/* A side that is slow on purpose. */

struct pace {
    double rate; /* bytes a second; 0 for as fast as it goes */
    double began;
    long long moved;
};

double now(void);
void rest(double seconds);
void pace(struct pace *pace, size_t moved);

/* -- the modes */

int host(int count, char **places, SSL_CTX *context, long long size, double rate, const char *offered);

struct order {
    const char *mode, *place, *path;
    const char **paths; /* one for each connection, in turns */
    int path_count;
    SSL_CTX *context; /* NULL: plain */
    long long bytes;  /* of each request */
    long long frame;  /* of each message that "up" sends; divides a MiB */
    int connections;
    long count;     /* requests of each connection; */
    double seconds; /* or for so long, when above 0 */
    double rate;
    bool resume, tunnel;
};

/* -- line.c: what a client has of a console, by websocket or through a tunnel. */

struct line;

struct line *line_open(const struct order *order);
void line_say(struct line *line, const char *data, size_t length);
/* The next bytes, at least one and at most *most*; valid until the next call. */
size_t line_hear(struct line *line, const char **found, size_t most);
void line_close(struct line *line);

int client(const struct order *order);

void console(const char *kind, struct stream *stream, char *piece);
void use_console(struct line *line, const struct order *order);

void fail(const char *what) __attribute__((noreturn));
/* The same for what a peer has said. */
void refused(const char *what, const char *said) __attribute__((noreturn));

#endif
