//! Tables of the reference pages, and numbers as the pages write them.

/// A table of Markdown: its head, and its rows.
pub struct Table(pub Vec<Vec<String>>);

impl Table {
    /// A table with this head.
    pub fn new<const N: usize>(head: [&str; N]) -> Self {
        Table(vec![head.map(String::from).to_vec()])
    }

    /// The table with a row more.
    #[must_use]
    pub fn row<const N: usize>(mut self, cells: [&str; N]) -> Self {
        self.0.push(cells.map(String::from).to_vec());
        self
    }

    /// As Markdown, a line for each row.
    pub fn markdown(&self) -> String {
        let line = |row: &Vec<String>| format!("| {} |\n", row.join(" | "));
        let mut lines: Vec<String> = self.0.iter().map(line).collect();
        let columns = self.0.first().map_or(0, Vec::len);
        lines.insert(1.min(lines.len()), format!("|{}\n", "---|".repeat(columns)));
        lines.concat()
    }
}

/// A number with commas between its thousands.
pub(crate) fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A size in bytes, in whole MiB where it is that many.
pub(crate) fn size(bytes: usize) -> String {
    match (bytes >> 20, bytes % (1 << 20)) {
        (mib @ 1.., 0) => format!("{mib} MiB"),
        _ => format!("{} bytes", number(bytes as u64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_sizes_are_written_as_the_pages_write_them() {
        assert_eq!(
            [7, 999, 1_000, 2_592_000_000].map(number),
            ["7", "999", "1,000", "2,592,000,000"]
        );
        assert_eq!([64, 1_024, 8 << 20].map(size), ["64 bytes", "1,024 bytes", "8 MiB"]);
    }

    #[test]
    fn a_table_has_a_head_and_a_line_for_each_row() {
        let table = Table::new(["a", "b"]).row(["1", "2"]);
        assert_eq!(table.markdown(), "| a | b |\n|---|---|\n| 1 | 2 |\n");
    }
}
