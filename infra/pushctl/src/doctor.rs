//! `pushctl doctor`: checks one part after another, and prints what to do about each problem.
//!
//! - [`account`]: the region, and the concurrency that Lambda allows
//! - [`tables`]: the tables

mod account;
mod tables;

use std::process::ExitCode;

use anyhow::{Error, Result, anyhow, ensure};
use nostr::key::Keys;
use nostr_push_aws::clients;
use nostr_push_core::{
    Seconds,
    app::{App, Platform, platform_application_name},
    capacity::{Caps, Usage},
    ports::{RelayCursor, Relays, Unavailable, Usages},
};
use serde_json::{Value, json};

use crate::{
    app::with_other_name,
    context::{CommandContext, DeployedStack},
    dlq::{QUEUES, Queues},
    key::npub,
    relay,
};

/// The exit code if a check failed.
const PROBLEM_FOUND: u8 = 3;

/// The maximum age of a relay's cursor. The listener stores one every 25 s.
const MAX_CURSOR_AGE: Seconds = Seconds::from_minutes(5);

/// How full the stack may be, in percent. New owners are refused from 100 on.
const MAX_PERCENT: u64 = 89;

/// The checks so far.
#[derive(Default)]
struct Checks {
    checks: Vec<Check>,
}

struct Check {
    name: String,
    result: Result<String>,
    /// What to do if the check fails.
    remedy: &'static str,
}

impl Checks {
    /// Adds a check, and prints its result.
    fn add(&mut self, name: impl Into<String>, result: Result<String>, remedy: &'static str) {
        let name = name.into();
        match &result {
            Ok(found) => eprintln!("ok    {name}: {found}"),
            Err(error) => eprintln!("FAIL  {name}: {error:#}\n      {remedy}"),
        }
        self.checks.push(Check {
            name,
            result,
            remedy,
        });
    }

    fn failed(&self) -> usize {
        let failed = self.checks.iter().filter(|check| check.result.is_err());
        failed.count()
    }
}

impl Check {
    fn json(&self) -> Value {
        match &self.result {
            Ok(found) => json!({"check": self.name, "ok": true, "found": found}),
            Err(error) => json!({
                "check": self.name,
                "ok": false,
                "found": format!("{error:#}"),
                "to_do": self.remedy,
            }),
        }
    }
}

pub(crate) async fn run(mut context: CommandContext) -> Result<ExitCode> {
    let mut checks = Checks::default();
    let deployed = context.deployed().await;
    let has_tables = match &deployed {
        Ok(deployed) => context.use_tables_of(deployed).map(|()| deployed),
        Err(error) => Err(anyhow!("{error:#}")),
    };
    let context = &context;
    let stack = deployed.as_ref().map_err(|error| anyhow!("{error:#}"));
    checks.add(
        "credentials and stack",
        stack.and_then(check_status),
        "Check AWS_PROFILE, AWS_REGION and --stack, or deploy with infra/deploy.",
    );
    account::check_region(context, &mut checks);
    match has_tables {
        Ok(deployed) => tables::check(context, &mut checks, deployed).await,
        Err(error) => checks.add(
            "tables",
            Err(error),
            "The tables are named by the stack's output TablePrefix: infra/deploy this version.",
        ),
    }
    let keys = context.service_key().await;
    let pubkey = keys.as_ref().ok().map(Keys::public_key);
    checks.add(
        "service key",
        keys.map(|keys| npub(&keys.public_key())),
        "The key must be 64 hex characters or an nsec: pushctl key new.",
    );
    check_apps(context, &mut checks, deployed.as_ref().ok()).await;
    check_dead_letters(context, &mut checks).await;
    if let Ok(deployed) = &deployed {
        account::check_concurrency(context, &mut checks).await;
        let pubkey = pubkey.map(|pubkey| pubkey.to_hex()).unwrap_or_default();
        check_listener(context, &mut checks, deployed, &pubkey).await;
        checks.add(
            "capacity",
            check_capacity(context, deployed).await,
            "pushctl owner top --by keys shows who uses the most. Evict owners, close an app to \
             new ones, or raise MaxOwners, MaxIndexKeys and MaxIndexRows and the task's memory.",
        );
    }
    let failed = checks.failed();
    let results: Vec<Value> = checks.checks.iter().map(Check::json).collect();
    context.print(
        &json!({"failed": failed, "checks": results}),
        format_args!("{} checks, {failed} failed", results.len()),
    );
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(PROBLEM_FOUND)
    })
}

fn check_status(deployed: &DeployedStack) -> Result<String> {
    let status = &deployed.status;
    ensure!(
        status.ends_with("_COMPLETE") && !status.contains("ROLLBACK"),
        "the status of the stack is {status}"
    );
    Ok(status.clone())
}

async fn check_apps(
    context: &CommandContext,
    checks: &mut Checks,
    deployed: Option<&DeployedStack>,
) {
    let apps = match context.store.all_apps().await {
        Ok(apps) => apps,
        Err(error) => {
            let remedy = "The tables cannot be read: check your permissions and --stack.";
            return checks.add("apps", Err(error.into()), remedy);
        }
    };
    let names: Vec<&str> = apps.iter().map(|app| app.app.as_str()).collect();
    let found = if names.is_empty() {
        Err(anyhow!("there are no apps"))
    } else {
        Ok(names.join(", "))
    };
    checks.add("apps", found, "pushctl app add.");
    if let Some(heartbeat_app) = deployed.and_then(|deployed| deployed.parameter("HeartbeatApp")) {
        let result = if names.contains(&heartbeat_app.as_str()) {
            Ok(heartbeat_app.clone())
        } else {
            Err(anyhow!("there is no app {heartbeat_app}"))
        };
        let remedy = "pushctl app add, or infra/deploy HeartbeatApp=….";
        checks.add("heartbeat app", result, remedy);
    }
    let topic = deployed.and_then(|deployed| deployed.output("EndpointEventsTopic").ok());
    for app in &apps {
        checks.add(
            format!("platform applications of {}", app.app),
            check_names(context, app),
            "pushctl app add APP with the credentials of all its platforms: see Upgrading in \
             docs/operations.md.",
        );
        for (platform, arn) in &app.platforms {
            checks.add(
                platform_check_name(app, *platform),
                check_platform_application(context, arn, topic).await,
                "pushctl app add with the credentials again.",
            );
        }
    }
}

/// Checks that the platform applications are this stack's own.
fn check_names(context: &CommandContext, app: &App) -> Result<String> {
    let name = platform_application_name(&context.stack, &app.app)?;
    let others: Vec<&str> = with_other_name(app, &name).map(String::as_str).collect();
    ensure!(
        others.is_empty(),
        "the functions may not use {}, which is not named {name}",
        others.join(", ")
    );
    ensure!(
        app.moving_from.is_empty(),
        "the devices of {} are not all moved",
        app.moving_from.join(", ")
    );
    Ok(name)
}

fn platform_check_name(app: &App, platform: Platform) -> String {
    format!("{} on {}", app.app, platform.as_str())
}

/// Checks a platform application. `topic` is the topic to which it must report endpoint events.
async fn check_platform_application(
    context: &CommandContext,
    arn: &str,
    topic: Option<&str>,
) -> Result<String> {
    let state = context.sns.platform_application_state(arn).await?;
    let state = state.ok_or_else(|| anyhow!("the SNS platform application does not exist"))?;
    ensure!(
        state.enabled,
        "SNS has disabled the platform application, because its credentials are invalid"
    );
    ensure!(
        topic.is_none() || state.topic.as_deref() == topic,
        "the platform application does not report endpoint events to the stack's topic"
    );
    let logged = match state.delivery_status {
        Some(percent) => format!("SNS logs failures and {percent} % of delivered pushes"),
        None => "SNS logs no answers of the platform".to_owned(),
    };
    Ok(format!("enabled, and reports endpoint events; {logged}"))
}

async fn check_dead_letters(context: &CommandContext, checks: &mut Checks) {
    let queues = Queues::of(context);
    for queue in QUEUES {
        let dead_letters = queues.dead_letters(queue).await;
        let result = dead_letters.and_then(|n| {
            ensure!(n == 0, "{n} messages");
            Ok("none".to_owned())
        });
        checks.add(
            format!("dead letters of {queue}"),
            result,
            "pushctl dlq show, then pushctl dlq redrive.",
        );
    }
}

/// Checks the listener's image and its relays. `pubkey` is the service's, in hex.
async fn check_listener(
    context: &CommandContext,
    checks: &mut Checks,
    deployed: &DeployedStack,
    pubkey: &str,
) {
    let image = deployed.parameter("ListenerImage").cloned();
    checks.add(
        "listener's image",
        image.ok_or_else(|| anyhow!("no image is deployed")),
        "infra/deploy builds, pushes and deploys the image.",
    );
    let relays = deployed.relays();
    let configured = if relays.is_empty() {
        Err(anyhow!("no relays are configured"))
    } else {
        Ok(format!("{} configured", relays.len()))
    };
    checks.add("relays", configured, "infra/deploy Relays=wss://…");
    for url in relays {
        let response = relay::check(&url, pubkey).await;
        checks.add(
            format!("relay {url}"),
            response.map(|()| "responds".to_owned()),
            "If the problem persists, use another relay: infra/deploy Relays=….",
        );
        let cursor = context.store.cursor(&url).await;
        checks.add(
            format!("listener at {url}"),
            check_cursor(cursor, clients::now().to_seconds()),
            "Look at the log group /ecs/STACK-listener, and at the events of the ECS service.",
        );
    }
}

/// Checks how full the stack is, by the listener's last count.
async fn check_capacity(context: &CommandContext, deployed: &DeployedStack) -> Result<String> {
    let cap = |name: &str| -> Result<u64> {
        let value = deployed.parameter(name);
        let value = value.ok_or_else(|| anyhow!("the stack has no {name}: deploy this version"))?;
        Ok(value.parse()?)
    };
    let caps = Caps {
        owners: cap("MaxOwners")?,
        index_keys: cap("MaxIndexKeys")?,
        index_rows: cap("MaxIndexRows")?,
    };
    match context.store.usage().await? {
        Some(usage) => judge_usage(&usage, &caps),
        None => Ok("the listener has not counted yet".to_owned()),
    }
}

fn judge_usage(usage: &Usage, caps: &Caps) -> Result<String> {
    let percent = usage.percent(caps);
    let found = format!(
        "{percent} % full: {} of {} owners, {} of {} index keys, {} of {} index rows",
        usage.owners,
        caps.owners,
        usage.index_keys,
        caps.index_keys,
        usage.index_rows,
        caps.index_rows
    );
    ensure!(percent <= MAX_PERCENT, found);
    Ok(found)
}

fn check_cursor(cursor: Result<Option<RelayCursor>, Unavailable>, now: Seconds) -> Result<String> {
    let cursor = cursor.map_err(Error::from)?;
    let cursor = cursor.ok_or_else(|| anyhow!("never read"))?;
    let age = now - cursor.read_until;
    ensure!(age <= MAX_CURSOR_AGE, "read until {age} s ago");
    Ok(format!("read until {age} s ago"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capacity_fails_from_90_percent_on() {
        let caps = Caps {
            owners: 1_000,
            index_keys: 1_000,
            index_rows: 1_000,
        };
        let usage = |owners| Usage {
            owners,
            ..Usage::default()
        };
        assert!(judge_usage(&usage(899), &caps).is_ok());
        let error = judge_usage(&usage(900), &caps).unwrap_err().to_string();
        assert!(error.contains("90 % full: 900 of 1000 owners"), "{error}");
    }
}
