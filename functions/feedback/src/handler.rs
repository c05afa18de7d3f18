//! Handles one feedback message: removes or keeps one endpoint.
//!
//! By the time a message is received, its owner may have registered the token again. So a message
//! alone removes nothing. The device's row and the current state of the endpoint in SNS decide. An
//! endpoint is deleted under the same lease as in the control stage (`DeviceState::Removing`). A
//! registration that arrives in the meantime waits for the lease, and then creates the endpoint
//! again.
//!
//! The owner's filters must follow when the owner's last device has gone. Control is asked to
//! reconcile the owner as soon as the row says that the device is being removed, and before the
//! endpoint is deleted. If the request cannot be sent, the message is received again: the row still
//! contains the endpoint, so nothing is forgotten.

use nostr_push_core::{
    Seconds,
    device::{self, Device, DeviceId, DeviceState},
    device_store,
    message::{EndpointEvent, FeedbackMessage, ReconcileMessage, RetiredDevice},
    ports::{Devices, Endpoints, FailureCause, PortResult, Queue, Unavailable},
};

use crate::outcome::{FeedbackOutcome, KeptReason};

/// The feedback stage: its ports.
pub struct FeedbackStage<'a, S, E, Q> {
    /// The tables.
    pub store: &'a S,
    /// SNS.
    pub sns: &'a E,
    /// The queue of control.
    pub control: &'a Q,
}

impl<S: Devices, E: Endpoints, Q: Queue<ReconcileMessage>> FeedbackStage<'_, S, E, Q> {
    /// Applies one message that was sent at `sent_at`. Applying it again changes nothing.
    ///
    /// # Errors
    /// A dependency failed, or another process is removing the endpoint: receive the message again.
    pub async fn handle(
        &self,
        message: &FeedbackMessage,
        sent_at: Seconds,
        now: Seconds,
    ) -> PortResult<FeedbackOutcome> {
        match message {
            FeedbackMessage::Retired(retired) => self.retired_device(retired, now).await,
            FeedbackMessage::Endpoint(event) => self.endpoint_event(event, sent_at, now).await,
        }
    }

    /// Handles a device that has expired, or whose token the platform has rejected.
    async fn retired_device(
        &self,
        retired: &RetiredDevice,
        now: Seconds,
    ) -> PortResult<FeedbackOutcome> {
        let id = DeviceId {
            app: retired.app.clone(),
            token_hash: retired.token_hash.clone(),
        };
        let Some(row) = self.row(&id).await? else {
            // DynamoDB has dropped the row. It is written again, with the lease, because a
            // registration of the token may be in progress.
            let row = Device {
                id,
                registration: Some(retired.registration.clone()),
                removals: [].into(),
                expires_at: Seconds(0),
                version: 0,
            };
            return self.remove(&row, now).await;
        };
        match &row.registration {
            Some(current) if current.order != retired.registration.order => {
                Ok(FeedbackOutcome::Kept(KeptReason::RegisteredAgain))
            }
            Some(current) if current.state == DeviceState::Active && current.valid_until > now => {
                Ok(FeedbackOutcome::Kept(KeptReason::InForce))
            }
            _ => self.remove(&row, now).await,
        }
    }

    /// Handles an event of an endpoint
    /// (<https://docs.aws.amazon.com/sns/latest/dg/application-event-notifications.html>).
    async fn endpoint_event(
        &self,
        event: &EndpointEvent,
        sent_at: Seconds,
        now: Seconds,
    ) -> PortResult<FeedbackOutcome> {
        match event.event_type.as_str() {
            "DeliveryFailure" if is_credentials_failure(event) => {
                return Ok(FeedbackOutcome::BadCredentials);
            }
            "EndpointDeleted" | "EndpointUpdated" | "DeliveryFailure" => {}
            _ => return Ok(FeedbackOutcome::Kept(KeptReason::NotOfInterest)),
        }
        if self.sns.is_enabled(&event.endpoint_arn).await? {
            // Another attribute changed, the endpoint was enabled again, or only this push failed,
            // for example because its time to live ended.
            return Ok(FeedbackOutcome::Kept(KeptReason::Enabled));
        }
        let unknown = Ok(FeedbackOutcome::Kept(KeptReason::UnknownEndpoint));
        let Some(id) = self.store.device_of_endpoint(&event.endpoint_arn).await? else {
            return unknown;
        };
        let Some(row) = self.row(&id).await? else {
            return unknown;
        };
        match &row.registration {
            Some(current) if current.endpoint_arn.as_ref() != Some(&event.endpoint_arn) => unknown,
            Some(current) if current.registered_at > sent_at => {
                Ok(FeedbackOutcome::Kept(KeptReason::RegisteredAgain))
            }
            _ => self.remove(&row, now).await,
        }
    }

    async fn row(&self, id: &DeviceId) -> PortResult<Option<Device>> {
        let rows = self.store.devices(std::slice::from_ref(id)).await?;
        Ok(rows.into_iter().next())
    }

    /// Removes the endpoint in this row, if the row has not changed since it was read.
    async fn remove(&self, row: &Device, now: Seconds) -> PortResult<FeedbackOutcome> {
        let with_endpoint = row
            .registration
            .as_ref()
            .filter(|r| r.endpoint_arn.is_some());
        let Some(registration) = with_endpoint else {
            return Ok(FeedbackOutcome::Kept(KeptReason::AlreadyRemoved));
        };
        let mut retiring =
            device::retire(row, now).ok_or_else(|| busy("the endpoint is being deleted"))?;
        if !self.store.commit(Some(&retiring), None).await? {
            return Err(busy("the row has changed"));
        }
        retiring.version += 1;
        let reconcile = ReconcileMessage {
            reconcile: registration.owner.clone(),
        };
        self.control.send(&[reconcile]).await?;
        device_store::finish_removal(self.store, self.sns, retiring).await?;
        Ok(FeedbackOutcome::Removed)
    }
}

/// Returns `true` if the platform refuses the app's credentials, or SNS has disabled the platform
/// application. SNS reports this as a failure type, such as `PlatformApplicationDisabled`, or in a
/// sentence, such as "Platform credentials are invalid".
fn is_credentials_failure(event: &EndpointEvent) -> bool {
    let mut texts = event.failure_type.iter().chain(&event.failure_message);
    texts.any(|text| {
        let text = text.to_lowercase();
        text.contains("credential") || text.contains("platformapplication")
    })
}

fn busy(why: &str) -> Unavailable {
    Unavailable::caused(FailureCause::Contention, "devices", why)
}
