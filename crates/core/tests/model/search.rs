//! A breadth-first search over all states of a model.

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::Hash;

/// A model: its first state, what can happen in a state, and what must never be.
pub(crate) trait Model {
    /// A state, complete.
    type State: Clone + Eq + Hash;
    /// One thing that can happen.
    type Event: Debug;

    /// The state at the beginning.
    fn first(&self) -> Self::State;

    /// All that can happen in a state, each with the state behind it.
    fn events(&self, state: &Self::State) -> Vec<(Self::Event, Self::State)>;

    /// The promise that a state breaks.
    fn broken(&self, state: &Self::State) -> Option<String>;
}

/// What a search has found.
pub(crate) struct Found {
    pub(crate) states: usize,
    /// The most events that the shortest way to a state has.
    pub(crate) depth: usize,
    /// A broken promise, and the shortest way to it.
    pub(crate) broken: Option<(String, Vec<String>)>,
}

/// Visits every state once.
pub(crate) fn search<M: Model>(model: &M) -> Found {
    let first = model.first();
    let mut states = vec![first.clone()];
    // Each state with its number; each number with the state before it.
    let mut known: HashMap<M::State, u32> = HashMap::from([(first, 0)]);
    let mut before: Vec<u32> = vec![0];
    let (mut from, mut depth) = (0, 0);
    while from < states.len() {
        let to = states.len();
        for at in from..to {
            if let Some(why) = model.broken(&states[at]) {
                let way = way(model, &states, &before, at);
                return Found { states: states.len(), depth, broken: Some((why, way)) };
            }
            for (_, state) in model.events(&states[at]) {
                if !known.contains_key(&state) {
                    known.insert(state.clone(), states.len() as u32);
                    states.push(state);
                    before.push(at as u32);
                }
            }
        }
        (from, depth) = (to, depth + 1);
    }
    Found { states: states.len(), depth: depth - 1, broken: None }
}

/// The events on the way to a state.
fn way<M: Model>(model: &M, states: &[M::State], before: &[u32], mut at: usize) -> Vec<String> {
    let mut way = Vec::new();
    while at > 0 {
        let last = before[at] as usize;
        let events = model.events(&states[last]);
        let event = events.into_iter().find(|(_, state)| *state == states[at]);
        way.extend(event.map(|(event, _)| format!("{event:?}")));
        at = last;
    }
    way.reverse();
    way
}
