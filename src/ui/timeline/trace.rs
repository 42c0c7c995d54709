//! The timeline as trace events, for `chrome://tracing` and Perfetto.

use serde_json::{Value, json};

use super::Timeline;

impl Timeline<'_> {
    /// A JSON object with complete events (`ph` is `X`), one thread a lane, times in microseconds.
    pub(crate) fn trace(&self) -> String {
        let mut events = vec![json!({
            "ph": "M", "pid": 1, "tid": 0, "name": "process_name",
            "args": { "name": format!("rbuild {}", self.report.dockerfile) },
        })];
        events.extend((0..self.lanes).map(|lane| {
            json!({
                "ph": "M", "pid": 1, "tid": lane + 1, "name": "thread_name",
                "args": { "name": format!("lane {}", lane + 1) },
            })
        }));
        events.extend(self.items.iter().map(|item| {
            let mut arguments = json!({ "critical": item.critical });
            if let Some(step) = item.step {
                arguments["cpuMs"] = step.cpu_ms.map_or(Value::Null, Value::from);
                arguments["bytes"] = step.size.map_or(Value::Null, Value::from);
                arguments["why"] = step.reason.clone().map_or(Value::Null, Value::from);
                arguments["line"] = step.line.map_or(Value::Null, Value::from);
            }
            json!({
                "ph": "X", "pid": 1, "tid": item.lane + 1, "name": item.name, "cat": item.word(),
                "ts": item.begin * 1000, "dur": item.length() * 1000, "args": arguments,
            })
        }));
        let whole = json!({
            "displayTimeUnit": "ms",
            "traceEvents": events,
            "otherData": { "started": self.report.started, "elapsedMs": self.report.elapsed_ms },
        });
        format!("{whole}\n")
    }
}
