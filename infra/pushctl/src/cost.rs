//! `pushctl cost`: dollars a month, from what was counted on the local stack and AWS's list prices.
//! It asks AWS nothing.
//!
//! `counted.json` is made by `cargo bench -p nostr-push-local --bench requests`; `docs/cost.md`
//! explains the model.

use std::{collections::BTreeMap, fmt::Write};

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::{Value, json};

/// What was counted, each message alone.
const COUNTED: &str = include_str!("counted.json");

/// Of which region and day the prices are.
const PRICED: &str = "us-east-1, arm64, as published in 2025";

/// AWS's list prices, without free tiers: so many dollars for so many of what, and the page of AWS
/// that says so.
const PRICES: [(f64, u32, &str, &str); 17] = [
    (0.40, 1_000_000, "sqs request", "sqs/pricing"),
    (0.20, 1_000_000, "lambda request", "lambda/pricing"),
    (13.3334, 1_000_000, "lambda GB-second", "lambda/pricing"),
    (
        0.125,
        1_000_000,
        "dynamodb read unit",
        "dynamodb/pricing/on-demand",
    ),
    (
        0.625,
        1_000_000,
        "dynamodb write unit",
        "dynamodb/pricing/on-demand",
    ),
    (0.25, 1, "dynamodb GB-month", "dynamodb/pricing/on-demand"),
    (
        0.20,
        1,
        "dynamodb GB-month of recovery",
        "dynamodb/pricing/on-demand",
    ),
    (0.50, 1_000_000, "sns request", "sns/pricing"),
    (0.50, 1_000_000, "sns push", "sns/pricing"),
    (0.032_38, 1, "fargate vCPU-hour", "fargate/pricing"),
    (0.003_56, 1, "fargate GB-hour", "fargate/pricing"),
    (0.005, 1, "public IPv4 hour", "vpc/pricing"),
    (0.50, 1, "log GB", "cloudwatch/pricing"),
    (0.30, 1, "metric", "cloudwatch/pricing"),
    (0.10, 1, "alarm", "cloudwatch/pricing"),
    (3.00, 1, "dashboard", "cloudwatch/pricing"),
    (0.40, 1, "secret", "secrets-manager/pricing"),
];

const HOURS: f64 = 730.0;
const DAYS: f64 = HOURS / 24.0;

/// How long a claim is kept after a push, in days.
const CLAIMED: f64 = 4.0;

/// Requests a month that Lambda makes to an idle queue: five pollers that each wait 20 s (AWS
/// Lambda's developer guide, "Using Lambda with Amazon SQS").
const IDLE_POLLS: f64 = 5.0 * 3.0 * 60.0 * HOURS;

/// How many alarms the template deploys.
const ALARMS: f64 = 21.0;

/// Of a listener's task.
const VCPUS: f64 = 0.25;
const GIGABYTES: f64 = 0.5;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Users, each with one device.
    #[arg(long, default_value_t = 1000)]
    users: u64,
    /// Pushes of a user a day.
    #[arg(long, default_value_t = 20.0)]
    pushes: f64,
    /// Events of a user a day that hit somebody's filter. Default: as many as pushes.
    #[arg(long)]
    events: Option<f64>,
    /// Heartbeats of a user a day (dialect H): 60 are an hour of an open app.
    #[arg(long, default_value_t = 0.0)]
    heartbeats: f64,
    /// Registrations of a user a month: a device and a filter, anew or renewed.
    #[arg(long, default_value_t = 4.0)]
    registrations: f64,
    /// How many messages share a batch, 1 to 10: a quiet service has 1, a busy one 10.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=10))]
    batch: u8,
    /// Tasks of the listener.
    #[arg(long, default_value_t = 1)]
    tasks: u32,
}

/// What was counted, by stage.
#[derive(Deserialize)]
struct Counted {
    event: BTreeMap<String, Usage>,
    push: BTreeMap<String, Usage>,
    registration: BTreeMap<String, Usage>,
    heartbeat: BTreeMap<String, Usage>,
    idle_hour: BTreeMap<String, Usage>,
    bytes_of_registration: f64,
    bytes_of_push: f64,
    metrics: f64,
}

/// What a stage is charged for.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Usage {
    sqs: f64,
    reads: f64,
    writes: f64,
    sns: f64,
    pushes: f64,
    invocations: f64,
    gb_seconds: f64,
    log_bytes: f64,
    log_bytes_of_invocation: f64,
}

/// Dollars a month, by stage and by what AWS calls it.
#[derive(Default)]
struct Bill {
    lines: BTreeMap<(&'static str, &'static str), f64>,
}

impl Bill {
    fn add(&mut self, stage: &'static str, service: &'static str, price: &str, n: f64) {
        let price = PRICES
            .iter()
            .find(|(_, _, what, _)| *what == price)
            .map_or(f64::NAN, |(dollars, of, ..)| dollars / f64::from(*of));
        if n > 0.0 {
            *self.lines.entry((stage, service)).or_default() += n * price;
        }
    }

    /// `n` times what was counted, `batch` of them at a time: those share requests to queues,
    /// invocations, their time, and what is logged once for each.
    fn add_usage(&mut self, counted: &BTreeMap<String, Usage>, n: f64, batch: f64) {
        for (stage, usage) in counted {
            let stage = STAGES
                .into_iter()
                .find(|known| known == stage)
                .unwrap_or("listener");
            // Lambda itself receives and deletes once for each invocation.
            self.add(
                stage,
                "SQS",
                "sqs request",
                n / batch * (usage.sqs + 2.0 * usage.invocations),
            );
            self.add(
                stage,
                "Lambda",
                "lambda request",
                n / batch * usage.invocations,
            );
            self.add(
                stage,
                "Lambda",
                "lambda GB-second",
                n / batch * usage.gb_seconds,
            );
            self.add(stage, "DynamoDB", "dynamodb read unit", n * usage.reads);
            self.add(stage, "DynamoDB", "dynamodb write unit", n * usage.writes);
            self.add(stage, "SNS", "sns request", n * usage.sns);
            self.add(stage, "SNS", "sns push", n * usage.pushes);
            self.add(
                stage,
                "CloudWatch",
                "log GB",
                (n * usage.log_bytes + n / batch * usage.log_bytes_of_invocation) / 1e9,
            );
        }
    }

    fn sum(&self, wanted: impl Fn(&str, &str) -> bool) -> f64 {
        self.lines
            .iter()
            .filter(|((stage, service), _)| wanted(stage, service))
            .map(|(_, dollars)| dollars)
            .sum()
    }
}

pub(crate) fn run(arguments: &Arguments, json: bool) -> Result<()> {
    let bill = bill(arguments)?;
    if json {
        println!("{}", answer(&bill));
    } else {
        print!("{}", table(arguments, &bill)?);
    }
    Ok(())
}

fn bill(arguments: &Arguments) -> Result<Bill> {
    let counted: Counted = serde_json::from_str(COUNTED).context("counted.json")?;
    // Exact up to 2^53 users.
    #[expect(clippy::cast_precision_loss, reason = "there are fewer people")]
    let users = arguments.users as f64;
    let (tasks, batch) = (f64::from(arguments.tasks), f64::from(arguments.batch));
    let pushes = users * arguments.pushes;
    let mut bill = Bill::default();
    bill.add_usage(
        &counted.event,
        users * arguments.events.unwrap_or(arguments.pushes) * DAYS,
        batch,
    );
    bill.add_usage(&counted.push, pushes * DAYS, batch);
    bill.add_usage(
        &counted.heartbeat,
        users * arguments.heartbeats * DAYS,
        batch,
    );
    bill.add_usage(
        &counted.registration,
        users * arguments.registrations,
        batch,
    );
    bill.add_usage(&counted.idle_hour, tasks * HOURS, 1.0);
    bill.add(
        "listener",
        "Fargate",
        "fargate vCPU-hour",
        tasks * VCPUS * HOURS,
    );
    bill.add(
        "listener",
        "Fargate",
        "fargate GB-hour",
        tasks * GIGABYTES * HOURS,
    );
    bill.add("listener", "Fargate", "public IPv4 hour", tasks * HOURS);
    for function in ["control", "matcher", "deliver", "feedback"] {
        bill.add(function, "SQS", "sqs request", IDLE_POLLS);
    }
    for (rows, bytes) in [
        (users, counted.bytes_of_registration),
        (pushes * CLAIMED, counted.bytes_of_push),
    ] {
        bill.add(
            "tables",
            "DynamoDB",
            "dynamodb GB-month",
            rows * bytes / 1e9,
        );
        bill.add(
            "tables",
            "DynamoDB",
            "dynamodb GB-month of recovery",
            rows * bytes / 1e9,
        );
    }
    bill.add("operator", "CloudWatch", "metric", counted.metrics);
    bill.add("operator", "CloudWatch", "alarm", ALARMS);
    bill.add("operator", "CloudWatch", "dashboard", 1.0);
    bill.add("operator", "Secrets Manager", "secret", 1.0);
    Ok(bill)
}

/// The rows and columns of the answer.
const STAGES: [&str; 7] = [
    "listener", "control", "matcher", "deliver", "feedback", "tables", "operator",
];
const SERVICES: [&str; 7] = [
    "Fargate",
    "SQS",
    "Lambda",
    "DynamoDB",
    "SNS",
    "CloudWatch",
    "Secrets Manager",
];

fn answer(bill: &Bill) -> Value {
    let lines = bill.lines.iter().map(|((stage, service), dollars)| json!({"stage": stage, "service": service, "dollars": dollars}));
    json!({"priced": PRICED, "dollars_a_month": bill.sum(|_, _| true), "lines": lines.collect::<Vec<_>>()})
}

/// A table in Markdown.
fn table(arguments: &Arguments, bill: &Bill) -> Result<String> {
    let mut text = String::new();
    let Arguments {
        users,
        pushes,
        heartbeats,
        registrations,
        batch,
        tasks,
        ..
    } = arguments;
    let events = arguments.events.unwrap_or(*pushes);
    writeln!(
        text,
        "{users} users; each {pushes} pushes, {events} events, {heartbeats} heartbeats a day, {registrations} registrations a month; \
         {batch} to a batch, {tasks} task(s)\n"
    )?;
    writeln!(text, "| $ a month | {} | all |", SERVICES.join(" | "))?;
    writeln!(text, "|---|{}", "---:|".repeat(SERVICES.len() + 1))?;
    for stage in STAGES {
        let cells =
            SERVICES.map(|service| dollars(bill.sum(|of, by| of == stage && by == service)));
        writeln!(
            text,
            "| {stage} | {} | {} |",
            cells.join(" | "),
            dollars(bill.sum(|of, _| of == stage))
        )?;
    }
    let cells = SERVICES.map(|service| dollars(bill.sum(|_, by| by == service)));
    writeln!(
        text,
        "| **all** | {} | **{}** |",
        cells.join(" | "),
        dollars(bill.sum(|_, _| true))
    )?;
    Ok(text)
}

fn dollars(n: f64) -> String {
    if n == 0.0 {
        String::new()
    } else {
        format!("{n:.2}")
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn arguments(line: &str) -> Arguments {
        Line::parse_from(std::iter::once("cost").chain(line.split_whitespace())).arguments
    }

    fn total(line: &str) -> f64 {
        bill(&arguments(line)).unwrap().sum(|_, _| true)
    }

    /// The total by rows and by columns, each of which is shown.
    #[test]
    fn every_dollar_is_in_the_table() {
        let bill = bill(&arguments("--heartbeats 60")).unwrap();
        let total = bill.sum(|_, _| true);
        let shown: f64 = STAGES
            .iter()
            .flat_map(|stage| SERVICES.map(|service| (stage, service)))
            .map(|(stage, service)| bill.sum(|of, by| of == *stage && by == service))
            .sum();
        assert!(
            total > 0.0 && (total - shown).abs() < 1e-9,
            "{total} {shown}"
        );
        assert!(
            bill.lines.values().all(|dollars| dollars.is_finite()),
            "every price is known"
        );
    }

    #[test]
    fn what_grows_costs_more_and_batches_cost_less() {
        let users = total("--users 100000");
        for more in [
            "--pushes 40",
            "--events 40",
            "--heartbeats 60",
            "--registrations 8",
            "--tasks 2",
        ] {
            assert!(total(&format!("--users 100000 {more}")) > users, "{more}");
        }
        assert!(total("--users 100000 --batch 10") < users);
        // Nothing but what stands still is the same for all.
        let (none, one, two) = (
            total("--users 0"),
            total("--users 1000"),
            total("--users 2000"),
        );
        assert!(((two - none) - 2.0 * (one - none)).abs() < 1e-6);
    }

    /// A push needs at least its SNS publish, two messages sent and received, and a claim.
    #[test]
    fn the_counts_are_of_a_push() {
        let counted: Counted = serde_json::from_str(COUNTED).unwrap();
        let (listener, matcher, deliver) = (
            &counted.event["listener"],
            &counted.event["matcher"],
            &counted.push["deliver"],
        );
        assert!(
            (listener.sqs, matcher.sqs, deliver.pushes) == (1.0, 1.0, 1.0),
            "one message to each queue, and one push"
        );
        for stage in [
            matcher,
            deliver,
            &counted.registration["control"],
            &counted.heartbeat["control"],
        ] {
            assert!(
                stage.invocations >= 1.0
                    && stage.gb_seconds > 0.0
                    && stage.reads > 0.0
                    && stage.log_bytes > 0.0
            );
        }
        assert!(deliver.writes >= 2.0 && counted.heartbeat["control"].writes < 1.0);
        assert!(counted.idle_hour["listener"].reads > 0.0 && counted.metrics > 10.0);
    }

    #[test]
    fn the_docs_show_what_is_computed() {
        let docs = include_str!("../../../docs/cost.md");
        for line in [
            "--users 1000",
            "--users 100000",
            "--users 1000000 --batch 10 --tasks 2",
        ] {
            let arguments = arguments(line);
            let table = table(&arguments, &bill(&arguments).unwrap()).unwrap();
            assert!(docs.contains(&table), "pushctl cost {line}\n{table}");
        }
        for (dollars, of, what, page) in PRICES {
            let row = format!("| {dollars} | {of} | {what} | {page} |");
            assert!(docs.contains(&row), "{row}");
        }
    }
}
