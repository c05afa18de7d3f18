//! The configuration of the SDK: region, credentials and endpoint from the environment, as AWS
//! documents them (<https://docs.aws.amazon.com/sdkref/latest/guide/environment-variables.html>).

use std::{
    collections::HashMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

pub use aws_config::SdkConfig;
use aws_config::{AppName, BehaviorVersion, Region, retry::RetryConfig, timeout::TimeoutConfig};
use nostr_push_core::Millis;

/// The timeout of one attempt of a request. It is well below the functions' timeout.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(4);

/// The timeout of a request with all its retries.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(12);

/// The SDK's configuration for this program. Every request names the program (`app/…` in the
/// `userAgent` of an audit trail). The SDK retries requests with its standard strategy (3 attempts,
/// exponential backoff with jitter).
pub async fn config(program: &'static str) -> SdkConfig {
    let mut defaults = aws_config::defaults(BehaviorVersion::latest());
    // All our names are valid. With an invalid one the program would still run, without a name.
    if let Ok(name) = AppName::new(program) {
        defaults = defaults.app_name(name);
    }
    defaults
        .retry_config(RetryConfig::standard())
        .timeout_config(
            TimeoutConfig::builder()
                .operation_attempt_timeout(ATTEMPT_TIMEOUT)
                .operation_timeout(OPERATION_TIMEOUT)
                .build(),
        )
        .load()
        .await
}

/// The SDK's configuration from `variables` instead of the process's environment. `endpoint` is the
/// variable with the endpoint's URL (`AWS_ENDPOINT_URL` or `AWS_ENDPOINT_URL_SNS`). For the local
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

/// The current time. Call this at the edges only, and pass the result on.
pub fn now() -> Millis {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// The error and its causes on one line. The SDK's own text is only "service error".
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
