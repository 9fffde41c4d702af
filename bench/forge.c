/* Sends forged OPENs as fast as one core can: somebody else's source address in every one.
 *
 *   forge DESTINATION SOURCE BITS SECONDS FILE [CIDS]
 *
 * FILE is one OPEN, as it is on the wire. Every copy has another cid, so no signature holds, and a
 * source address of which BITS bits are SOURCE's and the rest at random; the source port is 4747.
 * CIDS: take turns with so many cids, instead of a new one for each. Needs CAP_NET_RAW. Prints how
 * many were sent in how many seconds.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum { BATCH = 64, OPEN_MAX_BYTES = 1232, CID_AT = 16, PORT = 4747, UDP = 8, HEADERS_MAX = 48 };

static uint64_t state = 0x9e3779b97f4a7c15;

static uint64_t chance(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

/* The ones' complement sum of an even number of bytes. */
static uint64_t sum(const unsigned char *bytes, int count)
{
	uint64_t total = 0;
	uint32_t word;
	int at = 0;
	for (; at + 4 <= count; at += 4) {
		memcpy(&word, bytes + at, 4);
		total += word;
	}
	if (at < count)
		total += bytes[at] | (at + 1 < count ? bytes[at + 1] << 8 : 0);
	return total;
}

static uint16_t folded(uint64_t total)
{
	while (total >> 16)
		total = (total & 0xffff) + (total >> 16);
	return ~total;
}

static void strange(unsigned char *source, const unsigned char *given, int bytes, int bits)
{
	for (int at = 0; at < bytes; at++) {
		int kept = bits - 8 * at;
		unsigned char mask = kept >= 8 ? 0xff : kept <= 0 ? 0 : (unsigned char)(0xff << (8 - kept));
		source[at] = (given[at] & mask) | ((unsigned char)(chance() >> 20) & ~mask);
	}
}

int main(int count, char **word)
{
	if (count != 6 && count != 7) {
		fprintf(stderr, "usage: forge DESTINATION SOURCE BITS SECONDS FILE [CIDS]\n");
		return 2;
	}
	int six = strchr(word[1], ':') != NULL, family = six ? AF_INET6 : AF_INET;
	int size = six ? 16 : 4, header = six ? 40 : 20, bits = atoi(word[3]);
	uint64_t cids = count == 7 ? strtoull(word[6], NULL, 10) : 0, made = 0;
	unsigned char to[16], from[16], open[OPEN_MAX_BYTES];
	FILE *file = fopen(word[5], "rb");
	int bytes = file ? (int)fread(open, 1, sizeof open, file) : 0;
	if (inet_pton(family, word[1], to) != 1 || inet_pton(family, word[2], from) != 1 || bytes < 33) {
		fprintf(stderr, "forge: not two addresses of one family and an OPEN\n");
		return 2;
	}
	int sock = socket(family, SOCK_RAW, IPPROTO_RAW), one = 1;
	if (sock < 0 || (six && setsockopt(sock, IPPROTO_IPV6, 36 /* IPV6_HDRINCL */, &one, sizeof one))) {
		perror("forge");
		return 1;
	}
	static unsigned char packets[BATCH][HEADERS_MAX + OPEN_MAX_BYTES];
	struct iovec parts[BATCH];
	struct mmsghdr batch[BATCH];
	struct sockaddr_in6 there6 = {.sin6_family = AF_INET6};
	struct sockaddr_in there4 = {.sin_family = AF_INET};
	memcpy(six ? (void *)&there6.sin6_addr : (void *)&there4.sin_addr, to, size);
	memset(batch, 0, sizeof batch);
	for (int i = 0; i < BATCH; i++) {
		unsigned char *packet = packets[i], *udp = packet + header;
		uint16_t length = htons(UDP + bytes), total = htons(header + UDP + bytes), port = htons(PORT);
		packet[0] = six ? 0x60 : 0x45;
		memcpy(packet + (six ? 4 : 2), six ? &length : &total, 2);
		packet[six ? 6 : 9] = IPPROTO_UDP;
		packet[six ? 7 : 8] = 64;
		memcpy(packet + (six ? 24 : 16), to, size);
		memcpy(udp, &port, 2);
		memcpy(udp + 2, &port, 2);
		memcpy(udp + 4, &length, 2);
		memcpy(udp + UDP, open, bytes);
		parts[i] = (struct iovec){packet, header + UDP + bytes};
		batch[i].msg_hdr.msg_iov = &parts[i];
		batch[i].msg_hdr.msg_iovlen = 1;
		batch[i].msg_hdr.msg_name = six ? (void *)&there6 : (void *)&there4;
		batch[i].msg_hdr.msg_namelen = six ? sizeof there6 : sizeof there4;
	}
	unsigned long sent = 0;
	double start = now(), end = start + atof(word[4]);
	while (now() < end) {
		for (int i = 0; i < BATCH; i++) {
			unsigned char *source = packets[i] + (six ? 8 : 12), *udp = packets[i] + header;
			uint64_t cid[2] = {chance(), chance()};
			if (cids) {
				cid[0] = made++ % cids * 0x9e3779b97f4a7c15;
				cid[1] = cid[0];
			}
			strange(source, from, size, bits);
			memcpy(udp + UDP + CID_AT, cid, sizeof cid);
			memset(udp + 6, 0, 2);
			uint64_t pseudo = sum(source, 2 * size) + htons(IPPROTO_UDP) + htons(UDP + bytes);
			uint16_t check = folded(pseudo + sum(udp, UDP + bytes));
			memcpy(udp + 6, &check, 2);
		}
		int done = sendmmsg(sock, batch, BATCH, 0);
		if (done > 0)
			sent += done;
	}
	printf("%lu %.6f\n", sent, now() - start);
	return 0;
}
