// It reads a frame's first byte without asking whether there is one: every verifier refuses that.
#include "kernel.h"

SEC("classifier")
int must_be_refused(struct __sk_buff *skb)
{
	return *(__u8 *)(long)skb->data;
}

LICENSE;
