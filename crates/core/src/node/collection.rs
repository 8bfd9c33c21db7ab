//! Collection of tombstones, and of all events without a value, by generations (see `generation`).
//! The first home of a partition proposes what is to go; every member agrees from what is synced
//! there; then the next generation begins. A member that is away holds this back for as long as it
//! is a member.

mod choosing;
mod chores;
mod pace;
mod repeats;
mod steps;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use self::choosing::Choosing;
use self::chores::{Chores, Purpose};
use self::pace::Pace;
use self::repeats::Repeats;
use super::Config;
use super::effects::Effects;
use super::ids::{RequestId, RequestIds, Role, ScanToken, SyncSeq};
use super::reach::Reach;
use crate::generation::{GcEpoch, Generation, Grave, MAX_GRAVES};
use crate::members::{Opinion, Standing};
use crate::message::{Body, Counter, HeldBack, NotYet};
use crate::ring::Ring;
use crate::rng::Rng;
use crate::store::ScanPage;
use crate::types::{Micros, NodeId, Partition, Time};

/// Generations that this node is about to end at a time, and while clients wait for it.
const MAX_ROUNDS: usize = 4;
const MAX_ROUNDS_BESIDE_CLIENTS: usize = 1;
/// While clients wait, this node agrees to so many rounds of other members at a time.
const MAX_AGREEING_BESIDE_CLIENTS: usize = 2;
/// Members that have not agreed after this time are named, and asked anew later.
const PATIENCE: Micros = Micros::from_millis(5_000);
/// How often somebody is asked whether it knows later generations.
const TELL: Micros = Micros::from_millis(1_000);
/// What may be collected is looked for so often; it is no matter of less.
const LOOK: Micros = Micros::from_millis(100);
/// Where nobody can tell, a node that serves waits so long before it mints.
const GRACE: Micros = Micros::from_millis(3_000);
/// Generations that are asked for at a time.
const MAX_QUESTIONS: usize = 256;

/// What is under way, and what holds it back.
#[derive(Clone, Debug)]
pub(super) struct Collection {
    me: NodeId,
    ring: Arc<Ring>,
    pause: Micros,
    rng: Rng,
    reach: Reach,
    rounds: BTreeMap<Partition, Round>,
    /// The partition that is looked at first when the next round may begin: all get their turn.
    next: u16,
    pace: Pace,
    chores: Chores,
    /// Generations that have been written and are not durable yet.
    beginning: BTreeMap<Partition, Beginning>,
    rest: BTreeMap<Partition, Time>,
    holding: BTreeMap<Partition, HeldBack>,
    ids: RequestIds,
    tell_at: Time,
    look_at: Time,
    settled_at: Option<Time>,
    /// Those that know the same generations as this node, of this digest.
    agreeing: (u64, BTreeSet<NodeId>),
    /// False until what was collected before the start is known to be gone.
    has_begun: bool,
    /// Dead events of puts that were sent to several nodes, in the partitions that this node
    /// proposes for.
    repeats: Repeats,
}

/// A generation that is to end.
#[derive(Clone, Debug)]
enum Round {
    Choosing(Choosing),
    Asking { op: RequestId, waiting: BTreeSet<NodeId>, condemned: Vec<Grave>, since: Time },
}

/// A generation that begins when its write is durable; all are told of it then, if this node has
/// proposed it.
#[derive(Clone, Debug)]
struct Beginning {
    mark: SyncSeq,
    generation: Generation,
    tell: bool,
}

impl Collection {
    /// Nothing is under way at first.
    pub(super) fn new(config: &Config, seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ Role::Collection.tag());
        let ids = RequestIds::new(Role::Collection, rng.next_u64());
        Collection {
            me: config.me,
            ring: config.ring.clone(),
            pause: config.generation_pause,
            rng,
            reach: Reach::default(),
            rounds: BTreeMap::new(),
            next: 0,
            pace: Pace::default(),
            chores: Chores::default(),
            beginning: BTreeMap::new(),
            rest: BTreeMap::new(),
            holding: BTreeMap::new(),
            ids,
            tell_at: Time::START,
            look_at: Time::START,
            settled_at: None,
            agreeing: (0, BTreeSet::new()),
            has_begun: false,
            repeats: Repeats::new(config.repeat_window),
        }
    }

    /// A link came up or went down: each end asks the other what generations it knows.
    pub(super) fn link(&mut self, peer: NodeId, up: bool, fx: &mut Effects) {
        self.reach.link(peer, up);
        if up {
            self.tell(vec![peer], fx);
        }
    }

    /// Something is durable. Once the node serves, whoever can be reached is asked at once whether
    /// its disk is the newest.
    pub(super) fn settled(&mut self, now: Time, fx: &mut Effects) {
        self.begin_durable(fx);
        for partition in self.chores.waiting() {
            self.work(partition, fx);
        }
        if self.settled_at.is_none() && fx.local.is_settled() {
            self.settled_at = Some(now);
            if others(self.me, fx).is_empty() && !fx.local.meta().fresh.is_empty() {
                fx.change_meta(|meta| meta.fresh.clear());
            }
            self.ask_all(fx);
        }
    }

    fn ask_all(&mut self, fx: &mut Effects) {
        if !fx.local.meta().fresh.is_empty() {
            self.tell(self.reach.all(), fx);
        }
    }

    /// True once nothing on this disk can be older than what others have collected, or nobody can
    /// tell: before that nothing is minted, or a backup made meanwhile would keep it for ever.
    pub(super) fn is_ready(&self, now: Time, fx: &Effects) -> bool {
        let waited = self.settled_at.is_some_and(|since| now >= since + GRACE);
        fx.local.meta().fresh.is_empty() || waited
    }

    /// Says what is known here; who is not certain that its disk is the newest asks for the same.
    fn tell(&mut self, to: Vec<NodeId>, fx: &mut Effects) {
        let (op, word) = (self.ids.next(), known(fx, true));
        fx.out.send(to, op, word);
    }

    /// This node's opinion of a peer has changed.
    pub(super) fn opine(&mut self, peer: NodeId, opinion: Opinion) {
        self.reach.opine(peer, opinion);
    }

    /// The partitions whose collection is held back, and by what.
    pub(super) fn holding(&self) -> &BTreeMap<Partition, HeldBack> {
        &self.holding
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, now: Time, fx: &mut Effects) {
        self.settled(now, fx);
        if !self.has_begun {
            self.has_begun = true;
            for (partition, _) in fx.local.generations.numbers() {
                self.clear(partition, fx);
            }
        }
        if !self.is_ready(now, fx) && fx.local.is_settled() {
            self.ask_all(fx);
        }
        if now >= self.tell_at {
            self.tell_at = now + TELL;
            let peer = self.rng.pick(&self.reach.all()).copied();
            self.tell(peer.into_iter().collect(), fx);
        }
        let late = |round: &Round| match round {
            Round::Asking { since, .. } => *since + PATIENCE <= now,
            Round::Choosing(_) => false,
        };
        let late: Vec<Partition> =
            self.rounds.iter().filter(|(_, round)| late(round)).map(|(p, _)| *p).collect();
        for partition in late {
            if let Some(Round::Asking { waiting, .. }) = self.rounds.get(&partition) {
                let members = waiting.iter().map(|node| fx.local.members().name(*node)).collect();
                self.put_off(now, partition, HeldBack::NoAnswer { members });
            }
        }
        self.read_on(now, fx);
        if fx.local.is_settled() && now >= self.look_at {
            self.look_at = now + LOOK;
            self.begin_rounds(now, fx);
        }
    }

    /// When the next step is due, if one rests beside clients.
    pub(super) fn next_wake(&self) -> Option<Time> {
        let rests = |round: &Round| matches!(round, Round::Choosing(choosing) if choosing.rests());
        let pages = self.rounds.values().any(rests).then_some(self.pace.rest_until());
        pages.into_iter().chain(self.chores.next_wake()).min()
    }

    fn put_off(&mut self, now: Time, partition: Partition, why: HeldBack) {
        if let Some(Round::Asking { since, .. }) = self.rounds.remove(&partition) {
            self.pace.worked(now, since);
        }
        self.holding.insert(partition, why);
        self.rest.insert(partition, now + self.pause / 2 + self.rng.within(self.pause));
    }

    /// Looks at the partitions that this node is the first home of.
    fn begin_rounds(&mut self, now: Time, fx: &mut Effects) {
        let most = if fx.local.is_busy() { MAX_ROUNDS_BESIDE_CLIENTS } else { MAX_ROUNDS };
        let count = self.ring.partitions();
        for partition in (self.next..count).chain(0..self.next.min(count)).map(Partition) {
            let homes = self.ring.homes(partition);
            let first = homes.first() == Some(&self.me);
            if homes.iter().skip(1).any(|home| *home == self.me) {
                self.watch(partition, fx);
            }
            let rests = self.rest.get(&partition).is_some_and(|until| *until > now);
            let is_full = self.rounds.len() >= most || self.pace.rests(now, fx);
            if !first || rests || is_full || self.rounds.contains_key(&partition) {
                continue;
            }
            let dead = fx.local.forest.dead(partition);
            let is_pending = !fx.local.generations.of(partition).condemned.is_empty();
            if dead == 0 && !is_pending {
                self.holding.remove(&partition);
                continue;
            }
            if let Some(why) = self.obstacle(partition, fx) {
                self.put_off(now, partition, why);
                continue;
            }
            self.next = partition.0 + 1;
            if dead > 0 {
                self.rounds.insert(partition, Round::Choosing(Choosing::default()));
                self.read_on(now, fx);
            } else {
                self.propose(now, partition, Vec::new(), fx);
            }
        }
    }

    /// Another home is to propose: if it is away, that is what holds the collection back.
    fn watch(&mut self, partition: Partition, fx: &mut Effects) {
        let away = |first: &&NodeId| !self.reach.has(**first);
        let away = self.ring.homes(partition).first().filter(away);
        match away.filter(|_| fx.local.forest.dead(partition) > 0) {
            Some(first) => {
                let member = fx.local.members().name(*first);
                self.holding.insert(partition, HeldBack::ProposerAway { member });
            }
            None => drop(self.holding.remove(&partition)),
        }
    }

    /// What stands in the way of a proposal.
    fn obstacle(&self, partition: Partition, fx: &mut Effects) -> Option<HeldBack> {
        let away = others(self.me, fx).into_iter().find(|member| !self.reach.has(*member));
        if let Some(member) = away {
            return Some(HeldBack::Away { member: fx.local.members().name(member) });
        }
        if !fx.local.is_authoritative(partition) {
            return Some(HeldBack::NotRecovered);
        }
        let unread = fx.local.forest.tree(partition).is_none();
        (unread || self.is_at_work(partition)).then_some(HeldBack::Reading)
    }

    fn propose(
        &mut self,
        now: Time,
        partition: Partition,
        condemned: Vec<Grave>,
        fx: &mut Effects,
    ) {
        let op = self.ids.next();
        let mut waiting: BTreeSet<NodeId> = others(self.me, fx).into_iter().collect();
        waiting.insert(self.me);
        let generation = fx.local.generations.number(partition);
        let members = fx.local.members().digest();
        let to = waiting.iter().copied().collect();
        let proposal =
            Body::Propose { partition, generation, members, condemned: condemned.clone() };
        fx.out.send(to, op, proposal);
        let since = now;
        self.rounds.insert(partition, Round::Asking { op, waiting, condemned, since });
    }

    /// A page has been read for a chore, which may have been replaced meanwhile.
    pub(super) fn chore_scanned(&mut self, token: ScanToken, page: &ScanPage, fx: &mut Effects) {
        if let Some(partition) = self.chores.reads(token) {
            let keys = page.items.iter().map(|item| item.key.clone()).collect();
            self.chores.found(partition, keys, page.next.clone());
            self.work(partition, fx);
        }
    }

    /// A member has said something about generations.
    pub(super) fn hear(
        &mut self,
        now: Time,
        from: NodeId,
        op: RequestId,
        body: Body,
        fx: &mut Effects,
    ) {
        match body {
            Body::Propose { partition, generation, members, condemned } => {
                let judged = self.judge(from, partition, generation, members, &condemned, fx);
                if let Err(why) = judged {
                    return fx.out.send(vec![from], op, Body::NotYet(why));
                }
                let purpose = Purpose::Agree { to: from, op };
                self.chores.begin(partition, purpose, condemned, fx.out.last_mark());
                self.work(partition, fx);
            }
            Body::Agreed => self.agreed(now, from, op, fx),
            Body::NotYet(why) => {
                let asked =
                    |round: &Round| matches!(round, Round::Asking { op: of, .. } if *of == op);
                let found = self.rounds.iter().find(|(_, round)| asked(round));
                if let Some(partition) = found.map(|(partition, _)| *partition) {
                    let member = fx.local.members().name(from);
                    self.put_off(now, partition, HeldBack::NotYet { member, why });
                }
            }
            Body::Generations { digest, certain, ask } => {
                if ask {
                    fx.out.send(vec![from], op, known(fx, false));
                }
                if digest == fx.local.generations.digest() {
                    self.agree_on_all(from, certain, fx);
                } else {
                    fx.out.send(
                        vec![from],
                        op,
                        Body::GenerationNumbers(fx.local.generations.numbers()),
                    );
                }
            }
            Body::GenerationNumbers(numbers) => {
                let later = |(partition, number): &&(Partition, GcEpoch)| {
                    partition.0 < self.ring.partitions()
                        && *number > fx.local.generations.number(*partition)
                        && !self.is_adopting(*partition)
                };
                let later: Vec<Partition> =
                    numbers.iter().filter(later).map(|(partition, _)| *partition).collect();
                for partition in later.into_iter().take(MAX_QUESTIONS) {
                    fx.out.send(vec![from], op, Body::AskGeneration(partition));
                }
            }
            Body::AskGeneration(partition) => {
                let generation = fx.local.generations.of(partition).clone();
                let mark = fx.out.last_mark();
                fx.out.send_synced(
                    Some(mark),
                    from,
                    op,
                    Body::Generation { partition, generation },
                );
            }
            Body::Generation { partition, generation } => {
                self.adopt(partition, generation, fx);
            }
            _ => {}
        }
    }

    /// Says why this node does not agree to a proposal, if it is clear at once.
    fn judge(
        &self,
        from: NodeId,
        partition: Partition,
        generation: GcEpoch,
        members: u64,
        condemned: &[Grave],
        fx: &mut Effects,
    ) -> Result<(), NotYet> {
        let outside = partition.0 >= self.ring.partitions();
        if outside || self.ring.homes(partition).first() != Some(&from) {
            return Err(NotYet::NotProposer { partition: partition.0 });
        }
        if condemned.len() > MAX_GRAVES {
            return Err(NotYet::TooManyKeys { keys: condemned.len() as u64 });
        }
        let own = fx.local.generations.number(partition);
        if generation != own {
            return Err(NotYet::Generation { own, proposed: generation });
        }
        if members != fx.local.members().digest() {
            return Err(NotYet::Members);
        }
        let agreeing = self.chores.agreeing_to_others(self.me);
        let is_full = fx.local.is_busy() && agreeing >= MAX_AGREEING_BESIDE_CLIENTS;
        if self.is_at_work(partition) || (is_full && from != self.me) {
            return Err(NotYet::AtWork);
        }
        match fx.local.hints.older(partition, own) {
            0 => Ok(()),
            older => Err(NotYet::OldHints { hints: older }),
        }
    }

    /// A member agrees; when all do, the next generation begins.
    fn agreed(&mut self, now: Time, from: NodeId, op: RequestId, fx: &mut Effects) {
        let mut done = None;
        for (partition, round) in &mut self.rounds {
            if let Round::Asking { op: of, waiting, .. } = round
                && *of == op
            {
                waiting.remove(&from);
                done = waiting.is_empty().then_some(*partition);
            }
        }
        let Some(partition) = done else { return };
        let Some(Round::Asking { condemned, since, .. }) = self.rounds.remove(&partition) else {
            debug_assert!(false, "the round was found by its question");
            return;
        };
        self.pace.worked(now, since);
        let generation = fx.local.generations.of(partition).next(condemned);
        fx.out.count(Counter::GenerationsBegun);
        fx.out.count_many(Counter::KeysCollected, generation.collected.len() as u64);
        self.holding.remove(&partition);
        self.rest.insert(partition, now + self.pause);
        let condemned = generation.condemned.clone();
        let purpose = Purpose::Adopt { generation, renounce: false, tell: true };
        self.chores.begin(partition, purpose, condemned, fx.out.last_mark());
        self.work(partition, fx);
    }
}

/// What is known here of the generations; whoever is not certain of it may ask for the same.
fn known(fx: &Effects, may_ask: bool) -> Body {
    let digest = fx.local.generations.digest();
    let certain = fx.local.meta().fresh.is_empty() && fx.local.is_settled();
    Body::Generations { digest, certain, ask: may_ask && !certain }
}

/// All members but this one and those that are removed.
fn others(me: NodeId, fx: &Effects) -> Vec<NodeId> {
    let members = fx.local.members().iter().filter(|member| member.standing != Standing::Removed);
    members.map(|member| member.id()).filter(|id| *id != me).collect()
}
