//! Single rules, each against a simulated relay.
