//! A function that does what each message says: `panic`, `fail`, or anything else for success. For
//! `tests/bootstrap.rs`, which runs it as Lambda does.

use nostr_push_aws::{
    batch::{self, Record, Retry},
    clients,
    sqs::Visibility,
    telemetry::Telemetry,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_runtime::Error> {
    let telemetry = Telemetry::init("obedient");
    let visibility = Visibility::new(
        &clients::config("obedient").await,
        "http://127.0.0.1:9/0/none".to_owned(),
    );
    batch::run(telemetry, visibility, async |record: Record<String>| {
        obey(&record.message)
    })
    .await
}

fn obey(order: &str) -> Result<(), Retry> {
    assert_ne!(order, "panic", "as ordered");
    if order == "fail" {
        Err(Retry::default())
    } else {
        Ok(())
    }
}
