//! The whole pipeline on one machine: `cargo local`. Dev only.
//!
//! Nothing is simulated that can be run: the template is deployed by the real `sam deploy`, the
//! functions run as the same `bootstrap` binaries behind the same event-source mappings, the
//! listener is the binary that Fargate runs, and a real relay speaks websockets.
//!
//! - [`stack`]: starts it all, in order, and stops it
//! - [`tools`]: installs what it needs, pinned, into `.tools`
//! - [`process`]: programs it starts and stops
//! - [`aws`]: the local AWS endpoint, and the deployment onto it
//! - [`sns_proxy`]: records every publish on its way to SNS, keeps SNS's state, and injects faults
//! - [`meter`]: counts what AWS would charge for
//! - [`relay`]: a relay
//! - [`counters`]: adds up the metrics of all stages
//! - [`api`]: what clients, tests and people ask over HTTP
//! - [`demo`]: plays a client

pub mod api;
pub mod aws;
pub mod counters;
pub mod demo;
mod forward;
pub mod meter;
pub mod process;
pub mod relay;
pub mod sns_proxy;
pub mod stack;
pub mod tools;

use std::{io::Write, path::Path};

/// The project's root.
pub fn root() -> &'static Path {
    const HERE: &str = env!("CARGO_MANIFEST_DIR");
    let here = Path::new(HERE);
    here.ancestors().nth(2).unwrap_or(here)
}

/// Prints a step, so that whoever waits knows for what.
pub fn step(text: &str) {
    println!("local: {text}");
}

/// Says what a test cannot try on this machine, and why, past the test harness, which swallows the
/// output of what passes.
pub fn not_tried(what: &str) {
    let _ = writeln!(std::io::stderr(), "local: NOT TRIED: {what}");
}
