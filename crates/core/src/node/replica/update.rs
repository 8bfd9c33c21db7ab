//! What a client's change, or a copy of a peer, makes of a record. The limits of clients' writes
//! hold here and nowhere else.

use std::collections::BTreeSet;

use super::Copy;
use super::key_transaction::{KeyTransaction, outgrows};
use crate::causal::{Actor, Context, Dot, Object, Version};
use crate::gc_epoch::GcEpoch;
use crate::message::{self, Measure, Premise, Rejection};
use crate::node::Oversize;
use crate::node::gc_epochs::Stamped;
use crate::node::io::Io;
use crate::store::Record;
use crate::types::{MAX_CLOCK_ENTRIES, MAX_SIBLINGS, NodeId, ObjectLimits, WriteId};

/// What became of a client's change.
pub(super) enum Made {
    /// With its GC epoch.
    Done(Object, Option<Dot>, GcEpoch),
    Refused(Rejection),
}

/// What a client's change covers.
pub(super) enum Basis {
    /// What its author was shown.
    Seen(Context),
    /// What owners have answered and what is here, if the premise holds of both together.
    Decided { premise: Premise, answers: Stamped },
}

/// Makes a client's change: in the own record, or at a fallback (which keeps it for `hint_for`) in
/// what it keeps of the key.
pub(super) fn make(
    transaction: &mut KeyTransaction<'_>,
    basis: &Basis,
    change: &message::Change,
    hint_for: &[NodeId],
    io: &mut Io,
) -> Made {
    let now = io.local.gc_epochs.number(transaction.partition);
    if !hint_for.is_empty() {
        transaction.discard_hints(io);
    }
    let joined = if hint_for.is_empty() { None } else { transaction.copies.joined(now) };
    let record = match (&transaction.copies.own, &joined) {
        (_, Some(joined)) => joined,
        (Copy::Record(own), None) if hint_for.is_empty() => own,
        _ => return Made::Refused(Rejection::Damaged),
    };
    let mut taken_over = None;
    let context = match basis {
        Basis::Seen(context) => context.clone(),
        Basis::Decided { premise, answers } => {
            let known = known(record, answers, transaction.purged.as_ref());
            if is_issued(&known, change) {
                match take_over(transaction, record, (known, answers), hint_for, io) {
                    Ok(both) => taken_over = Some(both),
                    Err(rejection) => return Made::Refused(rejection),
                }
                Context::default()
            } else {
                match decide(premise, &known, transaction.purged.as_ref(), change) {
                    Ok(covered) => covered,
                    Err(rejection) => return Made::Refused(rejection),
                }
            }
        }
    };
    let record = taken_over.as_ref().unwrap_or(record);
    let (new, dot) = match update(record, &context, change, transaction.limits, io) {
        Ok(updated) => updated,
        Err(rejection) => return Made::Refused(rejection),
    };
    // A delete under a context of many events, where nothing is: the other limits are for puts.
    if dot.is_none()
        && let Some(bytes) = outgrows(transaction.limits.merged, Some(&record.object), &new.object)
    {
        return Made::Refused(Rejection::Object(bytes as u64));
    }
    let object = new.object.clone();
    if hint_for.is_empty() {
        transaction.set_own(new);
        return Made::Done(object, dot, now);
    }
    let gc_epoch = new.gc_epoch;
    // In every hint of the key: one that stayed behind could lead to a used dot later.
    let targets = hint_for.iter().chain(transaction.copies.hints.keys()).copied().collect();
    match transaction.set_hints(targets, |_| new.clone(), io) {
        Ok(()) => Made::Done(object, dot, gc_epoch),
        Err(rejection) => Made::Refused(rejection),
    }
}

/// What is known of a key from this record and from what owners have answered.
fn known(record: &Record, answers: &Stamped, purged: Option<&Context>) -> Object {
    // What is purged is dead, whatever an old copy shows of it.
    match purged {
        Some(purged) => record.object.sync(&answers.object.discard(purged).forget(purged)),
        None => record.object.sync(&answers.object),
    }
}

/// True for a put that is known under the dot of its own actor. Also the first attempt may come
/// after another one, and after what has replaced that.
fn is_issued(known: &Object, change: &message::Change) -> bool {
    match change {
        message::Change::Put { write, .. } | message::Change::PutAgain { write, .. } => {
            issued(known, *write, true).is_some()
        }
        message::Change::Delete => false,
    }
}

/// The record with the copy of a put whose dot is issued: it is not given another one.
fn take_over(
    transaction: &KeyTransaction<'_>,
    record: &Record,
    (known, answers): (Object, &Stamped),
    hint_for: &[NodeId],
    io: &Io,
) -> Result<Record, Rejection> {
    // Without a copy of an owner, all that is known is here already.
    if answers.object.entries().is_empty() {
        return Ok(record.clone());
    }
    let (epochs, partition) = (&io.local.gc_epochs, transaction.partition);
    match hint_for.is_empty() {
        true => epochs.check(partition, answers.gc_epoch)?,
        false => epochs.check_hint(partition, answers.gc_epoch)?,
    }
    if let Some(bytes) = outgrows(transaction.limits.merged, Some(&record.object), &known) {
        return Err(Rejection::Object(bytes as u64));
    }
    let gc_epoch = record.gc_epoch.min(answers.gc_epoch);
    Ok(Record { object: known, gc_epoch, ..record.clone() })
}

/// What a change covers whose premise holds of `known`: all of it, and nothing else. What an
/// earlier attempt of the same put has left counts neither for nor against it.
fn decide(
    premise: &Premise,
    known: &Object,
    purged: Option<&Context>,
    change: &message::Change,
) -> Result<Context, Rejection> {
    let own = match change {
        message::Change::PutAgain { write, .. } => Some(*write),
        message::Change::Put { .. } | message::Change::Delete => None,
    };
    // A write that two replicas issued is one value.
    let others: BTreeSet<WriteId> = known
        .values()
        .map(|(_, version)| version.write)
        .filter(|write| Some(*write) != own)
        .collect();
    let context = known.context();
    let own_dots: Vec<Dot> = known
        .values()
        .filter(|(_, version)| Some(version.write) == own)
        .map(|(dot, _)| dot)
        .collect();
    // Its reader may have been shown a copy without what is purged.
    let is_shown = |seen: &Context, dot: Dot| {
        let before = || dot.counter == 1 || seen.covers(Dot { counter: dot.counter - 1, ..dot });
        seen.covers(dot)
            || purged.is_some_and(|purged| purged.covers(dot))
            || own_dots.contains(&dot) && before()
    };
    match premise {
        Premise::OneValue if others.len() > 1 => {
            return Err(Rejection::Conflict(others.len() as u32));
        }
        Premise::Absent if !others.is_empty() => return Err(Rejection::Exists),
        Premise::Within(seen) if context.dots().iter().any(|dot| !is_shown(seen, *dot)) => {
            return Err(Rejection::Changed);
        }
        _ => {}
    }
    if others.is_empty() && matches!(change, message::Change::Delete) {
        return Err(Rejection::Absent);
    }
    Ok(context)
}

/// What a client's change makes of a record, and the dot of a put. Limits hold here and nowhere
/// else.
fn update(
    record: &Record,
    context: &Context,
    change: &message::Change,
    limits: ObjectLimits,
    io: &mut Io,
) -> Result<(Record, Option<Dot>), Rejection> {
    let context = &with_repetitions(&record.object, context);
    let (write, value, again) = match change {
        message::Change::Put { write, value } => (*write, value, false),
        message::Change::PutAgain { write, value } => (*write, value, true),
        message::Change::Delete => {
            let object = record.object.discard(context);
            return Ok((Record { object, ..record.clone() }, None));
        }
    };
    if let Some(dot) = issued(&record.object, write, again) {
        return Ok((record.clone(), Some(dot)));
    }
    let store = io.local.meta().store;
    let (actor, own_epoch) = if again {
        io.vouch_for(Actor::of_write(write))?;
        (Actor::of_write(write), record.own_epoch)
    } else {
        let continued = record.own_epoch.filter(|actor_epoch| {
            *actor_epoch >= io.local.meta().actor_epoch_floor
                && may_continue(&record.object, Actor { store, actor_epoch: *actor_epoch }, context)
        });
        let actor_epoch = continued.unwrap_or(io.local.meta().actor_epoch_end);
        (Actor { store, actor_epoch }, Some(actor_epoch))
    };
    let version = Version { write, value: value.clone() };
    let (object, dot) = record.object.update(context, actor, version);
    check_limits(limits, &record.object, &object)?;
    // An actor is one key's, and used up once it is its key's no more.
    io.local.use_actor_epoch(actor);
    Ok((Record { own_epoch, object, ..*record }, Some(dot)))
}

/// The dot under which this copy knows the write already. A put that was sent to several nodes is
/// known by the dot of its own actor, and by no other.
fn issued(object: &Object, write: WriteId, again: bool) -> Option<Dot> {
    let own = Dot { actor: Actor::of_write(write), counter: 1 };
    if object.covers(own) {
        return Some(own);
    }
    let live = object.values().find(|(_, version)| version.write == write);
    live.map(|(dot, _)| dot).filter(|_| !again)
}

/// True if this actor may issue the next dot of the key: the clock has events of it, and no value
/// that `seen` leaves alive. A second one beside it could not go before it (an entry has no gaps),
/// and whoever wrote it could not be given a context that covers it alone.
fn may_continue(object: &Object, actor: Actor, seen: &Context) -> bool {
    let alive = |(dot, _): (Dot, &Version)| dot.actor == actor && !seen.covers(dot);
    object.counter(actor) > 0 && !object.values().any(alive)
}

/// Refuses what would take a key over its limits, unless it was over them before and does not grow.
fn check_limits(limits: ObjectLimits, before: &Object, after: &Object) -> Result<(), Rejection> {
    if after.len() > MAX_SIBLINGS && after.len() > before.len() {
        return Err(Rejection::Siblings(before.len() as u32));
    }
    if let Some(bytes) = outgrows(limits.accepted, Some(before), after) {
        return Err(Rejection::Object(bytes as u64));
    }
    let entries = after.entries().len();
    if entries > MAX_CLOCK_ENTRIES && entries > before.entries().len() {
        let what = Measure::ClockEntries;
        let limit = MAX_CLOCK_ENTRIES as u64;
        return Err(Rejection::Limit { what, given: entries as u64, limit });
    }
    Ok(())
}

/// Merges what a peer has into the own record: a hint beside other values up to the limit of
/// writes, so that an owner takes by hints no more than it would have taken itself, and all else up
/// to the limit of merges.
pub(super) fn merge(
    transaction: &mut KeyTransaction<'_>,
    object: &Object,
    gc_epoch: GcEpoch,
    hint: bool,
    io: &mut Io,
) -> Result<(), Rejection> {
    io.local.gc_epochs.check(transaction.partition, gc_epoch)?;
    let Copy::Record(record) = &transaction.copies.own else { return Err(Rejection::Damaged) };
    let joined = record.object.sync(object);
    // Where nothing but the hint's own values is alive, what is dead of the key beside it does not
    // count: a hint that its fallback took at the limit would never be delivered, and hold back the
    // tombstone GC. Its fallback held the hint to the limit of merges.
    let beside = joined.values().any(|(dot, _)| !object.covers(dot));
    // So large an object may be at another owner, and this one gets no more than it has there.
    let is_whole = joined == *object;
    let limit = match (hint, beside) {
        (true, true) => transaction.limits.accepted,
        (true, false) => 2 * transaction.limits.merged,
        (false, _) if is_whole => 2 * transaction.limits.merged,
        (false, _) => transaction.limits.merged,
    };
    if let Some(bytes) = outgrows(limit, Some(&record.object), &joined) {
        let key = transaction.key.clone();
        return Err(io.decline(Oversize { key, hint, bytes, limit }));
    }
    let object = joined;
    transaction.set_own(Record { own_epoch: record.own_epoch, object, gc_epoch: GcEpoch::FIRST });
    Ok(())
}

/// What a client has seen that was shown `seen`: a write that two replicas issued is shown once, so
/// whoever has seen one of its dots has seen them all.
fn with_repetitions(object: &Object, seen: &Context) -> Context {
    if object.values().all(|(dot, _)| seen.covers(dot)) {
        return seen.clone();
    }
    let shown: BTreeSet<WriteId> = object
        .values()
        .filter(|(dot, _)| seen.covers(*dot))
        .map(|(_, version)| version.write)
        .collect();
    let repeats =
        |(dot, version): &(Dot, &Version)| !seen.covers(*dot) && shown.contains(&version.write);
    let mut dots = seen.dots().to_vec();
    for (dot, _) in object.values().filter(repeats) {
        // A context has no gaps: an older value of the same actor that was not shown keeps the
        // repetition alive.
        let older = |(other, version): (Dot, &Version)| {
            other.actor == dot.actor
                && other.counter < dot.counter
                && !shown.contains(&version.write)
        };
        if !object.values().any(older) {
            dots.push(dot);
        }
    }
    Context::new(dots)
}
