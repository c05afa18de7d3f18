//! The cause of a failed request, by the error code of AWS.

use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use nostr_push_core::retry::{FailureCause, Unavailable};

use crate::clients::chain;

/// Converts the error of a request to the error of the ports.
pub(crate) fn unavailable<E>(dependency: &'static str) -> impl Fn(SdkError<E>) -> Unavailable
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    move |error| Unavailable::caused(cause(&error), dependency, chain(&error))
}

/// Converts the error of reading or building a value to the error of the ports.
pub(crate) fn unreadable<E: std::error::Error>(
    dependency: &'static str,
) -> impl Fn(E) -> Unavailable {
    move |error| Unavailable::new(dependency, chain(&error))
}

/// The cause of a failed request. Without a readable response it is [`FailureCause::Failed`].
fn cause<E: ProvideErrorMetadata>(error: &SdkError<E>) -> FailureCause {
    let status = error
        .raw_response()
        .map_or(0, |response| response.status().as_u16());
    error
        .code()
        .and_then(cause_of_code)
        .or_else(|| cause_of_status(status))
        .unwrap_or(FailureCause::Failed)
}

/// The cause that an error code of DynamoDB, SQS, SNS or Secrets Manager states. `None` if the code
/// states another error.
///
/// The codes are those of all services
/// (<https://docs.aws.amazon.com/sns/latest/api/CommonErrors.html>), of DynamoDB
/// (<https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Programming.Errors.html>,
/// and the reasons for which it cancels a transaction), of SQS
/// (<https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html>),
/// and of Secrets Manager. They come with and without the suffix `Exception`, in several spellings
/// of KMS, and in the query protocol with a dot (`KMS.DisabledException`).
pub(crate) fn cause_of_code(code: &str) -> Option<FailureCause> {
    let code = code.strip_suffix("Exception").unwrap_or(code);
    match code.to_ascii_lowercase().replace('.', "").as_str() {
        // The permissions or credentials of the program, the account, or a KMS key.
        "accessdenied"
        | "authorizationerror"
        | "decryptionfailure"
        | "expiredtoken"
        | "incompletesignature"
        | "invalidclienttokenid"
        | "invalidsecurity"
        | "invalidsignature"
        | "kmsaccessdenied"
        | "kmsdisabled"
        | "kmsinvalidkeyusage"
        | "kmsinvalidstate"
        | "kmsnotfound"
        | "kmsoptinrequired"
        | "missingauthenticationtoken"
        | "notauthorized"
        | "optinrequired"
        | "signaturedoesnotmatch"
        | "unauthorizedoperation"
        | "unrecognizedclient" => Some(FailureCause::NotAllowed),
        "kmsthrottled"
        | "kmsthrottling"
        | "provisionedthroughputexceeded"
        | "requestlimitexceeded"
        | "requestthrottled"
        | "throttled"
        | "throttling"
        | "throttlingerror"
        | "toomanyrequests" => Some(FailureCause::Throttled),
        "internalerror"
        | "internalfailure"
        | "internalserver"
        | "internalservererror"
        | "internalserviceerror"
        | "requestaborted"
        | "requestexpired"
        | "requesttimeout"
        | "serviceunavailable" => Some(FailureCause::Failed),
        _ => None,
    }
}

/// The cause that the status of a response states.
pub(crate) fn cause_of_status(status: u16) -> Option<FailureCause> {
    match status {
        429 => Some(FailureCause::Throttled),
        500.. => Some(FailureCause::Failed),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::{
        config::http::HttpResponse, error::ErrorMetadata, operation::put_item::PutItemError,
    };

    use super::*;

    fn failure(code: &str, status: u16) -> Unavailable {
        let error = PutItemError::generic(ErrorMetadata::builder().code(code).build());
        let response = HttpResponse::new(status.try_into().unwrap(), "".into());
        unavailable("put")(SdkError::service_error(error, response))
    }

    #[test]
    fn denied_access_is_told_apart_and_retried_after_minutes() {
        for code in [
            "AccessDenied",
            "AccessDeniedException",
            "AuthorizationError",
            "ExpiredTokenException",
            "KMS.DisabledException",
            "KMSAccessDenied",
            "KmsAccessDenied",
            "NotAuthorized",
            "OptInRequired",
            "UnrecognizedClientException",
        ] {
            let failure = failure(code, 400);
            assert_eq!(failure.cause, FailureCause::NotAllowed, "{code}");
            assert_eq!(failure.retry_after().map(|time| time.as_secs()), Some(300));
        }
    }

    #[test]
    fn throttling_is_told_apart() {
        for (code, status) in [
            ("ProvisionedThroughputExceededException", 400),
            ("ThrottlingException", 400),
            ("RequestLimitExceeded", 400),
            ("RequestThrottled", 403),
            ("KmsThrottled", 400),
            ("", 429),
        ] {
            let failure = failure(code, status);
            assert_eq!(failure.cause, FailureCause::Throttled, "{code}");
            assert_eq!(failure.retry_after(), None);
        }
    }

    #[test]
    fn everything_else_is_a_failure() {
        for (code, status) in [
            ("InternalServerError", 500),
            ("ResourceNotFoundException", 400),
            ("ValidationException", 400),
            ("", 503),
        ] {
            assert_eq!(failure(code, status).cause, FailureCause::Failed, "{code}");
        }
        let no_answer = SdkError::<PutItemError>::timeout_error("timed out");
        assert_eq!(unavailable("put")(no_answer).cause, FailureCause::Failed);
    }
}
