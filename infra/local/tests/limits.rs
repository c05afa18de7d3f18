//! Limits of AWS's services, against the largest that the code can make: items, messages, names,
//! templates, and the rates of keys.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed test panics"
)]

#[path = "limits/item.rs"]
mod item;
#[path = "limits/items.rs"]
mod items;
#[path = "limits/messages.rs"]
mod messages;
#[path = "limits/names.rs"]
mod names;
#[path = "limits/rates.rs"]
mod rates;
#[expect(dead_code, reason = "these tests use a part of it")]
#[path = "template/transformed.rs"]
mod transformed;
