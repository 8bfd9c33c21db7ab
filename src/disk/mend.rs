//! A copy of a damaged log made readable for sled, which gives up at the first message whose
//! checksum fails, and at the first segment without a header.
//!
//! A message of which only the content is damaged is given the checksum that it should have: what
//! is in it is checked by Pixii's own checksums, record by record. Bytes that are no message any
//! more are called a cancelled one, which sled goes over. What was in them is missing then, so
//! whoever reads the store afterwards must take it for an old one.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::log::{
    HEADER_BYTES, Head, Header, LONGEST_HEAD_BYTES, Message, SEGMENT_BYTES, check_sum, header,
    sealed, segments,
};

/// The kind of a message that sled goes over.
const CANCELLED: u8 = 1;
/// Kinds whose content is no page: nothing else would notice that it is damaged.
const BY_REFERENCE: [u8; 4] = [3, 7, 9, 11];

/// Mends the log in `path`.
pub(super) fn mend(path: &Path) -> io::Result<()> {
    let file = File::options().read(true).write(true).open(path)?;
    let length = file.metadata()?.len();
    for number in 0..segments(length) {
        let from = number * SEGMENT_BYTES as u64;
        let mut bytes = vec![0; (length - from).min(SEGMENT_BYTES as u64) as usize];
        file.read_exact_at(&mut bytes, from)?;
        if mend_segment(&mut bytes) {
            file.write_all_at(&bytes, from)?;
        }
    }
    file.sync_all()
}

/// True if something was changed.
fn mend_segment(bytes: &mut [u8]) -> bool {
    let mut changed = false;
    let number = match header(bytes) {
        Header::At(position) => position / SEGMENT_BYTES as u64,
        Header::Blank => return false,
        Header::Broken => match bytes.get(HEADER_BYTES..).and_then(Message::of) {
            None => return false,
            Some(first) => {
                let number = first.segment;
                bytes[..HEADER_BYTES].copy_from_slice(&sealed(number * SEGMENT_BYTES as u64));
                changed = true;
                number
            }
        },
    };
    let mut at = HEADER_BYTES;
    while at + LONGEST_HEAD_BYTES <= bytes.len() {
        if let Some(message) = Message::of(&bytes[at..])
            && message.segment == number
        {
            at += message.length;
            continue;
        }
        let Some(next) = next_message(bytes, at, number) else { break };
        if Head::of(&bytes[at..]).is_some_and(|head| {
            head.segment == number && head.length == next - at && !BY_REFERENCE.contains(&head.kind)
        }) {
            let sum = check_sum(&bytes[at..next]);
            bytes[at..at + 4].copy_from_slice(&sum.unwrap_or_default());
        } else if !cancel(&mut bytes[at..next], number) {
            break;
        }
        changed = true;
        at = next;
    }
    changed
}

/// Where the next message of this use of the segment begins.
fn next_message(bytes: &[u8], at: usize, number: u64) -> Option<usize> {
    (at + 1..bytes.len().saturating_sub(LONGEST_HEAD_BYTES)).find(|at| {
        let rest = &bytes[*at..];
        Head::of(rest).is_some_and(|head| head.segment == number) && Message::of(rest).is_some()
    })
}

/// Makes these bytes a message without a meaning; false if they are too few.
fn cancel(bytes: &mut [u8], number: u64) -> bool {
    let whole = bytes.len();
    // The head grows with the length that it reports.
    let head = (0..whole).rev().take(LONGEST_HEAD_BYTES).find_map(|body| {
        let head = Head::write(CANCELLED, body as u64, number);
        (head.len() + body == whole).then_some(head)
    });
    let Some(head) = head else { return false };
    bytes[..head.len()].copy_from_slice(&head);
    let sum = check_sum(bytes);
    bytes[..4].copy_from_slice(&sum.unwrap_or_default());
    true
}
