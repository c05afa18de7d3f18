//! Zap receipts (NIP-57, <https://github.com/nostr-protocol/nips/blob/master/57.md>).

use nostr::{event::Event, key::PublicKey};

use crate::tags::{first_tag_value, mentioned};

/// The kind of zap receipts.
pub const RECEIPT_KIND: u16 = 9735;

/// The kind of zap requests.
const REQUEST_KIND: u16 = 9734;

/// The zap request in a receipt, as its `description` contains it. Anybody can have written it.
pub fn request(receipt: &Event) -> Option<Event> {
    let description = first_tag_value(receipt, "description")?;
    serde_json::from_str(description).ok()
}

/// The person who signed the zap request of a receipt. `None` if the event is no receipt, the
/// request is anonymous, it is for somebody else than the receipt, or its signature is wrong.
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
    let is_genuine = request.kind.as_u16() == REQUEST_KIND
        && first_tag_value(&request, "anon").is_none()
        && is_for_same_person
        && request.verify().is_ok();
    is_genuine.then_some(request.pubkey)
}

#[cfg(test)]
mod tests {
    use nostr::key::Keys;
    use nostr_push_testkit::event;

    use super::*;

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
