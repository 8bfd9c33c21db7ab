//! Causality: dotted version vector sets.
//!
//! Preguiça, Almeida, Baquero, Gonçalves, "Dotted Version Vectors: Logical Clocks for Optimistic
//! Replication" (2010), in the compact set form. Pixii never creates the anonymous values of that
//! form, so they are left out.
//!
//! The actor rules that keep dots unique are the replica's (`node/replica.rs`); here a clock is
//! only a value.
//!
//! A put that was sent to several nodes may be issued by each of them. Its repetitions share one
//! dot, that of [`Actor::of_write`]: wherever a clock knows that event, the same write has no value
//! under another dot, so a copy that is issued or delivered late cannot outlive the one that was
//! replaced.

use bincode::de::BorrowDecoder;
use bincode::enc::Encoder;
use bincode::error::{DecodeError, EncodeError};
use bincode::{BorrowDecode, Encode};
use bytes::Bytes;
use smallvec::SmallVec;

use crate::types::{Blob, WriteId};

/// Most keys have one actor alive: that one is held without an allocation.
type Few<T> = SmallVec<[T; 1]>;
/// Most that room is made for before they have been read.
const MAX_ANNOUNCED: usize = 1_024;

/// Separates the actors of one store: a number that the store gives out once in a process run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct ActorEpoch(pub u64);

impl ActorEpoch {
    /// The first one of a store.
    pub const FIRST: ActorEpoch = ActorEpoch(1);
    /// Set in the actor epoch of an actor of one write; no store counts that far.
    const WRITE: u64 = 1 << 63;

    /// The one that follows. At a million keys a second a store has them for 290,000 years.
    #[must_use]
    pub const fn next(self) -> Self {
        ActorEpoch(self.0 + 1)
    }
}

/// The issuer of events: a store id (64 random bits, drawn at each process start) and an actor
/// epoch that is never used twice with it. Within an actor, counters are per key and contiguous
/// from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct Actor {
    /// The store id; for the actor of a write, the upper half of the write id.
    pub store: u64,
    /// The store's actor epoch.
    pub actor_epoch: ActorEpoch,
}

impl Actor {
    /// The actor of a put that was sent to more than one node: its one event has the same dot,
    /// whichever node issues it.
    pub fn of_write(write: WriteId) -> Self {
        let actor_epoch = ActorEpoch(write.0 as u64 | ActorEpoch::WRITE);
        Actor { store: (write.0 >> 64) as u64, actor_epoch }
    }

    /// True for an actor of one write.
    pub fn is_of_write(self) -> bool {
        self.actor_epoch.0 & ActorEpoch::WRITE != 0
    }
}

/// One event: the `counter`-th of its actor on one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct Dot {
    /// The issuer of the event.
    pub actor: Actor,
    /// Which one of the actor's events on this key, from 1.
    pub counter: u64,
}

/// What a reader has seen: for each actor, all its events up to a counter. Sorted by actor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Context(Few<Dot>);

impl Context {
    /// The context that covers exactly what `dots` cover; the highest counter of an actor wins.
    pub fn new(dots: Vec<Dot>) -> Self {
        Context::of(dots.into())
    }

    fn of(mut dots: Few<Dot>) -> Self {
        dots.sort_unstable_by(|a, b| a.actor.cmp(&b.actor).then(b.counter.cmp(&a.counter)));
        dots.dedup_by_key(|dot| dot.actor);
        Context(dots)
    }

    /// True when nothing has been seen.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The newest event seen of each actor, sorted by actor.
    pub fn dots(&self) -> &[Dot] {
        &self.0
    }

    /// How many events of `actor` have been seen.
    pub fn counter(&self, actor: Actor) -> u64 {
        let found = self.0.binary_search_by_key(&actor, |dot| dot.actor);
        found.map_or(0, |at| self.0[at].counter)
    }

    /// True when the event has been seen.
    pub fn covers(&self, dot: Dot) -> bool {
        self.counter(dot.actor) >= dot.counter
    }
}

/// One actor's part of a clock: `counter` events, of which the newest `values.len()` are alive.
/// The values carry the dots counter, counter-1, and so on: newest first.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct Entry<V> {
    /// The issuer of these events.
    pub actor: Actor,
    /// How many there were.
    pub counter: u64,
    /// The live ones, newest first; never more than `counter`.
    pub values: Vec<V>,
}

impl<V> Entry<V> {
    /// The counter up to which this actor's values are gone.
    fn dead(&self) -> u64 {
        self.counter.saturating_sub(self.values.len() as u64)
    }
}

/// A dotted version vector set: every event that a copy of a key knows of, with the live values.
/// A clock without values is a tombstone (or nothing at all, when it has no entries either).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clock<V>(Few<Entry<V>>);

/// One write's value, as replicas keep it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct Version {
    /// The id that the client drew for the write.
    pub write: WriteId,
    /// The value that it wrote.
    pub value: Blob,
}

/// All that a replica knows of a key, less what is local to its store.
pub type Object = Clock<Version>;

/// A value that knows which write it came with.
pub trait Written {
    /// The id of the write; `None` for values that are never sent to several nodes.
    fn write(&self) -> Option<WriteId>;
}

impl Written for Version {
    fn write(&self) -> Option<WriteId> {
        Some(self.write)
    }
}

/// Numbers as values, in models and benchmarks.
impl Written for u64 {
    fn write(&self) -> Option<WriteId> {
        None
    }
}

impl<V> Default for Clock<V> {
    fn default() -> Self {
        Clock(Few::new())
    }
}

impl<V: Clone + PartialEq + Written> Clock<V> {
    /// Its entries, sorted by actor.
    pub fn entries(&self) -> &[Entry<V>] {
        &self.0
    }

    /// True when it knows of no event.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The live values with their dots.
    pub fn values(&self) -> impl Iterator<Item = (Dot, &V)> {
        self.0.iter().flat_map(|entry| {
            let dots = (0..=entry.counter).rev();
            dots.zip(&entry.values)
                .map(|(counter, value)| (Dot { actor: entry.actor, counter }, value))
        })
    }

    /// Number of values; a write that was repeated at two nodes may count twice.
    pub fn len(&self) -> usize {
        self.0.iter().map(|entry| entry.values.len()).sum()
    }

    /// Everything that this clock knows of.
    pub fn context(&self) -> Context {
        Context(self.0.iter().map(|e| Dot { actor: e.actor, counter: e.counter }).collect())
    }

    /// How many events of `actor` it knows of.
    pub fn counter(&self, actor: Actor) -> u64 {
        let found = self.0.binary_search_by_key(&actor, |entry| entry.actor);
        found.map_or(0, |at| self.0[at].counter)
    }

    /// True when it knows of the event, whether its value is alive or not.
    pub fn covers(&self, dot: Dot) -> bool {
        self.counter(dot.actor) >= dot.counter
    }

    /// The join of two copies: what either knows, less what either knows to be overwritten.
    /// Idempotent, commutative and associative.
    pub fn sync(&self, other: &Self) -> Self {
        self.join(other).unify()
    }

    /// The clock without second copies of writes that it knows under their own actor. Of an actor
    /// with several values only the oldest can go, because an entry has no gaps; a store issues
    /// none beside an older one (`node/replica.rs`).
    fn unify(mut self) -> Self {
        let repeated: Vec<Actor> =
            self.0.iter().map(|entry| entry.actor).filter(|actor| actor.is_of_write()).collect();
        if repeated.is_empty() {
            return self;
        }
        let known = |value: &V| {
            let actor = value.write().map(Actor::of_write);
            actor.is_some_and(|actor| repeated.binary_search(&actor).is_ok())
        };
        for entry in self.0.iter_mut().filter(|entry| !entry.actor.is_of_write()) {
            while entry.values.last().is_some_and(known) {
                entry.values.pop();
            }
        }
        self
    }

    fn join(&self, other: &Self) -> Self {
        let (mut left, mut right) = (self.0.iter().peekable(), other.0.iter().peekable());
        let mut joined = Few::with_capacity(self.0.len().max(other.0.len()));
        loop {
            let entry = match (left.peek(), right.peek()) {
                (None, None) => return Clock(joined),
                (Some(a), Some(b)) if a.actor == b.actor => {
                    let entry = join_entries(a, b);
                    left.next();
                    right.next();
                    entry
                }
                (Some(a), b) if b.is_none_or(|b| a.actor < b.actor) => {
                    let entry = (*a).clone();
                    left.next();
                    entry
                }
                (_, Some(b)) => {
                    let entry = (*b).clone();
                    right.next();
                    entry
                }
                (Some(_), None) => return Clock(joined),
            };
            joined.push(entry);
        }
    }

    /// The clock after forgetting every value that `seen` covers, and learning of its events: what
    /// a delete leaves, and what an update starts from.
    pub fn discard(&self, seen: &Context) -> Self {
        let blank = |dot: &Dot| Entry { actor: dot.actor, counter: dot.counter, values: vec![] };
        self.sync(&Clock(seen.dots().iter().map(blank).collect()))
    }

    /// The events of actors that have no value any more, as far as every owner may hear that they
    /// are dead. While a write has its value under its own actor ([`Actor::of_write`]), none may: a
    /// dead event may be that write under another dot, and an owner without the new one would lose
    /// the value.
    pub fn dead(&self) -> Context {
        let is_repeated = |entry: &Entry<V>| entry.actor.is_of_write() && !entry.values.is_empty();
        if self.0.iter().any(is_repeated) {
            return Context::default();
        }
        let dead = self.0.iter().filter(|entry| entry.values.is_empty());
        Context(dead.map(|entry| Dot { actor: entry.actor, counter: entry.counter }).collect())
    }

    /// The clock without the actors that have no value, and no event that `purged` does not cover.
    /// Sound only where no copy can come that shows one of these events alive (`gc_epoch`).
    pub fn forget(&self, purged: &Context) -> Self {
        let gone = |entry: &Entry<V>| {
            entry.values.is_empty() && purged.counter(entry.actor) >= entry.counter
        };
        Clock(self.0.iter().filter(|entry| !gone(entry)).cloned().collect())
    }

    /// The clock without the values that other stores than `stores` have issued: what an old copy
    /// of a disk may still show. That an event is dead is true for ever.
    pub fn discard_others(&self, stores: &[u64]) -> Self {
        let kept =
            |entry: &&Entry<V>| stores.contains(&entry.actor.store) || entry.values.is_empty();
        Clock(self.0.iter().filter(kept).cloned().collect())
    }

    /// A part of the live values, and a context that covers these and no other: of each actor the
    /// oldest ones, for as long as `fits` says yes. A context has no gaps, so behind a value that
    /// does not fit, none of the same actor is shown. What is dead is always covered.
    pub fn shown(&self, mut fits: impl FnMut(&V) -> bool) -> (Vec<&V>, Context) {
        let (mut values, mut dots) = (Vec::new(), Few::with_capacity(self.0.len()));
        for entry in &self.0 {
            let mut counter = entry.dead();
            for value in entry.values.iter().rev() {
                if !fits(value) {
                    break;
                }
                values.push(value);
                counter += 1;
            }
            if counter > 0 {
                dots.push(Dot { actor: entry.actor, counter });
            }
        }
        (values, Context(dots))
    }

    /// The same clock, with the values of `other` where both have them: what it had in memory of
    /// its own can go.
    #[must_use]
    pub fn share(mut self, other: &Self) -> Self {
        for entry in &mut self.0 {
            let Ok(at) = other.0.binary_search_by_key(&entry.actor, |entry| entry.actor) else {
                continue;
            };
            let (mine, theirs) = (entry.counter, &other.0[at]);
            for (place, value) in entry.values.iter_mut().enumerate() {
                // Newest first, from each clock's own counter down.
                let back = theirs.counter.checked_sub(mine.saturating_sub(place as u64));
                let known = back.and_then(|back| theirs.values.get(usize::try_from(back).ok()?));
                if let Some(known) = known.filter(|known| *known == value) {
                    *value = known.clone();
                }
            }
        }
        self
    }

    /// A write by a client that has seen `seen`: the values it covers go, `value` comes with the
    /// next dot of `actor`. The caller answers for the actor being its own and for this key.
    pub fn update(&self, seen: &Context, actor: Actor, value: V) -> (Self, Dot) {
        let mut clock = self.discard(seen);
        let at = match clock.0.binary_search_by_key(&actor, |entry| entry.actor) {
            Ok(at) => at,
            Err(at) => {
                clock.0.insert(at, Entry { actor, counter: 0, values: vec![] });
                at
            }
        };
        let entry = &mut clock.0[at];
        entry.counter += 1;
        entry.values.insert(0, value);
        let dot = Dot { actor, counter: entry.counter };
        (clock.unify(), dot)
    }

    /// What the writer of `dot`, who had seen `seen`, may claim to have seen now: `seen` and its
    /// own write. A context cannot leave gaps, so where older live values of the same actor were
    /// not in `seen`, the claim stays `seen`: a context never covers a sibling that nobody showed
    /// its owner.
    pub fn context_of_writer(&self, seen: &Context, dot: Dot) -> Context {
        let entry = self.0.iter().find(|entry| entry.actor == dot.actor);
        let alone = entry.is_none_or(|entry| entry.dead() + 1 >= dot.counter);
        let mut dots = seen.0.clone();
        if alone {
            dots.push(dot);
        }
        Context::of(dots)
    }
}

/// What a `Vec` of the same has. Space is taken as they come: a count that is only announced takes
/// little.
fn few<'de, T, D>(decoder: &mut D) -> Result<Few<T>, DecodeError>
where
    T: BorrowDecode<'de, Bytes>,
    D: BorrowDecoder<'de, Context = Bytes>,
{
    let count = u64::borrow_decode(decoder)?;
    let count = usize::try_from(count).map_err(|_| DecodeError::OutsideUsizeRange(count))?;
    decoder.claim_container_read::<u8>(count)?;
    let mut all = Few::with_capacity(count.min(MAX_ANNOUNCED));
    for _ in 0..count {
        decoder.unclaim_bytes_read(1);
        all.push(T::borrow_decode(decoder)?);
    }
    if count > MAX_ANNOUNCED {
        all.shrink_to_fit();
    }
    Ok(all)
}

impl Encode for Context {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        self.0.as_slice().encode(encoder)
    }
}

impl<V: Encode> Encode for Clock<V> {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        self.0.as_slice().encode(encoder)
    }
}

/// Decoding checks what the algorithms rely on: actors ascending and counters at least 1.
impl<'de> BorrowDecode<'de, Bytes> for Context {
    fn borrow_decode<D: BorrowDecoder<'de, Context = Bytes>>(
        decoder: &mut D,
    ) -> Result<Self, DecodeError> {
        let dots: Few<Dot> = few(decoder)?;
        let ascending = dots.windows(2).all(|pair| pair[0].actor < pair[1].actor);
        if !ascending || dots.iter().any(|dot| dot.counter == 0) {
            return Err(DecodeError::Other("a context out of order"));
        }
        Ok(Context(dots))
    }
}

/// Decoding checks what the algorithms rely on: actors ascending, counters at least 1 and not fewer
/// than the values.
impl<'de, V: BorrowDecode<'de, Bytes>> BorrowDecode<'de, Bytes> for Clock<V> {
    fn borrow_decode<D: BorrowDecoder<'de, Context = Bytes>>(
        decoder: &mut D,
    ) -> Result<Self, DecodeError> {
        let entries: Few<Entry<V>> = few(decoder)?;
        let ascending = entries.windows(2).all(|pair| pair[0].actor < pair[1].actor);
        let sound = |e: &Entry<V>| e.counter >= 1 && e.values.len() as u64 <= e.counter;
        if !ascending || !entries.iter().all(sound) {
            return Err(DecodeError::Other("a clock out of order"));
        }
        Ok(Clock(entries))
    }
}

/// The join of one actor's entries: the newer one's values, less those that the older one knows
/// dead.
fn join_entries<V: Clone>(a: &Entry<V>, b: &Entry<V>) -> Entry<V> {
    let (newer, older) = if a.counter >= b.counter { (a, b) } else { (b, a) };
    let alive_from = newer.dead().max(older.dead());
    let live = newer.counter.saturating_sub(alive_from) as usize;
    let values = newer.values.iter().take(live).cloned().collect();
    Entry { actor: newer.actor, counter: newer.counter, values }
}

#[cfg(test)]
mod tests {
    use smallvec::smallvec;

    use super::*;

    const A: Actor = Actor { store: 1, actor_epoch: ActorEpoch(1) };
    const B: Actor = Actor { store: 2, actor_epoch: ActorEpoch(1) };

    fn dot(actor: Actor, counter: u64) -> Dot {
        Dot { actor, counter }
    }

    impl Written for &'static str {
        fn write(&self) -> Option<WriteId> {
            None
        }
    }

    impl Written for u8 {
        fn write(&self) -> Option<WriteId> {
            None
        }
    }

    fn clock(entries: &[(Actor, u64, &[&'static str])]) -> Clock<&'static str> {
        let entry = |&(actor, counter, values): &(Actor, u64, &[&'static str])| Entry {
            actor,
            counter,
            values: values.to_vec(),
        };
        Clock(entries.iter().map(entry).collect())
    }

    fn seen(dots: &[Dot]) -> Context {
        Context::new(dots.to_vec())
    }

    #[test]
    fn an_old_disk_discards_all_values_but_those_that_it_issued_since() {
        let c = Actor { store: 3, actor_epoch: ActorEpoch(1) };
        let old = clock(&[(A, 2, &["v2"]), (B, 1, &["v3"]), (c, 4, &[])]);
        assert_eq!(old.discard_others(&[2]), clock(&[(B, 1, &["v3"]), (c, 4, &[])]));
        assert_eq!(old.discard_others(&[]), clock(&[(c, 4, &[])]));
    }

    #[test]
    fn published_vectors() {
        let a0 = Clock::default().update(&Context::default(), A, "v1").0;
        assert_eq!(a0, clock(&[(A, 1, &["v1"])]));
        let a1 = a0.update(&a0.context(), A, "v2").0;
        assert_eq!(a1, clock(&[(A, 2, &["v2"])]));
        let b = a1.update(&a1.context(), B, "v3").0;
        assert_eq!(b, clock(&[(A, 2, &[]), (B, 1, &["v3"])]));
        let b = a1.update(&a0.context(), B, "v4").0;
        assert_eq!(b, clock(&[(A, 2, &["v2"]), (B, 1, &["v4"])]));
        let a = a1.update(&a0.context(), A, "v5").0;
        assert_eq!(a, clock(&[(A, 3, &["v5", "v2"])]));
        let (x, y) = (clock(&[(A, 1, &[])]), clock(&[(A, 2, &["v2", "v1"])]));
        assert_eq!(x.sync(&y), clock(&[(A, 2, &["v2"])]));
        assert_eq!(y.sync(&x), clock(&[(A, 2, &["v2"])]));
        let two = a0.update(&Context::default(), A, "v2").0;
        assert_eq!(two, clock(&[(A, 2, &["v2", "v1"])]));
        let three = two.update(&seen(&[dot(A, 1)]), A, "v3").0;
        assert_eq!(three, clock(&[(A, 3, &["v3", "v2"])]));
    }

    #[test]
    fn a_delete_leaves_a_clock_without_values_and_keeps_the_unseen() {
        let stored = clock(&[(A, 2, &["v2", "v1"]), (B, 1, &["w"])]);
        assert_eq!(
            stored.discard(&seen(&[dot(A, 1), dot(B, 1)])),
            clock(&[(A, 2, &["v2"]), (B, 1, &[])])
        );
        assert_eq!(stored.discard(&stored.context()).len(), 0);
    }

    #[test]
    fn a_writer_never_claims_a_sibling_that_it_was_not_shown() {
        let empty = Context::default();
        let (one, d1) = Clock::default().update(&empty, A, "v1");
        assert_eq!(one.context_of_writer(&empty, d1), seen(&[d1]));
        let (two, d2) = one.update(&empty, A, "v2");
        assert_eq!(two.context_of_writer(&empty, d2), empty, "v1 is alive and unseen");
        let (two, d2) = one.update(&seen(&[d1]), A, "v2");
        assert_eq!(two.context_of_writer(&seen(&[d1]), d2), seen(&[d2]));
        let (other, d) = one.update(&empty, B, "w");
        assert_eq!(other.context_of_writer(&empty, d), seen(&[d]), "A's sibling stays out");
    }

    #[test]
    fn a_repeated_write_has_one_value_and_dies_under_every_dot() {
        let write = WriteId(7 << 64 | 3);
        let version = || Version { write, value: Blob(Bytes::from_static(b"v")) };
        let own = Actor::of_write(write);
        assert!(own.is_of_write() && !A.is_of_write());
        let (first, first_dot) = Object::default().update(&Context::default(), A, version());
        let (again, again_dot) = Object::default().update(&Context::default(), own, version());
        let both = first.sync(&again);
        assert_eq!(both, again.sync(&first));
        assert_eq!(both.values().map(|(dot, _)| dot).collect::<Vec<_>>(), [again_dot]);
        assert!(both.covers(first_dot));
        // An owner that has only the first dot would lose the write if it heard that it is dead.
        assert_eq!(both.dead(), Context::default());
        // Whoever has replaced the repetition has replaced the late copy.
        let replaced = again.discard(&again.context());
        assert_eq!(replaced.sync(&first).len(), 0);
        assert_eq!(replaced.sync(&first).dead(), both.context());
        assert_eq!(first.sync(&replaced).sync(&both).len(), 0);
        // A node that knows of it issues nothing beside it.
        assert_eq!(again.update(&Context::default(), A, version()).0.len(), 1);
    }

    #[test]
    fn bytes_out_of_order_are_no_clock() {
        let config = bincode::config::standard();
        let encode = |clock: &Clock<u8>| bincode::encode_to_vec(clock, config).unwrap();
        let decode = |bytes: &[u8]| {
            let context = Bytes::copy_from_slice(bytes);
            let decoded = bincode::borrow_decode_from_slice_with_context(bytes, config, context);
            decoded.map(|(clock, _): (Clock<u8>, usize)| clock)
        };
        let entry = |actor, counter, values: &[u8]| Entry { actor, counter, values: values.into() };
        let good = Clock(smallvec![entry(A, 2, &[7]), entry(B, 1, &[])]);
        assert_eq!(decode(&encode(&good)).unwrap(), good);
        for bad in [
            vec![entry(B, 1, &[]), entry(A, 2, &[7])],
            vec![entry(A, 1, &[7, 8])],
            vec![entry(A, 0, &[])],
        ] {
            assert!(decode(&encode(&Clock(bad.into()))).is_err());
        }
    }
}
