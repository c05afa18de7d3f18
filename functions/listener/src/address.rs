//! Which relays may be watched for owners, and which addresses may be connected to for them.
//!
//! An owner names any URL. Without this, the listener would be a way into the network that it runs
//! in.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use nostr_push_core::message::MAX_RELAY_URL;
use url::{Host, Url};

/// The URL in its normal form, if it may be watched for an owner: `wss`, and where `private` is
/// allowed `ws` as well.
pub fn normal(text: &str, private: bool) -> Option<String> {
    let mut url = Url::parse(text.trim()).ok()?;
    let scheme = url.scheme() == "wss" || (private && url.scheme() == "ws");
    let plain = url.username().is_empty() && url.password().is_none();
    if !scheme || !plain || text.len() > MAX_RELAY_URL || url.host_str().is_none_or(str::is_empty) {
        return None;
    }
    url.set_fragment(None);
    let address = match url.host()? {
        Host::Ipv4(address) => Some(IpAddr::V4(address)),
        Host::Ipv6(address) => Some(IpAddr::V6(address)),
        Host::Domain(_) => None,
    };
    if !private && address.is_some_and(|address| !is_public(address)) {
        return None;
    }
    let text = url.to_string();
    Some(
        text.strip_suffix('/')
            .filter(|_| url.path() == "/" && url.query().is_none())
            .map_or(text.clone(), str::to_owned),
    )
}

/// Whether an address is reachable from anywhere, by IANA's registries of special-purpose
/// addresses.
pub fn is_public(address: IpAddr) -> bool {
    let address = match address {
        IpAddr::V6(address) => embedded(address),
        v4 @ IpAddr::V4(_) => v4,
    };
    !SPECIAL
        .iter()
        .filter_map(|range| range.parse::<IpNet>().ok())
        .any(|range| range.contains(&address))
}

/// The IPv4 address that an IPv6 address stands for: mapped, or through NAT64 and 6to4 gateways.
fn embedded(address: Ipv6Addr) -> IpAddr {
    let octets = address.octets();
    let v4 = |from: usize| {
        IpAddr::from([
            octets[from],
            octets[from + 1],
            octets[from + 2],
            octets[from + 3],
        ])
    };
    match address.segments() {
        // IPv4-mapped, IPv4-compatible and the well-known prefix of NAT64.
        [0, 0, 0, 0, 0, 0xffff | 0, ..]
            if octets[12..] != [0, 0, 0, 0] && octets[12..] != [0, 0, 0, 1] =>
        {
            v4(12)
        }
        [0x64, 0xff9b, 0, 0, 0, 0, ..] => v4(12),
        [0x2002, ..] => v4(2),
        _ => IpAddr::V6(address),
    }
}

/// What is not globally reachable: the IANA IPv4 and IPv6 Special-Purpose Address Registries (RFC
/// 6890 and its successors, as of 2026), multicast, and the metadata services of clouds, which are
/// link-local or unique-local.
const SPECIAL: [&str; 31] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.31.196.0/24",
    "192.52.193.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "192.175.48.0/24",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "::/128",
    "::1/128",
    "64:ff9b:1::/48",
    "100::/63",
    "2001::/23",
    "2001:db8::/32",
    "2620:4f:8000::/48",
    "3fff::/20",
    "5f00::/16",
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_range_is_one() {
        assert!(SPECIAL.iter().all(|range| range.parse::<IpNet>().is_ok()));
    }

    #[test]
    fn only_public_addresses_are_public() {
        for public in [
            "1.1.1.1",
            "8.8.8.8",
            "172.32.0.1",
            "100.128.0.1",
            "2606:4700::1111",
            "::ffff:1.1.1.1",
            "64:ff9b::1.1.1.1",
        ] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
        for private in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.169.254",
            "169.254.170.2",
            "100.64.0.1",
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.1",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "64:ff9b::10.0.0.1",
            "2002:7f00:1::",
            "fd00:ec2::254",
            "fe80::1",
            "ff02::1",
            "2001:db8::1",
        ] {
            assert!(!is_public(private.parse().unwrap()), "{private}");
        }
    }

    #[test]
    fn urls_have_one_form_and_bad_ones_none() {
        assert_eq!(
            normal("wss://Relay.Example.com:443/", false).as_deref(),
            Some("wss://relay.example.com")
        );
        assert_eq!(
            normal(" wss://relay.example.com/path/#x ", false).as_deref(),
            Some("wss://relay.example.com/path/")
        );
        assert_eq!(
            normal("ws://127.0.0.1:7777/", true).as_deref(),
            Some("ws://127.0.0.1:7777")
        );
        for bad in [
            "",
            "relay.example.com",
            "ws://relay.example.com",
            "https://relay.example.com",
            "wss://user:secret@relay.example.com",
            "wss://127.0.0.1",
            "wss://[::1]:443",
            "wss://0x7f.1",
            "wss://2130706433",
            "wss://169.254.169.254/latest",
            &format!("wss://{}.example", "x".repeat(600)),
        ] {
            assert_eq!(normal(bad, false), None, "{bad}");
        }
    }
}
