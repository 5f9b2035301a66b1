//! The only crate that touches the kernel: namespaces, netlink; observe and apply.
