//! Reads an open store off the device: one segment of sled's log at a time, or the commit log.

use std::thread;
use std::time::Duration;

use pixii_core::store::Scrubbed;

use super::DiskStore;
use super::guarded::StoreFault;
use super::log::{Header, SEGMENT_BYTES, Segment, positions, segments};

/// Reads of a segment that looks damaged before it is reported: it may be in flight to the disk.
const ATTEMPTS: usize = 4;
const PAUSE: Duration = Duration::from_millis(500);

/// A segment's state, and the description of its damage.
type Finding = ((Header, usize), String);

impl DiskStore {
    /// Reads a segment of sled's log, or, as the last part, the commit log.
    pub(super) fn scrub_part(&self, part: u64) -> Result<Scrubbed, StoreFault> {
        let parts = segments(self.tree.tree().log().metadata()?.len()).max(1) + 1;
        if part % parts == parts - 1 {
            return Ok(Scrubbed { parts, damage: self.scrub_commit_log()? });
        }
        // All writes up to here must be found from now on.
        let synced = self.tree.applied();
        let mut before: Option<Finding> = None;
        for _ in 0..ATTEMPTS {
            let found = self.look(part % parts, synced)?;
            let is_written = matches!((&before, &found), (Some(old), Some(new)) if old.0 != new.0);
            if found.is_none() || is_written {
                return Ok(Scrubbed { parts, damage: None });
            }
            before = found;
            thread::sleep(PAUSE);
        }
        Ok(Scrubbed { parts, damage: before.map(|(_, what)| what) })
    }

    /// Damage counts only if each look shows it. A look that a checkpoint overtook shows nothing.
    fn scrub_commit_log(&self) -> Result<Option<String>, StoreFault> {
        let mut damage = None;
        for look in 0..ATTEMPTS {
            if look > 0 {
                thread::sleep(PAUSE);
            }
            match self.tree.look_at_log()? {
                Some(Ok(())) => return Ok(None),
                Some(Err(what)) => damage = Some(what),
                None => {}
            }
        }
        Ok(damage)
    }

    fn look(&self, number: u64, synced: u64) -> Result<Option<Finding>, StoreFault> {
        let positions = positions(self.tree.tree().log())?;
        let newest = positions.last_key_value().map(|(position, _)| *position);
        let segment = Segment::read(self.tree.tree().log(), number)?;
        let shape = (segment.header, segment.end);
        if !segment.is_whole(newest) {
            let excused = self.tree.tree().survey().excuses(number, &segment);
            return Ok((!excused).then(|| (shape, segment.what_is_wrong(number))));
        }
        let Header::At(position) = segment.header else { return Ok(None) };
        if newest != Some(position) {
            return Ok(None);
        }
        let shorter = self.tree.tree().survey().went_further(&segment);
        if segment.lacks_the_end_of_a_batch() || shorter {
            return Ok(Some((shape, segment.what_is_wrong(number))));
        }
        if synced <= self.opened_at || segment.reaches(synced) {
            return Ok(None);
        }
        // The rest of its batch may fill this segment from the beginning.
        let previous = position.checked_sub(SEGMENT_BYTES as u64);
        let previous = previous.and_then(|position| positions.get(&position));
        if let Some(previous) = previous
            && Segment::read(self.tree.tree().log(), *previous)?.reaches(synced)
        {
            return Ok(None);
        }
        let what = segment.what_is_wrong(number);
        Ok(Some((shape, format!("{what}: the write {synced}, which was synced, is behind it"))))
    }
}
