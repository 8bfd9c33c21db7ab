//! The other end of an exchange: answers about the own trees. Nothing is remembered between two
//! questions, so a peer that stops half way leaves nothing behind.

use std::collections::BTreeMap;

use crate::gc_epoch::GcEpoch;
use crate::merkle::{FANOUT, GAUGES, LEAVES, LeafSet, SHAPE, width_of};
use crate::message::{Body, Counter, Item, Measure, Rejection, Resource};
use crate::node::ids::{RequestId, ScanPurpose, ScanToken};
use crate::node::io::Io;
use crate::node::local_state::stalled;
use crate::store::{Detail, ScanPage, Scanned, Span};
use crate::types::{Blob, Key, NodeId, Partition};

/// Lists of keys that are read for peers at a time; a peer that requests more has to try again.
const MAX_SCANS: usize = 8;
/// Bytes of records read for one list.
const PAGE_BYTES: usize = 1 << 20;

/// Lists of keys and of records in progress.
#[derive(Clone, Debug)]
pub(super) struct Answers {
    scans: BTreeMap<ScanToken, PeerScan>,
    /// Bytes of records in one page that is sent, about.
    page_bytes: usize,
}

/// A list that is read for a peer.
#[derive(Clone, Copy, Debug)]
struct PeerScan {
    to: NodeId,
    request_id: RequestId,
    partition: Partition,
    wanted: Wanted,
}

/// What the peer wants.
#[derive(Clone, Copy, Debug)]
enum Wanted {
    Keys,
    /// The records, and the GC epoch in which the reading began.
    Records(GcEpoch),
}

impl Answers {
    pub(super) fn new(page_bytes: usize) -> Self {
        Answers { scans: BTreeMap::new(), page_bytes }
    }

    /// Answers a question about a tree. Returns the partition if the peer's root equals this
    /// node's.
    pub(super) fn query(
        &mut self,
        from: NodeId,
        request_id: RequestId,
        body: Body,
        io: &mut Io,
    ) -> Option<Partition> {
        let (partition, equal) = match &body {
            Body::Compare { partition, root, .. } => (*partition, Some(*root)),
            Body::Descend { partition, .. }
            | Body::Leaves { partition, .. }
            | Body::Fetch { partition, .. } => (*partition, None),
            _ => return None,
        };
        let own_root = io.local.trees.tree(partition).map(|tree| tree.root());
        match self.answer(from, request_id, partition, body, io) {
            Ok(None) => {}
            // What is reported of the own records holds only once they are synced.
            Ok(Some(answer)) => {
                let seq = io.out.last_mark();
                io.out.send_synced(Some(seq), from, request_id, answer);
            }
            Err(rejection) => {
                io.out.count(Counter::ComparisonsRefused);
                io.out.send(vec![from], request_id, Body::Failed(rejection));
                return None;
            }
        }
        (equal.is_some() && equal == own_root).then_some(partition)
    }

    fn answer(
        &mut self,
        from: NodeId,
        request_id: RequestId,
        partition: Partition,
        body: Body,
        io: &mut Io,
    ) -> Result<Option<Body>, Rejection> {
        let partitions = io.local.ring().partitions();
        if partition.0 >= partitions {
            return Err(Rejection::Partition(partition.0, partitions));
        }
        // Who asks may be no owner any more, and have records left.
        if !io.local.owns(partition) {
            return Err(Rejection::NotOwner);
        }
        // An answer could wait for what is not synced.
        if io.local.stall().is_some() {
            return Err(stalled());
        }
        let own_gc_epoch = io.local.gc_epochs.number(partition);
        let Some(tree) = io.local.trees.tree(partition) else {
            return Err(Rejection::Unread(partition.0));
        };
        let children = |level: u8, nodes: &[u16], width: u8| {
            let width = usize::from(width);
            let mut bytes = Vec::with_capacity(nodes.len() * FANOUT * width);
            for child in nodes.iter().flat_map(|node| tree.children(level, *node)) {
                bytes.extend_from_slice(
                    &child.summary(request_id.wire(), width).to_be_bytes()[8 - width..],
                );
            }
            Body::Summaries(Blob(bytes.into()))
        };
        match body {
            Body::Compare { shape, width, root, gc_epoch, .. } => {
                within(Measure::Width, width, 1, 8)?;
                if gc_epoch != own_gc_epoch {
                    return Err(Rejection::GcState { given: gc_epoch, own: own_gc_epoch });
                }
                match (shape == SHAPE, root == tree.root()) {
                    (false, _) => Err(Rejection::Shape(shape)),
                    (true, true) => Ok(Some(Body::Equal)),
                    (true, false) => Ok(Some(children(0, &[0], width))),
                }
            }
            Body::Descend { width, level, nodes, .. } => {
                within(Measure::Width, width, 1, 8)?;
                within(Measure::Level, level, 0, u64::from(GAUGES) - 1)?;
                within(Measure::Nodes, nodes.len() as u64, 1, width_of(level) as u64)?;
                for node in &nodes {
                    within(Measure::Node, *node, 0, width_of(level) as u64 - 1)?;
                }
                Ok(Some(children(level, &nodes, width)))
            }
            Body::Leaves { leaves, after, .. } => {
                let scan = PeerScan { to: from, request_id, partition, wanted: Wanted::Keys };
                self.scan(scan, leaves, after, io).map(|()| None)
            }
            Body::Fetch { leaves, after, .. } => {
                let wanted = Wanted::Records(own_gc_epoch);
                let scan = PeerScan { to: from, request_id, partition, wanted };
                self.scan(scan, leaves, after, io).map(|()| None)
            }
            _ => Ok(None),
        }
    }

    /// Reads a part of a partition for a peer.
    fn scan(
        &mut self,
        scan: PeerScan,
        leaves: Option<Vec<u16>>,
        after: Option<Key>,
        io: &mut Io,
    ) -> Result<(), Rejection> {
        for leaf in leaves.iter().flatten() {
            within(Measure::Leaf, *leaf, 0, LEAVES as u64 - 1)?;
        }
        if self.scans.len() >= MAX_SCANS {
            let what = Resource::PeerLists;
            return Err(Rejection::Busy { what, limit: MAX_SCANS as u32 });
        }
        let (limit_bytes, detail) = match scan.wanted {
            Wanted::Keys => (PAGE_BYTES, Detail::Contexts),
            Wanted::Records(_) => (self.page_bytes, Detail::Objects),
        };
        let leaves = leaves.map(LeafSet::new);
        let span = Span { after, leaves, limit_bytes, detail, ..Span::default() };
        let token = io.out.scan(ScanPurpose::PeerList, scan.partition, span);
        self.scans.insert(token, scan);
        Ok(())
    }

    /// A span has been read; notifies the peer if it was for one. A scan shows what is not synced
    /// yet, so that waits.
    pub(super) fn scanned(&mut self, token: ScanToken, page: ScanPage, io: &mut Io) {
        let Some(PeerScan { to, request_id, partition, wanted }) = self.scans.remove(&token) else {
            return;
        };
        let ScanPage { items, objects: records, next, .. } = page;
        let answer = match wanted {
            Wanted::Keys => {
                let item = |Scanned { key, context, digest, .. }: Scanned| Item {
                    key,
                    context,
                    check: digest.0 as u32,
                };
                Body::Items { items: items.into_iter().map(item).collect(), next }
            }
            // A record that was read before the GC epoch changed is none of the new one.
            Wanted::Records(began) if began != io.local.gc_epochs.number(partition) => {
                Body::Failed(Rejection::Unread(partition.0))
            }
            Wanted::Records(gc_epoch) => Body::Records { records, gc_epoch, next },
        };
        let seq = io.out.last_mark();
        io.out.send_synced(Some(seq), to, request_id, answer);
    }
}

fn within(what: Measure, given: impl Into<u64>, least: u64, limit: u64) -> Result<(), Rejection> {
    let given = given.into();
    if (least..=limit).contains(&given) {
        return Ok(());
    }
    Err(Rejection::Limit { what, given, limit })
}
