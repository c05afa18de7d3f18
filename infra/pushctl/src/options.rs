//! The options of an app, as `OPTION=VALUE` sets them.

use anyhow::{Context, Result, bail, ensure};
use nostr::key::Keys;
use nostr_push_core::{app::App, subscription::MAX_FILTER_KINDS};
use serde_json::{Map, Value};

/// The names of the options: the fields of [`App`] except its id and platforms.
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

/// The options that differ from the defaults.
pub(crate) fn options_of(app: &App) -> Map<String, Value> {
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

/// The app with these options (`OPTION=VALUE`) set.
pub(crate) fn with_options(app: &App, options: &[String]) -> Result<App> {
    let Value::Object(mut fields) = serde_json::to_value(app)? else {
        bail!("an app is not an object")
    };
    for option in options {
        let (name, value) = option
            .split_once('=')
            .with_context(|| format!("{option} is not OPTION=VALUE"))?;
        ensure!(
            OPTIONS.contains(&name),
            "there is no option {name}, only {}",
            OPTIONS.join(", ")
        );
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
        if value.is_null() {
            fields.remove(name);
        } else {
            fields.insert(name.to_owned(), value);
        }
    }
    let app: App = serde_json::from_value(fields.into()).context("a value has the wrong type")?;
    // Otherwise control would apply none of the app's triggers.
    let triggers = app
        .triggers_for(Keys::generate().public_key())
        .context("triggers: not all are filters")?;
    let kinds = triggers.iter().filter_map(|filter| filter.kinds.as_ref());
    ensure!(
        kinds
            .chain(&app.default_kinds)
            .all(|kinds| kinds.len() <= MAX_FILTER_KINDS),
        "triggers and default_kinds may have at most {MAX_FILTER_KINDS} kinds"
    );
    Ok(app)
}

#[cfg(test)]
mod tests {
    use nostr_push_core::app::ContentDetail;
    use serde_json::json;

    use super::*;

    fn set(app: &App, options: &[&str]) -> Result<App, String> {
        let options: Vec<String> = options.iter().map(|o| (*o).to_owned()).collect();
        with_options(app, &options).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn options_are_set_and_reset() {
        let trigger = r##"triggers=[{"kinds":[1],"#p":["$owner"]}]"##;
        let options = ["max_pushes=5", "content=minimal", trigger];
        let app = set(&App::named("demo"), &options).unwrap();
        assert_eq!(
            (app.max_pushes, app.content, app.triggers.len()),
            (Some(5), ContentDetail::Minimal, 1)
        );
        assert_eq!(
            options_of(&app).keys().collect::<Vec<_>>(),
            ["content", "max_pushes", "triggers"]
        );
        assert_eq!(
            set(&app, &["max_pushes=null", "content=null", "triggers=null"]),
            Ok(App::named("demo"))
        );
    }

    #[test]
    fn bad_options_are_refused() {
        let kinds: Vec<usize> = (0..=MAX_FILTER_KINDS).collect();
        let default_kinds = format!("default_kinds={kinds:?}");
        let trigger = format!("triggers={}", json!([{"kinds": kinds, "#t": ["a"]}]));
        for (bad, message) in [
            ("nonsense", "OPTION=VALUE"),
            ("app=other", "no option app"),
            ("platforms={}", "no option platforms"),
            ("max_pushes=many", "wrong type"),
            ("content=everything", "wrong type"),
            ("triggers=[{\"ids\":[\"x\"]}]", "not all are filters"),
            (&default_kinds, "at most 64 kinds"),
            (&trigger, "at most 64 kinds"),
        ] {
            let error = set(&App::named("demo"), &[bad]).unwrap_err();
            assert!(error.contains(message), "{bad}: {error}");
        }
    }

    #[test]
    fn every_option_is_a_field() {
        let all = json!({
            "app": "x", "platforms": {}, "triggers": [], "allow_broad_filters": true,
            "content": "minimal", "localized": true, "max_pushes": 1, "max_mentions": 1,
            "presence_timeout": 1, "default_kinds": [1], "contacts_only": true,
            "token_prefixes": ["x"],
        });
        let app: App = serde_json::from_value(all.clone()).unwrap();
        assert_eq!(serde_json::to_value(app).unwrap(), all);
        let mut fields: Vec<&str> = all
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        fields.retain(|name| !["app", "platforms"].contains(name));
        assert_eq!(fields.len(), OPTIONS.len());
        assert!(fields.iter().all(|name| OPTIONS.contains(name)));
    }
}
