//! The options of a container's life: when it is started again, how it is asked whether it is well, what
//! becomes of what it writes.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::time::Duration;

use rbuild_builder::image::{ContainerConfig, HealthConfig};
use rbuild_parser::{parse_duration, parse_size};
use rbuild_runtime::container::{HealthCheck, LogOptions, OnFailure, RestartPolicy};
use rbuild_runtime::{Joining, Process, Sandbox};

use crate::failure::Failure;

/// Where no time is given, in nanoseconds.
const INTERVAL: i64 = 30_000_000_000;
const TIMEOUT: i64 = 30_000_000_000;
const START_INTERVAL: i64 = 5_000_000_000;
const RETRIES: u32 = 3;

/// The options.
#[derive(Debug, clap::Args)]
pub(crate) struct LifeArgs {
    /// When it is started again: `no`, `on-failure[:N]`, `always` or `unless-stopped`
    #[arg(
        long,
        value_name = "POLICY",
        default_value = "no",
        hide_default_value = true
    )]
    restart: String,

    /// Command that tells whether it is well, for a shell
    #[arg(long, value_name = "COMMAND", help_heading = "Health")]
    health_cmd: Option<String>,
    /// Time between two checks [default: 30s]
    #[arg(long, value_name = "TIME", help_heading = "Health")]
    health_interval: Option<String>,
    /// Time that a check may take [default: 30s]
    #[arg(long, value_name = "TIME", help_heading = "Health")]
    health_timeout: Option<String>,
    /// Failures in a row that make it unhealthy [default: 3]
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        help_heading = "Health"
    )]
    health_retries: Option<i64>,
    /// Time after the start in which failures do not count
    #[arg(long, value_name = "TIME", help_heading = "Health")]
    health_start_period: Option<String>,
    /// Time between two checks meanwhile [default: 5s]
    #[arg(long, value_name = "TIME", help_heading = "Health")]
    health_start_interval: Option<String>,
    /// What is done when it has become unhealthy: `none`, `kill`, `restart` or `stop`
    #[arg(long, value_name = "ACTION", help_heading = "Health")]
    health_on_failure: Option<String>,
    /// Do not check, whatever the image says
    #[arg(long, help_heading = "Health")]
    no_healthcheck: bool,

    /// What becomes of what it writes: `json-file`, `local` or `none`
    #[arg(long, value_name = "DRIVER", help_heading = "Log")]
    log_driver: Option<String>,
    /// `max-size=SIZE`, `max-file=N`, `labels=NAME,…` or `env=NAME,…`
    #[arg(long, value_name = "NAME=VALUE", help_heading = "Log")]
    log_opt: Vec<String>,
}

impl LifeArgs {
    /// Whether any of these options makes a container that has to be listed.
    pub(crate) fn needs_monitor(&self) -> bool {
        let health = [
            &self.health_cmd,
            &self.health_interval,
            &self.health_timeout,
            &self.health_start_period,
            &self.health_start_interval,
            &self.health_on_failure,
            &self.log_driver,
        ];
        self.restart != "no"
            || health.iter().any(|option| option.is_some())
            || self.health_retries.is_some()
            || !self.log_opt.is_empty()
    }

    /// `--restart`.
    pub(crate) fn restart(&self, remove: bool) -> Result<RestartPolicy, Failure> {
        let policy = RestartPolicy::parse(&self.restart)
            .map_err(|reason| Failure::new(format!("invalid restart policy: {reason}")))?;
        if remove && policy != RestartPolicy::No {
            return Err(Failure::new(
                "conflicting options: cannot specify both --restart and --rm",
            ));
        }
        Ok(policy)
    }

    /// The settings of the health check: those of the image, changed by the options.
    pub(crate) fn health_config(
        &self,
        config: &ContainerConfig,
    ) -> Result<Option<HealthConfig>, Failure> {
        let time = |flag: &str, text: &Option<String>, least: i64| -> Result<i64, Failure> {
            let Some(text) = text else { return Ok(0) };
            let time = parse_duration(text)
                .map_err(|reason| Failure::new(format!("invalid --{flag}: {reason}")))?;
            if time < 0 || (time != 0 && time < least) {
                return Err(Failure::new(format!("--{flag} cannot be less than 1ms"))
                    .hint("0 takes the usual time"));
            }
            Ok(time)
        };
        let given = HealthConfig {
            test: match &self.health_cmd {
                Some(command) => vec!["CMD-SHELL".to_owned(), command.clone()],
                None => Vec::new(),
            },
            interval: time("health-interval", &self.health_interval, 1_000_000)?,
            timeout: time("health-timeout", &self.health_timeout, 1_000_000)?,
            start_period: time("health-start-period", &self.health_start_period, 1_000_000)?,
            start_interval: time(
                "health-start-interval",
                &self.health_start_interval,
                1_000_000,
            )?,
            retries: self.health_retries.unwrap_or(0),
        };
        if given.retries < 0 {
            return Err(Failure::new("--health-retries cannot be negative"));
        }
        if self.no_healthcheck {
            if given != HealthConfig::default() {
                return Err(Failure::new(
                    "--no-healthcheck conflicts with --health-* options",
                ));
            }
            return Ok(None);
        }
        let of_image = config.healthcheck.clone().unwrap_or_default();
        let or = |given: i64, of_image: i64| if given == 0 { of_image } else { given };
        let merged = HealthConfig {
            test: if given.test.is_empty() {
                of_image.test
            } else {
                given.test
            },
            interval: or(given.interval, of_image.interval),
            timeout: or(given.timeout, of_image.timeout),
            start_period: or(given.start_period, of_image.start_period),
            start_interval: or(given.start_interval, of_image.start_interval),
            retries: or(given.retries, of_image.retries),
        };
        let checks = match merged.test.first().map(String::as_str) {
            None | Some("NONE") => false,
            Some("CMD" | "CMD-SHELL") => merged.test.len() > 1,
            Some(other) => {
                return Err(Failure::new(format!(
                    "the health check of the image has an unknown form: {other:?}"
                ))
                .hint("known forms: NONE, CMD, CMD-SHELL"));
            }
        };
        Ok(checks.then_some(merged))
    }

    /// What the monitor does for a health check with these settings.
    pub(crate) fn health(
        &self,
        settings: Option<&HealthConfig>,
        config: &ContainerConfig,
        sandbox: &Sandbox,
    ) -> Result<Option<HealthCheck>, Failure> {
        let on_failure = match self.health_on_failure.as_deref() {
            None | Some("none") => OnFailure::None,
            Some("kill") => OnFailure::Kill,
            Some("restart") => OnFailure::Restart,
            Some("stop") => OnFailure::Stop,
            Some(other) => {
                return Err(Failure::new(format!(
                    "invalid value {other:?} for `--health-on-failure`"
                ))
                .hint("known values: none, kill, restart, stop"));
            }
        };
        let Some(settings) = settings else {
            return Ok(None);
        };
        let (form, words) = settings.test.split_first().unzip();
        let words = words.unwrap_or_default().iter().cloned();
        let args: Vec<String> = if form.is_some_and(|form| form == "CMD-SHELL") {
            let shell = match &config.shell {
                Some(shell) if !shell.is_empty() => shell.clone(),
                _ => vec!["/bin/sh".to_owned(), "-c".to_owned()],
            };
            shell.into_iter().chain(words).collect()
        } else {
            words.collect()
        };
        let time = |given: i64, usual: i64| {
            Duration::from_nanos(if given > 0 { given } else { usual }.unsigned_abs())
        };
        Ok(Some(HealthCheck {
            check: Joining {
                process: Process {
                    args: args.into_iter().map(OsString::from).collect(),
                    terminal: false,
                    ..sandbox.process.clone()
                },
                security: sandbox.security.clone(),
                network: sandbox.network.clone(),
                of_host: sandbox.of_host,
                rlimits: sandbox.rlimits.clone(),
            },
            interval: time(settings.interval, INTERVAL),
            timeout: time(settings.timeout, TIMEOUT),
            retries: u32::try_from(settings.retries)
                .ok()
                .filter(|retries| *retries > 0)
                .unwrap_or(RETRIES),
            start_period: time(settings.start_period, 0),
            start_interval: time(settings.start_interval, START_INTERVAL),
            on_failure,
        }))
    }

    /// `--log-driver` and `--log-opt`.
    pub(crate) fn log(
        &self,
        labels: &BTreeMap<String, String>,
        sandbox: &Sandbox,
    ) -> Result<LogOptions, Failure> {
        let driver = self.log_driver.as_deref().unwrap_or("json-file");
        let mut log = LogOptions {
            driver: driver.to_owned(),
            ..LogOptions::default()
        };
        match driver {
            "json-file" | "none" => {}
            "local" => {
                log.max_size = Some(20 << 20);
                log.max_file = 5;
            }
            other => {
                return Err(Failure::unsupported(&format!("the log driver `{other}`")).hint(
                    "known drivers: json-file, local, none; `rbuild logs -f` passes a log on to \
                     other programs",
                ));
            }
        }
        let environment = |name: &str| {
            let words = sandbox.process.env.iter();
            let mut words = words.filter_map(|word| word.to_str()?.split_once('='));
            words
                .find(|(known, _)| *known == name)
                .map(|(_, value)| value.to_owned())
        };
        for option in &self.log_opt {
            let Some((name, value)) = option.split_once('=') else {
                return Err(Failure::new(format!("invalid --log-opt {option:?}"))
                    .hint("it must have the form name=value"));
            };
            let known = driver != "none";
            match name {
                "max-size" if known && value != "-1" => {
                    let size = parse_size(value)
                        .map_err(|reason| Failure::new(format!("invalid max-size: {reason}")))?;
                    log.max_size = Some(size).filter(|size| *size > 0);
                }
                "max-size" if known => log.max_size = None,
                "max-file" if known => {
                    let count = value.parse().ok().filter(|count| *count > 0);
                    log.max_file = count.ok_or_else(|| {
                        Failure::new("max-file cannot be less than 1")
                            .hint("it is a number of files")
                    })?;
                }
                "labels" if known => {
                    let names = value.split(',');
                    let found = names.filter_map(|name| labels.get_key_value(name));
                    let found = found.map(|(name, value)| (name.clone(), value.clone()));
                    log.attributes.extend(found);
                }
                "env" if known => {
                    let names = value.split(',');
                    let found =
                        names.filter_map(|name| Some((name.to_owned(), environment(name)?)));
                    log.attributes.extend(found);
                }
                other => {
                    return Err(Failure::new(format!(
                        "unknown log opt '{other}' for {driver} log driver"
                    ))
                    .hint(
                        "known options of json-file and local: max-size, max-file, labels, env",
                    ));
                }
            }
        }
        if log.max_file > 1 && log.max_size.is_none() && driver == "json-file" {
            return Err(Failure::new("max-file cannot be used without max-size"));
        }
        Ok(log)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use rbuild_runtime::RootFs;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        life: LifeArgs,
    }

    fn parse(line: &str) -> LifeArgs {
        Line::parse_from(["x"].into_iter().chain(line.split_whitespace())).life
    }

    fn image() -> ContainerConfig {
        ContainerConfig {
            healthcheck: Some(HealthConfig {
                test: vec!["CMD".into(), "ok".into()],
                interval: 7,
                retries: 9,
                ..HealthConfig::default()
            }),
            ..ContainerConfig::default()
        }
    }

    #[test]
    fn options_change_the_image_s_check() {
        let config = |line: &str| parse(line).health_config(&image());
        assert_eq!(config("").unwrap().unwrap().interval, 7);
        let changed = config("--health-interval 2s --health-cmd a")
            .unwrap()
            .unwrap();
        assert_eq!((changed.interval, changed.retries), (2_000_000_000, 9));
        assert_eq!(changed.test, ["CMD-SHELL", "a"]);
        assert_eq!(config("--no-healthcheck").unwrap(), None);
        for wrong in [
            "--no-healthcheck --health-cmd a",
            "--health-interval 1us",
            "--health-retries -1",
            "--health-timeout soon",
        ] {
            assert!(config(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_check_runs_as_the_container_does() {
        let mut sandbox = Sandbox::new(RootFs::default(), ["main"]);
        sandbox.process.terminal = true;
        let life = parse("--health-cmd check");
        let settings = life.health_config(&ContainerConfig::default()).unwrap();
        let check = life
            .health(settings.as_ref(), &ContainerConfig::default(), &sandbox)
            .unwrap()
            .unwrap();
        assert_eq!(check.check.process.args, ["/bin/sh", "-c", "check"]);
        assert!(!check.check.process.terminal);
        assert_eq!(
            (check.interval, check.retries),
            (Duration::from_secs(30), 3)
        );
        assert_eq!(check.start_period, Duration::ZERO);
    }

    #[test]
    fn log_options_belong_to_drivers() {
        let sandbox = Sandbox::new(RootFs::default(), ["main"]);
        let log = |line: &str| parse(line).log(&BTreeMap::new(), &sandbox);
        let local = log("--log-driver local").unwrap();
        assert_eq!((local.max_size, local.max_file), (Some(20 << 20), 5));
        let file = log("--log-opt max-size=10k --log-opt max-file=3").unwrap();
        assert_eq!((file.max_size, file.max_file), (Some(10 << 10), 3));
        for wrong in [
            "--log-driver syslog",
            "--log-opt max-file=3",
            "--log-opt max-file=0 --log-opt max-size=1",
            "--log-opt max-size=much",
            "--log-opt nope=1",
            "--log-driver none --log-opt max-size=1",
        ] {
            assert!(log(wrong).is_err(), "{wrong}");
        }
    }
}
