//! The timeline as a page that needs nothing but a browser.

use std::fmt::Write as _;

use super::{Item, Timeline};
use crate::ui::explanation::seconds;
use crate::ui::markup::escaped;
use crate::ui::units;

/// Style and behaviour of the page; everything is inside, so that it can be sent around.
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Lines of the scale, at most.
const TICKS: u64 = 10;

impl Timeline<'_> {
    /// The whole page.
    pub(crate) fn html(&self) -> String {
        let title = match self.report.names.first() {
            Some(name) => format!("{} · {name}", self.report.dockerfile),
            None => self.report.dockerfile.clone(),
        };
        let title = escaped(&title);
        let mut text = format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
             <h1>{title}</h1>\n<p class=\"summary\">{}</p>\n<p class=\"small\">{} {}</p>\n",
            escaped(&self.summary()),
            escaped(&self.report.started),
            escaped(self.report.id.as_deref().unwrap_or_default()),
        );
        if let Some(error) = &self.report.error {
            let _ = writeln!(text, "<p class=\"error\">{}</p>", escaped(error));
        }
        self.advice_list(&mut text);
        text.push_str(
            "<p class=\"legend\"><span class=\"ran\">run</span><span class=\"hit\">from the \
             cache</span><span class=\"transfer\">transfer</span><span class=\"failed\">failed</span>\
             <span class=\"key\">critical path</span>\
             <label><input type=\"checkbox\" id=\"only\"> only the critical path</label></p>\n",
        );
        self.chart(&mut text);
        let _ = write!(text, "<script>\n{SCRIPT}</script>\n</body>\n</html>\n");
        text
    }

    fn advice_list(&self, text: &mut String) {
        let advice = self.advice();
        if advice.is_empty() {
            return;
        }
        text.push_str("<h2>What to move to gain most</h2>\n<ol class=\"advice\">\n");
        for advice in advice {
            let _ = writeln!(
                text,
                "<li><b>{}</b> {}</li>",
                seconds(advice.gain_ms),
                escaped(&advice.text)
            );
        }
        text.push_str("</ol>\n");
    }

    /// One row an item, in order of time; then the lanes, which show what ran at once.
    fn chart(&self, text: &mut String) {
        text.push_str("<h2>Steps</h2>\n<div class=\"chart\" id=\"steps\">\n");
        self.scale(text);
        for item in &self.items {
            let critical = if item.critical { " critical" } else { "" };
            let _ = writeln!(
                text,
                "<div class=\"row{critical}\"><div class=\"name\" title=\"{}\">{}</div>\
                 <div class=\"track\">{}</div><div class=\"time\">{}</div></div>",
                escaped(item.name),
                escaped(item.name),
                self.bar(item, "bar"),
                seconds(item.length())
            );
        }
        text.push_str("</div>\n<h2>At once</h2>\n<div class=\"chart\" id=\"lanes\">\n");
        for lane in 0..self.lanes {
            let bars: String = self
                .items
                .iter()
                .filter(|item| item.lane == lane)
                .map(|item| self.bar(item, "piece"))
                .collect();
            let _ = writeln!(
                text,
                "<div class=\"row\"><div class=\"name\">lane {}</div><div class=\"track\">{bars}</div>\
                 <div class=\"time\"></div></div>",
                lane + 1
            );
        }
        text.push_str("</div>\n");
    }

    fn scale(&self, text: &mut String) {
        let total = self.total();
        let step = step(total);
        text.push_str("<div class=\"row scale\"><div class=\"name\"></div><div class=\"track\">");
        let mut at = 0;
        while at <= total {
            let _ = write!(
                text,
                "<span style=\"left:{:.3}%\">{}</span>",
                percent(at, total),
                seconds(at)
            );
            at += step;
        }
        text.push_str("</div><div class=\"time\"></div></div>\n");
    }

    fn bar(&self, item: &Item<'_>, class: &str) -> String {
        let total = self.total();
        let mut title = format!(
            "{}\n{} to {} ({})",
            item.name,
            seconds(item.begin),
            seconds(item.end),
            item.word()
        );
        if let Some(step) = item.step {
            if let Some(reason) = &step.reason {
                let _ = write!(title, "\nmiss: {reason}");
            }
            if let Some(size) = step.size {
                let _ = write!(title, "\nlayer: {}", units::size(size));
            }
            if let Some(cpu) = step.cpu_ms {
                let _ = write!(title, "\nprocessor time: {}", seconds(cpu));
            }
            if let Some(line) = step.line {
                let _ = write!(title, "\nline {line}");
            }
        }
        let critical = if item.critical { " critical" } else { "" };
        // Line ends stay: a title may have several lines.
        let title: Vec<String> = title.lines().map(escaped).collect();
        format!(
            "<div class=\"{class} {}{critical}\" style=\"left:{:.3}%;width:{:.3}%\" title=\"{}\"></div>",
            item.word(),
            percent(item.begin, total),
            percent(item.length(), total),
            title.join("&#10;")
        )
    }
}

#[expect(clippy::cast_precision_loss, reason = "it is drawn in pixels")]
fn percent(part: u64, total: u64) -> f64 {
    part as f64 * 100.0 / total as f64
}

/// Milliseconds between two lines of the scale: 1, 2 or 5 times a power of ten.
fn step(total: u64) -> u64 {
    let mut step = 1;
    loop {
        for factor in [1, 2, 5] {
            if total / (step * factor) <= TICKS {
                return step * factor;
            }
        }
        step *= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::step;

    #[test]
    fn the_scale_has_round_steps() {
        assert_eq!(step(1), 1);
        assert_eq!(step(950), 100);
        assert_eq!(step(31_000), 5000);
        assert_eq!(step(3_600_000), 500_000);
    }
}
