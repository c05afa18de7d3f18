//! The forms that `deviceId` has in the field (dialect H), and the token and platform that each
//! means.

use nostr_push_core::{
    app::{App, Platform, is_apns_token},
    device::MAX_TOKEN,
};

use crate::refusal::Refusal;

/// The token, and its platform among those of the app; `None` when the client has no token yet.
///
/// - `""`: no token yet
/// - `…token=<FCM token>`: what a distributor embedded in the app makes of an FCM token
/// - `https://…`: a `UnifiedPush` endpoint, a channel that does not exist here
/// - a prefix that the operator configured, such as the app's bundle id, and an APNs token in hex
/// - 64 or more hex characters alone: an APNs token
/// - anything else: an FCM token
///
/// `deviceOs` overrules what the form says of the platform.
///
/// # Errors
/// `unsupported_platform`, `bad_token` (for APNs, not hex), `over_quota` (above 4 KiB).
pub fn token(
    device_id: &str,
    device_os: Option<&str>,
    app: &App,
) -> Result<Option<(String, Platform)>, Refusal> {
    let device_id = device_id.trim();
    if device_id.is_empty() {
        return Ok(None);
    }
    let (token, form) = match device_id.split_once("token=") {
        Some((_, rest)) => (
            rest.split('&').next().unwrap_or_default(),
            Some(Platform::Fcm),
        ),
        None if is_url(device_id) => return Err(Refusal::UnsupportedPlatform),
        None => (without_prefix(device_id, app), None),
    };
    if token.len() > MAX_TOKEN {
        return Err(Refusal::OverQuota);
    }
    let apns = [Platform::Apns, Platform::ApnsSandbox]
        .into_iter()
        .find(|platform| app.platforms.contains_key(platform));
    let named = match device_os.map(str::to_ascii_lowercase).as_deref() {
        Some("ios") => Some(apns.ok_or(Refusal::UnsupportedPlatform)?),
        Some("android") => Some(Platform::Fcm),
        _ => form,
    };
    let platform = app
        .platform_of(named, token)
        .ok_or(Refusal::UnsupportedPlatform)?;
    if token.is_empty() || (platform != Platform::Fcm && !is_apns_token(token)) {
        return Err(Refusal::BadToken);
    }
    Ok(Some((token.to_owned(), platform)))
}

fn is_url(text: &str) -> bool {
    let scheme = text
        .split_once("://")
        .map(|(scheme, _)| scheme.to_ascii_lowercase());
    scheme.is_some_and(|scheme| scheme == "https" || scheme == "http")
}

/// What follows a configured prefix, if that is an APNs token; else the whole.
fn without_prefix<'a>(device_id: &'a str, app: &App) -> &'a str {
    let rests = app
        .token_prefixes
        .iter()
        .filter_map(|prefix| device_id.strip_prefix(prefix.as_str()));
    let tokens = rests.map(|rest| rest.trim_start_matches(|c: char| !c.is_ascii_alphanumeric()));
    tokens
        .into_iter()
        .find(|token| is_apns_token(token))
        .unwrap_or(device_id)
}
