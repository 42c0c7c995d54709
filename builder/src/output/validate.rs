//! Checks of the outputs before any work is done.

use std::collections::BTreeSet;
use std::path::Path;

use super::OutputError;
use crate::request::{ArchiveTarget, BuildRequest, Destination, Output, OutputKind};

/// Checks the outputs of a request, so that a long build does not end in an avoidable error.
///
/// # Errors
///
/// [`OutputError::Refused`] in the words of `docker buildx` where it has any.
pub fn validate_outputs(
    request: &BuildRequest,
    stdout_is_terminal: bool,
) -> Result<(), OutputError> {
    let mut places = BTreeSet::new();
    for output in &request.outputs {
        check_kind(request, output)?;
        match &output.kind {
            OutputKind::Oci(ArchiveTarget::Tar(to))
            | OutputKind::Docker(ArchiveTarget::Tar(to))
            | OutputKind::Tar(to) => {
                check_destination(to, exporter(&output.kind), stdout_is_terminal)?;
                let place = match to {
                    Destination::Stdout => None,
                    Destination::File(path) => Some(path.clone()),
                };
                if !places.insert(place.clone()) {
                    let place = place.map_or("standard output".to_owned(), |path| {
                        format!("`{}`", path.display())
                    });
                    return refuse(format!("two outputs cannot both go to {place}"));
                }
            }
            OutputKind::Oci(ArchiveTarget::Directory(path))
            | OutputKind::Docker(ArchiveTarget::Directory(path))
            | OutputKind::Local(path) => check_directory(path)?,
            OutputKind::Registry { names, .. } if names.is_empty() && request.tags.is_empty() => {
                return refuse("tag is needed when pushing to registry");
            }
            OutputKind::Image { .. } | OutputKind::Registry { .. } | OutputKind::CacheOnly => {}
        }
    }
    Ok(())
}

/// Name of the exporter in messages.
fn exporter(kind: &OutputKind) -> &'static str {
    match kind {
        OutputKind::Image { .. } => "image",
        OutputKind::Registry { .. } => "registry",
        OutputKind::Oci(_) => "oci",
        OutputKind::Docker(_) => "docker",
        OutputKind::Tar(_) => "tar",
        OutputKind::Local(_) => "local",
        OutputKind::CacheOnly => "cacheonly",
    }
}

fn check_kind(request: &BuildRequest, output: &Output) -> Result<(), OutputError> {
    let several = request.platforms.len() > 1;
    if !several && !output.options.index_annotations.is_empty() {
        return refuse("index annotations not supported for single platform export");
    }
    if several && matches!(output.kind, OutputKind::Docker(_)) {
        return refuse("docker exporter does not currently support exporting manifest lists");
    }
    Ok(())
}

fn check_destination(
    destination: &Destination,
    exporter: &str,
    stdout_is_terminal: bool,
) -> Result<(), OutputError> {
    match destination {
        Destination::Stdout if stdout_is_terminal => refuse(format!(
            "dest file is required for {exporter} exporter. refusing to write to console"
        )),
        Destination::Stdout => Ok(()),
        Destination::File(path) if path.is_dir() => refuse(format!(
            "destination file {} is a directory",
            path.display()
        )),
        Destination::File(path) => check_parent(path),
    }
}

/// A file needs a directory to stand in.
fn check_parent(path: &Path) -> Result<(), OutputError> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => return Ok(()),
    };
    match std::fs::metadata(parent) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => refuse(format!(
            "invalid destination file {}: `{}` is not a directory",
            path.display(),
            parent.display()
        )),
        Err(source) => Err(OutputError::Io {
            action: "use the directory of the destination file,",
            path: parent.to_path_buf(),
            source,
        }),
    }
}

/// A directory is made when it is missing, but does not replace a file.
fn check_directory(path: &Path) -> Result<(), OutputError> {
    if path.metadata().is_ok_and(|metadata| !metadata.is_dir()) {
        return refuse(format!(
            "destination directory {} is a file",
            path.display()
        ));
    }
    Ok(())
}

fn refuse<T>(text: impl Into<String>) -> Result<T, OutputError> {
    Err(OutputError::Refused(text.into()))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use rbuild_parser::Platform;

    use super::*;
    use crate::output::fixture;
    use crate::request::OutputOptions;

    fn check(kinds: Vec<OutputKind>, platforms: usize, terminal: bool) -> Result<(), String> {
        let mut request = fixture::request();
        request.platforms = vec![Platform::host(); platforms];
        request.outputs = kinds
            .into_iter()
            .map(|kind| Output {
                kind,
                options: OutputOptions::default(),
            })
            .collect();
        validate_outputs(&request, terminal).map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_binary_goes_to_a_terminal() {
        let stdout = || Destination::Stdout;
        let tar = |terminal| check(vec![OutputKind::Tar(stdout())], 1, terminal);
        assert_eq!(tar(false), Ok(()));
        assert_eq!(
            tar(true).unwrap_err(),
            "dest file is required for tar exporter. refusing to write to console"
        );
        assert_eq!(
            check(vec![OutputKind::Oci(ArchiveTarget::Tar(stdout()))], 1, true).unwrap_err(),
            "dest file is required for oci exporter. refusing to write to console"
        );
    }

    #[test]
    fn two_outputs_to_one_place_are_refused() {
        let twice = vec![
            OutputKind::Tar(Destination::Stdout),
            OutputKind::Oci(ArchiveTarget::Tar(Destination::Stdout)),
        ];
        assert_eq!(
            check(twice, 1, false).unwrap_err(),
            "two outputs cannot both go to standard output"
        );
    }

    #[test]
    fn index_annotations_need_several_platforms() {
        let mut request = fixture::request();
        request.outputs = vec![Output {
            kind: OutputKind::Image { names: vec![] },
            options: OutputOptions {
                index_annotations: [("j".to_owned(), "w".to_owned())].into(),
                ..OutputOptions::default()
            },
        }];
        assert_eq!(
            validate_outputs(&request, false).unwrap_err().to_string(),
            "index annotations not supported for single platform export"
        );
        request.platforms = vec![Platform::host(); 2];
        assert!(validate_outputs(&request, false).is_ok());
    }

    #[test]
    fn docker_archives_hold_one_platform() {
        let kind = || OutputKind::Docker(ArchiveTarget::Tar(Destination::Stdout));
        assert_eq!(check(vec![kind()], 1, false), Ok(()));
        assert!(
            check(vec![kind()], 2, false)
                .unwrap_err()
                .contains("manifest lists")
        );
    }

    #[test]
    fn destinations_must_fit() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        std::fs::write(&file, "").unwrap();
        let to = |path: PathBuf| vec![OutputKind::Tar(Destination::File(path))];
        assert_eq!(check(to(directory.path().join("new.tar")), 1, true), Ok(()));
        assert_eq!(check(to("new.tar".into()), 1, true), Ok(()));
        assert!(
            check(to(directory.path().into()), 1, true)
                .unwrap_err()
                .contains("is a directory")
        );
        assert!(check(to(directory.path().join("x/y.tar")), 1, true).is_err());
        assert!(check(to(file.join("y.tar")), 1, true).is_err());
        assert!(
            check(vec![OutputKind::Local(file)], 1, true)
                .unwrap_err()
                .ends_with("is a file")
        );
    }
}
