//! `rbuild doctor`.

use rbuild_runtime::{Ground, HostReport, Isolation, SandboxError, private_network, probe};

use crate::config::Settings;
use crate::failure::Failure;
use crate::format::Value;
use crate::ground;
use crate::ui;

/// Tell what this host allows, and what to change to get more
///
/// Tries what a sandbox needs. Exit status: 0 when commands can run here, 1 when they cannot.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  rbuild doctor
  rbuild doctor --format json")]
pub(crate) struct DoctorArgs {
    /// `json` for programs
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
}

/// Tells what the host allows.
pub(crate) fn run(settings: &Settings, args: &DoctorArgs) -> Result<u8, Failure> {
    let diagnosis = Diagnosis::make(settings)?;
    match args.format.as_deref() {
        None => ui::print(&diagnosis.text())?,
        Some("json") => ui::println(&diagnosis.value().to_json())?,
        Some(other) => {
            return Err(Failure::new(format!("the format {other:?} is not known"))
                .hint("known formats: json"));
        }
    }
    Ok(u8::from(diagnosis.isolation == Isolation::Nothing))
}

struct Diagnosis {
    isolation: Isolation,
    /// Better rungs: what, why not, what to change.
    better: Vec<(Isolation, String, String)>,
    store: String,
    /// Why roots are copied instead of mounted, if they are.
    copied: Option<String>,
    report: HostReport,
}

/// What each ability is good for, in the words of a user.
const USES: [(&str, &str); 2] = [("cgroup limits", "Limits"), ("overlay", "Overlay")];

impl Diagnosis {
    fn make(settings: &Settings) -> Result<Diagnosis, Failure> {
        let ground = settings.ground.as_deref();
        Ok(Diagnosis {
            isolation: ground.map_or(Isolation::Nothing, |ground| ground.isolation),
            better: ground.map_or_else(Vec::new, better),
            store: settings.store_root()?.to_string_lossy().into_owned(),
            copied: ground::overlay_refusal(settings)?,
            report: probe(),
        })
    }

    fn text(&self) -> String {
        let mut lines = vec![
            format!(
                "Isolation:\t{}: {}",
                self.isolation,
                self.isolation.describe()
            ),
            format!("Store:\t{}", ui::control::visible(&self.store)),
        ];
        if let Some(why) = &self.copied {
            let why = ui::control::visible(why);
            lines.push(format!(
                "Roots:\tcopied for every step, since {why}: a store on a volume is faster (`--root DIR`)"
            ));
        }
        for what in self.isolation.cannot() {
            lines.push(format!("Not possible:\t{what}"));
        }
        lines.push(format!("Network:\t{}", network()));
        for (name, use_of_it) in USES {
            if let Some(ability) = self.report.ability(name) {
                let verdict = if ability.ok { "yes" } else { "no" };
                let detail = match ability.detail.as_str() {
                    "" => String::new(),
                    detail => format!(" ({})", ui::control::visible(detail)),
                };
                lines.push(format!("{use_of_it}:\t{verdict}{detail}"));
            }
        }
        let mut text = ui::table::columns(lines.iter().map(String::as_str));
        for (rung, why, hint) in &self.better {
            let (why, hint) = (ui::control::visible(why), ui::control::visible(hint));
            text.push_str(&format!(
                "\nTo get `{rung}` ({}):\n  {hint}\n  refused now: {why}\n",
                rung.describe()
            ));
        }
        text
    }

    fn value(&self) -> Value {
        let texts = |texts: &[&str]| Value::List(texts.iter().map(|text| (*text).into()).collect());
        let better = self.better.iter().map(|(rung, why, hint)| {
            Value::Struct(vec![
                ("Isolation", rung.name().into()),
                ("Refused", why.clone().into()),
                ("Change", hint.clone().into()),
            ])
        });
        let abilities = self.report.abilities.iter().map(|ability| {
            Value::Struct(vec![
                ("Name", ability.name.into()),
                ("OK", ability.ok.into()),
                ("Detail", ability.detail.clone().into()),
            ])
        });
        Value::Struct(vec![
            ("Isolation", self.isolation.name().into()),
            ("Description", self.isolation.describe().into()),
            ("NotPossible", texts(self.isolation.cannot())),
            ("CanRun", (self.isolation != Isolation::Nothing).into()),
            ("Network", network().into()),
            ("Store", self.store.clone().into()),
            (
                "RootsCopied",
                self.copied.clone().unwrap_or_default().into(),
            ),
            ("Better", Value::List(better.collect())),
            ("Abilities", Value::List(abilities.collect())),
        ])
    }
}

/// What steps and containers have of the network without further options.
fn network() -> String {
    match private_network() {
        Ok(()) => "a network of their own, with outgoing connections".to_owned(),
        Err(why) => format!("the host's: {why}"),
    }
}

/// Why each better rung was refused, and what would help.
fn better(ground: &Ground) -> Vec<(Isolation, String, String)> {
    ground
        .refused
        .iter()
        .map(|(rung, error)| match error {
            SandboxError::NotPermitted { what, hint, source } => {
                let why = format!("{what}: {}", crate::failure::io_text(source));
                (*rung, why, hint.clone())
            }
            error => (*rung, error.to_string(), String::new()),
        })
        .collect()
}

/// The one change that would let commands run, where they cannot.
pub(super) fn way_out(ground: &Ground) -> Option<String> {
    better(ground)
        .into_iter()
        .rfind(|(rung, ..)| matches!(rung, Isolation::Rootless | Isolation::SingleId))
        .map(|(_, _, hint)| hint)
}
