//! The story of a run: what happened, in order, with simulated times.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use nostr_push_core::Millis;

/// The time at which every run begins: 2027-01-15 08:00 UTC.
pub const START: Millis = Millis(1_800_000_000_000);

/// The lines of a story, and the names of what occurs in it.
#[derive(Debug)]
pub struct Trace {
    is_kept: bool,
    state: Mutex<TraceState>,
}

#[derive(Debug, Default)]
struct TraceState {
    lines: Vec<String>,
    names: BTreeMap<String, String>,
}

impl Trace {
    /// An empty story. Its lines are kept if `is_kept`.
    pub fn new(is_kept: bool) -> Self {
        Self {
            is_kept,
            state: Mutex::default(),
        }
    }

    /// Adds a line.
    pub fn tell(&self, now: Millis, line: impl FnOnce() -> String) {
        if self.is_kept {
            let line = format!("{} {}", time(now), line());
            self.state().lines.push(line);
        }
    }

    /// Gives something a name, such as a pubkey, an event id or an endpoint.
    pub fn name(&self, thing: impl Into<String>, name: impl Into<String>) {
        self.state().names.insert(thing.into(), name.into());
    }

    /// The name of something, or its first 8 characters.
    pub fn name_of(&self, thing: &str) -> String {
        let short = || thing.chars().take(8).collect();
        self.state().names.get(thing).cloned().unwrap_or_else(short)
    }

    /// The lines so far.
    pub fn lines(&self) -> Vec<String> {
        self.state().lines.clone()
    }

    fn state(&self) -> MutexGuard<'_, TraceState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A time as days and time of day since the start of the run.
pub fn time(at: Millis) -> String {
    let ms = at.0.saturating_sub(START.0);
    let (s, ms) = (ms / 1000, ms % 1000);
    let (day, h, m, s) = (s / 86_400, s / 3600 % 24, s / 60 % 60, s % 60);
    format!("day {day} {h:02}:{m:02}:{s:02}.{ms:03}")
}
