//! SNS and the phones behind it: endpoints, publishes, and events about endpoints.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use nostr_push_core::{
    Millis,
    ports::{
        Endpoints, EnsuredEndpoint, PortResult, PublishOutcome, Publisher, Push, RetryReason,
        Unavailable,
    },
};
use serde_json::{Value, json};

use crate::{faults::Fault, planted::Planted, tables::Scope, world::World};

/// The state of SNS and of the phones.
#[derive(Debug, Default)]
pub struct SnsState {
    created: u64,
    /// The endpoints, by ARN.
    pub endpoints: BTreeMap<String, Endpoint>,
    /// The tokens of apps that were uninstalled.
    pub dead_tokens: BTreeSet<String>,
    /// All pushes that SNS has accepted.
    pub pushes: Vec<AcceptedPush>,
}

/// An endpoint of a platform application.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// The platform application.
    pub application: String,
    /// The token.
    pub token: String,
    /// `false` if SNS has disabled it.
    pub is_enabled: bool,
}

/// A push that SNS has accepted, as the phone sees it.
#[derive(Debug, Clone)]
pub struct AcceptedPush {
    /// When SNS accepted it.
    pub at: Millis,
    /// The token of the phone.
    pub token: String,
    /// The routing fields.
    pub fields: Value,
    /// What replaces an earlier notification with the same text: the collapse id of APNs, or the
    /// event's id for FCM.
    pub collapse_id: String,
}

impl AcceptedPush {
    /// Reads a push as the phone does.
    fn of(push: &Push, token: &str, at: Millis) -> Self {
        let message: Value = serde_json::from_str(&push.message).unwrap_or_default();
        let inner = |name: &str| {
            let text = message[name].as_str()?;
            serde_json::from_str::<Value>(text).ok()
        };
        let apns = inner("APNS");
        let fcm = inner("GCM").map(|value| value["fcmV1Message"]["message"]["data"].clone());
        let fields = apns.or(fcm).unwrap_or_default();
        let attribute = push
            .attributes
            .iter()
            .find(|(name, _)| name == "AWS.SNS.MOBILE.APNS.COLLAPSE_ID");
        let id = fields["event_id"].as_str().unwrap_or_default();
        Self {
            at,
            token: token.to_owned(),
            collapse_id: attribute.map_or_else(|| id.to_owned(), |(_, value)| value.clone()),
            fields,
        }
    }

    /// A field of the payload, as text.
    pub fn field(&self, name: &str) -> String {
        match &self.fields[name] {
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            other => other.to_string(),
        }
    }
}

/// SNS as one instance of a stage reaches it.
#[derive(Clone)]
pub struct Sns {
    /// The world.
    pub world: Arc<World>,
    /// See [`Scope`].
    pub scope: Arc<Scope>,
}

impl Sns {
    /// Makes one request that has no outcome but an error.
    async fn call<T>(
        &self,
        name: &'static str,
        effect: impl FnOnce(&mut SnsState) -> T,
    ) -> PortResult<T> {
        let world = &self.world;
        world.pause(5, 50).await;
        if world.faults.happens(Fault::SnsFailed) {
            self.scope.meet_fault();
            world.tell(|| format!("SNS fails on {name}"));
            return Err(Unavailable::new(name, "SNS failed"));
        }
        let answer = effect(&mut world.sns());
        if world.faults.happens(Fault::SnsAnswerLost) {
            self.scope.meet_fault();
            world.tell(|| format!("SNS applies {name}, and its answer is lost"));
            world.pause(200, 2_000).await;
            return Err(Unavailable::new(name, "no answer"));
        }
        world.pause(5, 50).await;
        Ok(answer)
    }

    /// Accepts a push, or finds that the endpoint is gone.
    fn accept(&self, endpoint_arn: &str, push: &Push) -> bool {
        let world = &self.world;
        let mut sns = world.sns();
        let mut endpoint = sns.endpoints.get(endpoint_arn).cloned();
        if world.has(Planted::PushToOtherEndpoint) && world.random.happens(20_000) {
            endpoint = sns.endpoints.values().next().cloned();
        }
        let Some(endpoint) = endpoint.filter(|endpoint| endpoint.is_enabled) else {
            drop(sns);
            world.tell(|| {
                format!(
                    "SNS: {} is disabled or deleted",
                    world.trace.name_of(endpoint_arn)
                )
            });
            return false;
        };
        let accepted = AcceptedPush::of(push, &endpoint.token, world.now());
        let is_dead = sns.dead_tokens.contains(&endpoint.token);
        if world.has(Planted::PushRepeatedUnderOtherId) && world.random.happens(50_000) {
            let mut repeated = accepted.clone();
            "another".clone_into(&mut repeated.collapse_id);
            sns.pushes.push(repeated);
        }
        world.tell(|| {
            let name = |text: &str| world.trace.name_of(text);
            let (event, recipient) = (accepted.field("event_id"), accepted.field("recipient"));
            let (event, recipient) = (name(&event), name(&recipient));
            format!(
                "SNS accepts {event} for {recipient} on {}",
                name(&endpoint.token)
            )
        });
        sns.pushes.push(accepted);
        drop(sns);
        if is_dead {
            disable_later(world, endpoint_arn, &endpoint.token);
        } else if world.random.happens(20_000) && !world.faults.is_over() {
            // The phone is off for so long that the platform drops the push.
            let (world, arn) = (Arc::clone(world), endpoint_arn.to_owned());
            tokio::spawn(async move { report(&world, &arn, "TimeToLiveExpired").await });
        }
        true
    }
}

/// Disables the endpoint of a dead token some seconds later, as SNS does when the platform rejects
/// a push. The event about it comes late or never.
fn disable_later(world: &Arc<World>, endpoint_arn: &str, token: &str) {
    let (world, arn, token) = (Arc::clone(world), endpoint_arn.to_owned(), token.to_owned());
    tokio::spawn(async move {
        world.pause(500, 20_000).await;
        if world.sns().dead_tokens.contains(&token) {
            disable(&world, &arn).await;
        }
    });
}

/// Disables an endpoint, and sends an event about it to feedback, late or never.
pub async fn disable(world: &Arc<World>, endpoint_arn: &str) {
    let Some(token) = world.sns().endpoints.get_mut(endpoint_arn).map(|endpoint| {
        endpoint.is_enabled = false;
        endpoint.token.clone()
    }) else {
        return;
    };
    world.tell(|| {
        format!(
            "SNS disables the endpoint of {}",
            world.trace.name_of(&token)
        )
    });
    let now = world.now();
    world.oracle().endpoint_disabled(&token, now);
    if world.random.happens(300_000) {
        return;
    }
    report(world, endpoint_arn, "EndpointDisabled").await;
}

/// Sends an event about an endpoint to feedback, some time later.
async fn report(world: &World, endpoint_arn: &str, failure: &str) {
    world.oracle().begin_transfer();
    world
        .sleep(world.random.uneven_millis(1_000, 3_600_000))
        .await;
    let body = json!({
        "EventType": "DeliveryFailure", "EndpointArn": endpoint_arn, "Resource": "arn:app",
        "FailureType": failure, "FailureMessage": failure,
    });
    let feedback = &world.feedback;
    feedback
        .send_until_accepted(world, body.to_string(), 1_000..=60_000)
        .await;
    world.oracle().end_transfer();
}

impl Endpoints for Sns {
    async fn ensure(&self, platform_application: &str, token: &str) -> PortResult<EnsuredEndpoint> {
        let world = &self.world;
        let re_enables = !world.has(Planted::EndpointNotEnabled);
        self.call("sns.ensure", |sns| {
            let mut endpoints = sns.endpoints.iter_mut();
            let same = endpoints.find(|(_, endpoint)| {
                endpoint.application == platform_application && endpoint.token == token
            });
            if let Some((arn, endpoint)) = same {
                endpoint.is_enabled |= re_enables;
                return EnsuredEndpoint::Ready(arn.clone());
            }
            sns.created += 1;
            let arn = format!("arn:endpoint/{}", sns.created);
            world.trace.name(
                &arn,
                format!("the endpoint of {}", world.trace.name_of(token)),
            );
            let endpoint = Endpoint {
                application: platform_application.to_owned(),
                token: token.to_owned(),
                is_enabled: true,
            };
            sns.endpoints.insert(arn.clone(), endpoint);
            EnsuredEndpoint::Ready(arn)
        })
        .await
    }

    async fn delete(&self, endpoint_arn: &str) -> PortResult<()> {
        let is_kept = self.world.has(Planted::EndpointNotDeleted);
        self.call("sns.delete", |sns| {
            if !is_kept {
                sns.endpoints.remove(endpoint_arn);
            }
        })
        .await
    }

    async fn is_enabled(&self, endpoint_arn: &str) -> PortResult<bool> {
        if self.world.has(Planted::EndpointReportedDisabled) {
            return Ok(false);
        }
        self.call("sns.is_enabled", |sns| {
            sns.endpoints
                .get(endpoint_arn)
                .is_some_and(|endpoint| endpoint.is_enabled)
        })
        .await
    }
}

impl Publisher for Sns {
    async fn publish(&self, endpoint_arn: &str, push: &Push) -> PublishOutcome {
        let world = &self.world;
        let retry = |reason| {
            self.scope.meet_fault();
            world.tell(|| format!("SNS: a publish fails: {reason:?}"));
            PublishOutcome::Retry {
                after: None,
                reason,
            }
        };
        world.pause(5, 100).await;
        if world.faults.happens(Fault::SnsThrottled) {
            return retry(RetryReason::Throttled);
        }
        if world.faults.happens(Fault::SnsFailed) {
            return retry(RetryReason::Unavailable);
        }
        if !self.accept(endpoint_arn, push) {
            return PublishOutcome::Gone;
        }
        if world.faults.happens(Fault::SnsAnswerLost) {
            world.pause(500, 5_000).await;
            return retry(RetryReason::NoResponse);
        }
        world.pause(5, 100).await;
        PublishOutcome::Delivered
    }
}
