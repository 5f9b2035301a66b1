// An encapsulated frame enters the host's namespace: it is at the ingress of the trunk's end there.
//
// The kernel's routing table says where it leaves and who is next, for every frame anew: so a changed route, uplink or
// neighbour needs nobody's help, not even a daemon's.
#include "maps.h"
#include "vxlan.h"

SEC("classifier")
int to_wire(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ethhdr *eth = data;
	struct bpf_fib_lookup fib = { .ifindex = skb->ifindex, .l4_protocol = IPPROTO_UDP };
	long found;

	if (data + sizeof(struct outer4) > end)
		return TCX_DROP;
	if (eth->proto == htons(ETH_P_IP)) {
		struct iphdr *ip = data + sizeof(*eth);
		fib.family = AF_INET;
		fib.src[0] = ip->src;
		fib.dst[0] = ip->dst;
	} else {
		struct ipv6hdr *ip = data + sizeof(*eth);
		if (data + sizeof(struct outer6) > end)
			return TCX_DROP;
		fib.family = AF_INET6;
		__builtin_memcpy(fib.src, ip->src, sizeof(fib.src));
		__builtin_memcpy(fib.dst, ip->dst, sizeof(fib.dst));
	}

	found = bpf_fib_lookup(skb, &fib, sizeof(fib), 0);
	if (found == BPF_FIB_LKUP_RET_NO_NEIGH)
		return bpf_redirect_neigh(fib.ifindex, 0, 0, 0); // asks who is next, and sends when it knows
	if (found != BPF_FIB_LKUP_RET_SUCCESS)
		return drop(DROP_NO_ROUTE);
	data = (void *)(long)skb->data;
	eth = data;
	if ((void *)(eth + 1) > (void *)(long)skb->data_end)
		return TCX_DROP;
	__builtin_memcpy(eth->dst, fib.dmac, sizeof(fib.dmac));
	__builtin_memcpy(eth->src, fib.smac, sizeof(fib.smac));
	return bpf_redirect(fib.ifindex, 0);
}

LICENSE;
