//! Tables for people, in the look Headscale's users grep and awk: ` | ` between columns, one header row, no frame.

use comfy_table::{CellAlignment, ColumnConstraint, Table as Frame, TableComponent, Width, presets};
use state_machine::Timestamp;

/// Stands for a line break that is meant; host names cannot hold it.
const NEXT_LINE: char = '\0';

/// Several values in one cell, a line each, as Headscale shows them.
pub fn lines(values: &[String]) -> String {
    values.iter().map(|value| value.replace(NEXT_LINE, "")).collect::<Vec<_>>().join("\0")
}

/// A header and rows.
pub struct Table {
    header: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub fn new<const N: usize>(header: [&'static str; N]) -> Table {
        Table { header: header.to_vec(), rows: Vec::new() }
    }

    /// Adds a row; as many cells as the header has.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        assert_eq!(N, self.header.len(), "every row fills every column");
        // A line break from a host name must not look like another row.
        self.rows.push(
            cells.into_iter().map(|cell| cell.replace(['\n', '\r', '\t'], " ").replace(NEXT_LINE, "\n")).collect(),
        );
    }

    /// The text, with a line break at its end.
    pub fn render(&self) -> String {
        self.page(&mut Vec::new())
    }

    /// The text of one page. `widths` are those of the pages before, without any: this is the first, and has the header.
    pub fn page(&self, widths: &mut Vec<u16>) -> String {
        let mut frame = Frame::new();
        frame.load_preset(presets::NOTHING).set_style(TableComponent::VerticalLines, '|');
        if widths.is_empty() {
            frame.set_header(&self.header);
        } else if self.rows.is_empty() {
            return String::new();
        }
        frame.add_rows(&self.rows);
        for (index, column) in frame.column_iter_mut().enumerate() {
            let padding = (u16::from(index > 0), 1);
            column.set_padding(padding).set_cell_alignment(CellAlignment::Left);
            if let Some(width) = widths.get(index) {
                column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(width + padding.0 + padding.1)));
            }
        }
        let wide = frame.column_max_content_widths();
        widths.resize(wide.len(), 0);
        for (width, wide) in widths.iter_mut().zip(wide) {
            *width = wide.max(*width);
        }
        let lines: Vec<String> = frame.lines().map(|line| line.trim_end().to_owned()).collect();
        lines.join("\n") + "\n"
    }
}

/// A moment as tables show it: UTC without saying so, to the second.
pub fn moment(moment: Option<Timestamp>) -> Option<String> {
    let moment = moment?;
    let text = Timestamp(moment.0 / 1000 * 1000).to_string();
    Some(text.trim_end_matches('Z').replace('T', " "))
}

/// A span as people say it: `41ms`, `12s`, `3d04h`.
pub fn span(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    match seconds {
        0 => format!("{milliseconds}ms"),
        1..60 => format!("{seconds}s"),
        60..3600 if seconds.is_multiple_of(60) => format!("{}m", seconds / 60),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(["ID", "Name", "Email"]);
        table.row(["1".into(), "alice".into(), String::new()]);
        table.row(["12".into(), "a\nb".into(), "b@example.com".into()]);
        assert_eq!(
            table.render(),
            "ID | Name  | Email\n\
             1  | alice |\n\
             12 | a b   | b@example.com\n"
        );
        let mut table = Table::new(["ID", "Addresses"]);
        table.row(["1".into(), lines(&["10.0.0.1".into(), "::1".into()])]);
        assert_eq!(table.render(), "ID | Addresses\n1  | 10.0.0.1\n   | ::1\n");
        assert_eq!(Table::new(["ID", "Name"]).render(), "ID | Name\n");
    }

    #[test]
    fn pages_stand_below_each_other() {
        let mut widths = Vec::new();
        let page = |names: &[&str], widths: &mut Vec<u16>| {
            let mut table = Table::new(["ID", "Name", "Email"]);
            names.iter().for_each(|name| table.row(["1".into(), (*name).into(), "x".into()]));
            table.page(widths)
        };
        assert_eq!(page(&["alice"], &mut widths), "ID | Name  | Email\n1  | alice | x\n");
        assert_eq!(page(&["bo", "sybil"], &mut widths), "1  | bo    | x\n1  | sybil | x\n");
        assert_eq!(page(&["charlie"], &mut widths), "1  | charlie | x\n");
        assert_eq!(page(&["bo"], &mut widths), "1  | bo      | x\n");
        assert_eq!(page(&[], &mut widths), "");
    }

    #[test]
    fn times() {
        assert_eq!(moment(Some(Timestamp(1_700_000_000_123))).unwrap(), "2023-11-14 22:13:20");
        assert_eq!(moment(None), None);
        for (ms, text) in [
            (41, "41ms"),
            (12_345, "12s"),
            (61_000, "1m01s"),
            (900_000, "15m"),
            (7_260_000, "2h01m"),
            (270_000_000, "3d03h"),
        ] {
            assert_eq!(span(ms), text);
        }
    }
}
