// What the daemon tells the programs, and what they tell it. Filled from the same plan as the kernel's own tables.
// Every address is 16 bytes in network order: an IPv4 address stands in the first four, the others are zero.
#pragma once
#include "kernel.h"

struct address {
	__u32 word[4];
};

// A station: a MAC address on a network.
struct station_key {
	__u32 vni;
	__u8 mac[6];
	__u16 zero;
};

// Where it is: behind a port of this host (ifindex of the near end), or on the host with this VTEP.
struct station {
	__u32 ifindex;
	__u32 counter; // its slot in `counters`: the port's, or the peer's
	struct address vtep;
};

// A port: the near end of a container's veth pair, by its ifindex.
struct port {
	__u32 vni;
	__u32 counter;
};

// An address on a network: what ARP and ND ask for.
struct neighbour_key {
	__u32 vni;
	struct address address;
};

struct neighbour {
	__u8 mac[6];
	__u16 zero;
};

// A host that frames may come from, by its VTEP.
struct peer {
	__u32 counter;
};

// An address of a station on a direct network: its packets cross the link between two hosts as they are. They carry no VNI,
// so no two of these networks share an address. Entries for stations on other hosts are there as far as those hosts are on
// this one's link.
struct direct {
	__u32 vni;
	__u8 mac[6];
	__u8 prefix; // the length of the subnet's prefix
	__u8 sends;  // its host is another one, and takes such packets from this one
};

// The MAC address from which a host on the link sends such packets.
struct link_peer_key {
	__u8 mac[6];
	__u16 zero;
};

// This host.
struct host {
	struct address vtep;
	__u32 trunk_overlay; // ifindex of the trunk's end in the overlay namespace
	__u32 trunk_host;    // and of the one in the host's
	__u16 udp_port;	     // network order
	__u16 ipv6;	     // the VTEP is an IPv6 address
	__u32 mtu;	     // the largest inner IP packet that fits the tunnel
	__u32 version;	     // raised after every change of the tables but `neighbours`: what was remembered ends with it
};

struct counter {
	__u64 tx_packets, tx_bytes, rx_packets, rx_bytes;
};

// Why a frame was dropped by a program. Each is an index into `drops`.
enum drop {
	DROP_NO_ROUTE, // no route to the peer
	DROP_ENCAP,    // the kernel would not make room for the outer headers
	DROP_DECAP,    // nor take them away
	DROPS,
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 131072);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct station_key);
	__type(value, struct station);
} stations SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 262144);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct neighbour_key);
	__type(value, struct neighbour);
} neighbours SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct port);
} ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct address);
	__type(value, struct peer);
} peers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 262144);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct address);
	__type(value, struct direct);
} directs SEC(".maps");

// The value is its VTEP.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct link_peer_key);
	__type(value, struct address);
} link_peers SEC(".maps");

// This host, in the slot that `current` names. A change is written to the next slot before that is named, so no
// program sees half of it.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, struct host);
} hosts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} current SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 16384);
	__type(key, __u32);
	__type(value, struct counter);
} counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, DROPS);
	__type(key, __u32);
	__type(value, __u64);
} drops SEC(".maps");

// The next hop to a peer as the routing table had it a moment ago. Of to_wire; by the peer's counter slot. Whom a packet of a
// direct network is for stands nowhere else, so from_container relies on `to` and `on_link`.
struct next_hop {
	__u64 until; // in nanoseconds of the coarse monotonic clock
	struct address to;
	__u32 ifindex;
	__u8 dmac[6], smac[6];
	__u32 mtu; // of the path, with what routers have told; 0: not known
	__u32 on_link; // the peer was reached without a gateway when last looked for
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 16384);
	__type(key, __u32);
	__type(value, struct next_hop);
} next_hops SEC(".maps");

// What the last frames of this processor were about. Private to from_container; by a hash of port and MAC address.
struct flow {
	__u32 version;
	__u32 ifindex;
	__u8 mac[6];
	__u16 id; // the next outer IPv4 identification
	__u32 vni;
	__u32 counter; // the port's
	struct station to;
	// The last pair of inner addresses, and whether their packets may go without outer headers.
	struct address inner_src, inner_dst;
	__u32 direct;
};

#define FLOWS 1024
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, FLOWS);
	__type(key, __u32);
	__type(value, struct flow);
} flows SEC(".maps");

// The same for the frames that come from the wire. Private to from_wire; by a hash of network and MAC address.
struct arrival {
	__u32 version;
	__u32 ifindex; // of the port
	struct address vtep; // of the peer
	__u32 vni;
	__u8 mac[6];
	__u16 zero;
	__u32 counter; // the port's
	__u32 peer_counter;
};

#define ARRIVALS 1024
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, ARRIVALS);
	__type(key, __u32);
	__type(value, struct arrival);
} arrivals SEC(".maps");

// And for packets of direct networks. Private to from_wire; by a hash of both addresses.
struct plain {
	__u32 version;
	__u32 ifindex; // of the port
	struct address src, dst;
	__u8 from[6];	     // the MAC address that it came from
	__u8 mac[6], source[6]; // those that it is to have
	__u16 zero;
	__u32 counter; // the port's
	__u32 peer_counter;
};

#define PLAINS 1024
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, PLAINS);
	__type(key, __u32);
	__type(value, struct plain);
} plains SEC(".maps");

// In a frame's mark on the trunk, beside the peer's counter slot: it has no outer headers.
#define MARK_DIRECT (1u << 31)

INLINE int same_address(const struct address *a, const struct address *b)
{
	return a->word[0] == b->word[0] && a->word[1] == b->word[1] && a->word[2] == b->word[2] &&
	       a->word[3] == b->word[3];
}

INLINE int same_mac(const __u8 *a, const __u8 *b)
{
	return *(const __u32 *)(a + 2) == *(const __u32 *)(b + 2) && *(const __u16 *)a == *(const __u16 *)b;
}

// The addresses of a packet; both are zero beforehand. 0: it has no such headers.
INLINE int addresses_of(void *ip, void *end, __u16 proto, struct address *src, struct address *dst)
{
	struct ipv6hdr *v6 = ip;
	struct iphdr *v4 = ip;

	if (proto == htons(ETH_P_IP)) {
		if ((void *)(v4 + 1) > end)
			return 0;
		src->word[0] = v4->src;
		dst->word[0] = v4->dst;
		return 1;
	}
	if (proto != htons(ETH_P_IPV6) || (void *)(v6 + 1) > end)
		return 0;
	__builtin_memcpy(src, v6->src, sizeof(*src));
	__builtin_memcpy(dst, v6->dst, sizeof(*dst));
	return 1;
}

INLINE struct host *this_host(void)
{
	__u32 zero = 0;
	__u32 *slot = bpf_map_lookup_elem(&current, &zero);
	return slot ? bpf_map_lookup_elem(&hosts, slot) : 0;
}

INLINE void sent(__u32 slot, __u32 bytes)
{
	struct counter *counter = bpf_map_lookup_elem(&counters, &slot);
	if (counter) {
		counter->tx_packets += 1;
		counter->tx_bytes += bytes;
	}
}

INLINE void received(__u32 slot, __u32 bytes)
{
	struct counter *counter = bpf_map_lookup_elem(&counters, &slot);
	if (counter) {
		counter->rx_packets += 1;
		counter->rx_bytes += bytes;
	}
}

INLINE int drop(__u32 reason)
{
	__u64 *count = bpf_map_lookup_elem(&drops, &reason);
	if (count)
		*count += 1;
	return TCX_DROP;
}
