//! A moment in which many writes are on their way to the disks: one that was acknowledged too early
//! would be lost.

use std::time::Duration;

use pixii_client::Client;
use pixii_core::message::EmulateOrder;
use tokio::time::sleep;

use super::testbed::Testbed;
use crate::workload::choice::{Choice, Sizes};
use crate::workload::{Load, Mix, Spec};

/// Additional time of each disk write: on a fast disk, nearly all writes are synced before an early
/// acknowledgement could matter.
const DISK_DELAY: &str = "20ms";
/// How long the disks are slow before `begin_unsynced` returns.
const SLOW: Duration = Duration::from_millis(200);
/// Number of clients that overwrite a key of their own meanwhile, again and again. The key is in
/// memory, so that no read delays them, and no other client writes it later, so that the last
/// acknowledged value has to be there.
const CLIENTS: usize = 8;
/// Deadline of their requests, in milliseconds. It ends before the daemons are back, so that no put
/// in flight replaces what is lost.
const TIMEOUT_MS: u32 = 300;
/// Number of their operations that begin before the disks become slow.
const WARM: u64 = 80;
const POLL: Duration = Duration::from_millis(1);
const VALUE_BYTES: usize = 100;

/// Makes the disks of all daemons slow until they are restarted, and lets clients overwrite a few
/// keys until the returned load is stopped: all daemons have to be killed now. They must allow
/// emulation.
pub(super) async fn begin_unsynced(testbed: &mut Testbed, client: &Client) -> Result<Load, String> {
    let spec = testbed.spec(CLIENTS as u64, Choice::Own, Sizes::fixed(VALUE_BYTES));
    let (mix, prefix) =
        (Mix { put: 1.0, ..Mix::default() }, format!("hot/{}/", testbed.score.rounds));
    let spec = Spec { clients: CLIENTS, mix, prefix, timeout_ms: TIMEOUT_MS, ..spec };
    let load = testbed.load(client, spec);
    while load.begun() < WARM {
        sleep(POLL).await;
    }
    // The load's client avoids a daemon that it has just found dead.
    let orders = testbed.client().await?;
    for name in testbed.names() {
        let rule = format!("{name} disk delay {DISK_DELAY}");
        let reported = orders.emulate(&name, EmulateOrder::Set(rule)).await;
        reported.map_err(|failure| failure.to_string())?;
    }
    sleep(SLOW).await;
    Ok(load)
}
