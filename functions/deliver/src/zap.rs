//! The contents of a zap receipt: amount, sender and comment.

use nostr::{event::Event, key::PublicKey};
use nostr_push_core::{tags::first_tag_value, zap};

/// A zap, as its receipt describes it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Zap {
    /// The amount of the paid invoice, in thousandths of a satoshi.
    pub millisats: Option<u64>,
    /// The pubkey in the zap request, unless the request is anonymous. It is not verified, so it
    /// serves only to mute.
    pub sender: Option<PublicKey>,
    /// The sender's comment.
    pub comment: String,
}

impl Zap {
    /// Reads a receipt, without checking whether it is genuine. Only the recipient's wallet knows.
    pub fn of(receipt: &Event) -> Self {
        let millisats = first_tag_value(receipt, "bolt11").and_then(millisats);
        let Some(request) = zap::request(receipt) else {
            return Self {
                millisats,
                ..Self::default()
            };
        };
        let anonymous = first_tag_value(&request, "anon").is_some();
        Self {
            millisats,
            sender: (!anonymous).then_some(request.pubkey),
            comment: request.content,
        }
    }

    /// The amount in satoshis, without trailing zeros.
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

/// The amount of a BOLT 11 invoice, which begins with `ln`, the network, digits and a multiplier.
/// The last `1` separates them from the data
/// (<https://github.com/lightning/bolts/blob/master/11-payment-encoding.md#human-readable-part>).
fn millisats(invoice: &str) -> Option<u64> {
    let invoice = invoice.to_ascii_lowercase();
    let (prefix, _) = invoice.strip_prefix("ln")?.rsplit_once('1')?;
    // The longer names come first: `bcrt` begins with `bc`, and `tbs` with `tb`.
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
        // The unit is a tenth of a millisatoshi. The specification requires the last digit to be 0.
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
    fn reads_amounts_of_the_specification() {
        // Most are the human-readable parts of the examples in BOLT 11.
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
    fn sender_signed_the_request_and_not_the_receipt() {
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
