//! The partial-batch loop in a real process.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed test panics"
)]

use std::path::PathBuf;

use nostr_push_testkit::runtime_api::Bootstrap;

/// The example `scripted`. Before cargo runs the tests of a package, it builds the examples into a
/// folder beside them.
fn scripted() -> PathBuf {
    let test = std::env::current_exe().expect("the test has a path");
    test.ancestors()
        .nth(2)
        .expect("target/debug/deps/…")
        .join("examples/scripted")
}

#[tokio::test]
async fn each_record_fails_alone_and_the_process_goes_on() {
    let variables = [
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:9".to_owned()),
        ("AWS_REGION", "us-east-1".to_owned()),
        ("AWS_ACCESS_KEY_ID", "x".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "x".to_owned()),
    ];
    let mut bootstrap = Bootstrap::start(scripted(), variables).await.unwrap();
    for _ in 0..2 {
        let failed = bootstrap
            .batch(&[
                ("good", r#"{"v":1,"m":"succeed"}"#.to_owned(), 1),
                ("panicking", r#"{"v":1,"m":"panic"}"#.to_owned(), 1),
                ("malformed", "{".to_owned(), 1),
                ("newer", r#"{"v":2,"m":{"unknown":true}}"#.to_owned(), 1),
                ("failing", r#"{"v":1,"m":"fail"}"#.to_owned(), 1),
                ("good too", r#"{"v":1,"m":"succeed"}"#.to_owned(), 1),
            ])
            .await;
        let mut failed = failed.unwrap();
        failed.sort();
        // The malformed record is dropped, because it would fail at every attempt. The newer one
        // waits for a deployment that knows its version.
        assert_eq!(failed, ["failing", "newer", "panicking"]);
    }
}
