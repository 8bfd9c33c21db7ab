//! What differs between two owners of a partition, and which way it has to go.

use std::collections::BTreeMap;

use crate::causal::Context;
use crate::message::Item;
use crate::store::Scanned;
use crate::types::Key;

/// A copy in short: all its events, and a part of its digest.
type Known = (Context, u32);

/// A key's copy here and there.
pub(super) type Pair = (Option<Known>, Option<Known>);

/// Where an object is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Pull,
    Push,
    /// First here, then, merged, there.
    Both,
}

/// The keys whose copies differ.
pub(super) fn differences(mine: Vec<Scanned>, theirs: Vec<Item>) -> BTreeMap<Key, Pair> {
    let mut pairs: BTreeMap<Key, Pair> = mine
        .into_iter()
        .map(|Scanned { key, context, digest, .. }| (key, (Some((context, digest.0 as u32)), None)))
        .collect();
    for Item { key, context, check } in theirs {
        pairs.entry(key).or_default().1 = Some((context, check));
    }
    pairs.retain(|_, (mine, theirs)| mine != theirs);
    pairs
}

/// Which of the two copies the other end needs.
pub(super) fn direction(pair: Pair) -> Direction {
    let (mine, theirs) = match pair {
        (None, _) => return Direction::Pull,
        (_, None) => return Direction::Push,
        (Some((mine, _)), Some((theirs, _))) => (mine, theirs),
    };
    let covers = |one: &Context, other: &Context| other.dots().iter().all(|dot| one.covers(*dot));
    match (covers(&mine, &theirs), covers(&theirs, &mine)) {
        (true, false) => Direction::Push,
        (false, true) => Direction::Pull,
        _ => Direction::Both,
    }
}
