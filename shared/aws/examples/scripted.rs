//! A test function: its message selects panic, failure or success. It panics on `panic`, fails on
//! `fail`, and succeeds on any other message. `tests/bootstrap.rs` runs it as Lambda does.

use nostr_push_aws::{
    batch::{self, Record, Retry},
    clients,
    sqs::Visibility,
    telemetry::Telemetry,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_runtime::Error> {
    let telemetry = Telemetry::init("scripted");
    let config = clients::config("scripted").await;
    let visibility = Visibility::new(&config, "http://127.0.0.1:9/0/none".to_owned());
    batch::run(telemetry, visibility, async |record: Record<String>| {
        handle(&record.message)
    })
    .await
}

fn handle(message: &str) -> Result<(), Retry> {
    assert_ne!(message, "panic", "the message selects a panic");
    if message == "fail" {
        Err(Retry::default())
    } else {
        Ok(())
    }
}
