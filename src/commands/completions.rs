//! `rbuild completions` and `rbuild man`.

use std::path::PathBuf;

use clap_complete::Shell;
use clap_mangen::Man;

use crate::cli;
use crate::failure::Failure;
use crate::ui;

/// Print a script that completes commands and options in a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  rbuild completions bash >/etc/bash_completion.d/rbuild
  rbuild completions zsh >\"${fpath[1]}/_rbuild\"
  rbuild completions fish >~/.config/fish/completions/rbuild.fish")]
pub(crate) struct CompletionsArgs {
    /// The shell: `bash`, `zsh`, `fish`, `elvish` or `powershell`
    #[arg(value_name = "SHELL", value_enum, hide_possible_values = true)]
    shell: Shell,
}

/// Prints the script.
pub(crate) fn completions(args: &CompletionsArgs) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut cli::command(), "rbuild", &mut script);
    ui::print(&String::from_utf8_lossy(&script))
}

/// Print the manual page of a command, or write all of them
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  rbuild man | man -l -
  rbuild man build | man -l -
  rbuild man --output /usr/local/share/man/man1")]
pub(crate) struct ManArgs {
    /// Whose page: a command and its sub-command
    #[arg(value_name = "COMMAND", conflicts_with = "output")]
    command: Vec<String>,
    /// Write the pages of all commands into a directory
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
}

/// Prints or writes manual pages.
pub(crate) fn man(args: &ManArgs) -> Result<(), Failure> {
    let mut tree = cli::command().disable_help_subcommand(true);
    tree.build();
    if let Some(directory) = &args.output {
        std::fs::create_dir_all(directory)
            .and_then(|()| clap_mangen::generate_to(tree, directory))
            .map_err(|error| {
                let place = directory.display();
                Failure::from(error).within(format!("could not write manual pages to `{place}`"))
            })?;
        return Ok(());
    }
    let mut command = &tree;
    for name in &args.command {
        command = command.find_subcommand(name).ok_or_else(|| {
            Failure::new(format!("no such command: {}", args.command.join(" ")))
                .hint("`rbuild --help` lists the commands")
        })?;
    }
    let mut page = Vec::new();
    Man::new(command.clone()).render(&mut page)?;
    ui::print(&String::from_utf8_lossy(&page))
}
