//! The tree of a Dockerfile: plain data, every token with its place.

use std::sync::Arc;

use crate::{LineRange, Span, Spanned, Word};

/// A whole Dockerfile.
///
/// Instructions that are in error are not in the tree; they are in the diagnostics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dockerfile {
    /// The escape character, `\` or a backtick.
    pub escape: char,
    /// The parser directives at the top of the file, in order.
    pub directives: Vec<Directive>,
    /// Value of the `syntax` directive, also when given as `// syntax=` or as a JSON key.
    pub syntax: Option<Spanned<String>>,
    /// Value of the `check` directive.
    pub check: Option<Spanned<String>>,
    /// The `ARG` instructions before the first `FROM`.
    pub global_args: Vec<Instruction>,
    /// The stages, in order.
    pub stages: Vec<Stage>,
}

impl Dockerfile {
    /// Iterates over all instructions in the order of the file, `FROM` included.
    pub fn instructions(&self) -> impl Iterator<Item = &Instruction> {
        self.global_args.iter().chain(
            self.stages
                .iter()
                .flat_map(|stage| std::iter::once(&stage.from).chain(&stage.instructions)),
        )
    }
}

/// A parser directive, `# name=value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directive {
    /// Name as written.
    pub name: Spanned<String>,
    /// Value, without the white space around it.
    pub value: Spanned<String>,
    /// Line, counted from 1.
    pub line: u32,
}

/// A build stage: a `FROM` and what follows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// Position in the file, counted from 0.
    pub index: usize,
    /// The `FROM` instruction; its kind is [`InstructionKind::From`].
    pub from: Instruction,
    /// Name given with `AS`, lower-cased.
    pub name: Option<String>,
    /// Instructions of the stage, without the `FROM`.
    pub instructions: Vec<Instruction>,
}

impl Stage {
    /// Returns the `FROM` of the stage in its typed form.
    pub fn base(&self) -> &From {
        match &self.from.kind {
            InstructionKind::From(from) => from,
            _ => unreachable!("a stage is only ever made from a FROM instruction"),
        }
    }
}

/// One instruction with its place and its typed form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instruction {
    /// From the keyword to the end of the last line, heredoc bodies included.
    pub span: Span,
    /// Physical lines, heredoc bodies included.
    pub lines: LineRange,
    /// The instruction word as written.
    pub keyword: Spanned<String>,
    /// The joined line, as `BuildKit` keeps it: continuations removed, heredoc bodies not included.
    pub text: String,
    /// Comment lines directly above, without `#` and white space around.
    pub comments: Vec<Spanned<String>>,
    /// Flags as written, for tools.
    pub flags: Vec<Spanned<Flag>>,
    /// All heredocs of the line with their bodies, in order, for tools.
    pub heredocs: Vec<Heredoc>,
    /// What it is.
    pub kind: InstructionKind,
}

/// A flag of an instruction, after quote removal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flag {
    /// Name without the leading dashes.
    pub name: String,
    /// Text after the first `=`, when there is one.
    pub value: Option<String>,
}

impl Instruction {
    /// Finds the first place of a part of the text, in an instruction that stands on one line.
    pub fn place_of(&self, part: &str) -> Option<Span> {
        // The text of such an instruction is one piece of the source.
        let keyword = self.text.find(&self.keyword.value)?;
        let is_verbatim = self.span.len() == self.text[keyword..].trim_end().len();
        if self.lines.first != self.lines.last || !is_verbatim {
            return None;
        }
        let after = keyword + self.keyword.value.len();
        let start = after + self.text[after..].find(part)?;
        let base = self.span.start + start - keyword;
        Some(Span::new(base, base + part.len()))
    }

    /// Returns what the comment above says about a name: the text behind `# name `.
    pub fn description(&self, name: &str) -> Option<&str> {
        self.comments
            .iter()
            .filter(|_| !name.is_empty())
            .find_map(|comment| comment.value.strip_prefix(name)?.strip_prefix(' '))
    }
}

/// The typed form of an instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InstructionKind {
    /// `FROM`
    From(From),
    /// `ARG`
    Arg(Vec<ArgItem>),
    /// `ENV`
    Env(KeyValues),
    /// `LABEL`
    Label(KeyValues),
    /// `RUN`
    Run(Run),
    /// `COPY`
    Copy(CopyAdd),
    /// `ADD`
    Add(CopyAdd),
    /// `CMD`
    Cmd(CommandForm),
    /// `ENTRYPOINT`
    Entrypoint(CommandForm),
    /// `SHELL`, always at least one element
    Shell(Vec<String>),
    /// `WORKDIR`
    Workdir(Word),
    /// `USER`
    User(Word),
    /// `EXPOSE`, in the order written (`BuildKit` sorts them as strings before it expands them)
    Expose(Vec<Word>),
    /// `VOLUME`
    Volume(Vec<Word>),
    /// `STOPSIGNAL`
    StopSignal(Word),
    /// `HEALTHCHECK`
    Healthcheck(Healthcheck),
    /// `ONBUILD`: text of the trigger with heredoc bodies; see [`parse_trigger`](crate::parse_trigger)
    Onbuild(Spanned<String>),
    /// `MAINTAINER`
    Maintainer(Word),
}

impl InstructionKind {
    /// Returns the instruction word in upper case.
    pub fn name(&self) -> &'static str {
        match self {
            Self::From(_) => "FROM",
            Self::Arg(_) => "ARG",
            Self::Env(_) => "ENV",
            Self::Label(_) => "LABEL",
            Self::Run(_) => "RUN",
            Self::Copy(_) => "COPY",
            Self::Add(_) => "ADD",
            Self::Cmd(_) => "CMD",
            Self::Entrypoint(_) => "ENTRYPOINT",
            Self::Shell(_) => "SHELL",
            Self::Workdir(_) => "WORKDIR",
            Self::User(_) => "USER",
            Self::Expose(_) => "EXPOSE",
            Self::Volume(_) => "VOLUME",
            Self::StopSignal(_) => "STOPSIGNAL",
            Self::Healthcheck(_) => "HEALTHCHECK",
            Self::Onbuild(_) => "ONBUILD",
            Self::Maintainer(_) => "MAINTAINER",
        }
    }
}

/// `FROM [--platform=…] image [AS name]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct From {
    /// Unexpanded value of `--platform`.
    pub platform: Option<Word>,
    /// Unexpanded name of an image or stage.
    pub image: Word,
    /// Stage name as written.
    pub alias: Option<Spanned<String>>,
    /// The word `AS` as written.
    pub as_keyword: Option<Spanned<String>>,
}

/// One `name` or `name=default` of `ARG`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArgItem {
    /// Name, taken verbatim.
    pub name: Spanned<String>,
    /// Unexpanded default, when there is a `=`.
    pub default: Option<Word>,
}

/// The pairs of `ENV` and `LABEL`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValues {
    /// Name and value, both unexpanded.
    pub pairs: Vec<(Word, Word)>,
    /// Whether the form `ENV name value` was used.
    pub legacy: bool,
}

/// A command, as text for the shell or as an argument vector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandForm {
    /// Text for the shell of the stage.
    Shell(String),
    /// JSON form.
    Exec(Vec<String>),
}

/// `RUN`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The command line; for heredocs see [`Run::script`].
    pub command: CommandForm,
    /// Heredocs in the order of the line.
    pub heredocs: Vec<Heredoc>,
    /// Unexpanded `--mount` values; see [`expand_mount`](crate::expand_mount).
    pub mounts: Vec<Word>,
    /// `--network`
    pub network: Option<Spanned<NetworkMode>>,
    /// `--security`
    pub security: Option<Spanned<SecurityMode>>,
    /// `--device` values.
    pub devices: Vec<Word>,
}

/// What a [`Run`] executes, heredocs resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunScript {
    /// Text for the shell, heredoc bodies put back in.
    Shell(String),
    /// The body begins with `#!`: it becomes the file `/dev/pipes/<name>`, mode 0755, and its path is
    /// the text for the shell.
    File {
        /// File name, the heredoc's delimiter.
        name: String,
        /// File content.
        content: String,
    },
    /// Argument vector.
    Exec(Vec<String>),
}

/// `COPY` and `ADD`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyAdd {
    /// At least one source.
    pub sources: Vec<CopySource>,
    /// Unexpanded destination.
    pub destination: Word,
    /// `--from`, never expanded (COPY).
    pub from: Option<Spanned<String>>,
    /// Unexpanded `--chown`.
    pub chown: Option<Word>,
    /// Unexpanded `--chmod`.
    pub chmod: Option<Word>,
    /// `--link`
    pub link: bool,
    /// `--parents` (COPY).
    pub parents: bool,
    /// `--exclude` patterns, never expanded.
    pub exclude: Vec<Spanned<String>>,
    /// Unexpanded `--checksum` (ADD).
    pub checksum: Option<Word>,
    /// `--keep-git-dir`, when given (ADD).
    pub keep_git_dir: Option<bool>,
    /// `--unpack`, when given (ADD).
    pub unpack: Option<bool>,
}

/// A source of `COPY` or `ADD`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopySource {
    /// Unexpanded path, URL or git reference.
    Path(Word),
    /// A file written in the Dockerfile itself.
    Heredoc(Heredoc),
}

/// A here-document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heredoc {
    /// The delimiter after quote removal; the file name in `COPY` and `ADD`.
    pub name: String,
    /// Body, without leading tabs when `<<-` was written.
    ///
    /// Shared, since a body can be the content of any number of sources of one instruction.
    pub content: Arc<str>,
    /// Body exactly as written, without the line of the delimiter.
    pub raw: Arc<str>,
    /// Whether variables in the body are to be expanded (no part of the delimiter was quoted).
    pub expand: bool,
    /// Whether `<<-` was written.
    pub strip_tabs: bool,
    /// Number before `<<`; 0 when none is written.
    pub descriptor: u32,
    /// The word `<<name`.
    pub span: Span,
    /// The body, from its first byte to the line of the delimiter.
    pub body_span: Span,
}

/// `HEALTHCHECK`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Healthcheck {
    /// `HEALTHCHECK NONE`
    None,
    /// `HEALTHCHECK CMD …`; times in nanoseconds, absent where no flag was given
    Command {
        /// What to run.
        test: CommandForm,
        /// `--interval`
        interval_ns: Option<i64>,
        /// `--timeout`
        timeout_ns: Option<i64>,
        /// `--start-period`
        start_period_ns: Option<i64>,
        /// `--start-interval`
        start_interval_ns: Option<i64>,
        /// `--retries`
        retries: Option<i64>,
    },
}

/// `RUN --network=`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum NetworkMode {
    /// The builder's own choice.
    #[default]
    Default,
    /// Loopback only.
    None,
    /// The host's network; needs an entitlement.
    Host,
}

/// `RUN --security=`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum SecurityMode {
    /// The usual sandbox.
    #[default]
    Sandbox,
    /// All capabilities; needs an entitlement.
    Insecure,
}

impl Run {
    /// Returns what is to be executed, with heredoc bodies in their place.
    ///
    /// A command that is exactly one heredoc word runs the body, as a script file when it begins with
    /// `#!`. In any other command line the bodies are put back behind it for the shell to read.
    pub fn script(&self) -> RunScript {
        let line = match &self.command {
            CommandForm::Exec(arguments) => return RunScript::Exec(arguments.clone()),
            CommandForm::Shell(line) => line,
        };
        let Some(first) = self.heredocs.first() else {
            return RunScript::Shell(line.clone());
        };
        if crate::heredoc::is_single(line) {
            if first.content.starts_with("#!") {
                return RunScript::File {
                    name: first.name.clone(),
                    content: first.content.to_string(),
                };
            }
            return RunScript::Shell(first.content.to_string());
        }
        RunScript::Shell(crate::heredoc::with_bodies(line, &self.heredocs))
    }
}
