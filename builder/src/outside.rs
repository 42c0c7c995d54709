//! The registry clients of a build: their news become events, and cancelling the build ends them.
//!
//! Caches have a client of their own, which gives up sooner: a build can do without them.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use rbuild_registry::{Client, ClientOptions, Notice, Notify, RetryPolicy, Timeouts};

use crate::cancel::Cancel;
use crate::error::BuildError;
use crate::event::{Event, EventSink, Warning};

/// The clients of a build.
#[derive(Debug)]
pub(crate) struct Clients {
    /// For images.
    pub(crate) images: Client,
    /// For caches.
    pub(crate) caches: Client,
}

/// What a cache is worth waiting for.
fn for_caches(options: &mut ClientOptions) {
    options.retry = RetryPolicy {
        tries: 3,
        budget: Duration::from_secs(20),
        ..options.retry
    };
    options.timeouts = Timeouts {
        connect: Duration::from_secs(5),
        stall: Duration::from_secs(10),
        ..options.timeouts
    };
}

/// Calls `action` with clients, or none without options.
pub(crate) fn with_clients<T>(
    options: Option<ClientOptions>,
    events: &dyn EventSink,
    cancel: &Cancel,
    action: &dyn Fn(Option<&Clients>) -> Result<T, BuildError>,
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
    let images = Client::new(options);
    let clients = Clients {
        caches: images.sibling(for_caches),
        images,
    };
    for client in [&clients.images, &clients.caches] {
        let interrupted = client.clone();
        cancel.on_cancel(move || interrupted.interrupt());
    }
    thread::scope(|scope| {
        scope.spawn(move || {
            while let Ok(Some(notice)) = news.recv() {
                tell(events, &notice);
            }
        });
        let result = action(Some(&clients));
        // Ends the thread above; the clients themselves may outlive this.
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
