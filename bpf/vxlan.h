// The outer headers of a frame: Ethernet, IPv4 or IPv6, UDP, VXLAN (RFC 7348, section 5).
#pragma once
#include "kernel.h"

struct vxlanhdr {
	__u32 flags;
	__u32 vni; // in the upper 24 bits
};

#define VXLAN_VNI_FLAG htonl(0x08000000)
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

// The source port from the flow's hash, in the range that the kernel's own VXLAN device uses by default: paths and
// receive queues are chosen by it (RFC 7348, section 5).
INLINE __u16 source_port(struct __sk_buff *skb)
{
	__u64 hash = bpf_get_hash_recalc(skb);
	hash ^= hash << 16;
	return htons((__u16)(((hash & 0xffffffff) * (61000 - 32768)) >> 32) + 32768);
}
