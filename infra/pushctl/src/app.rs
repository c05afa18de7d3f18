//! `pushctl app`: the rows of `apps`, and their SNS platform applications.
//!
//! - [`follows`]: whom the follow lists of named pubkeys admit
//! - [`grant`]: the tags that admit single pubkeys
//! - [`move_devices`]: moves devices to platform applications with the stack's name

mod follows;
mod grant;
mod move_devices;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nostr_push_aws::sns;
use nostr_push_core::{
    app::{App, Platform, platform_and_name_of, platform_application_name},
    ports::Apps,
};
use serde_json::{Value, json};

use crate::{
    context::CommandContext,
    options::{options_of, with_options},
};

/// The endpoint events that a platform application reports to the stack's topic
/// (<https://docs.aws.amazon.com/sns/latest/dg/application-event-notifications.html>).
const ENDPOINT_EVENTS: [&str; 3] = [
    "EventEndpointDeleted",
    "EventEndpointUpdated",
    "EventDeliveryFailure",
];

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Adds an app, or replaces the credentials of an existing app. Its devices are kept. If an
    /// earlier version has named its platform applications, or another stack has, the devices are
    /// moved to platform applications with the names of the stack and the app.
    Add(Add),
    /// Lists the apps.
    List,
    /// Sets options of an app. VALUE is JSON or a single word; `null` restores the default. A list
    /// of pubkeys is JSON, or `npub1…,npub1…`, or `@FILE` with one pubkey per line. `payload` is
    /// one shape for all platforms that can read it, or `fcm:verse,apns:wake`. The shapes are
    /// `native`, `embedded-distributor`, `verse` and `wake`.
    Set {
        /// The app's id.
        app: String,
        /// For example `admission=pow`, `max_pushes=20`, `content=minimal`, `payload=verse`,
        /// `triggers=[{"kinds":[1],"#p":["$owner"]}]`.
        #[arg(required = true, value_name = "OPTION=VALUE")]
        options: Vec<String>,
    },
    /// Reads the follow lists (kind 3) of the pubkeys in `follow_lists`, and admits those whom they
    /// name. Meant to be run by cron.
    Follows(follows::Arguments),
    /// Prints a grant: the tag that admits a pubkey to an app with `admission=grant`.
    Grant(grant::Arguments),
    /// Removes an app, its platform applications, and all their endpoints.
    Remove {
        /// The app's id.
        app: String,
        /// Confirms that all devices of the app are removed.
        #[arg(long)]
        yes: bool,
    },
}

#[derive(clap::Args)]
pub(crate) struct Add {
    /// The app's id, which clients put in the `app` tag.
    app: String,
    /// APNs: the signing key (.p8) of the Apple developer account.
    #[arg(long, requires_all = ["apns_key_id", "apns_team_id", "apns_bundle_id"])]
    apns_key: Option<PathBuf>,
    /// APNs: the key's id.
    #[arg(long)]
    apns_key_id: Option<String>,
    /// APNs: the team's id.
    #[arg(long)]
    apns_team_id: Option<String>,
    /// APNs: the app's bundle id.
    #[arg(long)]
    apns_bundle_id: Option<String>,
    /// APNs: also adds the platform of development builds (`apns_sandbox`).
    #[arg(long, requires = "apns_key")]
    apns_sandbox: bool,
    /// FCM: the key of a service account, a JSON file.
    #[arg(long)]
    fcm_service_account: Option<PathBuf>,
    /// Makes SNS log what APNs and FCM answer: all failures, and this percentage of the delivered
    /// pushes. `0` logs the failures alone, `off` logs nothing. By default nothing changes.
    #[arg(long, value_name = "PERCENT", value_parser = delivery_status)]
    delivery_status: Option<DeliveryStatus>,
    /// If devices are moved: the seconds until no function uses the earlier platform application.
    /// Functions read the app again after 60 seconds, and run for at most 30.
    #[arg(long, default_value_t = 120)]
    grace: u64,
    /// Options, as for `set`.
    #[arg(value_name = "OPTION=VALUE")]
    options: Vec<String>,
}

pub(crate) async fn run(context: &CommandContext, command: Command) -> Result<()> {
    match command {
        Command::Add(arguments) => add(context, arguments).await,
        Command::List => list(context).await,
        Command::Set { app, options } => set(context, &app, &options).await,
        Command::Follows(arguments) => follows::run(context, &arguments).await,
        Command::Grant(arguments) => grant::run(context, &arguments).await,
        Command::Remove { app, yes } => remove(context, &app, yes).await,
    }
}

async fn list(context: &CommandContext) -> Result<()> {
    let apps = context.store.all_apps().await?;
    let line = |app: &App| {
        let platforms: Vec<&str> = app.platforms.keys().map(|p| p.as_str()).collect();
        let options = Value::from(options_of(app));
        format!("{}  {}  {options}", app.app, platforms.join(","))
    };
    let lines: Vec<String> = apps.iter().map(line).collect();
    let text = if lines.is_empty() {
        "there are no apps, see pushctl app add".to_owned()
    } else {
        lines.join("\n")
    };
    context.print(&json!(apps), text);
    Ok(())
}

async fn set(context: &CommandContext, app: &str, options: &[String]) -> Result<()> {
    let stored = context.app(app).await?;
    let changed = with_options(&stored, options)?;
    context.store.put_app(&changed).await?;
    let options = Value::from(options_of(&changed));
    context.print(
        &json!(changed),
        format_args!("{app}: {options}; the functions use the options within a minute"),
    );
    if !changed.follow_lists.is_empty() && changed.follow_lists != stored.follow_lists {
        eprintln!("pushctl app follows {app} reads the follow lists");
    }
    Ok(())
}

async fn remove(context: &CommandContext, app: &str, yes: bool) -> Result<()> {
    let stored = context.app(app).await?;
    ensure!(yes, "this removes all devices of {app}: confirm with --yes");
    // The row is deleted last, so that an interrupted command can be repeated. Meanwhile control
    // events are retried.
    for arn in stored.platforms.values().chain(&stored.moving_from) {
        // Earlier versions let stacks of an account share platform applications.
        if let Some(stack) = move_devices::other_user(context, arn).await? {
            eprintln!("{arn} is kept, because the stack {stack} uses it");
        } else {
            context.sns.delete_platform_application(arn).await?;
        }
    }
    context.store.delete_app(app).await?;
    context.print(&json!({"removed": app}), format_args!("{app} is removed"));
    Ok(())
}

/// The percentage of delivered pushes to log besides the failed ones; `None` logs nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct DeliveryStatus(Option<u8>);

fn delivery_status(text: &str) -> Result<DeliveryStatus, String> {
    if text == "off" {
        return Ok(DeliveryStatus(None));
    }
    let percent = text.parse().ok().filter(|percent| *percent <= 100);
    percent
        .map(|percent| DeliveryStatus(Some(percent)))
        .ok_or_else(|| "neither 0 to 100 nor off".to_owned())
}

/// The attributes of a platform application that hold its credentials.
type Credentials = HashMap<String, String>;

async fn add(context: &CommandContext, arguments: Add) -> Result<()> {
    let id = &arguments.app;
    let name = platform_application_name(&context.stack, id)?;
    let mut platforms = apns(&arguments)?;
    platforms.extend(fcm(&arguments)?);
    let stored = context.store.app(id).await?;
    let stored = stored.unwrap_or_else(|| App::named(id));
    let mut app = with_options(&stored, &arguments.options)?;
    if platforms.is_empty() && app.platforms.is_empty() {
        bail!("an app needs --apns-key or --fcm-service-account");
    }
    let deployed = context.deployed().await?;
    let topic = deployed.output("EndpointEventsTopic")?;
    for (platform, mut attributes) in platforms {
        let events = ENDPOINT_EVENTS.map(|event| (event.to_owned(), topic.to_owned()));
        attributes.extend(events);
        eprintln!(
            "{id}: configuring the platform application for {}",
            platform.as_str()
        );
        let arn = put_platform_application(context, &app, &name, platform, attributes).await?;
        let replaced = app.platforms.insert(platform, arn.clone());
        app.moving_from
            .extend(replaced.filter(|replaced| *replaced != arn));
    }
    if let Some(DeliveryStatus(percent)) = arguments.delivery_status {
        let role = deployed.output("DeliveryStatusRole")?;
        for arn in app.platforms.values() {
            let attributes = sns::delivery_status_attributes(role, percent);
            context
                .sns
                .set_platform_application(arn, attributes)
                .await?;
        }
    }
    context.store.put_app(&app).await?;
    let moved = move_devices::run(context, &app, Duration::from_secs(arguments.grace)).await?;
    app.moving_from.clear();
    let mut json = json!(app);
    json["moved"] = moved.into();
    context.print(
        &json,
        format_args!(
            "{id} is stored, and {moved} devices are moved; the functions use it within a minute"
        ),
    );
    let unusable: Vec<String> = with_other_name(&app, &name).cloned().collect();
    ensure!(
        unusable.is_empty(),
        "the functions may not use {}, which have names of an earlier version: run this command \
         with the credentials of their platforms as well",
        unusable.join(" and ")
    );
    Ok(())
}

/// Creates the platform application with this name, or updates it and keeps its endpoints. Returns
/// its ARN.
async fn put_platform_application(
    context: &CommandContext,
    app: &App,
    name: &str,
    platform: Platform,
    attributes: Credentials,
) -> Result<String> {
    let sns = &context.sns;
    let has_name = |arn: &&String| platform_and_name_of(arn) == Some((platform, name));
    let existing = match app.platforms.get(&platform).filter(has_name) {
        Some(arn) => Some(arn.clone()),
        // This command may have been interrupted before it stored the app.
        None => sns.find_platform_application(name, platform).await?,
    };
    let arn = sns.platform_application(name, platform, existing.as_ref(), attributes);
    Ok(arn.await?)
}

/// The platform applications of an app that do not have this name.
pub(crate) fn with_other_name<'a>(app: &'a App, name: &'a str) -> impl Iterator<Item = &'a String> {
    let arns = app.platforms.values();
    arns.filter(move |arn| platform_and_name_of(arn).is_some_and(|(_, found)| found != name))
}

/// The platforms of APNs with their credentials
/// (<https://docs.aws.amazon.com/sns/latest/dg/sns-apple-authentication-methods.html>).
fn apns(arguments: &Add) -> Result<Vec<(Platform, Credentials)>> {
    let Some(file) = &arguments.apns_key else {
        return Ok(Vec::new());
    };
    let key = read(file)?;
    ensure!(
        key.contains("PRIVATE KEY"),
        "{} is not a .p8 signing key",
        file.display()
    );
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let credentials = HashMap::from(
        [
            ("PlatformCredential", key),
            ("PlatformPrincipal", text(&arguments.apns_key_id)),
            ("ApplePlatformTeamID", text(&arguments.apns_team_id)),
            ("ApplePlatformBundleID", text(&arguments.apns_bundle_id)),
        ]
        .map(|(name, value)| (name.to_owned(), value)),
    );
    let mut platforms = vec![(Platform::Apns, credentials.clone())];
    if arguments.apns_sandbox {
        platforms.push((Platform::ApnsSandbox, credentials));
    }
    Ok(platforms)
}

/// FCM with its credentials
/// (<https://docs.aws.amazon.com/sns/latest/dg/sns-fcm-authentication-methods.html>).
fn fcm(arguments: &Add) -> Result<Option<(Platform, Credentials)>> {
    let Some(file) = &arguments.fcm_service_account else {
        return Ok(None);
    };
    let account = read(file)?;
    let parsed: Value = serde_json::from_str(&account)
        .with_context(|| format!("{} is not JSON", file.display()))?;
    ensure!(
        parsed["type"] == "service_account",
        "{} is not the key of a service account",
        file.display()
    );
    let credentials = HashMap::from([("PlatformCredential".to_owned(), account)]);
    Ok(Some((Platform::Fcm, credentials)))
}

fn read(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delivery_status_is_a_percentage_or_off() {
        assert_eq!(delivery_status("0"), Ok(DeliveryStatus(Some(0))));
        assert_eq!(delivery_status("100"), Ok(DeliveryStatus(Some(100))));
        assert_eq!(delivery_status("off"), Ok(DeliveryStatus(None)));
        for bad in ["101", "-1", "5%", ""] {
            assert!(delivery_status(bad).is_err(), "{bad}");
        }
    }
}
