//! The tables: whether they exist, and have what a restored table lacks. CloudFormation does not
//! notice what was changed by hand, so another deployment repairs nothing.

use anyhow::{Result, bail};
use aws_sdk_dynamodb::{
    Client,
    operation::describe_table::DescribeTableError,
    types::{
        PointInTimeRecoveryStatus, StreamSpecification, TableDescription, TableStatus,
        TimeToLiveStatus,
    },
};

use super::Checks;
use crate::context::{CommandContext, DeployedStack};

/// All tables.
const TABLES: [&str; 11] = [
    "apps",
    "claims",
    "devices",
    "filter-index",
    "mute-lists",
    "presence",
    "profiles",
    "rates",
    "relays",
    "settings",
    "subscriptions",
];

/// Checks each table.
pub(super) async fn check(context: &CommandContext, checks: &mut Checks, deployed: &DeployedStack) {
    let client = Client::new(&context.aws);
    let is_protected = deployed.parameter("ListenerImage").is_some();
    for table in TABLES {
        checks.add(
            format!("table {table}"),
            check_table(&client, &context.prefix, table, is_protected).await,
            "A command that is named above repairs a setting. If the table does not exist: see \
             Restoring in docs/operations.md.",
        );
    }
}

async fn check_table(
    client: &Client,
    prefix: &str,
    table: &str,
    is_protected: bool,
) -> Result<String> {
    let name = format!("{prefix}-{table}");
    let described = client.describe_table().table_name(&name).send().await;
    let described = match described {
        Ok(described) => described
            .table
            .unwrap_or_else(|| TableDescription::builder().build()),
        Err(error)
            if error
                .as_service_error()
                .is_some_and(DescribeTableError::is_resource_not_found_exception) =>
        {
            bail!("there is no table {name}")
        }
        Err(error) => return Err(error.into()),
    };
    let mut problems = Vec::new();
    if described.table_status() != Some(&TableStatus::Active) {
        problems.push("it is not active".to_owned());
    }
    let update = format!("aws dynamodb update-table --table-name {name}");
    if is_protected && described.deletion_protection_enabled() != Some(true) {
        problems.push(format!(
            "it can be deleted ({update} --deletion-protection-enabled)"
        ));
    }
    let stream = described.stream_specification();
    if table == "devices" && !stream.is_some_and(StreamSpecification::stream_enabled) {
        problems.push(
            "it has no stream, so endpoints of ended devices stay (infra/deploy with another \
             TablePrefix, and pushctl restore)"
                .to_owned(),
        );
    }
    if !has_ttl(client, &name).await? {
        problems.push(format!(
            "rows are not deleted when they end (aws dynamodb update-time-to-live --table-name \
             {name} --time-to-live-specification Enabled=true,AttributeName=expires_at)"
        ));
    }
    if !has_recovery(client, &name).await? {
        problems.push(format!(
            "point-in-time recovery is off (aws dynamodb update-continuous-backups --table-name \
             {name} --point-in-time-recovery-specification PointInTimeRecoveryEnabled=true)"
        ));
    }
    if !problems.is_empty() {
        bail!("{name}: {}", problems.join("; "));
    }
    Ok(name)
}

async fn has_ttl(client: &Client, name: &str) -> Result<bool> {
    let request = client.describe_time_to_live().table_name(name);
    let ttl = request.send().await?.time_to_live_description;
    Ok(ttl.is_some_and(|ttl| {
        let is_on = matches!(
            ttl.time_to_live_status(),
            Some(TimeToLiveStatus::Enabled | TimeToLiveStatus::Enabling)
        );
        is_on && ttl.attribute_name() == Some("expires_at")
    }))
}

async fn has_recovery(client: &Client, name: &str) -> Result<bool> {
    let request = client.describe_continuous_backups().table_name(name);
    let backups = request.send().await?.continuous_backups_description;
    let recovery = backups.and_then(|backups| backups.point_in_time_recovery_description);
    let status = recovery.and_then(|recovery| recovery.point_in_time_recovery_status);
    Ok(status == Some(PointInTimeRecoveryStatus::Enabled))
}
