// An encapsulated frame, or a packet of a direct network, enters the host's namespace: it is at the ingress of the trunk's
// end there.
//
// The kernel's routing table says where it leaves and who is next. Its answer holds for a few milliseconds: so a changed
// route, uplink or neighbour needs nobody's help, not even a daemon's.
#include "maps.h"
#include "vxlan.h"

#define HOP_AGE_NS 5000000

INLINE int send(struct __sk_buff *skb, struct next_hop *hop)
{
	struct ethhdr *eth = (void *)(long)skb->data;

	if ((void *)(eth + 1) > (void *)(long)skb->data_end)
		return TCX_DROP;
	__builtin_memcpy(eth->dst, hop->dmac, sizeof(hop->dmac));
	__builtin_memcpy(eth->src, hop->smac, sizeof(hop->smac));
	return bpf_redirect(hop->ifindex, 0);
}

// Asks who is next, and sends when it is known. Whom a packet without outer headers goes to is the peer itself; the kernel has no
// way to send IPv6 so to a neighbour of IPv4.
INLINE int ask(struct __sk_buff *skb, __u32 ifindex, __u8 family, struct address *to, __u32 direct)
{
	struct bpf_redir_neigh next = { .nh_family = family };

	if (!direct)
		return bpf_redirect_neigh(ifindex, 0, 0, 0);
	if (family == AF_INET && skb->protocol != htons(ETH_P_IP))
		return drop(DROP_NO_ROUTE);
	__builtin_memcpy(next.nh, to, sizeof(next.nh));
	return bpf_redirect_neigh(ifindex, &next, sizeof(next), 0);
}

SEC("classifier")
int to_wire(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct bpf_fib_lookup fib = { .ifindex = skb->ifindex, .l4_protocol = IPPROTO_UDP, .tot_len = 1 };
	__u32 direct = skb->mark & MARK_DIRECT, peer = skb->mark & ~MARK_DIRECT;
	__u64 now = bpf_ktime_get_coarse_ns();
	struct ethhdr *eth = data;
	struct next_hop *hop;
	struct address to = {};
	struct host *host;
	int on_link;
	__u8 family;
	long found;

	skb->mark = 0;
	hop = bpf_map_lookup_elem(&next_hops, &peer);
	if (!hop || data + sizeof(*eth) + sizeof(struct iphdr) > end)
		return TCX_DROP;
	if (direct) {
		host = this_host();
		if (!host)
			return TCX_DROP;
		family = host->ipv6 ? AF_INET6 : AF_INET;
		__builtin_memcpy(fib.src, &host->vtep, sizeof(fib.src));
		to = hop->to;
	} else if (eth->proto == htons(ETH_P_IP)) {
		struct iphdr *ip = data + sizeof(*eth);
		family = AF_INET;
		fib.src[0] = ip->src;
		to.word[0] = ip->dst;
	} else {
		struct ipv6hdr *ip = data + sizeof(*eth);
		if (data + sizeof(struct outer6) > end)
			return TCX_DROP;
		family = AF_INET6;
		__builtin_memcpy(fib.src, ip->src, sizeof(fib.src));
		__builtin_memcpy(&to, ip->dst, sizeof(to));
	}
	// A slot may have passed to another peer.
	if (likely(now < hop->until && same_address(&hop->to, &to) && (!direct || hop->on_link)))
		return send(skb, hop);

	fib.family = family;
	__builtin_memcpy(fib.dst, &to, sizeof(to));
	found = bpf_fib_lookup(skb, &fib, sizeof(fib), 0);
	// The answer has the gateway in the place of the peer, if there is one: what has no outer headers must not come there.
	on_link = fib.family == family && same_address((struct address *)fib.dst, &to);
	if (direct && !on_link) {
		hop->on_link = 0;
		return drop(DROP_NO_ROUTE);
	}
	if (found == BPF_FIB_LKUP_RET_NO_NEIGH) {
		// Packets without outer headers wait until it is known: see `ask`.
		hop->on_link = 0;
		return ask(skb, fib.ifindex, family, &to, direct);
	}
	// Somebody has switched forwarding off on all devices; the daemon will switch it on again on the trunk. Until then
	// frames leave by the device by which they left before.
	if (found == BPF_FIB_LKUP_RET_FWD_DISABLED && hop->ifindex)
		return ask(skb, hop->ifindex, family, &to, direct);
	if (found != BPF_FIB_LKUP_RET_SUCCESS)
		return drop(DROP_NO_ROUTE);
	hop->until = 0;
	hop->to = to;
	hop->ifindex = fib.ifindex;
	__builtin_memcpy(hop->dmac, fib.dmac, sizeof(hop->dmac));
	__builtin_memcpy(hop->smac, fib.smac, sizeof(hop->smac));
	hop->mtu = fib.tot_len; // from_container leaves what is larger to the kernel, from the next packet on
	hop->on_link = on_link;
	hop->until = now + HOP_AGE_NS;
	return send(skb, hop);
}

LICENSE;
