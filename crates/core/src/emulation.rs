//! The network's behaviour as a value: asked for each message, it says when it arrives or that it
//! is lost. The simulator and the daemon's transport ask the same value, so that an experiment
//! means the same on both.

mod delay;
mod rules;

use std::collections::HashMap;

use crate::message::Kind;
use crate::rng::Rng;
use crate::types::{Micros, NodeId, Time};
pub use delay::Delay;
use delay::Latency;
use rules::Aspect;
pub use rules::{Rule, parse, parse_delay};

/// Links whose last arrival is remembered before those without a message in progress are forgotten.
const MAX_IDLE_LINKS: usize = 4_096;

/// One end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// A member.
    Node(NodeId),
    /// A client, by a number of its own.
    Client(u64),
}

impl From<NodeId> for Place {
    fn from(node: NodeId) -> Self {
        Place::Node(node)
    }
}

/// What becomes of one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It arrives after each of these delays: one is a delivery, more are duplicates.
    Deliver(Vec<Micros>),
    /// It is lost by chance.
    Drop,
    /// It is lost because the link is cut.
    Cut,
}

/// The behaviour of all links. What a node reports itself never reaches a network, unless an
/// experiment has it so.
#[derive(Clone, Debug)]
pub struct Emulation {
    /// What holds where no rule says otherwise.
    latency: Latency,
    drop: f64,
    duplicate: f64,
    cuts: Vec<(Place, Place)>,
    rules: Vec<Rule>,
    /// When the last message of each link that keeps its order arrives.
    last: HashMap<(Place, Place), Time>,
    rng: Rng,
}

impl Emulation {
    /// A network that delays, drops and duplicates as reported, by the chances of `seed`.
    pub fn new(delay: Delay, drop: f64, duplicate: f64, seed: u64) -> Self {
        Emulation {
            latency: Latency { delay, offset: Micros::ZERO, fifo: false },
            drop,
            duplicate,
            cuts: Vec::new(),
            rules: Vec::new(),
            last: HashMap::new(),
            rng: Rng::new(seed),
        }
    }

    /// A network that carries everything at once except where `rules` say otherwise, a later one
    /// before an earlier one, by the chances of `seed`.
    pub fn of_rules(rules: Vec<Rule>, seed: u64) -> Self {
        Emulation { rules, ..Emulation::new(Delay::Fixed(Micros::ZERO), 0.0, 0.0, seed) }
    }

    /// The rules that hold.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// By how much the disk of this node is slowed; the last rule about it decides.
    pub fn disk_delay(&self, node: NodeId) -> Micros {
        self.rules
            .iter()
            .filter_map(|rule| rule.disk_delay(node))
            .next_back()
            .unwrap_or(Micros::ZERO)
    }

    /// Cuts the link in one direction: nothing passes until it is mended.
    pub fn cut(&mut self, from: NodeId, to: NodeId) {
        self.cuts.push((from.into(), to.into()));
    }

    /// Mends the link in one direction, once for every time it was cut.
    pub fn mend(&mut self, from: NodeId, to: NodeId) {
        if let Some(at) = self.cuts.iter().position(|cut| *cut == (from.into(), to.into())) {
            self.cuts.swap_remove(at);
        }
    }

    /// Mends every cut and stops all drops and duplicates.
    pub fn heal(&mut self) {
        self.cuts.clear();
        self.drop = 0.0;
        self.duplicate = 0.0;
    }

    /// What becomes of a message of this kind from `from` to `to` that is sent at the time `now`,
    /// which never runs back.
    pub fn verdict(
        &mut self,
        now: Time,
        from: impl Into<Place>,
        to: impl Into<Place>,
        kind: Kind,
    ) -> Verdict {
        let link = (from.into(), to.into());
        let (mut latency, mut drop) = (&self.latency, self.drop);
        let mut cut = self.cuts.contains(&link);
        for rule in self.rules.iter().filter(|rule| rule.holds(link.0, link.1, kind)) {
            match &rule.aspect {
                Aspect::Delay(of_rule) => latency = of_rule,
                Aspect::Drop(of_rule) => drop = *of_rule,
                Aspect::Cut => cut = true,
                Aspect::Pass => cut = false,
                Aspect::Disk(_) => {}
            }
        }
        if cut {
            return Verdict::Cut;
        }
        if self.rng.chance(drop) {
            return Verdict::Drop;
        }
        let mut delays = vec![latency.sample(&mut self.rng)];
        if self.rng.chance(self.duplicate) {
            delays.push(latency.sample(&mut self.rng));
        }
        if latency.fifo {
            for delay in &mut delays {
                let last = self.last.entry(link).or_default();
                *last = (*last).max(now.saturating_add(*delay));
                *delay = *last - now;
            }
            if self.last.len() > MAX_IDLE_LINKS {
                self.last.retain(|_, last| *last > now);
            }
        }
        Verdict::Deliver(delays)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::members::{Member, Members};
    use crate::types::MILLI;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);

    fn of(text: &str) -> Emulation {
        let members = ["a", "b", "c"].map(|name| Member::configured(name, "h:1"));
        Emulation::of_rules(parse(text, &Members::new(members.into())).unwrap(), 7)
    }

    fn node(name: &str) -> Place {
        NodeId::of(name).into()
    }

    /// The delays of 20,000 messages from a to b, all sent at once.
    fn delays(text: &str) -> Vec<Micros> {
        let mut net = of(text);
        let one = |_| match net.verdict(Time(5), node("a"), node("b"), Kind::Other) {
            Verdict::Deliver(delays) => delays[0],
            other => panic!("{other:?}"),
        };
        (0..20_000).map(one).collect()
    }

    fn mean(delays: &[Micros]) -> u64 {
        (delays.iter().copied().sum::<Micros>() / delays.len() as u64).0
    }

    #[test]
    fn drops_duplicates_and_delays_come_at_their_rates() {
        let mut net = Emulation::new(Delay::Exponential(MILLI), 0.1, 0.2, 3);
        let (mut dropped, mut twice, mut total) = (0, 0, Micros::ZERO);
        for _ in 0..10_000 {
            match net.verdict(Time::START, A, B, Kind::Other) {
                Verdict::Drop | Verdict::Cut => dropped += 1,
                Verdict::Deliver(delays) => {
                    twice += usize::from(delays.len() == 2);
                    total += delays[0];
                }
            }
        }
        assert!((900..1_100).contains(&dropped), "{dropped}");
        assert!((1_650..1_950).contains(&twice), "{twice}");
        assert!((950..1_050).contains(&(total / (10_000 - dropped)).0), "{total:?}");
        net.cut(A, B);
        assert_eq!(net.verdict(Time::START, A, B, Kind::Other), Verdict::Cut);
        assert_ne!(net.verdict(Time::START, B, A, Kind::Other), Verdict::Cut);
        net.heal();
        assert!(matches!(net.verdict(Time::START, A, B, Kind::Other), Verdict::Deliver(_)));
    }

    #[test]
    fn each_distribution_has_its_mean_and_its_least() {
        assert!(delays("a -> b delay fixed 3ms").iter().all(|delay| *delay == 3 * MILLI));
        let exponential = delays("a -> b delay exponential 5ms offset 1ms");
        assert!((5_850..6_150).contains(&mean(&exponential)), "{}", mean(&exponential));
        assert!(exponential.iter().all(|delay| *delay >= MILLI));
        // The mean of a Pareto distribution is shape * scale / (shape - 1).
        let pareto = delays("a -> b delay pareto 2ms 4");
        assert!((2_600..2_740).contains(&mean(&pareto)), "{}", mean(&pareto));
        assert!(pareto.iter().all(|delay| *delay >= 2 * MILLI));
        let mix = delays("a -> b delay mix 9 fixed 1ms + 1 fixed 20ms");
        let slow = mix.iter().filter(|delay| **delay == 20 * MILLI).count();
        assert!((1_850..2_150).contains(&slow), "{slow}");
        let long = delays("a -> b delay pareto 600s 0.1 offset 600s");
        assert!(long.iter().all(|delay| *delay == 600_000 * MILLI), "no delay is over 600 s");
    }

    #[test]
    fn a_rule_about_a_kind_is_about_no_other() {
        let mut net =
            of("* -> * delay fixed 1ms; * -> * writes delay fixed 7ms; * -> * reads drop 1");
        let kinds = [Kind::Write, Kind::Ack, Kind::Read, Kind::Answer, Kind::Other];
        let reported =
            kinds.map(|kind| match net.verdict(Time::START, node("a"), node("a"), kind) {
                Verdict::Deliver(delays) => Some(delays[0] / MILLI),
                _ => None,
            });
        assert_eq!(reported, [Some(7), Some(1), None, Some(1), Some(1)]);
    }

    #[test]
    fn the_last_rule_about_a_disk_decides_and_messages_pass_as_before() {
        let mut net = of("* disk delay 50ms; b disk delay 0ms; a disk delay 7ms");
        let delays = ["a", "b", "c"].map(|name| net.disk_delay(NodeId::of(name)));
        assert_eq!(delays, [7 * MILLI, Micros::ZERO, 50 * MILLI]);
        let reported = net.verdict(Time::START, node("a"), node("b"), Kind::Write);
        assert_eq!(reported, Verdict::Deliver(vec![Micros::ZERO]));
    }

    #[test]
    fn a_link_keeps_its_order_only_if_ordered_to() {
        for (text, ordered) in [
            ("a -> b delay exponential 5ms", false),
            ("a -> b delay exponential 5ms fifo", true),
            ("a -> b delay mix 1 fixed 0ms + 1 pareto 1ms 1.5 fifo", true),
        ] {
            let mut net = of(text);
            let arrival = |now| match net.verdict(now, node("a"), node("b"), Kind::Other) {
                Verdict::Deliver(delays) => now + delays[0],
                other => panic!("{other:?}"),
            };
            let arrivals: Vec<Time> = (0..1_000).map(|nth| Time(nth * 100)).map(arrival).collect();
            assert_eq!(arrivals.is_sorted(), ordered, "{text}");
        }
    }

    #[test]
    fn links_that_keep_their_order_are_remembered_in_bounds() {
        let mut net = of("client -> * delay fixed 1ms fifo");
        for nth in 0..20_000 {
            net.verdict(Time::START + nth * MILLI, Place::Client(nth), node("a"), Kind::Other);
        }
        assert!(net.last.len() <= MAX_IDLE_LINKS + 1, "{}", net.last.len());
    }

    #[test]
    fn later_rules_override_earlier_ones_aspect_by_aspect() {
        let mut net =
            of("* -> * delay fixed 1ms; a -> * delay fixed 2ms; * -> * cut; * -> b pass\n\
             b <-> c drop 1; c -> b drop 0\n* -> client delay fixed 9ms; client -> c cut");
        let client = Place::Client(4);
        let mut reported = |from: Place, to: Place| net.verdict(Time::START, from, to, Kind::Other);
        let after = |ms: u64| Verdict::Deliver(vec![ms * MILLI]);
        assert_eq!(reported(node("a"), node("b")), after(2));
        assert_eq!(reported(node("c"), node("b")), after(1));
        assert_eq!(reported(node("a"), node("c")), Verdict::Cut);
        assert_eq!(reported(node("b"), node("c")), Verdict::Cut, "cut before dropped");
        assert_eq!(reported(node("b"), client), after(9));
        assert_eq!(reported(client, node("a")), after(0), "* is every member, and no client");
        assert_eq!(reported(client, node("c")), Verdict::Cut);
        let mut net = of("b <-> c drop 1");
        assert_eq!(net.verdict(Time::START, node("c"), node("b"), Kind::Other), Verdict::Drop);
        assert_eq!(net.verdict(Time::START, node("b"), node("c"), Kind::Other), Verdict::Drop);
    }

    #[test]
    fn a_seed_is_a_network() {
        let text = "a -> b delay mix 1 pareto 1ms 2 + 1 exponential 1ms";
        assert_eq!(delays(text), delays(text));
    }
}
