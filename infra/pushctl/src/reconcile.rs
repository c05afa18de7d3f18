//! Endpoints that no device has: a process died right after SNS had made one, or somebody deleted
//! rows by hand. They cost nothing and receive nothing, but they hold somebody's token.

use std::time::Duration;

use anyhow::Result;
use futures_util::{StreamExt, TryStreamExt, stream};
use nostr_push_aws::dynamodb::Store;
use nostr_push_core::ports::{Answer, Devices, Endpoints};
use serde_json::json;

use crate::operator::Operator;

/// How many questions are asked at once.
const CONCURRENCY: usize = 32;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Removes what it finds.
    #[arg(long)]
    remove: bool,
    /// How long before an endpoint is removed that nobody has, in seconds. Control makes an
    /// endpoint before it writes its row, and needs its time in between; and the index lags behind
    /// the table.
    #[arg(long, default_value_t = 120)]
    grace: u64,
}

pub(crate) async fn run(operator: &Operator, arguments: &Arguments) -> Result<()> {
    let Operator { store, sns, .. } = operator;
    let mut orphans = Vec::new();
    let mut endpoints = 0;
    for app in store.all_apps().await? {
        for (platform, application) in &app.platforms {
            let mut next = None;
            loop {
                let page = sns.endpoints(application, next).await?;
                endpoints += page.arns.len();
                orphans.extend(without_device(store, page.arns).await?);
                eprintln!(
                    "{} {}: {endpoints} endpoints so far, {} without a device",
                    app.app,
                    platform.as_str(),
                    orphans.len()
                );
                next = page.next;
                if next.is_none() {
                    break;
                }
            }
        }
    }
    let mut removed = Vec::new();
    if arguments.remove && !orphans.is_empty() {
        eprintln!(
            "waiting {} s: some may just be getting their device",
            arguments.grace
        );
        tokio::time::sleep(Duration::from_secs(arguments.grace)).await;
        for arn in without_device(store, orphans.clone()).await? {
            sns.delete(&arn).await?;
            removed.push(arn);
        }
    }
    let summary = format!(
        "{endpoints} endpoints, {} without a device, {} removed",
        orphans.len(),
        removed.len()
    );
    let lines: Vec<&str> = orphans
        .iter()
        .map(String::as_str)
        .chain([summary.as_str()])
        .collect();
    operator.answer(
        &json!({"endpoints": endpoints, "without_device": orphans, "removed": removed}),
        lines.join("\n"),
    );
    Ok(())
}

/// Those of the endpoints that no device has.
async fn without_device(store: &Store, arns: Vec<String>) -> Answer<Vec<String>> {
    let asked = stream::iter(arns).map(|arn| async move {
        let device = store.device_of_endpoint(&arn).await?;
        Ok(device.is_none().then_some(arn))
    });
    asked
        .buffered(CONCURRENCY)
        .try_filter_map(|orphan| async move { Ok(orphan) })
        .try_collect()
        .await
}
