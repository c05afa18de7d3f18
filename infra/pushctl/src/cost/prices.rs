//! AWS's list prices. The benchmark of strangers includes this file as well.

/// One of AWS's list prices, without free tiers.
pub(super) struct Price {
    /// The price of `units` units.
    pub(super) dollars: f64,
    pub(super) units: u32,
    /// What is charged.
    #[cfg_attr(not(test), expect(dead_code, reason = "documentation"))]
    pub(super) unit: &'static str,
    /// The page of <https://aws.amazon.com> with the price.
    #[cfg_attr(not(test), expect(dead_code, reason = "documentation"))]
    pub(super) page: &'static str,
}

impl Price {
    /// The price of `n` units, in dollars.
    pub(super) fn of(&self, n: f64) -> f64 {
        n * self.dollars / f64::from(self.units)
    }
}

/// Defines the prices as constants, and a list of all of them.
macro_rules! prices {
    ($($name:ident: $dollars:literal for $units:literal $unit:literal on $page:literal,)*) => {
        $(pub(super) const $name: Price = Price {
            dollars: $dollars,
            units: $units,
            unit: $unit,
            page: $page,
        };)*
        #[cfg(test)]
        pub(super) const PRICES: &[Price] = &[$($name),*];
    };
}

prices! {
    SQS_REQUEST: 0.40 for 1_000_000 "sqs request" on "sqs/pricing",
    LAMBDA_REQUEST: 0.20 for 1_000_000 "lambda request" on "lambda/pricing",
    LAMBDA_GB_SECOND: 13.3334 for 1_000_000 "lambda GB-second" on "lambda/pricing",
    READ_UNIT: 0.125 for 1_000_000 "dynamodb read unit" on "dynamodb/pricing/on-demand",
    WRITE_UNIT: 0.625 for 1_000_000 "dynamodb write unit" on "dynamodb/pricing/on-demand",
    TABLE_GB_MONTH: 0.25 for 1 "dynamodb GB-month" on "dynamodb/pricing/on-demand",
    RECOVERY_GB_MONTH: 0.20 for 1 "dynamodb GB-month of recovery" on "dynamodb/pricing/on-demand",
    SNS_REQUEST: 0.50 for 1_000_000 "sns request" on "sns/pricing",
    SNS_PUSH: 0.50 for 1_000_000 "sns push" on "sns/pricing",
    VCPU_HOUR: 0.032_38 for 1 "fargate vCPU-hour" on "fargate/pricing",
    TASK_GB_HOUR: 0.003_56 for 1 "fargate GB-hour" on "fargate/pricing",
    IPV4_HOUR: 0.005 for 1 "public IPv4 hour" on "vpc/pricing",
    LOG_GB: 0.50 for 1 "log GB" on "cloudwatch/pricing",
    METRIC: 0.30 for 1 "metric" on "cloudwatch/pricing",
    ALARM: 0.10 for 1 "alarm" on "cloudwatch/pricing",
    DASHBOARD: 3.00 for 1 "dashboard" on "cloudwatch/pricing",
    SECRET: 0.40 for 1 "secret" on "secrets-manager/pricing",
}
