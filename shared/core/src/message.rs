//! The messages in the queues between the stages. Every message carries a version. A stage leaves a
//! message of a newer version in the queue, for the deployment that knows it.

use nostr::{event::Event, key::PublicKey};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use crate::{
    Millis, Seconds, device::Registration, index_key::IndexKey, owner::Owner, tags::mentioned,
};

/// The largest event that is accepted, in bytes of JSON.
pub const MAX_EVENT_BYTES: usize = 256 * 1024;

/// The most tags an event may have.
pub const MAX_TAGS: usize = 2_000;

/// The longest relay URL, in bytes.
pub const MAX_RELAY_URL_BYTES: usize = 512;

/// The most bytes of an event's content in a [`Delivery`]. No push can carry more: its payload has
/// at most 4,096 bytes.
pub const MAX_DELIVERED_CONTENT: usize = 4_096;

/// The most bytes of an event's tags in a [`Delivery`], as JSON. If the tags are longer, a delivery
/// contains only those that the deliver stage uses.
pub const MAX_DELIVERED_TAGS: usize = 4_096;

/// The version of every message below.
pub const VERSION: u32 = 1;

/// From the listener to control: one control event, as the relay sent it.
#[derive(Debug, Serialize, Deserialize)]
pub struct ControlMessage {
    /// The relay that sent it first.
    pub relay: String,
    /// When the listener received it.
    pub received_at: Millis,
    /// The event. Control parses it, so that every malformed event is refused with a reason.
    pub event: Box<RawValue>,
}

/// To control from a stage that finds an owner without an active device: the owner's filters must
/// follow the owner's devices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReconcileMessage {
    /// The owner.
    pub reconcile: Owner,
}

/// A message in the queue of control.
#[derive(Debug)]
pub enum ControlInput {
    /// See [`ControlMessage`].
    Event(ControlMessage),
    /// See [`ReconcileMessage`].
    Reconcile(ReconcileMessage),
}

impl ControlInput {
    /// Reads a message of either kind.
    ///
    /// # Errors
    /// The body is neither.
    pub fn read(body: &str) -> Result<Self, DecodeError> {
        match decode(body) {
            Ok(event) => Ok(Self::Event(event)),
            Err(DecodeError::Malformed) => decode(body).map(Self::Reconcile),
            Err(newer) => Err(newer),
        }
    }
}

/// From the listener to the matcher: one verified content event that hits the interest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentMessage {
    /// The relay that sent it first.
    pub relay: String,
    /// When the listener received it.
    pub received_at: Millis,
    /// `true` if the relay had stored the event: it is older than the REQ that returned it, and
    /// came before EOSE or on a page of stored events.
    pub backfill: bool,
    /// `true` if only owners named the relay. The event then reaches only subscriptions that name
    /// this relay.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub from_owners_relay: bool,
    /// The event's index keys that are in use. The matcher looks up only these.
    pub hits: Vec<IndexKey>,
    /// Where to continue, if an earlier invocation did part of the fan-out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<FanOutPosition>,
    /// The event.
    pub event: Event,
}

/// A position in an event's fan-out. The default is the beginning.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FanOutPosition {
    /// The hit index key that is being read.
    pub hit: usize,
    /// The last row read under it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// If the key is a mention: the number of rows under it that were read and that do not belong
    /// to the person mentioned.
    #[serde(default)]
    pub others: usize,
}

/// One event for one recipient under one app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// The app.
    pub app: String,
    /// The pubkey of the owner to whom it is delivered.
    pub recipient: PublicKey,
    /// The dimensions by which the event was found, such as `#p` or `author`, of all matching
    /// subscriptions.
    pub reasons: Vec<String>,
    /// The relay that sent it first.
    pub relay: String,
    /// When the listener received it.
    pub received_at: Millis,
    /// `true` if the event's content was cut to [`MAX_DELIVERED_CONTENT`].
    #[serde(default)]
    pub cut: bool,
    /// The number of people that the event mentions, if its tags were cut to
    /// [`MAX_DELIVERED_TAGS`]. `None` if it has all its tags.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mentions: Option<usize>,
    /// Of a zap receipt: who signed the zap ([`zapper`](crate::zap::zapper)). The tags may have
    /// been cut, so it cannot be read from the event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zapper: Option<PublicKey>,
    /// `true` if the delivery has waited because the recipient's app looked open. Its latency then
    /// does not count.
    #[serde(default)]
    pub waited: bool,
    /// The event.
    pub event: Event,
}

impl Delivery {
    /// The number of people that the event mentions.
    pub fn mentions(&self) -> usize {
        self.mentions
            .unwrap_or_else(|| mentioned(&self.event).len())
    }
}

/// From the matcher to deliver, and from deliver to itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryMessage {
    /// One event for one recipient.
    Event(Box<Delivery>),
    /// A summary of the events beyond a minute's limit.
    Summary(Summary),
}

impl DeliveryMessage {
    /// The recipient.
    pub fn owner(&self) -> Owner {
        match self {
            Self::Event(delivery) => Owner {
                app: delivery.app.clone(),
                pubkey: delivery.recipient,
            },
            Self::Summary(summary) => Owner {
                app: summary.app.clone(),
                pubkey: summary.recipient,
            },
        }
    }

    /// The event's id or the summary's minute. It is unique among the messages for one recipient
    /// under one app.
    pub fn id(&self) -> String {
        match self {
            Self::Event(delivery) => delivery.event.id.to_hex(),
            Self::Summary(summary) => summary.id(),
        }
    }

    /// When the listener received the event. For a summary, when its minute ended.
    pub fn received_at(&self) -> Millis {
        match self {
            Self::Event(delivery) => delivery.received_at,
            Self::Summary(summary) => (summary.window + Seconds::from_minutes(1)).to_millis(),
        }
    }

    /// The same message, marked as having waited.
    #[must_use]
    pub fn waited(self) -> Self {
        match self {
            Self::Event(delivery) => Self::Event(Box::new(Delivery {
                waited: true,
                ..*delivery
            })),
            Self::Summary(summary) => Self::Summary(summary),
        }
    }
}

/// A summary of the events that a recipient was not notified of, because their minute had reached
/// its limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// The app.
    pub app: String,
    /// The pubkey of the owner to whom it is delivered.
    pub recipient: PublicKey,
    /// When the minute began.
    pub window: Seconds,
}

impl Summary {
    /// The summary's id, unique among those of this recipient under this app.
    pub fn id(&self) -> String {
        format!("summary:{}", self.window)
    }
}

/// From the stream of `devices` to feedback: a row that has expired, or whose token the platform
/// has rejected, as it was before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetiredDevice {
    /// The app's id.
    pub app: String,
    /// The keyed hash of the token.
    pub token_hash: String,
    /// The registration.
    pub registration: Registration,
}

/// From SNS to feedback: an event of an endpoint. AWS defines the form, which has no version:
/// <https://docs.aws.amazon.com/sns/latest/dg/application-event-notifications.html>.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct EndpointEvent {
    /// `EndpointCreated`, `EndpointUpdated`, `EndpointDeleted` or `DeliveryFailure`.
    pub event_type: String,
    /// The endpoint.
    pub endpoint_arn: String,
    /// The type of a failure.
    #[serde(default)]
    pub failure_type: Option<String>,
    /// The description of a failure.
    #[serde(default)]
    pub failure_message: Option<String>,
}

/// A message in the queue of feedback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FeedbackMessage {
    /// See [`RetiredDevice`].
    Retired(Box<RetiredDevice>),
    /// See [`EndpointEvent`].
    Endpoint(EndpointEvent),
}

impl FeedbackMessage {
    /// Reads a message of either kind.
    ///
    /// # Errors
    /// The body is neither.
    pub fn read(body: &str) -> Result<Self, DecodeError> {
        match decode(body) {
            Ok(retired) => Ok(Self::Retired(Box::new(retired))),
            Err(DecodeError::Malformed) => serde_json::from_str(body)
                .map(Self::Endpoint)
                .map_err(|_| DecodeError::Malformed),
            Err(newer) => Err(newer),
        }
    }
}

/// Why a queue message cannot be decoded.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// A newer deployment wrote the message: leave it for that deployment.
    #[error("message version {0} is not known here")]
    Version(u32),
    /// The message is malformed and always will be.
    #[error("malformed message")]
    Malformed,
}

/// Encodes a message with its version.
///
/// # Errors
/// Those of `serde_json`: none for the messages above.
pub fn encode<T: Serialize>(message: &T) -> Result<String, serde_json::Error> {
    #[derive(Serialize)]
    struct Versioned<'a, T> {
        v: u32,
        m: &'a T,
    }
    let body = serde_json::to_string(&Versioned {
        v: VERSION,
        m: message,
    })?;
    // SQS refuses U+FFFE and U+FFFF, and would refuse the batch at every attempt. In JSON they
    // occur only in strings, where they can be escaped. See
    // https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html
    Ok(if body.contains(['\u{fffe}', '\u{ffff}']) {
        body.replace('\u{fffe}', "\\ufffe")
            .replace('\u{ffff}', "\\uffff")
    } else {
        body
    })
}

/// Decodes a message that [`encode`] wrote.
///
/// # Errors
/// [`DecodeError`].
pub fn decode<T: DeserializeOwned>(body: &str) -> Result<T, DecodeError> {
    #[derive(Deserialize)]
    struct Versioned<'a> {
        v: u32,
        #[serde(borrow)]
        m: &'a RawValue,
    }
    let versioned: Versioned<'_> =
        serde_json::from_str(body).map_err(|_| DecodeError::Malformed)?;
    if versioned.v != VERSION {
        return Err(DecodeError::Version(versioned.v));
    }
    serde_json::from_str(versioned.m.get()).map_err(|_| DecodeError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_characters_that_sqs_refuses() {
        let position = FanOutPosition {
            hit: 0,
            others: 0,
            after: Some("a\u{fffe}b\u{ffff}\u{0}".to_owned()),
        };
        let body = encode(&position).unwrap();
        assert!(
            body.chars()
                .all(|c| c >= ' ' && !matches!(c, '\u{fffe}' | '\u{ffff}')),
            "{body}"
        );
        assert_eq!(decode::<FanOutPosition>(&body).unwrap(), position);
    }

    #[test]
    fn distinguishes_a_newer_version_from_garbage() {
        let position = FanOutPosition {
            hit: 2,
            after: Some("x".to_owned()),
            others: 3,
        };
        assert_eq!(
            decode::<FanOutPosition>(&encode(&position).unwrap()).unwrap(),
            position
        );
        assert!(matches!(
            decode::<FanOutPosition>(r#"{"v":2,"m":{"other":1}}"#),
            Err(DecodeError::Version(2))
        ));
        for bad in ["", "{", r#"{"v":1,"m":{}}"#, r#"{"m":{"hit":1}}"#, "\u{0}"] {
            assert!(
                matches!(decode::<FanOutPosition>(bad), Err(DecodeError::Malformed)),
                "{bad}"
            );
        }
    }
}
