//! How the SDK is configured: region, credentials and endpoint from the environment, as AWS
//! documents them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use std::collections::HashMap;

pub use aws_config::SdkConfig;
use aws_config::{AppName, BehaviorVersion, Region, retry::RetryConfig, timeout::TimeoutConfig};
use nostr_push_core::{Millis, ports::Unavailable};

/// The longest a single request may take before it is tried again. Well below the functions'
/// timeout.
const ATTEMPT: Duration = Duration::from_secs(4);

/// The longest a request may take with all its retries.
const OPERATION: Duration = Duration::from_secs(12);

/// The SDK's configuration of this program, whose name every request says (`app/…` in what an audit
/// trail calls `userAgent`). Requests are retried by the SDK's standard strategy (3 attempts,
/// exponential backoff with jitter); what fails after that goes back to its queue.
pub async fn config(program: &'static str) -> SdkConfig {
    let mut defaults = aws_config::defaults(BehaviorVersion::latest());
    // No name is better than no service; ours are all valid.
    if let Ok(name) = AppName::new(program) {
        defaults = defaults.app_name(name);
    }
    defaults
        .retry_config(RetryConfig::standard())
        .timeout_config(
            TimeoutConfig::builder()
                .operation_attempt_timeout(ATTEMPT)
                .operation_timeout(OPERATION)
                .build(),
        )
        .load()
        .await
}

/// The configuration that these variables describe instead of the process's own, with the endpoint
/// that the variable `endpoint` names (`AWS_ENDPOINT_URL`, `AWS_ENDPOINT_URL_SNS`). For the local
/// stack and tests.
pub async fn at(variables: &HashMap<String, String>, endpoint: &str) -> SdkConfig {
    let get = |name: &str| variables.get(name).cloned().unwrap_or_default();
    let credentials = aws_sdk_sqs::config::Credentials::new(
        get("AWS_ACCESS_KEY_ID"),
        get("AWS_SECRET_ACCESS_KEY"),
        None,
        None,
        "variables",
    );
    aws_config::defaults(BehaviorVersion::latest())
        .region(Region::new(get("AWS_REGION")))
        .endpoint_url(get(endpoint))
        .credentials_provider(credentials)
        .load()
        .await
}

/// Milliseconds since the Unix epoch. Handlers are given it; nothing below them asks.
pub fn now() -> Millis {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Millis::try_from(since.as_millis()).unwrap_or(Millis::MAX)
}

/// An SDK error as the ports know it.
pub(crate) fn unavailable<E>(dependency: &'static str) -> impl Fn(E) -> Unavailable
where
    E: std::error::Error,
{
    move |error| Unavailable {
        dependency,
        why: chain(&error),
    }
}

/// The error and its causes on one line: the SDK's own text says only "service error".
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
