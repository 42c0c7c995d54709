//! The Dockerfile language: text to a typed tree, expansion, ignore files, build checks.
//!
//! Nothing here does I/O, prints, or reads the environment. [`parse`] never fails: it returns a tree
//! of what could be understood and the errors in the order in which `BuildKit` would meet them.
//! Variables are expanded in a separate pass with an explicit environment ([`expand`]), so that
//! planning, checks and editors can use the tree alone.

mod ast;
mod diagnostic;
mod duration;
mod edit;
mod expand;
mod fix;
mod flags;
mod format;
mod heredoc;
pub mod ignore;
mod joined;
mod json;
pub mod lint;
mod mode;
mod mount;
pub mod outline;
mod parse;
mod platform;
mod ports;
mod print;
mod reference;
mod signal;
mod size;
mod source;
mod span;
mod text;
mod words;

pub use ast::*;
pub use diagnostic::{Diagnostic, closest, closest_same_case};
pub use duration::{format_duration, parse_duration};
pub use expand::{
    ExpandError, Expansion, MAX_EXPANDED, Variables, expand, expand_for_display, expand_heredoc,
    expand_words,
};
pub use fix::fix;
pub use format::format;
pub use ignore::{IgnoreMatcher, IgnoreReason, MatchState, glob_match};
pub use lint::{CheckConfig, LintFinding, Linter, RULES, Rule};
pub use mode::{ChmodMode, ChownSpec, NameOrId, SymbolicMode};
pub use mount::{
    DeviceSpec, MountError, MountKind, MountSpec, Sharing, expand_mount, parse_device, parse_mount,
};
pub use parse::{MAX_FILE, MAX_INSTRUCTIONS, Parsed, parse, parse_trigger};
pub use platform::{Platform, percent_decode};
pub use ports::{PortSpec, parse_port_spec};
pub use print::print;
pub use reference::ImageReference;
pub use signal::check_signal;
pub use size::parse_size;
pub use source::{GitQuery, GitUrl, SourceKind, context_kind, source_kind};
pub use span::{LineRange, Span, Spanned, Word};
pub use text::quote;
