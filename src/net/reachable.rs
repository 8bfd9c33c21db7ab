//! Whether this node can be dialed where its configuration says that it is.

use std::sync::Arc;
use std::time::Duration;

use pixii_core::message::Complaint;
use pixii_transport::{limited, locked};
use tokio::time::sleep;

use super::Hub;
use super::probe::probe;

/// The first look, and the next ones until it can be dialed.
const FIRST: Duration = Duration::from_secs(1);
const INTERVAL: Duration = Duration::from_secs(30);

/// Dials this node's own address until it answers there itself, and logs what is wrong meanwhile:
/// a wrong port in its own entry is seen by nobody else.
pub(crate) async fn watch(hub: Arc<Hub>) {
    let identity = &hub.identity;
    let (name, address) = (&identity.name, &identity.address);
    let mut rest = FIRST;
    loop {
        sleep(rest).await;
        rest = INTERVAL;
        let found = probe(address, &identity.cluster, &hub.secrets, &hub.nonces).await;
        let found = match found {
            Some(found) if found.boot_nonce == identity.boot_nonce => break,
            found => found.map(|found| found.name),
        };
        let (node, address) = (name.clone(), address.clone());
        let trouble = Complaint::Undialable { node, address, found };
        let why = trouble.to_string();
        *locked(&hub.undialable) = Some(trouble);
        let permit = hub.log.once("undialable", "", &why);
        limited!(permit, warn, [event = "undialable",], "{why}");
    }
    *locked(&hub.undialable) = None;
}
