//! `pushctl cost`: the cost in dollars per month, from charges that were counted on the local stack
//! and AWS's list prices. It sends no request to AWS. `docs/cost.md` explains the model.

mod prices;
mod table;
mod usage;

use std::collections::BTreeMap;

use anyhow::Result;
use nostr_push_core::{CLAIM_TTL, Seconds};

#[cfg(test)]
use self::prices::PRICES;
use self::{
    prices::{
        ALARM, DASHBOARD, IPV4_HOUR, LAMBDA_GB_SECOND, LAMBDA_REQUEST, LOG_GB, METRIC, Price,
        READ_UNIT, RECOVERY_GB_MONTH, SECRET, SNS_PUSH, SNS_REQUEST, SQS_REQUEST, TABLE_GB_MONTH,
        TASK_GB_HOUR, VCPU_HOUR, WRITE_UNIT,
    },
    usage::{CountedUsage, Usage},
};

/// The region and the date of the prices.
const PRICE_BASIS: &str = "us-east-1, arm64, as published in 2025";

const HOURS_PER_MONTH: f64 = 730.0;
const DAYS_PER_MONTH: f64 = HOURS_PER_MONTH / 24.0;

/// How many days a claim is kept after a push.
#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
const CLAIM_DAYS: f64 = (CLAIM_TTL.0 / Seconds::from_days(1).0) as f64;

/// The requests per month that Lambda sends to an idle queue: five pollers, each of which waits 20
/// s per request (<https://docs.aws.amazon.com/lambda/latest/dg/with-sqs.html>).
const IDLE_POLLS: f64 = 5.0 * 3.0 * 60.0 * HOURS_PER_MONTH;

/// The number of alarms in the template.
const ALARMS: f64 = 29.0;

/// The size of one listener task.
const TASK_VCPUS: f64 = 0.25;
const TASK_GB: f64 = 0.5;

/// The rows of the table.
const STAGES: [&str; 7] = [
    "listener", "control", "matcher", "deliver", "feedback", "tables", "operator",
];

/// The columns of the table.
const SERVICES: [&str; 7] = [
    "Fargate",
    "SQS",
    "Lambda",
    "DynamoDB",
    "SNS",
    "CloudWatch",
    "Secrets Manager",
];

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The number of users. Each has one device.
    #[arg(long, default_value_t = 1000)]
    users: u64,
    /// Pushes per user and day.
    #[arg(long, default_value_t = 20.0)]
    pushes: f64,
    /// Events per user and day that match at least one filter. Default: as many as pushes.
    #[arg(long)]
    events: Option<f64>,
    /// Heartbeats per user and day (dialect H). An open app sends about 60 per hour.
    #[arg(long, default_value_t = 0.0)]
    heartbeats: f64,
    /// Registrations per user and month. A registration is a device and a filter, new or renewed.
    #[arg(long, default_value_t = 4.0)]
    registrations: f64,
    /// How many messages share a batch: 1 with little traffic, up to 10 with much traffic.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=10))]
    batch: u8,
    /// The number of listener tasks.
    #[arg(long, default_value_t = 1)]
    tasks: u32,
}

/// Dollars per month, by stage and AWS service.
#[derive(Default)]
struct Bill {
    lines: BTreeMap<(&'static str, &'static str), f64>,
}

impl Bill {
    /// Adds `n` units.
    fn add(&mut self, stage: &'static str, service: &'static str, price: &Price, n: f64) {
        if n > 0.0 {
            *self.lines.entry((stage, service)).or_default() += price.of(n);
        }
    }

    /// Adds the usage of `n` messages. A batch of messages shares requests to queues, invocations,
    /// their time, and what is logged once per invocation.
    fn add_usage(&mut self, counted: &BTreeMap<String, Usage>, n: f64, batch: f64) {
        for (stage, usage) in counted {
            let stage = STAGES
                .into_iter()
                .find(|known| known == stage)
                .unwrap_or("listener");
            let batches = n / batch;
            // Lambda itself receives and deletes once per invocation.
            let requests = usage.sqs + 2.0 * usage.invocations;
            let log_bytes = n * usage.log_bytes + batches * usage.log_bytes_of_invocation;
            let mut add = |service, price, n| self.add(stage, service, price, n);
            add("SQS", &SQS_REQUEST, batches * requests);
            add("Lambda", &LAMBDA_REQUEST, batches * usage.invocations);
            add("Lambda", &LAMBDA_GB_SECOND, batches * usage.gb_seconds);
            add("DynamoDB", &READ_UNIT, n * usage.reads);
            add("DynamoDB", &WRITE_UNIT, n * usage.writes);
            add("SNS", &SNS_REQUEST, n * usage.sns);
            add("SNS", &SNS_PUSH, n * usage.pushes);
            add("CloudWatch", &LOG_GB, log_bytes / 1e9);
        }
    }

    /// Adds the storage of `rows` rows.
    fn add_rows(&mut self, rows: f64, bytes_per_row: f64) {
        let gigabytes = rows * bytes_per_row / 1e9;
        self.add("tables", "DynamoDB", &TABLE_GB_MONTH, gigabytes);
        self.add("tables", "DynamoDB", &RECOVERY_GB_MONTH, gigabytes);
    }

    /// The sum of the lines for which `include` (stage, service) returns `true`.
    fn sum(&self, include: impl Fn(&str, &str) -> bool) -> f64 {
        self.lines
            .iter()
            .filter(|((stage, service), _)| include(stage, service))
            .map(|(_, dollars)| dollars)
            .sum()
    }

    fn total(&self) -> f64 {
        self.sum(|_, _| true)
    }
}

/// Estimates in dollars, for `pushctl owner top`.
pub(crate) struct UnitCosts {
    /// An event that is matched, and pushed to one device.
    pub(crate) push: f64,
    /// A write unit of DynamoDB.
    pub(crate) write_unit: f64,
    /// A byte that is stored for a day.
    pub(crate) byte_day: f64,
}

impl UnitCosts {
    pub(crate) fn load() -> Result<Self> {
        let counted = CountedUsage::load()?;
        let mut push = Bill::default();
        push.add_usage(&counted.event, 1.0, 1.0);
        push.add_usage(&counted.push, 1.0, 1.0);
        let byte_month = (TABLE_GB_MONTH.dollars + RECOVERY_GB_MONTH.dollars) / 1e9;
        Ok(Self {
            push: push.total(),
            write_unit: WRITE_UNIT.dollars / f64::from(WRITE_UNIT.units),
            byte_day: byte_month / DAYS_PER_MONTH,
        })
    }
}

pub(crate) fn run(arguments: &Arguments, json: bool) -> Result<()> {
    let bill = bill(arguments)?;
    if json {
        println!("{}", table::json(&bill));
    } else {
        print!("{}", table::markdown(arguments, &bill)?);
    }
    Ok(())
}

fn bill(arguments: &Arguments) -> Result<Bill> {
    let counted = CountedUsage::load()?;
    #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53 users")]
    let users = arguments.users as f64;
    let (tasks, batch) = (f64::from(arguments.tasks), f64::from(arguments.batch));
    let pushes = users * arguments.pushes;
    let events = users * arguments.events.unwrap_or(arguments.pushes);
    let heartbeats = users * arguments.heartbeats;
    let registrations = users * arguments.registrations;
    let mut bill = Bill::default();
    bill.add_usage(&counted.event, events * DAYS_PER_MONTH, batch);
    bill.add_usage(&counted.push, pushes * DAYS_PER_MONTH, batch);
    bill.add_usage(&counted.heartbeat, heartbeats * DAYS_PER_MONTH, batch);
    bill.add_usage(&counted.registration, registrations, batch);
    let hours = tasks * HOURS_PER_MONTH;
    bill.add_usage(&counted.idle_hour, hours, 1.0);
    bill.add("listener", "Fargate", &VCPU_HOUR, hours * TASK_VCPUS);
    bill.add("listener", "Fargate", &TASK_GB_HOUR, hours * TASK_GB);
    bill.add("listener", "Fargate", &IPV4_HOUR, hours);
    for function in ["control", "matcher", "deliver", "feedback"] {
        bill.add(function, "SQS", &SQS_REQUEST, IDLE_POLLS);
    }
    bill.add_rows(users, counted.bytes_of_registration);
    bill.add_rows(pushes * CLAIM_DAYS, counted.bytes_of_push);
    bill.add("operator", "CloudWatch", &METRIC, counted.metrics);
    bill.add("operator", "CloudWatch", &ALARM, ALARMS);
    bill.add("operator", "CloudWatch", &DASHBOARD, 1.0);
    bill.add("operator", "Secrets Manager", &SECRET, 1.0);
    Ok(bill)
}

#[cfg(test)]
mod tests;
