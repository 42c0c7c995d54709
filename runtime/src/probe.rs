//! What this host allows a sandbox to do.

/// One ability of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ability {
    /// What was tried, such as `overlay` or `network namespace`.
    pub name: &'static str,
    /// Whether it worked.
    pub ok: bool,
    /// Version, reason of a refusal, or what is used instead.
    pub detail: String,
}

/// All abilities that matter here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostReport {
    /// In a fixed order.
    pub abilities: Vec<Ability>,
}

/// Tries what a sandbox needs.
pub fn probe() -> HostReport {
    HostReport::default()
}
