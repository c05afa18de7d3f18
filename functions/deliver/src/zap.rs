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
        let millisats = first_tag_value(receipt, "bolt11").and_then(zap::millisats);
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

#[cfg(test)]
mod tests {
    use nostr::key::Keys;
    use nostr_push_testkit::event;

    use super::*;

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
