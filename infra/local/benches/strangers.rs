//! What strangers can cost, and how much they slow down others.
//!
//! - Each attack is sent at a small scale and metered, which gives the dollars per event. The
//!   budgets give the number of events per day. The product is the most that the attack costs.
//! - Then all attacks run at once, as fast as this machine can send, while a known user renews a
//!   registration and gets pushes. The times are compared with those before the attacks.
//!
//! `cargo bench -p nostr-push-local --bench strangers`

#[path = "strangers/attacks.rs"]
mod attacks;
#[path = "requests/bill.rs"]
#[allow(dead_code, reason = "the other benchmark uses the rest")]
mod bill;
#[path = "../../pushctl/src/cost/prices.rs"]
#[allow(dead_code, reason = "pushctl uses the rest")]
mod prices;
#[path = "strangers/user.rs"]
mod user;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use attacks::{Attack, Attacker, PER_OWNER};
use bill::{AverageCharges, Bill};
use nostr::key::PublicKey;
use nostr_push_core::app::App;
use nostr_push_local::{
    proxy::{ServiceProxy, meter::Meter},
    stack::{Options, Stack},
    tools::Tools,
};
use prices::{
    LAMBDA_GB_SECOND, LAMBDA_REQUEST, LOG_GB, Price, READ_UNIT, SNS_PUSH, SNS_REQUEST, SQS_REQUEST,
    WRITE_UNIT,
};
use user::User;

/// How often the known user registers and is pushed to, before and during the attacks.
const SAMPLES: usize = 20;

/// The tasks that send each attack at once.
const SENDERS: usize = 2;

#[tokio::main]
async fn main() -> Result<()> {
    // `cargo test --benches` does not run the bench: it takes several minutes.
    if !std::env::args().any(|word| word == "--bench") {
        return Ok(());
    }
    let tools = Tools::install().await?;
    let data = tempfile::tempdir()?;
    let app = App {
        max_pushes: Some(1_000),
        ..App::named("demo")
    };
    let options = Options::anywhere(data.path(), vec![app]);
    let proxy = ServiceProxy::default();
    let stack = Stack::start_behind(&tools, options, Some(&proxy)).await?;
    let measured = measure(&stack, proxy.meter).await;
    stack.stop().await;
    measured
}

async fn measure(stack: &Stack, meter: Meter) -> Result<()> {
    let service = PublicKey::from_hex(&stack.service_pubkey)?;
    let bill = Bill::new(stack, meter).await;
    let user = User::proven(stack, service).await?;

    meter_attacks(stack, service, &user, &bill).await?;
    compare_times(stack, service, &user).await
}

/// Prints what each attack costs.
async fn meter_attacks(
    stack: &Stack,
    service: PublicKey,
    user: &User<'_>,
    bill: &Bill<'_>,
) -> Result<()> {
    let relay = stack.relays[0].as_str();
    println!("| attack | events | $ per 1,000 events | events a day | $ a day |");
    println!("|---|---:|---:|---:|---:|");
    let mut attacker = Attacker::new(relay, service, user.pubkey());
    let mut classes: Vec<(&str, f64)> = Vec::new();
    for attack in Attack::ALL {
        let n = attack.sample();
        attacker.prepare(stack, attack).await?;
        let charges = bill
            .measure(1, async |_| {
                attacker.send(attack, n).await?;
                user::wait_until_idle(stack).await
            })
            .await?;
        let dollars = dollars(&charges) / f64::from(n);
        let writes = writes(&charges) / f64::from(n);
        let events = attack.events_a_day(attacker.bytes(attack), writes);
        let a_day = dollars * events;
        println!(
            "| {} | {n} | {:.4} | {events:.0} | {a_day:.2} |",
            attack.name(),
            dollars * 1_000.0
        );
        let class = attack.budget();
        match classes.iter_mut().find(|(name, _)| *name == class) {
            Some((_, most)) => *most = most.max(a_day),
            None => classes.push((class, a_day)),
        }
    }
    println!("\nAttacks that share a budget cannot all use it, so the dearest of each counts:");
    for (class, a_day) in &classes {
        println!("- {class}: {a_day:.2} $ a day");
    }
    let shared = classes.iter().filter(|(class, _)| *class != PER_OWNER);
    let total: f64 = shared.map(|(_, a_day)| a_day).sum();
    println!("- all together, without mentions: {total:.2} $ a day\n");
    ensure!(total <= 1.0, "strangers can cost more than 1 $ a day");

    Ok(())
}

/// Prints how long a known user's registrations and pushes take, before and during all attacks.
async fn compare_times(stack: &Stack, service: PublicKey, user: &User<'_>) -> Result<()> {
    let relay = stack.relays[0].clone();
    let before = user.samples(SAMPLES).await?;
    let flood = tokio::spawn(attacks::flood(relay, service, user.pubkey(), SENDERS));
    // The burst of the budgets is used up at the beginning, which is the worst time for others.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let during = user.samples(SAMPLES).await;
    flood.abort();
    let during = during?;
    println!("| the known user | before, p50 | during all attacks, p50 | ratio |");
    println!("|---|---:|---:|---:|");
    for (name, before, during) in [
        ("registration", before.registrations, during.registrations),
        ("push", before.pushes, during.pushes),
    ] {
        let (before, during) = (user::median(before), user::median(during));
        println!(
            "| {name} | {} ms | {} ms | {:.1} |",
            before.as_millis(),
            during.as_millis(),
            during.as_secs_f64() / before.as_secs_f64()
        );
    }
    Ok(())
}

/// The price of each charge that the bill measures.
const PRICES: [(&str, &Price); 9] = [
    ("sqs", &SQS_REQUEST),
    ("reads", &READ_UNIT),
    ("writes", &WRITE_UNIT),
    ("sns", &SNS_REQUEST),
    ("pushes", &SNS_PUSH),
    ("invocations", &LAMBDA_REQUEST),
    ("gb_seconds", &LAMBDA_GB_SECOND),
    ("log_bytes", &LOG_GB),
    ("log_bytes_of_invocation", &LOG_GB),
];

/// What the charges cost, without what the listener reads at fixed intervals.
fn dollars(charges: &AverageCharges) -> f64 {
    let mut sum = 0.0;
    for (stage, charges) in &charges.stages {
        for (name, price) in PRICES {
            let is_idle = stage == "listener" && matches!(name, "reads" | "log_bytes");
            let n = charges[name].as_f64().unwrap_or_default();
            sum += if is_idle {
                0.0
            } else {
                price.of(n) / per_gigabyte(name)
            };
        }
        // Lambda itself receives and deletes once per invocation.
        sum += SQS_REQUEST.of(2.0 * charges["invocations"].as_f64().unwrap_or_default());
    }
    sum
}

/// Logs are counted in bytes and priced in gigabytes.
fn per_gigabyte(name: &str) -> f64 {
    if name.starts_with("log_bytes") {
        1e9
    } else {
        1.0
    }
}

/// The write units of control.
fn writes(charges: &AverageCharges) -> f64 {
    charges
        .stages
        .get("control")
        .and_then(|control| control["writes"].as_f64())
        .context("no writes")
        .unwrap_or_default()
}
