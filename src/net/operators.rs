//! Places for commands of the operator, beyond the limits of clients: `pixii status` and `pixii
//! node drain` are let in, however many clients are connected.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pixii_transport::locked;
use tokio::sync::Notify;

/// A connection in such a place gives way to a newcomer once it has made no call for this time.
const IDLE: Duration = Duration::from_secs(1);

/// The places. They serve no requests for data, so that clients gain nothing by using them.
#[derive(Debug)]
pub(super) struct Operators {
    places: usize,
    taken: Mutex<Vec<Arc<Taken>>>,
}

#[derive(Debug)]
struct Taken {
    last_call: Mutex<Instant>,
    give_way: Notify,
}

/// One place of the operator; free when this is dropped.
#[derive(Debug)]
pub(super) struct OperatorPlace {
    operators: Arc<Operators>,
    taken: Arc<Taken>,
}

impl Operators {
    /// `places` is the most that may be taken at a time.
    pub(super) fn new(places: usize) -> Arc<Self> {
        Arc::new(Operators { places, taken: Mutex::default() })
    }

    /// A place, if one is free or is held by an idle connection, which then gives way.
    pub(super) fn enter(self: &Arc<Self>) -> Option<OperatorPlace> {
        let mut taken = locked(&self.taken);
        if taken.len() >= self.places {
            let idle = taken.iter().position(|one| locked(&one.last_call).elapsed() >= IDLE)?;
            taken.remove(idle).give_way.notify_one();
        }
        let one = Taken { last_call: Mutex::new(Instant::now()), give_way: Notify::new() };
        let one = Arc::new(one);
        taken.push(one.clone());
        drop(taken);
        Some(OperatorPlace { operators: self.clone(), taken: one })
    }
}

impl OperatorPlace {
    /// Restarts the idle time of this place.
    pub(super) fn called(&self) {
        *locked(&self.taken.last_call) = Instant::now();
    }

    /// Returns when this connection has to give way to another one.
    pub(super) async fn gives_way(&self) {
        self.taken.give_way.notified().await;
    }
}

impl Drop for OperatorPlace {
    fn drop(&mut self) {
        locked(&self.operators.taken).retain(|one| !Arc::ptr_eq(one, &self.taken));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_kept_while_calls_are_made_and_lent_to_others_afterwards() {
        let operators = Operators::new(2);
        let (one, two) = (operators.enter().unwrap(), operators.enter().unwrap());
        assert!(operators.enter().is_none());
        *locked(&two.taken.last_call) = Instant::now().checked_sub(IDLE).unwrap();
        one.called();
        let three = operators.enter().unwrap();
        assert!(operators.enter().is_none());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(two.gives_way());
        drop((one, two, three));
        assert!(locked(&operators.taken).is_empty());
    }
}
