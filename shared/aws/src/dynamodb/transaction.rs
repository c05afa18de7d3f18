//! The result of a transaction whose writes have conditions.

use aws_sdk_dynamodb::{
    error::SdkError, operation::transact_write_items::TransactWriteItemsError,
    types::CancellationReason,
};
use nostr_push_core::ports::PortResult;

use crate::clients::unavailable;

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
pub(super) fn committed<T, R: std::fmt::Debug + 'static>(
    dependency: &'static str,
    result: Result<T, SdkError<TransactWriteItemsError, R>>,
) -> PortResult<bool> {
    let error = match result {
        Ok(_) => return Ok(true),
        Err(error) => error,
    };
    if let Some(TransactWriteItemsError::TransactionCanceledException(canceled)) =
        error.as_service_error()
        && is_lost_race(canceled.cancellation_reasons())
    {
        return Ok(false);
    }
    Err(unavailable(dependency)(error))
}

/// Returns `true` if every item that has a reason has one of the two that mean a lost race.
fn is_lost_race(reasons: &[CancellationReason]) -> bool {
    let mut codes = reasons
        .iter()
        .filter_map(CancellationReason::code)
        .filter(|code| *code != "None")
        .peekable();
    codes.peek().is_some()
        && codes.all(|code| matches!(code, "ConditionalCheckFailed" | "TransactionConflict"))
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::types::error::TransactionCanceledException;

    use super::*;

    fn canceled(codes: &[&str]) -> PortResult<bool> {
        let reason = |code: &&str| CancellationReason::builder().code(*code).build();
        let canceled = TransactionCanceledException::builder()
            .set_cancellation_reasons(Some(codes.iter().map(reason).collect()))
            .build();
        let error = TransactWriteItemsError::TransactionCanceledException(canceled);
        committed::<(), _>("commit", Err(SdkError::service_error(error, ())))
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
        for codes in [
            &["None", "ThrottlingError"][..],
            &["ProvisionedThroughputExceeded", "None"],
            &["ValidationError", "None"],
            &["ItemCollectionSizeLimitExceeded", "None"],
            &["AccessDenied", "None"],
            &["SomethingNew", "None"],
            &["ConditionalCheckFailed", "ThrottlingError"],
            &["ThrottlingError", "TransactionConflict"],
            &["None", "None"],
            &[],
        ] {
            assert!(canceled(codes).is_err(), "{codes:?}");
        }
    }
}
