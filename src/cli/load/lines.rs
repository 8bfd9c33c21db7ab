//! The lines of a TSV file, read on a thread of their own, a bounded number ahead.

use std::io::{self, BufRead, BufReader, Read};
use std::thread;

use bytes::Bytes;
use pixii_core::types::{Key, MAX_KEY_BYTES, MAX_VALUE_BYTES, hash64};
use pixii_kit::text;
use tokio::sync::mpsc;

/// Longest line: every byte of the longest key and value may be an escape of two.
const MAX_LINE_BYTES: usize = 2 * (MAX_KEY_BYTES + MAX_VALUE_BYTES) + 1;
/// Lines are handed over in batches of about this many bytes.
const BATCH_BYTES: usize = 64 << 10;
/// Batches that wait to be taken.
const BATCHES: usize = 2;

/// The mark of UTF-8 that some programs put at the beginning of a file. It is no part of the first
/// key.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// One line.
#[derive(Debug)]
pub(crate) struct Line {
    /// Its number, from 1.
    pub(crate) number: u64,
    /// A digest of this and all lines before.
    pub(crate) check: u64,
    /// Where it ends in the file, in bytes.
    pub(crate) end: u64,
    /// The line as it stands, without its newline and a byte order mark; cut short if it is too
    /// long.
    pub(crate) raw: Bytes,
    /// True for a first line whose byte order mark was left out of the key.
    pub(crate) is_marked: bool,
    /// Key and value, or what is wrong with the line.
    pub(crate) content: Result<(Key, Bytes), String>,
}

/// Where to begin: behind so many lines, whose digest is known.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Start {
    /// Lines to skip.
    pub(crate) lines: u64,
    /// The `check` of the last of them.
    pub(crate) check: u64,
}

/// Batches of lines in order. After an error, which is a sentence without the file's name, nothing
/// comes.
pub(crate) type Lines = mpsc::Receiver<Result<Vec<Line>, String>>;

/// Begins to read `input`. With `raw`, backslashes stand for themselves.
pub(crate) fn read(input: impl Read + Send + 'static, start: Start, raw: bool) -> Lines {
    let (batches, lines) = mpsc::channel(BATCHES);
    thread::spawn(move || {
        let mut reader = Reader {
            input: BufReader::with_capacity(BATCH_BYTES, input),
            number: 0,
            check: 0,
            end: 0,
            raw,
        };
        if let Err(why) = reader.skip(start) {
            let _ = batches.blocking_send(Err(why));
            return;
        }
        // Once the receiver is gone, no further lines are needed.
        loop {
            match reader.batch() {
                Ok(batch) if batch.is_empty() => return,
                Ok(batch) => {
                    if batches.blocking_send(Ok(batch)).is_err() {
                        return;
                    }
                }
                Err(error) => {
                    let _ = batches.blocking_send(Err(error.to_string()));
                    return;
                }
            }
        }
    });
    lines
}

struct Reader<R> {
    input: BufReader<R>,
    number: u64,
    check: u64,
    end: u64,
    raw: bool,
}

impl<R: Read> Reader<R> {
    fn skip(&mut self, start: Start) -> Result<(), String> {
        while self.number < start.lines {
            if self.take().map_err(|error| error.to_string())?.is_none() {
                break;
            }
        }
        if (self.number, self.check) != (start.lines, start.check) {
            return Err(format!(
                "its first {} are not those that were loaded before",
                text::count(start.lines, "line")
            ));
        }
        Ok(())
    }

    fn batch(&mut self) -> io::Result<Vec<Line>> {
        let (mut batch, begun) = (Vec::new(), self.end);
        while self.end - begun < BATCH_BYTES as u64 {
            let Some((raw, length)) = self.take()? else { break };
            let marked = self.number == 1 && raw.starts_with(BYTE_ORDER_MARK);
            let text = if marked { raw.slice(BYTE_ORDER_MARK.len()..) } else { raw.clone() };
            let content = if length > MAX_LINE_BYTES as u64 {
                Err(format!("{length} bytes; a line has at most {MAX_LINE_BYTES}"))
            } else {
                parse(&text, self.raw)
            };
            let (number, check, end) = (self.number, self.check, self.end);
            batch.push(Line { number, check, end, raw: text, is_marked: marked, content });
        }
        Ok(batch)
    }

    /// The next line, cut short at the limit, and its full length.
    fn take(&mut self) -> io::Result<Option<(Bytes, u64)>> {
        let mut line = Vec::new();
        let mut piece = Vec::new();
        let (mut length, mut last) = (0, None);
        while last != Some(b'\n') {
            let mut input = self.input.by_ref().take(MAX_LINE_BYTES as u64 + 1);
            let read = input.read_until(b'\n', &mut piece)?;
            if read == 0 {
                break;
            }
            self.check = hash64(&[b"line", &self.check.to_be_bytes(), &piece]);
            self.end += read as u64;
            length += read as u64;
            last = piece.last().copied();
            if line.is_empty() {
                line = std::mem::take(&mut piece);
            }
            piece.clear();
        }
        if length == 0 {
            return Ok(None);
        }
        self.number += 1;
        length -= u64::from(last == Some(b'\n'));
        line.pop_if(|byte| *byte == b'\n');
        Ok(Some((line.into(), length)))
    }
}

fn parse(line: &Bytes, raw: bool) -> Result<(Key, Bytes), String> {
    let mut tabs = line.iter().enumerate().filter(|(_, byte)| **byte == b'\t').map(|(at, _)| at);
    let (Some(tab), None) = (tabs.next(), tabs.next()) else {
        return Err(misfit(line));
    };
    let column = |bytes: Bytes| {
        if raw || !bytes.contains(&b'\\') {
            Ok(bytes)
        } else {
            text::unescape(&bytes).map(Bytes::from)
        }
    };
    let key = Key::new(column(line.slice(..tab))?).map_err(|error| error.to_string())?;
    Ok((key, column(line.slice(tab + 1..))?))
}

/// What is wrong with a line that has not one tab.
fn misfit(line: &[u8]) -> String {
    let columns: Vec<&[u8]> = line.split(|byte| *byte == b'\t').collect();
    match columns[..] {
        [key, _, third] if third.starts_with(text::SIBLING.as_bytes()) => format!(
            "\"{}\" has several values in the file ({}); a file does not say what replaces what, \
             so put one of them",
            key.escape_ascii(),
            third.escape_ascii()
        ),
        _ => format!("{} tabs; a line has one, between key and value", columns.len() - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(input: &[u8], start: Start, raw: bool) -> Result<Vec<Line>, String> {
        let mut lines = read(io::Cursor::new(input.to_vec()), start, raw);
        let mut all = Vec::new();
        while let Some(batch) = lines.blocking_recv() {
            all.extend(batch?);
        }
        Ok(all)
    }

    fn contents(input: &[u8], raw: bool) -> Vec<Result<(String, Vec<u8>), String>> {
        let text = |(key, value): (Key, Bytes)| (format!("{key:?}"), value.to_vec());
        all(input, Start::default(), raw)
            .unwrap()
            .into_iter()
            .map(|line| line.content.map(text))
            .collect()
    }

    #[test]
    fn columns_escapes_and_faults() {
        let input = b"a\tb\nk\\t1\tv\\n\nno tab\nx\ty\tz\nq\\z\t\n\tempty key\nlast\t";
        let found = contents(input, false);
        assert_eq!(found[0], Ok(("\"a\"".into(), b"b".to_vec())));
        assert_eq!(found[1], Ok(("\"k\\t1\"".into(), b"v\n".to_vec())));
        let faults: Vec<_> = found[2..6].iter().map(|found| found.clone().unwrap_err()).collect();
        assert_eq!(faults[0], "0 tabs; a line has one, between key and value");
        assert_eq!(faults[1], "2 tabs; a line has one, between key and value");
        assert_eq!(faults[2], "unknown escape \"\\z\"");
        assert_eq!(faults[3], "the key has 0 bytes; a key has 1 to 1024");
        assert_eq!(found[6], Ok(("\"last\"".into(), vec![])));
        assert_eq!(contents(b"q\\z\t\\t\n", true)[0], Ok(("\"q\\\\z\"".into(), b"\\t".to_vec())));
    }

    #[test]
    fn a_sibling_of_a_dump_is_refused_by_name() {
        let found = contents(b"s\tone\tsibling 1/2\ns\ttwo\tother\n", false);
        let reported = "\"s\" has several values in the file (sibling 1/2); a file does not say \
            what replaces what, so put one of them";
        assert_eq!(found[0], Err(reported.to_owned()));
        assert_eq!(found[1], Err("2 tabs; a line has one, between key and value".to_owned()));
    }

    #[test]
    fn a_line_over_the_limit_is_refused_and_the_next_one_is_not() {
        let mut input = vec![b'x'; 3 * MAX_LINE_BYTES];
        input.extend(b"\na\tb\n");
        let lines = all(&input, Start::default(), false).unwrap();
        assert!(lines[0].content.as_ref().unwrap_err().contains("bytes; a line has at most"));
        assert_eq!(lines[1].number, 2);
        assert!(lines[1].content.is_ok());
        assert_eq!(lines[1].end, input.len() as u64);
    }

    #[test]
    fn a_run_goes_on_only_with_the_same_lines() {
        let input = b"a\t1\nb\t2\nc\t3\n";
        let lines = all(input, Start::default(), false).unwrap();
        let start = Start { lines: 2, check: lines[1].check };
        let rest = all(input, start, false).unwrap();
        assert_eq!((rest.len(), rest[0].number, rest[0].check), (1, 3, lines[2].check));
        let why = all(b"a\t1\nb\tX\nc\t3\n", start, false).unwrap_err();
        assert_eq!(why, "its first 2 lines are not those that were loaded before");
        assert!(all(b"a\t1\n", start, false).is_err());
    }
}
