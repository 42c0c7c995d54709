//! Bars for bytes that move.

/// A bar of `width` columns, brackets included: `[=====>    ]`.
pub(crate) fn bar(current: u64, total: u64, width: usize) -> String {
    let room = width.saturating_sub(2);
    let full = u128::from(current.min(total)) * room as u128;
    let full = full
        .checked_div(u128::from(total))
        .map_or(0, |full| full as usize);
    let mut text = String::with_capacity(width);
    text.push('[');
    for at in 0..room {
        text.push(match () {
            () if at < full => '=',
            () if at == full => '>',
            () => ' ',
        });
    }
    text.push(']');
    text
}

/// The width of a bar on a terminal of `columns`; none where there is no room for one.
pub(crate) fn width(columns: usize) -> Option<usize> {
    match columns {
        ..60 => None,
        60..100 => Some(12),
        _ => Some(30),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_fill_from_the_left() {
        assert_eq!(bar(0, 10, 7), "[>    ]");
        assert_eq!(bar(4, 10, 7), "[==>  ]");
        assert_eq!(bar(10, 10, 7), "[=====]");
        assert_eq!(bar(99, 10, 7), "[=====]");
        assert_eq!(bar(1, 0, 7), "[>    ]");
    }
}
