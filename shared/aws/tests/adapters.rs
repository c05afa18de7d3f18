//! Each table, queue and SNS adapter against the local AWS endpoint.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed test panics"
)]

#[path = "adapters/devices.rs"]
mod devices;
#[path = "adapters/filter_index.rs"]
mod filter_index;
#[path = "adapters/profiles.rs"]
mod profiles;
#[path = "adapters/queues.rs"]
mod queues;
#[path = "adapters/sns.rs"]
mod sns;
#[path = "adapters/subscriptions.rs"]
mod subscriptions;
#[path = "adapters/tables.rs"]
mod tables;

use std::collections::HashMap;

use nostr::{event::EventId, key::Keys};
use nostr_push_aws::{clients, dynamodb::Store, secrets};
use nostr_push_core::{Seconds, order::Order, owner::Owner, subscription::Subscription};
use nostr_push_local::{
    aws::{self, Aws, LocalPorts, STACK},
    tools::Tools,
};
use serde_json::Value;

/// All adapters share one endpoint, because it takes a second to start and must be stopped at the
/// end.
#[tokio::test(flavor = "multi_thread")]
async fn adapters_keep_their_guarantees() {
    let tools = Tools::install().await.unwrap();
    let data = tempfile::tempdir().unwrap();
    let aws = Aws::start(&tools, data.path(), LocalPorts::ANY)
        .await
        .unwrap();
    let environment = aws.environment();
    aws::create_tables(&tools, &environment).await.unwrap();
    let config = clients::at(&environment, "AWS_ENDPOINT_URL").await;
    let store = Store::new(&config, STACK);

    tables::app_is_read_as_written(&store).await;
    tables::pubkey_is_blocked_until_it_is_released(&store).await;
    tables::budget_is_never_exceeded(&store).await;
    tables::spending_is_read_since_a_time(&store).await;
    tables::usage_is_read_as_recorded(&store).await;
    devices::both_rows_are_written_or_neither(&store).await;
    subscriptions::newest_row_wins(&store).await;
    subscriptions::many_rows_are_read_and_follow_the_feed(&store).await;
    subscriptions::writes_are_stamped_at_the_write(&store).await;
    subscriptions::feed_has_pages(&store).await;
    filter_index::rows_are_read_in_pages(&store).await;
    filter_index::older_event_changes_nothing(&store).await;
    filter_index::filter_that_is_in_force_again_keeps_its_rows(&store).await;
    filter_index::large_filter_is_left_out(&store).await;
    filter_index::relays_are_kept(&store).await;
    tables::newest_presence_wins(&store).await;
    tables::newest_settings_win(&store).await;
    tables::newest_mute_list_wins(&store).await;
    profiles::newest_event_wins(&environment).await;
    profiles::request_and_event_keep_what_the_other_wrote(&environment).await;
    profiles::reads_are_cached_until_the_profile_is_requested(&environment).await;
    profiles::request_is_claimed_once(&environment).await;
    profiles::unprocessed_keys_are_read_again(&environment).await;
    tables::rate_limit_holds_under_concurrency(&store).await;
    tables::cursors_only_grow(&store).await;
    tables::members_join_expire_and_leave(&store).await;
    tables::claim_has_one_holder(&store).await;
    tables::one_of_many_concurrent_holders_wins(&store).await;
    queues::large_batch_is_sent_whole(&environment).await;
    queues::delayed_message_arrives_after_delay(&environment).await;
    queues::received_message_is_received_again_until_it_is_deleted(&environment).await;
    Box::pin(queues::receiving_waits_longer_than_other_requests(
        &environment,
    ))
    .await;
    sns::endpoints_are_created_enabled_and_deleted(&environment).await;
    sns::publish_without_an_answer_is_retried().await;
    bad_service_key_stays_secret(&environment).await;
    aws.stop().await;
}

/// An owner whom no other test uses.
fn new_owner() -> Owner {
    nostr_push_testkit::owner(Keys::generate().public_key())
}

fn order(created_at: u64, id: u8) -> Order {
    Order {
        created_at: Seconds(created_at),
        event_id: EventId::from_byte_array([id; 32]),
    }
}

fn subscription(owner: &Owner, filter: &Value, order: Order) -> Subscription {
    Subscription {
        order,
        changed_at: order.created_at.to_millis(),
        ..nostr_push_testkit::subscription(owner, filter)
    }
}

async fn bad_service_key_stays_secret(environment: &HashMap<String, String>) {
    let config = clients::at(environment, "AWS_ENDPOINT_URL").await;
    let client = aws_sdk_secretsmanager::Client::new(&config);
    let create = async |name: &str, value: String| {
        let request = client.create_secret().name(name).secret_string(value);
        request.send().await.unwrap();
    };
    create("no-key", "hunter2".to_owned()).await;
    let result = secrets::service_keys(&config, "no-key", None).await;
    let error = result.unwrap_err().to_string();
    assert!(
        !error.contains("hunter2") && error.contains("neither 64 hex"),
        "{error}"
    );
    let keys = Keys::generate();
    create("key", keys.secret_key().to_secret_hex()).await;
    let first = secrets::service_keys(&config, "key", None).await.unwrap();
    assert_eq!(first.keys.current(), &keys);
    let rotated = first.keys.rotated(Keys::generate(), Some(Seconds(9)));
    let put = client.put_secret_value().secret_id("key");
    let put = put.secret_string(rotated.to_secret_text());
    let version = put.send().await.unwrap().version_id.unwrap();
    // A program reads the version that it was deployed with.
    for (asked, version, current) in [
        (Some(&first.version), &first.version, &keys),
        (Some(&version), &version, rotated.current()),
        (None, &version, rotated.current()),
    ] {
        let asked = asked.map(String::as_str);
        let read = secrets::service_keys(&config, "key", asked).await.unwrap();
        assert_eq!((read.keys.current(), &read.version), (current, version));
    }
}
