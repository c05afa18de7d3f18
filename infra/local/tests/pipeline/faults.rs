//! Faults of SNS.

use std::sync::Arc;

use nostr_push_aws::clients;
use nostr_push_core::app::Platform;
use nostr_push_local::{
    aws::{ACCOUNT, REGION, STACK},
    demo::publish,
    sns_proxy::Fault,
    stack::Stack,
};
use tokio::sync::Notify;

use crate::{counters, now, phone::Phone, wait_until};

/// One fault, the counter that it increments, and the number of pushes of the event that SNS
/// accepts.
struct Case {
    fault: Fault,
    counter: &'static str,
    pushes: usize,
}

impl Case {
    fn new(fault: Fault, counter: &'static str, pushes: usize) -> Self {
        Self {
            fault,
            counter,
            pushes,
        }
    }
}

pub(crate) async fn each_fault_has_its_outcome(stack: &Stack) -> Result<(), String> {
    let respond = Fault::Respond;
    for case in [
        Case::new(respond(400, "Throttled"), "deliver.failed.throttled", 1),
        Case::new(
            respond(500, "InternalError"),
            "deliver.failed.unavailable",
            1,
        ),
        // SNS accepts the push, but the response is lost. So it is published again, with the same
        // collapse id.
        Case::new(
            Fault::HoldAfter(Arc::new(Notify::new())),
            "deliver.failed.no_answer",
            2,
        ),
        Case::new(
            respond(400, "InvalidParameter"),
            "deliver.rejected.invalid_message",
            0,
        ),
        // The operator must act. The delivery is retried after minutes, and the device is kept.
        Case::new(
            respond(400, "PlatformApplicationDisabled"),
            "deliver.failed.bad_credentials",
            0,
        ),
        Case::new(respond(400, "EndpointDisabled"), "deliver.gone.apns", 0),
    ] {
        check(stack, case).await?;
    }
    Ok(())
}

/// A registration enables an endpoint of the same token that SNS has kept disabled.
pub(crate) async fn registration_enables_endpoint(stack: &Stack) -> Result<(), String> {
    let config = clients::at(&stack.aws.environment(), "AWS_ENDPOINT_URL_SNS").await;
    let sns = aws_sdk_sns::Client::new(&config);
    let (phone, platform) = (Phone::new(), Platform::Apns.sns_name());
    let application = format!("arn:aws:sns:{REGION}:{ACCOUNT}:app/{platform}/{STACK}.demo");
    let request = sns
        .create_platform_endpoint()
        .platform_application_arn(application);
    let request = request.token(&phone.token).attributes("Enabled", "false");
    request.send().await.unwrap();
    phone.subscribe(stack).await;
    let note = phone.first_note();
    publish(&stack.relays[0], &note).await.unwrap();
    phone.wait_for_pushes(stack, &[note]).await
}

async fn check(stack: &Stack, case: Case) -> Result<(), String> {
    let Case {
        fault,
        counter,
        pushes,
    } = case;
    let relay = &stack.relays[0];
    let count = async |name: &str| counters(stack).await.get(name).copied().unwrap_or_default();
    let phone = Phone::new();
    phone.subscribe(stack).await;
    let first = phone.first_note();
    publish(relay, &first).await.unwrap();
    phone.wait_for_pushes(stack, &[first]).await?;

    let before = count(counter).await;
    let removed_before = count("feedback.accepted.removed").await;
    stack.aws.sns.inject(fault);
    let note = phone.event(1, now(), counter);
    publish(relay, &note).await.unwrap();
    wait_until(counter, async || count(counter).await > before).await?;
    let pushed = async || {
        let pushes = phone.pushes(stack).await;
        pushes.get(&note.id.to_hex()).copied().unwrap_or_default()
    };
    wait_until(counter, async || pushed().await >= pushes).await?;

    let last = phone.event(1, now(), "the last");
    publish(relay, &last).await.unwrap();
    if counter == "deliver.gone.apns" {
        // The stream of `devices` invokes feedback, which removes the device and its endpoint.
        wait_until("feedback removes the device", async || {
            count("feedback.accepted.removed").await > removed_before
        })
        .await?;
    } else {
        phone.wait_for_pushes(stack, &[last]).await?;
    }
    match pushed().await {
        n if n == pushes => Ok(()),
        n => Err(format!("{counter}: {n} pushes instead of {pushes}")),
    }
}
