//! Printing of figures.

/// Columns wide enough for their longest cell; the first to the left.
pub(crate) fn print(head: &[&str], rows: &[Vec<String>]) {
    let cells = || rows.iter().map(|row| row.iter().map(String::as_str).collect::<Vec<_>>());
    let all: Vec<Vec<&str>> = std::iter::once(head.to_vec()).chain(cells()).collect();
    let width = |column: usize| all.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    for (index, row) in all.iter().enumerate() {
        line(row, &widths);
        if index == 0 {
            let dashes: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
            line(&dashes.iter().map(String::as_str).collect::<Vec<_>>(), &widths);
        }
    }
    println!();
}

fn line(cells: &[&str], widths: &[usize]) {
    let mut text = String::from("|");
    for (column, (cell, width)) in cells.iter().zip(widths).enumerate() {
        let gap = " ".repeat(width - cell.chars().count());
        text += &if column == 0 { format!(" {cell}{gap} |") } else { format!(" {gap}{cell} |") };
    }
    println!("{text}");
}

/// A figure to `digits` decimals, or a dash when there is none.
pub(crate) fn figure(value: f64, digits: usize) -> String {
    if value.is_nan() { "-".to_owned() } else { format!("{value:.digits$}") }
}
