//! What a zap receipt (NIP-57, kind 9735) says: how much, from whom, and with which words.

use nostr::{event::Event, key::PublicKey};

/// The kind of zap receipts.
pub const RECEIPT: u16 = 9735;

/// A zap, as far as its receipt tells.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Zap {
    /// The amount of the paid invoice, in thousandths of a satoshi.
    pub millisats: Option<u64>,
    /// Who zapped: the signer of the zap request, unless it says that it is anonymous.
    pub sender: Option<PublicKey>,
    /// The zapper's own words.
    pub comment: String,
}

impl Zap {
    /// Reads a receipt. Nobody is asked whether it is genuine: the recipient's wallet knows, we
    /// cannot.
    pub fn of(receipt: &Event) -> Self {
        let tag = |name: &str| {
            let mut named = receipt
                .tags
                .iter()
                .map(nostr::event::Tag::as_slice)
                .filter(|tag| tag[0] == name);
            named.next().and_then(|tag| tag.get(1)).map(String::as_str)
        };
        let millisats = tag("bolt11").and_then(millisats);
        // The zap request, a signed event of kind 9734.
        let Some(request) =
            tag("description").and_then(|json| serde_json::from_str::<Event>(json).ok())
        else {
            return Self {
                millisats,
                ..Self::default()
            };
        };
        let anonymous = request.tags.iter().any(|tag| tag.as_slice()[0] == "anon");
        Self {
            millisats,
            sender: (!anonymous).then_some(request.pubkey),
            comment: request.content,
        }
    }

    /// The amount in satoshis, with as many decimals as it needs.
    pub fn sats(&self) -> Option<String> {
        let millisats = self.millisats?;
        let (sats, rest) = (millisats / 1_000, millisats % 1_000);
        Some(if rest == 0 {
            sats.to_string()
        } else {
            format!("{sats}.{rest:03}").trim_end_matches('0').to_owned()
        })
    }
}

/// The amount of a bolt11 invoice: `ln`, the network, digits and a multiplier, then the bech32
/// separator, which is the last `1`.
///
/// <https://github.com/lightning/bolts/blob/master/11-payment-encoding.md#human-readable-part>
fn millisats(invoice: &str) -> Option<u64> {
    let invoice = invoice.to_ascii_lowercase();
    let (prefix, _) = invoice.strip_prefix("ln")?.rsplit_once('1')?;
    // The longer names first: `bc` begins `bcrt`, and `tb` begins `tbs`.
    let amount = ["bcrt", "tbs", "bc", "tb"]
        .iter()
        .find_map(|network| prefix.strip_prefix(network))?;
    let digits = amount.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().ok()?;
    match &amount[digits.len()..] {
        "" => number.checked_mul(100_000_000_000),
        "m" => number.checked_mul(100_000_000),
        "u" => number.checked_mul(100_000),
        "n" => number.checked_mul(100),
        // A tenth of a thousandth: there is nothing smaller than the thousandth.
        "p" => Some(number / 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use nostr::key::Keys;
    use nostr_push_testkit::event;

    use super::*;

    #[test]
    fn the_amounts_of_the_specification_are_read() {
        // The human-readable parts of BOLT 11's own examples.
        for (invoice, amount) in [
            ("lnbc2500u1pvjluezsp5zyg3zyg3", Some(250_000_000)),
            ("lnbc20m1pvjluezsp5zyg3zyg3zyg", Some(2_000_000_000)),
            ("LNBC25M1PVJLUEZPP5QQQSYQCYQ5", Some(2_500_000_000)),
            ("lnbc9678785340p1pwmna7lpp5gc3xf", Some(967_878_534)),
            ("lntb20m1pvjluezsp5zyg3zyg3zyg3", Some(2_000_000_000)),
            ("lnbcrt1m1pvjluez", Some(100_000_000)),
            ("lnbc210n1pabc", Some(21_000)),
            ("lnbc1pvjluezsp5zyg3zyg3zyg3zyg", None),
            ("lnbc99999999999999999991p", None),
            ("lnbc18446744073709551m1p", None),
            ("lnbc2x1p", None),
            ("lnbc", None),
            ("", None),
        ] {
            assert_eq!(millisats(invoice), amount, "{invoice}");
        }
    }

    #[test]
    fn the_zapper_is_the_requests_and_not_the_receipts() {
        let (wallet, alice) = (Keys::generate(), Keys::generate());
        let request = event(&alice, 9734, 1, &[], "well said");
        let receipt = |request: &str| {
            event(
                &wallet,
                9735,
                1,
                &[&["bolt11", "lnbc15n1p"], &["description", request]],
                "",
            )
        };
        let zap = Zap::of(&receipt(&serde_json::to_string(&request).unwrap()));
        assert_eq!(
            zap,
            Zap {
                millisats: Some(1_500),
                sender: Some(alice.public_key()),
                comment: "well said".to_owned()
            }
        );
        assert_eq!(zap.sats().as_deref(), Some("1.5"));
        let anonymous = event(&alice, 9734, 1, &[&["anon"]], "");
        assert_eq!(
            Zap::of(&receipt(&serde_json::to_string(&anonymous).unwrap())).sender,
            None
        );
        assert_eq!(
            Zap::of(&receipt("no JSON")),
            Zap {
                millisats: Some(1_500),
                ..Zap::default()
            }
        );
    }
}
