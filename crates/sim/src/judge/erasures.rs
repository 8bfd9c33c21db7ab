//! Who erases which values: each value that goes is explained at the moment in which the first
//! host writes that it is gone.
//!
//! A write with a context covers what its client was shown. A write that its issuer decides has no
//! context of its client: it covers one value at most, and nothing that its host has not
//! received.

use std::collections::{BTreeMap, BTreeSet};

use pixii_core::causal::{Actor, Context, Dot, Object};
use pixii_core::types::{Key, Micros, Time, WriteId};

use super::{Broken, Judge, Write};

/// What is known of values that have gone.
#[derive(Debug, Default)]
pub(in crate::judge) struct Erasures {
    /// The dots of values that some host has written as gone.
    gone: BTreeSet<(Key, Dot)>,
    /// Those of them that a decided delete has erased, or a decided put which was itself replaced
    /// before it was written.
    decided: BTreeSet<(Key, Dot)>,
    /// The events of each actor that some host has written as gone, whether a value of theirs was
    /// ever written or not: a decided write may be replaced in the step that it is made in.
    dead: BTreeMap<Actor, u64>,
    /// The events that each host has received, by actor: an actor is of one key.
    reported: BTreeMap<(usize, Actor), u64>,
    /// How long after its client has ended a write may still be carried out, in runs that
    /// show it.
    slack: Option<Micros>,
}

impl Erasures {
    /// True if a decided write has erased the value, or may have before any host wrote it.
    pub(in crate::judge) fn is_decided(&self, key: &Key, dot: Dot) -> bool {
        let place = (key.clone(), dot);
        self.decided.contains(&place) || self.is_dead(dot) && !self.gone.contains(&place)
    }

    fn is_dead(&self, dot: Dot) -> bool {
        self.dead.get(&dot.actor).is_some_and(|counter| *counter >= dot.counter)
    }

    fn is_reported(&self, host: usize, dot: Dot) -> bool {
        self.reported.get(&(host, dot.actor)).is_some_and(|counter| *counter >= dot.counter)
    }
}

impl Judge {
    /// How long after the end of its client's request a write may be carried out, if this run
    /// shows it.
    pub(crate) fn limit_lateness(&mut self, slack: Option<Micros>) {
        self.erasures.slack = slack;
    }

    /// The client of a write waits for it no more.
    pub(crate) fn end(&mut self, id: WriteId, now: Time) {
        if let Some(write) = self.writes.get_mut(&id) {
            write.ended = Some(now);
        }
    }

    /// A host receives an object, by a message or by its disk.
    pub(crate) fn report_object(&mut self, host: usize, object: &Object) {
        for entry in object.entries() {
            let reported = self.erasures.reported.entry((host, entry.actor)).or_default();
            *reported = entry.counter.max(*reported);
        }
    }

    /// A host hears that these events are dead.
    pub(crate) fn report_dead(&mut self, host: usize, dead: &Context) {
        for dot in dead.dots() {
            let reported = self.erasures.reported.entry((host, dot.actor)).or_default();
            *reported = dot.counter.max(*reported);
        }
    }

    /// A host is about to write this object.
    pub(crate) fn observe(
        &mut self,
        now: Time,
        host: usize,
        key: &Key,
        object: &Object,
    ) -> Result<(), Broken> {
        let first = self.take_first(now, host, key, object)?;
        self.check_object(key, object)?;
        let alive: BTreeMap<Dot, WriteId> =
            object.values().map(|(dot, version)| (dot, version.write)).collect();
        let known = self.dots.range((key.clone(), LEAST)..).take_while(|((of, _), _)| of == key);
        let gone = known.filter(|((of, dot), _)| {
            object.covers(*dot)
                && !alive.contains_key(dot)
                && !self.erasures.is_dead(*dot)
                && !self.erasures.gone.contains(&(of.clone(), *dot))
        });
        let gone: Vec<(Dot, WriteId)> = gone.map(|((_, dot), id)| (*dot, *id)).collect();
        let mut decided = BTreeSet::new();
        for (dot, id) in gone {
            if self.is_elsewhere(key, id, dot, &alive) {
                continue;
            }
            self.erasures.gone.insert((key.clone(), dot));
            if self.undecided(key, now).next().is_some() {
                // One of these may have done it, although another write would explain it.
                self.erasures.decided.insert((key.clone(), dot));
            }
            if !self.is_purged(key, dot) && !self.is_seen(key, id, dot) {
                decided.insert(id);
                self.explain(host, key, (dot, id))?;
            }
        }
        if decided.len() > first.max(1) + self.undecided(key, now).count() {
            let what = format!("{decided:?} are erased, and no client was shown them");
            return Err(Broken { key: key.clone(), what });
        }
        self.report_object(host, object);
        for dot in gone_of(object) {
            let dead = self.erasures.dead.entry(dot.actor).or_default();
            *dead = dot.counter.max(*dead);
        }
        Ok(())
    }

    /// Notes what the decided puts have covered that appear for the first time, and counts them.
    fn take_first(
        &mut self,
        now: Time,
        host: usize,
        key: &Key,
        object: &Object,
    ) -> Result<usize, Broken> {
        let mut first = 0;
        for (dot, version) in object.values() {
            if self.dots.contains_key(&(key.clone(), dot)) {
                continue;
            }
            if !self.writes.get(&version.write).is_some_and(|write| write.is_decided) {
                continue;
            }
            first += 1;
            if let Some(unread) =
                gone_of(object).find(|gone| !self.may_cover(host, key, dot, *gone))
            {
                let what = format!(
                    "n{host} issues {:?}, which covers {unread:?}, not read",
                    version.write
                );
                return Err(Broken { key: key.clone(), what });
            }
            let Some(write) = self.writes.get_mut(&version.write) else { continue };
            let before = write.context.dots().iter().copied();
            write.context = Context::new(before.chain(gone_of(object)).collect());
            if let (Some(ended), Some(slack)) = (write.ended, self.erasures.slack)
                && now > ended + slack
            {
                let what = format!(
                    "{:?} is carried out at {} us, and its client gave it up at {} us",
                    version.write, now.0, ended.0
                );
                return Err(Broken { key: key.clone(), what });
            }
        }
        Ok(first)
    }

    /// True if a decided write of this dot may cover an event: its host has received it, or issued
    /// it itself in this very step, or a client has named it in a context.
    fn may_cover(&self, host: usize, key: &Key, dot: Dot, covered: Dot) -> bool {
        let own = covered.actor.store == dot.actor.store || covered.actor.is_of_write();
        own || dot.actor.is_of_write()
            || self.erasures.is_reported(host, covered)
            || self.on_key(key).any(|(_, write)| write.shown.covers(covered))
    }

    /// True if the same write is alive under another dot, or was erased under one.
    fn is_elsewhere(
        &self,
        key: &Key,
        id: WriteId,
        dot: Dot,
        alive: &BTreeMap<Dot, WriteId>,
    ) -> bool {
        let others = self.dots_of.get(&id).into_iter().flatten().filter(|other| **other != dot);
        alive.values().any(|other| *other == id)
            || others.into_iter().any(|other| self.erasures.gone.contains(&(key.clone(), *other)))
    }

    /// True if a client that was shown the value has asked for a write that replaces it.
    fn is_seen(&self, key: &Key, id: WriteId, dot: Dot) -> bool {
        let dots: Vec<Dot> =
            self.dots_of.get(&id).into_iter().flatten().copied().chain([dot]).collect();
        self.on_key(key)
            .any(|(_, write)| write.possible && dots.iter().any(|dot| write.shown.covers(*dot)))
    }

    /// Finds the decided write that has erased a value, which its host must have heard of.
    fn explain(&self, host: usize, key: &Key, (dot, id): (Dot, WriteId)) -> Result<(), Broken> {
        let broken = |what: String| Err(Broken { key: key.clone(), what });
        if !self.erasures.is_reported(host, dot) {
            return broken(format!("n{host} erases {id:?}, {dot:?}, which it has not read"));
        }
        if self.on_key(key).any(|(_, write)| write.is_decided && write.context.covers(dot)) {
            return Ok(());
        }
        if !self.erasures.is_decided(key, dot) {
            return broken(format!("n{host} erases {id:?}, {dot:?}, and no write covers it"));
        }
        Ok(())
    }

    /// The decided writes of a key that may be carried out now.
    fn undecided(&self, key: &Key, now: Time) -> impl Iterator<Item = &Write> {
        let slack = self.erasures.slack;
        let open = move |write: &&Write| {
            write.is_decided
                && write.possible
                && match (write.ended, slack) {
                    (Some(ended), Some(slack)) => now <= ended + slack,
                    _ => true,
                }
        };
        self.on_key(key).map(|(_, write)| write).filter(open)
    }
}

/// The newest event of each actor whose value is gone.
fn gone_of(object: &Object) -> impl Iterator<Item = Dot> {
    object.entries().iter().filter_map(|entry| {
        let counter = entry.counter - entry.values.len() as u64;
        (counter > 0).then_some(Dot { actor: entry.actor, counter })
    })
}

/// Before all dots.
const LEAST: Dot =
    Dot { actor: Actor { store: 0, actor_epoch: pixii_core::causal::ActorEpoch(0) }, counter: 0 };
