//! What a node does otherwise for a measurement.

use pixii_core::message::{Body, Quorum, Request};
use pixii_core::node::{Experiment, Output};
use pixii_core::types::NodeId;

use super::bench::Bench;

fn bench(experiment: Experiment) -> Bench {
    let bench = Bench::configured(1, |config| config);
    Bench::serving(Bench { node: bench.node.with_experiment(experiment), ..bench })
}

/// Who is asked for copies by these outputs.
fn queried(out: &[Output]) -> Vec<NodeId> {
    let queried = out.iter().filter_map(|output| match output {
        Output::Send { to, message } if matches!(message.body, Body::Read { .. }) => Some(to),
        _ => None,
    });
    queried.flatten().copied().collect()
}

#[test]
fn each_switch_does_what_it_says_and_nothing_else() {
    let none = Experiment::default();
    for (experiment, at_once, later) in [
        (none, 1, 1),
        (Experiment { no_hedges: true, ..none }, 1, 0),
        (Experiment { query_all: true, ..none }, 2, 0),
        (Experiment { own_link: true, ..none }, 2, 1),
        (Experiment { own_link: true, query_all: true, no_hedges: true, ..none }, 3, 0),
    ] {
        let mut bench = bench(experiment);
        let r = Quorum { replicas: Some(2), strict: Some(true) };
        let request = Request::Get { key: bench.key(true), r };
        let out = bench.query(request);
        let first = queried(&out);
        assert_eq!(first.len(), at_once, "{experiment:?}");
        assert_eq!(first.contains(&bench.me), experiment.own_link, "{experiment:?}");
        let late = queried(&bench.tick(100));
        assert_eq!(
            late.len(),
            later,
            "{experiment:?}: one more is asked for an answer that is late"
        );
    }
}
