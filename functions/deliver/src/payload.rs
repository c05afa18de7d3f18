//! A payload in the shape that a device asks for, and the limit on its size.

use nostr::event::Event;
use nostr_push_core::{
    Seconds,
    app::Platform,
    device::{Device, Registration},
    ports::Push,
    shape::Shape,
};
use serde_json::{Map, Value, json};
use strum::VariantArray;

use crate::{
    apns, embedded_distributor,
    encrypted::{self, Cipher},
    fcm, native,
    notice::Notice,
    text::Text,
    verse, wake,
};

/// The largest payload of APNs and FCM, in bytes
/// (<https://developer.apple.com/documentation/usernotifications/generating-a-remote-notification>,
/// <https://firebase.google.com/docs/cloud-messaging/concept-options>).
pub const MAX_PAYLOAD_BYTES: usize = 4_096;

/// The longest time for which a platform keeps a push for a phone that is off.
pub const MAX_TIME_TO_LIVE: Seconds = Seconds::from_days(1);

/// How much of the notice a payload contains, from all to the least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, VariantArray)]
pub enum Truncation {
    /// Everything.
    Whole,
    /// The event with an empty `content`.
    NoContent,
    /// The event with an empty `content` and no tags.
    NoTags,
    /// No event. The routing fields remain.
    NoEvent,
    /// No picture either.
    NoPicture,
    /// Only the ids, and the beginning of title and body.
    Short,
}

impl Truncation {
    /// What is left of the event.
    pub fn apply(self, event: &Event) -> Option<Value> {
        let mut json = json!(event);
        match self {
            Self::Whole => {}
            Self::NoContent => json["content"] = json!(""),
            Self::NoTags => {
                json["content"] = json!("");
                json["tags"] = json!([]);
            }
            Self::NoEvent | Self::NoPicture | Self::Short => return None,
        }
        Some(json)
    }
}

/// The parts of a message that every platform has.
#[derive(Debug, Clone)]
pub struct Content {
    /// What the banner shows.
    pub text: Text,
    /// What the app reads.
    pub fields: Map<String, Value>,
    /// The thread by which a phone groups notifications.
    pub thread: Option<String>,
    /// A push with the same id replaces the notification on the phone. At most 64 bytes.
    pub collapse_id: String,
    /// How long a platform keeps the push for a phone that is off.
    pub time_to_live: Seconds,
}

/// The payload for one device, as large as fits, and the content from which it was made.
#[derive(Debug)]
pub struct Payload {
    /// The payload of APNs, or the `message` of FCM.
    pub json: Value,
    /// The content.
    pub content: Content,
    /// How much of the notice it contains.
    pub truncation: Truncation,
}

impl Payload {
    /// Builds the payload for a device.
    pub fn of(notice: &Notice<'_>, device: &Device, registration: &Registration) -> Self {
        let (platform, options) = (registration.platform, &registration.payload);
        let shape = options.shape(notice.app, platform, registration.by_settings);
        let cipher = options.encrypt_to.map(Cipher::new);
        let build = |truncation| {
            let content = match (shape, &cipher) {
                (Shape::Wake, _) => wake::content(),
                (_, Some(cipher)) => encrypted::content(notice, device, cipher, truncation),
                (Shape::Verse, None) => verse::content(notice, truncation),
                (Shape::Native | Shape::EmbeddedDistributor, None) => {
                    native::content(notice, truncation)
                }
            };
            let json = match (platform, shape) {
                (Platform::Apns | Platform::ApnsSandbox, _) => {
                    apns::payload(&content, notice.app.localized)
                }
                (Platform::Fcm, Shape::EmbeddedDistributor) => {
                    // An encrypted push does not reveal what it is about.
                    let is_call_offer = cipher.is_none() && notice.is_call_offer();
                    embedded_distributor::message(&content, is_call_offer)
                }
                (Platform::Fcm, _) => {
                    fcm::message(&content, options.os, notice.app.localized, notice.now)
                }
            };
            Self {
                json,
                content,
                truncation,
            }
        };
        let first = notice.first_truncation();
        let mut payload = build(first);
        for truncation in Truncation::VARIANTS.iter().filter(|step| **step > first) {
            if payload.bytes() <= MAX_PAYLOAD_BYTES {
                break;
            }
            payload = build(*truncation);
        }
        payload
    }

    /// The size of the payload.
    pub fn bytes(&self) -> usize {
        self.json.to_string().len()
    }

    /// The payload in the form of SNS.
    pub fn into_push(self, platform: Platform) -> Push {
        match platform {
            Platform::Apns | Platform::ApnsSandbox => apns::push(platform, &self),
            Platform::Fcm => fcm::push(&self),
        }
    }
}
