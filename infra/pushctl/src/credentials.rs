//! The caller's credentials and region, as the AWS CLI finds them: environment variables, and
//! profiles with keys, roles, SSO, `credential_process` or `aws login`
//! (<https://docs.aws.amazon.com/sdkref/latest/guide/standardized-credentials.html>).

use std::error::Error;

use nostr_push_aws::clients::{self, SdkConfig};

/// The configuration of the SDK.
pub(crate) async fn config() -> SdkConfig {
    clients::config("pushctl").await
}

/// What to do if a request failed because there are no valid credentials. The SDK's errors have no
/// types for this, so their texts decide.
pub(crate) fn hint(error: &(dyn Error + 'static)) -> Option<String> {
    let mut texts = Vec::new();
    let mut cause = Some(error);
    while let Some(error) = cause {
        texts.push(error.to_string().to_lowercase());
        cause = error.source();
    }
    let text = texts.join(": ");
    let contains = |words: &[&str]| words.iter().any(|word| text.contains(word));
    let profile = std::env::var("AWS_PROFILE").unwrap_or_else(|_| "default".to_owned());
    if contains(&["sso"]) && contains(&["token", "expired", "session", "cache"]) {
        Some(format!("run aws sso login --profile {profile}"))
    } else if contains(&["login"]) && contains(&["token", "expired", "session", "cache"]) {
        Some(format!("run aws login --profile {profile}"))
    } else if contains(&["credential"]) {
        Some(format!(
            "no valid AWS credentials in the environment or in the profile {profile}. Try aws sts \
             get-caller-identity --profile {profile}"
        ))
    } else if contains(&["region must be set", "invalid configuration: a region"]) {
        Some("set AWS_REGION, or a region in the profile".to_owned())
    } else {
        None
    }
}
