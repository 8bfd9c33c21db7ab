//! `pixii node replace`: orders the change, and watches until the members live with it.

use std::time::Duration;

use pixii_client::{Client, Options};
use pixii_core::members::Liveness;
use pixii_core::message::Replacement;
use pixii_core::ring::Ring;
use pixii_core::types::NodeId;
use pixii_kit::arguments::Shared;
use pixii_kit::outcome::{CommandError, CommandResult, Exit, block_on, emit, emit_json};
use pixii_kit::text::count;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// A node that begins its next incarnation does not listen for a moment.
const RECONNECT: Duration = Duration::from_secs(2);
/// For so long the order is given again while another change is in progress.
const PERSIST: Duration = Duration::from_secs(20);
/// Time for the members to live with the change.
const CONFIRM: Duration = Duration::from_secs(30);
/// So many milliseconds after it has begun an incarnation a node knows which members are down.
const SETTLING_MS: u64 = 10_000;
/// Time between two attempts, and between two looks at the members.
const RETRY_INTERVAL: Duration = Duration::from_millis(250);
/// Time for connecting to one member, in milliseconds.
const CONNECT_MS: u32 = 1_000;

/// What is ordered.
struct Change<'a> {
    old: &'a str,
    new: &'a str,
    address: &'a str,
}

/// Orders it, or with `yes` false only shows what would happen.
pub(super) fn replace(old: &str, new: &str, yes: bool, shared: &Shared) -> CommandResult {
    let Some((new, address)) = new.split_once('@') else {
        let new = new.escape_debug();
        return Err(CommandError::usage(format!(
            "\"{new}\": the new member is given as NAME@HOST:PORT"
        )));
    };
    let change = Change { old, new, address };
    let (plan, note) = block_on(async {
        if !yes {
            let client = connect(shared).await?;
            return Ok((client.replace(old, new, address, false).await?, String::new()));
        }
        let plan = change.order(shared).await?;
        let note = change.confirm(shared).await?;
        Ok((plan, note))
    })?;
    change.show(&plan, &note, yes, shared)
}

/// A client of the node that is asked, which may be about to begin its next incarnation.
async fn connect(shared: &Shared) -> Result<Client, CommandError> {
    let last = Instant::now() + RECONNECT;
    loop {
        match shared.client().await {
            Ok(client) => return Ok(client),
            Err(why) if Instant::now() >= last => return Err(why),
            Err(_) => sleep(RETRY_INTERVAL).await,
        }
    }
}

impl Change<'_> {
    /// Gives the order, again while the ring changes for another reason.
    async fn order(&self, shared: &Shared) -> Result<Replacement, CommandError> {
        let Change { old, new, address } = *self;
        let last = Instant::now() + PERSIST;
        let (mut known, mut first) = (None, None);
        loop {
            let client = connect(shared).await?;
            let before = *first.get_or_insert(client.ring().id());
            // What could be done and was refused all the same met another change, wherever that is.
            let (why, met_another) = match client.replace(old, new, address, false).await {
                Ok(plan) => {
                    known = Some(plan);
                    match client.replace(old, new, address, true).await {
                        Ok(plan) => return Ok(plan),
                        Err(why) => (why, true),
                    }
                }
                Err(why) => (why, false),
            };
            let client = connect(shared).await?;
            // The answer may have been lost.
            if let (Some(plan), true) = (&known, self.holds(client.ring())) {
                return Ok(plan.clone());
            }
            let ring = client.ring();
            let possible = ring.has(NodeId::of(old)) && !ring.has(NodeId::of(new));
            let changes = met_another
                || ring.id() != before
                || match client.status(None).await {
                    // It has just taken another change, and has yet to find the dead member dead.
                    Ok(report) if ring.version() > 1 && report.uptime_ms < SETTLING_MS => true,
                    Ok(report) => report.gauges.changing_ring,
                    // It is about to begin its next incarnation.
                    Err(_) => true,
                };
            if !possible || !changes || Instant::now() >= last {
                return Err(why.into());
            }
            sleep(RETRY_INTERVAL).await;
        }
    }

    /// True for a ring in which the newcomer has the places.
    fn holds(&self, ring: &Ring) -> bool {
        ring.has(NodeId::of(self.new)) && !ring.has(NodeId::of(self.old))
    }

    /// Returns when every member that is not down uses the change, with what is worth
    /// knowing; the error is that another one took its place, or that it is unfinished.
    async fn confirm(&self, shared: &Shared) -> Result<String, CommandError> {
        let Change { old, new, .. } = *self;
        let last = Instant::now() + CONFIRM;
        loop {
            let looked = self.look(shared).await;
            if let Ok(Looked { rings, waits, note, .. }) = &looked
                && waits.is_empty()
                && let Some((_, first)) = rings.first()
                && rings.iter().all(|(_, ring)| ring.id() == first.id())
            {
                if self.holds(first) {
                    return Ok(note.clone());
                }
                if first.version() > 1 {
                    return Err(CommandError::error(format!(
                        "another replacement took the place of this one: {new} has no places, and \
                         {old} {} in ring version {}",
                        if first.has(NodeId::of(old)) { "keeps its own" } else { "has none" },
                        first.version()
                    )));
                }
            }
            if Instant::now() >= last {
                let waits = match looked {
                    Ok(looked) => looked.waits_for(self),
                    Err(why) => why.message,
                };
                let message = format!(
                    "unfinished after {} s: the replacement of {old} by {new} was ordered, and \
                     {waits}; see `pixii ring`",
                    CONFIRM.as_secs()
                );
                return Err(CommandError { exit: Exit::Unknown, message });
            }
            sleep(RETRY_INTERVAL).await;
        }
    }

    /// Asks every member for its ring.
    async fn look(&self, shared: &Shared) -> Result<Looked, CommandError> {
        let client = shared.client().await?;
        let status = client.status(None).await?;
        let options = Options { connect_timeout_ms: CONNECT_MS, ..shared.options()? };
        let mut queried = JoinSet::new();
        for member in client.members().filter(|member| member.name != status.name) {
            let (member, options) = (member.clone(), options.clone());
            queried.spawn(async move {
                let ring = Client::connect(&[member.address], options).await;
                (member.name, ring.map(|client| client.ring().clone()))
            });
        }
        let mut looked = Looked::default();
        looked.rings.push((status.name.clone(), client.ring().clone()));
        while let Some(Ok((name, answer))) = queried.join_next().await {
            let down = |liveness| liveness == Liveness::Down;
            let peer = status.peers.iter().find(|peer| peer.name == name);
            match answer {
                Ok(ring) => looked.rings.push((name, ring)),
                Err(_) if name == self.new => {
                    looked.note += &format!("{name} cannot be reached yet: start it\n");
                }
                // What it missed it is reported when it is back.
                Err(_) if peer.is_some_and(|peer| down(peer.liveness)) => looked.down.push(name),
                Err(why) => looked.waits.push(format!("{name} does not answer ({why})")),
            }
        }
        looked.down.sort_unstable();
        for name in &looked.down {
            looked.note += &format!(
                "{name} is down and has not confirmed the change: do not start {} again before \
                 it has\n",
                self.old
            );
        }
        Ok(looked)
    }

    fn show(&self, plan: &Replacement, note: &str, yes: bool, shared: &Shared) -> CommandResult {
        let Change { old, new, address } = self;
        let Replacement { old_address, version, places, partitions, hints } = plan;
        if shared.json() {
            emit_json(&json!({
                "removed": old,
                "new": new,
                "address": address,
                "ring_version": version,
                "partitions_moved": places,
                "partitions": partitions,
                "hints": hints,
                "applied": yes,
            }))?;
            return Ok(Exit::Done);
        }
        let (is, takes) = if yes { ("is", "takes") } else { ("would be", "would take") };
        let hints = count(*hints, "hint");
        emit(format!(
            "{old} ({old_address}) {is} removed for good: its name does not return, and its data \
             is \
             never taken again\n\
             {new} ({address}) {takes} its places in {places} of {partitions} partitions: ring \
             version {version}\n\
             {hints} that the asked node keeps for {old} go to the other owners\n{}",
            match yes {
                true => format!(
                    "{note}{new} fills itself from the other owners: see `pixii status --node \
                     {new}`\n"
                ),
                false => "nothing was changed: add --yes to do it\n".to_owned(),
            }
        ))?;
        Ok(Exit::Done)
    }
}

/// What the members said.
#[derive(Default)]
struct Looked {
    /// The ring of each that answers.
    rings: Vec<(String, Ring)>,
    /// The members that the change waits for, and why.
    waits: Vec<String>,
    /// Members that are down, which may live with an earlier ring when they are back.
    down: Vec<String>,
    note: String,
}

impl Looked {
    /// What the change waits for, in words.
    fn waits_for(self, change: &Change) -> String {
        let behind = self.rings.iter().filter(|(_, ring)| !change.holds(ring));
        let behind =
            behind.map(|(name, ring)| format!("{name} uses ring version {}", ring.version()));
        let all: Vec<String> = self.waits.into_iter().chain(behind).collect();
        match all.is_empty() {
            true => "the members live with different rings".to_owned(),
            false => all.join(", "),
        }
    }
}
