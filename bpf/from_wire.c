// A frame comes in from the wire: it is at the ingress of the uplink, in the host's namespace.
//
// A VXLAN frame for us, from a known peer, to a station behind one of our ports, loses its outer headers and goes over
// the trunk into the overlay namespace, where to_container hands it to its container. Everything else goes on to
// the kernel: its VXLAN device carries what it may carry and drops the rest.
#include "maps.h"
#include "vxlan.h"

#define DECAP (BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET)

// Whether the headers from UDP on are what our fast path sends.
INLINE int is_plain(struct udphdr *udp, struct vxlanhdr *vxlan, struct ethhdr *inner, struct host *host)
{
	return udp->dst == host->udp_port && !udp->check && vxlan->flags == VXLAN_VNI_FLAG &&
	       !(vxlan->vni & htonl(0xff)) && !(inner->dst[0] & 1) &&
	       (inner->proto == htons(ETH_P_IP) || inner->proto == htons(ETH_P_IPV6));
}

INLINE int deliver(struct __sk_buff *skb, struct host *host, struct peer *peer, struct vxlanhdr *vxlan,
		   struct ethhdr *inner, int overhead)
{
	struct station_key key = { .vni = ntohl(vxlan->vni) >> 8 };
	struct ethhdr frame = *inner;
	struct station *to;
	__u32 port;
	__u64 l3 = frame.proto == htons(ETH_P_IP) ? BPF_F_ADJ_ROOM_DECAP_L3_IPV4 : BPF_F_ADJ_ROOM_DECAP_L3_IPV6;

	__builtin_memcpy(key.mac, frame.dst, sizeof(key.mac));
	to = bpf_map_lookup_elem(&stations, &key);
	if (!to || !to->ifindex)
		return TCX_NEXT;
	port = to->ifindex;
	received(to->counter, skb->len - overhead);
	received(peer->counter, skb->len - overhead);
	if (bpf_skb_adjust_room(skb, -overhead, BPF_ADJ_ROOM_MAC, DECAP | l3))
		return drop(DROP_DECAP);
	inner = (void *)(long)skb->data;
	if ((void *)(inner + 1) > (void *)(long)skb->data_end)
		return drop(DROP_DECAP);
	*inner = frame;
	skb->mark = port;
	return bpf_redirect_peer(host->trunk_host, 0);
}

SEC("classifier")
int from_wire(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct host *host = this_host();
	struct address from = {};
	struct peer *peer;

	if (!host || skb->vlan_present)
		return TCX_NEXT;
	if (!host->ipv6) {
		struct outer4 *outer = data;
		// Fragments and options are not what the fast path sends; a frame marked by a congested router needs its inner
		// header marked (RFC 6040), which the kernel's device does.
		if ((void *)(outer + 1) > end || outer->eth.proto != htons(ETH_P_IP) ||
		    outer->ip.protocol != IPPROTO_UDP || outer->ip.version_ihl != 0x45 ||
		    (outer->ip.frag_off & htons(0x3fff)) || (outer->ip.tos & ECN_MASK) == ECN_CE ||
		    outer->ip.dst != host->vtep.word[0] ||
		    !is_plain(&outer->udp, &outer->vxlan, &outer->inner, host))
			return TCX_NEXT;
		from.word[0] = outer->ip.src;
		peer = bpf_map_lookup_elem(&peers, &from);
		return peer ? deliver(skb, host, peer, &outer->vxlan, &outer->inner, OVERHEAD4) : TCX_NEXT;
	}
	struct outer6 *outer = data;
	if ((void *)(outer + 1) > end || outer->eth.proto != htons(ETH_P_IPV6) ||
	    outer->ip.next_header != IPPROTO_UDP ||
	    ((ntohl(outer->ip.version_class_flow) >> 20) & ECN_MASK) == ECN_CE ||
	    outer->ip.dst[0] != host->vtep.word[0] || outer->ip.dst[1] != host->vtep.word[1] ||
	    outer->ip.dst[2] != host->vtep.word[2] || outer->ip.dst[3] != host->vtep.word[3] ||
	    !is_plain(&outer->udp, &outer->vxlan, &outer->inner, host))
		return TCX_NEXT;
	__builtin_memcpy(&from, outer->ip.src, sizeof(from));
	peer = bpf_map_lookup_elem(&peers, &from);
	return peer ? deliver(skb, host, peer, &outer->vxlan, &outer->inner, OVERHEAD6) : TCX_NEXT;
}

LICENSE;
