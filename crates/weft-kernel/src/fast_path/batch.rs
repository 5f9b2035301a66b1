//! Reading a hash map with many entries to a system call (`BPF_MAP_LOOKUP_BATCH`, bpf(2); Linux 5.6).
//!
//! Entry by entry, 100,000 of them are 200,000 system calls; here they are a few dozen.

use nix::libc;
use std::{
    io,
    mem::size_of,
    os::fd::{AsRawFd, BorrowedFd},
};

/// `linux/bpf.h`, `enum bpf_cmd`.
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
/// Entries in one call. A bucket is read whole or not at all, so it is far more than a bucket ever holds.
const BATCH: usize = 4096;

/// The part of `union bpf_attr` for batches.
#[repr(C, align(8))]
#[derive(Default)]
struct Attributes {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

/// All entries of the hash map behind `map`, whose keys and values are of these sizes. What changes meanwhile may or
/// may not be among them.
// The kernel is given addresses.
#[allow(unsafe_code)]
pub(super) fn read_all<const K: usize, const V: usize>(
    map: BorrowedFd<'_>,
) -> io::Result<Vec<([u8; K], [u8; V])>> {
    let mut entries = Vec::new();
    let mut keys = vec![[0u8; K]; BATCH];
    let mut values = vec![[0u8; V]; BATCH];
    // Where the next batch begins: a bucket's number, of 32 bits.
    let (mut here, mut next) = (0u32, 0u32);
    let mut begun = false;
    loop {
        let mut attributes = Attributes {
            in_batch: if begun { (&raw const here) as u64 } else { 0 },
            out_batch: (&raw mut next) as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: u32::try_from(BATCH).unwrap_or(u32::MAX),
            map: map.as_raw_fd().cast_unsigned(),
            ..Attributes::default()
        };
        // SAFETY: the kernel reads `here`, and writes at most `count` keys and values of the map's sizes, which
        // the caller states as K and V and `Table` has checked; all buffers live until the call returns.
        let outcome = unsafe {
            libc::syscall(libc::SYS_bpf, BPF_MAP_LOOKUP_BATCH, &raw mut attributes, size_of::<Attributes>())
        };
        let error = (outcome < 0).then(io::Error::last_os_error);
        let at_the_end = match &error {
            None => false,
            Some(e) if e.raw_os_error() == Some(libc::ENOENT) => true,
            Some(e) if e.raw_os_error() == Some(libc::EINTR) => continue,
            Some(_) => return error.map_or(Ok(entries), Err),
        };
        let count = attributes.count as usize;
        entries.extend(keys.iter().copied().zip(values.iter().copied()).take(count));
        if at_the_end {
            return Ok(entries);
        }
        (here, begun) = (next, true);
    }
}
