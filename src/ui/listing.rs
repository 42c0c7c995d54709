//! Lists of things in Docker's ways: a table, a template for each row, JSON lines.

use crate::failure::Failure;
use crate::format::{Method, Template, Value};

use super::table::columns;

/// How a list is shown.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Listing<'a> {
    /// Placeholder and column title, in the order of the fields of each row.
    pub(crate) headers: &'a [(&'static str, &'a str)],
    /// Template of the table that is shown without `--format`, fields separated by tabs.
    pub(crate) table: &'a str,
    /// `--format`.
    pub(crate) format: Option<&'a str>,
}

impl Listing<'_> {
    /// Makes the text of the list. Each row is a [`Value::Struct`] with the fields of the headers.
    pub(crate) fn render(&self, rows: &[Value]) -> Result<String, Failure> {
        let (table, template) = match self.format {
            None | Some("" | "table") => (true, self.table.to_owned()),
            Some("json") => return Ok(json_lines(rows)),
            Some(format) => match format.strip_prefix("table ") {
                Some(template) => (true, unescape(template)),
                None => (false, unescape(format)),
            },
        };
        let template = Template::parse(&template)?;
        let mut lines = Vec::with_capacity(rows.len() + 1);
        if table {
            let titles = self.headers.iter();
            let titles = titles.map(|(field, title)| (*field, Value::from(*title)));
            let label = ("Label", Value::Method(Method::LabelTitle));
            let names: Vec<(&'static str, Value)> = titles.chain([label]).collect();
            lines.push(template.render_header(&Value::Struct(names))?);
        }
        for row in rows {
            lines.push(template.render(row)?);
        }
        if table {
            return Ok(columns(lines.iter().map(String::as_str)));
        }
        lines.push(String::new());
        Ok(lines.join("\n"))
    }
}

/// A shell does not make tabs and line feeds of `\t` and `\n`; Docker does.
fn unescape(template: &str) -> String {
    template.trim().replace("\\t", "\t").replace("\\n", "\n")
}

/// One compact object a line, keys sorted.
fn json_lines(rows: &[Value]) -> String {
    rows.iter()
        .map(|row| match row {
            Value::Struct(fields) => {
                let sorted = fields
                    .iter()
                    .filter(|(_, value)| !matches!(value, Value::Method(_)))
                    .map(|(name, value)| ((*name).to_owned(), value.clone()));
                Value::Map(sorted.collect()).to_json()
            }
            other => other.to_json(),
        })
        .map(|line| line + "\n")
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(format: Option<&str>) -> String {
        let listing = Listing {
            headers: &[("Repository", "REPOSITORY"), ("ID", "IMAGE ID")],
            table: "{{.Repository}}\t{{.ID}}",
            format,
        };
        let row = |name: &str, id: &str| {
            Value::Struct(vec![("Repository", name.into()), ("ID", id.into())])
        };
        listing
            .render(&[row("alpine", "123"), row("a-long-repository", "4")])
            .unwrap()
    }

    #[test]
    fn lists_have_docker_s_three_forms() {
        assert_eq!(
            render(None),
            "REPOSITORY          IMAGE ID\nalpine              123\na-long-repository   4\n"
        );
        assert_eq!(
            render(Some("table {{.ID}}\\t{{upper .Repository}}")),
            "IMAGE ID   REPOSITORY\n123        ALPINE\n4          A-LONG-REPOSITORY\n"
        );
        assert_eq!(
            render(Some("{{.ID}}:{{.Repository}}")),
            "123:alpine\n4:a-long-repository\n"
        );
        assert_eq!(
            render(Some("json")),
            "{\"ID\":\"123\",\"Repository\":\"alpine\"}\n\
             {\"ID\":\"4\",\"Repository\":\"a-long-repository\"}\n"
        );
    }
}
