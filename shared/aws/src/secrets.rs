//! The keys of the service, from Secrets Manager.

use aws_config::SdkConfig;
use nostr_push_core::{ports::Unavailable, service_keys::ServiceKeys};
use secrecy::{ExposeSecret, SecretString};

use crate::cause::{unavailable, unreadable};

/// The keys of the service, and the version of the secret that contains them.
#[derive(Debug, Clone)]
pub struct StoredKeys {
    /// The keys.
    pub keys: ServiceKeys,
    /// The `VersionId` of the secret
    /// (<https://docs.aws.amazon.com/secretsmanager/latest/userguide/whats-in-a-secret.html>).
    pub version: String,
}

/// Reads the keys of the service: this version of the secret, or the current one.
///
/// # Errors
/// Secrets Manager failed, or the secret is not a key. No error message contains the value.
pub async fn service_keys(
    config: &SdkConfig,
    secret_id: &str,
    version: Option<&str>,
) -> Result<StoredKeys, Unavailable> {
    const DEPENDENCY: &str = "secretsmanager.get_secret_value";
    let client = aws_sdk_secretsmanager::Client::new(config);
    let request = client
        .get_secret_value()
        .secret_id(secret_id)
        .set_version_id(version.map(str::to_owned));
    let secret = request.send().await.map_err(unavailable(DEPENDENCY))?;
    let value = SecretString::from(secret.secret_string.unwrap_or_default());
    Ok(StoredKeys {
        keys: ServiceKeys::parse(value.expose_secret()).map_err(unreadable(DEPENDENCY))?,
        version: secret.version_id.unwrap_or_default(),
    })
}
