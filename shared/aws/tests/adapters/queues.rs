//! The queues.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use aws_config::timeout::TimeoutConfig;
use aws_sdk_sqs::{Client, types::Message};
use nostr_push_aws::{
    clients::{self, SdkConfig},
    sqs::Queue,
};
use nostr_push_core::{
    message::{self, FanOutPosition},
    ports::{DelayQueue as _, Inbox as _, Queue as _, Received},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::sleep,
};

async fn create_queue(environment: &HashMap<String, String>, name: &str) -> (SdkConfig, String) {
    let config = clients::at(environment, "AWS_ENDPOINT_URL").await;
    let request = Client::new(&config).create_queue().queue_name(name);
    let url = request.send().await.unwrap().queue_url.unwrap();
    (config, url)
}

async fn receive(config: &SdkConfig, url: &str) -> Vec<FanOutPosition> {
    let request = Client::new(config).receive_message().queue_url(url);
    let request = request
        .max_number_of_messages(10)
        .visibility_timeout(600)
        .wait_time_seconds(1);
    let messages = request.send().await.unwrap().messages.unwrap_or_default();
    let decode = |message: &Message| message::decode(message.body().unwrap()).unwrap();
    messages.iter().map(decode).collect()
}

pub(crate) async fn large_batch_is_sent_whole(environment: &HashMap<String, String>) {
    let (config, url) = create_queue(environment, "large").await;
    let sent: Vec<FanOutPosition> = (0..25)
        .map(|hit| FanOutPosition {
            hit,
            others: 0,
            after: Some("x".repeat(60_000)),
        })
        .collect();
    Queue::new(&config, url.clone()).send(&sent).await.unwrap();
    let mut received = Vec::new();
    while received.len() < sent.len() {
        let messages = receive(&config, &url).await;
        assert!(
            !messages.is_empty(),
            "received {} of {} messages",
            received.len(),
            sent.len()
        );
        received.extend(messages);
    }
    received.sort_by_key(|position| position.hit);
    assert_eq!(received, sent);

    let missing = Queue::<FanOutPosition>::new(&config, url.replace("large", "missing"));
    let error = missing.send(&sent[..1]).await.unwrap_err();
    assert_eq!(error.dependency, "sqs.send_message_batch");
}

pub(crate) async fn delayed_message_arrives_after_delay(environment: &HashMap<String, String>) {
    let (config, url) = create_queue(environment, "delayed").await;
    let queue = Queue::new(&config, url.clone());
    let message = FanOutPosition {
        hit: 1,
        ..FanOutPosition::default()
    };
    let started = Instant::now();
    let delay = Duration::from_secs(3);
    queue.send_after(&message, delay).await.unwrap();
    let received = loop {
        if let Some(received) = receive(&config, &url).await.pop() {
            break received;
        }
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "the message was not received in a minute"
        );
    };
    assert_eq!(received, message);
    assert!(
        started.elapsed() >= Duration::from_secs(2),
        "the message was received without a delay"
    );
}

pub(crate) async fn received_message_is_received_again_until_it_is_deleted(
    environment: &HashMap<String, String>,
) {
    let (config, url) = create_queue(environment, "inbox").await;
    let client = Client::new(&config);
    let visibility = client.set_queue_attributes().queue_url(&url);
    let visibility = visibility.attributes("VisibilityTimeout".into(), "1");
    visibility.send().await.unwrap();
    // A message of a newer version stays in the queue.
    let newer = client
        .send_message()
        .queue_url(&url)
        .message_body(r#"{"v":99,"m":{}}"#);
    newer.send().await.unwrap();
    let queue = Queue::new(&config, url);
    let sent = FanOutPosition {
        hit: 1,
        ..FanOutPosition::default()
    };
    queue.send(std::slice::from_ref(&sent)).await.unwrap();
    let next = async || {
        for _ in 0..60 {
            let received: Vec<Received<FanOutPosition>> = queue.receive().await.unwrap();
            if let Some(received) = received.into_iter().next() {
                return received;
            }
        }
        panic!("the message was not received");
    };
    let first = next().await;
    assert_eq!((first.message, first.receive_count), (sent.clone(), 1));
    let again = next().await;
    assert_eq!((again.message, again.receive_count), (sent, 2));
    queue.delete(&[again.receipt]).await.unwrap();
    let other = FanOutPosition {
        hit: 2,
        ..FanOutPosition::default()
    };
    queue.send(std::slice::from_ref(&other)).await.unwrap();
    assert_eq!(next().await.message, other, "the first one is deleted");
}

/// SQS answers late if there is no message, and the listener's other requests have short timeouts.
pub(crate) async fn receiving_waits_longer_than_other_requests(
    environment: &HashMap<String, String>,
) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let sqs = tokio::spawn(async move {
        let (mut connection, _) = listener.accept().await.unwrap();
        let mut request = [0; 16_384];
        assert!(connection.read(&mut request).await.unwrap() > 0);
        sleep(Duration::from_secs(2)).await;
        let answer = "HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.0\r\n\
            Content-Length: 2\r\nConnection: close\r\n\r\n{}";
        connection.write_all(answer.as_bytes()).await.unwrap();
    });
    let mut environment = environment.clone();
    environment.insert("AWS_ENDPOINT_URL".to_owned(), url.clone());
    let timeouts = TimeoutConfig::builder()
        .operation_attempt_timeout(Duration::from_secs(1))
        .operation_timeout(Duration::from_secs(1))
        .build();
    let config = clients::at(&environment, "AWS_ENDPOINT_URL").await;
    let config = config.into_builder().timeout_config(timeouts).build();
    let queue = Queue::<FanOutPosition>::new(&config, format!("{url}/0/profile"));
    assert_eq!(queue.receive().await.unwrap(), []);
    sqs.await.unwrap();
}
