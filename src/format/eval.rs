//! Executes a parsed template.

use super::TemplateError;
use super::functions::{self, Call};
use super::parser::{Node, Operand, OperandKind, Pipeline};
use super::value::{NilKind, Value};

/// What there is where nothing is.
static MISSING: Value = Value::Nil(NilKind::Missing);

/// Executes `nodes` with `.` and `$` being `data`.
pub(super) fn run(
    source: &str,
    nodes: &[Node],
    data: &Value,
    header: bool,
) -> Result<String, TemplateError> {
    let variables = vec![(String::new(), data.clone())];
    let mut state = State {
        source,
        header,
        variables,
        output: String::new(),
    };
    state.nodes(nodes, data)?;
    Ok(state.output)
}

/// Whether a list of nodes ran to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Next,
    Break,
    Continue,
}

struct State<'a> {
    source: &'a str,
    /// Executing on column names instead of data.
    header: bool,
    /// Innermost last; `$` is the empty name.
    variables: Vec<(String, Value)>,
    output: String,
}

impl State<'_> {
    fn error(&self, offset: usize, message: impl Into<String>) -> TemplateError {
        TemplateError::at(self.source, offset, message)
    }

    fn nodes(&mut self, nodes: &[Node], dot: &Value) -> Result<Flow, TemplateError> {
        let scope = self.variables.len();
        let mut flow = Flow::Next;
        for node in nodes {
            flow = self.node(node, dot)?;
            if flow != Flow::Next {
                break;
            }
        }
        self.variables.truncate(scope);
        Ok(flow)
    }

    fn node(&mut self, node: &Node, dot: &Value) -> Result<Flow, TemplateError> {
        match node {
            Node::Text(text) => self.output.push_str(text),
            Node::Action(pipeline) => {
                let value = self.pipeline(pipeline, dot)?;
                if pipeline.variables.is_empty() {
                    self.output.push_str(&value.to_string());
                }
            }
            Node::Branch {
                with,
                condition,
                then,
                otherwise,
            } => {
                let scope = self.variables.len();
                let value = self.pipeline(condition, dot)?;
                let flow = if !value.is_true() {
                    self.nodes(otherwise, dot)
                } else if *with {
                    self.nodes(then, &value)
                } else {
                    self.nodes(then, dot)
                };
                self.variables.truncate(scope);
                return flow;
            }
            Node::Range {
                over,
                body,
                otherwise,
            } => {
                let scope = self.variables.len();
                let flow = self.range(over, body, otherwise, dot);
                self.variables.truncate(scope);
                return flow;
            }
            Node::Break => return Ok(Flow::Break),
            Node::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::Next)
    }

    fn range(
        &mut self,
        over: &Pipeline,
        body: &[Node],
        otherwise: &[Node],
        dot: &Value,
    ) -> Result<Flow, TemplateError> {
        let value = self.commands(over, dot)?;
        let items: Vec<(Value, Value)> = match value {
            Value::List(items) => (0_i64..)
                .zip(items)
                .map(|(index, item)| (Value::Int(index), item))
                .collect(),
            Value::Map(entries) => entries
                .into_iter()
                .map(|(name, item)| (Value::Text(name), item))
                .collect(),
            Value::Int(count @ ..=100_000) => (0..count)
                .map(|index| (Value::Int(index), Value::Int(index)))
                .collect(),
            Value::Nil(_) => Vec::new(),
            other => {
                let message = format!("range can't iterate over {other}");
                return Err(self.error(over.offset, message));
            }
        };
        if items.is_empty() {
            return self.nodes(otherwise, dot);
        }
        for (key, item) in items {
            let scope = self.variables.len();
            match over.variables.as_slice() {
                [] => {}
                [one] => self.bind(one, item.clone(), over.declares),
                [first, second, ..] => {
                    self.bind(first, key, over.declares);
                    self.bind(second, item.clone(), over.declares);
                }
            }
            let flow = self.nodes(body, &item)?;
            self.variables.truncate(scope);
            if flow == Flow::Break {
                break;
            }
        }
        Ok(Flow::Next)
    }

    fn bind(&mut self, name: &str, value: Value, declare: bool) {
        if !declare && let Some(entry) = self.variables.iter_mut().rev().find(|(n, _)| n == name) {
            entry.1 = value;
        } else {
            self.variables.push((name.to_owned(), value));
        }
    }

    fn pipeline(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value, TemplateError> {
        let value = self.commands(pipeline, dot)?;
        for name in &pipeline.variables {
            self.bind(name, value.clone(), pipeline.declares);
        }
        Ok(value)
    }

    fn commands(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value, TemplateError> {
        let mut piped: Option<Value> = None;
        for command in &pipeline.commands {
            piped = Some(self.command(command, piped, dot)?);
        }
        piped.ok_or_else(|| self.error(pipeline.offset, "missing value for command"))
    }

    fn command(
        &mut self,
        command: &[Operand],
        piped: Option<Value>,
        dot: &Value,
    ) -> Result<Value, TemplateError> {
        let Some((first, rest)) = command.split_first() else {
            return Err(self.error(0, "missing value for command"));
        };
        let OperandKind::Function(name) = &first.kind else {
            let value = self.operand(first, dot)?;
            return match (value, rest, &piped) {
                (Value::Method(method), [argument], None) => match self.operand(argument, dot)? {
                    Value::Text(text) => Ok(Value::Text(method.call(&text))),
                    other => {
                        let message = format!("expected string; found {}", other.kind());
                        Err(self.error(argument.offset, message))
                    }
                },
                (Value::Method(_), ..) => {
                    let message = "wrong number of args for method: want 1";
                    Err(self.error(first.offset, message))
                }
                (value, [], None) => Ok(value),
                _ => Err(self.error(first.offset, "can't give argument to non-function")),
            };
        };
        let value = if matches!(name.as_str(), "and" | "or") {
            self.lazy(name == "and", first, rest, piped, dot)?
        } else {
            let mut arguments = Vec::with_capacity(rest.len() + 1);
            for operand in rest {
                arguments.push(self.operand(operand, dot)?);
            }
            arguments.extend(piped);
            self.call(name, first.offset, arguments)?
        };
        self.fields(&value, first)
    }

    fn call(&self, name: &str, offset: usize, args: Vec<Value>) -> Result<Value, TemplateError> {
        functions::call(
            &Call {
                name,
                header: self.header,
            },
            args,
        )
        .map_err(|message| self.error(offset, message))
    }

    /// `and` and `or` stop at the first operand that decides.
    fn lazy(
        &mut self,
        and: bool,
        function: &Operand,
        rest: &[Operand],
        piped: Option<Value>,
        dot: &Value,
    ) -> Result<Value, TemplateError> {
        let mut last = None;
        for operand in rest {
            let value = self.operand(operand, dot)?;
            if value.is_true() != and {
                return Ok(value);
            }
            last = Some(value);
        }
        piped.or(last).ok_or_else(|| {
            let name = if and { "and" } else { "or" };
            let message = format!("wrong number of args for {name}: want at least 1 got 0");
            self.error(function.offset, message)
        })
    }

    fn operand(&mut self, operand: &Operand, dot: &Value) -> Result<Value, TemplateError> {
        let value = match &operand.kind {
            OperandKind::Dot => return self.fields(dot, operand),
            OperandKind::Nil => Value::Nil(NilKind::Pointer),
            OperandKind::Bool(value) => Value::Bool(*value),
            OperandKind::Int(value) => Value::Int(*value),
            OperandKind::Float(value) => Value::Float(*value),
            OperandKind::Text(text) => Value::Text(text.clone()),
            OperandKind::Variable(name) => self
                .variables
                .iter()
                .rev()
                .find(|(candidate, _)| candidate == name)
                .map(|(_, value)| value.clone())
                .ok_or_else(|| {
                    self.error(operand.offset, format!("undefined variable \"${name}\""))
                })?,
            OperandKind::Function(name) => self.call(name, operand.offset, Vec::new())?,
            OperandKind::Paren(pipeline) => self.pipeline(pipeline, dot)?,
        };
        self.fields(&value, operand)
    }

    /// Follows the fields behind an operand, without a copy of what they lie in.
    fn fields(&self, value: &Value, operand: &Operand) -> Result<Value, TemplateError> {
        let mut value = value;
        for name in &operand.fields {
            value = match value {
                Value::Map(entries) => entries.get(name).unwrap_or(&MISSING),
                Value::Struct(fields) => {
                    let known = fields.iter().find(|(field, _)| field == name);
                    let Some((_, value)) = known else {
                        let message = format!("can't evaluate field {name} in this type");
                        return Err(self.error(operand.offset, message));
                    };
                    value
                }
                Value::Nil(NilKind::Pointer) => {
                    let message = format!("nil pointer evaluating field {name}");
                    return Err(self.error(operand.offset, message));
                }
                Value::Nil(_) => &MISSING,
                other => {
                    let message = format!("can't evaluate field {name} in type {}", other.kind());
                    return Err(self.error(operand.offset, message));
                }
            };
        }
        Ok(value.clone())
    }
}
