//! The shape `verse`: the fields of verse-pbc's push service
//! (<https://github.com/verse-pbc/nostr_push_service>) beside those of this service, so that an app
//! that moves to this service needs no new version.

use nostr::{key::PublicKey, nips::nip19::ToBech32};
use nostr_push_core::tags::first_tag_value;
use serde_json::{Value, json};

use crate::{
    native,
    notice::{Notice, Subject},
    payload::{Content, Truncation},
    text,
};

/// The content of a notice. FCM adds `title` and `body` in every shape.
pub fn content(notice: &Notice<'_>, truncation: Truncation) -> Content {
    let mut content = native::content(notice, truncation);
    let mut add = |name: &str, value: Value| {
        content.fields.insert(name.to_owned(), value);
    };
    let receiver = match notice.subject {
        Subject::Event(delivery) => delivery.recipient,
        Subject::Summary { summary, .. } => summary.recipient,
    };
    add("receiverPubkey", json!(receiver));
    add("receiverNpub", json!(npub(&receiver)));
    if let Some(delivery) = notice.delivery() {
        let event = &delivery.event;
        add("nostrEventId", json!(event.id));
        add("senderPubkey", json!(event.pubkey));
        add(
            "senderName",
            json!(text::name(&notice.names, &event.pubkey)),
        );
        add("eventKind", json!(event.kind.as_u16()));
        add("timestamp", json!(event.created_at));
        let group = first_tag_value(event, "h").filter(|group| group.len() <= 64);
        if let Some(group) = group {
            add("groupId", json!(group.replace(char::is_control, "")));
        }
    }
    content
}

fn npub(pubkey: &PublicKey) -> String {
    // Encoding 32 bytes never fails.
    pubkey.to_bech32().unwrap_or_default()
}
