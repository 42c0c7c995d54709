//! Template text to tokens: literal text outside `{{ }}`, words inside.

use super::TemplateError;

/// A piece of a template.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    /// Literal text.
    Literal(String),
    /// `{{`.
    Open,
    /// `}}`.
    Close,
    /// `.`, alone.
    Dot,
    /// `.Name`; glued says that no blank stands before it, so it belongs to what precedes.
    Field { name: String, glued: bool },
    /// `$` or `$name`, without the dollar sign.
    Variable(String),
    /// A function, a keyword, `true`, `false` or `nil`.
    Word(String),
    /// A quoted string or a character constant's number.
    Text(String),
    /// A whole number.
    Int(i64),
    /// Any other number.
    Float(f64),
    /// `|`.
    Pipe,
    /// `(`.
    LeftParen,
    /// `)`.
    RightParen,
    /// `,`.
    Comma,
    /// `:=`.
    Declare,
    /// `=`.
    Assign,
}

/// A token and the byte offset where it starts.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Placed {
    pub(super) token: Token,
    pub(super) offset: usize,
}

/// Splits a template into tokens.
pub(super) fn tokens(source: &str) -> Result<Vec<Placed>, TemplateError> {
    let mut lexer = Lexer {
        source,
        at: 0,
        tokens: Vec::new(),
    };
    let mut trim = false;
    loop {
        let rest = &source[lexer.at..];
        let Some(open) = rest.find("{{") else {
            lexer.literal(rest, lexer.at, trim, false);
            return Ok(lexer.tokens);
        };
        let offset = lexer.at;
        lexer.at += open + 2;
        let inside = lexer.rest();
        let trims_left = inside.starts_with('-') && inside[1..].starts_with(is_blank);
        lexer.literal(&rest[..open], offset, trim, trims_left);
        if trims_left {
            lexer.at += 1;
        }
        trim = match lexer.comment()? {
            Some(trims_right) => trims_right,
            None => lexer.action()?,
        };
    }
}

fn is_blank(letter: char) -> bool {
    matches!(letter, ' ' | '\t' | '\r' | '\n')
}

struct Lexer<'a> {
    source: &'a str,
    at: usize,
    tokens: Vec<Placed>,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.source[self.at..]
    }

    fn error(&self, offset: usize, message: impl Into<String>) -> TemplateError {
        TemplateError::at(self.source, offset, message)
    }

    fn push(&mut self, token: Token, offset: usize) {
        self.tokens.push(Placed { token, offset });
    }

    fn literal(&mut self, text: &str, offset: usize, trim_start: bool, trim_end: bool) {
        let mut text = text;
        if trim_start {
            text = text.trim_start_matches(is_blank);
        }
        if trim_end {
            text = text.trim_end_matches(is_blank);
        }
        if !text.is_empty() {
            self.push(Token::Literal(text.to_owned()), offset);
        }
    }

    /// Skips `/* … */}}`; says whether it trims the text behind it.
    fn comment(&mut self) -> Result<Option<bool>, TemplateError> {
        let start = self.at;
        let body = self.rest().trim_start_matches(is_blank);
        if !body.starts_with("/*") {
            return Ok(None);
        }
        let Some(end) = body.find("*/") else {
            return Err(self.error(start, "unclosed comment"));
        };
        self.at = self.source.len() - body.len() + end + 2;
        let after = self.rest();
        let trimmed = after.trim_start_matches(is_blank);
        if after.starts_with("}}") {
            self.at += 2;
            Ok(Some(false))
        } else if trimmed.len() < after.len() && trimmed.starts_with("-}}") {
            self.at = self.source.len() - trimmed.len() + 3;
            Ok(Some(true))
        } else {
            Err(self.error(start, "comment ends before closing delimiter"))
        }
    }

    /// Reads the tokens up to `}}`; says whether it trims the text behind it.
    fn action(&mut self) -> Result<bool, TemplateError> {
        let start = self.at;
        self.push(Token::Open, start - 2);
        let mut blank_before = true;
        loop {
            let rest = self.rest();
            let Some(first) = rest.chars().next() else {
                return Err(self.error(start, "unclosed action"));
            };
            if is_blank(first) {
                self.at += rest.len() - rest.trim_start_matches(is_blank).len();
                blank_before = true;
                continue;
            }
            if rest.starts_with("}}") {
                self.push(Token::Close, self.at);
                self.at += 2;
                return Ok(false);
            }
            if blank_before && rest.starts_with("-}}") {
                self.push(Token::Close, self.at);
                self.at += 3;
                return Ok(true);
            }
            self.word(first, blank_before)?;
            blank_before = false;
        }
    }

    fn word(&mut self, first: char, blank_before: bool) -> Result<(), TemplateError> {
        let offset = self.at;
        let rest = self.rest();
        let (token, length) = match first {
            '|' => (Token::Pipe, 1),
            '(' => (Token::LeftParen, 1),
            ')' => (Token::RightParen, 1),
            ',' => (Token::Comma, 1),
            '=' => (Token::Assign, 1),
            ':' if rest.starts_with(":=") => (Token::Declare, 2),
            '"' | '`' | '\'' => return self.quoted(first),
            '.' if !rest[1..].starts_with(|c: char| c.is_ascii_digit()) => {
                let name = name_of(&rest[1..]);
                if name.is_empty() {
                    (Token::Dot, 1)
                } else {
                    let field = Token::Field {
                        name: name.to_owned(),
                        glued: !blank_before,
                    };
                    (field, 1 + name.len())
                }
            }
            '$' => {
                let name = name_of(&rest[1..]);
                (Token::Variable(name.to_owned()), 1 + name.len())
            }
            '0'..='9' | '+' | '-' | '.' => return self.number(),
            _ if first.is_alphabetic() || first == '_' => {
                let name = name_of(rest);
                (Token::Word(name.to_owned()), name.len())
            }
            _ => {
                return Err(self.error(offset, format!("unexpected {first:?} in command")));
            }
        };
        self.push(token, offset);
        self.at += length;
        Ok(())
    }

    fn number(&mut self) -> Result<(), TemplateError> {
        let rest = self.rest();
        let end = rest
            .char_indices()
            .find(|(index, letter)| {
                let sign = matches!(letter, '+' | '-');
                let after_exponent = *index > 0 && rest[..*index].ends_with(['e', 'E']);
                !(letter.is_ascii_alphanumeric()
                    || matches!(letter, '.' | '_')
                    || (sign && (*index == 0 || after_exponent)))
            })
            .map_or(rest.len(), |(index, _)| index);
        let text = &rest[..end];
        let plain = text.replace('_', "");
        let token = match parse_int(&plain) {
            Some(value) => Token::Int(value),
            None => match plain.parse::<f64>() {
                Ok(value) if plain.chars().any(|c| c.is_ascii_digit()) => Token::Float(value),
                _ => return Err(self.error(self.at, format!("bad number syntax: {text:?}"))),
            },
        };
        self.push(token, self.at);
        self.at += end;
        Ok(())
    }

    fn quoted(&mut self, quote: char) -> Result<(), TemplateError> {
        let start = self.at;
        let unterminated = if quote == '\'' {
            "unterminated character constant"
        } else {
            "unterminated quoted string"
        };
        let mut text = String::new();
        let mut letters = self.source[start + 1..].char_indices();
        while let Some((index, letter)) = letters.next() {
            if letter == quote {
                self.at = start + 1 + index + 1;
                let token = if quote == '\'' {
                    character(&text)
                } else {
                    Some(Token::Text(text))
                };
                let token =
                    token.ok_or_else(|| self.error(start, "malformed character constant"))?;
                self.push(token, start);
                return Ok(());
            }
            if quote != '`' && letter == '\n' {
                break;
            }
            if quote != '`' && letter == '\\' {
                let escaped = unescape(&mut letters)
                    .ok_or_else(|| self.error(start, "invalid escape in string"))?;
                text.push(escaped);
            } else {
                text.push(letter);
            }
        }
        Err(self.error(start, unterminated))
    }
}

fn name_of(text: &str) -> &str {
    let end = text
        .find(|c: char| !c.is_alphanumeric() && c != '_')
        .unwrap_or(text.len());
    &text[..end]
}

fn parse_int(text: &str) -> Option<i64> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let value = if let Some(hex) = lower.strip_prefix("0x") {
        i64::from_str_radix(hex, 16)
    } else if let Some(octal) = lower.strip_prefix("0o") {
        i64::from_str_radix(octal, 8)
    } else if let Some(binary) = lower.strip_prefix("0b") {
        i64::from_str_radix(binary, 2)
    } else {
        lower.parse()
    };
    value.ok().map(|value| sign * value)
}

/// A character constant is a number in Go.
fn character(text: &str) -> Option<Token> {
    let mut letters = text.chars();
    match (letters.next(), letters.next()) {
        (Some(letter), None) => Some(Token::Int(i64::from(u32::from(letter)))),
        _ => None,
    }
}

/// Reads what follows a backslash, as in Go's interpreted strings.
fn unescape(letters: &mut std::str::CharIndices<'_>) -> Option<char> {
    let (_, letter) = letters.next()?;
    let digits = match letter {
        'a' => return Some('\u{7}'),
        'b' => return Some('\u{8}'),
        'f' => return Some('\u{c}'),
        'n' => return Some('\n'),
        'r' => return Some('\r'),
        't' => return Some('\t'),
        'v' => return Some('\u{b}'),
        '\\' | '"' | '\'' => return Some(letter),
        'x' => 2,
        'u' => 4,
        'U' => 8,
        _ => return None,
    };
    let mut code = 0;
    for _ in 0..digits {
        code = code * 16 + letters.next()?.1.to_digit(16)?;
    }
    char::from_u32(code)
}
