//! Bytes on the wire: VXLAN, ARP and ND, parsed and emitted.
