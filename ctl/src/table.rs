//! Aligned tables without borders.

use comfy_table::presets::NOTHING;
use comfy_table::{Cell, CellAlignment, ColumnConstraint, ContentArrangement, Row};

use crate::text::one_line;

/// Cells of a terminal's table are never made narrower than this to fit.
const NARROWEST: u16 = 8;

/// A column: its heading, and how its cells are laid out.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    heading: &'static str,
    right: bool,
    flexible: bool,
}

impl Column {
    /// A column of words, shown whole.
    pub const fn words(heading: &'static str) -> Self {
        Self {
            heading,
            right: false,
            flexible: false,
        }
    }

    /// A column of numbers: aligned to the right.
    pub const fn number(heading: &'static str) -> Self {
        Self {
            heading,
            right: true,
            flexible: false,
        }
    }

    /// A column of long texts: cut where a terminal is too narrow.
    pub const fn long(heading: &'static str) -> Self {
        Self {
            heading,
            right: false,
            flexible: true,
        }
    }
}

/// A table. Cells may hold any text: it is made harmless.
#[derive(Clone, Debug)]
pub struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub fn new(columns: impl Into<Vec<Column>>) -> Self {
        Self {
            columns: columns.into(),
            rows: Vec::new(),
        }
    }

    /// A table of two columns without headings that shows one thing, a property a line.
    pub fn properties(rows: Vec<(&'static str, String)>) -> Self {
        let rows = rows
            .into_iter()
            .map(|(name, value)| vec![name.to_owned(), value])
            .collect();
        Self {
            columns: vec![Column::words(""), Column::words("")],
            rows,
        }
    }

    /// Adds a row: a cell for each column.
    pub fn row(&mut self, cells: impl Into<Vec<String>>) {
        self.rows.push(cells.into());
    }

    /// The table as text: a line for each row, none longer than the terminal is wide.
    pub fn render(&self, terminal: bool, header: bool) -> String {
        self.render_within(terminal.then(terminal_width).flatten(), header)
    }

    fn render_within(&self, width: Option<u16>, header: bool) -> String {
        let mut table = comfy_table::Table::new();
        table
            .load_preset(NOTHING)
            .set_truncation_indicator("…")
            .force_no_tty();
        match width {
            Some(width) => table
                .set_content_arrangement(ContentArrangement::Dynamic)
                .set_width(width),
            None => table.set_content_arrangement(ContentArrangement::Disabled),
        };
        let headings = self.columns.iter().any(|column| !column.heading.is_empty());
        if header && headings {
            let mut row = Row::from(self.columns.iter().map(|column| Cell::new(column.heading)));
            row.max_height(1);
            table.set_header(row);
        }
        for cells in &self.rows {
            let mut row = Row::from(cells.iter().map(|cell| Cell::new(one_line(cell))));
            row.max_height(1);
            table.add_row(row);
        }
        let last = self.columns.len().saturating_sub(1);
        for (number, (column, shape)) in table.column_iter_mut().zip(&self.columns).enumerate() {
            column.set_padding((0, if number == last { 0 } else { 2 }));
            // cells are cut anywhere, not between words
            column.set_delimiter('\u{0}');
            if shape.right {
                column.set_cell_alignment(CellAlignment::Right);
            }
            column.set_constraint(if shape.flexible {
                ColumnConstraint::LowerBoundary(comfy_table::Width::Fixed(NARROWEST))
            } else {
                ColumnConstraint::ContentWidth
            });
        }
        if self.rows.is_empty() && table.header().is_none() {
            return String::new();
        }
        let lines: Vec<String> = table
            .lines()
            .map(|line| line.trim_end().to_owned())
            .collect();
        lines.join("\n") + "\n"
    }
}

fn terminal_width() -> Option<u16> {
    comfy_table::Table::new().width()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Table {
        let mut table = Table::new([
            Column::number("ID"),
            Column::words("STATUS"),
            Column::long("COMMAND"),
        ]);
        table.row([
            "7".to_owned(),
            "running".to_owned(),
            "sort -k1,1 a-long-file-name.txt another.txt".to_owned(),
        ]);
        table.row([
            "1234".to_owned(),
            "failed".to_owned(),
            "a\u{1b}[2J\nb".to_owned(),
        ]);
        table
    }

    #[test]
    fn columns_are_aligned_and_cells_harmless() {
        let expected = "  ID  STATUS   COMMAND\n   7  running  sort -k1,1 a-long-file-name.txt another.txt\n1234  failed   a^[[2J\\nb\n";
        assert_eq!(sample().render_within(None, true), expected);
        assert!(sample().render_within(None, false).starts_with("   7"));
    }

    #[test]
    fn on_a_terminal_only_long_texts_are_cut() {
        let shown = sample().render_within(Some(36), true);
        for line in shown.lines() {
            assert!(line.chars().count() <= 36, "{shown}");
        }
        assert_eq!(shown.lines().count(), 3, "{shown}");
        assert!(shown.contains("1234  failed   a^[[2J"), "{shown}");
        assert!(shown.contains("…") && shown.contains("sort"), "{shown}");
        let narrow = sample().render_within(Some(25), true);
        assert_eq!(narrow.lines().count(), 3, "{narrow}");
    }

    #[test]
    fn properties_have_no_headings_and_are_never_cut() {
        let table = Table::properties(vec![("command", "x".repeat(100)), ("id", "1".to_owned())]);
        let expected = format!("command  {}\nid       1\n", "x".repeat(100));
        assert_eq!(table.render_within(Some(40), true), expected);
    }
}
