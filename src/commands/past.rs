//! Finds a past build: the last one, one by its name, or the one that gave an image.

use rbuild_builder::report::BuildReport;
use rbuild_cache::Store;

use super::lookup;
use crate::failure::Failure;

/// Finds the report of a build. `which` is `last` (the default), a build's name as
/// `rbuild history builds` lists it, or an image.
pub(super) fn find(store: &Store, which: Option<&str>) -> Result<BuildReport, Failure> {
    let which = which.unwrap_or("last");
    if which == "last" && lookup::find(store, which)?.is_none() {
        return BuildReport::last(store)
            .map_err(|error| unreadable(&error))?
            .ok_or_else(|| Failure::new("nothing has been built on this store yet"));
    }
    if let Some(report) = BuildReport::of_build(store, which).map_err(|error| unreadable(&error))? {
        return Ok(report);
    }
    let Some(found) = lookup::find(store, which)? else {
        return Err(Failure::new(format!("no such build or image: {which}"))
            .hint("`rbuild history builds` lists builds, `rbuild images` lists images"));
    };
    BuildReport::of_image(store, &found.entry.record.config)
        .map_err(|error| unreadable(&error))?
        .ok_or_else(|| {
            Failure::new(format!("it is not known how {which} was built"))
                .hint("images that were loaded, pulled or imported have no report")
        })
}

fn unreadable(error: &std::io::Error) -> Failure {
    Failure::new("could not read the report of the build")
        .because(error)
        .hint("the next build writes a new one")
}
