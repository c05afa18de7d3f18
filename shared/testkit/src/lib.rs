//! Dev only: what tests of several crates need.
//!
//! - [`builders`]: events, owners, devices and subscriptions
//! - [`free_port`]: a free port of this machine
//! - [`memory`]: the ports of `nostr_push_core` in memory, with faults on demand
//! - [`random`]: random numbers from a seed
//! - [`runtime_api`]: runs a real `bootstrap` as Lambda does
//!
//! The local AWS endpoint for tests is that of `cargo local`: `nostr_push_local::aws`.

#![expect(clippy::expect_used, reason = "tests fail by panicking")]

pub mod builders;
pub mod memory;
pub mod random;
pub mod runtime_api;

use std::{
    net::TcpListener,
    sync::atomic::{AtomicU32, Ordering},
};

pub use builders::{control_event, dialect_h_event, event, owner, registration, subscription};

/// Returns `preferred` if that port is free, else another free port. With 0, any free port.
///
/// Other ports are below the range that the system uses for outgoing connections. A port of that
/// range could be taken before the caller binds it.
///
/// # Panics
/// If every port is taken.
pub fn free_port(preferred: u16) -> u16 {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    let any = std::iter::repeat_with(|| {
        let n = std::process::id()
            .wrapping_mul(31)
            .wrapping_add(CALLS.fetch_add(1, Ordering::Relaxed));
        20_000 + u16::try_from(n % 12_000).expect("below 12,000")
    });
    let mut ports = Some(preferred)
        .filter(|port| *port != 0)
        .into_iter()
        .chain(any.take(12_000));
    ports
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port")
}
