// A frame from the wire enters the overlay namespace: it is at the ingress of the trunk's end there, its outer headers
// gone, and from_wire has written on it which port it is for.
#include "kernel.h"

SEC("classifier")
int to_container(struct __sk_buff *skb)
{
	__u32 port = skb->mark;

	if (!port)
		return TCX_DROP;
	skb->mark = 0;
	bpf_skb_change_type(skb, PACKET_HOST);
	return bpf_redirect_peer(port, 0);
}

LICENSE;
