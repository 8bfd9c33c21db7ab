//! The phi accrual failure detector (Hayashibara et al., 2004): how surprising a silence is,
//! measured against the pace at which heartbeats used to come.

use crate::members::Liveness;
use crate::types::{Micros, Time};

/// A silence of this phi is suspected. Would the intervals be normal, 8 were enough; news that
/// spreads by chance has a longer tail.
const SUSPECT_PHI: f64 = 12.0;
/// A silence this many deviations over the mean has a phi below 8: nothing to suspect.
const CALM: f64 = 5.0;
/// The weight of the newest interval in the running mean and variance.
const WEIGHT: f64 = 0.05;

/// What is known of one peer's signs of life.
#[derive(Clone, Debug)]
pub(super) struct Detector {
    /// The last sign of life, of any kind; the first look at it counts as one.
    last: Option<Time>,
    last_heartbeat: Option<Time>,
    mean: f64,
    variance: f64,
    /// Below this deviation lies what schedulers and disks do.
    least_deviation: f64,
}

impl Detector {
    /// A detector that expects a new heartbeat every few `interval`s until it has learned better.
    pub(super) fn new(interval: Micros) -> Self {
        let interval = interval.as_f64();
        let (mean, variance) = (2.0 * interval, interval * interval);
        Detector { last: None, last_heartbeat: None, mean, variance, least_deviation: interval }
    }

    /// A sign of life: any message of the peer itself.
    pub(super) fn sign(&mut self, now: Time) {
        self.last = Some(now);
    }

    /// A heartbeat that was not known yet, from the peer or through others: only these come at a
    /// steady pace, so only these teach it.
    pub(super) fn heartbeat(&mut self, now: Time) {
        if let Some(last) = self.last_heartbeat {
            let error = now.saturating_since(last).as_f64() - self.mean;
            self.mean += WEIGHT * error;
            self.variance = (1.0 - WEIGHT) * (self.variance + WEIGHT * error * error);
        }
        self.last_heartbeat = Some(now);
        self.sign(now);
    }

    /// The peer is back after it was down: how long it was away is no pace.
    pub(super) fn returned(&mut self) {
        self.last_heartbeat = None;
    }

    /// Silence of this length was ours.
    pub(super) fn forgive(&mut self, gap: Micros) {
        for time in [&mut self.last, &mut self.last_heartbeat].into_iter().flatten() {
            *time += gap;
        }
    }

    /// Time since the last sign of life.
    pub(super) fn silence(&self, now: Time) -> Micros {
        self.last.map_or(Micros::ZERO, |last| now.saturating_since(last))
    }

    /// How surprising the present silence is: -log10 of its probability, by the logistic
    /// approximation of the normal distribution.
    pub(super) fn phi(&self, now: Time) -> f64 {
        let Some(last) = self.last else { return 0.0 };
        let silence = now.saturating_since(last).as_f64();
        let deviation = self.variance.sqrt().max(self.least_deviation);
        let y = (silence - self.mean) / deviation;
        let exponent = -y * (1.5976 + 0.070_566 * y * y);
        // Beyond what the exponential can hold, its logarithm is the exponent itself.
        if exponent < -600.0 {
            -exponent / std::f64::consts::LN_10
        } else {
            (1.0 + (-exponent).exp()).log10()
        }
    }

    /// What to believe after the present silence; `timeout` must have passed before a peer is down.
    pub(super) fn liveness(&mut self, now: Time, timeout: Micros) -> Liveness {
        let last = *self.last.get_or_insert(now);
        let silence = now.saturating_since(last);
        // Nearly every look at a peer ends here, without a root or a logarithm.
        let calm = silence.as_f64() <= self.mean + CALM * self.least_deviation;
        if calm || self.phi(now) < SUSPECT_PHI {
            return Liveness::Up;
        }
        if silence < timeout { Liveness::Suspect } else { Liveness::Down }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::MILLI;

    const INTERVAL: Micros = Micros::from_millis(500);
    const TIMEOUT: Micros = Micros::from_millis(5_000);

    #[test]
    fn silence_is_suspected_before_it_is_death_and_a_slow_pace_is_learned() {
        let mut quick = Detector::new(INTERVAL);
        let mut slow = Detector::new(INTERVAL);
        for round in 1..=200 {
            quick.heartbeat(Time::START + round * INTERVAL);
            slow.heartbeat(Time::START + round * 8 * INTERVAL);
        }
        let end = Time::START + 200 * INTERVAL;
        let liveness: Vec<Liveness> =
            [2, 3, 4, 5, 6].map(|s| quick.liveness(end + s * 1_000 * MILLI, TIMEOUT)).to_vec();
        assert_eq!(liveness[0], Liveness::Up);
        assert!(liveness.contains(&Liveness::Suspect), "{liveness:?}");
        assert_eq!(liveness[4], Liveness::Down);
        assert!(liveness.is_sorted(), "{liveness:?}");
        let end = Time::START + 200 * 8 * INTERVAL;
        assert_eq!(slow.liveness(end + 5_500 * MILLI, TIMEOUT), Liveness::Up);
        assert_eq!(slow.liveness(end + 60_000 * MILLI, TIMEOUT), Liveness::Down);
    }

    #[test]
    fn a_calm_silence_is_far_from_being_suspected() {
        let detector = Detector { last: Some(Time::START), ..Detector::new(INTERVAL) };
        let calm = detector.mean + CALM * detector.least_deviation;
        let phi = detector.phi(Time(calm as u64));
        assert!((6.0..8.0).contains(&phi), "{phi}");
        const { assert!(SUSPECT_PHI > 8.0) };
    }

    #[test]
    fn an_absence_teaches_no_pace() {
        let mut detector = Detector::new(INTERVAL);
        for round in 1..=200 {
            detector.heartbeat(Time::START + round * INTERVAL);
        }
        let back = Time::START + 200 * INTERVAL + 60_000 * MILLI;
        assert_eq!(detector.liveness(back, TIMEOUT), Liveness::Down);
        detector.returned();
        detector.heartbeat(back);
        detector.heartbeat(back + INTERVAL);
        let gone = back + INTERVAL;
        assert_eq!(detector.liveness(gone + 6_000 * MILLI, TIMEOUT), Liveness::Down);
    }

    #[test]
    fn the_own_pause_is_not_held_against_others_and_any_message_is_a_sign_of_life() {
        let mut detector = Detector::new(INTERVAL);
        let first = Time::START + INTERVAL;
        detector.heartbeat(first);
        let pause = 60_000 * MILLI;
        assert_eq!(detector.liveness(first + pause, TIMEOUT), Liveness::Down);
        detector.forgive(pause);
        assert_eq!(detector.liveness(first + pause, TIMEOUT), Liveness::Up);
        detector.sign(first + 2 * pause);
        assert_eq!(detector.liveness(first + 2 * pause, TIMEOUT), Liveness::Up);
        assert!(detector.phi(first + 4 * pause) > 100.0);
    }
}
