//! Tokens to a tree of nodes.

use super::TemplateError;
use super::lexer::{Placed, Token, tokens};

/// Deepest nesting of blocks and parentheses that is accepted; a person never comes near it.
const MAX_DEPTH: usize = 64;

/// A part of a template.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    /// Literal text.
    Text(String),
    /// `{{pipeline}}`.
    Action(Pipeline),
    /// `{{if}}` or `{{with}}`, with its `else`.
    Branch {
        with: bool,
        condition: Pipeline,
        then: Vec<Node>,
        otherwise: Vec<Node>,
    },
    /// `{{range}}`, with its `else`.
    Range {
        over: Pipeline,
        body: Vec<Node>,
        otherwise: Vec<Node>,
    },
    /// `{{break}}`.
    Break,
    /// `{{continue}}`.
    Continue,
}

/// Commands joined by `|`, perhaps assigned to variables.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pipeline {
    /// Variables that receive the value.
    pub(super) variables: Vec<String>,
    /// `:=` rather than `=`.
    pub(super) declares: bool,
    /// The commands; never empty.
    pub(super) commands: Vec<Vec<Operand>>,
    /// Offset in the source, for messages.
    pub(super) offset: usize,
}

/// One word of a command, with the fields taken from it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Operand {
    pub(super) kind: OperandKind,
    /// `.A.B` behind it.
    pub(super) fields: Vec<String>,
    pub(super) offset: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum OperandKind {
    Dot,
    Nil,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    Variable(String),
    Function(String),
    Paren(Pipeline),
}

/// How a list of nodes ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Source,
    End,
    Else,
}

/// Parses a whole template.
pub(super) fn parse(source: &str) -> Result<Vec<Node>, TemplateError> {
    let mut parser = Parser {
        source,
        tokens: tokens(source)?,
        at: 0,
        variables: vec![String::new()],
        loops: 0,
    };
    let (nodes, ended) = parser.nodes(0)?;
    match ended {
        Ended::Source => Ok(nodes),
        Ended::End => Err(parser.error("unexpected {{end}}")),
        Ended::Else => Err(parser.error("unexpected {{else}}")),
    }
}

struct Parser<'a> {
    source: &'a str,
    tokens: Vec<Placed>,
    at: usize,
    /// Names in scope; the empty one is `$`.
    variables: Vec<String>,
    /// How many `range` blocks are open.
    loops: usize,
}

impl Parser<'_> {
    fn error(&self, message: impl Into<String>) -> TemplateError {
        let offset = self
            .tokens
            .get(self.at.saturating_sub(1))
            .map_or(0, |placed| placed.offset);
        TemplateError::at(self.source, offset, message)
    }

    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|placed| &placed.token)
    }

    fn next(&mut self) -> Result<Token, TemplateError> {
        let token = self.tokens.get(self.at).map(|placed| placed.token.clone());
        self.at += 1;
        token.ok_or_else(|| self.error("unexpected EOF"))
    }

    fn offset(&self) -> usize {
        self.tokens
            .get(self.at)
            .map_or(self.source.len(), |placed| placed.offset)
    }

    fn nodes(&mut self, depth: usize) -> Result<(Vec<Node>, Ended), TemplateError> {
        if depth > MAX_DEPTH {
            return Err(self.error("blocks are nested too deeply"));
        }
        let mut nodes = Vec::new();
        while self.at < self.tokens.len() {
            match self.next()? {
                Token::Literal(text) => nodes.push(Node::Text(text)),
                Token::Open => match self.peek().cloned() {
                    Some(Token::Word(word)) => {
                        if let Some(ended) = self.keyword(&word, depth, &mut nodes)? {
                            return Ok((nodes, ended));
                        }
                    }
                    _ => nodes.push(self.plain_action()?),
                },
                other => return Err(self.error(format!("unexpected {other:?}"))),
            }
        }
        Ok((nodes, Ended::Source))
    }

    /// Handles an action that begins with a word; says so when the word ends the block.
    fn keyword(
        &mut self,
        word: &str,
        depth: usize,
        nodes: &mut Vec<Node>,
    ) -> Result<Option<Ended>, TemplateError> {
        match word {
            "end" => {
                self.at += 1;
                self.close("end")?;
                return Ok(Some(Ended::End));
            }
            "else" => {
                // What follows (`}}`, `if …`, `with …`) is read by the block that this one ends.
                self.at += 1;
                return Ok(Some(Ended::Else));
            }
            "if" | "with" | "range" => {
                self.at += 1;
                nodes.push(self.block(word, depth)?);
            }
            "break" | "continue" => {
                self.at += 1;
                if self.loops == 0 {
                    return Err(self.error(format!("{{{{{word}}}}} outside {{{{range}}}}")));
                }
                self.close(word)?;
                nodes.push(if word == "break" {
                    Node::Break
                } else {
                    Node::Continue
                });
            }
            "define" | "template" | "block" => {
                return Err(self.error(format!("{{{{{word}}}}} is not supported in formats")));
            }
            _ => nodes.push(self.plain_action()?),
        }
        Ok(None)
    }

    fn plain_action(&mut self) -> Result<Node, TemplateError> {
        let pipeline = self.pipeline(0, false)?;
        self.close("command")?;
        Ok(Node::Action(pipeline))
    }

    fn close(&mut self, context: &str) -> Result<(), TemplateError> {
        match self.next()? {
            Token::Close => Ok(()),
            other => Err(self.error(format!("unexpected {} in {context}", shown(&other)))),
        }
    }

    /// Reads an `if`, `with` or `range` behind its keyword, up to and with its `end`.
    fn block(&mut self, word: &str, depth: usize) -> Result<Node, TemplateError> {
        let scope = self.variables.len();
        let pipeline = self.pipeline(0, word == "range")?;
        self.close(word)?;
        self.loops += usize::from(word == "range");
        let body = self.nodes(depth + 1);
        self.loops -= usize::from(word == "range");
        let (body, ended) = body?;
        let otherwise = match ended {
            Ended::End => Vec::new(),
            Ended::Else => self.otherwise(word, depth)?,
            Ended::Source => return Err(self.error("unexpected EOF")),
        };
        self.variables.truncate(scope);
        Ok(if word == "range" {
            Node::Range {
                over: pipeline,
                body,
                otherwise,
            }
        } else {
            Node::Branch {
                with: word == "with",
                condition: pipeline,
                then: body,
                otherwise,
            }
        })
    }

    /// Reads what follows `{{else`: a chained block or the closing braces and nodes.
    fn otherwise(&mut self, word: &str, depth: usize) -> Result<Vec<Node>, TemplateError> {
        match self.next()? {
            Token::Close => {
                let (nodes, ended) = self.nodes(depth + 1)?;
                match ended {
                    Ended::End => Ok(nodes),
                    Ended::Else => Err(self.error("expected end; found {{else}}")),
                    Ended::Source => Err(self.error("unexpected EOF")),
                }
            }
            // `{{else if}}` shares the outer `{{end}}`.
            Token::Word(next) if next == word && word != "range" => {
                if depth >= MAX_DEPTH {
                    return Err(self.error("blocks are nested too deeply"));
                }
                Ok(vec![self.block(word, depth + 1)?])
            }
            other => Err(self.error(format!("unexpected {} in else", shown(&other)))),
        }
    }

    fn pipeline(&mut self, depth: usize, in_range: bool) -> Result<Pipeline, TemplateError> {
        if depth > MAX_DEPTH {
            return Err(self.error("parentheses are nested too deeply"));
        }
        let offset = self.offset();
        let (variables, declares) = self.declaration(in_range)?;
        let mut commands = Vec::new();
        loop {
            let command = self.command(depth)?;
            if command.is_empty() {
                return Err(self.error("missing value for command"));
            }
            commands.push(command);
            if self.peek() == Some(&Token::Pipe) {
                self.at += 1;
            } else {
                break;
            }
        }
        if declares {
            self.variables.extend(variables.iter().cloned());
        }
        Ok(Pipeline {
            variables,
            declares,
            commands,
            offset,
        })
    }

    /// Reads `$x :=`, `$x =` or, in a range, `$i, $x :=`.
    fn declaration(&mut self, in_range: bool) -> Result<(Vec<String>, bool), TemplateError> {
        let start = self.at;
        let mut names = Vec::new();
        while let Some(Token::Variable(name)) = self.peek().cloned() {
            names.push(name);
            self.at += 1;
            match self.peek() {
                Some(Token::Comma) if in_range && names.len() < 2 => self.at += 1,
                Some(operator @ (Token::Declare | Token::Assign)) => {
                    let declares = *operator == Token::Declare;
                    self.at += 1;
                    if !declares && let Some(unknown) = self.undefined(&names) {
                        return Err(self.error(format!("undefined variable \"${unknown}\"")));
                    }
                    return Ok((names, declares));
                }
                _ => break,
            }
        }
        self.at = start;
        Ok((Vec::new(), false))
    }

    fn undefined<'n>(&self, names: &'n [String]) -> Option<&'n String> {
        names.iter().find(|name| !self.variables.contains(name))
    }

    fn command(&mut self, depth: usize) -> Result<Vec<Operand>, TemplateError> {
        let mut operands: Vec<Operand> = Vec::new();
        loop {
            let offset = self.offset();
            let kind = match self.peek().cloned() {
                Some(Token::Field { name, glued }) => {
                    self.at += 1;
                    match operands.last_mut() {
                        Some(last) if glued => last.fields.push(name),
                        _ => operands.push(Operand {
                            kind: OperandKind::Dot,
                            fields: vec![name],
                            offset,
                        }),
                    }
                    continue;
                }
                Some(Token::LeftParen) => {
                    self.at += 1;
                    let inner = self.pipeline(depth + 1, false)?;
                    match self.next()? {
                        Token::RightParen => OperandKind::Paren(inner),
                        _ => return Err(self.error("unclosed left paren")),
                    }
                }
                Some(token) => match self.simple(token)? {
                    Some(kind) => {
                        self.at += 1;
                        kind
                    }
                    None => return Ok(operands),
                },
                None => return Err(self.error("unclosed action")),
            };
            operands.push(Operand {
                kind,
                fields: Vec::new(),
                offset,
            });
        }
    }

    /// The operand that a single token stands for; none when it ends the command.
    fn simple(&self, token: Token) -> Result<Option<OperandKind>, TemplateError> {
        Ok(Some(match token {
            Token::Dot => OperandKind::Dot,
            Token::Text(text) => OperandKind::Text(text),
            Token::Int(value) => OperandKind::Int(value),
            Token::Float(value) => OperandKind::Float(value),
            Token::Word(word) => match word.as_str() {
                "true" => OperandKind::Bool(true),
                "false" => OperandKind::Bool(false),
                "nil" => OperandKind::Nil,
                _ if super::functions::exists(&word) => OperandKind::Function(word),
                _ => {
                    let offset = self.offset();
                    let message = format!("function {word:?} not defined");
                    return Err(TemplateError::at(self.source, offset, message));
                }
            },
            Token::Variable(name) => {
                if !self.variables.contains(&name) {
                    let message = format!("undefined variable \"${name}\"");
                    return Err(TemplateError::at(self.source, self.offset(), message));
                }
                OperandKind::Variable(name)
            }
            Token::Pipe | Token::RightParen | Token::Close => return Ok(None),
            other => {
                let message = format!("unexpected {} in operand", shown(&other));
                return Err(TemplateError::at(self.source, self.offset(), message));
            }
        }))
    }
}

fn shown(token: &Token) -> String {
    match token {
        Token::Literal(text) | Token::Text(text) => format!("{text:?}"),
        Token::Open => "{{".into(),
        Token::Close => "}}".into(),
        Token::Dot => "<.>".into(),
        Token::Field { name, .. } => format!("<.{name}>"),
        Token::Variable(name) => format!("<${name}>"),
        Token::Word(word) => format!("<{word}>"),
        Token::Int(value) => value.to_string(),
        Token::Float(value) => value.to_string(),
        Token::Pipe => "|".into(),
        Token::LeftParen => "(".into(),
        Token::RightParen => ")".into(),
        Token::Comma => ",".into(),
        Token::Declare => ":=".into(),
        Token::Assign => "=".into(),
    }
}
