/* Sends UDP datagrams of one 5-tuple as fast as one core can.
 *
 *   blast DESTINATION SOURCE_PORT PORT PAYLOAD_BYTES SECONDS
 *
 * The first datagram goes alone, and half a second before the others: it may have to be signaled.
 * Prints how many were sent in how many seconds. Errors (an ICMP answer, a full queue) are passed
 * over: what arrives is counted at the receiver.
 */
#define _GNU_SOURCE
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BATCH = 64, FIRST_US = 500000, PAYLOAD_MAX = 1400 };

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static struct addrinfo *address(const char *host, const char *port)
{
	struct addrinfo hints = {.ai_socktype = SOCK_DGRAM, .ai_flags = AI_NUMERICHOST}, *found;
	if (host == NULL)
		hints.ai_flags |= AI_PASSIVE;
	if (getaddrinfo(host, port, &hints, &found)) {
		fprintf(stderr, "blast: not an address: %s %s\n", host, port);
		exit(2);
	}
	return found;
}

int main(int count, char **word)
{
	if (count != 6) {
		fprintf(stderr, "usage: blast DESTINATION SOURCE_PORT PORT PAYLOAD_BYTES SECONDS\n");
		return 2;
	}
	struct addrinfo *to = address(word[1], word[3]);
	int size = atoi(word[4]);
	double seconds = atof(word[5]);
	if (size < 1 || size > PAYLOAD_MAX)
		return 2;
	int sock = socket(to->ai_family, SOCK_DGRAM, 0);
	struct sockaddr_storage from = {.ss_family = to->ai_family};
	/* The port is at the same place in both families' addresses. */
	((unsigned short *)&from)[1] = (unsigned short)((atoi(word[2]) << 8) | (atoi(word[2]) >> 8));
	if (bind(sock, (struct sockaddr *)&from, to->ai_addrlen) ||
	    connect(sock, to->ai_addr, to->ai_addrlen)) {
		perror("blast");
		return 1;
	}
	static char payload[PAYLOAD_MAX];
	struct iovec part = {payload, size};
	struct mmsghdr batch[BATCH];
	memset(batch, 0, sizeof batch);
	for (int i = 0; i < BATCH; i++) {
		batch[i].msg_hdr.msg_iov = &part;
		batch[i].msg_hdr.msg_iovlen = 1;
	}
	send(sock, payload, size, 0);
	usleep(FIRST_US);
	unsigned long sent = 0;
	double start = now(), end = start + seconds;
	while (now() < end) {
		int done = sendmmsg(sock, batch, BATCH, 0);
		if (done > 0)
			sent += done;
	}
	printf("%lu %.6f\n", sent, now() - start);
	return 0;
}
