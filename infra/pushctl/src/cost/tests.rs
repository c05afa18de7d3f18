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
    bill(&arguments(line)).unwrap().total()
}

#[test]
fn table_rows_add_up_to_total() {
    let bill = bill(&arguments("--heartbeats 60")).unwrap();
    let cells = STAGES
        .iter()
        .flat_map(|stage| SERVICES.map(|service| (stage, service)));
    let shown: f64 = cells
        .map(|(stage, service)| bill.sum(|of, by| of == *stage && by == service))
        .sum();
    let total = bill.total();
    assert!(
        total > 0.0 && (total - shown).abs() < 1e-9,
        "{total} {shown}"
    );
    assert!(bill.lines.values().all(|dollars| dollars.is_finite()));
}

#[test]
fn activity_costs_more_and_batches_cost_less() {
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
    // Apart from the fixed cost, the cost is proportional to the number of users.
    let fixed = total("--users 0");
    let (one, two) = (total("--users 1000"), total("--users 2000"));
    assert!(((two - fixed) - 2.0 * (one - fixed)).abs() < 1e-6);
}

/// A push needs at least one SNS publish, two messages that are sent and received, and a claim.
#[test]
fn counted_usage_is_plausible() {
    let counted = CountedUsage::load().unwrap();
    let (listener, matcher, deliver) = (
        &counted.event["listener"],
        &counted.event["matcher"],
        &counted.push["deliver"],
    );
    assert!(
        (listener.sqs, matcher.sqs, deliver.pushes) == (1.0, 1.0, 1.0),
        "one message to each queue, and one push"
    );
    let (registration, heartbeat) = (
        &counted.registration["control"],
        &counted.heartbeat["control"],
    );
    for stage in [matcher, deliver, registration, heartbeat] {
        assert!(stage.invocations >= 1.0 && stage.gb_seconds > 0.0);
        assert!(stage.reads > 0.0 && stage.log_bytes > 0.0);
    }
    assert!(deliver.writes >= 2.0 && heartbeat.writes < 1.0);
    assert!(counted.idle_hour["listener"].reads > 0.0 && counted.metrics > 10.0);
}

#[test]
fn docs_contain_the_tables_and_prices() {
    let docs = include_str!("../../../../docs/cost.md");
    for line in [
        "--users 1000",
        "--users 100000",
        "--users 1000000 --batch 10 --tasks 2",
    ] {
        let arguments = arguments(line);
        let table = table::markdown(&arguments, &bill(&arguments).unwrap()).unwrap();
        assert!(docs.contains(&table), "pushctl cost {line}\n{table}");
    }
    for price in PRICES {
        let Price {
            dollars,
            units,
            unit,
            page,
        } = price;
        let row = format!("| {dollars} | {units} | {unit} | {page} |");
        assert!(docs.contains(&row), "{row}");
    }
}
