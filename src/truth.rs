//! Options that are flags, and may be given `=true` or `=false`.

/// Options of the type `Option<bool>`, in attributes as `#[arg(long, truth = "BOOL")]`.
pub(crate) trait Truth {
    /// The flag alone means true; a value, called `name` in the help, stands behind `=`.
    fn truth(self, name: &'static str) -> Self;
}

impl Truth for clap::Arg {
    fn truth(self, name: &'static str) -> Self {
        self.value_name(name)
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .hide_possible_values(true)
    }
}
