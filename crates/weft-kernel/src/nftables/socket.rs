//! The conversation with the kernel: transactions and dumps on a netfilter socket (netlink(7)).

use super::{
    ChainKind, Family, Hook, HookPoint, Policy, Rule, SeenChain, SeenRule, SeenTable, Table,
    encode::{self, batch_header, comment_in, header},
};
use crate::{
    KernelError, Namespace,
    netlink::{ANSWER_SECONDS, io_failed, message_length, words_of},
};
use netlink_bindings::nftables::{
    Chained, ExprListAttrs, ExprOps, IterableChainAttrs, IterableRuleAttrs, OpGetchainDump, OpGetruleDump,
    OpGettableDump,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::{
    libc,
    sys::{
        socket::{setsockopt, sockopt},
        time::{TimeVal, TimeValLike},
    },
};
use std::{ffi::CStr, io};

/// A transaction goes out in one piece and its answers come in one piece; a thousand rules are 400 KiB.
const BUFFER: usize = 8 << 20;
/// The kernel writes at most 32 KiB of a dump at a time.
const READ_SIZE: usize = 64 << 10;
/// The length of a netlink header.
const HEADER: usize = 16;

/// The packet filter of one network namespace. Blocks; used from any thread.
///
/// Tables with [`super::Lifetime::OfSocket`] go with this value.
pub struct Nftables {
    socket: Socket,
    sequence: u32,
    received: Vec<u8>,
}

impl Nftables {
    /// That of `namespace`.
    pub fn open(namespace: &Namespace) -> Result<Self, KernelError> {
        namespace.run(Self::open_here)?
    }

    /// That of the calling thread's namespace.
    pub fn open_here() -> Result<Self, KernelError> {
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_NETFILTER)?;
            socket.bind(&SocketAddr::new(0, 0))?;
            socket.connect(&SocketAddr::new(0, 0))?;
            socket.set_ext_ack(true)?;
            socket.set_cap_ack(true)?;
            setsockopt(&socket, sockopt::RcvBufForce, &BUFFER)?;
            setsockopt(&socket, sockopt::SndBufForce, &BUFFER)?;
            setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(ANSWER_SECONDS))?;
            Ok(socket)
        };
        let socket = open().map_err(|e| io_failed("open a netfilter socket", &e))?;
        Ok(Self { socket, sequence: 0, received: Vec::with_capacity(READ_SIZE) })
    }

    /// Puts the table in place of whatever has its name, in one transaction: all of it or, with an error, nothing.
    pub fn replace(&mut self, table: &Table) -> Result<(), KernelError> {
        self.transaction(&format!("write the nftables table {}", table.name), |batch| {
            encode::replacement(batch, table);
        })
    }

    /// Removes a table with all that is in it, if it is there.
    pub fn remove(&mut self, family: Family, name: &str) -> Result<(), KernelError> {
        let outcome = self.transaction(&format!("remove the nftables table {name}"), |batch| {
            let mut request = batch.request().op_deltable_do(&header(family));
            request.encode().push_name_bytes(name.as_bytes());
        });
        match outcome {
            Err(error) if error.is_absent() => Ok(()),
            other => other,
        }
    }

    /// Puts rules behind all others of a chain of somebody else's table.
    pub fn append(
        &mut self,
        (family, table, chain): (Family, &str, &str),
        rules: &[Rule],
    ) -> Result<(), KernelError> {
        self.transaction(&format!("add rules to the nftables chain {table} {chain}"), |batch| {
            for rule in rules {
                let mut request = batch.request().set_create().set_append().op_newrule_do(&header(family));
                encode::new_rule(request.encode(), family, table, chain, rule);
            }
        })
    }

    /// Removes rules of a chain by their handles.
    pub fn remove_rules(
        &mut self,
        (family, table, chain): (Family, &str, &str),
        handles: &[u64],
    ) -> Result<(), KernelError> {
        self.transaction(&format!("remove rules from the nftables chain {table} {chain}"), |batch| {
            for handle in handles {
                let mut request = batch.request().op_delrule_do(&header(family));
                let request = request.encode().push_table_bytes(table.as_bytes());
                request.push_chain_bytes(chain.as_bytes()).push_handle(*handle);
            }
        })
    }

    /// The table of that name with its chains and the marks of their rules; `None`: there is none.
    pub fn observe(&mut self, family: Family, name: &str) -> Result<Option<SeenTable>, KernelError> {
        let doing = format!("read the nftables table {name}");
        let is_ours = |found: Option<&CStr>| found.is_some_and(|found| found.to_bytes() == name.as_bytes());
        let mut there = false;
        self.dump(
            &doing,
            |dump| drop(dump.request().op_gettable_dump(&header(family))),
            |message| {
                there |= is_ours(OpGettableDump::decode_request(message).1.get_name().ok());
            },
        )?;
        if !there {
            return Ok(None);
        }
        let mut table = SeenTable::default();
        self.dump(
            &doing,
            |dump| drop(dump.request().op_getchain_dump(&header(family))),
            |message| {
                let (_, chain) = OpGetchainDump::decode_request(message);
                if is_ours(chain.get_table().ok()) {
                    table.chains.extend(seen_chain(&chain));
                }
            },
        )?;
        let of_table = |dump: &mut Chained<'_>| {
            dump.request().op_getrule_dump(&header(family)).encode().push_table_bytes(name.as_bytes());
        };
        self.dump(&doing, of_table, |message| {
            let (_, rule) = OpGetruleDump::decode_request(message);
            let (Ok(chain), Ok(handle)) = (rule.get_chain(), rule.get_handle()) else { return };
            let mark = rule.get_userdata().ok().and_then(comment_in);
            let chain = table.chains.iter_mut().find(|c| c.name.as_bytes() == chain.to_bytes());
            if let Some(chain) = chain.filter(|_| is_ours(rule.get_table().ok())) {
                chain.rules.push(SeenRule { handle, mark, packets: counted(&rule) });
            }
        })?;
        Ok(Some(table))
    }

    fn transaction(
        &mut self,
        doing: &str,
        messages: impl FnOnce(&mut Chained<'_>),
    ) -> Result<(), KernelError> {
        let first = self.sequence.wrapping_add(1);
        let mut batch = Chained::new(first);
        drop(batch.request().op_batch_begin_do(&batch_header()));
        messages(&mut batch);
        drop(batch.request().op_batch_end_do(&batch_header()));
        let batch = batch.finalize();
        let count = messages_in(batch.buf());
        self.sequence = self.sequence.wrapping_add(count);
        // Whether the begin and the end are acknowledged depends on the kernel: they are not waited for.
        let mut pending = count.saturating_sub(2);
        let mut refused = None;
        self.socket.send(batch.buf(), 0).map_err(|e| io_failed(doing, &e))?;
        while pending > 0 && refused.is_none() {
            self.receive(doing, |message| {
                let index = message.sequence.wrapping_sub(first);
                if index >= count {
                    return;
                }
                let Some(errno) = message.errno() else { return };
                if errno != 0 {
                    refused.get_or_insert_with(|| refusal(doing, &message, errno));
                } else if index > 0 && index + 1 < count {
                    pending -= 1;
                }
            })?;
        }
        refused.map_or(Ok(()), Err)
    }

    fn dump(
        &mut self,
        doing: &str,
        request: impl FnOnce(&mut Chained<'_>),
        mut each: impl FnMut(&[u8]),
    ) -> Result<(), KernelError> {
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        let mut message = Chained::new(sequence);
        request(&mut message);
        self.socket.send(message.finalize().buf(), 0).map_err(|e| io_failed(doing, &e))?;
        let mut end = None;
        while end.is_none() {
            self.receive(doing, |message| {
                if message.sequence != sequence {
                    return;
                }
                match message.errno() {
                    Some(0) => end = Some(Ok(())),
                    Some(errno) => end = Some(Err(refusal(doing, &message, errno))),
                    None => each(message.payload),
                }
            })?;
        }
        end.unwrap_or(Ok(()))
    }

    /// Waits for one datagram and hands out the messages in it.
    fn receive(&mut self, doing: &str, mut each: impl FnMut(Message<'_>)) -> Result<(), KernelError> {
        self.received.clear();
        while let Err(error) = self.socket.recv(&mut self.received, 0) {
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(io_failed(doing, &error));
            }
        }
        let mut rest = self.received.as_slice();
        while let Some(length) = message_length(rest) {
            let (message, tail) = rest.split_at(length);
            rest = tail.get(length.next_multiple_of(4) - length..).unwrap_or_default();
            each(Message::of(message));
        }
        Ok(())
    }
}

/// A message from the kernel.
struct Message<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// `bytes` is a header at least.
    fn of(bytes: &'a [u8]) -> Self {
        let (header, payload) = bytes.split_at(HEADER);
        let half = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        let sequence = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]);
        Self { kind: half(4), flags: half(6), sequence, payload }
    }

    /// The outcome that it tells, as a positive errno; 0 is success. `None`: it tells of an object.
    fn errno(&self) -> Option<i32> {
        let ends = [libc::NLMSG_ERROR, libc::NLMSG_DONE].map(|kind| u16::try_from(kind).unwrap_or_default());
        let code = || self.payload.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes).abs());
        ends.contains(&self.kind).then(code)
    }
}

fn refusal(doing: &str, message: &Message<'_>, errno: i32) -> KernelError {
    let name = io::Error::from_raw_os_error(errno);
    let words = words_of(message.flags, message.payload.get(4..).unwrap_or_default());
    let reason = words.map_or_else(|| name.to_string(), |words| format!("{words} ({name})"));
    KernelError::netlink(doing, &reason, errno)
}

fn messages_in(mut bytes: &[u8]) -> u32 {
    let mut count = 0;
    while let Some(length) = message_length(bytes) {
        count += 1;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    count
}

/// The packets of a rule's counter.
fn counted(rule: &IterableRuleAttrs<'_>) -> Option<u64> {
    let elements = rule.get_expressions().ok()?;
    elements.flatten().find_map(|ExprListAttrs::Elem(expression)| match expression.get_data().ok()? {
        ExprOps::Counter(counter) => counter.get_packets().ok(),
        _ => None,
    })
}

fn seen_chain(chain: &IterableChainAttrs<'_>) -> Option<SeenChain> {
    let name = chain.get_name().ok()?.to_string_lossy().into_owned();
    Some(SeenChain { name, hook: seen_hook(chain), rules: Vec::new() })
}

fn seen_hook(chain: &IterableChainAttrs<'_>) -> Option<Hook> {
    let hook = chain.get_hook().ok()?;
    let kind = match chain.get_type().ok()?.to_bytes() {
        b"filter" => ChainKind::Filter,
        b"nat" => ChainKind::Nat,
        _ => return None,
    };
    let policy = chain.get_policy().ok()?;
    let policy = [Policy::Accept, Policy::Drop].into_iter().find(|known| known.number() == policy)?;
    let (point, priority) = (HookPoint::of(hook.get_num().ok()?)?, hook.get_priority().ok()?);
    Some(Hook { kind, point, priority, policy })
}
