//! Begin and end of the nodes, and which other nodes notice them.

use pixii_core::merkle::{Binding, KeptTrees};
use pixii_core::node::{Config, Node};
use pixii_core::store::{Meta, Process, Store, Taken, begin_incarnation, held};
use pixii_core::types::{Key, MILLI, Micros, Time};

use super::{Event, World};
use crate::scenario::LONGEST_STALL;

/// A page of records that is sent to another node: a few of them.
const PAGE_BYTES: usize = 512;

/// An interval that is longer than any run.
const NEVER: Micros = Micros(u64::MAX / 4);

/// Events of repeated puts are kept for this time. A client sends its last attempt 1.5 s after its
/// first, and that attempt can stall on the way to a node and again on the way to an owner. The
/// fastest clock runs 1.5 times as fast.
const REPEAT_WINDOW: Micros = Micros::from_millis(10_000);
const _: () = assert!(REPEAT_WINDOW.0 * 2 > (1_500_000 + 2 * LONGEST_STALL.0) * 3);

impl World {
    /// Begins an incarnation.
    pub(super) fn start(&mut self, at: usize) {
        let process = Process(self.rng.next_u64());
        let (seed, boot_nonce) = (self.rng.next_u64(), self.rng.next_u64());
        let host = &mut self.hosts[at];
        let binding = |meta: &Meta| Binding {
            store: meta.store,
            incarnation: meta.incarnation,
            ring: host.placement().0.id(),
            limit: 0,
        };
        let last = host.store.meta().ok().flatten();
        let trees = match (host.store.take_trees(), last) {
            (Ok(Taken::Whole(bytes)), Some(last)) => {
                KeptTrees::decode(&bytes, binding(&last)).map_or(Vec::new(), |kept| kept.trees)
            }
            _ => Vec::new(),
        };
        let Ok(meta) = begin_incarnation(&host.store, &host.identity, process) else {
            unreachable!("the twin does not fail and knows its identity")
        };
        let (ring, members) = host.placement();
        let place = |key: &Key| ring.partition(key);
        let config = Config {
            hint_limit_bytes: self.plan.hint_limit,
            object_limits: self.plan.object_limits(),
            hint_age: self.plan.hint_age_ms * MILLI,
            repair_interval: if self.plan.hints_alone { NEVER } else { 2_000 * MILLI },
            scrub_interval: 10_000 * MILLI,
            transfer_page_bytes: PAGE_BYTES,
            gc_epoch_pause: 600 * MILLI,
            hints: host.store.hint_totals(&place).unwrap_or_default(),
            gc_epochs: host.store.gc_epochs().unwrap_or_default(),
            held: held(&host.store, ring.partitions()).unwrap_or_default(),
            trees,
            boot_nonce,
            bootstrap: host.bootstraps,
            repeat_window: REPEAT_WINDOW,
            ..Config::new(host.id, ring.clone(), members)
        };
        host.node = Some(Node::new(config, meta, seed));
        host.incarnation += 1;
        (host.settled, host.stalled) = (None, None);
        self.expect_stall(at);
        for peer in (0..self.hosts.len()).filter(|peer| *peer != at) {
            if self.hosts[peer].node.is_some() {
                self.announce(at, peer, 10 * MILLI);
                self.announce(peer, at, 10 * MILLI);
            }
        }
    }

    /// Host `at` notices within about `within` whether `peer` is up.
    pub(super) fn announce(&mut self, at: usize, peer: usize, within: Micros) {
        let when = self.now() + self.rng.within(within);
        self.schedule(when, Event::Link { at, peer });
    }

    pub(super) fn stop(&mut self, at: usize) {
        self.gather(at);
        let host = &mut self.hosts[at];
        host.node = None;
        host.writes.clear();
        host.writing = false;
        host.wake = None;
        host.paused_until = Time::START;
        host.held.clear();
        host.stalled = None;
        host.incarnation += 1;
        for peer in (0..self.hosts.len()).filter(|peer| *peer != at) {
            // Some deaths are noticed late, as with half-open connections.
            let within = if self.rng.chance(0.2) { 2_000 * MILLI } else { 20 * MILLI };
            self.announce(peer, at, within);
        }
    }
}
