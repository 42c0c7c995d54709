//! The options of a build.

use std::path::PathBuf;

use crate::commands::explain::ExplainFormat;
use crate::failure::status;
use crate::limits::LimitArgs;
use crate::refused::{Refused, RefusedList, RefusedOption, flag, value};
use crate::registries::RegistryArgs;
use crate::rights::RightsArgs;
use crate::truth::Truth as _;
use crate::ui::progress::ProgressMode;

const WHAT: &str = "What to build";
const STEPS: &str = "How steps run";
const CACHE: &str = "Cache";
const RESULT: &str = "Result";
const REPORT: &str = "Report";

/// What to do when a step fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum OnError {
    /// End with the error.
    Fail,
    /// End with the error after a shell.
    Shell,
}

/// What is to be built or checked: options that both have.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct WhatArgs {
    /// Build context: a directory, the address of a git repository or of an archive, or `-` for an
    /// archive or Dockerfile from standard input
    #[arg(value_name = "PATH")]
    pub(in crate::commands) context: Option<String>,

    /// Dockerfile; `-` reads standard input [default: `Dockerfile` in PATH]
    #[arg(short, long, value_name = "FILE", help_heading = WHAT)]
    pub(in crate::commands) file: Option<String>,
    /// Stage to build [default: the last one]
    #[arg(long, value_name = "STAGE", help_heading = WHAT)]
    pub(in crate::commands) target: Option<String>,
    /// Set an ARG; `NAME` alone takes the value from the environment
    #[arg(long, value_name = "NAME[=VALUE]", help_heading = WHAT)]
    pub(in crate::commands) build_arg: Vec<String>,
    /// Set ARGs from a file of `NAME=VALUE` lines
    #[arg(long, value_name = "FILE", help_heading = WHAT)]
    pub(in crate::commands) build_arg_file: Vec<PathBuf>,
    /// Time of the image in seconds since 1970, as the build argument `SOURCE_DATE_EPOCH`
    #[arg(long, value_name = "SECONDS", help_heading = WHAT)]
    pub(in crate::commands) source_date_epoch: Option<String>,
    /// Name another context: a directory, a git or web address, `oci-layout://DIR[:TAG][@DIGEST]`,
    /// `docker-image://IMAGE`
    #[arg(long, value_name = "NAME=SOURCE", help_heading = WHAT)]
    pub(in crate::commands) build_context: Vec<String>,
    /// Platform to build for [default: this host's]
    #[arg(long, value_name = "OS/ARCH,…", value_delimiter = ',', help_heading = WHAT)]
    pub(in crate::commands) platform: Vec<String>,
    /// Architecture to build for, as a part of `--platform`
    #[arg(long, value_name = "ARCH", help_heading = WHAT)]
    pub(in crate::commands) arch: Option<String>,
    /// Operating system to build for, as a part of `--platform`
    #[arg(long, value_name = "OS", help_heading = WHAT)]
    pub(in crate::commands) os: Option<String>,
    /// Variant of the architecture, as a part of `--platform`
    #[arg(long, value_name = "VARIANT", help_heading = WHAT)]
    pub(in crate::commands) variant: Option<String>,
    /// Take this instead of the image of the first FROM
    #[arg(long, value_name = "IMAGE", help_heading = WHAT)]
    pub(in crate::commands) from: Option<String>,
}

/// Build an image from a Dockerfile
///
/// PATH is the directory that COPY and ADD read from, the context. Without `-f`, its `Dockerfile`
/// is built. Without `-o`, the image goes into the store.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "rbuild [build] [OPTIONS] PATH\n       rbuild [build] [OPTIONS] URL\n       rbuild [build] [OPTIONS] - < Dockerfile",
    after_help = "Examples:
  rbuild -t app .
  rbuild -t app https://example.org/app.git#v1.2:docker
  git archive HEAD | rbuild -t app -
  rbuild -t app:1.2 --build-arg VERSION=1.2 -f docker/app.Dockerfile .
  rbuild --target test --no-cache-filter test .
  rbuild -t registry.example/team/app --push .
  rbuild -o type=oci,dest=app.tar .
  rbuild -o out .
  rbuild --secret id=token,src=token.txt --build-context base=oci-layout://base .

Exit status: 0 when the image was built, 1 when it was not, 2 for a wrong command line, 130 after
Ctrl-C."
)]
pub(crate) struct BuildArgs {
    #[command(flatten)]
    pub(super) what: WhatArgs,
    /// Ignore file, instead of the `.dockerignore` of the Dockerfile or the context
    #[arg(long, value_name = "FILE", help_heading = WHAT)]
    pub(super) ignorefile: Option<PathBuf>,

    /// Give steps a secret: `id=ID[,src=FILE|,env=NAME]`
    #[arg(long, value_name = "SECRET", help_heading = STEPS)]
    pub(super) secret: Vec<String>,
    /// Forward an SSH agent, or keys: `default`, `ID=SOCKET` or `ID=KEY[,KEY…]`
    #[arg(long, value_name = "ID[=PATH,…]", help_heading = STEPS)]
    pub(super) ssh: Vec<String>,
    /// Largest file that ADD or a context may download [default: 64g]
    #[arg(long, value_name = "SIZE", help_heading = STEPS)]
    pub(super) download_limit: Option<String>,
    /// Network of RUN: `default`, `none` or `host`
    #[arg(long, value_name = "MODE", help_heading = STEPS)]
    pub(super) network: Option<String>,
    /// Add a line to `/etc/hosts` of RUN
    #[arg(long, value_name = "NAME:ADDRESS", help_heading = STEPS)]
    pub(super) add_host: Vec<String>,
    /// Mount a file or directory of this machine in every RUN; `:ro` for reading only
    #[arg(short, long, value_name = "SOURCE:TARGET", help_heading = STEPS)]
    pub(super) volume: Vec<String>,
    /// Name server of RUN instead of the host's; `none` keeps the image's `/etc/resolv.conf`
    #[arg(long, value_name = "ADDRESS", help_heading = STEPS)]
    pub(super) dns: Vec<String>,
    /// Option for the `/etc/resolv.conf` of RUN
    #[arg(long, value_name = "OPTION", help_heading = STEPS)]
    pub(super) dns_option: Vec<String>,
    /// Search domain of RUN; `.` for none
    #[arg(long, value_name = "DOMAIN", help_heading = STEPS)]
    pub(super) dns_search: Vec<String>,
    /// Keep the image's `/etc/hosts` in RUN
    #[arg(long, help_heading = STEPS)]
    pub(super) no_hosts: bool,
    /// Show RUN the proxies that the environment names
    #[arg(
        long,
        truth = "BOOL",
        help_heading = STEPS
    )]
    pub(super) http_proxy: Option<bool>,
    /// Grant a right: `network.host`, `security.insecure`
    #[arg(long, value_name = "RIGHT", value_delimiter = ',', help_heading = STEPS)]
    pub(super) allow: Vec<String>,
    /// Size of `/dev/shm` in RUN [default: 64m]
    #[arg(long, value_name = "SIZE", help_heading = STEPS)]
    pub(super) shm_size: Option<String>,
    /// Limit a resource of RUN, such as `nofile=1024:2048`
    #[arg(long, value_name = "NAME=SOFT[:HARD]", help_heading = STEPS)]
    pub(super) ulimit: Vec<String>,
    /// What steps have around them: `default` (the best that this host allows), `root`, `rootless`,
    /// `single-id`, `nested`, `chroot` or `none`
    #[arg(long, value_name = "ISOLATION", help_heading = STEPS)]
    pub(crate) isolation: Option<String>,
    /// Steps at once; 0 means as many as are useful
    #[arg(short, long, value_name = "N", help_heading = STEPS)]
    pub(super) jobs: Option<usize>,

    /// Ask registries for base images: `always` (the flag alone), `missing`, `newer` or `never`
    #[arg(
        long,
        value_name = "WHEN",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "always",
        help_heading = CACHE
    )]
    pub(super) pull: Option<String>,
    /// Look results up in a cache too: a name, or `type=registry|records|local,…[,max-age=AGE]`
    #[arg(long, value_name = "CACHE", help_heading = CACHE)]
    pub(super) cache_from: Vec<String>,
    /// Write results to a cache: `type=registry|records|local|inline,…[,mode=max]`
    #[arg(long, value_name = "CACHE", help_heading = CACHE)]
    pub(super) cache_to: Vec<String>,
    /// Take no results from `--cache-from` that are older
    #[arg(long, value_name = "AGE", help_heading = CACHE)]
    pub(super) cache_ttl: Option<String>,
    /// Run all steps again
    #[arg(long, help_heading = CACHE)]
    pub(super) no_cache: bool,
    /// Run the steps of these stages again
    #[arg(long, value_name = "STAGE,…", value_delimiter = ',', help_heading = CACHE)]
    pub(super) no_cache_filter: Vec<String>,

    /// Name the image
    #[arg(short, long, value_name = "NAME[:TAG]", help_heading = RESULT)]
    pub(in crate::commands) tag: Vec<String>,
    /// Write the result: a directory, `-` for a tar, or `type=image|registry|oci|docker|tar|local|cacheonly,…`
    #[arg(
        short,
        long,
        value_name = "OUTPUT",
        allow_hyphen_values = true,
        help_heading = RESULT
    )]
    pub(in crate::commands) output: Vec<String>,
    /// Push the image to the registries of its names, as `-o type=registry` does
    #[arg(long, help_heading = RESULT)]
    pub(in crate::commands) push: bool,
    /// Store the image too, when there are other outputs
    #[arg(long, help_heading = RESULT)]
    pub(super) load: bool,
    /// Give files of new layers that are younger than `SOURCE_DATE_EPOCH` that time
    #[arg(long, help_heading = RESULT)]
    pub(super) rewrite_timestamp: bool,
    /// Let nothing of when and where the build runs show in the image: one time for all new files
    /// (`SOURCE_DATE_EPOCH`, else 1980-01-02), blobs compressed here
    #[arg(long, help_heading = RESULT)]
    pub(in crate::commands) reproducible: bool,
    /// As `--reproducible`, with this time in seconds since 1970
    #[arg(
        long,
        value_name = "SECONDS",
        conflicts_with = "source_date_epoch",
        help_heading = RESULT
    )]
    pub(super) timestamp: Option<i64>,
    /// Put the layers that the build adds together into one
    #[arg(long, help_heading = RESULT)]
    pub(super) squash: bool,
    /// Put all layers together into one, the base image's too
    #[arg(long, conflicts_with = "squash", help_heading = RESULT)]
    pub(super) squash_all: bool,
    /// `--layers=false`: one layer for the whole build, as with `--squash`
    #[arg(
        long,
        truth = "BOOL",
        help_heading = RESULT
    )]
    pub(super) layers: Option<bool>,
    /// Set a variable at the start of the build, as ENV behind FROM would
    #[arg(long, value_name = "NAME[=VALUE]", help_heading = RESULT)]
    pub(super) env: Vec<String>,
    /// Leave a variable out of the image
    #[arg(long, value_name = "NAME", help_heading = RESULT)]
    pub(super) unsetenv: Vec<String>,
    /// Leave a label out of the image
    #[arg(long, value_name = "NAME", help_heading = RESULT)]
    pub(super) unsetlabel: Vec<String>,
    /// `--inherit-labels=false`: leave the base image's labels out
    #[arg(
        long,
        truth = "BOOL",
        help_heading = RESULT
    )]
    pub(super) inherit_labels: Option<bool>,
    /// Leave the history out of the image
    #[arg(long, help_heading = RESULT)]
    pub(super) omit_history: bool,
    /// Compression of layers for registries and archives: `gzip`, `zstd` or `uncompressed`
    #[arg(long, value_name = "KIND", help_heading = RESULT)]
    pub(super) compression_format: Option<String>,
    /// Level of that compression
    #[arg(long, value_name = "LEVEL", allow_hyphen_values = true, help_heading = RESULT)]
    pub(super) compression_level: Option<String>,
    /// Compress layers anew that are there in another compression
    #[arg(long, help_heading = RESULT)]
    pub(super) force_compression: bool,
    /// As `--compression-format=uncompressed`
    #[arg(long, conflicts_with = "compression_format", help_heading = RESULT)]
    pub(super) disable_compression: bool,
    /// Media types of the image: `oci` or `docker` [default: oci]
    #[arg(long, value_name = "FORMAT", help_heading = RESULT)]
    pub(super) format: Option<String>,
    /// Add a label to the image
    #[arg(long, value_name = "NAME=VALUE", help_heading = RESULT)]
    pub(super) label: Vec<String>,
    /// Add an annotation to the manifest
    #[arg(long, value_name = "[LEVEL:]NAME=VALUE", help_heading = RESULT)]
    pub(super) annotation: Vec<String>,

    /// Show progress as `auto`, `tty`, `plain`, `quiet` or `rawjson`
    #[arg(
        long,
        value_name = "MODE",
        value_enum,
        hide_possible_values = true,
        help_heading = REPORT
    )]
    pub(super) progress: Option<ProgressMode>,
    /// Write the progress to a file, as plain lines
    #[arg(long, value_name = "FILE", help_heading = REPORT)]
    pub(super) logfile: Option<PathBuf>,
    /// Print nothing but the image ID
    #[arg(short, long, help_heading = REPORT)]
    pub(super) quiet: bool,
    /// When a step fails: `shell` opens a shell in what it left, as `rbuild debug` does
    #[arg(long, value_name = "ACTION", value_enum, hide_possible_values = true, help_heading = REPORT)]
    pub(super) on_error: Option<OnError>,
    /// Tell afterwards why each step ran or did not, on standard output; `--explain=json` for
    /// programs
    #[arg(
        long,
        value_name = "FORMAT",
        value_enum,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "text",
        hide_possible_values = true,
        help_heading = REPORT
    )]
    pub(super) explain: Option<ExplainFormat>,
    /// Write the image ID to a file
    #[arg(long, value_name = "FILE", help_heading = REPORT)]
    pub(super) iidfile: Option<PathBuf>,
    /// Write the image ID to a file, without `sha256:`
    #[arg(long, value_name = "FILE", help_heading = REPORT)]
    pub(super) iidfile_raw: Option<PathBuf>,
    /// Write digests of the result to a file, as JSON
    #[arg(long, value_name = "FILE", help_heading = REPORT)]
    pub(super) metadata_file: Option<PathBuf>,

    /// Check the Dockerfile instead of building, as `rbuild check` does
    #[arg(long, help_heading = REPORT)]
    pub(in crate::commands) check: bool,
    /// Instead of building: `check`, `outline` (arguments and secrets of a target) or `targets`; with
    /// `,format=json` for programs
    #[arg(long, value_name = "METHOD", help_heading = REPORT)]
    pub(in crate::commands) call: Option<String>,

    #[command(flatten)]
    pub(super) rights: RightsArgs,
    #[command(flatten)]
    pub(super) limits: LimitArgs,
    /// A limit as NAME=VALUE: memory, memory-swap, cpu-shares, cpu-period, cpu-quota, cpuset-cpus,
    /// cpuset-mems, pids
    #[arg(long, value_name = "NAME=VALUE", help_heading = "Limits")]
    pub(super) resource: Vec<String>,

    #[command(flatten)]
    pub(super) registries: RegistryArgs,

    #[command(flatten)]
    pub(in crate::commands) refused: Refused<BuildRefused>,
}

impl BuildArgs {
    /// What is to be built.
    pub(in crate::commands) fn what(&self) -> &WhatArgs {
        &self.what
    }
}

/// Options of `docker build`, `docker buildx build`, `podman build` and `buildah build` that are not
/// there yet.
#[derive(Debug, Clone, Default)]
pub(crate) struct BuildRefused;

impl RefusedList for BuildRefused {
    const STATUS: u8 = status::ERROR;
    const OPTIONS: &'static [RefusedOption] = &[
        flag("provenance").harmless(&["false"]),
        flag("sbom").harmless(&["false"]),
        flag("rm").harmless(&["true"]),
        flag("force-rm").harmless(&["true", "false"]),
        flag("skip-unused-stages").harmless(&["true"]),
        flag("compress").harmless(&["true", "false"]),
        flag("disable-content-trust").harmless(&["true", "false"]),
        flag("all-platforms"),
        flag("no-hostname").harmless(&["true", "false"]),
        flag("stdin"),
        flag("identity-label"),
        flag("inherit-annotations").harmless(&["true"]),
        flag("save-stages"),
        flag("stage-labels"),
        flag("logsplit"),
        value("attest"),
        value("policy"),
        value("source-policy-file"),
        value("builder").harmless(&["default"]),
        value("os-version"),
        value("userns"),
        value("userns-uid-map"),
        value("userns-gid-map"),
        value("pid").harmless(&["private"]),
        value("ipc").harmless(&["private"]),
        value("uts").harmless(&["private"]),
        value("cgroupns").harmless(&["private"]),
        value("device"),
        value("group-add"),
        value("hooks-dir"),
        value("runtime"),
        value("runtime-flag"),
        value("mount"),
        value("manifest"),
        value("layer-label"),
        value("creds"),
        value("retry"),
        value("retry-delay"),
        value("sign-by"),
        value("decryption-key"),
        value("signature-policy"),
    ];
}
