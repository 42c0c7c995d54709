//! Links the released program at a fixed address.
//!
//! One that may lie anywhere has 26,000 addresses that are put right at every start, and every start
//! of a sandbox starts the program twice: a tenth of the time of `rbuild run`. Stack, heap and
//! libraries lie at random addresses all the same.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let is = |variable: &str, value: &str| std::env::var(variable).as_deref() == Ok(value);
    if is("PROFILE", "release")
        && is("CARGO_CFG_TARGET_OS", "linux")
        && is("CARGO_CFG_TARGET_ENV", "gnu")
    {
        println!("cargo::rustc-link-arg-bins=-no-pie");
    }
}
