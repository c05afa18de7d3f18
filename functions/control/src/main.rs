//! The control Lambda: wiring only.

use control::{config::Config, context::Receipt, handler::ControlStage, report::report};
use nostr_push_aws::{
    batch::{self, Record},
    clients,
    dynamodb::Store,
    secrets,
    sns::Sns,
    sqs::Visibility,
    telemetry::Telemetry,
};
use nostr_push_core::message::ControlInput;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_runtime::Error> {
    let telemetry = Telemetry::init("control");
    let config = Config::from_env()?;
    let aws = clients::config(telemetry.stage()).await;
    let (secret, version) = (&config.service_key_secret, config.key_version.as_deref());
    let stored = secrets::service_keys(&aws, secret, version).await?;
    let stage = ControlStage::new(
        stored.keys,
        config.heartbeat_app,
        config.limits,
        Store::new(&aws, &config.table_prefix),
        Sns::new(&aws),
    );
    let visibility = Visibility::new(&aws, config.control_queue);
    let stage = &stage;
    batch::run_decoding(
        telemetry,
        visibility,
        ControlInput::read,
        move |record: Record<ControlInput>| async move {
            let receipt = Receipt {
                now: clients::now(),
                count: record.receive_count,
            };
            let result = stage.handle(&record.message, receipt).await;
            report(telemetry, &record.message, &result, clients::now())
        },
    )
    .await
}
