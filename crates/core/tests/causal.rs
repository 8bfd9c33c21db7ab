//! Dotted version vector sets against a plain model that keeps explicit causal histories.

use std::collections::{BTreeMap, BTreeSet};

use pixii_core::causal::{Actor, ActorEpoch, Clock, Context, Dot};
use proptest::prelude::*;

/// A copy in the model: every event it has heard of, and those whose values are alive.
#[derive(Clone, Debug, Default, PartialEq)]
struct History {
    seen: BTreeSet<Dot>,
    live: BTreeMap<Dot, u64>,
}

impl History {
    fn sync(&self, other: &Self) -> Self {
        let seen: BTreeSet<Dot> = self.seen.union(&other.seen).copied().collect();
        let dead = |copy: &Self, dot: &Dot| copy.seen.contains(dot) && !copy.live.contains_key(dot);
        let mut live: BTreeMap<Dot, u64> = self.live.clone();
        live.extend(&other.live);
        live.retain(|dot, _| !dead(self, dot) && !dead(other, dot));
        History { seen, live }
    }

    fn discard(&self, seen: &BTreeSet<Dot>) -> Self {
        let mut copy = self.clone();
        copy.seen.extend(seen);
        copy.live.retain(|dot, _| !seen.contains(dot));
        copy
    }
}

/// Every event that a context covers, one by one.
fn expand(context: &Context) -> BTreeSet<Dot> {
    let each = |dot: &Dot| {
        let actor = dot.actor;
        (1..=dot.counter).map(move |counter| Dot { actor, counter })
    };
    context.dots().iter().flat_map(each).collect()
}

#[derive(Clone, Debug)]
enum Step {
    /// A put at a replica with the n-th context read so far, or none.
    Put {
        at: usize,
        context: Option<prop::sample::Index>,
    },
    Delete {
        at: usize,
        context: prop::sample::Index,
    },
    Sync {
        from: usize,
        to: usize,
    },
    Read {
        at: usize,
    },
    /// The replica forgets what actor epoch it may continue: it goes on as another actor.
    NewActor {
        at: usize,
    },
}

const REPLICAS: usize = 4;

fn step() -> impl Strategy<Value = Step> {
    let at = 0..REPLICAS;
    prop_oneof![
        4 => (at.clone(), any::<Option<prop::sample::Index>>())
            .prop_map(|(at, context)| Step::Put { at, context }),
        1 => (at.clone(), any::<prop::sample::Index>())
            .prop_map(|(at, context)| Step::Delete { at, context }),
        3 => (at.clone(), at.clone()).prop_map(|(from, to)| Step::Sync { from, to }),
        2 => at.clone().prop_map(|at| Step::Read { at }),
        1 => at.prop_map(|at| Step::NewActor { at }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn sets_agree_with_explicit_histories(steps in prop::collection::vec(step(), 1..60)) {
        let mut copies = vec![(Clock::<u64>::default(), History::default()); REPLICAS];
        let mut actors: Vec<Actor> =
            (0..REPLICAS as u64).map(|store| Actor { store, actor_epoch: ActorEpoch(1) }).collect();
        let mut contexts = vec![Context::default()];
        for (value, step) in (0u64..).zip(steps) {
            match step {
                Step::Put { at, context } => {
                    let seen = context.map(|index| index.get(&contexts).clone());
                    let seen = seen.unwrap_or_default();
                    let (clock, history) = &copies[at];
                    let (clock, dot) = clock.update(&seen, actors[at], value);
                    let mut history = history.discard(&expand(&seen));
                    prop_assert!(history.seen.insert(dot), "the dot {:?} is new", dot);
                    history.live.insert(dot, value);
                    let claimed = clock.context_of_writer(&seen, dot);
                    let mut shown = expand(&seen);
                    shown.insert(dot);
                    for covered in expand(&claimed) {
                        let alive = history.live.contains_key(&covered);
                        prop_assert!(!alive || shown.contains(&covered), "unseen, alive, claimed");
                    }
                    contexts.push(claimed);
                    copies[at] = (clock, history);
                }
                Step::Delete { at, context } => {
                    let seen = context.get(&contexts).clone();
                    let (clock, history) = &copies[at];
                    copies[at] = (clock.discard(&seen), history.discard(&expand(&seen)));
                }
                Step::Sync { from, to } => {
                    let (clock, history) = copies[from].clone();
                    copies[to] = (copies[to].0.sync(&clock), copies[to].1.sync(&history));
                }
                Step::Read { at } => contexts.push(copies[at].0.context()),
                Step::NewActor { at } => {
                    actors[at].actor_epoch = actors[at].actor_epoch.next();
                }
            }
            for (clock, history) in &copies {
                let live: BTreeMap<Dot, u64> = clock.values().map(|(d, v)| (d, *v)).collect();
                prop_assert_eq!(&live, &history.live);
                prop_assert_eq!(&expand(&clock.context()), &history.seen);
                prop_assert_eq!(clock.len(), live.len());
            }
        }
        for (a, _) in &copies {
            prop_assert_eq!(&a.sync(a), a);
            for (b, _) in &copies {
                prop_assert_eq!(a.sync(b), b.sync(a));
                for (c, _) in &copies {
                    prop_assert_eq!(a.sync(b).sync(c), a.sync(&b.sync(c)));
                }
            }
        }
    }
}
