/* The light client and host of the benchmarks: one thread for each connection, blocking, no disk.

   light host --certificate F --key F [--size N] [--rate N] [--offer PATH] tls tcp unix:PATH flood sink echo
   light get|put|ranges|connect|down|up|echo --to PORT --path P... [--ca F] [--bytes N] [--connections N]
                                             [--count N | --seconds S] [--rate N] [--frame N] [--resume] [--tunnel]

   get, put: transfers; ranges: get, with many small requests on kept connections; connect: each request on a
   connection of its own. Connections take turns with paths. down, up, echo: by websocket, with the console
   "flood", "sink" or "echo" behind it; with --tunnel by CONNECT, and the path is what is asked for: "-" for a
   place where nothing is to be asked. Without --ca there is no TLS. */
#define _GNU_SOURCE
#include "light.h"

#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct option OPTIONS[] = {
    {"certificate", required_argument, NULL, 'c'}, {"key", required_argument, NULL, 'k'},
    {"size", required_argument, NULL, 'z'},        {"rate", required_argument, NULL, 'r'},
    {"offer", required_argument, NULL, 'o'},       {"to", required_argument, NULL, 't'},
    {"path", required_argument, NULL, 'p'},        {"ca", required_argument, NULL, 'a'},
    {"bytes", required_argument, NULL, 'b'},       {"connections", required_argument, NULL, 'n'},
    {"count", required_argument, NULL, 'i'},       {"seconds", required_argument, NULL, 's'},
    {"frame", required_argument, NULL, 'f'},       {"resume", no_argument, NULL, 'e'},
    {"tunnel", no_argument, NULL, 'u'},
    {NULL, 0, NULL, 0},
};

int main(int count, char **arguments) {
    const char *certificate = NULL, *key = NULL, *ca = NULL, *offered = NULL;
    long long size = 64LL << 30;
    struct order order = {.mode = count > 1 ? arguments[1] : "", .bytes = 4096, .frame = 16384, .connections = 1, .count = 1};
    if (count < 3) {
        fprintf(stderr, "usage: light host|get|put|ranges|connect|down|up|echo OPTIONS; see main.c\n");
        return 2;
    }
    order.paths = calloc((size_t)count, sizeof *order.paths);
    signal(SIGPIPE, SIG_IGN);
    pattern_make();
    optind = 2;
    for (int letter; (letter = getopt_long(count, arguments, "", OPTIONS, NULL)) != -1;) {
        switch (letter) {
        case 'c': certificate = optarg; break;
        case 'k': key = optarg; break;
        case 'z': size = atoll(optarg); break;
        case 'r': order.rate = atof(optarg); break;
        case 'o': offered = optarg; break;
        case 't': order.place = optarg; break;
        case 'p': order.paths[order.path_count++] = optarg; break;
        case 'a': ca = optarg; break;
        case 'b': order.bytes = atoll(optarg); break;
        case 'n': order.connections = atoi(optarg); break;
        case 'i': order.count = atol(optarg); break;
        case 's': order.seconds = atof(optarg); break;
        case 'f': order.frame = atoll(optarg); break;
        case 'e': order.resume = true; break;
        case 'u': order.tunnel = true; break;
        default: return 2;
        }
    }
    if (!strcmp(order.mode, "host")) {
        SSL_CTX *context = certificate != NULL && key != NULL ? host_tls(certificate, key) : NULL;
        return host(count - optind, arguments + optind, context, size, order.rate, offered);
    }
    if (order.place == NULL || order.path_count == 0 || order.bytes < 1 || order.connections < 1) return 2;
    if (order.frame < 1 || order.frame > PIECE) return 2;
    order.context = ca != NULL ? client_tls(ca) : NULL;
    return client(&order);
}
