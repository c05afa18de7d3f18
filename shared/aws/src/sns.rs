//! SNS: platform endpoints, and publishing to them. Publishing is never retried here: what fails
//! goes back to the queue.
//!
//! Errors are those of <https://docs.aws.amazon.com/sns/latest/api/API_Publish.html> and
//! <https://docs.aws.amazon.com/sns/latest/api/API_CreatePlatformEndpoint.html>.

use std::{collections::HashMap, time::Duration};

use aws_config::{SdkConfig, retry::RetryConfig};
use aws_sdk_sns::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
    operation::publish::PublishError,
    types::MessageAttributeValue,
};
use nostr_push_core::app::Platform;
use nostr_push_core::ports::{Answer, Endpoints, Ensured, Outcome, Publisher, Push, Unavailable};

use crate::clients::unavailable;

/// SNS.
#[derive(Debug, Clone)]
pub struct Sns {
    client: Client,
    /// Without the SDK's retries: those would sleep in the function, and are paid for.
    publisher: Client,
}

/// What SNS says of a platform application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlatformApplication {
    /// Whether it takes pushes. SNS disables it when its credentials are refused.
    pub enabled: bool,
    /// The topic that it tells of its endpoints.
    pub topic: Option<String>,
}

/// One page of endpoints.
#[derive(Debug, Clone)]
pub struct EndpointsPage {
    /// Their ARNs.
    pub arns: Vec<String>,
    /// Where to go on; `None` at the end.
    pub next: Option<String>,
}

impl Sns {
    /// SNS, as configured.
    pub fn new(config: &SdkConfig) -> Self {
        let publisher = aws_sdk_sns::config::Builder::from(config)
            .retry_config(RetryConfig::disabled())
            .build();
        Self {
            client: Client::new(config),
            publisher: Client::from_conf(publisher),
        }
    }

    /// Makes a platform application, or gives the one with this ARN new attributes: its endpoints
    /// stay. Answers its ARN.
    ///
    /// # Errors
    /// SNS failed, or refuses the credentials.
    pub async fn platform_application(
        &self,
        name: &str,
        platform: Platform,
        arn: Option<&String>,
        attributes: HashMap<String, String>,
    ) -> Answer<String> {
        const CREATE: &str = "sns.create_platform_application";
        let key = match platform {
            Platform::Apns => "APNS",
            Platform::ApnsSandbox => "APNS_SANDBOX",
            Platform::Fcm => "GCM",
        };
        if let Some(arn) = arn {
            let request = self
                .client
                .set_platform_application_attributes()
                .platform_application_arn(arn);
            let enabled = attributes
                .into_iter()
                .chain([("Enabled".to_owned(), "true".to_owned())])
                .collect();
            request
                .set_attributes(Some(enabled))
                .send()
                .await
                .map_err(unavailable("sns.set_platform_application_attributes"))?;
            return Ok(arn.clone());
        }
        let request = self
            .client
            .create_platform_application()
            .name(name)
            .platform(key)
            .set_attributes(Some(attributes));
        let answer = request.send().await.map_err(unavailable(CREATE))?;
        answer
            .platform_application_arn
            .ok_or_else(|| no(CREATE, "no ARN"))
    }

    /// What SNS says of a platform application; `None` when there is none.
    ///
    /// # Errors
    /// SNS failed.
    pub async fn platform_application_state(
        &self,
        arn: &str,
    ) -> Answer<Option<PlatformApplication>> {
        match self
            .client
            .get_platform_application_attributes()
            .platform_application_arn(arn)
            .send()
            .await
        {
            Ok(answer) => {
                let attributes = answer.attributes.unwrap_or_default();
                // Enabled unless SNS says otherwise: new ones may not have the attribute.
                let enabled = !is(&attributes, "Enabled", "false");
                Ok(Some(PlatformApplication {
                    enabled,
                    topic: attributes.get("EventEndpointUpdated").cloned(),
                }))
            }
            Err(error) if is_not_found(&error) => Ok(None),
            Err(error) => Err(unavailable("sns.get_platform_application_attributes")(
                error,
            )),
        }
    }

    /// Deletes a platform application, and with it all its endpoints.
    ///
    /// # Errors
    /// SNS failed.
    pub async fn delete_platform_application(&self, arn: &str) -> Answer<()> {
        let request = self
            .client
            .delete_platform_application()
            .platform_application_arn(arn);
        request
            .send()
            .await
            .map_err(unavailable("sns.delete_platform_application"))
            .map(drop)
    }

    /// One page of the endpoints of a platform application.
    ///
    /// # Errors
    /// SNS failed.
    pub async fn endpoints(
        &self,
        platform_application: &str,
        next: Option<String>,
    ) -> Answer<EndpointsPage> {
        let request = self
            .client
            .list_endpoints_by_platform_application()
            .platform_application_arn(platform_application);
        let answer = request
            .set_next_token(next)
            .send()
            .await
            .map_err(unavailable("sns.list_endpoints_by_platform_application"))?;
        let arns = answer
            .endpoints
            .unwrap_or_default()
            .into_iter()
            .filter_map(|endpoint| endpoint.endpoint_arn)
            .collect();
        Ok(EndpointsPage {
            arns,
            next: answer.next_token,
        })
    }

    async fn create(&self, platform_application: &str, token: &str) -> Answer<Ensured> {
        let request = self
            .client
            .create_platform_endpoint()
            .platform_application_arn(platform_application)
            .token(token);
        let error = match request.send().await {
            Ok(answer) => {
                return answer
                    .endpoint_arn
                    .map(Ensured::Endpoint)
                    .ok_or_else(|| no("sns.create_platform_endpoint", "no ARN"));
            }
            Err(error) => error,
        };
        let text = error.message().unwrap_or_default();
        // The endpoint is there with other attributes (disabled, or user data of another program):
        // its ARN is named.
        if let Some(arn) = endpoint_in(text) {
            return Ok(Ensured::Endpoint(arn));
        }
        if error.code() == Some("InvalidParameter") && text.contains("Token") {
            return Ok(Ensured::BadToken);
        }
        Err(unavailable("sns.create_platform_endpoint")(error))
    }

    /// The endpoint's attributes; `None` when it is gone.
    async fn attributes(&self, arn: &str) -> Answer<Option<HashMap<String, String>>> {
        match self
            .client
            .get_endpoint_attributes()
            .endpoint_arn(arn)
            .send()
            .await
        {
            Ok(answer) => Ok(Some(answer.attributes.unwrap_or_default())),
            Err(error) if is_not_found(&error) => Ok(None),
            Err(error) => Err(unavailable("sns.get_endpoint_attributes")(error)),
        }
    }

    /// Whether the endpoint is enabled and has this very token; `None` when it is gone.
    async fn in_order(&self, arn: &str, token: &str) -> Answer<Option<bool>> {
        let attributes = self.attributes(arn).await?;
        Ok(attributes.map(|attributes| {
            is(&attributes, "Enabled", "true")
                && attributes.get("Token").is_some_and(|t| t == token)
        }))
    }

    /// Enables the endpoint with this token. Answers whether it was still there.
    async fn enable(&self, arn: &str, token: &str) -> Answer<bool> {
        let request = self
            .client
            .set_endpoint_attributes()
            .endpoint_arn(arn)
            .attributes("Token", token)
            .attributes("Enabled", "true");
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
        Err(no(
            "sns.create_platform_endpoint",
            "the endpoint vanished twice",
        ))
    }

    async fn is_enabled(&self, endpoint_arn: &str) -> Answer<bool> {
        Ok(self
            .attributes(endpoint_arn)
            .await?
            .is_some_and(|attributes| is(&attributes, "Enabled", "true")))
    }

    async fn delete(&self, endpoint_arn: &str) -> Answer<()> {
        match self
            .client
            .delete_endpoint()
            .endpoint_arn(endpoint_arn)
            .send()
            .await
        {
            Err(error) if !is_not_found(&error) => Err(unavailable("sns.delete_endpoint")(error)),
            _ => Ok(()),
        }
    }
}

impl Publisher for Sns {
    async fn publish(&self, endpoint_arn: &str, push: &Push) -> Outcome {
        let mut request = self
            .publisher
            .publish()
            .target_arn(endpoint_arn)
            .message(&push.message)
            .message_structure("json");
        for (name, value) in &push.attributes {
            match MessageAttributeValue::builder()
                .data_type("String")
                .string_value(value)
                .build()
            {
                Ok(attribute) => request = request.message_attributes(*name, attribute),
                Err(error) => {
                    return Outcome::Rejected {
                        reason: "invalid_message",
                        why: error.to_string(),
                    };
                }
            }
        }
        match request.send().await {
            Ok(_) => Outcome::Delivered,
            Err(error) => outcome(&error),
        }
    }
}

/// How long a push waits for the operator to mend what keeps it: the alarm has told them.
const OPERATOR: Duration = Duration::from_secs(300);

/// What an error of `Publish` means for the device. No answer, or none that can be read: it may
/// have been accepted, and the collapse id covers the repeat.
fn outcome(error: &SdkError<PublishError>) -> Outcome {
    let Some(service) = error.as_service_error() else {
        return Outcome::Retry {
            after: None,
            reason: "no_answer",
        };
    };
    let status = error
        .raw_response()
        .map_or(0, |response| response.status().as_u16());
    classify(
        service.code().unwrap_or_default(),
        service.message().unwrap_or_default(),
        status,
    )
}

/// What each error code means that SNS documents for `Publish`, and that AWS documents for every
/// action: <https://docs.aws.amazon.com/sns/latest/api/API_Publish.html>,
/// <https://docs.aws.amazon.com/sns/latest/api/CommonErrors.html>. With and without `Exception`:
/// SNS speaks the query protocol, whose codes differ from the names in its model.
fn classify(code: &str, message: &str, status: u16) -> Outcome {
    let retry = |reason| Outcome::Retry {
        after: None,
        reason,
    };
    let operator = |reason| Outcome::Retry {
        after: Some(OPERATOR),
        reason,
    };
    let rejected = |reason| Outcome::Rejected {
        reason,
        why: format!("{code}: {message}"),
    };
    match code.strip_suffix("Exception").unwrap_or(code) {
        // The device, and only the device.
        "EndpointDisabled" | "NotFound" => Outcome::Gone,
        // What SNS really says of an endpoint that was deleted.
        "InvalidParameter" if message.contains("No endpoint found") => Outcome::Gone,
        // The message: it would be refused for ever.
        "InvalidParameter"
        | "InvalidParameterValue"
        | "ParameterValueInvalid"
        | "Validation"
        | "ValidationError" => rejected("invalid_message"),
        "InvalidAction"
        | "InvalidParameterCombination"
        | "InvalidQueryParameter"
        | "MalformedQueryString"
        | "MissingAction"
        | "MissingParameter"
        | "MalformedHttpRequest" => rejected("invalid_request"),
        // The platform application's key or certificate: no device is to blame, and all of them are
        // affected.
        "PlatformApplicationDisabled" => operator("bad_credentials"),
        // The function's permissions, its credentials, the account, or a KMS key.
        "AuthorizationError"
        | "AccessDenied"
        | "NotAuthorized"
        | "InvalidSecurity"
        | "InvalidClientTokenId"
        | "UnrecognizedClient"
        | "IncompleteSignature"
        | "SignatureDoesNotMatch"
        | "MissingAuthenticationToken"
        | "ExpiredToken"
        | "OptInRequired"
        | "KMSAccessDenied"
        | "KMSDisabled"
        | "KMSInvalidState"
        | "KMSNotFound"
        | "KMSOptInRequired" => operator("not_allowed"),
        "Throttled"
        | "Throttling"
        | "TooManyRequests"
        | "RequestLimitExceeded"
        | "KMSThrottling" => retry("throttled"),
        "InternalError" | "InternalFailure" | "ServiceUnavailable" | "RequestExpired"
        | "RequestTimeout" | "RequestAborted" => retry("unavailable"),
        _ if status == 429 => retry("throttled"),
        _ if status >= 500 => retry("unavailable"),
        // New, or undocumented. It is tried again, and in the end the dead-letter queue keeps it:
        // nothing is lost.
        _ => retry("unknown_error"),
    }
}

fn is(attributes: &HashMap<String, String>, name: &str, value: &str) -> bool {
    attributes
        .get(name)
        .is_some_and(|found| found.eq_ignore_ascii_case(value))
}

fn is_not_found<E: ProvideErrorMetadata, R>(error: &SdkError<E, R>) -> bool {
    error
        .as_service_error()
        .and_then(ProvideErrorMetadata::code)
        .is_some_and(|code| code == "NotFound" || code == "NotFoundException")
}

/// The ARN in "Invalid parameter: Token Reason: Endpoint arn:… already exists with the same Token,
/// but different attributes."
fn endpoint_in(text: &str) -> Option<String> {
    text.contains("already exists").then_some(())?;
    text.split_whitespace()
        .find(|word| word.starts_with("arn:"))
        .map(|arn| arn.trim_end_matches([',', '.']).to_owned())
}

fn no(dependency: &'static str, why: &str) -> Unavailable {
    Unavailable {
        dependency,
        why: why.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_documented_error_has_its_outcome() {
        let gone = [
            "EndpointDisabled",
            "EndpointDisabledException",
            "NotFound",
            "NotFoundException",
        ];
        let rejected = [
            "InvalidParameter",
            "ParameterValueInvalid",
            "InvalidParameterValueException",
            "ValidationException",
            "MissingAction",
        ];
        let operators = [
            "AuthorizationError",
            "AuthorizationErrorException",
            "InvalidSecurity",
            "KMSAccessDenied",
            "KMSDisabled",
            "KMSInvalidState",
            "KMSNotFound",
            "KMSOptInRequired",
            "AccessDeniedException",
            "ExpiredTokenException",
            "IncompleteSignature",
            "InvalidClientTokenId",
            "MissingAuthenticationToken",
            "NotAuthorized",
            "OptInRequired",
        ];
        let throttled = [
            "KMSThrottling",
            "Throttled",
            "ThrottlingException",
            "RequestLimitExceeded",
        ];
        let unavailable = [
            "InternalError",
            "InternalFailure",
            "ServiceUnavailable",
            "RequestExpired",
        ];
        let of = |code: &str| classify(code, "", 400);
        assert!(gone.iter().all(|code| of(code) == Outcome::Gone));
        assert!(
            rejected
                .iter()
                .all(|code| matches!(of(code), Outcome::Rejected { .. }))
        );
        let retried = |code: &str, wanted: &str, wait: bool| matches!(of(code), Outcome::Retry { after, reason } if reason == wanted && after.is_some() == wait);
        assert!(
            operators
                .iter()
                .all(|code| retried(code, "not_allowed", true))
        );
        assert!(retried(
            "PlatformApplicationDisabled",
            "bad_credentials",
            true
        ));
        assert!(retried(
            "PlatformApplicationDisabledException",
            "bad_credentials",
            true
        ));
        assert!(
            throttled
                .iter()
                .all(|code| retried(code, "throttled", false))
        );
        assert!(
            unavailable
                .iter()
                .all(|code| retried(code, "unavailable", false))
        );
        assert!(retried("SomethingNew", "unknown_error", false));
        assert!(matches!(
            classify("", "", 503),
            Outcome::Retry {
                reason: "unavailable",
                ..
            }
        ));
        assert!(matches!(
            classify("", "", 429),
            Outcome::Retry {
                reason: "throttled",
                ..
            }
        ));
        let deleted =
            "Invalid parameter: TargetArn Reason: No endpoint found for the target arn specified";
        assert_eq!(classify("InvalidParameter", deleted, 400), Outcome::Gone);
    }

    #[test]
    fn the_endpoint_is_found_in_the_error_that_names_it() {
        let arn = "arn:aws:sns:us-east-1:1:endpoint/APNS/demo/1-2";
        let text = format!(
            "Invalid parameter: Token Reason: Endpoint {arn} already exists with the same Token, but different attributes."
        );
        assert_eq!(endpoint_in(&text).as_deref(), Some(arn));
        assert_eq!(
            endpoint_in(
                "Invalid parameter: Token Reason: iOS device tokens must be no more than 400 hexadecimal characters"
            ),
            None
        );
    }
}
