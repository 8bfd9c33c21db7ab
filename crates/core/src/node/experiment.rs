//! Switches for measurements. No production node has one on: they are no part of its configuration.

/// What a node does otherwise so that it can be measured what that is good for, or beside a model
/// that lacks it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Experiment {
    /// What a read has seen to be behind is not sent what it lacks.
    pub no_read_repair: bool,
    /// Nobody is asked beside one that is late.
    pub no_hedges: bool,
    /// A read asks all owners at once, not only as many as it needs.
    pub query_all: bool,
    /// The network also carries a read's question to the own copy, its answer, and the own
    /// confirmation of a write.
    pub own_link: bool,
}

impl Experiment {
    /// The names of its switches.
    pub const SWITCHES: [&str; 4] = ["no-read-repair", "no-hedges", "ask-all", "own-link"];

    /// The switch of this name.
    pub fn switch(&mut self, name: &str) -> Option<&mut bool> {
        match name {
            "no-read-repair" => Some(&mut self.no_read_repair),
            "no-hedges" => Some(&mut self.no_hedges),
            "ask-all" => Some(&mut self.query_all),
            "own-link" => Some(&mut self.own_link),
            _ => None,
        }
    }
}
