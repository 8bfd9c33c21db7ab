//! Puts that were sent to several nodes: for how long their events stay in the clocks after they
//! are dead.
//!
//! Such an event is what kills a copy of the put that is issued late. No member may have the put in
//! its queues when the event is purgeable (see `Node::dispatch`), and what is on its way to a
//! member by then is given up by its connection within the window: a client's and a peer's
//! connection ends when nothing is acknowledged for ten seconds.

use std::collections::BTreeSet;

use crate::causal::{Actor, Context, Dot};
use crate::types::{Key, Micros, Time};

/// Most events that are waited for at a time, of each of the three ages. Further ones stay longer.
const MAX_WAITING: usize = 16_384;

/// The dead events that were met in the present window, in the one before, and earlier.
#[derive(Clone, Debug)]
pub(super) struct Repeats {
    window: Micros,
    since: Time,
    met: BTreeSet<(Key, Actor)>,
    aging: BTreeSet<(Key, Actor)>,
    ripe: BTreeSet<(Key, Actor)>,
}

impl Repeats {
    /// `window` is the least time between the first sight of a dead event and its purge.
    pub(super) fn new(window: Micros) -> Self {
        let [met, aging, ripe] = Default::default();
        Repeats { window, since: Time::START, met, aging, ripe }
    }

    /// What may be purged now of the dead events of a key.
    pub(super) fn purgeable(&mut self, now: Time, key: &Key, dead: &Context) -> Context {
        if now >= self.since + self.window {
            // Those that were met before the present window began have waited for the whole of it.
            let mut ripe = std::mem::replace(&mut self.aging, std::mem::take(&mut self.met));
            // Beside clients it can take many windows until their partition is looked at again.
            if self.ripe.len() + ripe.len() > MAX_WAITING {
                self.ripe.clear();
            }
            self.ripe.append(&mut ripe);
            self.since = now;
        }
        let mut is_purgeable = |dot: &Dot| !dot.actor.is_of_write() || self.is_ripe(key, dot.actor);
        Context::new(dead.dots().iter().copied().filter(|dot| is_purgeable(dot)).collect())
    }

    fn is_ripe(&mut self, key: &Key, actor: Actor) -> bool {
        let event = (key.clone(), actor);
        if self.ripe.contains(&event) {
            return true;
        }
        if self.met.len() < MAX_WAITING && !self.aging.contains(&event) {
            self.met.insert(event);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::causal::ActorEpoch;
    use crate::types::WriteId;

    #[test]
    fn the_event_of_a_repeated_put_stays_for_a_window_and_all_others_go_at_once() {
        let key = Key::new("k").unwrap();
        let (store, write) =
            (Actor { store: 1, actor_epoch: ActorEpoch(2) }, Actor::of_write(WriteId(3)));
        let dots = [store, write].map(|actor| Dot { actor, counter: 1 });
        let dead = Context::new(dots.to_vec());
        let mut repeats = Repeats::new(Micros(100));
        let mut purgeable = |now| repeats.purgeable(Time(now), &key, &dead).dots().len();
        assert_eq!([100, 199, 200, 299].map(&mut purgeable), [1; 4]);
        assert_eq!(purgeable(300), 2, "it was met at 100, and a whole window has passed since 200");
        assert_eq!(purgeable(1_000), 2, "its partition was looked at late");
        assert_eq!(purgeable(2_000), 2);
    }
}
