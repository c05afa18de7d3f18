//! Faults of SQS. ministack delivers messages itself, so repeats and delays are made when a message
//! is sent.

use anyhow::Result;
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::{FaultKind, FaultPlan, Faults, State, json_error, json_response};
use crate::{
    forward::HttpResponse,
    proxy::{Upstream, call::Call},
};

/// The longest delay of a late or repeated message, in seconds.
const MAX_DELAY_SECONDS: u64 = 3;

impl Faults {
    /// Forwards a request to SQS, with the faults of a request that succeeds.
    pub(in crate::proxy) async fn sqs(
        &self,
        upstream: &Upstream,
        mut call: Call,
    ) -> Result<HttpResponse> {
        let Some(plan) = self.state().plan else {
            return upstream.send(&call).await;
        };
        match call.operation.as_str() {
            "SendMessage" => {
                let repeat = self.state().disturb(plan, &mut call.parameters);
                let response = upstream.send(&call).await?;
                if let Some(repeat) = repeat {
                    call.parameters = repeat;
                    upstream.send(&call).await?;
                }
                Ok(response)
            }
            "SendMessageBatch" => self.send_batch(plan, upstream, call).await,
            _ => upstream.send(&call).await,
        }
    }

    async fn send_batch(
        &self,
        plan: FaultPlan,
        upstream: &Upstream,
        mut call: Call,
    ) -> Result<HttpResponse> {
        let (mut accepted, mut failed, mut repeats) = (Vec::new(), Vec::new(), Vec::new());
        for mut entry in call.list("Entries").to_vec() {
            let mut state = self.state();
            if state.happens(plan.sqs_entries_failed, FaultKind::SqsEntryFailed) {
                failed.push(failed_entry(&entry));
            } else {
                repeats.extend(state.disturb(plan, &mut entry));
                accepted.push(entry);
            }
        }
        let mut response = if accepted.is_empty() {
            json_response(StatusCode::OK, &json!({"Successful": [], "Failed": []}))
        } else {
            call.parameters["Entries"] = Value::Array(accepted);
            upstream.send(&call).await?
        };
        if !response.status.is_success() {
            return Ok(response);
        }
        if !repeats.is_empty() {
            call.parameters["Entries"] = Value::Array(repeats);
            upstream.send(&call).await?;
        }
        if !failed.is_empty() {
            let mut body: Value = serde_json::from_slice(&response.body)?;
            if let Some(entries) = body["Failed"].as_array_mut() {
                failed.splice(0..0, std::mem::take(entries));
            }
            body["Failed"] = Value::Array(failed);
            response = json_response(response.status, &body);
        }
        Ok(response)
    }
}

impl State {
    /// Makes a message late, unless it waits on purpose. Returns the message once more if it is to
    /// be repeated.
    fn disturb(&mut self, plan: FaultPlan, message: &mut Value) -> Option<Value> {
        let waits = message["DelaySeconds"].as_u64().is_some_and(|s| s > 0);
        let repeat = self
            .happens(plan.messages_repeated, FaultKind::MessageRepeated)
            .then(|| {
                let mut repeat = message.clone();
                if !waits {
                    repeat["DelaySeconds"] = self.random.up_to(MAX_DELAY_SECONDS).into();
                }
                repeat
            });
        if !waits && self.happens(plan.messages_delayed, FaultKind::MessageDelayed) {
            let seconds = 1 + self.random.up_to(MAX_DELAY_SECONDS - 1);
            message["DelaySeconds"] = seconds.into();
        }
        repeat
    }
}

/// A request above the rate of the queue or the account
/// (<https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html>).
pub(super) fn throttled() -> HttpResponse {
    let code = "com.amazonaws.sqs#RequestThrottled";
    json_error(code, "the proxy throttled the request", &Value::Null)
}

/// An entry that SQS failed to accept
/// (<https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_BatchResultErrorEntry.html>).
fn failed_entry(entry: &Value) -> Value {
    json!({
        "Id": entry["Id"],
        "SenderFault": false,
        "Code": "InternalError",
        "Message": "the proxy failed the entry",
    })
}
