//! The oracle: which pushes must come, which may, and which must not.
//!
//! It knows what clients and authors did, and when their events were accepted. It reads no table of
//! the service and uses no code of the service: it follows the rules of the protocol.
//!
//! An action is *settled* once control has accepted its event, all copies of it have arrived, and
//! the control queue holds nothing about its author. While an action is not settled, the oracle
//! does not know which state is in force, so pushes that depend on it may come or not. The same
//! holds for everything that changes between the publication of an event and the time when no queue
//! holds the event any more.
//!
//! - [`record`]: what happened
//! - [`status`]: whether a device, a filter or a mute list was in force during a time
//! - [`check`]: the verdict on a run

pub mod check;
pub mod record;
pub mod status;

pub use record::{Action, Content, Oracle, What};
