//! Colours: which there are, and whether they are used.

use anstyle::{AnsiColor, Color, RgbColor, Style};

/// Styles by meaning. Without colour all are empty.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Palette {
    /// A step that ended well.
    pub(crate) run: Style,
    /// A step that was stopped.
    pub(crate) cancel: Style,
    /// Warnings.
    pub(crate) warning: Style,
    /// A step that failed, and the word before an error message.
    pub(crate) error: Style,
    /// Remarks that may be overlooked.
    pub(crate) dim: Style,
    /// Headings.
    pub(crate) strong: Style,
}

impl Palette {
    /// The usual colours, changed by a setting such as `run=green:error=200,0,0`.
    ///
    /// Returns the parts of the setting that mean nothing as well.
    pub(crate) fn coloured(setting: Option<&str>) -> (Palette, Vec<String>) {
        let colour = |colour: AnsiColor| Style::new().fg_color(Some(colour.into()));
        let mut palette = Palette {
            run: colour(AnsiColor::Blue),
            cancel: colour(AnsiColor::Yellow),
            warning: colour(AnsiColor::Yellow),
            error: colour(AnsiColor::Red),
            dim: Style::new().dimmed(),
            strong: Style::new().bold(),
        };
        let mut unknown = Vec::new();
        for part in setting
            .unwrap_or_default()
            .split(':')
            .filter(|part| !part.is_empty())
        {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let field = match name.to_ascii_lowercase().as_str() {
                "run" => &mut palette.run,
                "cancel" => &mut palette.cancel,
                "warning" => &mut palette.warning,
                "error" => &mut palette.error,
                _ => {
                    unknown.push(part.to_owned());
                    continue;
                }
            };
            match parse_colour(value) {
                Some(colour) => *field = Style::new().fg_color(Some(colour)),
                None => unknown.push(part.to_owned()),
            }
        }
        (palette, unknown)
    }
}

fn parse_colour(text: &str) -> Option<Color> {
    let named = match text.to_ascii_lowercase().as_str() {
        "black" => AnsiColor::Black,
        "blue" => AnsiColor::Blue,
        "cyan" => AnsiColor::Cyan,
        "green" => AnsiColor::Green,
        "magenta" => AnsiColor::Magenta,
        "red" => AnsiColor::Red,
        "white" => AnsiColor::White,
        "yellow" => AnsiColor::Yellow,
        _ => {
            let mut parts = text.split(',').map(|part| part.trim().parse::<u8>().ok());
            let rgb = RgbColor(parts.next()??, parts.next()??, parts.next()??);
            return parts.next().is_none().then_some(Color::Rgb(rgb));
        }
    };
    Some(Color::Ansi(named))
}

/// Returns `text` between the codes of a style; unchanged if the style is empty.
pub(crate) fn paint(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_change_single_colours() {
        let (palette, unknown) = Palette::coloured(Some("run=green:error=1,2,3:x=red:cancel=pink"));
        assert_eq!(
            palette.run,
            Style::new().fg_color(Some(AnsiColor::Green.into()))
        );
        assert_eq!(
            palette.error,
            Style::new().fg_color(Some(Color::Rgb(RgbColor(1, 2, 3))))
        );
        assert_eq!(palette.cancel, Palette::coloured(None).0.cancel);
        assert_eq!(unknown, ["x=red", "cancel=pink"]);
    }

    #[test]
    fn without_colour_text_stays_plain() {
        assert_eq!(paint(Palette::default().error, "x"), "x");
        assert_eq!(
            paint(Palette::coloured(None).0.error, "x"),
            "\u{1b}[31mx\u{1b}[0m"
        );
    }
}
