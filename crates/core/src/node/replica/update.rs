//! What a client's change, or a copy of a peer, makes of a record. The limits of clients' writes
//! hold here and nowhere else.

use std::collections::BTreeSet;

use super::Copy;
use super::turn::{Turn, outgrows};
use crate::causal::{Actor, Context, Dot, Object, Version};
use crate::generation::GcEpoch;
use crate::message::{self, Measure, Refusal};
use crate::node::Oversize;
use crate::node::effects::Effects;
use crate::store::Record;
use crate::types::{MAX_CLOCK_ENTRIES, MAX_SIBLINGS, NodeId, ObjectLimits, WriteId};

/// What became of a client's change.
pub(super) enum Made {
    /// With its generation.
    Done(Object, Option<Dot>, GcEpoch),
    Refused(Refusal),
}

/// Makes a client's change: in the own record, or at a stand-in (which keeps it for `keep_for`) in
/// what it keeps of the key.
pub(super) fn make(
    turn: &mut Turn<'_>,
    context: &Context,
    change: &message::Change,
    keep_for: &[NodeId],
    fx: &mut Effects,
) -> Made {
    let now = fx.local.generations.number(turn.partition);
    if !keep_for.is_empty() {
        turn.renounce_hints(fx);
    }
    let joined = if keep_for.is_empty() { None } else { turn.copies.joined(now) };
    let record = match (&turn.copies.own, &joined) {
        (_, Some(joined)) => joined,
        (Copy::Record(own), None) if keep_for.is_empty() => own,
        _ => return Made::Refused(Refusal::Damaged),
    };
    let (new, dot) = match update(record, context, change, turn.limits, fx) {
        Ok(updated) => updated,
        Err(refusal) => return Made::Refused(refusal),
    };
    // A delete under a context of many events, where nothing is: the other limits are for puts.
    if dot.is_none()
        && let Some(bytes) = outgrows(turn.limits.merged, Some(&record.object), &new.object)
    {
        return Made::Refused(Refusal::Object(bytes as u64));
    }
    let object = new.object.clone();
    if keep_for.is_empty() {
        turn.set_own(new);
        return Made::Done(object, dot, now);
    }
    let generation = new.generation;
    // In every hint of the key: one that stayed behind could lead to a used dot later.
    let targets = keep_for.iter().chain(turn.copies.hints.keys()).copied().collect();
    match turn.set_hints(targets, |_| new.clone(), fx) {
        Ok(()) => Made::Done(object, dot, generation),
        Err(refusal) => Made::Refused(refusal),
    }
}

/// What a client's change makes of a record, and the dot of a put. Limits hold here and nowhere
/// else.
fn update(
    record: &Record,
    context: &Context,
    change: &message::Change,
    limits: ObjectLimits,
    fx: &mut Effects,
) -> Result<(Record, Option<Dot>), Refusal> {
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
    let store = fx.local.meta().store;
    let (actor, own_serial) = if again {
        fx.vouch_for(Actor::of_write(write))?;
        (Actor::of_write(write), record.own_serial)
    } else {
        let continued = record.own_serial.filter(|serial| {
            *serial >= fx.local.meta().serial_floor
                && may_continue(&record.object, Actor { store, serial: *serial }, context)
        });
        let serial = continued.unwrap_or(fx.local.meta().serial_end);
        (Actor { store, serial }, Some(serial))
    };
    let version = Version { write, value: value.clone() };
    let (object, dot) = record.object.update(context, actor, version);
    check_limits(limits, &record.object, &object)?;
    // An actor is one key's, and used up once it is its key's no more.
    fx.local.use_serial(actor);
    Ok((Record { own_serial, object, ..*record }, Some(dot)))
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
fn check_limits(limits: ObjectLimits, before: &Object, after: &Object) -> Result<(), Refusal> {
    if after.len() > MAX_SIBLINGS && after.len() > before.len() {
        return Err(Refusal::Siblings(before.len() as u32));
    }
    if let Some(bytes) = outgrows(limits.accepted, Some(before), after) {
        return Err(Refusal::Object(bytes as u64));
    }
    let entries = after.entries().len();
    if entries > MAX_CLOCK_ENTRIES && entries > before.entries().len() {
        let what = Measure::ClockEntries;
        let limit = MAX_CLOCK_ENTRIES as u64;
        return Err(Refusal::Limit { what, given: entries as u64, limit });
    }
    Ok(())
}

/// Merges what a peer has into the own record: a hint beside other values up to the limit of
/// writes, so that an owner takes by hints no more than it would have taken itself, and all else up
/// to the limit of merges.
pub(super) fn merge(
    turn: &mut Turn<'_>,
    object: &Object,
    generation: GcEpoch,
    hint: bool,
    fx: &mut Effects,
) -> Result<(), Refusal> {
    fx.local.generations.check(turn.partition, generation)?;
    let Copy::Record(record) = &turn.copies.own else { return Err(Refusal::Damaged) };
    let joined = record.object.sync(object);
    // Where nothing but the hint's own values is alive, what is dead of the key beside it does not
    // count: a hint that its keeper took at the limit would never be delivered, and hold back the
    // collection of the dead. Its keeper held the hint to the limit of merges.
    let beside = joined.values().any(|(dot, _)| !object.covers(dot));
    let limit = match (hint, beside) {
        (true, true) => turn.limits.accepted,
        (true, false) => 2 * turn.limits.merged,
        (false, _) => turn.limits.merged,
    };
    if let Some(bytes) = outgrows(limit, Some(&record.object), &joined) {
        let key = turn.key.clone();
        return Err(fx.decline(Oversize { key, hint, bytes, limit }));
    }
    let object = joined;
    turn.set_own(Record { own_serial: record.own_serial, object, generation: GcEpoch::FIRST });
    Ok(())
}

/// What a client has seen that was shown `seen`: a write that two replicas minted is shown once, so
/// whoever has seen one of its dots has seen them all.
fn with_repetitions(object: &Object, seen: &Context) -> Context {
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
