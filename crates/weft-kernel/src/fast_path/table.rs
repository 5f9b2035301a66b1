//! A hash map of the kernel's with typed entries, and what is believed to be in it.
//!
//! The belief is read from the kernel at every observation and follows what is written since; it is an index for
//! finding entries, never a reason not to write one.

use super::{batch, failed};
use crate::KernelError;
use aya::maps::{HashMap, IterableMap, Map, MapData};
use std::{collections::BTreeMap, fmt, os::fd::AsFd};

/// A key or a value as the programs have it: `N` bytes, laid out as in `bpf/maps.h`.
pub(super) trait Layout<const N: usize>: Copy + fmt::Debug + PartialEq {
    /// Its bytes.
    fn encode(self) -> [u8; N];
    /// What the bytes mean.
    fn decode(bytes: [u8; N]) -> Self;
}

/// A map with keys of `KN` and values of `VN` bytes.
pub(super) struct Table<Key, Value, const KN: usize, const VN: usize> {
    name: &'static str,
    map: HashMap<MapData, [u8; KN], [u8; VN]>,
    believed: BTreeMap<Key, Value>,
    changed: bool,
}

impl<Key, Value, const KN: usize, const VN: usize> Table<Key, Value, KN, VN>
where
    Key: Layout<KN> + Ord,
    Value: Layout<VN>,
{
    /// Refuses a map whose entries are of other sizes.
    pub fn new(name: &'static str, map: Map) -> Result<Self, KernelError> {
        let map: HashMap<_, _, _> =
            HashMap::try_from(map).map_err(|e| failed(format!("open map {name}"), &e))?;
        check_sizes(name, map.map(), KN, VN)?;
        Ok(Self { name, map, believed: BTreeMap::new(), changed: false })
    }

    /// Reads all entries.
    pub fn refresh(&mut self) -> Result<(), KernelError> {
        let found = batch::read_all::<KN, VN>(self.map.map().fd().as_fd());
        let found = found.map_err(|e| failed(format!("read map {}", self.name), &e))?;
        self.believed = found.into_iter().map(|(k, v)| (Key::decode(k), Value::decode(v))).collect();
        Ok(())
    }

    /// What is believed to be in it.
    pub fn entries(&self) -> &BTreeMap<Key, Value> {
        &self.believed
    }

    /// Makes or replaces an entry: whoever reads it sees the old one or the new one, whole.
    pub fn put(&mut self, key: Key, value: Value) -> Result<(), KernelError> {
        let written = self.map.insert(key.encode(), value.encode(), 0);
        written.map_err(|e| failed(format!("write {key:?} to map {}", self.name), &e))?;
        self.believed.insert(key, value);
        self.changed = true;
        Ok(())
    }

    /// Removes an entry, if it is there.
    pub fn remove(&mut self, key: Key) -> Result<(), KernelError> {
        self.believed.remove(&key);
        self.changed = true;
        match self.map.remove(&key.encode()) {
            Err(error) if !is_absent(&error) => {
                Err(failed(format!("remove {key:?} from map {}", self.name), &error))
            }
            _ => Ok(()),
        }
    }

    /// Removes the believed entries that are to go.
    pub fn remove_where(&mut self, goes: impl Fn(&Key, &Value) -> bool) -> Result<(), KernelError> {
        let keys: Vec<Key> = self.believed.iter().filter(|(k, v)| goes(k, v)).map(|(k, _)| *k).collect();
        keys.into_iter().try_for_each(|key| self.remove(key))
    }

    /// Whether something was changed since this was last asked.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }
}

/// Whether the map in the kernel, which may be an earlier daemon's, has keys and values of these sizes, in bytes.
pub(super) fn check_sizes(name: &str, map: &MapData, key: usize, value: usize) -> Result<(), KernelError> {
    let info = map.info().map_err(|e| failed(format!("open map {name}"), &e))?;
    let found = (info.key_size() as usize, info.value_size() as usize);
    if found == (key, value) {
        return Ok(());
    }
    let reason = format!("its keys and values have {found:?} bytes and not {:?}", (key, value));
    Err(KernelError::FastPath { doing: format!("open map {name}"), reason })
}

fn is_absent(error: &aya::maps::MapError) -> bool {
    use aya::maps::MapError;
    match error {
        MapError::KeyNotFound => true,
        MapError::SyscallError(call) => call.io_error.raw_os_error() == Some(nix::libc::ENOENT),
        _ => false,
    }
}
