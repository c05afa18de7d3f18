//! SNS: platform endpoints, and publishing to them. A failed publish is not retried here: the
//! message goes back to its queue.
//!
//! Errors are those of <https://docs.aws.amazon.com/sns/latest/api/API_Publish.html> and
//! <https://docs.aws.amazon.com/sns/latest/api/API_CreatePlatformEndpoint.html>.

use std::collections::HashMap;

use aws_config::{SdkConfig, retry::RetryConfig};
use aws_sdk_sns::{
    Client,
    config::{
        Builder,
        interceptors::InterceptorContext,
        retry::{ClassifyRetry, RetryAction},
    },
    error::{ProvideErrorMetadata, SdkError},
    operation::publish::PublishError,
    types::MessageAttributeValue,
};
use nostr_push_core::{
    app::{Platform, platform_and_name_of},
    ports::{
        Endpoints, EnsuredEndpoint, FailureCause, PortResult, PublishOutcome, Publisher, Push,
        RejectReason, RetryReason, Unavailable,
    },
    retry::OPERATOR_RETRY_DELAY,
};

use crate::cause::{cause_of_code, cause_of_status, unavailable};

/// SNS.
#[derive(Debug, Clone)]
pub struct Sns {
    client: Client,
    /// A client without retries. Retries would sleep in the function, which costs money.
    publisher: Client,
}

/// Makes the SDK retry throttled requests. SNS responds to them with the status 429 and the code
/// `Throttled`, which is not among the codes that the SDK retries
/// (<https://docs.aws.amazon.com/sns/latest/api/API_GetSMSAttributes.html#API_GetSMSAttributes_Errors>).
#[derive(Debug)]
struct RetryThrottled;

impl ClassifyRetry for RetryThrottled {
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        match context.response() {
            Some(response) if response.status().as_u16() == 429 => RetryAction::throttling_error(),
            _ => RetryAction::NoActionIndicated,
        }
    }

    fn name(&self) -> &'static str {
        "RetryThrottled"
    }
}

/// The state of a platform application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlatformApplication {
    /// `false` if SNS has disabled it because the platform refused its credentials.
    pub enabled: bool,
    /// The topic for events of its endpoints.
    pub topic: Option<String>,
    /// The percentage of delivered pushes that SNS logs, besides all failed ones. `None` if it logs
    /// none of either.
    pub delivery_status: Option<u8>,
}

/// The attributes that make SNS log the answers of a platform: all failures, and this percentage of
/// the successes. `None` turns this off.
/// <https://docs.aws.amazon.com/sns/latest/api/API_SetPlatformApplicationAttributes.html>
pub fn delivery_status_attributes(role: &str, percent: Option<u8>) -> HashMap<String, String> {
    let role = percent.map_or("", |_| role);
    [
        (FAILURE_ROLE, role.to_owned()),
        (SUCCESS_ROLE, role.to_owned()),
        (SUCCESS_RATE, percent.unwrap_or_default().to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

const FAILURE_ROLE: &str = "FailureFeedbackRoleArn";
const SUCCESS_ROLE: &str = "SuccessFeedbackRoleArn";
const SUCCESS_RATE: &str = "SuccessFeedbackSampleRate";

/// The token of an endpoint, and whether SNS sends pushes to it.
#[derive(Clone, PartialEq, Eq)]
pub struct EndpointState {
    /// The push token.
    pub token: String,
    /// `false` if the platform has rejected the token.
    pub enabled: bool,
}

/// One page of endpoints.
#[derive(Debug, Clone)]
pub struct EndpointsPage {
    /// Their ARNs.
    pub arns: Vec<String>,
    /// The token of the next page; `None` at the end.
    pub next: Option<String>,
}

impl Sns {
    /// SNS with this configuration.
    pub fn new(config: &SdkConfig) -> Self {
        let client = Builder::from(config).retry_classifier(RetryThrottled);
        let publisher = Builder::from(config).retry_config(RetryConfig::disabled());
        Self {
            client: Client::from_conf(client.build()),
            publisher: Client::from_conf(publisher.build()),
        }
    }

    /// Creates a platform application, or updates the one with this ARN and keeps its endpoints.
    /// Returns the ARN.
    ///
    /// # Errors
    /// SNS failed or refused the credentials.
    pub async fn platform_application(
        &self,
        name: &str,
        platform: Platform,
        arn: Option<&String>,
        attributes: HashMap<String, String>,
    ) -> PortResult<String> {
        const CREATE: &str = "sns.create_platform_application";
        if let Some(arn) = arn {
            let enabled = [("Enabled".to_owned(), "true".to_owned())];
            let attributes = attributes.into_iter().chain(enabled).collect();
            self.set_platform_application(arn, attributes).await?;
            return Ok(arn.clone());
        }
        let request = self
            .client
            .create_platform_application()
            .name(name)
            .platform(platform.sns_name())
            .set_attributes(Some(attributes));
        let answer = request.send().await.map_err(unavailable(CREATE))?;
        answer
            .platform_application_arn
            .ok_or_else(|| Unavailable::new(CREATE, "no ARN"))
    }

    /// Sets attributes of a platform application. The others keep their values.
    ///
    /// # Errors
    /// SNS failed or refused the attributes.
    pub async fn set_platform_application(
        &self,
        arn: &str,
        attributes: HashMap<String, String>,
    ) -> PortResult<()> {
        let request = self.client.set_platform_application_attributes();
        let request = request.platform_application_arn(arn);
        let result = request.set_attributes(Some(attributes)).send().await;
        result
            .map_err(unavailable("sns.set_platform_application_attributes"))
            .map(drop)
    }

    /// The ARN of the account's platform application with this name and platform.
    ///
    /// # Errors
    /// SNS failed.
    pub async fn find_platform_application(
        &self,
        name: &str,
        platform: Platform,
    ) -> PortResult<Option<String>> {
        let request = self.client.list_platform_applications();
        let mut applications = request.into_paginator().items().send();
        while let Some(application) = applications.next().await {
            let application = application.map_err(unavailable("sns.list_platform_applications"))?;
            let arn = application.platform_application_arn;
            let found = arn.filter(|arn| platform_and_name_of(arn) == Some((platform, name)));
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// The state of a platform application. `None` if it does not exist.
    ///
    /// # Errors
    /// SNS failed.
    pub async fn platform_application_state(
        &self,
        arn: &str,
    ) -> PortResult<Option<PlatformApplication>> {
        match self
            .client
            .get_platform_application_attributes()
            .platform_application_arn(arn)
            .send()
            .await
        {
            Ok(answer) => {
                let attributes = answer.attributes.unwrap_or_default();
                // A new platform application may lack the attribute and is enabled.
                let enabled = !is(&attributes, "Enabled", "false");
                let role = attributes.get(FAILURE_ROLE).filter(|role| !role.is_empty());
                let rate = attributes
                    .get(SUCCESS_RATE)
                    .and_then(|rate| rate.parse().ok());
                Ok(Some(PlatformApplication {
                    enabled,
                    delivery_status: role.map(|_| rate.unwrap_or_default()),
                    topic: attributes.get("EventEndpointUpdated").cloned(),
                }))
            }
            Err(error) if is_not_found(&error) => Ok(None),
            Err(error) => Err(unavailable("sns.get_platform_application_attributes")(
                error,
            )),
        }
    }

    /// Deletes a platform application with all its endpoints.
    ///
    /// # Errors
    /// SNS failed.
    pub async fn delete_platform_application(&self, arn: &str) -> PortResult<()> {
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

    /// The state of an endpoint. `None` if it does not exist.
    ///
    /// # Errors
    /// SNS failed.
    pub async fn endpoint_state(&self, arn: &str) -> PortResult<Option<EndpointState>> {
        let attributes = self.attributes(arn).await?;
        Ok(attributes.map(|mut attributes| EndpointState {
            enabled: is(&attributes, "Enabled", "true"),
            token: attributes.remove("Token").unwrap_or_default(),
        }))
    }

    /// Disables an endpoint, as SNS does if the platform rejects the token.
    ///
    /// # Errors
    /// SNS failed, or the endpoint does not exist.
    pub async fn disable(&self, arn: &str) -> PortResult<()> {
        let request = self.client.set_endpoint_attributes().endpoint_arn(arn);
        let result = request.attributes("Enabled", "false").send().await;
        result
            .map_err(unavailable("sns.set_endpoint_attributes"))
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
    ) -> PortResult<EndpointsPage> {
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

    async fn create(&self, platform_application: &str, token: &str) -> PortResult<EnsuredEndpoint> {
        let request = self
            .client
            .create_platform_endpoint()
            .platform_application_arn(platform_application)
            .token(token);
        let error = match request.send().await {
            Ok(answer) => {
                return answer
                    .endpoint_arn
                    .map(EnsuredEndpoint::Ready)
                    .ok_or_else(|| Unavailable::new("sns.create_platform_endpoint", "no ARN"));
            }
            Err(error) => error,
        };
        let text = error.message().unwrap_or_default();
        // The endpoint exists with other attributes (disabled, or another program's user data). The
        // message contains its ARN.
        if let Some(arn) = endpoint_in(text) {
            return Ok(EnsuredEndpoint::Ready(arn));
        }
        if error.code() == Some("InvalidParameter") && text.contains("Token") {
            return Ok(EnsuredEndpoint::BadToken);
        }
        Err(unavailable("sns.create_platform_endpoint")(error))
    }

    /// The endpoint's attributes. `None` if it does not exist.
    async fn attributes(&self, arn: &str) -> PortResult<Option<HashMap<String, String>>> {
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

    /// Returns `true` if the endpoint is enabled and has this token. `None` if it does not exist.
    async fn is_usable(&self, arn: &str, token: &str) -> PortResult<Option<bool>> {
        let attributes = self.attributes(arn).await?;
        Ok(attributes.map(|attributes| {
            is(&attributes, "Enabled", "true")
                && attributes.get("Token").is_some_and(|t| t == token)
        }))
    }

    /// Enables the endpoint and sets its token. Returns `false` if it does not exist.
    async fn enable(&self, arn: &str, token: &str) -> PortResult<bool> {
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
    async fn ensure(&self, platform_application: &str, token: &str) -> PortResult<EnsuredEndpoint> {
        // Two attempts: an endpoint that is deleted between two requests is created again.
        for _ in 0..2 {
            let arn = match self.create(platform_application, token).await? {
                EnsuredEndpoint::Ready(arn) => arn,
                EnsuredEndpoint::BadToken => return Ok(EnsuredEndpoint::BadToken),
            };
            let is_usable = match self.is_usable(&arn, token).await? {
                Some(true) => true,
                Some(false) => self.enable(&arn, token).await?,
                None => false,
            };
            if is_usable {
                return Ok(EnsuredEndpoint::Ready(arn));
            }
        }
        Err(Unavailable::new(
            "sns.create_platform_endpoint",
            "the endpoint was deleted twice",
        ))
    }

    async fn is_enabled(&self, endpoint_arn: &str) -> PortResult<bool> {
        Ok(self
            .attributes(endpoint_arn)
            .await?
            .is_some_and(|attributes| is(&attributes, "Enabled", "true")))
    }

    async fn delete(&self, endpoint_arn: &str) -> PortResult<()> {
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
    async fn publish(&self, endpoint_arn: &str, push: &Push) -> PublishOutcome {
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
                Ok(attribute) => request = request.message_attributes(name, attribute),
                Err(error) => {
                    return PublishOutcome::Rejected {
                        reason: RejectReason::InvalidMessage,
                        why: error.to_string(),
                    };
                }
            }
        }
        match request.send().await {
            Ok(_) => PublishOutcome::Delivered,
            Err(error) => outcome(&error),
        }
    }
}

/// The outcome of a failed `Publish`. Without a readable response SNS may have accepted the
/// message. The collapse id then
/// makes a repeat replace the first notification.
fn outcome(error: &SdkError<PublishError>) -> PublishOutcome {
    let Some(service) = error.as_service_error() else {
        return PublishOutcome::Retry {
            after: None,
            reason: RetryReason::NoResponse,
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

/// The outcome of each error code that SNS documents for `Publish`
/// (<https://docs.aws.amazon.com/sns/latest/api/API_Publish.html>) and for every action
/// (<https://docs.aws.amazon.com/sns/latest/api/CommonErrors.html>). Codes come with and without
/// the suffix `Exception`, because SNS uses the query protocol, whose codes differ from the names
/// in the model.
fn classify(code: &str, message: &str, status: u16) -> PublishOutcome {
    let retry = |reason| PublishOutcome::Retry {
        after: None,
        reason,
    };
    let operator = |reason| PublishOutcome::Retry {
        after: Some(OPERATOR_RETRY_DELAY),
        reason,
    };
    let rejected = |reason| PublishOutcome::Rejected {
        reason,
        why: format!("{code}: {message}"),
    };
    match code.strip_suffix("Exception").unwrap_or(code) {
        // Only this device is affected.
        "EndpointDisabled" | "NotFound" => PublishOutcome::Gone,
        // This is what SNS returns for a deleted endpoint.
        "InvalidParameter" if message.contains("No endpoint found") => PublishOutcome::Gone,
        // The message would be refused at every attempt.
        "InvalidParameter"
        | "InvalidParameterValue"
        | "ParameterValueInvalid"
        | "Validation"
        | "ValidationError" => rejected(RejectReason::InvalidMessage),
        "InvalidAction"
        | "InvalidParameterCombination"
        | "InvalidQueryParameter"
        | "MalformedQueryString"
        | "MissingAction"
        | "MissingParameter"
        | "MalformedHttpRequest" => rejected(RejectReason::InvalidRequest),
        // The credentials of the platform application: all its devices are affected.
        "PlatformApplicationDisabled" => operator(RetryReason::BadCredentials),
        _ => match cause_of_code(code).or_else(|| cause_of_status(status)) {
            Some(FailureCause::NotAllowed) => operator(RetryReason::NotAllowed),
            Some(FailureCause::Throttled) => retry(RetryReason::Throttled),
            Some(FailureCause::Failed | FailureCause::Contention) => {
                retry(RetryReason::Unavailable)
            }
            // An undocumented error is retried. After the last attempt the message is in the
            // dead-letter queue, so nothing is lost.
            None => retry(RetryReason::UnknownError),
        },
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

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::TcpListener,
        thread,
        time::Duration,
    };

    use super::*;
    use crate::clients;

    /// Serves these responses, each on its own connection. Returns the URL.
    fn serve(responses: Vec<(u16, &'static str)>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        thread::spawn(move || {
            for (status, body) in responses {
                let (mut connection, _) = listener.accept().unwrap();
                let _ = connection.read(&mut [0; 8_192]).unwrap();
                let length = body.len();
                let head = format!("HTTP/1.1 {status} -\r\nConnection: close\r\n");
                let response = format!("{head}Content-Length: {length}\r\n\r\n{body}");
                connection.write_all(response.as_bytes()).unwrap();
            }
        });
        url
    }

    #[tokio::test]
    async fn throttled_requests_are_retried_at_once() {
        let throttled = "<ErrorResponse><Error><Type>Sender</Type><Code>Throttled</Code>\
                         </Error></ErrorResponse>";
        let url = serve(vec![
            (429, throttled),
            (429, throttled),
            (200, "<DeleteEndpointResponse/>"),
        ]);
        let variables = [("AWS_REGION", "us-east-1"), ("AWS_ENDPOINT_URL_SNS", &url)];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let config = clients::at(&variables.into(), "AWS_ENDPOINT_URL_SNS").await;
        Sns::new(&config).delete("arn:1").await.unwrap();
    }

    fn retry(reason: RetryReason, after: Option<Duration>) -> PublishOutcome {
        PublishOutcome::Retry { after, reason }
    }

    #[test]
    fn classifies_errors_of_a_device_as_gone() {
        for code in [
            "EndpointDisabled",
            "EndpointDisabledException",
            "NotFound",
            "NotFoundException",
        ] {
            assert_eq!(classify(code, "", 400), PublishOutcome::Gone, "{code}");
        }
        let deleted =
            "Invalid parameter: TargetArn Reason: No endpoint found for the target arn specified";
        let outcome = classify("InvalidParameter", deleted, 400);
        assert_eq!(outcome, PublishOutcome::Gone);
    }

    #[test]
    fn classifies_errors_of_a_request_as_rejected() {
        for code in [
            "InvalidParameter",
            "ParameterValueInvalid",
            "InvalidParameterValueException",
            "ValidationException",
            "MissingAction",
        ] {
            let outcome = classify(code, "", 400);
            let is_rejected = matches!(outcome, PublishOutcome::Rejected { .. });
            assert!(is_rejected, "{code}");
        }
    }

    #[test]
    fn retries_operator_errors_after_delay() {
        let after = Some(OPERATOR_RETRY_DELAY);
        for code in [
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
        ] {
            let expected = retry(RetryReason::NotAllowed, after);
            assert_eq!(classify(code, "", 400), expected, "{code}");
        }
        for code in [
            "PlatformApplicationDisabled",
            "PlatformApplicationDisabledException",
        ] {
            let expected = retry(RetryReason::BadCredentials, after);
            assert_eq!(classify(code, "", 400), expected, "{code}");
        }
    }

    #[test]
    fn retries_errors_of_sns() {
        for (code, status, reason) in [
            ("KMSThrottling", 400, RetryReason::Throttled),
            ("Throttled", 400, RetryReason::Throttled),
            ("ThrottlingException", 400, RetryReason::Throttled),
            ("RequestLimitExceeded", 400, RetryReason::Throttled),
            ("", 429, RetryReason::Throttled),
            ("InternalError", 400, RetryReason::Unavailable),
            ("InternalFailure", 400, RetryReason::Unavailable),
            ("ServiceUnavailable", 400, RetryReason::Unavailable),
            ("RequestExpired", 400, RetryReason::Unavailable),
            ("", 503, RetryReason::Unavailable),
            ("SomethingNew", 400, RetryReason::UnknownError),
        ] {
            let outcome = classify(code, "", status);
            assert_eq!(outcome, retry(reason, None), "{code} {status}");
        }
    }

    #[test]
    fn finds_the_endpoint_in_the_error_message() {
        let arn = "arn:aws:sns:us-east-1:1:endpoint/APNS/demo/1-2";
        let text = format!(
            "Invalid parameter: Token Reason: Endpoint {arn} already exists with the same Token, \
             but different attributes."
        );
        assert_eq!(endpoint_in(&text).as_deref(), Some(arn));
        assert_eq!(
            endpoint_in(
                "Invalid parameter: Token Reason: iOS device tokens must be no more than 400 \
                 hexadecimal characters"
            ),
            None
        );
    }
}
