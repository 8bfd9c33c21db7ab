//! The reports of a daemon about itself.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Instant;

use pixii_core::members::{Liveness, Members};
use pixii_core::message::{
    Complaint, Counter, Gauges, Kind, PairStatus, PeerRepair, PeerStatus, RepairCounts,
    RepairRejection, RepairReport, RepairStatus, RingReport, StatusReport, TombstoneGcStatus,
};
use pixii_core::node::{Input, PairView};
use pixii_core::ring::Ring;
use pixii_core::types::{Micros, NodeId, Partition};

use super::drain::Drain;
use super::{Engine, stall};
use crate::config::Config;

impl Engine<'_> {
    /// The members, and how keys are placed.
    pub(super) fn ring(&self) -> RingReport {
        let Config { r, w, strict, .. } = self.config;
        RingReport {
            members: self.node.members().clone(),
            ring: (*self.ring).clone(),
            r: *r,
            w: *w,
            strict: *strict,
            avoided: self.node.avoided(self.now()),
        }
    }

    /// The state of the node.
    pub(super) fn status(&self) -> StatusReport {
        let now = self.now();
        let pairs = self.node.pairs(now);
        let mut compared = by_peer(&pairs);
        let known = self.hub.peers();
        let peers = known.values().map(|peer| {
            let view = self.node.peer_view(now, peer.id);
            PeerStatus {
                id: peer.id,
                name: peer.name.clone(),
                address: peer.address(),
                up: peer.outbox.is_open(),
                liveness: view.liveness,
                phi_hundredths: (view.phi * 100.0) as u32,
                latency_us: view.latency.map(|latency| latency.0),
                hints: view.hints.count,
                hint_bytes: view.hints.bytes,
                hint_age_ms: view.hint_age.as_millis(),
                dropped: peer.outbox.dropped(),
                repair: compared.remove(&peer.id).unwrap_or_default(),
            }
        });
        let gauges = self.gauges();
        StatusReport {
            cluster: self.config.cluster.clone(),
            name: self.config.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            store: self.node.meta().store,
            incarnation: self.node.meta().incarnation,
            recovered: self.recovered,
            serving: gauges.store_stalled_seconds == 0
                && self.node.rejection(self.now(), true).is_none(),
            read_ineligible: self.node.meta().read_ineligible.len() as u32,
            uptime_ms: self.start.elapsed().as_millis() as u64,
            partitions: self.ring.share(self.config.me()) as u32,
            disk_bytes: self.storage.gauges().disk_bytes.get(),
            peers: peers.collect(),
            hint_limit_bytes: self.runtime_config.hint_limit_mib << 20,
            emulated: self.emulator.lines(),
            counters: self.counters(),
            repair: self.summary(&pairs),
            tombstone_gc: self.tombstone_gc(),
            gauges,
            other_rings: self
                .node
                .other_rings()
                .into_iter()
                .map(|(id, version)| (self.name(id), version))
                .collect(),
            complaints: self.complaints().collect(),
        }
    }

    /// The counters of the node and of the daemon around it.
    fn counters(&self) -> Vec<(Counter, u64)> {
        let closed = self.hub.closed_clients.load(Ordering::Relaxed);
        let sent = self.hub.peers().values().map(|peer| peer.outbox.bytes_taken()).sum();
        let mut counters = self.node.counters();
        counters.extend([
            (Counter::CallsRefusedBusy, self.busy),
            (Counter::ClientConnectionsClosed, closed),
            (Counter::PeerBytesSent, sent),
        ]);
        let of = |(kind, bytes): (&Kind, &u64)| (Counter::peer_bytes_of(*kind), *bytes);
        counters.extend(self.sent.iter().map(of));
        if self.config.allow_emulation {
            counters.extend(self.emulator.counters());
        }
        counters
    }

    /// The gauges of the status report, as of now.
    fn gauges(&self) -> Gauges {
        let stalled = self.watch.lasts(Instant::now());
        Gauges {
            drained: self.runtime_config.drain != Drain::No,
            changing_ring: self.node.is_changing_ring() || self.node.ring_change().is_some(),
            oversized_keys: self.node.oversized_keys(),
            partitions_lost: self.node.lost().len() as u64,
            store_stalled_seconds: stalled.map_or(0, |lasts| lasts.as_secs().max(1)),
            unservable_partitions: self.node.unservable() as u64,
        }
    }

    /// Conditions that need the operator: peers that refuse this node, and those of another
    /// cluster.
    fn complaints(&self) -> impl Iterator<Item = Complaint> {
        let ours = self.node.meta().cluster.as_ref().map_or(0, |cluster| cluster.id);
        let foreign = self.node.foreign().iter().map(move |(peer, theirs)| {
            let (peer, cluster) = (self.name(*peer), self.config.cluster.clone());
            Complaint::Foreign { peer, cluster, ours, theirs: *theirs }
        });
        let peers = self.hub.peers();
        let refusing = peers.values().filter_map(|peer| {
            let why = peer.rejection()?;
            Some(Complaint::Refused { peer: peer.name.clone(), why })
        });
        let refusing: Vec<Complaint> = refusing.collect();
        refusing.into_iter().chain(foreign).chain(self.hub.undialable())
    }

    /// What the daemon does, in words, for the service manager.
    pub(super) fn condition(&self) -> String {
        let requests = self.node.requests();
        if self.finish_by.is_some() {
            return format!("stopping: {requests} requests in progress");
        }
        if !self.node.is_settled() {
            let (heard, peers) = self.node.heard();
            let mut condition = format!("meeting members: {heard} of {peers} have answered");
            for complaint in self.complaints().take(1) {
                condition.push_str(&format!("; {complaint}"));
            }
            return condition;
        }
        match self.runtime_config.drain {
            Drain::Until(_) => {
                let hints: u64 = self.drain_report().hints.iter().map(|hints| hints.count).sum();
                return format!("draining: {requests} requests and {hints} hints left");
            }
            Drain::Done => return "drained: other nodes do its work".to_owned(),
            Drain::No => {}
        }
        if let Some(lasts) = self.watch.lasts(Instant::now()) {
            let lasts = stall::about(lasts);
            return format!("not serving: its disk has made no progress for {lasts}");
        }
        let mut condition = if self.short.is_some() {
            "serving reads only: its disk is nearly full"
        } else if self.node.rejection(self.now(), true).is_some() {
            "serving reads only: what others have purged is not known yet"
        } else {
            "serving"
        }
        .to_owned();
        let (unread, all) = (self.node.unread(), self.ring.share(self.config.me()));
        if unread > 0 {
            condition.push_str(&format!("; reading trees: {unread} of {all} partitions left"));
        }
        let unservable = self.node.unservable();
        if unservable > 0 {
            let rest = "cannot be read and written, too few other owners are up";
            condition.push_str(&format!("; cluster: {unservable} of {all} partitions {rest}"));
        }
        let lost = self.node.lost().len();
        if lost > 0 {
            condition.push_str(&format!(
                "; its disk was lost: acknowledged writes of {lost} partitions may be missing"
            ));
        }
        let lacking = self.node.meta().read_ineligible.len() - lost;
        if lacking > 0 {
            condition.push_str(&format!("; being filled: {lacking} partitions left"));
        }
        condition
    }

    fn tombstone_gc(&self) -> TombstoneGcStatus {
        let blocked = self.node.tombstone_gc_blocked();
        TombstoneGcStatus {
            keys: self.node.dead_keys(),
            blocked: blocked.len() as u32,
            example: blocked.iter().next().map(|(partition, why)| (*partition, why.clone())),
        }
    }

    fn summary(&self, pairs: &[PairView]) -> RepairStatus {
        let mut failing = pairs.iter().filter_map(|view| Some((view, view.failing.as_ref()?)));
        RepairStatus {
            unread: self.node.unread() as u32,
            damaged: self.node.damaged() as u64,
            pending: pairs.iter().filter(|view| view.is_pending).count() as u32,
            failing: failing.clone().count() as u32,
            example: failing.next().map(|(view, why)| (view.partition, view.peer, why.clone())),
        }
    }

    /// The comparisons of the pairs that were queried; with `begin`, they are to be compared at
    /// once.
    pub(super) fn repair(
        &mut self,
        begin: bool,
        partition: Option<Partition>,
        peer: Option<NodeId>,
    ) -> Result<RepairReport, RepairRejection> {
        check(&self.ring, self.node.members(), self.config.me(), partition, peer)?;
        if begin {
            self.input(Input::Repair { partition, peer });
        }
        let now = self.now();
        let queried = |view: &PairView| {
            partition.is_none_or(|queried| queried == view.partition)
                && peer.is_none_or(|queried| queried == view.peer)
        };
        let pairs: Vec<PairStatus> =
            self.node.pairs(now).into_iter().filter(queried).map(pair).collect();
        // As the node sees it: a link is up, and the peer is not marked down.
        let reached = |peer: NodeId| {
            let open = self.hub.peers().get(&peer).is_some_and(|peer| peer.outbox.is_open());
            open && self.node.peer_view(now, peer).liveness != Liveness::Down
        };
        let mut unreachable: Vec<NodeId> = pairs.iter().map(|pair| pair.peer).collect();
        unreachable.sort_unstable();
        unreachable.dedup();
        unreachable.retain(|peer| !reached(*peer));
        Ok(RepairReport {
            name: self.config.name.clone(),
            pairs,
            unreachable,
            unread: self.node.unread() as u32,
            damaged: self.node.damaged() as u64,
            counts: counts(&self.node.counters()),
        })
    }
}

fn by_peer(pairs: &[PairView]) -> BTreeMap<NodeId, PeerRepair> {
    let mut peers: BTreeMap<NodeId, PeerRepair> = BTreeMap::new();
    for view in pairs {
        let peer = peers.entry(view.peer).or_default();
        peer.shared += 1;
        peer.pending += u32::from(view.is_pending);
        peer.failing += u32::from(view.failing.is_some());
        if let Some(age) = view.equal_for {
            peer.equal += 1;
            peer.oldest_ms = peer.oldest_ms.max(Some(age.as_millis()));
        }
    }
    for peer in peers.values_mut().filter(|peer| peer.equal < peer.shared) {
        peer.oldest_ms = None;
    }
    peers
}

fn pair(view: PairView) -> PairStatus {
    PairStatus {
        partition: view.partition,
        peer: view.peer,
        equal_ms: view.equal_for.map(Micros::as_millis),
        pending: view.is_pending,
        failing: view.failing,
        pulled: view.pulled,
        pushed: view.pushed,
        bytes: view.bytes,
    }
}

fn counts(counters: &[(Counter, u64)]) -> RepairCounts {
    let of = |counter: Counter| {
        counters.iter().find(|(of, _)| *of == counter).map_or(0, |(_, count)| *count)
    };
    RepairCounts {
        exchanges: of(Counter::Exchanges),
        exchanges_failed: of(Counter::ExchangesFailed),
        objects_pulled: of(Counter::ObjectsPulled),
        objects_pushed: of(Counter::ObjectsPushed),
        bytes_pulled: of(Counter::BytesPulled),
        bytes_pushed: of(Counter::BytesPushed),
    }
}

/// Why `me` has nothing to compare, if so.
fn check(
    ring: &Ring,
    members: &Members,
    me: NodeId,
    partition: Option<Partition>,
    peer: Option<NodeId>,
) -> Result<(), RepairRejection> {
    let name = |id: NodeId| members.name(id);
    if let Some(peer) = peer.filter(|peer| members.get(*peer).is_none()) {
        return Err(RepairRejection::NoMember { peer });
    }
    if peer == Some(me) {
        return Err(RepairRejection::Itself { node: name(me) });
    }
    let Some(partition) = partition else {
        let shares = |peer: NodeId| {
            let mut all = (0..ring.partitions()).map(Partition);
            all.any(|one| ring.owners(one).contains(&me) && ring.owners(one).contains(&peer))
        };
        return match peer.filter(|peer| !shares(*peer)) {
            Some(peer) => Err(RepairRejection::NothingShared { node: name(me), peer: name(peer) }),
            None => Ok(()),
        };
    };
    let (given, partitions) = (partition.0, ring.partitions());
    if given >= partitions {
        return Err(RepairRejection::Partition { given, partitions });
    }
    let owners = ring.owners(partition);
    match [Some(me), peer].into_iter().flatten().find(|node| !owners.contains(node)) {
        Some(other) => {
            let owners = owners.iter().map(|owner| name(*owner)).collect();
            Err(RepairRejection::NotOwner { partition: given, node: name(other), owners })
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use pixii_core::members::Member;
    use pixii_core::message::ComparisonFault;
    use pixii_core::types::MILLI;

    use super::*;

    #[test]
    fn a_peer_is_as_old_as_its_oldest_pair_and_without_age_before_all_were_compared() {
        let view = |partition, equal_for, failing: Option<ComparisonFault>| PairView {
            partition: Partition(partition),
            peer: NodeId(7),
            equal_for,
            is_pending: failing.is_some(),
            failing,
            pulled: 0,
            pushed: 0,
            bytes: 0,
        };
        let (old, new) = (view(0, Some(9 * MILLI), None), view(1, Some(2 * MILLI), None));
        let all = by_peer(&[old.clone(), new.clone()]);
        let expected =
            PeerRepair { shared: 2, equal: 2, oldest_ms: Some(9), ..PeerRepair::default() };
        assert_eq!(all[&NodeId(7)], expected);
        let some = by_peer(&[old, new, view(2, None, Some(ComparisonFault::NoTree))]);
        let expected = PeerRepair { shared: 3, equal: 2, oldest_ms: None, pending: 1, failing: 1 };
        assert_eq!(some[&NodeId(7)], expected);
    }

    #[test]
    fn what_cannot_be_compared_is_refused_by_name_and_limit() {
        let names: Vec<String> = (1..=4).map(|number| format!("n{number}")).collect();
        let member = |name: &String| Member::configured(name.clone(), "host:1");
        let members = Members::new(names.iter().map(member).collect());
        let ids: Vec<NodeId> = names.iter().map(|name| NodeId::of(name)).collect();
        let ring = Ring::new(&ids, 2, 16).unwrap();
        let reports = |partition: Option<u16>, peer: Option<NodeId>| {
            check(&ring, &members, ids[0], partition.map(Partition), peer).unwrap_err().to_string()
        };
        let reported = reports(Some(16), None);
        assert_eq!(reported, "partition = 16: this cluster has 16, so a partition is 0 to 15");
        let with = |own: bool| {
            let mut all = 0..16;
            all.find(|one| ring.owners(Partition(*one)).contains(&ids[0]) == own)
        };
        let (own, other) = (with(true).unwrap(), with(false).unwrap());
        let owners = |of: u16| {
            ring.owners(Partition(of)).iter().map(|id| members.name(*id)).collect::<Vec<_>>()
        };
        let reported = reports(Some(other), None);
        let owners_of = owners(other).join(", ");
        let sentence =
            format!("partition = {other}: n1 is no owner of it; its owners are {owners_of}");
        assert_eq!(reported, sentence);
        let stranger = names.iter().find(|name| !owners(own).contains(name)).unwrap();
        let reported = reports(Some(own), Some(NodeId::of(stranger)));
        assert!(
            reported.starts_with(&format!(
                "partition = {own}: {stranger} is no \
            owner"
            )),
            "{reported}"
        );
        let reported = reports(None, Some(NodeId(7)));
        assert_eq!(reported, "peer = 0000000000000007: no member of the cluster has this id");
        let reported = reports(None, Some(ids[0]));
        assert_eq!(reported, "peer = n1: this node compares with others only");
        let apart = Ring::new(&ids, 1, 16).unwrap();
        let reported = check(&apart, &members, ids[0], None, Some(ids[1])).unwrap_err();
        assert_eq!(reported.to_string(), "peer = n2: no partition is kept by both n1 and n2");
        assert_eq!(check(&ring, &members, ids[0], Some(Partition(own)), None), Ok(()));
    }
}
