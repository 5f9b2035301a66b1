// The outer headers of a frame: Ethernet, IPv4 or IPv6, UDP, VXLAN (RFC 7348, section 5).
#pragma once
#include "kernel.h"

struct vxlanhdr {
	__u32 flags;
	__u32 vni; // in the upper 24 bits
};

#define VXLAN_VNI_FLAG htonl(0x08000000)
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define ECN_MASK 3
#define ECN_CE 3

struct outer4 {
	struct ethhdr eth;
	struct iphdr ip;
	struct udphdr udp;
	struct vxlanhdr vxlan;
	struct ethhdr inner;
} __attribute__((packed));

struct outer6 {
	struct ethhdr eth;
	struct ipv6hdr ip;
	struct udphdr udp;
	struct vxlanhdr vxlan;
	struct ethhdr inner;
} __attribute__((packed));

// What stands between the two Ethernet headers' beginnings: what is pushed and pulled.
#define OVERHEAD4 ((int)(sizeof(struct outer4) - sizeof(struct ethhdr)))
#define OVERHEAD6 ((int)(sizeof(struct outer6) - sizeof(struct ethhdr)))

// RFC 1071 over an IPv4 header without options whose checksum field is zero.
INLINE __u16 ipv4_checksum(const struct iphdr *ip)
{
	const __u16 *words = (const __u16 *)ip;
	__u32 sum = 0;
#pragma unroll
	for (int i = 0; i < 10; i++)
		sum += words[i];
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (__u16)~sum;
}

// The source port, from the flow: paths and receive queues of the underlay are chosen by it (RFC 7348, section 5). In the
// range that the kernel's own VXLAN device uses by default. The kernel's hash of a UDP packet would cost a dissection
// of it every time; addresses and ports are right here.
INLINE __u16 source_port(void *ip, __u16 proto, void *end)
{
	__u32 hash;
	void *ports;

	if (proto == htons(ETH_P_IP)) {
		struct iphdr *v4 = ip;
		hash = v4->src ^ v4->dst ^ v4->protocol;
		// Fragments other than the first have no ports, and the first should go the way of the others.
		ports = v4->version_ihl == 0x45 && !(v4->frag_off & htons(0x3fff)) ? v4 + 1 : 0;
	} else {
		struct ipv6hdr *v6 = ip;
		if ((void *)(v6 + 1) > end)
			return htons(32768);
		hash = v6->src[2] ^ v6->src[3] ^ v6->dst[2] ^ v6->dst[3] ^ v6->next_header;
		ports = v6 + 1;
	}
	if (ports && ports + sizeof(__u32) <= end)
		hash ^= *(__u32 *)ports;
	hash *= 0x9e3779b1; // 2^32 divided by the golden ratio: the upper bits depend on all
	return htons((__u16)(((__u64)hash * (61000 - 32768)) >> 32) + 32768);
}
