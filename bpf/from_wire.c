// A frame comes in from the wire: it is at the ingress of the uplink, in the host's namespace.
//
// A VXLAN frame for us, from a known peer, to a station behind one of our ports, loses its outer headers and goes over
// the trunk into the overlay namespace, where to_container hands it to its container. A packet without outer headers goes the
// same way if it is from one station of a direct network to another. Everything else goes on to the kernel: its VXLAN
// device carries what it may carry and drops the rest, and the host has its own.
#include "maps.h"
#include "vxlan.h"

#define DECAP (BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET)

// Whether the headers from UDP on are what our fast path sends.
INLINE int is_ours(struct udphdr *udp, struct vxlanhdr *vxlan, struct ethhdr *inner, struct host *host)
{
	return udp->dst == host->udp_port && !udp->check && vxlan->flags == VXLAN_VNI_FLAG &&
	       !(vxlan->vni & htonl(0xff)) && !(inner->dst[0] & 1) &&
	       (inner->proto == htons(ETH_P_IP) || inner->proto == htons(ETH_P_IPV6));
}

// Whom a frame from a peer to a MAC address is for: remembered, or looked up. 0: nobody that we know, or not from a peer.
INLINE struct arrival *arrival_of(struct address *from, __u32 vni, __u8 *mac, __u32 version)
{
	__u32 low = *(__u32 *)(mac + 2);
	__u16 high = *(__u16 *)mac;
	__u32 slot = ((low ^ vni << 12) * 0x9e3779b1) >> 22; // ten bits: ARRIVALS
	struct arrival *arrival = bpf_map_lookup_elem(&arrivals, &slot);
	struct station_key key = { .vni = vni };
	struct station *to;
	struct peer *peer;

	if (!arrival)
		return 0;
	if (likely(arrival->version == version && arrival->vni == vni && *(__u32 *)(arrival->mac + 2) == low &&
		   *(__u16 *)arrival->mac == high && same_address(&arrival->vtep, from)))
		return arrival;
	peer = bpf_map_lookup_elem(&peers, from);
	if (!peer)
		return 0;
	__builtin_memcpy(key.mac, mac, sizeof(key.mac));
	to = bpf_map_lookup_elem(&stations, &key);
	if (!to || !to->ifindex)
		return 0;
	// As in from_container: the version was read before the maps were.
	arrival->version = version;
	arrival->ifindex = to->ifindex;
	arrival->vtep = *from;
	arrival->vni = vni;
	__builtin_memcpy(arrival->mac, mac, sizeof(arrival->mac));
	arrival->counter = to->counter;
	arrival->peer_counter = peer->counter;
	return arrival;
}

// A packet of many segments keeps the tunnel's mark, and no helper takes it off. TCP never looks at it; UDP would cut the
// packet up by it, and lose all of it.
INLINE int can_lose_its_tunnel(struct __sk_buff *skb, struct ethhdr *inner)
{
	struct ipv6hdr *v6 = (void *)(inner + 1);
	struct iphdr *v4 = (void *)(inner + 1);
	void *end = (void *)(long)skb->data_end;

	if (!skb->gso_size)
		return 1;
	if (inner->proto == htons(ETH_P_IP))
		return (void *)(v4 + 1) <= end && v4->protocol == IPPROTO_TCP;
	return (void *)(v6 + 1) <= end && v6->next_header == IPPROTO_TCP;
}

INLINE int deliver(struct __sk_buff *skb, struct host *host, struct address *from, struct vxlanhdr *vxlan,
		   struct ethhdr *inner, int overhead)
{
	struct ethhdr frame = *inner;
	struct arrival *arrival = arrival_of(from, ntohl(vxlan->vni) >> 8, frame.dst, host->version);
	__u64 l3 = frame.proto == htons(ETH_P_IP) ? BPF_F_ADJ_ROOM_DECAP_L3_IPV4 : BPF_F_ADJ_ROOM_DECAP_L3_IPV6;

	if (!arrival || !can_lose_its_tunnel(skb, inner))
		return TCX_NEXT;
	if (bpf_skb_adjust_room(skb, -overhead, BPF_ADJ_ROOM_MAC, DECAP | l3))
		return drop(DROP_DECAP);
	inner = (void *)(long)skb->data;
	if ((void *)(inner + 1) > (void *)(long)skb->data_end)
		return drop(DROP_DECAP);
	*inner = frame;
	received(arrival->counter, skb->len);
	received(arrival->peer_counter, skb->len);
	skb->mark = arrival->ifindex;
	return bpf_redirect_peer(host->trunk_host, 0);
}

// Whether two addresses of one family have the same first `bits` bits.
INLINE int same_prefix(const struct address *a, const struct address *b, __u32 bits)
{
#pragma unroll
	for (__u32 i = 0; i < 4; i++) {
		__u32 first = i * 32;
		__u32 mask = bits <= first ? 0 : bits >= first + 32 ? ~0u : htonl(~0u << (first + 32 - bits));
		if ((a->word[i] ^ b->word[i]) & mask)
			return 0;
	}
	return 1;
}

// Between whom a packet is that came without outer headers, from the MAC address `from`: remembered, or looked up. 0: it is not
// for a station of a direct network here, or not from one of the same network elsewhere.
INLINE struct plain *plain_of(struct address *src, struct address *dst, __u8 *from, __u32 version)
{
	__u32 hash = (src->word[0] ^ src->word[3] << 8) * 31 + (dst->word[0] ^ dst->word[3]);
	__u32 slot = (hash * 0x9e3779b1) >> 22; // ten bits: PLAINS
	struct plain *plain = bpf_map_lookup_elem(&plains, &slot);
	struct link_peer_key link = {};
	struct station_key key = {};
	struct station *receiver, *sender;
	struct direct *to, *of;
	struct address *vtep;
	struct peer *peer = 0;

	if (!plain)
		return 0;
	if (likely(plain->version == version && same_address(&plain->dst, dst) && same_address(&plain->src, src) &&
		   same_mac(plain->from, from)))
		return plain;
	to = bpf_map_lookup_elem(&directs, dst);
	if (likely(!to))
		return 0;
	key.vni = to->vni;
	__builtin_memcpy(key.mac, to->mac, sizeof(key.mac));
	receiver = bpf_map_lookup_elem(&stations, &key);
	if (!receiver || !receiver->ifindex)
		return 0;
	plain->version = 0; // until all of it is written
	of = bpf_map_lookup_elem(&directs, src);
	if (of) {
		__builtin_memcpy(key.mac, of->mac, sizeof(key.mac));
		sender = bpf_map_lookup_elem(&stations, &key);
		if (of->vni != to->vni || !sender || sender->ifindex)
			return 0;
		__builtin_memcpy(plain->source, of->mac, sizeof(plain->source));
		plain->peer_counter = sender->counter;
	} else {
		// A station that this host has not heard of yet. Its host is known at least.
		__builtin_memcpy(link.mac, from, sizeof(link.mac));
		vtep = bpf_map_lookup_elem(&link_peers, &link);
		if (!vtep || !same_prefix(src, dst, to->prefix))
			return 0;
		peer = bpf_map_lookup_elem(&peers, vtep);
		__builtin_memcpy(plain->source, from, sizeof(plain->source));
		plain->peer_counter = peer ? peer->counter : ~0u;
	}
	plain->ifindex = receiver->ifindex;
	plain->counter = receiver->counter;
	plain->src = *src;
	plain->dst = *dst;
	__builtin_memcpy(plain->from, from, sizeof(plain->from));
	__builtin_memcpy(plain->mac, to->mac, sizeof(plain->mac));
	// As in from_container: the version was read before the maps were.
	plain->version = version;
	return plain;
}

INLINE int deliver_plain(struct __sk_buff *skb, struct host *host)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct address src = {}, dst = {};
	struct ethhdr *eth = data;
	struct plain *plain;
	__u32 headers;

	if (!host->trunk_host || skb->pkt_type != PACKET_HOST ||
	    (skb->protocol != htons(ETH_P_IP) && skb->protocol != htons(ETH_P_IPV6)))
		return TCX_NEXT;
	headers = sizeof(*eth) + (skb->protocol == htons(ETH_P_IP) ? sizeof(struct iphdr) : sizeof(struct ipv6hdr));
	// Some cards leave the headers where programs do not see them.
	if (data + headers > end && skb->len >= headers) {
		bpf_skb_pull_data(skb, headers);
		data = (void *)(long)skb->data;
		end = (void *)(long)skb->data_end;
		eth = data;
	}
	if (data + sizeof(*eth) > end || !addresses_of(eth + 1, end, eth->proto, &src, &dst))
		return TCX_NEXT;
	plain = plain_of(&src, &dst, eth->src, host->version);
	if (!plain)
		return TCX_NEXT;
	__builtin_memcpy(eth->dst, plain->mac, sizeof(eth->dst));
	__builtin_memcpy(eth->src, plain->source, sizeof(eth->src));
	received(plain->counter, skb->len);
	received(plain->peer_counter, skb->len);
	skb->mark = plain->ifindex;
	return bpf_redirect_peer(host->trunk_host, 0);
}

// Whether a frame is VXLAN for this host of the kind that the fast path sends over IPv4. Fragments and options are not; one marked
// by a congested router needs its inner header marked (RFC 6040), which the kernel's device does.
INLINE int is_for_us4(struct outer4 *outer, void *end, struct host *host)
{
	return (void *)(outer + 1) <= end && outer->eth.proto == htons(ETH_P_IP) &&
	       outer->ip.protocol == IPPROTO_UDP && outer->ip.version_ihl == 0x45 &&
	       !(outer->ip.frag_off & htons(0x3fff)) && (outer->ip.tos & ECN_MASK) != ECN_CE &&
	       outer->ip.dst == host->vtep.word[0] && is_ours(&outer->udp, &outer->vxlan, &outer->inner, host);
}

// The same over IPv6.
INLINE int is_for_us6(struct outer6 *outer, void *end, struct host *host)
{
	return (void *)(outer + 1) <= end && outer->eth.proto == htons(ETH_P_IPV6) &&
	       outer->ip.next_header == IPPROTO_UDP &&
	       ((ntohl(outer->ip.version_class_flow) >> 20) & ECN_MASK) != ECN_CE &&
	       outer->ip.dst[0] == host->vtep.word[0] && outer->ip.dst[1] == host->vtep.word[1] &&
	       outer->ip.dst[2] == host->vtep.word[2] && outer->ip.dst[3] == host->vtep.word[3] &&
	       is_ours(&outer->udp, &outer->vxlan, &outer->inner, host);
}

SEC("classifier")
int from_wire(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct host *host = this_host();
	struct address from = {};

	if (!host || skb->vlan_present)
		return TCX_NEXT;
	if (!host->ipv6) {
		struct outer4 *outer = data;
		if (is_for_us4(outer, end, host)) {
			from.word[0] = outer->ip.src;
			return deliver(skb, host, &from, &outer->vxlan, &outer->inner, OVERHEAD4);
		}
	} else {
		struct outer6 *outer = data;
		if (is_for_us6(outer, end, host)) {
			__builtin_memcpy(&from, outer->ip.src, sizeof(from));
			return deliver(skb, host, &from, &outer->vxlan, &outer->inner, OVERHEAD6);
		}
	}
	return deliver_plain(skb, host);
}

LICENSE;
