//! The threads of the store that read.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Instant;

use pixii_core::node::Done;
use pixii_core::store::StoreError;

use super::{Disk, Lookup, MEASURE, Progress, Report, Reports, Scan, Wanted};

/// Looks up what clients and peers wait for.
pub(super) struct Reader {
    pub(super) disk: Disk,
    pub(super) wanted: Receiver<Lookup>,
    pub(super) progress: Arc<Progress>,
}

impl Reader {
    /// Works until nobody can ask for anything any more.
    pub(super) fn run(self, reports: &Reports) -> Result<(), StoreError> {
        while let Ok(lookup) = self.wanted.recv() {
            self.progress.begin();
            self.disk.linger();
            let reads = match &lookup {
                Lookup::Records(wanted) => wanted.len() as u64,
                Lookup::Hints { .. } => 1,
            };
            let report = self.look_up(lookup)?;
            self.progress.end();
            self.disk.gauges.reads.less(reads);
            let _ = reports.send(report);
        }
        Ok(())
    }

    fn look_up(&self, lookup: Lookup) -> Result<Report, StoreError> {
        let store = &self.disk.store;
        match lookup {
            Lookup::Records(wanted) => {
                let mut found = Vec::with_capacity(wanted.len());
                for Wanted { token, partition, key, hints_for } in wanted {
                    let mut hints = Vec::with_capacity(hints_for.len());
                    for target in hints_for {
                        hints.push((target, store.read_hint(target, &key)?));
                    }
                    found.push(Done::Read { token, found: store.read(partition, &key)?, hints });
                }
                Ok(Report::Reads(found))
            }
            Lookup::Hints { token, target, after, limit_bytes } => {
                let page = store.list_hints(target, after.as_ref(), limit_bytes)?;
                Ok(Report::Done(Done::Hints { token, page }))
            }
        }
    }
}

/// Reads of the background have a thread of their own: no client waits behind one. It measures the
/// store, too.
pub(super) struct Scanner {
    pub(super) disk: Disk,
    pub(super) spans: Receiver<Scan>,
}

impl Scanner {
    /// Works until nobody can ask for anything any more.
    pub(super) fn run(self, reports: &Reports) -> Result<(), StoreError> {
        let Disk { store, gauges, .. } = &self.disk;
        let mut measured = Instant::now();
        loop {
            match self.spans.recv_timeout(MEASURE) {
                Ok(Scan { token, partition, span }) => {
                    self.disk.linger();
                    let page = store.scan(partition, &span)?;
                    gauges.scans.less(1);
                    let _ = reports.send(Report::Done(Done::Scan { token, page }));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            if measured.elapsed() >= MEASURE {
                // What cannot be measured now stays what it was: that harms nobody, and whatever
                // does shows elsewhere.
                if let Ok(bytes) = store.disk_bytes() {
                    gauges.disk_bytes.set(bytes);
                }
                measured = Instant::now();
            }
        }
    }
}
