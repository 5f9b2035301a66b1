// What the programs need of the kernel's interface, and no more: no kernel headers are needed to build them.
// Numbers and layouts are the kernel's stable user-space interface (include/uapi/linux/bpf.h, if_ether.h, ip.h).
#pragma once

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef int __s32;
typedef long long __s64;

#define SEC(name) __attribute__((section(name), used))
#define LICENSE __attribute__((section("license"), used)) char _license[] = "GPL"
#define INLINE static inline __attribute__((always_inline))
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define htons(x) ((__u16)__builtin_bswap16(x))
#define ntohs(x) ((__u16)__builtin_bswap16(x))
#define htonl(x) ((__u32)__builtin_bswap32(x))
#define ntohl(x) ((__u32)__builtin_bswap32(x))

// tcx: go on with the next program, or with the kernel's own path. (In the older tc hooks -1 means the same.)
#define TCX_NEXT -1
#define TCX_DROP 2

struct __sk_buff {
	__u32 len, pkt_type, mark, queue_mapping, protocol, vlan_present, vlan_tci, vlan_proto, priority;
	__u32 ingress_ifindex, ifindex, tc_index, cb[5], hash, tc_classid, data, data_end, napi_id;
	__u32 family, remote_ip4, local_ip4, remote_ip6[4], local_ip6[4], remote_port, local_port, data_meta;
	__u64 flow_keys, tstamp;
	__u32 wire_len, gso_segs;
	__u64 sk;
	__u32 gso_size;
	__u8 tstamp_type;
	__u32 : 24;
	__u64 hwtstamp;
};

// Maps, described for the loader by BTF.
#define __uint(name, value) int(*name)[value]
#define __type(name, value) typeof(value) *name
#define BPF_MAP_TYPE_HASH 1
#define BPF_MAP_TYPE_ARRAY 2
#define BPF_MAP_TYPE_PERCPU_ARRAY 6
#define BPF_F_NO_PREALLOC 1

static void *(*bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static __u32 (*bpf_get_prandom_u32)(void) = (void *)7;
static long (*bpf_redirect)(__u32 ifindex, __u64 flags) = (void *)23;
static long (*bpf_skb_pull_data)(struct __sk_buff *, __u32 len) = (void *)39;
static long (*bpf_skb_change_tail)(struct __sk_buff *, __u32 len, __u64 flags) = (void *)38;
static long (*bpf_skb_change_type)(struct __sk_buff *, __u32 type) = (void *)32;
static long (*bpf_skb_adjust_room)(struct __sk_buff *, __s32 len, __u32 mode, __u64 flags) = (void *)50;
static long (*bpf_fib_lookup)(void *ctx, void *params, int len, __u32 flags) = (void *)69;
static long (*bpf_redirect_neigh)(__u32 ifindex, void *params, int len, __u64 flags) = (void *)152;
static __u64 (*bpf_ktime_get_coarse_ns)(void) = (void *)160;
static long (*bpf_redirect_peer)(__u32 ifindex, __u64 flags) = (void *)155;

#define PACKET_HOST 0
#define BPF_ADJ_ROOM_MAC 1
#define BPF_F_ADJ_ROOM_FIXED_GSO (1ULL << 0)
#define BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 (1ULL << 1)
#define BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 (1ULL << 2)
#define BPF_F_ADJ_ROOM_ENCAP_L4_UDP (1ULL << 4)
#define BPF_F_ADJ_ROOM_NO_CSUM_RESET (1ULL << 5)
#define BPF_F_ADJ_ROOM_ENCAP_L2_ETH (1ULL << 6)
#define BPF_F_ADJ_ROOM_DECAP_L3_IPV4 (1ULL << 7)
#define BPF_F_ADJ_ROOM_DECAP_L3_IPV6 (1ULL << 8)
#define BPF_F_ADJ_ROOM_ENCAP_L2(len) (((__u64)(len)&0xff) << 56)

#define BPF_FIB_LKUP_RET_SUCCESS 0
#define BPF_FIB_LKUP_RET_FWD_DISABLED 5
#define BPF_FIB_LKUP_RET_NO_NEIGH 7
#define AF_INET 2
#define AF_INET6 10

struct bpf_fib_lookup {
	__u8 family, l4_protocol;
	__u16 sport, dport;
	__u16 tot_len; // nonzero: the answer has the path's MTU in it
	__u32 ifindex;
	__u32 flow; // tos for IPv4, flow info for IPv6
	__u32 src[4], dst[4];
	__u16 vlan_proto, vlan_tci;
	__u8 smac[6], dmac[6];
};

struct bpf_redir_neigh {
	__u32 nh_family;
	__u32 nh[4];
};

#define ETH_P_IP 0x0800
#define ETH_P_ARP 0x0806
#define ETH_P_IPV6 0x86dd

struct ethhdr {
	__u8 dst[6], src[6];
	__u16 proto;
} __attribute__((packed));

struct iphdr {
	__u8 version_ihl, tos;
	__u16 tot_len, id, frag_off;
	__u8 ttl, protocol;
	__u16 check;
	__u32 src, dst;
};

struct ipv6hdr {
	__u32 version_class_flow;
	__u16 payload_len;
	__u8 next_header, hop_limit;
	__u32 src[4], dst[4];
};

struct udphdr {
	__u16 src, dst, len, check;
};
