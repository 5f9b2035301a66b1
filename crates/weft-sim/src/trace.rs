//! What happened in a simulation: one line each, with the simulated time and who said it.

use crate::{Owner, Tasks};
use std::{
    fmt::{self, Write as _},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{Arc, Mutex, PoisonError},
};
use tokio::time::Instant;
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

/// The lines so far. Clones are the same.
#[derive(Clone)]
pub struct Trace(Arc<Mutex<Lines>>);

struct Lines {
    began: Instant,
    said: Vec<String>,
    hasher: DefaultHasher,
}

impl Trace {
    /// An empty one; the time counts from now.
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(Lines {
            began: Instant::now(),
            said: Vec::new(),
            hasher: DefaultHasher::new(),
        })))
    }

    /// Adds a line.
    pub fn say(&self, who: impl fmt::Display, what: impl fmt::Display) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let line = format!("{:>9.3} {who:<5} {what}", lines.began.elapsed().as_secs_f64());
        line.hash(&mut lines.hasher);
        lines.said.push(line);
    }

    /// All lines.
    pub fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).said.clone()
    }

    /// A number that stands for all of it.
    pub fn hash(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).hasher.finish()
    }
}

impl Default for Trace {
    fn default() -> Self {
        Self::new()
    }
}

/// The daemons' log lines go into the trace.
pub struct LogToTrace {
    /// Where to.
    pub trace: Trace,
    /// Who is speaking.
    pub tasks: Tasks,
}

impl Subscriber for LogToTrace {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= Level::INFO && metadata.target().starts_with("weft")
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, event: &Event<'_>) {
        let mut line =
            Line { level: *event.metadata().level(), message: String::new(), fields: String::new() };
        event.record(&mut line);
        let who = match self.tasks.current() {
            Owner::World => "world".to_owned(),
            Owner::Host(n) => format!("h{n}"),
        };
        self.trace.say(who, format_args!("{} {}{}", line.level, line.message, line.fields));
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

struct Line {
    level: Level,
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing into a string does not fail.
        let _ = if field.name() == "message" {
            write!(self.message, "{value:?}")
        } else {
            write!(self.fields, " {}={value:?}", field.name())
        };
    }
}
