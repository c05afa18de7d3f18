//! The options of an app, as `OPTION=VALUE` sets them.

use std::collections::BTreeMap;

use anyhow::{Context, Result, anyhow, bail, ensure};
use nostr::key::{Keys, PublicKey};
use nostr_push_core::{
    admission::{Admission, MAX_POW_DIFFICULTY},
    app::{App, Platform},
    shape::Shape,
    subscription::MAX_FILTER_KINDS,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use strum::VariantArray;

use crate::context::pubkey;

/// The names of the options: the fields of [`App`] except its id, its platforms, and what
/// `pushctl app follows` has read.
const OPTIONS: [&str; 16] = [
    "admission",
    "pow_difficulty",
    GRANT_KEY,
    ALLOWED,
    FOLLOW_LISTS,
    "triggers",
    "allow_broad_filters",
    "content",
    "localized",
    PAYLOAD,
    "max_pushes",
    "max_mentions",
    "presence_timeout",
    "default_kinds",
    "contacts_only",
    "token_prefixes",
];

const PAYLOAD: &str = "payload";
const GRANT_KEY: &str = "grant_key";
const ALLOWED: &str = "allowed";
const FOLLOW_LISTS: &str = "follow_lists";

/// The most pubkeys of one app. DynamoDB limits a row to 400 KB.
pub(crate) const MAX_PUBKEYS: usize = 5_000;

/// The most pubkeys of a list that are printed.
const MAX_SHOWN: usize = 20;

/// The options that differ from the defaults. In place of a long list of pubkeys: their number.
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
        .map(|(name, value)| match value.as_array().map(Vec::len) {
            Some(n) if name == ALLOWED && n > MAX_SHOWN => (name, format!("{n} pubkeys").into()),
            _ => (name, value),
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
        let value = match name {
            GRANT_KEY => one_pubkey(value),
            ALLOWED | FOLLOW_LISTS => pubkeys(value),
            PAYLOAD => shapes(value),
            _ => Ok(serde_json::from_str(value).unwrap_or_else(|_| Value::from(value))),
        };
        let value = value.with_context(|| name.to_owned())?;
        if value.is_null() {
            fields.remove(name);
        } else {
            fields.insert(name.to_owned(), value);
        }
    }
    let mut app: App =
        serde_json::from_value(fields.into()).context("a value has the wrong type")?;
    if app.follow_lists.is_empty() {
        app.followed.clear();
    }
    check_admission(&app)?;
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

/// Checks the options that decide who becomes an owner.
fn check_admission(app: &App) -> Result<()> {
    ensure!(
        app.pow_difficulty
            .is_none_or(|difficulty| (1..=MAX_POW_DIFFICULTY).contains(&difficulty)),
        "pow_difficulty is 1 to {MAX_POW_DIFFICULTY}"
    );
    ensure!(
        app.admission != Admission::Grant || app.grant_key.is_some(),
        "admission=grant needs grant_key"
    );
    ensure!(
        app.admission != Admission::Allow
            || !app.allowed.is_empty()
            || !app.follow_lists.is_empty(),
        "admission=allow needs allowed or follow_lists"
    );
    check_pubkeys(app, app.followed.len())
}

/// Checks that the app's row has room for all its pubkeys, of which `followed` are on follow lists.
pub(crate) fn check_pubkeys(app: &App, followed: usize) -> Result<()> {
    let all = app.allowed.len() + app.follow_lists.len() + followed;
    ensure!(
        all <= MAX_PUBKEYS,
        "{all} pubkeys, but an app can have at most {MAX_PUBKEYS} in allowed and follow_lists and \
         on these lists together. For more, use admission=grant"
    );
    Ok(())
}

/// The shapes per platform: one shape for all platforms that it fits, `PLATFORM:SHAPE` separated by
/// commas, or a JSON object.
fn shapes(text: &str) -> Result<Value> {
    if text == "null" {
        return Ok(Value::Null);
    }
    let shapes: BTreeMap<Platform, Shape> = if text.starts_with('{') {
        serde_json::from_str(text).context("not an object of platforms and shapes")?
    } else if text.contains(':') {
        shapes_by_platform(text)?
    } else {
        let shape: Shape = named(text.trim_matches('"'))?;
        let platforms = Platform::VARIANTS.iter().copied();
        let fitting = platforms.filter(|platform| shape.fits(*platform, None));
        fitting.map(|platform| (platform, shape)).collect()
    };
    for (platform, shape) in &shapes {
        ensure!(
            shape.fits(*platform, None),
            "{} cannot read {}, only {}",
            name_of(platform),
            name_of(shape),
            names(|shape: &Shape| shape.fits(*platform, None))
        );
    }
    Ok(json!(shapes))
}

/// Reads `PLATFORM:SHAPE,…`.
fn shapes_by_platform(text: &str) -> Result<BTreeMap<Platform, Shape>> {
    let mut shapes = BTreeMap::new();
    for pair in text.split(',').map(str::trim) {
        let (platform, shape) = pair
            .split_once(':')
            .with_context(|| format!("{pair} is not PLATFORM:SHAPE"))?;
        let platform = named(platform.trim())?;
        let earlier = shapes.insert(platform, named(shape.trim())?);
        ensure!(earlier.is_none(), "{} has two shapes", name_of(&platform));
    }
    Ok(shapes)
}

/// The value with this name.
fn named<T: DeserializeOwned + Serialize + VariantArray>(name: &str) -> Result<T> {
    serde_json::from_value(json!(name))
        .map_err(|_| anyhow!("{name} is none of {}", names(|_: &T| true)))
}

/// The names of the values that are `wanted`.
fn names<T: Serialize + VariantArray>(wanted: impl Fn(&T) -> bool) -> String {
    let values = T::VARIANTS.iter().filter(|value| wanted(value));
    values.map(name_of).collect::<Vec<_>>().join(", ")
}

/// The name of a platform or shape.
fn name_of(value: &impl Serialize) -> String {
    let name = serde_json::to_value(value).unwrap_or_default();
    name.as_str().unwrap_or_default().to_owned()
}

/// The value of an option that is a pubkey, as hex.
fn one_pubkey(text: &str) -> Result<Value> {
    if text == "null" {
        return Ok(Value::Null);
    }
    Ok(json!(parse_pubkey(text.trim_matches('"'))?))
}

/// The value of an option that is a list of pubkeys, as hex: a JSON array, pubkeys separated by
/// commas, or `@` and the path of a file with one pubkey per line.
fn pubkeys(text: &str) -> Result<Value> {
    if text == "null" {
        return Ok(Value::Null);
    }
    let words: Vec<String> = if let Some(file) = text.strip_prefix('@') {
        let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?;
        text.split_whitespace().map(str::to_owned).collect()
    } else if text.starts_with('[') {
        serde_json::from_str(text).context("not a list of strings")?
    } else {
        text.split(',').map(|word| word.trim().to_owned()).collect()
    };
    let pubkeys: Result<Vec<PublicKey>> = words.iter().map(|word| parse_pubkey(word)).collect();
    Ok(json!(pubkeys?))
}

fn parse_pubkey(text: &str) -> Result<PublicKey> {
    pubkey(text).map_err(|problem| anyhow!("{text}: {problem}"))
}

#[cfg(test)]
mod tests {
    use nostr_push_core::app::ContentDetail;

    use super::*;
    use crate::key::npub;

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
    fn shapes_are_set_for_the_platforms_that_they_fit() {
        use nostr_push_core::app::Platform::{Apns, ApnsSandbox, Fcm};
        let demo = App::named("demo");
        for (option, shapes) in [
            ("payload=verse", vec![(Fcm, Shape::Verse)]),
            (
                "payload=\"embedded-distributor\"",
                vec![(Fcm, Shape::EmbeddedDistributor)],
            ),
            (
                "payload=wake",
                vec![
                    (Apns, Shape::Wake),
                    (ApnsSandbox, Shape::Wake),
                    (Fcm, Shape::Wake),
                ],
            ),
            (
                "payload=fcm:verse, apns:wake",
                vec![(Fcm, Shape::Verse), (Apns, Shape::Wake)],
            ),
            (r#"payload={"fcm":"verse"}"#, vec![(Fcm, Shape::Verse)]),
        ] {
            let app = set(&demo, &[option]).unwrap();
            assert_eq!(app.payload, shapes.into_iter().collect(), "{option}");
            assert_eq!(set(&app, &["payload=null"]), Ok(demo.clone()));
        }
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
            (
                "payload=loud",
                "loud is none of native, embedded-distributor, verse, wake",
            ),
            ("payload=fcm:loud", "loud is none of"),
            (
                "payload=pager:wake",
                "pager is none of apns, apns_sandbox, fcm",
            ),
            (
                "payload=apns:verse",
                "apns cannot read verse, only native, wake",
            ),
            (
                r#"payload={"apns":"verse"}"#,
                "apns cannot read verse, only native, wake",
            ),
            (r#"payload={"fcm":"loud"}"#, "expected one of `native`"),
            (r#"payload={"pager":"wake"}"#, "expected one of `apns`"),
            ("payload=fcm:verse,wake", "wake is not PLATFORM:SHAPE"),
            ("payload=fcm:verse,fcm:wake", "fcm has two shapes"),
            ("payload=", "is none of native"),
            ("payload={", "not an object"),
            ("triggers=[{\"ids\":[\"x\"]}]", "not all are filters"),
            (&default_kinds, "at most 64 kinds"),
            (&trigger, "at most 64 kinds"),
            ("admission=everybody", "wrong type"),
            ("admission=grant", "needs grant_key"),
            ("admission=allow", "needs allowed or follow_lists"),
            ("pow_difficulty=33", "1 to 32"),
            ("pow_difficulty=0", "1 to 32"),
            ("grant_key=npub1x", "neither 64 hex characters nor an npub"),
            ("allowed=[1]", "not a list of strings"),
            ("allowed=", "neither 64 hex characters nor an npub"),
            ("allowed=@/nowhere", "cannot read /nowhere"),
            ("followed=[]", "no option followed"),
        ] {
            let error = set(&App::named("demo"), &[bad]).unwrap_err();
            assert!(error.contains(message), "{bad}: {error}");
        }
    }

    #[test]
    fn pubkeys_are_hex_or_npub_and_stored_as_hex() {
        let keys: Vec<PublicKey> = (0..3).map(|_| Keys::generate().public_key()).collect();
        let [hex, other] = [keys[0].to_hex(), keys[2].to_hex()];
        let npub = npub(&keys[1]);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("{hex}\n{npub}\n{other}\n")).unwrap();
        for list in [
            json!([hex, npub, other]).to_string(),
            format!("{hex},{npub},{other}"),
            format!("@{}", file.path().display()),
        ] {
            let app = set(&App::named("demo"), &[&format!("allowed={list}")]).unwrap();
            assert_eq!(app.allowed, keys, "{list}");
            assert!(!serde_json::to_string(&app).unwrap().contains("npub"));
        }
        let grant = ["admission=grant", &format!("grant_key={npub}")];
        let app = set(&App::named("demo"), &grant).unwrap();
        assert_eq!(app.grant_key, Some(keys[1]));
        let reset = ["admission=null", "grant_key=null"];
        assert_eq!(set(&app, &reset), Ok(App::named("demo")));
    }

    #[test]
    fn pubkeys_of_an_app_are_limited_in_all() {
        let key = Keys::generate().public_key();
        let app = App {
            follow_lists: vec![key],
            followed: vec![key; MAX_PUBKEYS - 2],
            ..App::named("demo")
        };
        let hex = key.to_hex();
        assert!(set(&app, &[&format!("allowed={hex}")]).is_ok());
        let error = set(&app, &[&format!("allowed={hex},{hex}")]).unwrap_err();
        assert!(error.contains("5001 pubkeys"), "{error}");
        let without = set(&app, &["follow_lists=null"]).unwrap();
        assert_eq!(without.followed, [], "nobody is followed without a list");
    }

    #[test]
    fn every_option_is_a_field() {
        let key = Keys::generate().public_key();
        let all = json!({
            "app": "x", "platforms": {}, "triggers": [], "allow_broad_filters": true,
            "content": "minimal", "localized": true, "payload": {"fcm": "verse"}, "max_pushes": 1,
            "max_mentions": 1, "presence_timeout": 1, "default_kinds": [1], "contacts_only": true,
            "token_prefixes": ["x"], "admission": "grant", "pow_difficulty": 1, "grant_key": key,
            "allowed": [key], "follow_lists": [key], "followed": [key],
        });
        let app: App = serde_json::from_value(all.clone()).unwrap();
        assert_eq!(serde_json::to_value(app).unwrap(), all);
        let mut fields: Vec<&str> = all
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        fields.retain(|name| !["app", "platforms", "followed"].contains(name));
        assert_eq!(fields.len(), OPTIONS.len());
        assert!(fields.iter().all(|name| OPTIONS.contains(name)));
    }
}
