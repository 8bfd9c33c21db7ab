//! Changes of the members, as an operator orders them: staged at one member, applied, and waited
//! for at all.

use std::time::{Duration, Instant};

use pixii_client::{Client, Options};
use pixii_core::message::{PlanOrder, Staged, StatusReport};
use pixii_core::ring::Ring;
use tokio::time::sleep;

use super::testbed::{N, Testbed};
use super::timeline::EventKind;

/// Interval at which members are queried for their ring.
const POLL: Duration = Duration::from_millis(50);
/// A change is repeated for this time when it is refused: a member that came back may not be known
/// to be up yet, and two nodes may have begun a step at once.
const REFUSED_WAIT: Duration = Duration::from_secs(20);
/// A member that has left ends within this time.
const END_WAIT: Duration = Duration::from_secs(60);

impl Testbed {
    /// A client that asks this daemon first.
    pub(super) async fn client_of(&self, name: &str) -> Result<Client, String> {
        let daemon = self.cluster.daemons().iter().find(|daemon| daemon.name == name);
        let address = [daemon.map(|daemon| daemon.address.clone()).unwrap_or_default()];
        let client = Client::connect(&address, Options::default()).await;
        client.map_err(|failure| failure.to_string())
    }

    /// What this daemon says of itself.
    pub(super) async fn status_of(&self, name: &str) -> Result<StatusReport, String> {
        let client = self.client_of(name).await?;
        client.status(None).await.map_err(|failure| failure.to_string())
    }

    /// Adds the files of a daemon of this name and starts it; the change that makes it a member.
    pub(super) async fn newcomer(&mut self, name: &str) -> Result<Staged, String> {
        let address = self.cluster.add(name, "")?;
        let log = self.log(name);
        self.cluster.start(name)?;
        self.await_ready(name, &log).await?.map_err(|how| format!("{name} {how}"))?;
        Ok(Staged::Join { name: name.into(), address, weight: 100, zone: None })
    }

    /// Stages these changes at the daemon `at`, and begins them. Refused ones are tried again.
    pub(super) async fn begin_change(&self, at: &str, staged: &[Staged]) -> Result<(), String> {
        let begun = Instant::now();
        while let Err(why) = self.try_change(at, staged).await {
            if begun.elapsed() > REFUSED_WAIT {
                return Err(format!("{at} does not begin {staged:?}: {why}"));
            }
            sleep(POLL).await;
        }
        Ok(())
    }

    async fn try_change(&self, at: &str, staged: &[Staged]) -> Result<(), String> {
        let client = self.client_of(at).await?;
        let order = async |order| client.plan(order).await.map_err(|failure| failure.to_string());
        order(PlanOrder::Clear).await?;
        for staged in staged {
            order(PlanOrder::Stage(staged.clone())).await?;
        }
        let shown = order(PlanOrder::Show).await?;
        let outcome = shown.outcome.ok_or("nothing is staged")?;
        let digest = outcome.map_err(|why| why.to_string())?.digest;
        order(PlanOrder::Apply { digest }).await.map(drop)
    }

    /// Takes a change back; false if it has gone too far, or is over.
    pub(super) async fn cancel_change(&self, at: &str) -> Result<bool, String> {
        let client = self.client_of(at).await?;
        Ok(client.plan(PlanOrder::Cancel).await.is_ok())
    }

    /// Waits until all of these use the same settled ring, with a version after `version`, which
    /// the testbed goes on with.
    pub(super) async fn await_settled(
        &mut self,
        names: &[String],
        version: u64,
        wait: Duration,
    ) -> Result<(), String> {
        let begun = Instant::now();
        loop {
            match self.settled(names, version).await {
                Ok(ring) => {
                    self.ring = ring;
                    return Ok(());
                }
                Err(why) if begun.elapsed() > wait => {
                    return Err(format!("{why} after {} s", wait.as_secs()));
                }
                Err(_) => sleep(POLL).await,
            }
        }
    }

    async fn settled(&self, names: &[String], version: u64) -> Result<Ring, String> {
        let mut settled: Option<Ring> = None;
        for name in names {
            let client = self.client_of(name).await?;
            let ring = client.ring().clone();
            if ring.version() <= version || ring.step().is_some() {
                return Err(format!("{name} has ring version {}", ring.version()));
            }
            if settled.as_ref().is_some_and(|other| other.id() != ring.id()) {
                return Err(format!("{name} has another ring than {}", names[0]));
            }
            settled = Some(ring);
        }
        settled.ok_or_else(|| "there are no members".into())
    }

    /// Waits until a daemon that has left has ended by itself, and forgets it.
    pub(super) async fn await_left(&mut self, name: &str) -> Result<(), String> {
        let begun = Instant::now();
        loop {
            match self.cluster.end_of(name) {
                Some(how) if how.contains("exit code 2") => break,
                Some(how) => return Err(format!("{name} was to leave, and {how}")),
                None if begun.elapsed() > END_WAIT => {
                    return Err(format!("{name} has left, and still runs"));
                }
                None => sleep(POLL).await,
            }
        }
        self.timeline.note(EventKind::Step, &format!("{name} has ended"));
        self.cluster.retire(name)
    }

    /// Bytes that these members together have moved to or from other members since their starts.
    pub(super) async fn moved_bytes(&self, names: &[String]) -> Result<u64, String> {
        use pixii_core::message::Counter::{BytesPulled, BytesPushed};
        let mut moved = 0;
        for name in names {
            let status = self.status_of(name).await?;
            moved += status.count(BytesPulled) + status.count(BytesPushed);
        }
        Ok(moved)
    }
}

/// Members that can leave, when there are `members`.
pub(super) const fn spare(members: usize) -> usize {
    members.saturating_sub(N as usize)
}
