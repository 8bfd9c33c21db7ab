//! Merkle trees from a clean stop to the next start: nothing has to be read again then.

use pixii_core::merkle::{Binding, KeptTree, KeptTrees};
use pixii_core::ring::Ring;
use pixii_core::store::{Meta, Store, StoreError, Taken};
use pixii_core::types::ObjectLimits;
use tracing::{info, warn};

use crate::config::Config;

fn binding(meta: &Meta, ring: &Ring) -> Binding {
    let (store, incarnation) = (meta.store, meta.incarnation);
    let limit = ObjectLimits::of(ring.n()).accepted as u64;
    Binding { store, incarnation, ring: ring.id(), limit }
}

/// Keeps the trees of an incarnation that has ended cleanly: after its last write.
pub(super) fn keep(
    store: &dyn Store,
    meta: &Meta,
    config: &Config,
    ring: &Ring,
    trees: Vec<KeptTree>,
) -> Result<(), StoreError> {
    if trees.is_empty() {
        return Ok(());
    }
    let all = ring.share(config.me());
    info!("the trees of {} of {all} partitions are kept for the next start", trees.len());
    store.save_trees(&KeptTrees { binding: binding(meta, ring), trees }.encode())
}

/// Takes the trees of the last incarnation, before the first write of the next one; what is not
/// right in every respect is left out, and all is read.
pub(super) fn take(
    store: &dyn Store,
    last: &Meta,
    config: &Config,
    ring: &Ring,
) -> Result<Vec<KeptTree>, StoreError> {
    let decoded = match store.take_trees()? {
        Taken::Nothing => return Ok(Vec::new()),
        Taken::Unusable(why) => Err(why),
        Taken::Whole(bytes) => {
            let own = KeptTrees::decode(&bytes, binding(last, ring));
            own.map(|kept| kept.trees).map_err(str::to_owned)
        }
    };
    match decoded {
        Ok(trees) => {
            let (taken, all) = (trees.len(), ring.share(config.me()));
            info!("the trees of {taken} of {all} partitions are taken over from the last stop");
            Ok(trees)
        }
        Err(why) => {
            warn!(
                event = "trees_ignored",
                "the Merkle trees of the last stop are not used, and every partition is read: {why}"
            );
            Ok(Vec::new())
        }
    }
}
