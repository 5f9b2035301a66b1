// ARP (RFC 826) and neighbour discovery (RFC 4861) for stations on other hosts, answered where they are asked: neither crosses
// the wire, and no other container hears of it.
#pragma once
#include "maps.h"

#define ARPHRD_ETHER 1
#define ARP_REQUEST 1
#define ARP_REPLY 2

struct arp_frame {
	struct ethhdr eth;
	__u16 hardware, protocol;
	__u8 hardware_len, protocol_len;
	__u16 operation;
	__u8 sender_mac[6];
	__u32 sender;
	__u8 target_mac[6];
	__u32 target;
} __attribute__((packed));

#define IPPROTO_ICMPV6 58
#define ND_SOLICITATION 135
#define ND_ADVERTISEMENT 136
#define ND_HOPS 255 // whoever is further away than the link cannot make it
#define ND_SOLICITED htonl(1 << 30)
#define ND_OVERRIDE htonl(1 << 29)
#define ND_OPTION_TARGET_MAC 2

struct nd_frame {
	struct ethhdr eth;
	struct ipv6hdr ip;
	__u8 type, code;
	__u16 checksum;
	__u32 flags;
	__u32 target[4];
	// The option with a MAC address, which some solicitations lack and every advertisement has.
	__u8 option, option_len, mac[6];
} __attribute__((packed));

#define ND_WITHOUT_OPTION __builtin_offsetof(struct nd_frame, option)
#define ICMPV6_LEN (sizeof(struct nd_frame) - __builtin_offsetof(struct nd_frame, type))

INLINE struct neighbour *neighbour_of(__u32 vni, const void *address, int size)
{
	struct neighbour_key key = { .vni = vni };

	__builtin_memcpy(&key.address, address, size);
	return bpf_map_lookup_elem(&neighbours, &key);
}

INLINE int answer_arp(struct __sk_buff *skb, __u32 vni)
{
	struct arp_frame *arp = (void *)(long)skb->data;
	struct neighbour *found;
	__u32 target;

	if ((void *)(arp + 1) > (void *)(long)skb->data_end || arp->operation != htons(ARP_REQUEST) ||
	    arp->hardware != htons(ARPHRD_ETHER) || arp->protocol != htons(ETH_P_IP) || arp->hardware_len != 6 ||
	    arp->protocol_len != 4)
		return TCX_NEXT;
	target = arp->target;
	found = neighbour_of(vni, &target, sizeof(target));
	if (!found)
		return TCX_NEXT;
	arp->operation = htons(ARP_REPLY);
	__builtin_memcpy(arp->target_mac, arp->sender_mac, 6);
	arp->target = arp->sender;
	__builtin_memcpy(arp->sender_mac, found->mac, 6);
	arp->sender = target;
	__builtin_memcpy(arp->eth.dst, arp->target_mac, 6);
	__builtin_memcpy(arp->eth.src, found->mac, 6);
	return bpf_redirect(skb->ifindex, 0);
}

// Over the pseudo header (RFC 8200, section 8.1) and a message whose checksum field is zero.
INLINE __u16 icmpv6_checksum(const struct nd_frame *nd)
{
	const __u16 *addresses = (const __u16 *)nd->ip.src, *message = (const __u16 *)&nd->type;
	__u32 sum = htons(ICMPV6_LEN) + htons(IPPROTO_ICMPV6);

#pragma unroll
	for (int i = 0; i < 16; i++)
		sum += addresses[i];
#pragma unroll
	for (int i = 0; i < (int)ICMPV6_LEN / 2; i++)
		sum += message[i];
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (__u16)~sum;
}

// Whether a frame is a neighbour solicitation. They come to one station, too: is it still there?
INLINE int is_solicitation(void *data, void *end)
{
	struct nd_frame *nd = data;

	return nd->eth.proto == htons(ETH_P_IPV6) && data + ND_WITHOUT_OPTION <= end &&
	       nd->ip.next_header == IPPROTO_ICMPV6 && nd->type == ND_SOLICITATION;
}

INLINE int answer_solicitation(struct __sk_buff *skb, __u32 vni)
{
	struct nd_frame *nd = (void *)(long)skb->data;
	__u32 asker[4], target[4];
	struct neighbour *found;
	__u8 asker_mac[6];
	int detection;

	if ((void *)nd + ND_WITHOUT_OPTION > (void *)(long)skb->data_end || nd->ip.next_header != IPPROTO_ICMPV6 ||
	    nd->ip.hop_limit != ND_HOPS || nd->type != ND_SOLICITATION || nd->code)
		return TCX_NEXT;
	// Nobody's address is a group's: an answer there would go to everybody as if all had asked.
	if (*(__u8 *)nd->ip.src == 0xff)
		return TCX_NEXT;
	__builtin_memcpy(asker, nd->ip.src, sizeof(asker));
	__builtin_memcpy(asker_mac, nd->eth.src, sizeof(asker_mac));
	__builtin_memcpy(target, nd->target, sizeof(target));
	found = neighbour_of(vni, target, sizeof(target));
	if (!found || bpf_skb_change_tail(skb, sizeof(*nd), 0))
		return TCX_NEXT;
	nd = (void *)(long)skb->data;
	if ((void *)(nd + 1) > (void *)(long)skb->data_end)
		return TCX_NEXT;

	// Somebody who has no address yet asks whether the one it means to take is free (RFC 4862, section 5.4); the answer is
	// for all (RFC 4861, section 7.2.4).
	detection = !(asker[0] | asker[1] | asker[2] | asker[3]);
	if (detection) {
		__builtin_memcpy(nd->eth.dst, ((__u8[]){ 0x33, 0x33, 0, 0, 0, 1 }), 6);
		asker[0] = htonl(0xff020000);
		asker[3] = htonl(1);
	} else {
		__builtin_memcpy(nd->eth.dst, asker_mac, sizeof(asker_mac));
	}
	__builtin_memcpy(nd->eth.src, found->mac, 6);
	nd->ip = (struct ipv6hdr){
		.version_class_flow = htonl(0x60000000),
		.payload_len = htons(ICMPV6_LEN),
		.next_header = IPPROTO_ICMPV6,
		.hop_limit = ND_HOPS,
	};
	__builtin_memcpy(nd->ip.src, target, sizeof(target));
	__builtin_memcpy(nd->ip.dst, asker, sizeof(asker));
	nd->type = ND_ADVERTISEMENT;
	nd->code = 0;
	nd->checksum = 0;
	nd->flags = detection ? ND_OVERRIDE : ND_SOLICITED | ND_OVERRIDE;
	__builtin_memcpy(nd->target, target, sizeof(target));
	nd->option = ND_OPTION_TARGET_MAC;
	nd->option_len = 1; // in units of 8 bytes
	__builtin_memcpy(nd->mac, found->mac, 6);
	nd->checksum = icmpv6_checksum(nd);
	return bpf_redirect(skb->ifindex, 0);
}
