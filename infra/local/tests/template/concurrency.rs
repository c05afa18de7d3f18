//! How many messages the functions process at once, against what a new table can take. The section
//! "Concurrency" of `docs/architecture.md` has the same figures.

use nostr_push_local::root;
use serde_json::Value;

use super::transformed::{Template, target};

/// The write units and the read units per second that a new on-demand table takes at once
/// (<https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/on-demand-capacity-mode.html>).
const COLD_TABLE: [f64; 2] = [4_000.0, 12_000.0];

/// The records that an instance processes at the same time: a batch.
const RECORDS_AT_ONCE: f64 = 10.0;

/// The assumed time of one record on AWS, in seconds. The local stack takes 51 to 66 ms
/// (`infra/pushctl/src/counted.json`).
const SECONDS_PER_RECORD: f64 = 0.05;

/// The concurrent executions of a new account
/// (<https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html>).
const NEW_ACCOUNT: u64 = 10;

/// The lowest concurrency that AWS accepts for a queue
/// (<https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-scaling.html>).
const LOWEST: u64 = 2;

/// The most units that one message of a function usually takes from one table.
struct Load {
    /// The parameter.
    parameter: &'static str,
    /// The table that takes the most write units, and how many.
    writes: (&'static str, f64),
    /// The table that takes the most read units, and how many.
    reads: (&'static str, f64),
}

const LOADS: [Load; 3] = [
    // A registration writes its device and the roster in a transaction, which doubles their units,
    // and the index. Both rows were read before.
    Load {
        parameter: "ControlConcurrency",
        writes: ("devices", 6.0),
        reads: ("devices", 4.0),
    },
    // A budget of newcomers. The roster of a recipient.
    Load {
        parameter: "MatcherConcurrency",
        writes: ("rates", 1.0),
        reads: ("devices", 1.0),
    },
    // A claim is acquired, a device is recorded in it, and it is completed. The roster and a
    // device.
    Load {
        parameter: "DeliverConcurrency",
        writes: ("claims", 3.0),
        reads: ("devices", 2.0),
    },
];

fn default_of(template: &Template, parameter: &str) -> u64 {
    let default = &template.0["Parameters"][parameter]["Default"];
    default.as_u64().unwrap_or_else(|| panic!("{parameter}"))
}

/// The row of the table in `docs/architecture.md`.
fn row(load: &Load, concurrency: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    let records = concurrency as f64 * RECORDS_AT_ONCE / SECONDS_PER_RECORD;
    let cell = |(table, units): (&str, f64)| {
        format!("{units} × {records} = {} on `{table}`", units * records)
    };
    format!(
        "| `{}` | {concurrency} | {records} | {} | {} |",
        load.parameter,
        cell(load.writes),
        cell(load.reads)
    )
}

#[tokio::test]
async fn default_concurrency_fits_new_tables() {
    let template = Template::main().await;
    let docs = std::fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    for load in &LOADS {
        let concurrency = default_of(&template, load.parameter);
        #[expect(clippy::cast_precision_loss, reason = "a small number")]
        let records = concurrency as f64 * RECORDS_AT_ONCE / SECONDS_PER_RECORD;
        for ((table, units), cold) in [load.writes, load.reads].into_iter().zip(COLD_TABLE) {
            assert!(units * records <= cold, "{}: {table}", load.parameter);
        }
        let row = row(load, concurrency);
        assert!(docs.contains(&row), "docs/architecture.md lacks\n{row}");
    }
}

/// What `counted.json` counted for a message is at least what is assumed for one table.
#[test]
fn assumed_loads_are_part_of_the_counted_ones() {
    let counted = root().join("infra/pushctl/src/counted.json");
    let counted: Value = serde_json::from_slice(&std::fs::read(counted).unwrap()).unwrap();
    // A registration is two events.
    for (load, pointer) in [
        (&LOADS[0], "/registration/control/writes"),
        (&LOADS[2], "/push/deliver/writes"),
    ] {
        let units = counted.pointer(pointer).unwrap().as_f64().unwrap();
        assert!(load.writes.1 < units, "{pointer}: {units}");
    }
}

#[tokio::test]
async fn every_queue_has_a_concurrency_that_aws_accepts() {
    let template = Template::main().await;
    let mut queues = 0;
    for (name, mapping) in template.of_type("AWS::Lambda::EventSourceMapping") {
        let concurrency = &mapping["ScalingConfig"]["MaximumConcurrency"];
        if mapping["EventSourceArn"]["Fn::GetAtt"][1] == "StreamArn" {
            // A stream has one invocation per shard. A new table has up to four.
            assert!(concurrency.is_null(), "{name}");
            continue;
        }
        if let Some(fixed) = concurrency.as_u64() {
            assert_eq!(fixed, LOWEST, "{name}");
        } else {
            let parameter = &template.0["Parameters"][target(concurrency)];
            let range = ["MinValue", "MaxValue"].map(|bound| parameter[bound].as_u64());
            assert_eq!(range, [Some(LOWEST), Some(1_000)], "{name}");
        }
        queues += 1;
    }
    assert_eq!(queues, 4);
    assert!(
        queues * LOWEST <= NEW_ACCOUNT,
        "a new account could not run this"
    );
}
