//! Transactions whose writes have conditions.

use std::{future::Future, time::Duration};

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

/// The most attempts at a transaction that DynamoDB cancels because it throttles one of the writes.
/// The SDK sends a throttled request again, but not such a transaction
/// (<https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Programming.Errors.html>).
const MAX_ATTEMPTS: u32 = 3;

/// Sends a transaction, and again after a pause while DynamoDB throttles one of its writes. The
/// result is that of [`committed`].
///
/// A removal must not fail lightly between deleting an endpoint and recording this: it would block
/// the token until its lease ends.
///
/// # Errors
/// The transaction failed.
pub(super) async fn commit<T, F>(dependency: &'static str, send: impl Fn() -> F) -> PortResult<bool>
where
    F: Future<Output = Result<T, SdkError<TransactWriteItemsError>>>,
{
    let mut attempt = 1;
    loop {
        let result = send().await;
        let is_cancelled = result.as_ref().is_err_and(is_cancelled);
        let outcome = committed(dependency, result);
        let is_throttled =
            |error: &Unavailable| is_cancelled && error.cause == FailureCause::Throttled;
        if attempt == MAX_ATTEMPTS || !outcome.as_ref().is_err_and(is_throttled) {
            return outcome;
        }
        tokio::time::sleep(Duration::from_millis(100 << attempt)).await;
        attempt += 1;
    }
}

fn is_cancelled(error: &SdkError<TransactWriteItemsError>) -> bool {
    error
        .as_service_error()
        .is_some_and(TransactWriteItemsError::is_transaction_canceled_exception)
}

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
fn committed<T>(
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
    use std::{cell::RefCell, collections::VecDeque, future::ready};

    use aws_sdk_dynamodb::{
        config::http::HttpResponse, types::error::TransactionCanceledException,
    };

    use super::*;

    fn canceled(codes: &[&str]) -> PortResult<bool> {
        committed::<()>("commit", Err(cancellation(codes)))
    }

    fn cancellation(codes: &[&str]) -> SdkError<TransactWriteItemsError> {
        let reason = |code: &&str| CancellationReason::builder().code(*code).build();
        let canceled = TransactionCanceledException::builder()
            .set_cancellation_reasons(Some(codes.iter().map(reason).collect()))
            .build();
        let error = TransactWriteItemsError::TransactionCanceledException(canceled);
        let response = HttpResponse::new(400.try_into().unwrap(), "".into());
        SdkError::service_error(error, response)
    }

    #[tokio::test]
    async fn a_throttled_transaction_is_sent_again() {
        let throttled = || Some(cancellation(&["ThrottlingError", "None"]));
        let lost = || Some(cancellation(&["ConditionalCheckFailed", "None"]));
        let invalid = || Some(cancellation(&["ValidationError", "None"]));
        let refused = || Some(SdkError::timeout_error("no answer"));
        for (answers, attempts, expected) in [
            (vec![throttled(), throttled(), None], 3, Some(true)),
            (vec![throttled(), lost(), None], 2, Some(false)),
            (vec![throttled(), throttled(), throttled(), None], 3, None),
            (vec![invalid(), None], 1, None),
            (vec![refused(), None], 1, None),
        ] {
            let (all, answers) = (answers.len(), RefCell::new(VecDeque::from(answers)));
            let send = || {
                ready(
                    answers
                        .borrow_mut()
                        .pop_front()
                        .unwrap()
                        .map_or(Ok(()), Err),
                )
            };
            assert_eq!(commit("commit", send).await.ok(), expected);
            assert_eq!(all - answers.borrow().len(), attempts);
        }
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
