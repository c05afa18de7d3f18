//! `pushctl doctor`: one check after the other, each with what to do when it fails.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use aws_sdk_sqs::Client;
use nostr_push_aws::clients;
use nostr_push_core::ports::{Relays, seconds};
use serde_json::json;

use crate::{
    dlq::{QUEUES, Queues},
    key::npub,
    operator::Operator,
    relay,
};

/// What `doctor` exits with when it found something.
const FOUND: u8 = 3;

/// How old a relay's cursor may be, in seconds: the listener stores one every 25 s.
const FRESH: u64 = 300;

struct Checks {
    results: Vec<(String, Result<String>, &'static str)>,
}

impl Checks {
    /// Notes a check, and tells it as it is done.
    fn note(&mut self, what: impl Into<String>, result: Result<String>, otherwise: &'static str) {
        let what = what.into();
        match &result {
            Ok(found) => eprintln!("ok    {what}: {found}"),
            Err(error) => eprintln!("FAIL  {what}: {error:#}\n      {otherwise}"),
        }
        self.results.push((what, result, otherwise));
    }
}

pub(crate) async fn run(operator: &Operator) -> Result<ExitCode> {
    let mut checks = Checks {
        results: Vec::new(),
    };
    let deployed = operator.deployed().await;
    let stack = deployed
        .as_ref()
        .map_err(|error| anyhow::anyhow!("{error:#}"))
        .and_then(|deployed| {
            ensure!(
                deployed.status.ends_with("_COMPLETE") && !deployed.status.contains("ROLLBACK"),
                "it is {}",
                deployed.status
            );
            Ok(deployed.status.clone())
        });
    checks.note(
        "credentials and stack",
        stack,
        "Check AWS_PROFILE and AWS_REGION, and --stack; deploy with infra/deploy.",
    );
    let keys = operator.service_key().await;
    let service = keys
        .as_ref()
        .ok()
        .map(|keys| keys.public_key().to_hex())
        .unwrap_or_default();
    checks.note(
        "service key",
        keys.map(|keys| npub(&keys.public_key())),
        "It must be 64 hex characters or an nsec: pushctl key new.",
    );
    apps(operator, &mut checks, deployed.as_ref().ok()).await;
    let queues = Queues {
        client: Client::new(&operator.aws),
        stack: &operator.stack,
    };
    for queue in QUEUES {
        let dead = queues.dead(queue).await.and_then(|dead| {
            ensure!(dead == 0, "{dead} messages");
            Ok("none".to_owned())
        });
        checks.note(
            format!("dead letters of {queue}"),
            dead,
            "pushctl dlq show, then pushctl dlq redrive.",
        );
    }
    if let Ok(deployed) = &deployed {
        let image = deployed
            .parameters
            .get("ListenerImage")
            .filter(|image| !image.is_empty());
        let image = image
            .cloned()
            .ok_or_else(|| anyhow::anyhow!("none is deployed"));
        checks.note(
            "listener's image",
            image,
            "infra/deploy builds, pushes and deploys it.",
        );
        let relays = deployed.relays();
        let configured = if relays.is_empty() {
            Err(anyhow::anyhow!("none"))
        } else {
            Ok(format!("{} configured", relays.len()))
        };
        checks.note("relays", configured, "infra/deploy Relays=wss://…");
        for url in relays {
            let answers = relay::answers(&url, &service)
                .await
                .map(|()| "answers".to_owned());
            checks.note(
                format!("relay {url}"),
                answers,
                "If it stays so, take another one: infra/deploy Relays=….",
            );
            let cursor = operator
                .store
                .cursor(&url)
                .await
                .map_err(anyhow::Error::from)
                .and_then(|cursor| {
                    let age = seconds(clients::now()).saturating_sub(cursor.unwrap_or_default());
                    ensure!(cursor.is_some(), "never read");
                    ensure!(age <= FRESH, "read until {age} s ago");
                    Ok(format!("read until {age} s ago"))
                });
            checks.note(
                format!("listener at {url}"),
                cursor,
                "Look at the log /ecs/STACK-listener, and at the service's events in ECS.",
            );
        }
    }
    let failed = checks
        .results
        .iter()
        .filter(|(_, result, _)| result.is_err())
        .count();
    let results: Vec<_> = checks
        .results
        .iter()
        .map(|(what, result, otherwise)| match result {
            Ok(found) => json!({"check": what, "ok": true, "found": found}),
            Err(error) => json!({"check": what, "ok": false, "found": format!("{error:#}"), "to_do": otherwise}),
        })
        .collect();
    operator.answer(
        &json!({"failed": failed, "checks": results}),
        format!("{} checks, {failed} failed", results.len()),
    );
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(FOUND)
    })
}

async fn apps(
    operator: &Operator,
    checks: &mut Checks,
    deployed: Option<&crate::operator::Deployed>,
) {
    let apps = match operator.store.all_apps().await {
        Ok(apps) => apps,
        Err(error) => {
            return checks.note(
                "apps",
                Err(error.into()),
                "The tables cannot be read: check your rights, and --stack.",
            );
        }
    };
    let some = if apps.is_empty() {
        Err(anyhow::anyhow!("none"))
    } else {
        Ok(apps
            .iter()
            .map(|app| app.app.as_str())
            .collect::<Vec<_>>()
            .join(", "))
    };
    checks.note("apps", some, "pushctl app add.");
    if let Some(heartbeat) = deployed
        .and_then(|deployed| deployed.parameters.get("HeartbeatApp"))
        .filter(|app| !app.is_empty())
    {
        let known = if apps.iter().any(|app| app.app == *heartbeat) {
            Ok(heartbeat.clone())
        } else {
            Err(anyhow::anyhow!("{heartbeat} is no app"))
        };
        checks.note(
            "heartbeat app",
            known,
            "pushctl app add, or infra/deploy HeartbeatApp=….",
        );
    }
    let topic = deployed.and_then(|deployed| deployed.output("EndpointEventsTopic").ok());
    for app in apps {
        for (platform, arn) in &app.platforms {
            let state = operator
                .sns
                .platform_application_state(arn)
                .await
                .map_err(anyhow::Error::from)
                .and_then(|state| {
                    let state = state
                        .ok_or_else(|| anyhow::anyhow!("SNS has no such platform application"))?;
                    ensure!(
                        state.enabled,
                        "SNS has disabled it: its credentials are refused"
                    );
                    ensure!(
                        topic.is_none() || state.topic.as_deref() == topic,
                        "it does not tell the stack's topic of its endpoints"
                    );
                    Ok("enabled, and tells of its endpoints".to_owned())
                });
            checks.note(
                format!("{} on {}", app.app, platform.as_str()),
                state,
                "pushctl app add with the credentials once more.",
            );
        }
    }
}
