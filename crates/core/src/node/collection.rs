//! Collection of tombstones, and of all events without a value, by generations (see `generation`).
//! The first home of a partition proposes what is to go; every member agrees from what is synced
//! there; then the next generation begins. A member that is away holds this back for as long as it
//! is a member.

mod chores;
mod repeats;
mod steps;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use self::chores::{Chores, Purpose};
use self::repeats::Repeats;
use super::Config;
use super::effects::Effects;
use super::ids::{RequestId, RequestIds, Role, ScanPurpose, ScanToken};
use super::reach::Reach;
use crate::generation::{GRAVES_BYTES, Generation, Grave, MAX_GRAVES};
use crate::members::{Opinion, Standing};
use crate::message::{Body, Counter, HeldBack, NotYet};
use crate::ring::Ring;
use crate::rng::Rng;
use crate::store::{ScanPage, Scanned, Span};
use crate::types::{Key, MILLI, Micros, NodeId, Partition};

/// Generations that this node is about to end at a time, and while clients wait for it.
const MAX_ROUNDS: usize = 4;
const MAX_ROUNDS_BESIDE_CLIENTS: usize = 1;
/// Bytes of records read at a time.
const PAGE_BYTES: usize = 256 << 10;
/// Members that have not agreed after this time are named, and asked anew later.
const PATIENCE: Micros = 5_000 * MILLI;
/// How often somebody is asked whether it knows later generations.
const TELL: Micros = 1_000 * MILLI;
/// What may be collected is looked for so often; it is no matter of less.
const LOOK: Micros = 100 * MILLI;
/// Where nobody can tell, a node that serves waits so long before it mints.
const GRACE: Micros = 3_000 * MILLI;
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
    chores: Chores,
    /// Generations that have been written and are not durable yet.
    beginning: BTreeMap<Partition, Beginning>,
    rest: BTreeMap<Partition, Micros>,
    holding: BTreeMap<Partition, HeldBack>,
    ids: RequestIds,
    tell_at: Micros,
    look_at: Micros,
    settled_at: Option<Micros>,
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
    Choosing { token: ScanToken, graves: Vec<Grave> },
    Asking { op: RequestId, waiting: BTreeSet<NodeId>, condemned: Vec<Grave>, due: Micros },
}

/// A generation that begins when its write is durable; all are told of it then, if this node has
/// proposed it.
#[derive(Clone, Debug)]
struct Beginning {
    mark: u64,
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
            chores: Chores::default(),
            beginning: BTreeMap::new(),
            rest: BTreeMap::new(),
            holding: BTreeMap::new(),
            ids,
            tell_at: 0,
            look_at: 0,
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
    pub(super) fn settled(&mut self, now: Micros, fx: &mut Effects) {
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
    pub(super) fn is_ready(&self, now: Micros, fx: &Effects) -> bool {
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
    pub(super) fn tick(&mut self, now: Micros, fx: &mut Effects) {
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
        let late = |round: &Round| matches!(round, Round::Asking { due, .. } if *due <= now);
        let late: Vec<Partition> =
            self.rounds.iter().filter(|(_, round)| late(round)).map(|(p, _)| *p).collect();
        for partition in late {
            if let Some(Round::Asking { waiting, .. }) = self.rounds.get(&partition) {
                let members = waiting.iter().map(|node| fx.local.members().name(*node)).collect();
                self.put_off(now, partition, HeldBack::NoAnswer { members });
            }
        }
        if fx.local.is_settled() && now >= self.look_at {
            self.look_at = now + LOOK;
            self.begin_rounds(now, fx);
        }
    }

    fn put_off(&mut self, now: Micros, partition: Partition, why: HeldBack) {
        self.rounds.remove(&partition);
        self.holding.insert(partition, why);
        self.rest.insert(partition, now + self.pause / 2 + self.rng.below(self.pause));
    }

    /// Looks at the partitions that this node is the first home of.
    fn begin_rounds(&mut self, now: Micros, fx: &mut Effects) {
        let most = if fx.local.is_busy() { MAX_ROUNDS_BESIDE_CLIENTS } else { MAX_ROUNDS };
        for partition in (0..self.ring.partitions()).map(Partition) {
            if self.rounds.len() >= most {
                return;
            }
            let homes = self.ring.homes(partition);
            let first = homes.first() == Some(&self.me);
            if homes.iter().skip(1).any(|home| *home == self.me) {
                self.watch(partition, fx);
            }
            let rests = self.rest.get(&partition).is_some_and(|until| *until > now);
            if !first || rests || self.rounds.contains_key(&partition) {
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
            } else if dead > 0 {
                let span = Span { limit_bytes: PAGE_BYTES, ..Span::default() };
                let (token, graves) =
                    (fx.out.scan(ScanPurpose::Graves, partition, span), Vec::new());
                self.rounds.insert(partition, Round::Choosing { token, graves });
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
        now: Micros,
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
        let due = now + PATIENCE;
        self.rounds.insert(partition, Round::Asking { op, waiting, condemned, due });
    }

    /// A page has been read for a chore, which may have been replaced meanwhile.
    pub(super) fn chore_scanned(&mut self, token: ScanToken, page: &ScanPage, fx: &mut Effects) {
        if let Some(partition) = self.chores.reads(token) {
            let keys = page.items.iter().map(|item| item.key.clone()).collect();
            self.chores.found(partition, keys, page.next.clone());
            self.work(partition, fx);
        }
    }

    /// A page has been read to choose what goes, in a round that may have been given up meanwhile.
    pub(super) fn graves_scanned(
        &mut self,
        now: Micros,
        token: ScanToken,
        page: &ScanPage,
        fx: &mut Effects,
    ) {
        let choosing = |(partition, round): (&Partition, &Round)| match round {
            Round::Choosing { token: of, .. } if *of == token => Some(*partition),
            _ => None,
        };
        let Some(partition) = self.rounds.iter().find_map(choosing) else { return };
        let Some(Round::Choosing { mut graves, .. }) = self.rounds.remove(&partition) else {
            debug_assert!(false, "the round was found by its scan");
            return;
        };
        let going: BTreeSet<&Key> =
            fx.local.generations.of(partition).condemned.iter().map(|grave| &grave.key).collect();
        let dead = page.items.iter().filter(|item| !going.contains(&item.key));
        for Scanned { key, dead, .. } in dead {
            let dead = self.repeats.purgeable(now, key, dead);
            if !dead.is_empty() {
                graves.push(Grave { key: key.clone(), dead });
            }
        }
        let is_full = bound(&mut graves);
        match page.next.clone().filter(|_| !is_full) {
            Some(after) => {
                let span = Span { after: Some(after), limit_bytes: PAGE_BYTES, ..Span::default() };
                let token = fx.out.scan(ScanPurpose::Graves, partition, span);
                self.rounds.insert(partition, Round::Choosing { token, graves });
            }
            None if graves.is_empty() && going.is_empty() => {
                // All that is dead there is kept for a while yet.
                self.rest.insert(partition, now + self.pause);
            }
            None => self.propose(now, partition, graves, fx),
        }
    }

    /// A member has said something about generations.
    pub(super) fn hear(
        &mut self,
        now: Micros,
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
                let later = |(partition, number): &&(Partition, u64)| {
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
        generation: u64,
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
        if self.is_at_work(partition) {
            return Err(NotYet::AtWork);
        }
        match fx.local.hints.older(partition, own) {
            0 => Ok(()),
            older => Err(NotYet::OldHints { hints: older }),
        }
    }

    /// A member agrees; when all do, the next generation begins.
    fn agreed(&mut self, now: Micros, from: NodeId, op: RequestId, fx: &mut Effects) {
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
        let Some(Round::Asking { condemned, .. }) = self.rounds.remove(&partition) else {
            debug_assert!(false, "the round was found by its question");
            return;
        };
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

/// Leaves no more than may be condemned at a time, one at least; true if that is all there is room
/// for.
fn bound(graves: &mut Vec<Grave>) -> bool {
    let mut bytes = 0;
    let mut fits = |grave: &Grave| {
        let first = bytes == 0;
        bytes += grave.bytes();
        first || bytes <= GRAVES_BYTES
    };
    let fitting = graves.iter().take(MAX_GRAVES).take_while(|grave| fits(grave)).count();
    let is_full = fitting < graves.len() || fitting == MAX_GRAVES;
    graves.truncate(fitting);
    is_full
}

/// All members but this one and those that are removed.
fn others(me: NodeId, fx: &Effects) -> Vec<NodeId> {
    let members = fx.local.members().iter().filter(|member| member.standing != Standing::Removed);
    members.map(|member| member.id()).filter(|id| *id != me).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::causal::{Actor, Context, Dot};

    #[test]
    fn as_many_are_condemned_as_fit_and_always_one() {
        let graves = |count: usize, key_bytes: usize, dots: u64| -> Vec<Grave> {
            let dot = |serial| Dot { actor: Actor { store: 1, serial }, counter: 1 };
            let dead = Context::new((0..dots).map(dot).collect());
            let key = |number: usize| Key::new(format!("{number:0key_bytes$}").into_bytes());
            (0..count).map(|n| Grave { key: key(n).unwrap(), dead: dead.clone() }).collect()
        };
        let left = |mut graves: Vec<Grave>| {
            let is_full = bound(&mut graves);
            (graves.len(), is_full)
        };
        assert_eq!(left(graves(10, 10, 1)), (10, false));
        assert_eq!(left(graves(MAX_GRAVES + 1, 10, 1)), (MAX_GRAVES, true));
        assert_eq!(left(graves(100, 1_000, 1)), (GRAVES_BYTES / 1_024, true));
        assert_eq!(left(graves(3, 1_000, 5_000)), (1, true));
    }
}
