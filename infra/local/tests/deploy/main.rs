//! `infra/deploy`, `infra/release` and `infra/image/build`: their decisions with fake tools in
//! `PATH`, and a release folder on the local AWS endpoint.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed test panics"
)]

mod fakes;
mod github;
mod image;
mod lint;
mod release;
mod script;
mod statuses;
