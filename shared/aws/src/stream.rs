//! The stream of the `devices` table, and its records that need a clean-up.
//!
//! <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Streams.html>

use aws_lambda_events::dynamodb::{Event, EventRecord};
use nostr_push_core::{device::DeviceState, message::RetiredDevice};

use crate::dynamodb::devices;

/// The event source of the stream's records.
pub const SOURCE: &str = "aws:dynamodb";

/// The devices whose rows were deleted, by DynamoDB's TTL or by hand, and those whose token the
/// platform has rejected. Rosters and devices without an endpoint need no clean-up.
pub fn retired(event: Event) -> Vec<RetiredDevice> {
    event.records.into_iter().filter_map(retired_in).collect()
}

fn retired_in(record: EventRecord) -> Option<RetiredDevice> {
    let removed = record.event_name == "REMOVE";
    let image = if removed {
        record.change.old_image
    } else {
        record.change.new_image
    };
    let device = devices::in_stream(image)?;
    let registration = device
        .registration
        .filter(|r| r.endpoint_arn.is_some() && (removed || r.state == DeviceState::Gone))?;
    Some(RetiredDevice {
        app: device.id.app,
        token_hash: device.id.token_hash,
        registration,
    })
}

#[cfg(test)]
mod tests {
    use nostr::key::Keys;
    use serde_json::{Value, json};

    use super::*;

    /// A record of the stream in the form that Lambda passes.
    fn record(name: &str, state: &str, arn: Option<&str>) -> Value {
        let owner = format!("demo#{}", Keys::generate().public_key().to_hex());
        let endpoint = arn.map_or(json!({"NULL": true}), |arn| json!({"S": arn}));
        let image = json!({
            "device": {"S": "demo#hash"}, "removals": {"M": {}}, "expires_at": {"N": "9"},
            "version": {"N": "3"},
            "registration": {"M": {
                "owner": {"S": owner}, "platform": {"S": "fcm"}, "state": {"S": state},
                "valid_until": {"N": "5"},
                "order": {"M": {"created_at": {"N": "1"}, "event_id": {"S": "ab".repeat(32)}}},
                "endpoint_arn": endpoint,
            }},
        });
        let which = if name == "REMOVE" {
            "OldImage"
        } else {
            "NewImage"
        };
        json!({
            "eventID": "1", "eventName": name, "eventVersion": "1.1", "eventSource": SOURCE,
            "awsRegion": "us-east-1",
            "dynamodb": {
                "Keys": {"device": {"S": "demo#hash"}}, which: image, "SequenceNumber": "1",
                "SizeBytes": 1, "StreamViewType": "NEW_AND_OLD_IMAGES",
            },
        })
    }

    #[test]
    fn finds_exactly_the_devices_that_leave_an_endpoint() {
        let mut roster = record("REMOVE", "active", None);
        roster["dynamodb"]["OldImage"] =
            json!({"device": {"S": "owner:demo#x"}, "devices": {"L": []}});
        let records = json!({"Records": [
            record("REMOVE", "active", Some("arn:1")),
            record("MODIFY", "gone", Some("arn:2")),
            record("MODIFY", "active", Some("arn:3")),
            record("INSERT", "active", Some("arn:4")),
            record("REMOVE", "removed", None),
            roster,
        ]});
        let found = retired(serde_json::from_value(records).unwrap());
        let arns: Vec<_> = found
            .iter()
            .filter_map(|retired| retired.registration.endpoint_arn.as_deref())
            .collect();
        assert_eq!(arns, ["arn:1", "arn:2"]);
        assert_eq!(
            (found[0].app.as_str(), found[0].token_hash.as_str()),
            ("demo", "hash")
        );
    }
}
