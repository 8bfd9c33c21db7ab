//! Reads an open store off the device, one segment of sled's log at a time.

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
    /// Reads a segment of the log.
    pub(super) fn scrub_part(&self, part: u64) -> Result<Scrubbed, StoreFault> {
        let parts = segments(self.sled.log().metadata()?.len()).max(1);
        // All writes up to here must be found from now on.
        let synced = self.directory.mark();
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

    fn look(&self, number: u64, synced: u64) -> Result<Option<Finding>, StoreFault> {
        let positions = positions(self.sled.log())?;
        let newest = positions.last_key_value().map(|(position, _)| *position);
        let segment = Segment::read(self.sled.log(), number)?;
        let shape = (segment.header, segment.end);
        if !segment.is_whole(newest) {
            let excused = self.sled.survey().excuses(number, &segment);
            return Ok((!excused).then(|| (shape, segment.what_is_wrong(number))));
        }
        let Header::At(position) = segment.header else { return Ok(None) };
        if newest != Some(position) {
            return Ok(None);
        }
        if segment.lacks_the_end_of_a_batch() {
            return Ok(Some((shape, segment.what_is_wrong(number))));
        }
        if synced <= self.opened_at || segment.reaches(synced) {
            return Ok(None);
        }
        // The rest of its batch may fill this segment from the beginning.
        let previous = position.checked_sub(SEGMENT_BYTES as u64);
        let previous = previous.and_then(|position| positions.get(&position));
        if let Some(previous) = previous
            && Segment::read(self.sled.log(), *previous)?.reaches(synced)
        {
            return Ok(None);
        }
        let what = segment.what_is_wrong(number);
        Ok(Some((shape, format!("{what}: the write {synced}, which was synced, is behind it"))))
    }
}
