//! A moment in which much is in progress to the disks: what is reported of too early is lost then.

use std::time::Duration;

use pixii_client::Client;
use pixii_core::message::EmulateOrder;
use tokio::time::sleep;

use super::testbed::Testbed;
use crate::workload::choice::{Choice, Sizes};
use crate::workload::{Load, Mix, Spec};

/// What each write takes more: on a quick disk nearly all are done before anybody could have
/// notified of them too early.
const DISK_DELAY: &str = "20ms";
/// How long that lasts before this returns.
const SLOW: Duration = Duration::from_millis(200);
/// So many clients overwrite a key of their own meanwhile, again and again: it is in memory, so
/// that no read holds them up, and nobody writes it later, so that the last acknowledged value is
/// to be there.
const CLIENTS: usize = 8;
/// Their deadline, in milliseconds: before the daemons are back, lest a put that was in progress
/// replaces what is lost.
const TIMEOUT_MS: u32 = 300;
/// So many of their operations begin before the disks become slow.
const WARM: u64 = 80;
const POLL: Duration = Duration::from_millis(1);
const VALUE_BYTES: usize = 100;

/// Makes the disks of all daemons slow, until they are started anew, and has clients overwrite a
/// few keys, until the load that this gives is stopped: all daemons are to be killed now. They must
/// allow emulation.
pub(super) async fn begin_unsynced(testbed: &mut Testbed, client: &Client) -> Result<Load, String> {
    let spec = testbed.spec(CLIENTS as u64, Choice::Own, Sizes::fixed(VALUE_BYTES));
    let (mix, prefix) =
        (Mix { put: 1.0, ..Mix::default() }, format!("hot/{}/", testbed.score.rounds));
    let spec = Spec { clients: CLIENTS, mix, prefix, timeout_ms: TIMEOUT_MS, ..spec };
    let load = testbed.load(client, spec);
    while load.begun() < WARM {
        sleep(POLL).await;
    }
    // The load's client leaves a daemon alone that it has just met dead.
    let orders = testbed.client().await?;
    for name in testbed.names() {
        let rule = format!("{name} disk delay {DISK_DELAY}");
        let reported = orders.emulate(&name, EmulateOrder::Set(rule)).await;
        reported.map_err(|failure| failure.to_string())?;
    }
    sleep(SLOW).await;
    Ok(load)
}
