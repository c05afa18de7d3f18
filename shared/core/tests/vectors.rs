//! The filters in `docs/vectors/filters.json`, with which others compare their canonical forms.
//! `UPDATE_VECTORS=1` writes the file anew.
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use std::{env, fs, path::PathBuf};

use nostr_push_core::filter::Filter;
use serde_json::{Value, json};

fn file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/vectors/filters.json")
}

fn filters() -> Vec<Value> {
    let [a, b] = ["0a", "1b"].map(|byte| byte.repeat(32));
    vec![
        json!({"kinds": [7, 1, 1], "#p": [b, a, a]}),
        json!({"#p": [a, b], "kinds": [1, 7]}),
        json!({"kinds": [1], "#p": [a], "since": 5, "until": 9, "limit": 3, "search": "x"}),
        json!({"authors": [b, a], "kinds": [1]}),
        json!({"authors": [a], "#p": [a, b], "#e": [a, b]}),
        json!({"authors": [a], "kinds": [10_000]}),
        json!({"ids": [a]}),
        json!({"ids": [a, b], "authors": [a], "#p": [a]}),
        json!({"#t": ["nostr", "Nostr"], "#e": [a]}),
        json!({"#P": [a], "#p": [a, b]}),
        json!({"#h": ["group"], "kinds": [9, 11]}),
        json!({"#h": [""], "kinds": [0, 65_535, 9, 10]}),
        json!({"#r": ["https://example.com/ä\"\n"]}),
        json!({"kinds": [1]}),
        json!({}),
        json!({"#t": ["x".repeat(512)]}),
        json!({"kinds": []}),
        json!({"kinds": null}),
        json!({"kinds": [-1]}),
        json!({"kinds": [1, 1.5]}),
        json!({"kinds": [65_536]}),
        json!({"kinds": ["1"]}),
        json!({"ids": ["0A".repeat(32)]}),
        json!({"authors": ["abc"]}),
        json!({"#p": ["npub1"]}),
        json!({"#t": ["x".repeat(513)]}),
        json!({"#t": [1]}),
        json!({"#t": []}),
        json!({"#tt": ["x"]}),
        json!([]),
        json!("filter"),
    ]
}

fn vector(filter: &Value) -> Value {
    match Filter::from_json(filter) {
        Err(_) => json!({"filter": filter, "refused": true}),
        Ok(read) => json!({
            "filter": filter,
            "canonical": read.to_json(),
            "identity": read.identity(),
            "index_keys": read.index_keys().iter().map(ToString::to_string).collect::<Vec<_>>(),
        }),
    }
}

#[test]
fn filters_have_the_forms_of_the_vectors() {
    let vectors: Vec<Value> = filters().iter().map(vector).collect();
    if env::var_os("UPDATE_VECTORS").is_some() {
        let json = serde_json::to_string_pretty(&json!({"vectors": vectors})).unwrap();
        fs::write(file(), json + "\n").unwrap();
    }
    let stored: Value = serde_json::from_str(&fs::read_to_string(file()).unwrap()).unwrap();
    let stored = stored["vectors"].as_array().unwrap();
    assert_eq!(*stored, vectors);
    assert_eq!(
        stored[0]["identity"], stored[1]["identity"],
        "the order makes no difference"
    );
}
