//! Moves the devices of an app from an earlier platform application to the app's own.
//!
//! Earlier versions named platform applications after the app alone, so two stacks of an account
//! could share one. `pushctl app add` creates the platform application with the stack's name and
//! then moves the devices. Control and deliver run meanwhile. The order is:
//!
//! 1. The row of the app names the new platform application, and the earlier one in `moving_from`.
//!    From then on control creates endpoints in the new one, once its cached row is outdated.
//! 2. For each device: an endpoint with the same token is created in the new application, and then
//!    the device's row is changed, if it has not changed since it was read. Each push goes to the
//!    endpoint that the row names. Both endpoints exist, so a push in progress is delivered.
//! 3. This is repeated until no row names an endpoint of the earlier application. The last look at
//!    the table begins after all cached rows of the app are outdated.
//! 4. After all pushes in progress have ended, the earlier application is deleted with its
//!    endpoints, unless another stack uses it. SNS's events about these endpoints remove nothing,
//!    because no device has them.
//!
//! After a crash, `pushctl app add APP` continues: what is left to do follows from the rows.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use futures_util::{StreamExt, TryStreamExt, stream};
use nostr_push_aws::{clients, dynamodb::Store};
use nostr_push_core::{
    Seconds,
    app::{App, platform_and_name_of},
    device::{Device, DeviceState},
    ports::{Devices, Endpoints, EnsuredEndpoint},
};

use crate::context::CommandContext;

/// The most devices that are moved at the same time. SNS allows some hundred requests per second,
/// and each device takes three or four.
const CONCURRENCY: usize = 16;

/// The most looks at the table. Each finds what control has written since the one before.
const MAX_PASSES: u32 = 20;

/// The pause before a device whose endpoint is being deleted is looked at again.
const BUSY_PAUSE: Duration = Duration::from_secs(10);

/// How the move of one device ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    /// The row names the new endpoint.
    Moved,
    /// The earlier endpoint does not exist any more. Feedback removes the device.
    Lost,
    /// The row has changed since it was read, or its endpoint is being deleted: look again.
    Again,
}

/// Moves all devices to the platform applications of the app, and deletes the earlier ones. Returns
/// the number of devices that were moved.
///
/// `grace` is the time after which all cached rows of the app are outdated and all pushes in
/// progress have ended.
pub(super) async fn run(context: &CommandContext, app: &App, grace: Duration) -> Result<u64> {
    let switched_at = Instant::now();
    let mut moved = 0;
    for from in &app.moving_from {
        let to = platform_and_name_of(from).and_then(|(platform, _)| app.platforms.get(&platform));
        let to = to.with_context(|| format!("the app has no platform for {from}"))?;
        let names = (from.as_str(), to.as_str());
        moved += move_all(context, names, switched_at, grace).await?;
        if let Some(stack) = other_user(context, from).await? {
            eprintln!(
                "{from} is kept, because the stack {stack} uses it: run pushctl app add for that \
                 stack as well"
            );
        } else if context
            .sns
            .platform_application_state(from)
            .await?
            .is_some()
        {
            eprintln!("waiting {} s for pushes in progress", grace.as_secs());
            tokio::time::sleep(grace).await;
            context.sns.delete_platform_application(from).await?;
            eprintln!("{from} is deleted");
        }
        finish(context, &app.app, from).await?;
    }
    Ok(moved)
}

/// Moves the devices until no row names an endpoint of the earlier application.
async fn move_all(
    context: &CommandContext,
    (from, to): (&str, &str),
    switched_at: Instant,
    grace: Duration,
) -> Result<u64> {
    let mut moved = 0;
    for _ in 0..MAX_PASSES {
        let is_last_possible = switched_at.elapsed() >= grace;
        let steps = pass(context, from, to).await?;
        let count = |step| steps.get(&step).copied().unwrap_or_default();
        moved += count(Step::Moved);
        eprintln!(
            "{from}: {moved} devices moved, {} without an endpoint, {} to look at again",
            count(Step::Lost),
            count(Step::Again)
        );
        if count(Step::Again) > 0 {
            tokio::time::sleep(BUSY_PAUSE.min(grace)).await;
        } else if is_last_possible && count(Step::Moved) == 0 {
            return Ok(moved);
        } else if let Some(rest) = grace.checked_sub(switched_at.elapsed()) {
            eprintln!(
                "waiting {} s until no function uses the earlier platform application",
                rest.as_secs()
            );
            tokio::time::sleep(rest).await;
        }
    }
    bail!("devices are still being written: run this command again")
}

/// Goes through the table once, and moves each device that it finds.
async fn pass(context: &CommandContext, from: &str, to: &str) -> Result<BTreeMap<Step, u64>> {
    let mut steps = BTreeMap::new();
    let mut next = None;
    loop {
        let page = context.store.devices_of_application(from, next).await?;
        let moves = stream::iter(page.rows).map(|device| move_device(context, to, device));
        let mut moves = moves.buffer_unordered(CONCURRENCY);
        while let Some(step) = moves.try_next().await? {
            *steps.entry(step).or_default() += 1;
        }
        next = page.next;
        if next.is_none() {
            return Ok(steps);
        }
    }
}

/// Moves one device: creates its new endpoint, and then changes its row.
async fn move_device(context: &CommandContext, to: &str, device: Device) -> Result<Step> {
    let (sns, store) = (&context.sns, &context.store);
    let now = clients::now().to_seconds();
    let Some((arn, state)) = endpoint_of(&device) else {
        return Ok(Step::Again);
    };
    // The process that holds the lease deletes the endpoint that it has read from the row.
    if matches!(state, DeviceState::Removing { until } if until > now) {
        return Ok(Step::Again);
    }
    let Some(endpoint) = sns.endpoint_state(arn).await? else {
        return lose(store, device, now).await;
    };
    let EnsuredEndpoint::Ready(new) = sns.ensure(to, &endpoint.token).await? else {
        bail!("SNS refuses the token of {arn} in {to}: are its credentials for the same platform?")
    };
    if !endpoint.enabled {
        // Deliver or feedback removes it as it would have removed the earlier endpoint.
        sns.disable(&new).await?;
    }
    let mut changed = device.clone();
    if let Some(registration) = &mut changed.registration {
        registration.endpoint_arn = Some(new);
    }
    Ok(if store.commit(Some(&changed), None).await? {
        Step::Moved
    } else {
        Step::Again
    })
}

/// The endpoint of a device, and its state.
fn endpoint_of(device: &Device) -> Option<(&str, DeviceState)> {
    let registration = device.registration.as_ref()?;
    Some((registration.endpoint_arn.as_deref()?, registration.state))
}

/// Marks a device whose endpoint does not exist, so that feedback removes it, as after a push that
/// SNS has refused.
async fn lose(store: &Store, device: Device, now: Seconds) -> Result<Step> {
    let is_active = device
        .registration
        .as_ref()
        .is_some_and(|r| r.state == DeviceState::Active && r.valid_until > now);
    if is_active && !store.commit(Some(&device.gone()), None).await? {
        return Ok(Step::Again);
    }
    Ok(Step::Lost)
}

/// The name of another stack in this account and region that uses the platform application.
pub(super) async fn other_user(
    context: &CommandContext,
    application: &str,
) -> Result<Option<String>> {
    for (stack, prefix) in context.other_stacks().await? {
        let apps = Store::new(&context.aws, &prefix).all_apps().await;
        let apps = apps.with_context(|| {
            format!(
                "cannot find out if the stack {stack} uses {application}, which is therefore kept"
            )
        })?;
        let mut arns = apps
            .iter()
            .flat_map(|app| app.platforms.values().chain(&app.moving_from));
        if arns.any(|arn| arn == application) {
            return Ok(Some(stack));
        }
    }
    Ok(None)
}

/// Records that the move is complete. The row is read again, because it may have changed meanwhile.
async fn finish(context: &CommandContext, app: &str, from: &str) -> Result<()> {
    let apps = context.store.all_apps().await?;
    if let Some(mut app) = apps.into_iter().find(|stored| stored.app == app) {
        app.moving_from.retain(|arn| arn != from);
        context.store.put_app(&app).await?;
    }
    Ok(())
}
