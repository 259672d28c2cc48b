// SPDX-License-Identifier: GPL-2.0

//! Rows in aligned columns.

/// Rows of text under headings, printed with all their columns aligned.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

/// By how much a row is indented under its heading.
const INDENT: &str = "  ";
/// What stands between two columns.
const GAP: &str = "  ";

impl Table {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a heading: its first cell says what comes, the others stand over the columns.
    pub fn heading<const N: usize>(&mut self, cells: [&str; N]) {
        self.heading_of(cells.map(str::to_string).to_vec());
    }

    /// Adds a heading of any number of cells.
    pub fn heading_of(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// Adds a row.
    pub fn row<const N: usize>(&mut self, cells: [&str; N]) {
        self.row_of(cells.map(str::to_string).to_vec());
    }

    /// Adds a row of any number of cells.
    pub fn row_of(&mut self, mut cells: Vec<String>) {
        if let Some(first) = cells.first_mut() {
            first.insert_str(0, INDENT);
        }
        self.rows.push(cells);
    }

    /// Adds an empty line.
    pub fn space(&mut self) {
        self.rows.push(Vec::new());
    }

    /// Puts the table into lines.
    pub fn lines(&self) -> Vec<String> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let line = |row: &Vec<String>| {
            let cells = row
                .iter()
                .zip(&widths)
                .map(|(cell, &width)| format!("{cell:<width$}{GAP}"));
            cells.collect::<String>().trim_end().to_string()
        };
        self.rows.iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Table;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new();
        table.heading(["what", "why"]);
        table.row(["a", "bb", "c"]);
        table.space();
        table.row(["→→→", "b", "cc"]);
        let lines = ["what   why", "  a    bb   c", "", "  →→→  b    cc"];
        assert_eq!(table.lines(), lines);
    }

    #[test]
    fn nothing_gives_no_lines() {
        assert!(Table::new().lines().is_empty());
    }
}
