//! Signals that end a build.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use rbuild_builder::Cancel;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Which signal has come, if any.
#[derive(Debug, Clone, Default)]
pub(crate) struct Received(Arc<AtomicI32>);

impl Received {
    /// Exit status after a signal: 128 and its number.
    pub(crate) fn exit_status(&self) -> Option<u8> {
        match self.0.load(Ordering::SeqCst) {
            0 => None,
            signal => Some(128 + signal as u8),
        }
    }
}

/// Cancels a build at the first signal; the second ends the process at once.
///
/// `tell` is called at the first one.
pub(crate) fn cancel_on_signals(
    cancel: Cancel,
    tell: impl Fn() + Send + 'static,
) -> io::Result<Received> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    let received = Received::default();
    let seen = received.clone();
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for signal in signals.forever() {
                if seen.0.swap(signal, Ordering::SeqCst) != 0 {
                    signal_hook::low_level::exit(128 + signal);
                }
                cancel.cancel();
                tell();
            }
        })?;
    Ok(received)
}
