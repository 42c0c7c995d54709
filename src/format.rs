//! `--format`: Go templates over typed data, with Docker's functions.
//!
//! Covers what list and inspect formats are written in: fields, pipelines, variables, `if`, `with`,
//! `range`, Go's comparison and print functions, and Docker's `json`, `join`, `split`, `lower`,
//! `upper`, `title`, `pad` and `truncate`. `define`, `template` and `block` are refused.

mod eval;
mod functions;
mod lexer;
mod parser;
mod printf;
mod value;

use std::fmt;

pub(crate) use value::{Method, NilKind, Value};

/// A parsed template.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    source: String,
    nodes: Vec<parser::Node>,
}

/// What is wrong with a template, or with its use of the data.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) struct TemplateError {
    /// Line in the template, from 1.
    line: usize,
    /// Column in characters, from 1.
    column: usize,
    message: String,
}

impl TemplateError {
    fn at(source: &str, offset: usize, message: impl Into<String>) -> TemplateError {
        let before = source.get(..offset).unwrap_or(source);
        let start_of_line = before.rfind('\n').map_or(0, |at| at + 1);
        TemplateError {
            line: before.matches('\n').count() + 1,
            column: before[start_of_line..].chars().count() + 1,
            message: message.into(),
        }
    }
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "template parsing error: template: {}:{}: {}",
            self.line, self.column, self.message
        )
    }
}

impl Template {
    /// Parses a template.
    pub(crate) fn parse(source: &str) -> Result<Template, TemplateError> {
        let nodes = parser::parse(source)?;
        Ok(Template {
            source: source.to_owned(),
            nodes,
        })
    }

    /// Executes the template on `data`.
    pub(crate) fn render(&self, data: &Value) -> Result<String, TemplateError> {
        eval::run(&self.source, &self.nodes, data, false)
    }

    /// Executes the template on column names: functions that shape a text leave them as they are.
    pub(crate) fn render_header(&self, names: &Value) -> Result<String, TemplateError> {
        eval::run(&self.source, &self.nodes, names, true)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn render(template: &str, data: serde_json::Value) -> String {
        match Template::parse(template).and_then(|template| template.render(&Value::from(data))) {
            Ok(text) => text,
            Err(error) => error.to_string(),
        }
    }

    fn check(data: &serde_json::Value, cases: &[(&str, &str)]) {
        for (template, want) in cases {
            assert_eq!(render(template, data.clone()), *want, "{template}");
        }
    }

    #[test]
    fn text_fields_and_pipelines() {
        check(
            &json!({"A": "x", "B": {"C": [1, 2]}, "M": {"k": "v"}, "N": null}),
            &[
                ("plain", "plain"),
                ("{{.A}}-{{ .B.C }}", "x-[1 2]"),
                (
                    "{{json .}}",
                    r#"{"A":"x","B":{"C":[1,2]},"M":{"k":"v"},"N":null}"#,
                ),
                ("{{.B}}", "map[C:[1 2]]"),
                ("{{.missing}}", "<no value>"),
                ("{{.missing.deeper}}", "<no value>"),
                ("{{.A | upper | printf \"%s!\"}}", "X!"),
                ("{{index .B.C 1}} {{index .M \"k\"}}", "2 v"),
                ("{{(index .B.C 0)}}{{len .B.C}}{{len .A}}", "121"),
                ("{{.N}}", "<nil>"),
                ("a {{- .A -}} b", "axb"),
                ("a {{/* note */}}b{{- /* n */ -}} c", "a bc"),
                ("{{\"q\\\"\\t\"}}{{`r\\`}}", "q\"\tr\\"),
                ("{{3}} {{-3}} {{0x10}} {{1.5}} {{'a'}}", "3 -3 16 1.5 97"),
            ],
        );
    }

    #[test]
    fn branches_and_loops() {
        check(
            &json!({"L": ["a", "b"], "E": [], "T": true, "F": false, "M": {"y": 2, "x": 1}, "S": ""}),
            &[
                ("{{if .T}}1{{else}}2{{end}}", "1"),
                ("{{if .F}}1{{else if .T}}2{{else}}3{{end}}", "2"),
                ("{{if .S}}1{{end}}", ""),
                ("{{range .L}}<{{.}}>{{end}}", "<a><b>"),
                ("{{range .E}}x{{else}}none{{end}}", "none"),
                ("{{range $i, $v := .L}}{{$i}}={{$v}};{{end}}", "0=a;1=b;"),
                ("{{range $v := .L}}{{$v}}{{end}}", "ab"),
                ("{{range $k, $v := .M}}{{$k}}{{$v}}{{end}}", "x1y2"),
                (
                    "{{range .L}}{{if eq . \"b\"}}{{break}}{{end}}{{.}}{{end}}",
                    "a",
                ),
                (
                    "{{range .L}}{{if eq . \"a\"}}{{continue}}{{end}}{{.}}{{end}}",
                    "b",
                ),
                ("{{with .M}}{{.x}}{{$.T}}{{end}}", "1true"),
                ("{{with .E}}x{{else}}y{{end}}", "y"),
                ("{{$x := 1}}{{range .L}}{{$x = 2}}{{end}}{{$x}}", "2"),
                ("{{with $x := .T}}{{$x}}{{end}}", "true"),
                ("{{range 3}}{{.}}{{end}}", "012"),
            ],
        );
    }

    #[test]
    fn functions() {
        check(
            &json!({"L": ["a", "b"], "A": "Hello world", "N": 3, "F": 2.5, "M": {"k": [7]}}),
            &[
                ("{{join .L \",\"}}", "a,b"),
                ("{{range split \"a-b\" \"-\"}}<{{.}}>{{end}}", "<a><b>"),
                (
                    "{{lower .A}} {{upper .A}} {{title \"ab cd\"}}",
                    "hello world HELLO WORLD Ab Cd",
                ),
                ("{{truncate .A 4}}|{{truncate \"a\" 4}}", "Hell|a"),
                ("[{{pad \"x\" 1 2}}]", "[ x  ]"),
                ("{{println .N}}", "3\n"),
                ("{{print 1 2 \"a\" \"b\" 3}}", "1 2ab3"),
                (
                    "{{printf \"%d %5s|%-5s|%05d %q %v %t %x %.2f %%\" 7 \"a\" \"b\" 42 \"q\" .L true 255 .F}}",
                    "7     a|b    |00042 \"q\" [a b] true ff 2.50 %",
                ),
                (
                    "{{eq .N 3}} {{ne .N 3}} {{lt .N 4}} {{ge .F 2.5}} {{eq .N 1 2 3}}",
                    "true false true true true",
                ),
                (
                    "{{and true .A}} {{or false \"z\"}} {{not .A}}",
                    "Hello world z false",
                ),
                ("{{and false (index .L 9)}}", "false"),
                ("{{index .M \"k\" 0}} {{index .M \"none\"}}", "7 <no value>"),
                ("{{slice .A 1 3}} {{slice .L 1}}", "el [b]"),
                ("{{html \"<a>\"}} {{urlquery \"a b\"}}", "&lt;a&gt; a+b"),
            ],
        );
    }

    #[test]
    fn errors_name_the_place_and_the_reason() {
        check(
            &json!({"A": "x", "L": [1]}),
            &[
                (
                    "{{",
                    "template parsing error: template: 1:3: unclosed action",
                ),
                (
                    "{{.A",
                    "template parsing error: template: 1:3: unclosed action",
                ),
                (
                    "{{nope .A}}",
                    "template parsing error: template: 1:3: function \"nope\" not defined",
                ),
                (
                    "{{if .A}}",
                    "template parsing error: template: 1:8: unexpected EOF",
                ),
                (
                    "{{end}}",
                    "template parsing error: template: 1:6: unexpected {{end}}",
                ),
                (
                    "{{$x}}",
                    "template parsing error: template: 1:3: undefined variable \"$x\"",
                ),
                (
                    "a\n{{.A.B}}",
                    "template parsing error: template: 2:3: can't evaluate field B in type string",
                ),
                (
                    "{{index .L 5}}",
                    "template parsing error: template: 1:3: error calling index: index out of range: 5",
                ),
                (
                    "{{join .A}}",
                    "template parsing error: template: 1:3: wrong number of args for join: want 2 got 1",
                ),
                (
                    "{{break}}",
                    "template parsing error: template: 1:3: {{break}} outside {{range}}",
                ),
            ],
        );
    }

    #[test]
    fn unknown_fields_of_a_struct_are_errors() {
        let data = Value::Struct(vec![("ID", "abc".into())]);
        let template = Template::parse("{{.Id}}").unwrap();
        let error = template.render(&data).unwrap_err().to_string();
        assert!(error.contains("can't evaluate field Id"), "{error}");
    }

    #[test]
    fn headers_pass_through_functions() {
        let names = Value::Struct(vec![("ID", "IMAGE ID".into()), ("Tag", "TAG".into())]);
        let template = Template::parse("{{lower .ID}}\t{{json .Tag}}\t{{truncate .ID 3}}").unwrap();
        assert_eq!(
            template.render_header(&names).unwrap(),
            "IMAGE ID\tTAG\tIMAGE ID"
        );
    }

    #[test]
    fn nesting_is_bounded() {
        let deep = format!("{{{{{}1{}}}}}", "(".repeat(5000), ")".repeat(5000));
        assert!(Template::parse(&deep).is_err());
        let blocks = format!("{}{}", "{{if true}}".repeat(5000), "{{end}}".repeat(5000));
        assert!(Template::parse(&blocks).is_err());
    }
}
