//! `pixii node join`, `leave`, `remove`, `set`, `plan`, `apply`, `cancel` and `dismiss`: changes of
//! the ring.

use std::time::Duration;

use clap::Args;
use pixii_client::{Client, Options};
use pixii_core::members::MembershipStatus;
use pixii_core::message::{Outcome, PlanOrder, PlanReport, Share, Staged};
use pixii_core::ring::{DEFAULT_WEIGHT, Ring};
use pixii_kit::arguments::Shared;
use pixii_kit::outcome::{CommandError, CommandResult, Exit, block_on, emit, emit_json};
use pixii_kit::text::{bytes, count, row, table};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

/// Time for connecting to one member, in milliseconds.
const CONNECT_MS: u32 = 1_000;
/// Time between two looks at the members.
const POLL: Duration = Duration::from_millis(250);

/// What `pixii node plan` shows.
#[derive(Args)]
pub(super) struct Show {
    /// Show how far the change is at each member
    #[arg(long)]
    status: bool,
    /// Forget all that is staged
    #[arg(long, conflicts_with = "status")]
    clear: bool,
}

/// What `pixii node apply` begins.
#[derive(Args)]
pub(super) struct Apply {
    /// The digest that `pixii node plan` shows
    #[arg(long, value_name = "DIGEST")]
    plan: String,
    /// Return when the change has come to its end, or after so many seconds
    #[arg(long, value_name = "SECONDS")]
    wait: Option<u32>,
}

/// The change that `pixii node join` stages.
pub(super) fn join(
    place: &str,
    weight: Option<u16>,
    zone: Option<String>,
) -> Result<Staged, CommandError> {
    let Some((name, address)) = place.split_once('@') else {
        let place = place.escape_debug();
        let what = format!("\"{place}\": the new member is given as NAME@HOST:PORT");
        return Err(CommandError::usage(what));
    };
    let (name, address) = (name.to_owned(), address.to_owned());
    Ok(Staged::Join { name, address, weight: weight.unwrap_or(DEFAULT_WEIGHT), zone })
}

/// Stages a change, and shows what is staged then.
pub(super) fn stage(staged: Staged, shared: &Shared) -> CommandResult {
    order(PlanOrder::Stage(staged), shared)
}

/// Gives an order, and shows the plan.
fn order(order: PlanOrder, shared: &Shared) -> CommandResult {
    let (name, report) = block_on(async {
        let client = shared.client().await?;
        let name = client.status(None).await?.name;
        Ok((name, client.plan(order).await?))
    })?;
    show(&name, &report, shared)?;
    Ok(Exit::Done)
}

impl Show {
    pub(super) fn run(self, shared: &Shared) -> CommandResult {
        match (self.status, self.clear) {
            (true, _) => show_progress(shared),
            (_, true) => order(PlanOrder::Clear, shared),
            _ => order(PlanOrder::Show, shared),
        }
    }
}

impl Apply {
    pub(super) fn run(self, shared: &Shared) -> CommandResult {
        let given = &self.plan;
        let digest = u64::from_str_radix(given, 16).map_err(|_| {
            let given = given.escape_debug();
            CommandError::usage(format!("\"{given}\" is no digest: `pixii node plan` shows it"))
        })?;
        let order = PlanOrder::Apply { digest };
        let report = block_on(async { Ok(shared.client().await?.plan(order).await?) })?;
        if !shared.json() {
            emit(format!("the change has begun: {}\n", in_force(&report)))?;
        }
        match self.wait {
            Some(seconds) => wait(Duration::from_secs(seconds.into()), shared),
            None => begun(&report, shared),
        }
    }
}

/// Goes back to the table before.
pub(super) fn cancel(shared: &Shared) -> CommandResult {
    let report = block_on(async { Ok(shared.client().await?.plan(PlanOrder::Cancel).await?) })?;
    if !shared.json() {
        emit(format!("the change is taken back: {}\n", in_force(&report)))?;
    }
    begun(&report, shared)
}

/// Removes a node that has no place in the ring.
pub(super) fn dismiss(name: &str, yes: bool, shared: &Shared) -> CommandResult {
    if !yes {
        return Err(CommandError::usage(format!(
            "what {name} still holds is given up, and its name does not return: add --yes to do it"
        )));
    }
    let order = PlanOrder::Dismiss { name: name.to_owned() };
    block_on(async { Ok(shared.client().await?.plan(order).await?) })?;
    if shared.json() {
        emit_json(&json!({ "dismissed": name }))?;
    } else {
        emit(format!("{name} is removed\n"))?;
    }
    Ok(Exit::Done)
}

fn in_force(report: &PlanReport) -> String {
    match report.step {
        Some(step) => format!("ring version {}, step \"{step}\"", report.version),
        None => format!("ring version {}, settled", report.version),
    }
}

fn begun(report: &PlanReport, shared: &Shared) -> CommandResult {
    if shared.json() {
        let step = report.step.map(|step| step.to_string());
        emit_json(&json!({ "ring_version": report.version, "step": step }))?;
    } else if report.step.is_some() {
        emit("see `pixii node plan --status` for how far it is\n")?;
    }
    Ok(Exit::Done)
}

fn show(name: &str, report: &PlanReport, shared: &Shared) -> Result<(), CommandError> {
    if shared.json() {
        return emit_json(&plan_json(name, report));
    }
    let mut text = format!("{}\n", in_force(report));
    if !report.unconfirmed.is_empty() {
        text += &format!("not confirmed yet by {}\n", report.unconfirmed.join(", "));
    }
    if report.staged.is_empty() {
        return emit(text + &format!("nothing is staged at {name}\n"));
    }
    text += &format!("staged at {name}:\n");
    for staged in &report.staged {
        text += &format!("  {}\n", describe(staged));
    }
    match &report.outcome {
        Some(Ok(outcome)) => text += &outcome_text(outcome),
        Some(Err(why)) => text += &format!("as it is, this cannot be applied: {why}\n"),
        None => {}
    }
    emit(text)
}

fn outcome_text(outcome: &Outcome) -> String {
    let Outcome { digest, version, partitions, moves, bytes: moved, members } = outcome;
    let mut rows = vec![row(["member", "partitions", "after", "come", "go"])];
    for Share { name, before, after, gains, loses } in members {
        let [before, after, gains, loses] = [before, after, gains, loses].map(u32::to_string);
        rows.push(row([name, &before, &after, &gains, &loses]));
    }
    format!(
        "\nof {partitions} partitions {} to another node, about {}: ring version {version}\n\n{}\n\
         apply it with `pixii node apply --plan {digest:016x}`\n",
        match moves {
            1 => "1 replica goes".to_owned(),
            moves => format!("{} go", count(u64::from(*moves), "replica")),
        },
        bytes(*moved),
        table(&rows)
    )
}

fn describe(staged: &Staged) -> String {
    let zoned = |zone: &Option<String>| match zone.as_deref() {
        None => String::new(),
        Some("") => ", in a zone of its own".to_owned(),
        Some(zone) => format!(", in zone {zone}"),
    };
    match staged {
        Staged::Join { name, address, weight, zone } => {
            format!("join {name} at {address}, weight {weight}{}", zoned(zone))
        }
        Staged::Leave { name } => format!("leave {name}"),
        Staged::Remove { name } => format!("remove {name}, which is gone for good"),
        Staged::Set { name, weight, zone } => {
            let weight = weight.map_or(String::new(), |weight| format!(", weight {weight}"));
            format!("set {name}{weight}{}", zoned(zone))
        }
        Staged::Replace { old, new, address } => format!("replace {old} by {new} at {address}"),
    }
}

fn staged_json(staged: &Staged) -> Value {
    match staged {
        Staged::Join { name, address, weight, zone } => json!({
            "join": name, "address": address, "weight": weight, "zone": zone,
        }),
        Staged::Leave { name } => json!({ "leave": name }),
        Staged::Remove { name } => json!({ "remove": name }),
        Staged::Set { name, weight, zone } => {
            json!({ "set": name, "weight": weight, "zone": zone })
        }
        Staged::Replace { old, new, address } => {
            json!({ "replace": old, "new": new, "address": address })
        }
    }
}

fn plan_json(name: &str, report: &PlanReport) -> Value {
    let outcome = report.outcome.as_ref().map(|outcome| match outcome {
        Ok(Outcome { digest, version, partitions, moves, bytes, members }) => json!({
            "digest": format!("{digest:016x}"),
            "ring_version": version,
            "partitions": partitions,
            "replicas_moved": moves,
            "bytes_moved": bytes,
            "members": members.iter().map(|share| json!({
                "name": share.name, "before": share.before, "after": share.after,
                "come": share.gains, "go": share.loses,
            })).collect::<Vec<_>>(),
        }),
        Err(why) => json!({ "impossible": why.to_string() }),
    });
    json!({
        "node": name,
        "ring_version": report.version,
        "step": report.step.map(|step| step.to_string()),
        "unconfirmed": report.unconfirmed,
        "staged": report.staged.iter().map(staged_json).collect::<Vec<_>>(),
        "plan": outcome,
    })
}

/// How far a change is at one member.
struct Progress {
    name: String,
    /// Its ring, and partitions that are still to be filled; or why it does not answer.
    state: Result<(Ring, u32), String>,
}

/// Asks every member that is not removed.
async fn progress(shared: &Shared) -> Result<Vec<Progress>, CommandError> {
    let client = shared.client().await?;
    let mut all = Vec::new();
    let members = client.ring_report().members.clone();
    let present = members.iter().filter(|member| member.membership != MembershipStatus::Removed);
    for member in present {
        let options = Options { connect_timeout_ms: CONNECT_MS, ..shared.options()? };
        let state = async {
            let client = Client::connect(std::slice::from_ref(&member.address), options).await?;
            let status = client.status(None).await?;
            Ok::<_, pixii_client::ClientError>((client.ring().clone(), status.read_ineligible))
        };
        let state = state.await.map_err(|why| why.to_string());
        all.push(Progress { name: member.name.clone(), state });
    }
    Ok(all)
}

fn show_progress(shared: &Shared) -> CommandResult {
    let all = block_on(progress(shared))?;
    if shared.json() {
        let of = |progress: &Progress| match &progress.state {
            Ok((ring, unfilled)) => json!({
                "name": progress.name, "ring_version": ring.version(),
                "step": ring.step().map(|step| step.to_string()), "partitions_to_fill": unfilled,
            }),
            Err(why) => json!({ "name": progress.name, "error": why }),
        };
        emit_json(&json!({ "members": all.iter().map(of).collect::<Vec<_>>() }))?;
        return Ok(Exit::Done);
    }
    let mut rows = vec![row(["member", "ring version", "step", "partitions to fill"])];
    for Progress { name, state } in &all {
        rows.push(match state {
            Ok((ring, unfilled)) => {
                let step = ring.step().map_or("settled".to_owned(), |step| step.to_string());
                row([name, &ring.version().to_string(), &step, &unfilled.to_string()])
            }
            Err(_) => row([name, "-", "does not answer", "-"]),
        });
    }
    emit(table(&rows))?;
    Ok(Exit::Done)
}

/// Waits until every member that answers has one settled ring.
fn wait(limit: Duration, shared: &Shared) -> CommandResult {
    let last = Instant::now() + limit;
    let version = block_on(async {
        loop {
            let all = progress(shared).await?;
            let mut rings = all.iter().filter_map(|progress| progress.state.as_ref().ok());
            let first = rings.next().map(|(ring, _)| ring.clone());
            if let Some(first) = first.filter(|first| first.step().is_none())
                && rings.all(|(ring, _)| ring.id() == first.id())
            {
                return Ok(first.version());
            }
            if Instant::now() >= last {
                let message = format!(
                    "unfinished after {} s: the change goes on, see `pixii node plan --status`",
                    limit.as_secs()
                );
                return Err(CommandError { exit: Exit::Unknown, message });
            }
            sleep(POLL).await;
        }
    })?;
    if shared.json() {
        emit_json(&json!({ "ring_version": version, "step": null }))?;
    } else {
        emit(format!("the change has come to its end: ring version {version}\n"))?;
    }
    Ok(Exit::Done)
}
