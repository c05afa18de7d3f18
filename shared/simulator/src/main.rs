//! Runs seeds of the simulation.

use std::time::Instant;

use anyhow::Context as _;
use clap::{Parser, builder::PossibleValuesParser};
use nostr_push_core::Millis;
use simulator::{
    minimize::minimize,
    plan::Plan,
    planted::Planted,
    run::{Outcome, run},
};
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
    /// Leaves out of a run with a violation what the violation does not need, and names it.
    #[arg(long)]
    minimize: bool,
    /// Leaves out these faults and people, separated by commas.
    #[arg(
        long,
        value_delimiter = ',',
        value_parser = PossibleValuesParser::new(Plan::parts()),
        hide_possible_values = true
    )]
    without: Vec<String>,
    /// How much longer everybody waits between two actions than in a busy run. Otherwise each seed
    /// decides.
    #[arg(long)]
    pace: Option<u64>,
    /// Plants this fault. Needs the feature `planted`.
    #[arg(long)]
    planted: Option<String>,
}

impl Arguments {
    fn plan(&self) -> anyhow::Result<Plan> {
        Ok(Plan {
            seed: self.seed,
            planted: self.planted.as_deref().map(planted).transpose()?,
            is_traced: self.trace,
            pace: self.pace,
            without: self.without.iter().cloned().collect(),
        })
    }
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
    let first = arguments.plan()?;
    let (started, mut failed) = (Instant::now(), 0);
    let (mut simulated, mut required, mut pushed) = (Millis(0), 0, 0);
    for seed in first.seed..first.seed + arguments.seeds {
        let mut plan = Plan {
            seed,
            ..first.clone()
        };
        let outcome = if arguments.minimize {
            let (smallest, outcome) = minimize(&plan);
            plan = smallest;
            outcome
        } else {
            run(&plan)
        };
        print(&plan, &outcome);
        simulated += outcome.simulated;
        required += outcome.judgement.required;
        pushed += outcome.judgement.pushed;
        failed += u64::from(!outcome.judgement.violations.is_empty());
    }
    println!(
        "{} seeds, {} simulated days, {pushed} pushes, {required} of them required, {failed} seeds \
         with violations, {} s",
        arguments.seeds,
        simulated.to_seconds().0 / 86_400,
        started.elapsed().as_secs()
    );
    anyhow::ensure!(failed == 0, "{failed} seeds have violations");
    Ok(())
}

/// Prints the story and the violations of a run.
fn print(plan: &Plan, outcome: &Outcome) {
    for line in &outcome.lines {
        println!("{line}");
    }
    let without: Vec<&str> = plan.without.iter().map(String::as_str).collect();
    for violation in &outcome.judgement.violations {
        println!("seed {}: {violation}", plan.seed);
    }
    if !without.is_empty() {
        println!("seed {}: --without {}", plan.seed, without.join(","));
    }
}
