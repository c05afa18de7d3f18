//! The output of `pushctl cost`.

use std::fmt::Write;

use anyhow::Result;
use serde_json::{Value, json};

use super::{Arguments, Bill, PRICE_BASIS, SERVICES, STAGES};

pub(super) fn json(bill: &Bill) -> Value {
    let lines: Vec<Value> = bill
        .lines
        .iter()
        .map(|((stage, service), dollars)| {
            json!({"stage": stage, "service": service, "dollars": dollars})
        })
        .collect();
    json!({"priced": PRICE_BASIS, "dollars_a_month": bill.total(), "lines": lines})
}

/// A table in Markdown. `docs/cost.md` contains examples.
pub(super) fn markdown(arguments: &Arguments, bill: &Bill) -> Result<String> {
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
        "{users} users; each {pushes} pushes, {events} events, {heartbeats} heartbeats a day, \
         {registrations} registrations a month; {batch} to a batch, {tasks} task(s)\n"
    )?;
    writeln!(text, "| $ a month | {} | all |", SERVICES.join(" | "))?;
    writeln!(text, "|---|{}", "---:|".repeat(SERVICES.len() + 1))?;
    for stage in STAGES {
        let cell = |service: &str| bill.sum(|of, by| of == stage && by == service);
        let cells = SERVICES.map(|service| dollars(cell(service))).join(" | ");
        let all = dollars(bill.sum(|of, _| of == stage));
        writeln!(text, "| {stage} | {cells} | {all} |")?;
    }
    let cells = SERVICES.map(|service| dollars(bill.sum(|_, by| by == service)));
    let (cells, all) = (cells.join(" | "), dollars(bill.total()));
    writeln!(text, "| **all** | {cells} | **{all}** |")?;
    Ok(text)
}

fn dollars(n: f64) -> String {
    if n == 0.0 {
        String::new()
    } else {
        format!("{n:.2}")
    }
}
