//! The core workloads of YCSB (Cooper et al., 2010) by their names.

use super::Mix;
use super::choice::Choice;

/// The exponent of YCSB's zipfian choices.
const EXPONENT: f64 = 0.99;

/// A named mix of operations, and how they choose keys.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Workload {
    /// Its letter in YCSB, A to F.
    pub(crate) name: &'static str,
    /// The mix in words.
    pub(crate) what: &'static str,
    /// Shares of the kinds of operation.
    pub(crate) mix: Mix,
    /// How the key of an operation is chosen.
    pub(crate) choice: Choice,
}

const NOTHING: Mix =
    Mix { get: 0.0, put: 0.0, blind: 0.0, delete: 0.0, insert: 0.0, modify: 0.0, list: 0.0 };

/// The six core workloads, in the order of their letters.
pub(crate) const WORKLOADS: [Workload; 6] = [
    Workload {
        name: "A",
        what: "half gets, half puts",
        mix: Mix { get: 0.5, put: 0.5, ..NOTHING },
        choice: Choice::Zipf(EXPONENT),
    },
    Workload {
        name: "B",
        what: "95 % gets, 5 % puts",
        mix: Mix { get: 0.95, put: 0.05, ..NOTHING },
        choice: Choice::Zipf(EXPONENT),
    },
    Workload {
        name: "C",
        what: "gets only",
        mix: Mix { get: 1.0, ..NOTHING },
        choice: Choice::Zipf(EXPONENT),
    },
    Workload {
        name: "D",
        what: "95 % gets, of the newest keys most, 5 % inserts",
        mix: Mix { get: 0.95, insert: 0.05, ..NOTHING },
        choice: Choice::Latest(EXPONENT),
    },
    Workload {
        name: "E",
        what: "95 % listings of 1 to 100 keys of a partition, 5 % inserts",
        mix: Mix { list: 0.95, insert: 0.05, ..NOTHING },
        choice: Choice::Zipf(EXPONENT),
    },
    Workload {
        name: "F",
        what: "half gets, half gets with a put of what they showed",
        mix: Mix { get: 0.5, modify: 0.5, ..NOTHING },
        choice: Choice::Zipf(EXPONENT),
    },
];

/// The workload with this name, in upper or lower case.
pub(crate) fn workload(name: &str) -> Result<Workload, String> {
    let found = WORKLOADS.into_iter().find(|workload| workload.name.eq_ignore_ascii_case(name));
    found.ok_or_else(|| {
        let names = WORKLOADS.map(|workload| workload.name).join(", ");
        format!("no workload is called \"{}\"; there are {names}", name.escape_debug())
    })
}
