//! The forms of `deviceId` that clients send (dialect H), with the token and platform of each.

use nostr_push_core::{
    app::{App, Platform, is_apns_token},
    device::MAX_TOKEN_BYTES,
    shape::Os,
    token_hasher::canonical_token,
};

use crate::refusal::Refusal;

/// Reads the token, in canonical form, and its platform, which is one of the app's. `None` means
/// that the client has no token yet.
///
/// The forms of `deviceId` are:
/// - `""`: no token yet
/// - `…token=<FCM token>`: from a `UnifiedPush` (<https://unifiedpush.org/>) distributor inside
///   the app that uses FCM
/// - `https://…` or `http://…`: a `UnifiedPush` endpoint, which is not supported
/// - a prefix that the operator configured, such as the app's bundle id, before an APNs token
/// - a token alone
///
/// # Errors
/// `unsupported_platform`, `bad_token` (empty, or not hex for APNs), `over_quota` (above 4 KiB).
pub fn token(
    device_id: &str,
    os: Option<Os>,
    app: &App,
) -> Result<Option<(String, Platform)>, Refusal> {
    let device_id = device_id.trim();
    if device_id.is_empty() {
        return Ok(None);
    }
    let (token, implied) = match device_id.split_once("token=") {
        Some((_, rest)) => (
            rest.split('&').next().unwrap_or_default(),
            Some(Platform::Fcm),
        ),
        None if is_url(device_id) => return Err(Refusal::UnsupportedPlatform),
        None => (without_prefix(device_id, app), None),
    };
    if token.len() > MAX_TOKEN_BYTES {
        return Err(Refusal::OverQuota);
    }
    let platform = platform(token, implied, os, app).ok_or(Refusal::UnsupportedPlatform)?;
    let is_valid = match platform {
        Platform::Apns | Platform::ApnsSandbox => is_apns_token(token),
        Platform::Fcm => !token.is_empty(),
    };
    if !is_valid {
        return Err(Refusal::BadToken);
    }
    Ok(Some((canonical_token(token), platform)))
}

/// The platform of a token. The first of these rules that applies decides:
///
/// 1. `deviceOs` is `ios`: FCM if the token has the form of FCM and the app has FCM, else the app's
///    APNs platform, production before sandbox.
/// 2. `deviceOs` is `android`: FCM. It is `web`: FCM if the app has FCM.
/// 3. The form of `deviceId` implies a platform.
/// 4. The token alone, by the rules of [`App::platform_of`].
///
/// `None` if the app does not have that platform.
fn platform(token: &str, implied: Option<Platform>, os: Option<Os>, app: &App) -> Option<Platform> {
    let named = match os {
        Some(Os::Ios) if is_fcm_token(token) && app.platforms.contains_key(&Platform::Fcm) => {
            Some(Platform::Fcm)
        }
        Some(Os::Ios) => Some(apns_platform(app)?),
        Some(Os::Android) => Some(Platform::Fcm),
        Some(Os::Web) if app.platforms.contains_key(&Platform::Fcm) => Some(Platform::Fcm),
        Some(Os::Web) | None => implied,
    };
    app.platform_of(named, token)
}

/// Returns `true` if the text has the form of an FCM token: the id of an installation, a colon, and
/// more that is not an APNs token after the prefix of an app.
fn is_fcm_token(text: &str) -> bool {
    let parts = text.rsplit_once(':');
    parts.is_some_and(|(id, rest)| !id.is_empty() && !rest.is_empty() && !is_apns_token(rest))
}

fn apns_platform(app: &App) -> Option<Platform> {
    [Platform::Apns, Platform::ApnsSandbox]
        .into_iter()
        .find(|platform| app.platforms.contains_key(platform))
}

fn is_url(text: &str) -> bool {
    let scheme = text
        .split_once("://")
        .map(|(scheme, _)| scheme.to_ascii_lowercase());
    scheme.is_some_and(|scheme| scheme == "https" || scheme == "http")
}

/// The part after a configured prefix, if that part is an APNs token; else the whole text.
fn without_prefix<'a>(device_id: &'a str, app: &App) -> &'a str {
    app.token_prefixes
        .iter()
        .filter_map(|prefix| device_id.strip_prefix(prefix.as_str()))
        .map(|rest| rest.trim_start_matches(|c: char| !c.is_ascii_alphanumeric()))
        .find(|token| is_apns_token(token))
        .unwrap_or(device_id)
}
