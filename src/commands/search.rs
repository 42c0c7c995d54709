//! `rbuild search`.

use rbuild_builder::image::ImageError;
use rbuild_registry::SearchResult;

use crate::config::Settings;
use crate::failure::Failure;
use crate::format::Value;
use crate::registries::{RegistryArgs, client, registry_failure};
use crate::ui;
use crate::ui::listing::Listing;

/// Longest description that is shown.
const DESCRIPTION: usize = 45;

/// Search a registry for images
///
/// Docker Hub is searched by name and description. Other registries, named before the term, are mostly
/// asked for the names of all their repositories, which not all of them tell.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Placeholders of --format: .Name .Description .StarCount .IsOfficial

Examples:
  rbuild search nginx
  rbuild search --limit 5 registry.example/app"
)]
pub(crate) struct SearchArgs {
    /// What to look for, for example `nginx` or `registry.example/nginx`
    #[arg(value_name = "[REGISTRY/]TERM")]
    term: String,
    /// Most results
    #[arg(long, value_name = "N", default_value_t = 25)]
    limit: usize,
    /// Show only what meets a condition: is-official=, stars=
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Do not shorten descriptions
    #[arg(long)]
    no_trunc: bool,
    /// Show each image by a Go template, `table TEMPLATE` or `json`
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    #[command(flatten)]
    registries: RegistryArgs,
}

const HEADERS: &[(&str, &str)] = &[
    ("Description", "DESCRIPTION"),
    ("IsOfficial", "OFFICIAL"),
    ("Name", "NAME"),
    ("StarCount", "STARS"),
];

/// Lists what a registry finds.
pub(crate) fn run(settings: &Settings, args: &SearchArgs) -> Result<(), Failure> {
    let (registry, term) = place(&args.term);
    if term.is_empty() {
        return Err(Failure::new("there is nothing to look for")
            .hint("name a part of a repository: rbuild search [REGISTRY/]TERM"));
    }
    let filters = args
        .filter
        .iter()
        .map(|filter| Filter::parse(filter))
        .collect::<Result<Vec<_>, _>>()?;
    let client = client(settings, &args.registries, |_| Ok(()))?;
    let found = client
        .search(registry, term, args.limit)
        .map_err(|error| registry_failure(&ImageError::from(error)))?;
    let rows: Vec<Value> = found
        .iter()
        .filter(|one| filters.iter().all(|filter| filter.accepts(one)))
        .map(|one| row(args, registry, one))
        .collect();
    let listing = Listing {
        headers: HEADERS,
        table: "{{.Name}}\t{{.Description}}\t{{.StarCount}}\t{{.IsOfficial}}",
        format: args.format.as_deref(),
    };
    ui::print(&listing.render(&rows)?)
}

/// Registry and term: what stands before the first slash is a registry if it looks like one.
fn place(term: &str) -> (&str, &str) {
    match term.split_once('/') {
        Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => (host, rest),
        _ => ("docker.io", term),
    }
}

/// One `--filter`.
enum Filter {
    Official(bool),
    Stars(u64),
}

impl Filter {
    fn parse(text: &str) -> Result<Filter, Failure> {
        let invalid = || {
            Failure::new(format!("invalid filter `{text}`"))
                .hint("there is `is-official=true|false` and `stars=N`")
        };
        let (key, value) = text.split_once('=').ok_or_else(invalid)?;
        match key {
            "is-official" => value.parse().map(Filter::Official).map_err(|_| invalid()),
            "stars" => value.parse().map(Filter::Stars).map_err(|_| invalid()),
            _ => Err(invalid()),
        }
    }

    fn accepts(&self, one: &SearchResult) -> bool {
        match self {
            Filter::Official(official) => one.is_official == *official,
            Filter::Stars(stars) => one.star_count >= *stars,
        }
    }
}

fn row(args: &SearchArgs, registry: &str, one: &SearchResult) -> Value {
    let mut description = one.description.replace(['\n', '\r', '\t'], " ");
    if !args.no_trunc && description.chars().count() > DESCRIPTION {
        description = description.chars().take(DESCRIPTION - 1).collect();
        description.push('…');
    }
    let name = match registry {
        "docker.io" => one.name.clone(),
        registry => format!("{registry}/{}", one.name),
    };
    Value::Struct(vec![
        ("Description", description.into()),
        (
            "IsOfficial",
            if one.is_official { "[OK]" } else { "" }.into(),
        ),
        ("Name", name.into()),
        ("StarCount", one.star_count.to_string().into()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_stands_before_the_term() {
        assert_eq!(place("nginx"), ("docker.io", "nginx"));
        assert_eq!(place("team/app"), ("docker.io", "team/app"));
        assert_eq!(place("r.example/team/app"), ("r.example", "team/app"));
        assert_eq!(place("localhost:5000/a"), ("localhost:5000", "a"));
    }
}
