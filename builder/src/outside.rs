//! The registry client of a build: its news become events, and cancelling the build ends it.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;

use rbuild_registry::{Client, ClientOptions, Notice, Notify};

use crate::cancel::Cancel;
use crate::error::BuildError;
use crate::event::{Event, EventSink, Warning};

/// Calls `action` with a client, or none without options.
pub(crate) fn with_client<T>(
    options: Option<ClientOptions>,
    events: &dyn EventSink,
    cancel: &Cancel,
    action: &dyn Fn(Option<&Client>) -> Result<T, BuildError>,
) -> Result<T, BuildError> {
    let Some(mut options) = options else {
        return action(None);
    };
    let (sender, news) = channel();
    let notify = sender.clone();
    options.notify = Some(Notify(Arc::new(move |notice: &Notice| {
        // Nobody listens any more at the very end.
        let _ = notify.send(Some(notice.clone()));
    })));
    let client = Client::new(options);
    let interrupted = client.clone();
    cancel.on_cancel(move || interrupted.interrupt());
    thread::scope(|scope| {
        scope.spawn(move || {
            while let Ok(Some(notice)) = news.recv() {
                tell(events, &notice);
            }
        });
        let result = action(Some(&client));
        // Ends the thread above; the client itself may outlive this.
        let _ = sender.send(None);
        result
    })
}

/// What passes by itself is told at once; what stays is a warning, told at the end too.
fn tell(events: &dyn EventSink, notice: &Notice) {
    let text = notice.to_string();
    events.event(match notice {
        Notice::Retry { .. } => Event::Notice { text },
        _ => Event::Warning(Warning {
            rule: None,
            message: text,
            line: None,
            url: None,
            help: None,
        }),
    });
}
