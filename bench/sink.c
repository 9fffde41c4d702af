/* Receives UDP datagrams on a port, over IPv4 and IPv6, and throws them away.
 *
 *   sink PORT
 *
 * While packets come it asks for more without sleeping: to wake a sleeper costs the sender's core
 * more than a rule does, and the slower the sender the more often, which is not what is measured.
 */
#define _GNU_SOURCE
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum { BATCH = 64, BYTES = 2048, BUFFER_BYTES = 8 << 20 };
static const double AWAKE_S = 0.05;

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

int main(int count, char **word)
{
	int sock = socket(AF_INET6, SOCK_DGRAM, 0), no = 0, most = BUFFER_BYTES;
	struct sockaddr_in6 here = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_ANY_INIT};
	if (count != 2)
		return 2;
	here.sin6_port = htons(atoi(word[1]));
	setsockopt(sock, IPPROTO_IPV6, IPV6_V6ONLY, &no, sizeof no);
	setsockopt(sock, SOL_SOCKET, SO_RCVBUF, &most, sizeof most);
	if (bind(sock, (struct sockaddr *)&here, sizeof here)) {
		perror("sink");
		return 1;
	}
	static char data[BATCH][BYTES];
	struct iovec part[BATCH];
	struct mmsghdr batch[BATCH];
	memset(batch, 0, sizeof batch);
	for (int i = 0; i < BATCH; i++) {
		part[i] = (struct iovec){data[i], BYTES};
		batch[i].msg_hdr.msg_iov = &part[i];
		batch[i].msg_hdr.msg_iovlen = 1;
	}
	printf("ready\n");
	fflush(stdout);
	for (double last = 0;;) {
		int flags = now() - last < AWAKE_S ? MSG_DONTWAIT : MSG_WAITFORONE;
		if (recvmmsg(sock, batch, BATCH, flags, NULL) > 0)
			last = now();
	}
}
