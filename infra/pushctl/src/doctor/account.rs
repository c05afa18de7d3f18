//! What the account and the region must offer.

use anyhow::{Context, Result, anyhow, ensure};
use aws_sdk_lambda::{Client, types::ScalingConfig};

use super::Checks;
use crate::context::CommandContext;

/// The functions with event sources.
const FUNCTIONS: [&str; 4] = ["control", "matcher", "deliver", "feedback"];

/// The regions with mobile push
/// (<https://docs.aws.amazon.com/sns/latest/dg/sns-mobile-push-supported-regions.html>, read in
/// November 2026).
const MOBILE_PUSH_REGIONS: [&str; 25] = [
    "af-south-1",
    "ap-east-1",
    "ap-northeast-1",
    "ap-northeast-2",
    "ap-northeast-3",
    "ap-south-1",
    "ap-southeast-1",
    "ap-southeast-2",
    "ap-southeast-3",
    "ca-central-1",
    "eu-central-1",
    "eu-north-1",
    "eu-south-1",
    "eu-south-2",
    "eu-west-1",
    "eu-west-2",
    "eu-west-3",
    "me-central-1",
    "me-south-1",
    "sa-east-1",
    "us-east-1",
    "us-east-2",
    "us-gov-west-1",
    "us-west-1",
    "us-west-2",
];

/// Checks that SNS has mobile push in the region.
pub(super) fn check_region(context: &CommandContext, checks: &mut Checks) {
    let region = context.aws.region().map(AsRef::as_ref);
    checks.add(
        "region",
        judge_region(region),
        "Deploy to another region. If AWS has added mobile push to this one since, ignore this.",
    );
}

fn judge_region(region: Option<&str>) -> Result<String> {
    let region = region.ok_or_else(|| anyhow!("no region is set"))?;
    ensure!(
        MOBILE_PUSH_REGIONS.contains(&region),
        "SNS has no mobile push in {region}, but in {}",
        MOBILE_PUSH_REGIONS.join(", ")
    );
    Ok(region.to_owned())
}

/// Checks that Lambda allows as many executions as the event sources may start.
pub(super) async fn check_concurrency(context: &CommandContext, checks: &mut Checks) {
    checks.add(
        "Lambda's concurrency",
        concurrency(context).await,
        "Ask AWS to raise the quota \"Concurrent executions\" (L-B99A9384; new accounts have 10), \
         or lower ControlConcurrency, MatcherConcurrency and DeliverConcurrency. Until then \
         messages wait longer. None is lost.",
    );
}

async fn concurrency(context: &CommandContext) -> Result<String> {
    let client = Client::new(&context.aws);
    let settings = client.get_account_settings().send().await;
    let settings = settings.context("cannot read Lambda's account settings")?;
    let limit = settings.account_limit.context("Lambda returned no limit")?;
    let mut needed = 0;
    for function in FUNCTIONS {
        let request = client.list_event_source_mappings();
        let request = request.function_name(format!("{}-{function}", context.stack));
        let mappings = request.send().await;
        let mappings =
            mappings.with_context(|| format!("cannot read the sources of {function}"))?;
        let mappings = mappings.event_source_mappings.unwrap_or_default();
        // A source without a limit is the stream. One execution at a time reads a shard.
        let of_mapping = mappings.iter().map(|mapping| {
            let scaling = mapping.scaling_config();
            scaling
                .and_then(ScalingConfig::maximum_concurrency)
                .unwrap_or(1)
        });
        needed += of_mapping.sum::<i32>();
    }
    judge_concurrency(
        limit.concurrent_executions,
        limit.unreserved_concurrent_executions.unwrap_or_default(),
        needed,
    )
}

/// Judges the limit of the account, what other functions have not reserved of it, and what the
/// event sources may start.
fn judge_concurrency(limit: i32, unreserved: i32, needed: i32) -> Result<String> {
    let found = format!(
        "the account allows {limit} concurrent executions, of which {unreserved} are not reserved, \
         and the event sources may start {needed}"
    );
    ensure!(needed <= unreserved, found);
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_without_mobile_push_are_named() {
        assert_eq!(judge_region(Some("eu-west-1")).unwrap(), "eu-west-1");
        let error = judge_region(Some("eu-central-2")).unwrap_err().to_string();
        assert!(error.contains("no mobile push in eu-central-2"), "{error}");
        assert!(judge_region(None).is_err());
    }

    #[test]
    fn new_account_has_too_little_concurrency() {
        assert!(judge_concurrency(10, 10, 116).is_err());
        assert!(judge_concurrency(1_000, 1_000, 116).is_ok());
        // Other functions have reserved the rest.
        let error = judge_concurrency(1_000, 100, 116).unwrap_err().to_string();
        assert!(
            error.contains("allows 1000") && error.contains("may start 116"),
            "{error}"
        );
    }
}
