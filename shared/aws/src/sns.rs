//! SNS: platform endpoints, and publishing to them.
//!
//! Errors are those of <https://docs.aws.amazon.com/sns/latest/api/API_Publish.html> and
//! <https://docs.aws.amazon.com/sns/latest/api/API_CreatePlatformEndpoint.html>.

use aws_config::SdkConfig;
use aws_sdk_sns::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
    operation::publish::PublishError,
    types::MessageAttributeValue,
};
use nostr_push_core::ports::{Answer, Endpoints, Ensured, Outcome, Publisher, Push, Unavailable};

use crate::clients::{chain, unavailable};

/// SNS.
#[derive(Debug, Clone)]
pub struct Sns {
    client: Client,
}

impl Sns {
    /// SNS, as configured.
    pub fn new(config: &SdkConfig) -> Self {
        Self { client: Client::new(config) }
    }

    async fn create(&self, platform_application: &str, token: &str) -> Answer<Ensured> {
        let request = self.client.create_platform_endpoint().platform_application_arn(platform_application).token(token);
        let error = match request.send().await {
            Ok(answer) => return answer.endpoint_arn.map(Ensured::Endpoint).ok_or_else(|| no("sns.create_platform_endpoint", "no ARN")),
            Err(error) => error,
        };
        let text = error.message().unwrap_or_default();
        // The endpoint is there with other attributes (disabled, or user data of another program): its ARN is named.
        if let Some(arn) = endpoint_in(text) {
            return Ok(Ensured::Endpoint(arn));
        }
        if error.code() == Some("InvalidParameter") && text.contains("Token") {
            return Ok(Ensured::BadToken);
        }
        Err(unavailable("sns.create_platform_endpoint")(error))
    }

    /// Whether the endpoint is enabled and has this very token; `None` when it is gone.
    async fn in_order(&self, arn: &str, token: &str) -> Answer<Option<bool>> {
        match self.client.get_endpoint_attributes().endpoint_arn(arn).send().await {
            Ok(answer) => {
                let attributes = answer.attributes.unwrap_or_default();
                let is = |name: &str, value: &str| attributes.get(name).is_some_and(|v| v.eq_ignore_ascii_case(value));
                Ok(Some(is("Enabled", "true") && attributes.get("Token").is_some_and(|t| t == token)))
            }
            Err(error) if is_not_found(&error) => Ok(None),
            Err(error) => Err(unavailable("sns.get_endpoint_attributes")(error)),
        }
    }

    /// Enables the endpoint with this token. Answers whether it was still there.
    async fn enable(&self, arn: &str, token: &str) -> Answer<bool> {
        let request = self.client.set_endpoint_attributes().endpoint_arn(arn).attributes("Token", token).attributes("Enabled", "true");
        match request.send().await {
            Ok(_) => Ok(true),
            Err(error) if is_not_found(&error) => Ok(false),
            Err(error) => Err(unavailable("sns.set_endpoint_attributes")(error)),
        }
    }
}

impl Endpoints for Sns {
    async fn ensure(&self, platform_application: &str, token: &str) -> Answer<Ensured> {
        // Twice: an endpoint that is deleted between two calls is made anew.
        for _ in 0..2 {
            let arn = match self.create(platform_application, token).await? {
                Ensured::Endpoint(arn) => arn,
                Ensured::BadToken => return Ok(Ensured::BadToken),
            };
            let there = match self.in_order(&arn, token).await? {
                Some(true) => true,
                Some(false) => self.enable(&arn, token).await?,
                None => false,
            };
            if there {
                return Ok(Ensured::Endpoint(arn));
            }
        }
        Err(no("sns.create_platform_endpoint", "the endpoint vanished twice"))
    }

    async fn delete(&self, endpoint_arn: &str) -> Answer<()> {
        match self.client.delete_endpoint().endpoint_arn(endpoint_arn).send().await {
            Err(error) if !is_not_found(&error) => Err(unavailable("sns.delete_endpoint")(error)),
            _ => Ok(()),
        }
    }
}

impl Publisher for Sns {
    async fn publish(&self, endpoint_arn: &str, push: &Push) -> Outcome {
        let mut request = self.client.publish().target_arn(endpoint_arn).message(&push.message).message_structure("json");
        for (name, value) in &push.attributes {
            match MessageAttributeValue::builder().data_type("String").string_value(value).build() {
                Ok(attribute) => request = request.message_attributes(*name, attribute),
                Err(error) => return Outcome::Rejected(error.to_string()),
            }
        }
        match request.send().await {
            Ok(_) => Outcome::Delivered,
            Err(error) => outcome(&error),
        }
    }
}

/// What an error of `Publish` means for the device.
fn outcome(error: &SdkError<PublishError>) -> Outcome {
    let Some(service) = error.as_service_error() else {
        // No answer, or none that can be read: it may have been accepted, and the collapse id covers the repeat.
        return Outcome::Retry(None);
    };
    match service {
        PublishError::EndpointDisabledException(_) | PublishError::NotFoundException(_) => Outcome::Gone,
        PublishError::InvalidParameterException(_)
        | PublishError::InvalidParameterValueException(_)
        | PublishError::InvalidSecurityException(_)
        | PublishError::KmsAccessDeniedException(_)
        | PublishError::KmsDisabledException(_)
        | PublishError::KmsInvalidStateException(_)
        | PublishError::KmsNotFoundException(_)
        | PublishError::KmsOptInRequired(_)
        | PublishError::ValidationException(_) => Outcome::Rejected(chain(error)),
        // Throttling, 5xx, a platform application whose credentials must be mended, and whatever is new.
        _ => Outcome::Retry(None),
    }
}

fn is_not_found<E: ProvideErrorMetadata, R>(error: &SdkError<E, R>) -> bool {
    error.as_service_error().and_then(ProvideErrorMetadata::code).is_some_and(|code| code == "NotFound" || code == "NotFoundException")
}

/// The ARN in "Invalid parameter: Token Reason: Endpoint arn:… already exists with the same Token, but different
/// attributes."
fn endpoint_in(text: &str) -> Option<String> {
    text.contains("already exists").then_some(())?;
    text.split_whitespace().find(|word| word.starts_with("arn:")).map(|arn| arn.trim_end_matches([',', '.']).to_owned())
}

fn no(dependency: &'static str, why: &str) -> Unavailable {
    Unavailable { dependency, why: why.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_endpoint_is_found_in_the_error_that_names_it() {
        let arn = "arn:aws:sns:us-east-1:1:endpoint/APNS/demo/1-2";
        let text = format!("Invalid parameter: Token Reason: Endpoint {arn} already exists with the same Token, but different attributes.");
        assert_eq!(endpoint_in(&text).as_deref(), Some(arn));
        assert_eq!(endpoint_in("Invalid parameter: Token Reason: iOS device tokens must be no more than 400 hexadecimal characters"), None);
    }
}
