//! `pushctl app`: the rows of `apps`, and the SNS platform applications that they name.

use std::{collections::HashMap, path::PathBuf};

use anyhow::{Context, Result, bail, ensure};
use nostr::key::Keys;
use nostr_push_core::{
    app::{App, Platform},
    ports::Apps,
};
use serde_json::{Map, Value, json};

use crate::operator::Operator;

/// What `OPTION=VALUE` may set: the fields of [`App`] but its id and platforms.
const OPTIONS: [&str; 10] = [
    "triggers",
    "allow_broad_filters",
    "content",
    "localized",
    "max_pushes",
    "max_mentions",
    "presence_timeout",
    "default_kinds",
    "contacts_only",
    "token_prefixes",
];

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Adds an app, or gives one that exists new credentials: its devices stay.
    Add(Add),
    /// Lists the apps.
    List,
    /// Sets options of an app. VALUE is JSON or a bare word; `null` is the default again.
    Set {
        /// The app's id.
        app: String,
        /// For example `max_pushes=20`, `content=minimal`,
        /// `triggers=[{"kinds":[1],"#p":["$owner"]}]`.
        #[arg(required = true, value_name = "OPTION=VALUE")]
        options: Vec<String>,
    },
    /// Removes an app, its platform applications, and with them all its endpoints.
    Remove {
        /// The app's id.
        app: String,
        /// Yes, all its devices.
        #[arg(long)]
        yes: bool,
    },
}

#[derive(clap::Args)]
pub(crate) struct Add {
    /// The app's id, which clients put into the `app` tag.
    app: String,
    /// APNs: the signing key (.p8) of your Apple developer account.
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
    /// APNs: for development builds too (`apns_sandbox`).
    #[arg(long, requires = "apns_key")]
    apns_sandbox: bool,
    /// FCM: the service account's key, a JSON file.
    #[arg(long)]
    fcm_service_account: Option<PathBuf>,
    /// Options, as for `set`.
    #[arg(value_name = "OPTION=VALUE")]
    options: Vec<String>,
}

pub(crate) async fn run(operator: &Operator, command: Command) -> Result<()> {
    match command {
        Command::Add(arguments) => add(operator, arguments).await,
        Command::List => {
            let apps = operator.store.all_apps().await?;
            let lines: Vec<String> = apps
                .iter()
                .map(|app| {
                    let platforms: Vec<&str> = app
                        .platforms
                        .keys()
                        .map(|platform| platform.as_str())
                        .collect();
                    format!(
                        "{}  {}  {}",
                        app.app,
                        platforms.join(","),
                        Value::from(options_of(app))
                    )
                })
                .collect();
            operator.answer(
                &json!(apps),
                if lines.is_empty() {
                    "no apps: pushctl app add".to_owned()
                } else {
                    lines.join("\n")
                },
            );
            Ok(())
        }
        Command::Set { app, options } => {
            let changed = with_options(&operator.app(&app).await?, &options)?;
            operator.store.put_app(&changed).await?;
            operator.answer(
                &json!(changed),
                format!(
                    "{app}: {}; the functions see it within a minute",
                    Value::from(options_of(&changed))
                ),
            );
            Ok(())
        }
        Command::Remove { app, yes } => {
            let stored = operator.app(&app).await?;
            ensure!(yes, "this removes all devices of {app}: say --yes");
            // The row last: whoever is interrupted here can say it again. Control events meanwhile
            // wait in their queue.
            for arn in stored.platforms.values() {
                operator.sns.delete_platform_application(arn).await?;
            }
            operator.store.delete_app(&app).await?;
            operator.answer(&json!({"removed": app}), format!("{app} is removed"));
            Ok(())
        }
    }
}

async fn add(operator: &Operator, arguments: Add) -> Result<()> {
    ensure!(
        !arguments.app.is_empty()
            && arguments.app.len() <= 200
            && arguments
                .app
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)),
        "an app's id is up to 200 letters, digits, dots, underscores and hyphens (SNS allows no others)"
    );
    let mut platforms: Vec<(Platform, HashMap<String, String>)> = Vec::new();
    if let Some(file) = &arguments.apns_key {
        let key = read(file)?;
        ensure!(
            key.contains("PRIVATE KEY"),
            "{} is no .p8 signing key",
            file.display()
        );
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let attributes = HashMap::from([
            ("PlatformCredential".to_owned(), key),
            ("PlatformPrincipal".to_owned(), text(&arguments.apns_key_id)),
            (
                "ApplePlatformTeamID".to_owned(),
                text(&arguments.apns_team_id),
            ),
            (
                "ApplePlatformBundleID".to_owned(),
                text(&arguments.apns_bundle_id),
            ),
        ]);
        platforms.push((Platform::Apns, attributes.clone()));
        if arguments.apns_sandbox {
            platforms.push((Platform::ApnsSandbox, attributes));
        }
    }
    if let Some(file) = &arguments.fcm_service_account {
        let account = read(file)?;
        let parsed: Value = serde_json::from_str(&account)
            .with_context(|| format!("{} is no JSON", file.display()))?;
        ensure!(
            parsed["type"] == "service_account",
            "{} is no service account's key",
            file.display()
        );
        platforms.push((
            Platform::Fcm,
            HashMap::from([("PlatformCredential".to_owned(), account)]),
        ));
    }
    let earlier = operator.store.app(&arguments.app).await?;
    let mut app = with_options(
        &earlier.unwrap_or_else(|| App::named(&arguments.app)),
        &arguments.options,
    )?;
    if platforms.is_empty() && app.platforms.is_empty() {
        bail!("an app needs --apns-key or --fcm-service-account");
    }
    let topic = operator
        .deployed()
        .await?
        .output("EndpointEventsTopic")?
        .to_owned();
    for (platform, mut attributes) in platforms {
        for event in [
            "EventEndpointDeleted",
            "EventEndpointUpdated",
            "EventDeliveryFailure",
        ] {
            attributes.insert(event.to_owned(), topic.clone());
        }
        eprintln!(
            "{}: platform application for {}",
            app.app,
            platform.as_str()
        );
        let arn = operator
            .sns
            .platform_application(&app.app, platform, app.platforms.get(&platform), attributes)
            .await?;
        app.platforms.insert(platform, arn);
    }
    operator.store.put_app(&app).await?;
    operator.answer(
        &json!(app),
        format!("{} is there; the functions see it within a minute", app.app),
    );
    Ok(())
}

fn read(file: &PathBuf) -> Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

/// The options that differ from the defaults.
fn options_of(app: &App) -> Map<String, Value> {
    let (Ok(Value::Object(app)), Ok(Value::Object(default))) = (
        serde_json::to_value(app),
        serde_json::to_value(App::default()),
    ) else {
        return Map::new();
    };
    app.into_iter()
        .filter(|(name, value)| {
            OPTIONS.contains(&name.as_str()) && default.get(name) != Some(value)
        })
        .collect()
}

/// The app with these options set.
fn with_options(app: &App, options: &[String]) -> Result<App> {
    let Value::Object(mut fields) = serde_json::to_value(app)? else {
        bail!("an app is an object")
    };
    for option in options {
        let (name, value) = option
            .split_once('=')
            .with_context(|| format!("{option} is not OPTION=VALUE"))?;
        ensure!(
            OPTIONS.contains(&name),
            "there is no option {name}: {}",
            OPTIONS.join(", ")
        );
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
        if value.is_null() {
            fields.remove(name);
        } else {
            fields.insert(name.to_owned(), value);
        }
    }
    let app: App = serde_json::from_value(fields.into()).context("a value is of the wrong kind")?;
    // What control would only say when somebody registers.
    app.triggers_for(Keys::generate().public_key())
        .context("triggers: not all are filters")?;
    Ok(app)
}

#[cfg(test)]
mod tests {
    use nostr_push_core::app::Content;

    use super::*;

    fn set(app: &App, options: &[&str]) -> Result<App, String> {
        with_options(
            app,
            &options
                .iter()
                .map(|option| (*option).to_owned())
                .collect::<Vec<_>>(),
        )
        .map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn options_are_set_unset_and_checked() {
        let app = set(
            &App::named("demo"),
            &[
                "max_pushes=5",
                "content=minimal",
                r##"triggers=[{"kinds":[1],"#p":["$owner"]}]"##,
            ],
        )
        .unwrap();
        assert_eq!(
            (app.max_pushes, app.content, app.triggers.len()),
            (Some(5), Content::Minimal, 1)
        );
        assert_eq!(
            options_of(&app).keys().collect::<Vec<_>>(),
            ["content", "max_pushes", "triggers"]
        );
        assert_eq!(
            set(&app, &["max_pushes=null", "content=null", "triggers=null"]),
            Ok(App::named("demo"))
        );
        for (bad, says) in [
            ("nonsense", "OPTION=VALUE"),
            ("app=other", "no option app"),
            ("platforms={}", "no option platforms"),
            ("max_pushes=many", "wrong kind"),
            ("content=everything", "wrong kind"),
            ("triggers=[{\"ids\":[\"x\"]}]", "not all are filters"),
        ] {
            let error = set(&App::named("demo"), &[bad]).unwrap_err();
            assert!(error.contains(says), "{bad}: {error}");
        }
    }

    #[test]
    fn every_option_is_a_field() {
        let all = json!({
            "app": "x", "platforms": {}, "triggers": [], "allow_broad_filters": true, "content": "minimal", "localized": true, "max_pushes": 1,
            "max_mentions": 1, "presence_timeout": 1, "default_kinds": [1], "contacts_only": true, "token_prefixes": ["x"],
        });
        let app: App = serde_json::from_value(all.clone()).unwrap();
        assert_eq!(serde_json::to_value(app).unwrap(), all);
        let fields: Vec<&String> = all
            .as_object()
            .unwrap()
            .keys()
            .filter(|name| !["app", "platforms"].contains(&name.as_str()))
            .collect();
        assert_eq!(fields.len(), OPTIONS.len());
        assert!(fields.iter().all(|name| OPTIONS.contains(&name.as_str())));
    }
}
