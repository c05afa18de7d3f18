//! Which relays of owners may be watched, and which addresses may be connected to for them.
//!
//! An owner can name any URL. Without these rules the listener would connect to hosts of its own
//! network.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use nostr_push_core::relay_url::RelayUrl;
use url::Host;

/// The URL of a relay, or `None` if the relay may not be watched for an owner. The scheme must be
/// `wss`. If `allow_private` is `true`, `ws` and private addresses are allowed too.
pub fn owners_relay(text: &str, allow_private: bool) -> Option<RelayUrl> {
    let url = RelayUrl::parse(text)?;
    let address = match url.host()? {
        Host::Ipv4(address) => Some(IpAddr::V4(address)),
        Host::Ipv6(address) => Some(IpAddr::V6(address)),
        Host::Domain(_) => None,
    };
    let is_allowed = allow_private || (url.has_tls() && address.is_none_or(is_public));
    is_allowed.then_some(url)
}

/// Returns `true` if an address is globally reachable, that is, in none of IANA's special-purpose
/// ranges. An IPv6 address that embeds an IPv4 address is checked as
/// the embedded one.
pub fn is_public(address: IpAddr) -> bool {
    let address = match address {
        IpAddr::V6(address) => embedded_ipv4(address),
        v4 @ IpAddr::V4(_) => v4,
    };
    !SPECIAL_RANGES
        .iter()
        .filter_map(|range| range.parse::<IpNet>().ok())
        .any(|range| range.contains(&address))
}

/// The IPv4 address that an IPv6 address embeds (IPv4-mapped, NAT64 or 6to4), else the address
/// itself.
fn embedded_ipv4(address: Ipv6Addr) -> IpAddr {
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

/// The ranges that are not globally reachable: those of IANA's Special-Purpose Address Registries
/// (RFC 6890, <https://www.iana.org/assignments/iana-ipv4-special-registry> and
/// <https://www.iana.org/assignments/iana-ipv6-special-registry>, as of 2026), and multicast. The
/// metadata services of clouds are in the link-local and unique-local ranges.
const SPECIAL_RANGES: [&str; 31] = [
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
    fn all_special_ranges_parse() {
        assert!(
            SPECIAL_RANGES
                .iter()
                .all(|range| range.parse::<IpNet>().is_ok())
        );
    }

    #[test]
    fn distinguishes_public_from_private_addresses() {
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
    fn owners_relays_need_tls_and_no_private_address() {
        let allowed = |text, private| owners_relay(text, private).map(String::from);
        assert_eq!(
            allowed("wss://Relay.Example.com:443/", false).as_deref(),
            Some("wss://relay.example.com")
        );
        assert_eq!(
            allowed("ws://127.0.0.1:7777/", true).as_deref(),
            Some("ws://127.0.0.1:7777")
        );
        for bad in [
            "relay.example.com",
            "ws://relay.example.com",
            "wss://127.0.0.1",
            "wss://[::1]:443",
            "wss://0x7f.1",
            "wss://2130706433",
            "wss://169.254.169.254/latest",
        ] {
            assert_eq!(allowed(bad, false), None, "{bad}");
        }
    }
}
