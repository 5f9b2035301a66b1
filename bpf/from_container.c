// A frame leaves a container: it is at the ingress of the near end of its veth pair, in the overlay namespace.
//
// To a station on this host it goes straight into that container. To one on another host it gets its outer headers
// here and goes over the trunk into the host's namespace, where to_wire sends it; on a direct network it goes without them to a
// host on the link. Who asks for the MAC address of a station on another host is answered. Everything else (broadcast,
// multicast, unknown stations, tagged frames, other protocols) is left to the bridge.
#include "discovery.h"
#include "maps.h"
#include "vxlan.h"

#define ENCAP (BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET | BPF_F_ADJ_ROOM_ENCAP_L4_UDP | \
	       BPF_F_ADJ_ROOM_ENCAP_L2_ETH | BPF_F_ADJ_ROOM_ENCAP_L2(sizeof(struct ethhdr)))

// What encapsulate4 and encapsulate6 return when the frame is ready for the trunk; else it is the program's verdict.
#define ENCAPSULATED 0

INLINE int encapsulate4(struct __sk_buff *skb, struct host *host, struct flow *flow, __u8 tos, __u16 source)
{
	struct outer4 *outer;
	__u32 inner_len = skb->len;

	if (bpf_skb_adjust_room(skb, OVERHEAD4, BPF_ADJ_ROOM_MAC, ENCAP | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4))
		return TCX_NEXT;
	outer = (void *)(long)skb->data;
	if ((void *)(outer + 1) > (void *)(long)skb->data_end)
		return drop(DROP_ENCAP);

	outer->inner = outer->eth;
	outer->eth.proto = htons(ETH_P_IP);
	outer->ip = (struct iphdr){
		.version_ihl = 0x45,
		.tos = tos,
		.tot_len = htons(inner_len + OVERHEAD4 - sizeof(struct ethhdr)),
		.id = htons(flow->id),
		.ttl = 64,
		.protocol = IPPROTO_UDP,
		.src = host->vtep.word[0],
		.dst = flow->to.vtep.word[0],
	};
	// Packets that belong together have identifications that follow each other: only then does the receiver join them (GRO).
	flow->id += skb->gso_segs ?: 1;
	outer->ip.check = ipv4_checksum(&outer->ip);
	outer->udp = (struct udphdr){
		.src = source,
		.dst = host->udp_port,
		.len = htons(inner_len + OVERHEAD4 - sizeof(struct ethhdr) - sizeof(struct iphdr)),
	};
	outer->vxlan = (struct vxlanhdr){ .flags = VXLAN_VNI_FLAG, .vni = htonl(flow->vni << 8) };
	return ENCAPSULATED;
}

INLINE int encapsulate6(struct __sk_buff *skb, struct host *host, struct flow *flow, __u8 tos, __u16 source)
{
	struct outer6 *outer;
	__u32 inner_len = skb->len;
	__u16 udp_len = htons(inner_len + OVERHEAD6 - sizeof(struct ethhdr) - sizeof(struct ipv6hdr));

	if (bpf_skb_adjust_room(skb, OVERHEAD6, BPF_ADJ_ROOM_MAC, ENCAP | BPF_F_ADJ_ROOM_ENCAP_L3_IPV6))
		return TCX_NEXT;
	outer = (void *)(long)skb->data;
	if ((void *)(outer + 1) > (void *)(long)skb->data_end)
		return drop(DROP_ENCAP);

	outer->inner = outer->eth;
	outer->eth.proto = htons(ETH_P_IPV6);
	outer->ip.version_class_flow = htonl(0x60000000 | (__u32)tos << 20);
	outer->ip.payload_len = udp_len;
	outer->ip.next_header = IPPROTO_UDP;
	outer->ip.hop_limit = 64;
	__builtin_memcpy(outer->ip.src, &host->vtep, sizeof(host->vtep));
	__builtin_memcpy(outer->ip.dst, &flow->to.vtep, sizeof(flow->to.vtep));
	// A zero checksum over IPv6: RFC 6935 and 6936 allow it for tunnels.
	outer->udp = (struct udphdr){ .src = source, .dst = host->udp_port, .len = udp_len };
	outer->vxlan = (struct vxlanhdr){ .flags = VXLAN_VNI_FLAG, .vni = htonl(flow->vni << 8) };
	return ENCAPSULATED;
}

// The inner DSCP and ECN field, for the outer header: RFC 6040's normal mode copies the ECN field; the DSCP goes
// along, so that the underlay treats the frame as its sender asked (RFC 2983's uniform model).
INLINE __u8 tos_of(void *ip, __u16 proto)
{
	if (proto == htons(ETH_P_IP))
		return ((struct iphdr *)ip)->tos;
	return ntohl(((struct ipv6hdr *)ip)->version_class_flow) >> 20;
}

// Where frames from a port to a MAC address go: remembered, or looked up. 0: nowhere that we know.
INLINE struct flow *flow_of(__u32 ifindex, __u8 *mac, __u32 version)
{
	__u32 low = *(__u32 *)(mac + 2);
	__u16 high = *(__u16 *)mac;
	__u32 slot = ((low ^ ifindex << 4) * 0x9e3779b1) >> 22; // ten bits: FLOWS
	struct flow *flow = bpf_map_lookup_elem(&flows, &slot);
	struct station_key key = {};
	struct station *to;
	struct port *port;

	if (!flow)
		return 0;
	if (likely(flow->version == version && flow->ifindex == ifindex && *(__u32 *)(flow->mac + 2) == low &&
		   *(__u16 *)flow->mac == high))
		return flow;
	port = bpf_map_lookup_elem(&ports, &ifindex);
	if (!port)
		return 0;
	key.vni = port->vni;
	__builtin_memcpy(key.mac, mac, sizeof(key.mac));
	to = bpf_map_lookup_elem(&stations, &key);
	if (!to)
		return 0;
	// The version was read before the maps were: if they changed in between, it is an old one by now.
	flow->version = version;
	flow->ifindex = ifindex;
	__builtin_memcpy(flow->mac, mac, sizeof(flow->mac));
	flow->id = (__u16)bpf_get_prandom_u32();
	flow->vni = port->vni;
	flow->counter = port->counter;
	flow->to = *to;
	flow->direct = 0;
	flow->inner_dst = (struct address){};
	return flow;
}

// A frame that is not for one station, or not of a protocol that is carried: a question that can be answered, or none.
INLINE int answer(struct __sk_buff *skb, __u16 proto)
{
	__u32 ifindex = skb->ifindex;
	struct port *port = bpf_map_lookup_elem(&ports, &ifindex);

	if (!port)
		return TCX_NEXT;
	if (proto == htons(ETH_P_ARP))
		return answer_arp(skb, port->vni);
	return proto == htons(ETH_P_IPV6) ? answer_solicitation(skb, port->vni) : TCX_NEXT;
}

// The largest IP packet that this one is or will be cut into.
INLINE __u32 largest_packet(struct __sk_buff *skb, struct ethhdr *eth, void *end)
{
	__u32 header = sizeof(struct ipv6hdr);
	struct iphdr *v4 = (void *)(eth + 1);
	struct ipv6hdr *v6 = (void *)(eth + 1);
	__u8 protocol, *l4;

	if (!skb->gso_size)
		return skb->len - sizeof(*eth);
	if (eth->proto == htons(ETH_P_IP)) {
		if (v4->version_ihl != 0x45)
			return ~0u;
		protocol = v4->protocol;
		l4 = (void *)(v4 + 1);
		header = sizeof(*v4);
	} else {
		if ((void *)(v6 + 1) > end)
			return ~0u;
		protocol = v6->next_header;
		l4 = (void *)(v6 + 1);
	}
	if (protocol != IPPROTO_TCP)
		return header + sizeof(struct udphdr) + skb->gso_size;
	return (void *)(l4 + 20) <= end ? header + (l4[12] >> 4) * 4 + skb->gso_size : ~0u;
}

// The largest inner packet that the path to a peer takes.
INLINE __u32 path_mtu(struct host *host, struct station *to)
{
	struct next_hop *hop = bpf_map_lookup_elem(&next_hops, &to->counter);
	__u32 overhead = host->ipv6 ? OVERHEAD6 : OVERHEAD4;

	if (!hop || hop->mtu <= overhead || hop->mtu - overhead > host->mtu || !same_address(&hop->to, &to->vtep))
		return host->mtu;
	return hop->mtu - overhead;
}

// Whether packets from this port between these addresses may go without outer headers. The receiver knows them by their
// addresses alone: so both must be the stations' own, or a container could send into another network.
INLINE int may_go_plain(struct flow *flow, __u8 *mac, struct address *src, struct address *dst)
{
	struct station_key key = { .vni = flow->vni };
	struct direct *to, *of;
	struct station *sender;

	to = bpf_map_lookup_elem(&directs, dst);
	if (!to || !to->sends || to->vni != flow->vni || !same_mac(to->mac, flow->mac))
		return 0;
	of = bpf_map_lookup_elem(&directs, src);
	if (!of || of->vni != flow->vni || !same_mac(of->mac, mac))
		return 0;
	__builtin_memcpy(key.mac, mac, sizeof(key.mac));
	sender = bpf_map_lookup_elem(&stations, &key);
	return sender && sender->ifindex == flow->ifindex;
}

// Whether a frame's packet goes as it is: it is of a direct network, and its receiver's host is on the link.
INLINE int goes_plain(struct __sk_buff *skb, struct ethhdr *eth, void *end, struct host *host, struct flow *flow)
{
	struct address src = {}, dst = {};
	struct next_hop *hop;

	if (!addresses_of(eth + 1, end, eth->proto, &src, &dst))
		return 0;
	if (unlikely(!same_address(&dst, &flow->inner_dst) || !same_address(&src, &flow->inner_src))) {
		flow->direct = may_go_plain(flow, eth->src, &src, &dst);
		flow->inner_src = src;
		flow->inner_dst = dst;
	}
	if (!flow->direct)
		return 0;
	// The first packet to a peer asks for the way in outer headers, which any way can carry.
	hop = bpf_map_lookup_elem(&next_hops, &flow->to.counter);
	return hop && hop->on_link && same_address(&hop->to, &flow->to.vtep) &&
	       largest_packet(skb, eth, end) <= (hop->mtu ?: host->mtu);
}

SEC("classifier")
int from_container(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ethhdr *eth = data;
	__u32 ifindex = skb->ifindex;
	struct station *to;
	struct flow *flow;
	struct host *host;
	__u32 bytes;
	__u16 source;
	int verdict;
	__u8 tos;

	if (data + sizeof(*eth) + sizeof(struct iphdr) > end || skb->vlan_present)
		return TCX_NEXT;
	if ((eth->dst[0] & 1) || (eth->proto != htons(ETH_P_IP) && eth->proto != htons(ETH_P_IPV6)) ||
	    is_solicitation(data, end))
		return answer(skb, eth->proto);
	host = this_host();
	if (!host || !host->trunk_overlay)
		return TCX_NEXT;
	flow = flow_of(ifindex, eth->dst, host->version);
	if (!flow)
		return TCX_NEXT;
	to = &flow->to;
	if (to->ifindex) {
		if (to->ifindex == ifindex)
			return TCX_NEXT;
		sent(flow->counter, skb->len);
		received(to->counter, skb->len);
		// The near end is not whom the frame is for, so the kernel has marked it as somebody else's.
		bpf_skb_change_type(skb, PACKET_HOST);
		return bpf_redirect_peer(to->ifindex, 0);
	}

	if (goes_plain(skb, eth, end, host, flow)) {
		sent(flow->counter, skb->len);
		sent(to->counter, skb->len);
		skb->mark = to->counter | MARK_DIRECT;
		return bpf_redirect_peer(host->trunk_overlay, 0);
	}
	// What does not fit the tunnel is for the kernel's path, which can fragment it.
	if (largest_packet(skb, eth, end) > path_mtu(host, to))
		return TCX_NEXT;
	tos = tos_of(data + sizeof(*eth), eth->proto);
	source = source_port(data + sizeof(*eth), eth->proto, end);
	bytes = skb->len;
	verdict = host->ipv6 ? encapsulate6(skb, host, flow, tos, source) : encapsulate4(skb, host, flow, tos, source);
	if (verdict != ENCAPSULATED)
		return verdict;
	sent(flow->counter, bytes);
	sent(to->counter, bytes);
	skb->mark = to->counter; // tells to_wire which peer
	return bpf_redirect_peer(host->trunk_overlay, 0);
}

LICENSE;
