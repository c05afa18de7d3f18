//! The whole pipeline on one machine: `cargo local`. Dev only.
//!
//! Everything that can run locally is the real program. The real `sam deploy` deploys the template.
//! The functions run as the same `bootstrap` binaries behind the same event-source mappings, the
//! listener is the binary that Fargate runs, and a real relay speaks websockets. `docs/local.md`
//! lists the differences from AWS.
//!
//! - [`stack`]: starts all parts in order, and stops them
//! - [`tools`]: installs the tools, pinned, into `.tools`
//! - [`packages`]: Debian packages that single tests need
//! - [`process`]: programs that are started and stopped
//! - [`aws`]: the local AWS endpoint, and the deployment to it
//! - [`sns_proxy`]: records every publish to SNS, keeps SNS's state, and injects faults
//! - [`proxy`]: meters and records the service's requests to AWS, and makes the endpoint throttle,
//!   delay and repeat
//! - [`relay`]: a relay
//! - [`counters`]: adds up the metrics of all stages
//! - [`api`]: the HTTP interface
//! - [`demo`]: acts as a client

pub mod api;
pub mod aws;
pub mod counters;
pub mod demo;
mod forward;
pub mod packages;
pub mod process;
pub mod proxy;
pub mod relay;
pub mod sns_proxy;
pub mod stack;
pub mod tools;

use std::{io::Write, path::Path};

/// The root of the repository.
pub fn root() -> &'static Path {
    const HERE: &str = env!("CARGO_MANIFEST_DIR");
    let here = Path::new(HERE);
    here.ancestors().nth(2).unwrap_or(here)
}

/// Prints a step.
pub fn step(text: &str) {
    println!("local: {text}");
}

/// Reports what a test skips on this machine, and why.
///
/// The report goes to the standard error itself, because the test harness hides what a passing test
/// prints with `println!`.
pub fn report_skipped(what: &str) {
    let _ = writeln!(std::io::stderr(), "local: SKIPPED: {what}");
}
