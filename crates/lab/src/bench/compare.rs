//! Pixii beside another store: the same load generator, keys, sizes and number of connections, in
//! interleaved rounds, so that a slow minute of the machine affects both.

use std::collections::{BTreeMap, BTreeSet};
use std::net::ToSocketAddrs;

use pixii_client::{Client, Options};

use super::usage::{listener, name_of};
use super::{Case, Field, Line, Meters, run, spec};
use crate::mean::Mean;
use crate::workload::peer::{Information, Peer};
use crate::workload::repeated::{FILL_CLIENTS, fill};
use crate::workload::target::Target;
use crate::workload::{Kind, Spec};

/// The configurations that are measured in each round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    /// Pixii; all clients share one connection to each node.
    Multiplexed,
    /// Pixii; each client has a connection of its own to each node.
    PerClient,
    /// The other store; each client has a connection of its own.
    Peer,
}

impl Side {
    /// All sides, in the order of the first round.
    pub(crate) const ALL: [Side; 3] = [Side::Multiplexed, Side::PerClient, Side::Peer];
}

/// The other store, with its processes on this machine.
#[derive(Clone, Debug)]
pub(crate) struct Opponent {
    /// Its address, and the protocol by which it is driven.
    pub(crate) peer: Peer,
    /// Its name in tables.
    pub(crate) name: String,
    /// Its own report of its settings and replicas.
    pub(crate) stated: Information,
    /// Process ids of its servers on this machine, by name.
    pub(crate) servers: BTreeMap<String, u32>,
}

impl Opponent {
    /// Finds its processes: those of `pids`, or else the one that listens at its address and those
    /// of its replicas. The error says why it cannot be driven.
    pub(crate) async fn find(
        peer: Peer,
        name: Option<String>,
        pids: &[u32],
    ) -> Result<Self, String> {
        drop(peer.connect().await?);
        let name = name.unwrap_or_else(|| peer.scheme().into());
        let named = |pid: u32| {
            let name = name_of(pid).ok_or_else(|| format!("there is no process {pid}"))?;
            Ok((format!("{name} {pid}"), pid))
        };
        if !pids.is_empty() {
            let servers = pids.iter().map(|pid| named(*pid)).collect::<Result<_, String>>()?;
            let stated = peer.information().await;
            return Ok(Opponent { peer, name, stated, servers });
        }
        let stated = peer.information().await;
        let addresses = [peer.address.clone()].into_iter().chain(stated.replicas.iter().cloned());
        let resolved = addresses.flat_map(|at| at.to_socket_addrs().into_iter().flatten());
        let pids: BTreeSet<u32> = resolved.filter_map(listener).collect();
        let servers = pids.into_iter().map(named).collect::<Result<_, String>>()?;
        Ok(Opponent { peer, name, stated, servers })
    }
}

/// The results of all rounds of one case.
#[derive(Clone, Debug)]
pub(crate) struct Comparison {
    /// The case that was measured.
    pub(crate) case: Case,
    /// One line of results for each round.
    pub(crate) rounds: BTreeMap<Side, Vec<Line>>,
}

/// A figure of Pixii divided by that of the other store: the geometric mean over the rounds, and
/// its 95 % confidence interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Ratio {
    /// Geometric mean of the ratios of the rounds.
    pub(crate) mean: f64,
    /// Lower end of the confidence interval; the mean itself if there was one round.
    pub(crate) low: f64,
    /// Upper end of the confidence interval; the mean itself if there was one round.
    pub(crate) high: f64,
}

impl Comparison {
    /// The median, minimum and maximum of a figure of one side; `None` if it was not measured.
    pub(crate) fn span(&self, side: Side, of: impl Fn(&Line) -> f64) -> Option<[f64; 3]> {
        let mut all: Vec<f64> = self.rounds.get(&side)?.iter().map(of).collect();
        all.sort_by(f64::total_cmp);
        let (middle, last) = (all.len() / 2, all.len().checked_sub(1)?);
        let median =
            if all.len() % 2 == 1 { all[middle] } else { (all[middle - 1] + all[middle]) / 2.0 };
        Some([median, all[0], all[last]])
    }

    /// A figure of `side` divided by that of the other store; `None` where one of them is 0.
    pub(crate) fn ratio(&self, side: Side, of: impl Fn(&Line) -> f64) -> Option<Ratio> {
        let (ours, theirs) = (self.rounds.get(&side)?, self.rounds.get(&Side::Peer)?);
        let logs: Vec<f64> =
            ours.iter().zip(theirs).map(|(one, other)| (of(one) / of(other)).ln()).collect();
        let Mean { mean, half, .. } = Mean::of(&logs);
        let ratio = Ratio { mean: mean.exp(), low: (mean - half).exp(), high: (mean + half).exp() };
        (!logs.is_empty() && mean.is_finite()).then_some(ratio)
    }
}

/// A comparison of two stores, case by case.
pub(crate) struct Match<'a> {
    field: &'a Field,
    opponent: &'a Opponent,
    meters: &'a Meters,
    /// Number of rounds of each case.
    rounds: u64,
    /// Value sizes for which the keys that gets read were written.
    filled: BTreeSet<usize>,
}

impl<'a> Match<'a> {
    /// A comparison of these two; nothing is measured yet.
    pub(crate) fn new(
        field: &'a Field,
        opponent: &'a Opponent,
        meters: &'a Meters,
        rounds: u64,
    ) -> Self {
        Match { field, opponent, meters, rounds, filled: BTreeSet::new() }
    }

    /// Measures one case. The keys that gets read are written first.
    pub(crate) async fn compare(&mut self, case: Case) -> Result<Comparison, String> {
        if case.kind == Kind::Get && self.filled.insert(case.size) {
            let spec = self.spec(case, 0);
            fill(&self.shared(FILL_CLIENTS).await?, &spec).await?;
            fill(self.peer(FILL_CLIENTS).await?, &spec).await.map_err(|why| self.named(&why))?;
        }
        let targets = [
            (Side::Multiplexed, Target::Shared(self.shared(case.clients).await?)),
            (Side::PerClient, self.each(case.clients).await?),
            (Side::Peer, self.peer(case.clients).await?),
        ];
        let mut rounds: BTreeMap<Side, Vec<Line>> = BTreeMap::new();
        for round in 0..self.rounds {
            // Each side is the first in some rounds.
            for nth in 0..targets.len() {
                let (side, target) = &targets[(nth + round as usize) % targets.len()];
                let (field, meters) = (self.field, self.meters);
                let servers = match side {
                    Side::Peer => &self.opponent.servers,
                    _ => &field.daemons,
                };
                let mut spec = self.spec(case, round);
                if case.kind == Kind::Put {
                    // New keys, so that a put without a context replaces nothing.
                    spec.prefix = format!("{}{side:?}/", spec.prefix);
                }
                let line = run(target, spec, case, servers, meters).await;
                let line = line.map_err(|why| match side {
                    Side::Peer => self.named(&why),
                    _ => why,
                })?;
                rounds.entry(*side).or_default().push(line);
            }
        }
        Ok(Comparison { case, rounds })
    }

    fn named(&self, why: &str) -> String {
        format!("{}: {why}", self.opponent.peer.url())
    }

    /// The load, which is the same for all sides. Reads use the same keys in all rounds and with
    /// any number of clients.
    fn spec(&self, case: Case, round: u64) -> Spec {
        let spec = spec(self.field, case);
        let seed = spec.seed.wrapping_add(round.wrapping_mul(0xd134_2543_de82_ef95));
        let run = format!("bench/{:08x}", self.field.seed as u32);
        let Case { kind, size, clients } = case;
        let prefix = match kind {
            Kind::Get => format!("{run}/{kind:?}/{size}/"),
            _ => format!("{run}/{kind:?}/{size}/{clients}/{round}/"),
        };
        Spec { prefix, seed, ..spec }
    }

    async fn shared(&self, clients: usize) -> Result<Client, String> {
        let options =
            Options { in_flight: clients.max(FILL_CLIENTS), ..self.field.options.clone() };
        let client = Client::connect(&self.field.addresses, options).await;
        client.map_err(|failure| failure.to_string())
    }

    async fn each(&self, clients: usize) -> Result<Target, String> {
        let mut each = Vec::new();
        for nth in 0..clients {
            let mut addresses = self.field.addresses.clone();
            let count = addresses.len().max(1);
            addresses.rotate_left(nth % count);
            let client = Client::connect(&addresses, self.field.options.clone()).await;
            each.push(client.map_err(|failure| failure.to_string())?);
        }
        Ok(Target::Each(each.into()))
    }

    async fn peer(&self, clients: usize) -> Result<Target, String> {
        Ok(Target::peer(self.opponent.peer.connections(clients).await?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(rate: f64) -> Line {
        Line {
            case: Case { kind: Kind::Put, size: 100, clients: 1 },
            members: 3,
            rate,
            p50_us: 1,
            p99_us: 1,
            failed: 0,
            servers_us: BTreeMap::new(),
            client_us: 0.0,
            rss_bytes: 0,
            switches: 0.0,
            device_bytes: None,
            write_bytes: None,
        }
    }

    #[test]
    fn ratios_are_of_rounds_and_have_an_interval() {
        let lines = |rates: [f64; 3]| rates.map(line).to_vec();
        let rounds = BTreeMap::from([
            (Side::Multiplexed, lines([50.0, 100.0, 200.0])),
            (Side::Peer, lines([100.0, 200.0, 400.0])),
        ]);
        let all = Comparison { case: line(0.0).case, rounds };
        assert_eq!(all.span(Side::Peer, |line| line.rate), Some([200.0, 100.0, 400.0]));
        // The machine was 4 times as fast in the last round as in the first; the ratio is not
        // affected.
        let ratio = all.ratio(Side::Multiplexed, |line| line.rate).unwrap();
        for figure in [ratio.mean, ratio.low, ratio.high] {
            assert!((figure - 0.5).abs() < 1e-9, "{ratio:?}");
        }
        let rounds = BTreeMap::from([
            (Side::Multiplexed, lines([90.0, 100.0, 110.0])),
            (Side::Peer, lines([100.0, 100.0, 100.0])),
        ]);
        let all = Comparison { rounds, ..all };
        let Ratio { mean, low, high } = all.ratio(Side::Multiplexed, |line| line.rate).unwrap();
        // The logarithms have the mean -0.0034 and the deviation 0.1005; the half width is 4.303
        // times that over the root of 3.
        assert!((mean - 0.9967).abs() < 1e-3 && (low - 0.776).abs() < 2e-3, "{mean} {low}");
        assert!((high - 1.279).abs() < 3e-3, "{high}");
        assert_eq!(all.ratio(Side::Multiplexed, |line| line.client_us), None);
        assert_eq!(all.ratio(Side::PerClient, |line| line.rate), None);
        assert_eq!(all.span(Side::PerClient, |line| line.rate), None);
    }
}
