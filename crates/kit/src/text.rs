//! Bytes as text: escapes of TSV columns and HTML, hexadecimal, JSON, tables, and amounts with
//! their units.

use serde_json::{Value, json};

/// Begins the third column of a value of several, where values are a line each.
pub const SIBLING: &str = "sibling ";

/// Appends `bytes` with backslash, tab, newline and carriage return as `\\`, `\t`, `\n` and `\r`.
pub fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    for byte in bytes {
        match byte {
            b'\\' => out.extend(b"\\\\"),
            b'\t' => out.extend(b"\\t"),
            b'\n' => out.extend(b"\\n"),
            b'\r' => out.extend(b"\\r"),
            other => out.push(*other),
        }
    }
}

/// Undoes [`escape`]. The error names an escape that it does not know.
pub fn unescape(text: &[u8]) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        if *byte != b'\\' {
            out.push(*byte);
            continue;
        }
        out.push(match bytes.next() {
            Some(b'\\') => b'\\',
            Some(b't') => b'\t',
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(other) => return Err(format!("unknown escape \"\\{}\"", other.escape_ascii())),
            None => return Err("a backslash at the end".into()),
        });
    }
    Ok(out)
}

/// Text for a page.
pub fn html(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes that hexadecimal digits stand for; `None` if they are not an even number of digits.
pub fn unhex(digits: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let (pairs, []) = digits.as_chunks::<2>() else { return None };
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

/// Bytes for JSON: `{"text": ...}` when they are UTF-8, else `{"hex": ...}`.
pub fn json_bytes(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => json!({ "text": text }),
        Err(_) => json!({ "hex": hex(bytes) }),
    }
}

/// Rows with their columns aligned, two spaces apart, a newline behind each row.
pub fn table(rows: &[Vec<String>]) -> String {
    let mut widths = Vec::new();
    for row in rows {
        widths.resize(widths.len().max(row.len()), 0);
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_string() + "\n"
    };
    rows.iter().map(line).collect()
}

/// A row of a table.
pub fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(String::from).to_vec()
}

/// "1 line", "2 lines".
pub fn count(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// A span of time, to its two largest units.
pub fn duration(ms: u64) -> String {
    let seconds = ms / 1_000;
    match (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, _) => format!("{}.{} s", seconds, ms % 1_000 / 100),
        (0, 0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (0, hours, minutes, _) => format!("{hours} h {minutes} min"),
        (days, hours, _, _) => format!("{days} d {hours} h"),
    }
}

/// A size in the unit that suits it.
pub fn bytes(count: u64) -> String {
    match count {
        0..1_024 => format!("{count} bytes"),
        1_024..1_048_576 => format!("{:.1} KiB", count as f64 / 1_024.0),
        _ => format!("{:.1} MiB", count as f64 / 1_048_576.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_round_trip_and_unknown_ones_are_named() {
        let every: Vec<u8> = (0..=255).collect();
        let mut text = Vec::new();
        escape(&every, &mut text);
        assert!(!text.iter().any(|byte| b"\t\n\r".contains(byte)));
        assert_eq!(unescape(&text).unwrap(), every);
        assert_eq!(unescape(b"a\\qb").unwrap_err(), "unknown escape \"\\q\"");
        assert_eq!(unescape(b"a\\").unwrap_err(), "a backslash at the end");
    }

    #[test]
    fn hexadecimal_round_trips_and_refuses_the_rest() {
        let every: Vec<u8> = (0..=255).collect();
        assert_eq!(unhex(hex(&every).as_bytes()).unwrap(), every);
        assert_eq!(unhex(b"0A").unwrap(), [10]);
        assert_eq!((unhex(b"0"), unhex(b"0x"), unhex("é".as_bytes())), (None, None, None));
    }

    #[test]
    fn nothing_of_a_text_is_taken_for_a_tag() {
        assert_eq!(html("a <b> & \"c\""), "a &lt;b&gt; &amp; &quot;c&quot;");
    }

    #[test]
    fn tables_align() {
        let rows = [row(["name", "up"]), row(["a", "yes"])];
        assert_eq!(table(&rows), "name  up\na     yes\n");
    }

    #[test]
    fn spans_and_sizes_are_readable() {
        let spans = [900, 65_000, 7_260_000, 180_000_000].map(duration);
        assert_eq!(spans, ["0.9 s", "1 min 5 s", "2 h 1 min", "2 d 2 h"]);
        assert_eq!([10, 2_048, 3 << 20].map(bytes), ["10 bytes", "2.0 KiB", "3.0 MiB"]);
    }
}
