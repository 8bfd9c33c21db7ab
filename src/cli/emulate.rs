//! `pixii emulate`.

use clap::{Args, Subcommand};
use pixii_client::{Client, ClientError};
use pixii_core::emulation;
use pixii_core::message::EmulateOrder;
use pixii_kit::arguments::Shared;
use pixii_kit::outcome::{CommandError, CommandResult, Exit, block_on, complain, emit, emit_json};
use pixii_kit::text::count;
use serde_json::{Value, json};

/// Emulate a slow, lossy or cut network between running nodes, or a slow disk
#[derive(Args)]
#[command(after_help = "\
A rule says what happens to messages from one place to another: FROM -> TO, or <-> for both \
    directions. A \
place is a member's name, * (every member) or client (every client). Later rules override earlier \
    ones.

  FROM -> TO delay fixed 5ms           always 5 ms; times are us, ms or s, up to 600 s
  FROM -> TO delay exponential 5ms     5 ms in the mean
  FROM -> TO delay pareto 1ms 2.5      at least 1 ms, shape 2.5
  FROM -> TO delay mix 0.9 fixed 1ms + 0.1 exponential 20ms
           ... offset 2ms              so much more for each
           ... fifo                    messages of a link do not overtake each other
  FROM -> TO writes delay fixed 5ms    of this kind: writes, acks, reads, answers, gossip, \
    repair, others
  FROM -> TO drop 0.05                 each is lost with this probability
  FROM -> TO cut                       nothing passes; `pass` ends it for some links
  NODE disk delay 50ms                 the disk of a member, or of *, takes so much more for each \
    write and read

Nodes obey if their configuration says allow_emulation = true. A node that is started again has \
    the rules \
of its configuration. Delays are met to a fraction of a millisecond, unless the machine is busy.

Examples:
  pixii emulate set 'n1 -> n2 delay exponential 5ms'
  pixii emulate set '* -> * delay pareto 1ms 2.5 fifo' '* -> client delay fixed 2ms'
  pixii emulate set '* -> * drop 0.05; n1 <-> n2 cut'
  pixii emulate show
  pixii emulate clear")]
pub(crate) struct Emulate {
    #[command(subcommand)]
    order: Order,
    /// Only this member; without it, every member is notified
    #[arg(long, global = true, value_name = "NAME")]
    node: Option<String>,
}

#[derive(Subcommand)]
enum Order {
    /// Put these rules in the place of all others
    #[command(after_help = "Examples:\n  pixii emulate set 'n1 <-> n2 cut' '* -> * drop 0.01'")]
    Set {
        /// FROM -> TO delay, drop, cut or pass: see `pixii emulate --help`
        #[arg(required = true, value_name = "RULE")]
        rules: Vec<String>,
    },
    /// Show the rules that hold
    #[command(after_help = "Examples:\n  pixii emulate show --node n2")]
    Show,
    /// End the emulation
    #[command(after_help = "Examples:\n  pixii emulate clear")]
    Clear,
}

type Answer = (String, Result<Vec<String>, ClientError>);

impl Emulate {
    /// Notifies the members, one after the other, and reports what each one says.
    pub(crate) fn run(self, shared: &Shared) -> CommandResult {
        let reported = block_on(async {
            let client = shared.client().await?;
            let order = self.order(&client)?;
            let members = client.members().map(|member| member.name.clone());
            let names = self.node.map_or_else(|| members.collect(), |name| vec![name]);
            let mut reported: Vec<Answer> = Vec::new();
            for name in names {
                let rules = client.emulate(&name, order.clone()).await;
                reported.push((name, rules));
            }
            Ok(reported)
        })?;
        report(&reported, shared)?;
        let well = reported.iter().all(|(_, rules)| rules.is_ok());
        Ok(if well { Exit::Done } else { Exit::Error })
    }

    /// What the members are to be notified; a mistake in the rules is found before any of them is.
    fn order(&self, client: &Client) -> Result<EmulateOrder, CommandError> {
        Ok(match &self.order {
            Order::Show => EmulateOrder::Show,
            Order::Clear => EmulateOrder::Clear,
            Order::Set { rules } => {
                let text = rules.join("\n");
                emulation::parse(&text, &client.ring_report().members)
                    .map_err(CommandError::usage)?;
                EmulateOrder::Set(text)
            }
        })
    }
}

fn report(reported: &[Answer], shared: &Shared) -> Result<(), CommandError> {
    if shared.json() {
        let node = |(name, rules): &Answer| {
            let stated = match rules {
                Ok(rules) => json!({ "rules": rules }),
                Err(failure) => json!({ "error": failure.to_string() }),
            };
            (name.clone(), stated)
        };
        return emit_json(&json!({ "nodes": Value::Object(reported.iter().map(node).collect()) }));
    }
    for (name, rules) in reported {
        match rules {
            Ok(rules) if rules.is_empty() => emit(format!("{name}: nothing is emulated\n"))?,
            Ok(rules) => {
                let lines: String = rules.iter().map(|rule| format!("  {rule}\n")).collect();
                emit(format!("{name}: {}\n{lines}", count(rules.len() as u64, "rule")))?;
            }
            Err(failure) => complain(&failure.to_string()),
        }
    }
    Ok(())
}
