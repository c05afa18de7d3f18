//! The result of a transaction whose writes have conditions.

use aws_sdk_dynamodb::{
    error::SdkError, operation::transact_write_items::TransactWriteItemsError,
    types::CancellationReason,
};
use nostr_push_core::{
    ports::PortResult,
    retry::{FailureCause, Unavailable},
};

use crate::{
    cause::{cause_of_code, unavailable},
    clients::chain,
};

/// Returns `true` if the transaction was committed, and `false` if another process wrote one of the
/// rows or is writing it.
///
/// DynamoDB cancels transactions for many reasons
/// (<https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_TransactWriteItems.html>),
/// and names one per item. Only two of them say that another process was faster:
/// `ConditionalCheckFailed` and `TransactionConflict`. If an item has any other reason, such as
/// `ThrottlingError` or `ValidationError`, a new attempt at once would fail too.
///
/// # Errors
/// The transaction failed for any other reason.
pub(super) fn committed<T>(
    dependency: &'static str,
    result: Result<T, SdkError<TransactWriteItemsError>>,
) -> PortResult<bool> {
    let Err(error) = result else {
        return Ok(true);
    };
    let Some(TransactWriteItemsError::TransactionCanceledException(canceled)) =
        error.as_service_error()
    else {
        return Err(unavailable(dependency)(error));
    };
    let codes: Vec<&str> = canceled
        .cancellation_reasons()
        .iter()
        .filter_map(CancellationReason::code)
        .filter(|code| *code != "None")
        .collect();
    if !codes.is_empty() && codes.iter().all(|code| is_lost_race(code)) {
        return Ok(false);
    }
    let causes = codes.iter().filter_map(|code| cause_of_code(code));
    let cause = causes.max().unwrap_or(FailureCause::Failed);
    Err(Unavailable::caused(cause, dependency, chain(&error)))
}

fn is_lost_race(code: &str) -> bool {
    matches!(code, "ConditionalCheckFailed" | "TransactionConflict")
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::{
        config::http::HttpResponse, types::error::TransactionCanceledException,
    };

    use super::*;

    fn canceled(codes: &[&str]) -> PortResult<bool> {
        let reason = |code: &&str| CancellationReason::builder().code(*code).build();
        let canceled = TransactionCanceledException::builder()
            .set_cancellation_reasons(Some(codes.iter().map(reason).collect()))
            .build();
        let error = TransactWriteItemsError::TransactionCanceledException(canceled);
        let response = HttpResponse::new(400.try_into().unwrap(), "".into());
        committed::<()>("commit", Err(SdkError::service_error(error, response)))
    }

    #[test]
    fn only_a_changed_row_is_a_lost_race() {
        for codes in [
            ["None", "ConditionalCheckFailed"],
            ["TransactionConflict", "None"],
            ["ConditionalCheckFailed", "TransactionConflict"],
        ] {
            assert!(!canceled(&codes).unwrap(), "{codes:?}");
        }
    }

    #[test]
    fn every_other_reason_is_a_failure() {
        let (failed, throttled) = (FailureCause::Failed, FailureCause::Throttled);
        for (codes, cause) in [
            (&["None", "ThrottlingError"][..], throttled),
            (&["ProvisionedThroughputExceeded", "None"], throttled),
            (&["ValidationError", "None"], failed),
            (&["ItemCollectionSizeLimitExceeded", "None"], failed),
            (
                &["AccessDenied", "ThrottlingError"],
                FailureCause::NotAllowed,
            ),
            (&["SomethingNew", "None"], failed),
            (&["ConditionalCheckFailed", "ThrottlingError"], throttled),
            (&["ValidationError", "TransactionConflict"], failed),
            (&["None", "None"], failed),
            (&[], failed),
        ] {
            assert_eq!(canceled(codes).unwrap_err().cause, cause, "{codes:?}");
        }
    }
}
