//! Runs seeds of the simulation.

use std::time::Instant;

use anyhow::Context as _;
use clap::Parser;
use nostr_push_core::Millis;
use simulator::{planted::Planted, run::run};
use strum::VariantArray;

/// Runs the service in a simulated world.
#[derive(Debug, Parser)]
struct Arguments {
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds to run.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Prints the story of each run.
    #[arg(long)]
    trace: bool,
    /// Plants this fault. Needs the feature `planted`.
    #[arg(long)]
    planted: Option<String>,
}

/// The planted fault of this name.
fn planted(name: &str) -> anyhow::Result<Planted> {
    anyhow::ensure!(cfg!(feature = "planted"), "build with --features planted");
    let mut all = Planted::VARIANTS.iter();
    let found = all.find(|planted| name == <&str>::from(*planted));
    found
        .copied()
        .with_context(|| format!("no fault has the name {name}"))
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let planted = arguments.planted.as_deref().map(planted).transpose()?;
    let (started, mut failed) = (Instant::now(), 0);
    let (mut simulated, mut required, mut pushed) = (Millis(0), 0, 0);
    for seed in arguments.seed..arguments.seed + arguments.seeds {
        let outcome = run(seed, planted, arguments.trace);
        for line in &outcome.lines {
            println!("{line}");
        }
        simulated += outcome.simulated;
        required += outcome.judgement.required;
        pushed += outcome.judgement.pushed;
        if !outcome.judgement.violations.is_empty() {
            failed += 1;
            for violation in &outcome.judgement.violations {
                println!("seed {seed}: {violation}");
            }
        }
    }
    println!(
        "{} seeds, {} simulated hours, {pushed} pushes, {required} of them required, {failed} \
         seeds \
         with violations, {} s",
        arguments.seeds,
        simulated.to_seconds().0 / 3_600,
        started.elapsed().as_secs()
    );
    anyhow::ensure!(failed == 0, "{failed} seeds have violations");
    Ok(())
}
