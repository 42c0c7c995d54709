//! Text in HTML and SVG.

/// Makes text safe between tags and in quoted attributes; control characters become visible.
pub(crate) fn escaped(text: &str) -> String {
    super::control::visible(text)
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
}
