//! Columns of text, laid out as Docker lays them out.

use unicode_width::UnicodeWidthStr;

/// Narrowest column of a list, and the blanks between two columns.
const MIN_WIDTH: usize = 10;
const GAP: usize = 3;

/// Lays out lines whose cells are separated by tabs; the last cell of a line is not padded.
pub(crate) fn columns<'a>(lines: impl IntoIterator<Item = &'a str>) -> String {
    columns_apart(lines, MIN_WIDTH, GAP)
}

/// As [`columns`], with `gap` blanks between columns, none of which is narrower than `narrowest`.
pub(crate) fn columns_apart<'a>(
    lines: impl IntoIterator<Item = &'a str>,
    narrowest: usize,
    gap: usize,
) -> String {
    let rows: Vec<Vec<&str>> = lines
        .into_iter()
        .map(|line| line.split('\t').collect())
        .collect();
    let mut widths: Vec<usize> = Vec::new();
    for row in &rows {
        for (column, cell) in row.iter().take(row.len() - 1).enumerate() {
            let width = (cell.width() + gap).max(narrowest);
            match widths.get_mut(column) {
                Some(widest) => *widest = width.max(*widest),
                None => widths.push(width),
            }
        }
    }
    let mut text = String::new();
    for row in &rows {
        for (column, cell) in row.iter().enumerate() {
            text.push_str(cell);
            if column + 1 < row.len() {
                text.extend(std::iter::repeat_n(
                    ' ',
                    widths[column].saturating_sub(cell.width()),
                ));
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrow_columns_stay_narrow() {
        assert_eq!(columns_apart(["A\tB", "aa\t"], 0, 1), "A  B\naa \n");
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let text = columns([
            "REPOSITORY\tTAG\tIMAGE ID\tCREATED\tSIZE",
            "alpine\tlatest\ta24bb4013296\t2 months ago\t5.57MB",
            "größe\t<none>\ta24bb4013297\t3 days ago\t12.3MB",
        ]);
        assert_eq!(
            text,
            "REPOSITORY   TAG       IMAGE ID       CREATED        SIZE\n\
             alpine       latest    a24bb4013296   2 months ago   5.57MB\n\
             größe        <none>    a24bb4013297   3 days ago     12.3MB\n"
        );
    }
}
