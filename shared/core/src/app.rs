//! The operator's configuration of a client application.

use std::collections::BTreeMap;

use nostr::key::PublicKey;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use strum::VariantArray;

use crate::{
    Seconds,
    admission::{Admission, MAX_POW_DIFFICULTY},
    filter::{BadFilter, Filter},
    presence,
    shape::Shape,
};

/// The kinds for settings of dialect H without `kinds`, if the app has no default of its own:
/// notes, messages, reposts, reactions, wraps and zaps.
const DEFAULT_KINDS: [u16; 6] = [1, 4, 6, 7, 1059, 9735];

/// The longest app id. Ids are parts of keys in DynamoDB, and of the names of SNS platform
/// applications ([`platform_application_name`]).
pub const MAX_APP_ID_BYTES: usize = 200;

/// The longest name of an SNS platform application
/// (<https://docs.aws.amazon.com/sns/latest/api/API_CreatePlatformApplication.html>).
const MAX_PLATFORM_APPLICATION_NAME: usize = 256;

/// The longest name of a CloudFormation stack
/// (<https://docs.aws.amazon.com/AWSCloudFormation/latest/APIReference/API_CreateStack.html>).
const MAX_STACK_NAME: usize = 128;

/// The difficulty of the work of a new owner, by default. A phone needs about a second.
const DEFAULT_POW_DIFFICULTY: u8 = 20;

/// The most pushes per minute to one recipient, by default.
const DEFAULT_MAX_PUSHES: u32 = 30;

/// A push platform.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    strum::VariantArray,
)]
#[serde(rename_all = "snake_case")]
pub enum Platform {
    /// Apple Push Notification service, production.
    Apns,
    /// Apple Push Notification service, development builds.
    ApnsSandbox,
    /// Firebase Cloud Messaging.
    Fcm,
}

impl Platform {
    /// The name that SNS uses for the platform, both to create a platform application and as the
    /// key of its part of a message
    /// (<https://docs.aws.amazon.com/sns/latest/dg/sns-send-custom-platform-specific-payloads-mobile-devices.html>).
    pub fn sns_name(self) -> &'static str {
        match self {
            Self::Apns => "APNS",
            Self::ApnsSandbox => "APNS_SANDBOX",
            Self::Fcm => "GCM",
        }
    }

    /// The platform with this [`Platform::sns_name`].
    pub fn from_sns_name(name: &str) -> Option<Self> {
        let mut platforms = Self::VARIANTS.iter().copied();
        platforms.find(|platform| platform.sns_name() == name)
    }

    /// The platform's name in payloads, rows and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Apns => "apns",
            Self::ApnsSandbox => "apns_sandbox",
            Self::Fcm => "fcm",
        }
    }
}

/// How much of a public event's content appears in title and body. The content of private kinds
/// never appears.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContentDetail {
    /// What happened, and who caused it.
    Minimal,
    /// Also the event's text.
    #[default]
    Rich,
}

/// One app's settings: its SNS platform applications and its options.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct App {
    /// The app id that clients put in the `app` tag.
    pub app: String,
    /// The ARN of the SNS platform application per platform.
    pub platforms: BTreeMap<Platform, String>,
    /// The ARNs of earlier platform applications whose devices `pushctl app add` is moving to those
    /// in `platforms`. Functions use the ARNs in the rows of the devices and need no others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub moving_from: Vec<String>,
    /// Who can become an owner.
    #[serde(default)]
    pub admission: Admission,
    /// The difficulty of the work that [`Admission::Pow`] asks for, in zero bits; default 20. With
    /// [`Admission::Open`]: the difficulty that is asked for while strangers use up their budget.
    /// By default no work is asked for then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pow_difficulty: Option<u8>,
    /// The key whose grants [`Admission::Grant`] accepts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant_key: Option<PublicKey>,
    /// Pubkeys that [`Admission::Allow`] admits.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed: Vec<PublicKey>,
    /// Pubkeys whose follow lists decide whom [`Admission::Allow`] admits as well.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub follow_lists: Vec<PublicKey>,
    /// The pubkeys on these lists, as `pushctl app follows` last read them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub followed: Vec<PublicKey>,
    /// Filter templates that become subscriptions of every owner with a device. `"$owner"` stands
    /// for the owner's pubkey.
    #[serde(default)]
    pub triggers: Vec<Value>,
    /// `true` if filters with no `ids`, `authors` or tags are allowed. They match events of the
    /// whole network.
    #[serde(default)]
    pub allow_broad_filters: bool,
    /// How much of an event's content appears in title and body.
    #[serde(default)]
    pub content: ContentDetail,
    /// `true` if the iOS app has the phrases of `docs/protocol.md` in its `Localizable.strings`, so
    /// that iOS translates them. Without the phrases iOS would show their keys.
    #[serde(default)]
    pub localized: bool,
    /// The shape of payloads per platform, for devices whose registration names none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub payload: BTreeMap<Platform, Shape>,
    /// The most pushes per minute to one recipient; at least 1, default 30. Further events become
    /// one summary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_pushes: Option<u32>,
    /// Events that mention more people than this do not notify. There is no limit by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_mentions: Option<u16>,
    /// Dialect H: seconds without a heartbeat after which the app counts as closed. Default 210.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub presence_timeout: Option<Seconds>,
    /// Dialect H: the kinds for settings without `kinds`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_kinds: Option<Vec<u16>>,
    /// Dialect H: `true` if `authors` (a contact list) restricts who may notify by a mention.
    #[serde(default)]
    pub contacts_only: bool,
    /// Dialect H: prefixes that clients put before an APNs token in `deviceId`, such as the app's
    /// bundle id.
    #[serde(default)]
    pub token_prefixes: Vec<String>,
}

impl App {
    /// An app with this id and no platforms or options.
    pub fn named(app: &str) -> Self {
        Self {
            app: app.to_owned(),
            ..Self::default()
        }
    }

    /// The difficulty of the work that a new owner must do.
    pub fn pow_difficulty(&self) -> u8 {
        self.pow_difficulty
            .unwrap_or(DEFAULT_POW_DIFFICULTY)
            .min(MAX_POW_DIFFICULTY)
    }

    /// The most pushes per minute to one recipient.
    pub fn max_pushes(&self) -> u32 {
        self.max_pushes.unwrap_or(DEFAULT_MAX_PUSHES).max(1)
    }

    /// Seconds without a heartbeat after which the app counts as closed.
    pub fn presence_timeout(&self) -> Seconds {
        self.presence_timeout.unwrap_or(presence::DEFAULT_TIMEOUT)
    }

    /// The kinds for settings without `kinds`, sorted.
    pub fn default_kinds(&self) -> Vec<u16> {
        let mut kinds = self
            .default_kinds
            .clone()
            .unwrap_or_else(|| DEFAULT_KINDS.to_vec());
        kinds.sort_unstable();
        kinds.dedup();
        kinds
    }

    /// The platform of a token: the one that the registration names, else the app's only one, else
    /// APNs for 64 or more hex characters and FCM for anything else. `None` if the app does not
    /// have that platform.
    pub fn platform_of(&self, named: Option<Platform>, token: &str) -> Option<Platform> {
        let looks_like_apns = is_apns_token(token);
        let platform = match named {
            Some(platform) => platform,
            None if self.platforms.len() == 1 => *self.platforms.keys().next()?,
            None if looks_like_apns && self.platforms.contains_key(&Platform::Apns) => {
                Platform::Apns
            }
            None if looks_like_apns => Platform::ApnsSandbox,
            None => Platform::Fcm,
        };
        self.platforms.contains_key(&platform).then_some(platform)
    }

    /// The fixed triggers, as filters of this owner.
    ///
    /// # Errors
    /// A template is not a filter. `pushctl` refuses such a template, so this is the operator's
    /// mistake.
    pub fn triggers_for(&self, owner: PublicKey) -> Result<Vec<Filter>, BadFilter> {
        let read = |template| {
            Ok(Filter::from_json(&with_owner(template, &owner.to_hex()))?.addressed(owner))
        };
        self.triggers.iter().map(read).collect()
    }
}

/// Why an app's SNS platform applications cannot have a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadPlatformApplicationName {
    /// The app id is empty, too long, or has other characters than SNS allows in names.
    #[error(
        "an app id has 1 to {MAX_APP_ID_BYTES} letters, digits, dots, underscores and hyphens, \
         because SNS allows no others"
    )]
    App,
    /// The text is not the name of a CloudFormation stack.
    #[error(
        "a stack name has 1 to {MAX_STACK_NAME} letters, digits and hyphens, and starts with a \
         letter"
    )]
    Stack,
    /// Both together are too long.
    #[error(
        "the names of the stack and the app together have more than \
         {MAX_PLATFORM_APPLICATION_NAME} characters: use a shorter app id"
    )]
    TooLong,
}

/// The name of an app's SNS platform applications: `{stack}.{app}`.
///
/// SNS allows at most 256 letters, digits, underscores, hyphens and periods
/// (<https://docs.aws.amazon.com/sns/latest/api/API_CreatePlatformApplication.html>). A stack name
/// has no period, so the pattern `{stack}.*` in a policy matches no application of another stack.
///
/// # Errors
/// The app id or the stack name is not valid, or both together are too long.
pub fn platform_application_name(
    stack: &str,
    app: &str,
) -> Result<String, BadPlatformApplicationName> {
    let is_in_app = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if !(1..=MAX_APP_ID_BYTES).contains(&app.len()) || !app.chars().all(is_in_app) {
        return Err(BadPlatformApplicationName::App);
    }
    let is_in_stack = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let is_stack = stack.len() <= MAX_STACK_NAME
        && stack.starts_with(|c: char| c.is_ascii_alphabetic())
        && stack.chars().all(is_in_stack);
    if !is_stack {
        return Err(BadPlatformApplicationName::Stack);
    }
    let name = format!("{stack}.{app}");
    if name.len() > MAX_PLATFORM_APPLICATION_NAME {
        return Err(BadPlatformApplicationName::TooLong);
    }
    Ok(name)
}

/// The app's id, from the name of one of its platform applications. Names that earlier versions
/// gave are the id itself.
pub fn app_of_platform_application(name: &str) -> &str {
    name.split_once('.').map_or(name, |(_, app)| app)
}

/// The platform and the name of a platform application or endpoint, from its ARN:
/// `arn:aws:sns:REGION:ACCOUNT:app/PLATFORM/NAME` or `…:endpoint/PLATFORM/NAME/ID`
/// (<https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonsns.html>).
/// `None` for any other text.
pub fn platform_and_name_of(arn: &str) -> Option<(Platform, &str)> {
    let mut parts = arn.split('/').skip(1);
    Some((Platform::from_sns_name(parts.next()?)?, parts.next()?))
}

/// Returns `true` if the text has the form of an APNs token: 64 or more hex characters.
pub fn is_apns_token(text: &str) -> bool {
    text.len() >= 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// The template with the owner's pubkey in place of every `"$owner"`.
fn with_owner(template: &Value, owner: &str) -> Value {
    match template {
        Value::String(text) if text == "$owner" => Value::String(owner.to_owned()),
        Value::Array(items) => items.iter().map(|item| with_owner(item, owner)).collect(),
        Value::Object(fields) => fields
            .iter()
            .map(|(key, value)| (key.clone(), with_owner(value, owner)))
            .collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(platforms: &[Platform]) -> App {
        App {
            platforms: platforms
                .iter()
                .map(|p| (*p, p.as_str().to_owned()))
                .collect(),
            ..App::default()
        }
    }

    #[test]
    fn guesses_the_platform_of_a_token() {
        let hex = "a".repeat(64);
        assert_eq!(
            app(&[Platform::Fcm]).platform_of(None, &hex),
            Some(Platform::Fcm)
        );
        let both = app(&[Platform::Apns, Platform::Fcm]);
        assert_eq!(both.platform_of(None, &hex), Some(Platform::Apns));
        assert_eq!(both.platform_of(None, &hex[1..]), Some(Platform::Fcm));
        assert_eq!(
            both.platform_of(None, &format!("{hex}:x")),
            Some(Platform::Fcm)
        );
        assert_eq!(
            app(&[Platform::ApnsSandbox, Platform::Fcm]).platform_of(None, &hex),
            Some(Platform::ApnsSandbox)
        );
    }

    #[test]
    fn names_of_platform_applications_are_those_of_one_stack() {
        let name = platform_application_name;
        assert_eq!(name("push", "my.app_1-x").unwrap(), "push.my.app_1-x");
        // The applications of `push-eu` and of `push` cannot be confused.
        assert!(!name("push-eu", "a").unwrap().starts_with("push."));
        for app in ["", "a b", "ä", "a/b", &"a".repeat(MAX_APP_ID_BYTES + 1)] {
            assert_eq!(name("push", app), Err(BadPlatformApplicationName::App));
        }
        for stack in ["", "1push", "-push", "push.eu", "p_h", &"p".repeat(129)] {
            assert_eq!(name(stack, "a"), Err(BadPlatformApplicationName::Stack));
        }
        let app = "a".repeat(MAX_APP_ID_BYTES);
        let longest = name(&"p".repeat(55), &app).unwrap();
        assert_eq!(longest.len(), MAX_PLATFORM_APPLICATION_NAME);
        assert_eq!(app_of_platform_application("push.my.app_1-x"), "my.app_1-x");
        assert_eq!(app_of_platform_application("earlier"), "earlier");
        let too_long = name(&"p".repeat(56), &app);
        assert_eq!(too_long, Err(BadPlatformApplicationName::TooLong));
    }

    #[test]
    fn arns_name_platform_and_application() {
        let expected = Some((Platform::Fcm, "push.demo"));
        let application = "arn:aws:sns:eu-west-1:1:app/GCM/push.demo";
        assert_eq!(platform_and_name_of(application), expected);
        let endpoint = "arn:aws:sns:eu-west-1:1:endpoint/GCM/push.demo/0-1";
        assert_eq!(platform_and_name_of(endpoint), expected);
        assert_eq!(platform_and_name_of("arn:aws:sns:eu-west-1:1:topic"), None);
    }

    #[test]
    fn rejects_platform_without_application() {
        assert_eq!(
            app(&[Platform::Fcm]).platform_of(Some(Platform::Apns), "t"),
            None
        );
        assert_eq!(
            app(&[Platform::Apns, Platform::ApnsSandbox]).platform_of(None, "short"),
            None
        );
    }
}
