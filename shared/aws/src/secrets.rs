//! The service key, from Secrets Manager.

use aws_config::SdkConfig;
use nostr::key::Keys;
use nostr_push_core::ports::Unavailable;
use secrecy::{ExposeSecret, SecretString};

use crate::cause::unavailable;

/// Reads the service's secret key: 64 hex characters, or an `nsec`.
///
/// # Errors
/// Secrets Manager failed, or the secret is not a key. No error message contains the value.
pub async fn service_key(config: &SdkConfig, secret_id: &str) -> Result<Keys, Unavailable> {
    const DEPENDENCY: &str = "secretsmanager.get_secret_value";
    let client = aws_sdk_secretsmanager::Client::new(config);
    let secret = client
        .get_secret_value()
        .secret_id(secret_id)
        .send()
        .await
        .map_err(unavailable(DEPENDENCY))?;
    let value = SecretString::from(secret.secret_string.unwrap_or_default());
    Keys::parse(value.expose_secret().trim()).map_err(|_| {
        Unavailable::new(
            DEPENDENCY,
            "the secret is neither 64 hex characters nor an nsec",
        )
    })
}
