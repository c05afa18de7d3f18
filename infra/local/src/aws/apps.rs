//! Apps and their platform applications on the local endpoint.

use std::collections::HashMap;

use anyhow::{Context, Result};
use nostr_push_aws::{clients, dynamodb::Store};
use nostr_push_core::app::{App, Platform, platform_application_name};

use super::STACK;

/// Creates or reuses a platform application for each platform, and stores the app.
///
/// # Errors
/// The endpoint failed.
pub async fn put_app(
    environment: &HashMap<String, String>,
    mut app: App,
    platforms: &[Platform],
) -> Result<App> {
    let sns = sns(environment).await;
    let name = platform_application_name(STACK, &app.app)?;
    for platform in platforms {
        let request = sns
            .create_platform_application()
            .name(&name)
            .platform(platform.sns_name())
            .attributes("PlatformCredential", "local");
        let arn = request
            .send()
            .await?
            .platform_application_arn
            .context("SNS returned no ARN")?;
        app.platforms.insert(*platform, arn);
    }
    let config = clients::at(environment, "AWS_ENDPOINT_URL").await;
    Store::new(&config, STACK).put_app(&app).await?;
    Ok(app)
}

/// Makes the app's platform applications report endpoint events to this topic
/// (<https://docs.aws.amazon.com/sns/latest/dg/application-event-notifications.html>).
///
/// # Errors
/// The endpoint failed.
pub async fn report_endpoint_events(
    environment: &HashMap<String, String>,
    app: &App,
    topic: &str,
) -> Result<()> {
    let sns = sns(environment).await;
    for arn in app.platforms.values() {
        let mut request = sns
            .set_platform_application_attributes()
            .platform_application_arn(arn);
        for event in [
            "EventEndpointDeleted",
            "EventEndpointUpdated",
            "EventDeliveryFailure",
        ] {
            request = request.attributes(event, topic);
        }
        request.send().await?;
    }
    Ok(())
}

async fn sns(environment: &HashMap<String, String>) -> aws_sdk_sns::Client {
    aws_sdk_sns::Client::new(&clients::at(environment, "AWS_ENDPOINT_URL_SNS").await)
}
