//! Zap receipts (NIP-57, <https://github.com/nostr-protocol/nips/blob/master/57.md>).

use nostr::{event::Event, key::PublicKey};

use crate::{
    Seconds,
    tags::{first_tag_value, mentioned},
};

/// The kind of zap receipts.
pub const RECEIPT_KIND: u16 = 9735;

/// The kind of zap requests.
const REQUEST_KIND: u16 = 9734;

/// The longest time between a zap request and its receipt. Invoices expire after an hour unless
/// they say otherwise
/// (<https://github.com/lightning/bolts/blob/master/11-payment-encoding.md#tagged-fields>).
const MAX_PAYMENT_TIME: Seconds = Seconds::from_hours(1);

/// The zap request in a receipt, as its `description` contains it. Anybody can have written it.
pub fn request(receipt: &Event) -> Option<Event> {
    let description = first_tag_value(receipt, "description")?;
    serde_json::from_str(description).ok()
}

/// The amount of a BOLT 11 invoice in thousandths of a satoshi. The invoice begins with `ln`, the
/// network, digits and a multiplier.
/// The last `1` separates them from the data
/// (<https://github.com/lightning/bolts/blob/master/11-payment-encoding.md#human-readable-part>).
pub fn millisats(invoice: &str) -> Option<u64> {
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

/// The person who signed the zap request of a receipt. `None` if the event is not a receipt, the
/// request is anonymous or has a wrong signature, or it does not fit the receipt: it is for
/// somebody else, names another amount, or is more than an hour older or newer.
///
/// Without these checks, anybody could publish a receipt in the name of anybody.
pub fn zapper(receipt: &Event) -> Option<PublicKey> {
    if receipt.kind.as_u16() != RECEIPT_KIND {
        return None;
    }
    let request = request(receipt)?;
    // With a second `p` tag, a copy of the request could be shown to another person.
    let recipients = mentioned(&request);
    let is_for_same_person = recipients.len() == 1 && recipients == mentioned(receipt);
    let invoiced = first_tag_value(receipt, "bolt11").and_then(millisats);
    let is_of_same_amount = first_tag_value(&request, "amount")
        .is_none_or(|amount| invoiced.is_some_and(|invoiced| amount.parse() == Ok(invoiced)));
    let [requested_at, paid_at] = [&request, receipt].map(|event| event.created_at.as_secs());
    let is_genuine = request.kind.as_u16() == REQUEST_KIND
        && first_tag_value(&request, "anon").is_none()
        && is_for_same_person
        && is_of_same_amount
        && requested_at.abs_diff(paid_at) <= MAX_PAYMENT_TIME.0
        && request.verify().is_ok();
    is_genuine.then_some(request.pubkey)
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
    fn request_fits_the_receipt() {
        let (wallet, alice) = (Keys::generate(), Keys::generate());
        let (bob, hour) = ("11".repeat(32), MAX_PAYMENT_TIME.0);
        let zapper_of = |requested: &[&str], invoice: &str, paid_at: u64| {
            let tags = [&["p", &bob], requested];
            let request = event(&alice, 9734, 2 * hour, &tags, "");
            let request = serde_json::to_string(&request).unwrap();
            let tags: [&[&str]; 3] = [
                &["p", &bob],
                &["description", &request],
                &["bolt11", invoice],
            ];
            zapper(&event(&wallet, 9735, paid_at, &tags, ""))
        };
        let (amount, invoice) = (["amount", "21000"], "lnbc210n1pabc");
        for (requested, invoice, paid_at, is_named) in [
            (&amount[..], invoice, 2 * hour, true),
            (&amount[..], "lnbc210u1pabc", 2 * hour, false),
            (&amount[..], "lnbc1pabc", 2 * hour, false),
            (&["amount", "x"][..], invoice, 2 * hour, false),
            (&["amount", "x"][..], "lnbc1pabc", 2 * hour, false),
            (&["relays"][..], invoice, 2 * hour, true),
            (&amount[..], invoice, 3 * hour, true),
            (&amount[..], invoice, 3 * hour + 1, false),
            (&amount[..], invoice, hour, true),
            (&amount[..], invoice, hour - 1, false),
        ] {
            let zapper = zapper_of(requested, invoice, paid_at);
            let expected = is_named.then(|| alice.public_key());
            assert_eq!(zapper, expected, "{requested:?} {invoice} {paid_at}");
        }
    }

    #[test]
    fn zapper_signed_a_request_for_the_same_person() {
        let (wallet, alice) = (Keys::generate(), Keys::generate());
        let (bob, carol) = ("11".repeat(32), "22".repeat(32));
        let receipt = |kind, request: &Event| {
            let request = serde_json::to_string(request).unwrap();
            let tags: [&[&str]; 2] = [&["p", &bob], &["description", &request]];
            event(&wallet, kind, 1, &tags, "")
        };
        let request = |kind, tags: &[&[&str]]| event(&alice, kind, 1, tags, "well said");
        let genuine = request(9734, &[&["p", &bob]]);
        assert_eq!(zapper(&receipt(9735, &genuine)), Some(alice.public_key()));
        let mut forged = genuine.clone();
        forged.pubkey = Keys::generate().public_key();
        let mut changed = genuine.clone();
        changed.content = "another text".to_owned();
        for (kind, request) in [
            (1, &genuine),
            (9735, &forged),
            (9735, &changed),
            (9735, &request(1, &[&["p", &bob]])),
            (9735, &request(9734, &[&["p", &carol]])),
            (9735, &request(9734, &[])),
            (9735, &request(9734, &[&["p", &bob], &["p", &carol]])),
            (9735, &request(9734, &[&["p", &bob], &["anon"]])),
        ] {
            assert_eq!(zapper(&receipt(kind, request)), None, "{kind} {request:?}");
        }
        assert_eq!(
            zapper(&event(&wallet, 9735, 1, &[&["description", "{"]], "")),
            None
        );
        let request = serde_json::to_string(&genuine).unwrap();
        let tags: [&[&str]; 3] = [&["p", &bob], &["p", &carol], &["description", &request]];
        let for_two = event(&wallet, 9735, 1, &tags, "");
        assert_eq!(zapper(&for_two), None, "carol would see a zap to bob");
    }
}
