// The answerers of bpf/discovery.h as functions of this machine, with what they ask of the kernel played here.
//
// A frame ends where its memory ends: behind it is a page that nobody may touch. The programs keep addresses in 32 bits, so
// that memory is in the lowest 4 GiB.
#define _GNU_SOURCE
#include <string.h>
#include <sys/mman.h>
#include "../../../bpf/discovery.h"

#define ROOM 4096u
#define REDIRECTED 7

// The only station that is known, on the network 7: 10.9.0.2, fd00:9::2.
static struct neighbour station = { .mac = { 2, 0x42, 10, 9, 0, 2 } };
static unsigned char *memory;

static void *lookup(void *map, const void *of)
{
	static const __u8 v4[16] = { 10, 9, 0, 2 };
	static const __u8 v6[16] = { 0xfd, 0, 0, 9, [15] = 2 };
	const struct neighbour_key *key = of;
	int known = !memcmp(&key->address, v4, 16) || !memcmp(&key->address, v6, 16);

	return map == &neighbours && key->vni == 7 && known ? &station : 0;
}

static long change_tail(struct __sk_buff *skb, __u32 len, __u64 flags)
{
	__u32 start = (__u32)(long)memory + ROOM - len, kept = skb->len < len ? skb->len : len;

	if (len > ROOM || flags)
		return -1;
	memmove((void *)(long)start, (void *)(long)skb->data, kept);
	memset((void *)(long)(start + kept), 0, len - kept);
	skb->data = start;
	skb->data_end = start + len;
	skb->len = len;
	return 0;
}

static long redirect(__u32 ifindex, __u64 flags)
{
	return ifindex == 3 && !flags ? REDIRECTED : -1;
}

// Answers a frame as from_container does with one of this EtherType: the answer's length, which then stands in `frame`,
// 0 for none, -1 when the memory for it cannot be had.
long weft_fuzz_answer(unsigned char *frame, unsigned len, unsigned capacity)
{
	struct __sk_buff skb = { .len = len, .ifindex = 3 };
	struct ethhdr *eth;
	int verdict;

	if (!memory) {
		memory = mmap(0, 2 * ROOM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
		if (memory == MAP_FAILED || mprotect(memory + ROOM, ROOM, PROT_NONE))
			return -1;
	}
	bpf_map_lookup_elem = lookup;
	bpf_skb_change_tail = change_tail;
	bpf_redirect = redirect;
	// What from_container looks at before.
	if (len > ROOM || len < sizeof(*eth) + sizeof(struct iphdr))
		return 0;
	skb.data = (__u32)(long)memory + ROOM - len;
	skb.data_end = skb.data + len;
	eth = memcpy((void *)(long)skb.data, frame, len);
	if (eth->proto == htons(ETH_P_ARP))
		verdict = answer_arp(&skb, 7);
	else if (eth->proto == htons(ETH_P_IPV6) &&
		 ((eth->dst[0] & 1) || is_solicitation((void *)(long)skb.data, (void *)(long)skb.data_end)))
		verdict = answer_solicitation(&skb, 7);
	else
		return 0;
	if (verdict != REDIRECTED || skb.len > capacity)
		return 0;
	memcpy(frame, (void *)(long)skb.data, skb.len);
	return skb.len;
}
