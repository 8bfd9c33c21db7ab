//! What the ledger has to say about a read of a key.
//!
//! Every write names the writes that its context covers, so the writes of a key form a graph. An
//! acknowledged put is accounted for if the read shows it, or if a chain of covering writes that
//! were not refused leads from it to one that the read shows, or to a delete. (So an unknown put
//! that covers it is not enough by itself: had it happened, it would be shown.) In the other
//! direction, what an acknowledged write covers must not be shown again, unless it had been sent to
//! two nodes: the later one may have taken it for a write of its own.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use pixii_core::types::{Key, WriteId};

use super::Action;
use super::history::{Fate, Write};
use super::value::{value_of, write_of};

/// What is wrong with a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Violation {
    /// Acknowledged, and neither there nor replaced by a write that is.
    Lost,
    /// Shown although an acknowledged write covers it.
    Resurrected,
    /// Shown although it was refused.
    Refused,
    /// Shown although an acknowledged write covers it, and it had been sent to two nodes: no fault,
    /// but a sibling more.
    Repeated,
    /// Shown, and nobody wrote it here; or not the bytes that were written.
    Foreign,
}

/// A fault of one write, or of a value that no write explains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    /// What is wrong.
    pub(crate) fault: Violation,
    /// The key.
    pub(crate) key: Key,
    /// The write; `None` if the value names none.
    pub(crate) write: Option<WriteId>,
    /// When it was issued and when it was answered, in milliseconds since 1970; zero if never.
    pub(crate) at_ms: (u64, u64),
}

/// Holds the values that a read of `key` has shown to the writes of its ledger.
pub(super) fn judge(key: &Key, writes: &[Write], shown: &[Bytes]) -> Vec<Finding> {
    let graph: HashMap<WriteId, &Write> = writes.iter().map(|write| (write.write, write)).collect();
    let finding = |fault, write: Option<WriteId>| {
        let known = write.and_then(|id| graph.get(&id));
        let at_ms = known.map_or((0, 0), |write| (write.issued_ms, write.settled_ms));
        Finding { fault, key: key.clone(), write, at_ms }
    };
    let mut findings = Vec::new();
    let mut there = Vec::new();
    for value in shown {
        let id = write_of(value);
        match id.and_then(|id| graph.get(&id)) {
            Some(write) if !is_whole(write, value) => {
                findings.push(finding(Violation::Foreign, id))
            }
            Some(write) if write.fate == Fate::Refused => {
                findings.push(finding(Violation::Refused, id));
            }
            Some(write) => there.push(write.write),
            None => findings.push(finding(Violation::Foreign, id)),
        }
    }
    let live = |write: &&Write| write.fate != Fate::Refused;
    let deletes = writes.iter().filter(live).filter(|write| write.act == Action::Delete);
    let ends = there.iter().copied().chain(deletes.map(|write| write.write)).collect();
    let accounted = closure(&graph, ends);
    for write in writes {
        let open = write.fate == Fate::Acknowledged && write.act != Action::Delete;
        if open && !accounted.contains(&write.write) {
            findings.push(finding(Violation::Lost, Some(write.write)));
        }
    }
    let done = writes.iter().filter(|write| write.fate == Fate::Acknowledged);
    let replaced = closure(&graph, done.flat_map(|write| write.covers.to_vec()).collect());
    for id in there.iter().filter(|id| replaced.contains(id)) {
        let repeated = graph.get(id).is_some_and(|write| write.repeated);
        let fault = if repeated { Violation::Repeated } else { Violation::Resurrected };
        findings.push(finding(fault, Some(*id)));
    }
    findings
}

fn is_whole(write: &Write, value: &Bytes) -> bool {
    match write.act {
        Action::Put { bytes } => value_of(write.write, bytes as usize) == *value,
        Action::Delete => false,
    }
}

/// `from`, and all that they cover, directly or not. Refused writes cover nothing.
fn closure(graph: &HashMap<WriteId, &Write>, mut from: Vec<WriteId>) -> HashSet<WriteId> {
    let mut found = HashSet::new();
    while let Some(id) = from.pop() {
        if found.insert(id)
            && let Some(write) = graph.get(&id)
            && write.fate != Fate::Refused
        {
            from.extend(write.covers.iter().copied());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACKED: Fate = Fate::Acknowledged;

    fn put(id: u128, covers: &[u128], fate: Fate) -> Write {
        Write {
            write: WriteId(id),
            act: Action::Put { bytes: 20 },
            covers: covers.iter().map(|id| WriteId(*id)).collect(),
            fate,
            repeated: false,
            issued_ms: 1,
            settled_ms: 2,
        }
    }

    fn delete(id: u128, covers: &[u128], fate: Fate) -> Write {
        Write { act: Action::Delete, ..put(id, covers, fate) }
    }

    fn faults(writes: &[Write], shown: &[u128]) -> Vec<(Violation, u128)> {
        let shown: Vec<Bytes> = shown.iter().map(|id| value_of(WriteId(*id), 20)).collect();
        let found = judge(&Key::new(&b"k"[..]).unwrap(), writes, &shown);
        found.into_iter().map(|f| (f.fault, f.write.unwrap().0)).collect()
    }

    #[test]
    fn acknowledged_puts_are_shown_or_covered_by_what_is_shown() {
        let chain = [put(1, &[], ACKED), put(2, &[1], ACKED), put(3, &[2], ACKED)];
        assert_eq!(faults(&chain, &[3]), []);
        assert_eq!(faults(&chain, &[]), [1, 2, 3].map(|id| (Violation::Lost, id)));
        assert_eq!(faults(&chain, &[2]), [(Violation::Lost, 3), (Violation::Resurrected, 2)]);
        let siblings = [put(1, &[], ACKED), put(2, &[], ACKED)];
        assert_eq!(faults(&siblings, &[1, 2]), []);
        assert_eq!(faults(&siblings, &[2]), [(Violation::Lost, 1)]);
    }

    #[test]
    fn what_was_sent_to_two_nodes_may_come_again_and_is_owed_all_the_same() {
        let twice = Write { repeated: true, ..put(1, &[], ACKED) };
        let writes = [twice, put(2, &[1], ACKED)];
        assert_eq!(faults(&writes, &[2]), []);
        assert_eq!(faults(&writes, &[1, 2]), [(Violation::Repeated, 1)]);
        assert_eq!(faults(&writes[..1], &[]), [(Violation::Lost, 1)]);
    }

    #[test]
    fn an_unknown_write_may_be_there_or_not() {
        let maybe = [put(1, &[], ACKED), put(2, &[1], Fate::Unknown)];
        assert_eq!(faults(&maybe, &[1]), []);
        assert_eq!(faults(&maybe, &[2]), []);
        assert_eq!(faults(&maybe, &[1, 2]), [], "what no acknowledged write covers may stay");
        assert_eq!(faults(&maybe, &[]), [(Violation::Lost, 1)], "it would be shown");
        let over = [put(1, &[], ACKED), put(2, &[1], Fate::Unknown), put(3, &[2], ACKED)];
        assert_eq!(faults(&over, &[3]), []);
        assert_eq!(faults(&over, &[1, 3]), [(Violation::Resurrected, 1)]);
    }

    #[test]
    fn deletes_end_what_they_cover_and_only_that() {
        for fate in [ACKED, Fate::Unknown] {
            let gone = [put(1, &[], ACKED), delete(2, &[1], fate)];
            assert_eq!(faults(&gone, &[]), []);
        }
        let gone = [put(1, &[], ACKED), put(3, &[], ACKED), delete(2, &[1], ACKED)];
        assert_eq!(faults(&gone, &[3]), []);
        assert_eq!(faults(&gone, &[1, 3]), [(Violation::Resurrected, 1)]);
        assert_eq!(faults(&gone, &[]), [(Violation::Lost, 3)]);
        let refused = [put(1, &[], ACKED), delete(2, &[1], Fate::Refused)];
        assert_eq!(faults(&refused, &[]), [(Violation::Lost, 1)]);
    }

    #[test]
    fn what_nobody_wrote_or_what_was_refused_is_not_shown() {
        let writes = [put(1, &[], Fate::Refused), put(2, &[], ACKED)];
        assert_eq!(faults(&writes, &[1, 2]), [(Violation::Refused, 1)]);
        assert_eq!(faults(&writes, &[2, 9]), [(Violation::Foreign, 9)]);
        let key = Key::new(&b"k"[..]).unwrap();
        let mut altered = value_of(WriteId(2), 20).to_vec();
        altered[19] ^= 1;
        for value in [altered, value_of(WriteId(2), 19).to_vec(), b"short".to_vec()] {
            let found = judge(&key, &writes, &[value.into()]);
            let kinds: Vec<Violation> = found.iter().map(|finding| finding.fault).collect();
            assert_eq!(kinds, [Violation::Foreign, Violation::Lost]);
        }
    }
}
