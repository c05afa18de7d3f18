//! `pushctl reconcile`: endpoints without a device. They exist if a process crashed right after SNS
//! had created an endpoint, or if rows were deleted by hand. They cost nothing and receive nothing,
//! but they contain a token.

use std::time::Duration;

use anyhow::Result;
use futures_util::{StreamExt, TryStreamExt, stream};
use nostr_push_aws::dynamodb::Store;
use nostr_push_core::ports::{Devices, Endpoints, PortResult};
use serde_json::json;

use crate::context::CommandContext;

/// The most lookups at the same time.
const CONCURRENCY: usize = 32;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Deletes the endpoints.
    #[arg(long)]
    remove: bool,
    /// How many seconds an endpoint must have no device before it is deleted. Control creates an
    /// endpoint before it writes the device's row, and the index lags behind the table.
    #[arg(long, default_value_t = 120)]
    grace: u64,
}

pub(crate) async fn run(context: &CommandContext, arguments: &Arguments) -> Result<()> {
    let (endpoints, orphans) = find_orphans(context).await?;
    let mut removed = Vec::new();
    if arguments.remove && !orphans.is_empty() {
        eprintln!(
            "waiting {} s, because control may be registering some of them",
            arguments.grace
        );
        tokio::time::sleep(Duration::from_secs(arguments.grace)).await;
        for arn in without_device(&context.store, orphans.clone()).await? {
            context.sns.delete(&arn).await?;
            removed.push(arn);
        }
    }
    let summary = format!(
        "{endpoints} endpoints, {} without a device, {} deleted",
        orphans.len(),
        removed.len()
    );
    let lines = [orphans.clone(), vec![summary]].concat();
    context.print(
        &json!({"endpoints": endpoints, "without_device": orphans, "removed": removed}),
        lines.join("\n"),
    );
    Ok(())
}

/// The number of all endpoints, and the ARNs of those without a device.
async fn find_orphans(context: &CommandContext) -> Result<(usize, Vec<String>)> {
    let mut orphans = Vec::new();
    let mut endpoints = 0;
    for app in context.store.all_apps().await? {
        for (platform, application) in &app.platforms {
            let mut next = None;
            loop {
                let page = context.sns.endpoints(application, next).await?;
                endpoints += page.arns.len();
                orphans.extend(without_device(&context.store, page.arns).await?);
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
    Ok((endpoints, orphans))
}

/// The endpoints that no device has.
async fn without_device(store: &Store, arns: Vec<String>) -> PortResult<Vec<String>> {
    let lookups = stream::iter(arns).map(|arn| async move {
        let device = store.device_of_endpoint(&arn).await?;
        Ok(device.is_none().then_some(arn))
    });
    lookups
        .buffered(CONCURRENCY)
        .try_filter_map(|orphan| async move { Ok(orphan) })
        .try_collect()
        .await
}
