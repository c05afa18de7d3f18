//! What stands in the queues between the stages. Every message says its version: a stage that meets
//! a newer one than it knows leaves it in the queue for the deployment that does.

use nostr::{event::Event, key::PublicKey};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use crate::{Millis, Seconds, device::Registration, index_key::IndexKey, owner::Owner};

/// The largest event that is taken, in bytes of JSON.
pub const MAX_EVENT: usize = 256 * 1024;

/// The most tags an event may have.
pub const MAX_TAGS: usize = 2_000;

/// The longest relay URL, in bytes.
pub const MAX_RELAY_URL: usize = 512;

/// Content longer than this is cut in a [`Delivery`], in bytes: no push can carry it (4,096 bytes
/// in all).
pub const MAX_DELIVERED_CONTENT: usize = 4_096;

/// The version of every message below.
pub const VERSION: u32 = 1;

/// Listener to control: one control event, as the relay sent it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Control {
    /// The relay that sent it first.
    pub relay: String,
    /// When the listener received it.
    pub received_at: Millis,
    /// The event. Not yet parsed: control answers for every malformation by its reason.
    pub event: Box<RawValue>,
}

/// Listener to matcher: one verified content event that hits the interest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// The relay that sent it first.
    pub relay: String,
    /// When the listener received it.
    pub received_at: Millis,
    /// Whether it came before EOSE.
    pub backfill: bool,
    /// Which of its index keys are in use: only these are looked up.
    pub hits: Vec<IndexKey>,
    /// Where to go on, when an earlier invocation did part of the fan-out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
    /// The event.
    pub event: Event,
}

/// A place in an event's fan-out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The hit index key that is being read.
    pub hit: usize,
    /// The last row read under it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// Matcher to deliver: one event for one recipient under one app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// The app.
    pub app: String,
    /// The owner to whom it is delivered.
    pub recipient: PublicKey,
    /// By which dimensions the event was found: `#p`, `author` …, merged over all matching
    /// subscriptions.
    pub reasons: Vec<String>,
    /// The relay that sent it first.
    pub relay: String,
    /// When the listener received it.
    pub received_at: Millis,
    /// Whether the event's content was cut to [`MAX_DELIVERED_CONTENT`].
    #[serde(default)]
    pub cut: bool,
    /// Whether it has waited because the recipient's app looked open. Its latency is then no
    /// measure of the service.
    #[serde(default)]
    pub waited: bool,
    /// The event.
    pub event: Event,
}

/// Matcher to deliver, and deliver to itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outgoing {
    /// One event for one recipient.
    Event(Box<Delivery>),
    /// What a minute had too much of.
    Summary(Summary),
}

impl Outgoing {
    /// For whom it is.
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

    /// What tells it from everything else for the same recipient under the same app: the event's
    /// id, or the minute.
    pub fn id(&self) -> String {
        match self {
            Self::Event(delivery) => delivery.event.id.to_hex(),
            Self::Summary(summary) => summary.id(),
        }
    }

    /// When the listener received the event; for a summary, when its minute was over.
    pub fn received_at(&self) -> Millis {
        match self {
            Self::Event(delivery) => delivery.received_at,
            Self::Summary(summary) => (summary.window + 60) * 1000,
        }
    }

    /// The same, after it has waited.
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

/// How many notifications a recipient did not get in a minute that had too many.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// The app.
    pub app: String,
    /// The owner to whom it is delivered.
    pub recipient: PublicKey,
    /// When the minute began.
    pub window: Seconds,
}

impl Summary {
    /// What tells it from every other summary of this recipient under this app.
    pub fn id(&self) -> String {
        format!("summary:{}", self.window)
    }
}

/// To feedback, from the stream of `devices`: a row that ended by itself, or that deliver gave up,
/// as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retired {
    /// The app's id.
    pub app: String,
    /// The keyed hash of the token.
    pub token_hash: String,
    /// The registration.
    pub registration: Registration,
}

/// To feedback, from SNS: what happened to an endpoint. The form is AWS's, and has no version:
/// <https://docs.aws.amazon.com/sns/latest/dg/application-event-notifications.html>.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct EndpointEvent {
    /// `EndpointCreated`, `EndpointUpdated`, `EndpointDeleted`, `DeliveryFailure`.
    pub event_type: String,
    /// The endpoint.
    pub endpoint_arn: String,
    /// Of a failure: which.
    #[serde(default)]
    pub failure_type: Option<String>,
    /// Of a failure: in words.
    #[serde(default)]
    pub failure_message: Option<String>,
}

/// What stands in the queue of feedback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Feedback {
    /// See [`Retired`].
    Retired(Box<Retired>),
    /// See [`EndpointEvent`].
    Endpoint(EndpointEvent),
}

impl Feedback {
    /// Reads either.
    ///
    /// # Errors
    /// It is neither.
    pub fn read(body: &str) -> Result<Self, Unreadable> {
        match decode(body) {
            Ok(retired) => Ok(Self::Retired(Box::new(retired))),
            Err(Unreadable::Malformed) => serde_json::from_str(body)
                .map(Self::Endpoint)
                .map_err(|_| Unreadable::Malformed),
            Err(newer) => Err(newer),
        }
    }
}

/// Why a queue message cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// It was written by a newer deployment: leave it for that one.
    #[error("message version {0} is not known here")]
    Version(u32),
    /// It is not what it should be, and never will be.
    #[error("malformed message")]
    Malformed,
}

/// Writes a message with its version.
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
    // SQS takes no U+FFFE and U+FFFF, and would refuse the batch for ever. In JSON they stand in
    // strings only, where they may be escaped; what is read from it is the same.
    Ok(if body.contains(['\u{fffe}', '\u{ffff}']) {
        body.replace('\u{fffe}', "\\ufffe")
            .replace('\u{ffff}', "\\uffff")
    } else {
        body
    })
}

/// Reads a message written by [`encode`].
///
/// # Errors
/// [`Unreadable`].
pub fn decode<T: DeserializeOwned>(body: &str) -> Result<T, Unreadable> {
    #[derive(Deserialize)]
    struct Versioned<'a> {
        v: u32,
        #[serde(borrow)]
        m: &'a RawValue,
    }
    let versioned: Versioned<'_> = serde_json::from_str(body).map_err(|_| Unreadable::Malformed)?;
    if versioned.v != VERSION {
        return Err(Unreadable::Version(versioned.v));
    }
    serde_json::from_str(versioned.m.get()).map_err(|_| Unreadable::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_that_sqs_refuses_are_escaped_and_read_back() {
        let position = Position {
            hit: 0,
            after: Some("a\u{fffe}b\u{ffff}\u{0}".to_owned()),
        };
        let body = encode(&position).unwrap();
        assert!(
            body.chars()
                .all(|c| c >= ' ' && !matches!(c, '\u{fffe}' | '\u{ffff}')),
            "{body}"
        );
        assert_eq!(decode::<Position>(&body).unwrap(), position);
    }

    #[test]
    fn a_newer_version_is_told_apart_from_garbage() {
        let position = Position {
            hit: 2,
            after: Some("x".to_owned()),
        };
        assert_eq!(
            decode::<Position>(&encode(&position).unwrap()).unwrap(),
            position
        );
        assert!(matches!(
            decode::<Position>(r#"{"v":2,"m":{"other":1}}"#),
            Err(Unreadable::Version(2))
        ));
        for bad in ["", "{", r#"{"v":1,"m":{}}"#, r#"{"m":{"hit":1}}"#, "\u{0}"] {
            assert!(
                matches!(decode::<Position>(bad), Err(Unreadable::Malformed)),
                "{bad}"
            );
        }
    }
}
