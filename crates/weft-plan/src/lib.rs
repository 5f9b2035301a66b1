//! Pure decisions: addresses, and from a snapshot of the cluster to the kernel state of this host.
