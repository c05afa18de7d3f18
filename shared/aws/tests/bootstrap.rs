//! The partial-batch loop in a real process.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says so when something is wrong"
)]

use std::path::PathBuf;

use nostr_push_testkit::runtime_api::Bootstrap;

/// Cargo builds the examples of a package before it runs its tests, beside them.
fn obedient() -> PathBuf {
    let test = std::env::current_exe().expect("this test has a path");
    test.ancestors()
        .nth(2)
        .expect("target/debug/deps/…")
        .join("examples/obedient")
}

#[tokio::test]
async fn a_bad_record_or_a_panic_fails_alone_and_the_process_serves_on() {
    let variables = [
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:9".to_owned()),
        ("AWS_REGION", "us-east-1".to_owned()),
        ("AWS_ACCESS_KEY_ID", "x".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "x".to_owned()),
    ];
    let mut bootstrap = Bootstrap::start(obedient(), variables).await.unwrap();
    for _ in 0..2 {
        let failed = bootstrap
            .batch(&[
                ("good", r#"{"v":1,"m":"be good"}"#.to_owned(), 1),
                ("panicking", r#"{"v":1,"m":"panic"}"#.to_owned(), 1),
                ("malformed", "{".to_owned(), 1),
                ("newer", r#"{"v":2,"m":{"what":"ever"}}"#.to_owned(), 1),
                ("failing", r#"{"v":1,"m":"fail"}"#.to_owned(), 1),
                ("good too", r#"{"v":1,"m":"be good"}"#.to_owned(), 1),
            ])
            .await;
        let mut failed = failed.unwrap();
        failed.sort();
        // The malformed one is dropped: it would fail for ever. The newer one waits for who can
        // read it.
        assert_eq!(failed, ["failing", "newer", "panicking"]);
    }
}
