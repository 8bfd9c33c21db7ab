//! Collection of tombstones, and of all events without a value, by GC epochs (see `gc_epoch`).
//! The first owner of a partition proposes what is to go; every member agrees from what is synced
//! there; then the next GC epoch begins. A member that is away holds this back for as long as it
//! is a member.

mod choosing;
mod pace;
mod repeats;
mod steps;
mod tasks;

use std::collections::{BTreeMap, BTreeSet};

use self::choosing::Choosing;
use self::pace::Pace;
use self::repeats::Repeats;
use self::tasks::{Purpose, Tasks};
use super::Config;
use super::ids::{RequestId, RequestIds, Role, ScanToken, SyncSeq};
use super::io::Io;
use super::reach::Reach;
use crate::gc_epoch::{GcEpoch, GcState, MAX_PURGEABLE_KEYS, PurgeableKey};
use crate::members::Liveness;
use crate::message::{Blocked, Body, Counter, NotYet};
use crate::rng::Rng;
use crate::store::ScanPage;
use crate::types::{Micros, NodeId, Nodes, Partition, Time};

/// GC epochs that this node is about to end at a time, and while clients wait for it.
const MAX_ROUNDS: usize = 4;
const MAX_ROUNDS_BESIDE_CLIENTS: usize = 1;
/// While clients wait, this node agrees to this many rounds of other members at a time.
const MAX_AGREEING_BESIDE_CLIENTS: usize = 2;
/// Members that have not agreed after this time are named, and queried again later.
const TIMEOUT: Micros = Micros::from_millis(5_000);
/// Interval between two reports of the known GC epochs to a random peer.
const REPORT_INTERVAL: Micros = Micros::from_millis(1_000);
/// Scheduler interval. A finer resolution is not needed.
const CHECK_INTERVAL: Micros = Micros::from_millis(100);
/// Where no peer can know, a node that serves waits this long before it issues dots.
const GRACE: Micros = Micros::from_millis(3_000);
/// GC epochs that are queried at a time.
const MAX_QUESTIONS: usize = 256;

/// Rounds in progress, and the reasons why others are blocked.
#[derive(Clone, Debug)]
pub(super) struct TombstoneGc {
    me: NodeId,
    pause: Micros,
    rng: Rng,
    reach: Reach,
    rounds: BTreeMap<Partition, Round>,
    /// The partition that is checked first when the next round may begin, so that each is checked
    /// in turn.
    next: u16,
    pace: Pace,
    tasks: Tasks,
    /// GC epochs that have been written and are not durable yet.
    beginning: BTreeMap<Partition, Beginning>,
    rest: BTreeMap<Partition, Time>,
    holding: BTreeMap<Partition, Blocked>,
    ids: RequestIds,
    report_at: Time,
    look_at: Time,
    settled_at: Option<Time>,
    /// Those that know the same GC epochs as this node, of this digest.
    agreeing: (u64, BTreeSet<NodeId>),
    /// False until events that were purged before the start are known to be removed.
    has_begun: bool,
    /// Dead events of puts that were sent to several nodes, in the partitions that this node
    /// proposes for.
    repeats: Repeats,
}

/// A GC epoch that is to end.
#[derive(Clone, Debug)]
enum Round {
    Choosing(Choosing),
    Asking {
        request_id: RequestId,
        waiting: BTreeSet<NodeId>,
        purgeable: Vec<PurgeableKey>,
        since: Time,
    },
}

/// A GC epoch that begins when its write is durable. If this node has proposed it, it is sent to
/// all members then.
#[derive(Clone, Debug)]
struct Beginning {
    seq: SyncSeq,
    gc_epoch: GcState,
    report: bool,
}

impl TombstoneGc {
    /// Nothing is in progress at first.
    pub(super) fn new(config: &Config, seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ Role::TombstoneGc.tag());
        let ids = RequestIds::new(Role::TombstoneGc, rng.next_u64());
        TombstoneGc {
            me: config.me,
            pause: config.gc_epoch_pause,
            rng,
            reach: Reach::default(),
            rounds: BTreeMap::new(),
            next: 0,
            pace: Pace::default(),
            tasks: Tasks::default(),
            beginning: BTreeMap::new(),
            rest: BTreeMap::new(),
            holding: BTreeMap::new(),
            ids,
            report_at: Time::START,
            look_at: Time::START,
            settled_at: None,
            agreeing: (0, BTreeSet::new()),
            has_begun: false,
            repeats: Repeats::new(config.repeat_window),
        }
    }

    /// A link came up or went down: each end queries the GC epochs that the other one knows.
    pub(super) fn link(&mut self, peer: NodeId, up: bool, io: &mut Io) {
        self.reach.link(peer, up);
        if up {
            self.report(vec![peer], io);
        }
    }

    /// A write is durable. Once the node serves, it queries every reachable peer at once whether
    /// the disk of that peer is known to be the newest.
    pub(super) fn settled(&mut self, now: Time, io: &mut Io) {
        self.begin_durable(io);
        for partition in self.tasks.waiting() {
            self.work(partition, io);
        }
        if self.settled_at.is_none() && io.local.is_settled() {
            self.settled_at = Some(now);
            if io.local.counted_others().is_empty() && !io.local.meta().fresh.is_empty() {
                io.change_meta(|meta| meta.fresh.clear());
            }
            self.query_all(io);
        }
    }

    /// Another ring is in force: others may have to agree, and what was asked under the one before
    /// counts no more.
    pub(super) fn set_ring(&mut self, io: &mut Io) {
        self.rounds.clear();
        self.holding.clear();
        self.agreeing.1.clear();
        self.query_all(io);
    }

    fn query_all(&mut self, io: &mut Io) {
        if !io.local.meta().fresh.is_empty() {
            self.report(self.reach.all(), io);
        }
    }

    /// True once no event on this disk can be older than those that others have purged, or no peer
    /// can tell. Before that no dot is issued: a backup made meanwhile would keep it for ever.
    pub(super) fn is_ready(&self, now: Time, io: &Io) -> bool {
        let waited = self.settled_at.is_some_and(|since| now >= since + GRACE);
        io.local.meta().fresh.is_empty() || waited
    }

    /// Sends the digest of the GC epochs known here. A node that is not certain that its disk is
    /// the newest queries the same of the others.
    fn report(&mut self, to: Vec<NodeId>, io: &mut Io) {
        let (request_id, message) = (self.ids.next(), known(io, true));
        io.out.send(to, request_id, message);
    }

    /// This node's view of the liveness of a peer has changed.
    pub(super) fn set_liveness(&mut self, peer: NodeId, liveness: Liveness) {
        self.reach.set_liveness(peer, liveness);
    }

    /// The partitions whose tombstone GC is blocked, and the reason.
    pub(super) fn holding(&self) -> &BTreeMap<Partition, Blocked> {
        &self.holding
    }

    /// Continues purges and proposals as far as they are due at `now`.
    pub(super) fn tick(&mut self, now: Time, io: &mut Io) {
        self.settled(now, io);
        if !self.has_begun {
            self.has_begun = true;
            for (partition, _) in io.local.gc_epochs.numbers() {
                self.clear(partition, io);
            }
        }
        if !self.is_ready(now, io) && io.local.is_settled() {
            self.query_all(io);
        }
        if now >= self.report_at {
            self.report_at = now + REPORT_INTERVAL;
            let peer = self.rng.pick(&self.reach.all()).copied();
            self.report(peer.into_iter().collect(), io);
        }
        let late = |round: &Round| match round {
            Round::Asking { since, .. } => *since + TIMEOUT <= now,
            Round::Choosing(_) => false,
        };
        let late: Vec<Partition> =
            self.rounds.iter().filter(|(_, round)| late(round)).map(|(p, _)| *p).collect();
        for partition in late {
            if let Some(Round::Asking { waiting, .. }) = self.rounds.get(&partition) {
                let members = waiting.iter().map(|node| io.local.members().name(*node)).collect();
                self.put_off(now, partition, Blocked::NoAnswer { members });
            }
        }
        self.read_on(now, io);
        if io.local.is_settled() && now >= self.look_at {
            self.look_at = now + CHECK_INTERVAL;
            self.begin_rounds(now, io);
        }
    }

    /// When the next step is due, if one rests beside clients.
    pub(super) fn next_wake(&self) -> Option<Time> {
        let pauses = |round: &Round| {
            matches!(round,
            Round::Choosing(choosing) if choosing.pauses())
        };
        let pages = self.rounds.values().any(pauses).then_some(self.pace.paused_until());
        pages.into_iter().chain(self.tasks.next_wake()).min()
    }

    fn put_off(&mut self, now: Time, partition: Partition, why: Blocked) {
        if let Some(Round::Asking { since, .. }) = self.rounds.remove(&partition) {
            self.pace.worked(now, since);
        }
        self.holding.insert(partition, why);
        self.rest.insert(partition, now + self.pause / 2 + self.rng.within(self.pause));
    }

    /// Looks at the partitions that this node is the first owner of.
    fn begin_rounds(&mut self, now: Time, io: &mut Io) {
        let ring = io.local.ring().clone();
        let most = if io.local.is_busy() { MAX_ROUNDS_BESIDE_CLIENTS } else { MAX_ROUNDS };
        let count = ring.partitions();
        for partition in (self.next..count).chain(0..self.next.min(count)).map(Partition) {
            let owners = ring.owners(partition);
            let first = owners.first() == Some(&self.me);
            if !first && ring.is_owner(partition, self.me) {
                self.watch(partition, io);
            }
            let pauses = self.rest.get(&partition).is_some_and(|until| *until > now);
            let is_full = self.rounds.len() >= most || self.pace.pauses(now, io);
            if !first || pauses || is_full || self.rounds.contains_key(&partition) {
                continue;
            }
            let dead = io.local.trees.dead(partition);
            let is_pending = !io.local.gc_epochs.of(partition).purgeable.is_empty();
            if dead == 0 && !is_pending {
                self.holding.remove(&partition);
                continue;
            }
            if let Some(why) = self.obstacle(partition, io) {
                self.put_off(now, partition, why);
                continue;
            }
            self.next = partition.0 + 1;
            if dead > 0 {
                self.rounds.insert(partition, Round::Choosing(Choosing::default()));
                self.read_on(now, io);
            } else {
                self.propose(now, partition, Vec::new(), io);
            }
        }
    }

    /// Another owner is to propose: if it is away, that is what holds the tombstone GC back.
    fn watch(&mut self, partition: Partition, io: &mut Io) {
        let away_now = |first: &NodeId| !self.reach.has(*first);
        let away = io.local.ring().owners(partition).first().copied();
        let away = away.filter(|first| away_now(first));
        match away.filter(|_| io.local.trees.dead(partition) > 0) {
            Some(first) => {
                let member = io.local.members().name(first);
                self.holding.insert(partition, Blocked::ProposerAway { member });
            }
            None => drop(self.holding.remove(&partition)),
        }
    }

    /// The reason why this node cannot propose now; `None` if it can.
    fn obstacle(&self, partition: Partition, io: &mut Io) -> Option<Blocked> {
        let away = io.local.counted_others().into_iter().find(|member| !self.reach.has(*member));
        if let Some(member) = away {
            return Some(Blocked::Away { member: io.local.members().name(member) });
        }
        if !io.local.is_authoritative(partition) {
            return Some(Blocked::NotRecovered);
        }
        let unread = io.local.trees.tree(partition).is_none();
        (unread || self.is_at_work(partition)).then_some(Blocked::Reading)
    }

    fn propose(
        &mut self,
        now: Time,
        partition: Partition,
        purgeable: Vec<PurgeableKey>,
        io: &mut Io,
    ) {
        let request_id = self.ids.next();
        let mut waiting: BTreeSet<NodeId> = io.local.counted_others().into_iter().collect();
        waiting.insert(self.me);
        let gc_epoch = io.local.gc_epochs.number(partition);
        let members = io.local.members().digest();
        let to: Nodes = waiting.iter().copied().collect();
        let proposal = Body::Propose { partition, gc_epoch, members, purgeable: purgeable.clone() };
        io.out.send(to, request_id, proposal);
        let since = now;
        self.rounds.insert(partition, Round::Asking { request_id, waiting, purgeable, since });
    }

    /// A page has been read for a task, which may have been replaced meanwhile.
    pub(super) fn task_scanned(&mut self, token: ScanToken, page: &ScanPage, io: &mut Io) {
        if let Some(partition) = self.tasks.reads(token) {
            let keys = page.items.iter().map(|item| item.key.clone()).collect();
            self.tasks.found(partition, keys, page.next.clone());
            self.work(partition, io);
        }
    }

    /// Handles a member's message about GC epochs.
    pub(super) fn hear(
        &mut self,
        now: Time,
        from: NodeId,
        request_id: RequestId,
        body: Body,
        io: &mut Io,
    ) {
        match body {
            Body::Propose { partition, gc_epoch, members, purgeable } => {
                let judged = self.judge(from, partition, gc_epoch, members, &purgeable, io);
                if let Err(why) = judged {
                    return io.out.send(vec![from], request_id, Body::NotYet(why));
                }
                let purpose = Purpose::Agree { to: from, request_id };
                self.tasks.begin(partition, purpose, purgeable, io.out.last_mark());
                self.work(partition, io);
            }
            Body::Agreed => self.agreed(now, from, request_id, io),
            Body::NotYet(why) => {
                let queried = |round: &Round| {
                    matches!(round, Round::Asking { request_id: of,
                        .. } if *of == request_id)
                };
                let found = self.rounds.iter().find(|(_, round)| queried(round));
                if let Some(partition) = found.map(|(partition, _)| *partition) {
                    let member = io.local.members().name(from);
                    self.put_off(now, partition, Blocked::NotYet { member, why });
                }
            }
            Body::GcEpochs { digest, certain, query } => {
                if query {
                    io.out.send(vec![from], request_id, known(io, false));
                }
                if digest == io.local.gc_epochs.digest() {
                    self.agree_on_all(from, certain, io);
                } else {
                    io.out.send(
                        vec![from],
                        request_id,
                        Body::GcEpochNumbers(io.local.gc_epochs.numbers()),
                    );
                }
            }
            Body::GcEpochNumbers(numbers) => {
                let later = |(partition, number): &&(Partition, GcEpoch)| {
                    partition.0 < io.local.ring().partitions()
                        && *number > io.local.gc_epochs.number(*partition)
                        && !self.is_adopting(*partition)
                };
                let later: Vec<Partition> =
                    numbers.iter().filter(later).map(|(partition, _)| *partition).collect();
                for partition in later.into_iter().take(MAX_QUESTIONS) {
                    io.out.send(vec![from], request_id, Body::QueryGcEpoch(partition));
                }
            }
            Body::QueryGcEpoch(partition) => {
                let gc_epoch = io.local.gc_epochs.of(partition).clone();
                let seq = io.out.last_mark();
                io.out.send_synced(
                    Some(seq),
                    from,
                    request_id,
                    Body::GcState { partition, gc_epoch },
                );
            }
            Body::GcState { partition, gc_epoch } => {
                self.adopt(partition, gc_epoch, io);
            }
            _ => {}
        }
    }

    /// Says why this node does not agree to a proposal, if it is clear at once.
    fn judge(
        &self,
        from: NodeId,
        partition: Partition,
        gc_epoch: GcEpoch,
        members: u64,
        purgeable: &[PurgeableKey],
        io: &mut Io,
    ) -> Result<(), NotYet> {
        let outside = partition.0 >= io.local.ring().partitions();
        if outside || io.local.ring().owners(partition).first() != Some(&from) {
            return Err(NotYet::NotProposer { partition: partition.0 });
        }
        if purgeable.len() > MAX_PURGEABLE_KEYS {
            return Err(NotYet::TooManyKeys { keys: purgeable.len() as u64 });
        }
        let own = io.local.gc_epochs.number(partition);
        if gc_epoch != own {
            return Err(NotYet::GcState { own, proposed: gc_epoch });
        }
        if members != io.local.members().digest() {
            return Err(NotYet::Members);
        }
        let agreeing = self.tasks.agreeing_to_others(self.me);
        let is_full = io.local.is_busy() && agreeing >= MAX_AGREEING_BESIDE_CLIENTS;
        if self.is_at_work(partition) || (is_full && from != self.me) {
            return Err(NotYet::AtWork);
        }
        match io.local.hints.older(partition, own) {
            0 => Ok(()),
            older => Err(NotYet::OldHints { hints: older }),
        }
    }

    /// A member agrees; when all do, the next GC epoch begins.
    fn agreed(&mut self, now: Time, from: NodeId, request_id: RequestId, io: &mut Io) {
        let mut done = None;
        for (partition, round) in &mut self.rounds {
            if let Round::Asking { request_id: of, waiting, .. } = round
                && *of == request_id
            {
                waiting.remove(&from);
                done = waiting.is_empty().then_some(*partition);
            }
        }
        let Some(partition) = done else { return };
        let Some(Round::Asking { purgeable, since, .. }) = self.rounds.remove(&partition) else {
            debug_assert!(false, "the round was found by its question");
            return;
        };
        self.pace.worked(now, since);
        let gc_epoch = io.local.gc_epochs.of(partition).next(purgeable);
        io.out.count(Counter::GcEpochsBegun);
        io.out.count_many(Counter::KeysPurged, gc_epoch.purged.len() as u64);
        self.holding.remove(&partition);
        self.rest.insert(partition, now + self.pause);
        let purgeable = gc_epoch.purgeable.clone();
        let purpose = Purpose::Adopt { gc_epoch, discard: false, report: true };
        self.tasks.begin(partition, purpose, purgeable, io.out.last_mark());
        self.work(partition, io);
    }
}

/// The digest of the GC epochs known here; a node that is not certain of them may query the same.
fn known(io: &Io, may_query: bool) -> Body {
    let digest = io.local.gc_epochs.digest();
    let certain = io.local.meta().fresh.is_empty() && io.local.is_settled();
    Body::GcEpochs { digest, certain, query: may_query && !certain }
}
