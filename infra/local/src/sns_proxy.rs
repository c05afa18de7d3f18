//! A proxy between the service and SNS (moto), for what moto lacks:
//!
//! - It records every accepted publish. moto does not return a publish's attributes.
//! - It keeps the state of SNS across restarts, in a journal of the requests that change it. A
//!   start replays the journal. The replay creates the same endpoint ARNs, because the source of
//!   moto's ids is seeded before each request.
//! - It reports endpoint events to the topic of a platform application.
//! - It injects faults.

mod files;
mod form;

use std::{
    collections::HashMap,
    fs::File,
    io::Write,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, Result, bail};
use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, Response, StatusCode, header},
    response::IntoResponse,
};
use nostr_push_aws::clients;
use nostr_push_core::{
    Millis,
    app::{app_of_platform_application, platform_and_name_of},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::{
    net::TcpListener,
    sync::{Notify, RwLock},
    task::JoinHandle,
};

use self::form::Form;
pub(crate) use self::form::application_of;
use crate::forward::{HttpResponse, bad_gateway, forward};

/// The actions that change the state of SNS.
const CHANGES: [&str; 6] = [
    "CreatePlatformApplication",
    "DeletePlatformApplication",
    "SetPlatformApplicationAttributes",
    "CreatePlatformEndpoint",
    "SetEndpointAttributes",
    "DeleteEndpoint",
];

/// One publish that SNS accepted.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RecordedPush {
    /// The number of the publish, from 1.
    pub seq: u64,
    /// When SNS accepted it.
    pub at: Millis,
    /// The app's id, from the name of the SNS platform application.
    pub app: String,
    /// `apns`, `apns_sandbox` or `fcm`.
    pub platform: String,
    /// The push token.
    pub token: String,
    /// The decoded payload for the platform.
    pub message: Value,
    /// The SNS message attributes.
    pub attributes: Map<String, Value>,
}

/// What the proxy does with the next publish.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Neither forwards it nor responds. Notifies when it arrives.
    HoldBefore(Arc<Notify>),
    /// Forwards it but does not respond. Notifies when SNS has accepted it.
    HoldAfter(Arc<Notify>),
    /// Responds with this HTTP status and SNS error code.
    Respond(u16, &'static str),
}

/// One line of the journal: a request that changed the state of SNS.
#[derive(Serialize, Deserialize)]
struct Change {
    /// The seed of moto's ids, which is the number of the line.
    seed: u64,
    body: String,
    authorization: String,
}

/// The proxy. Clones share their state.
#[derive(Clone)]
pub struct Proxy {
    shared: Arc<Shared>,
}

struct Shared {
    upstream: String,
    http: reqwest::Client,
    /// A client of the endpoint with the topics.
    topics: aws_sdk_sns::Client,
    /// Locked for writing during a change, so that the journal has the order in which SNS saw the
    /// changes.
    order: RwLock<()>,
    state: Mutex<ProxyState>,
}

struct ProxyState {
    journal: File,
    /// The number of changes in the journal.
    changes: u64,
    push_file: File,
    pushes: Vec<RecordedPush>,
    /// Endpoint ARN to token.
    tokens: HashMap<String, String>,
    /// Platform application and event attribute to the topic for this event.
    topics: HashMap<(String, String), String>,
    faults: Vec<Fault>,
}

impl Proxy {
    /// A proxy in front of `upstream`, with the state that is stored in the folder `data`. `topics`
    /// publishes endpoint events.
    ///
    /// # Errors
    /// The stored state cannot be read or replayed.
    pub async fn open(upstream: String, data: &Path, topics: aws_sdk_sns::Client) -> Result<Self> {
        let (journal, push_file) = (data.join("sns.jsonl"), data.join("pushes.jsonl"));
        let changes: Vec<Change> = files::read_lines(&journal);
        let state = ProxyState {
            journal: files::append(&journal)?,
            changes: 0,
            pushes: files::read_lines(&push_file),
            push_file: files::append(&push_file)?,
            tokens: HashMap::new(),
            topics: HashMap::new(),
            faults: Vec::new(),
        };
        let shared = Shared {
            upstream,
            http: reqwest::Client::new(),
            topics,
            order: RwLock::new(()),
            state: Mutex::new(state),
        };
        let proxy = Self {
            shared: Arc::new(shared),
        };
        for change in changes {
            let headers = form::headers(&change.authorization)?;
            let body = Bytes::from(change.body);
            proxy.apply_change(change.seed, headers, body).await?;
            proxy.state().changes = change.seed;
        }
        Ok(proxy)
    }

    /// Serves on this address until the task is aborted.
    ///
    /// # Errors
    /// The address is in use.
    pub async fn serve(&self, address: SocketAddr) -> Result<JoinHandle<()>> {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("the SNS proxy cannot listen on {address}"))?;
        let router = Router::new().fallback(handle).with_state(self.clone());
        Ok(tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                eprintln!("local: SNS proxy: {error}");
            }
        }))
    }

    /// The accepted publishes with a larger number than `after`.
    pub fn pushes(&self, after: u64) -> Vec<RecordedPush> {
        self.state()
            .pushes
            .iter()
            .filter(|push| push.seq > after)
            .cloned()
            .collect()
    }

    /// Adds a fault. Each fault affects one publish, in the order of injection.
    pub fn inject(&self, fault: Fault) {
        self.state().faults.push(fault);
    }

    /// Disables all endpoints with this token, as if the app had been uninstalled. Returns their
    /// number.
    ///
    /// # Errors
    /// SNS failed.
    pub async fn disable(&self, token: &str) -> Result<usize> {
        let arns: Vec<String> = self
            .state()
            .tokens
            .iter()
            .filter(|(_, t)| *t == token)
            .map(|(arn, _)| arn.clone())
            .collect();
        for arn in &arns {
            let (headers, body) = form::disable_endpoint(arn)?;
            let response = self.record_change(headers, body).await?;
            if !response.status.is_success() {
                bail!(
                    "SNS responded with {} to SetEndpointAttributes",
                    response.status
                );
            }
        }
        Ok(arns.len())
    }

    fn state(&self) -> MutexGuard<'_, ProxyState> {
        self.shared
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Forwards a change, reports it to the topic, and adds it to the journal.
    async fn record_change(&self, headers: HeaderMap, body: Bytes) -> Result<HttpResponse> {
        let _order = self.shared.order.write().await;
        let seed = self.state().changes + 1;
        let authorization = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_owned();
        let change = Change {
            seed,
            body: String::from_utf8(body.to_vec())?,
            authorization,
        };
        let form = Form::parse(&body);
        let response = self.apply_change(seed, headers, body).await?;
        if response.status.is_success() {
            self.report_endpoint_event(&form);
        }
        let mut state = self.state();
        state.changes = seed;
        writeln!(state.journal, "{}", serde_json::to_string(&change)?)?;
        Ok(response)
    }

    /// Forwards a change with this seed, and remembers tokens and topics.
    async fn apply_change(
        &self,
        seed: u64,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<HttpResponse> {
        let url = format!("{}/moto-api/seed?a={seed}", self.shared.upstream);
        let seeded = self.shared.http.post(url).send().await?;
        seeded.error_for_status()?;
        let form = Form::parse(&body);
        let response = self.forward(headers, body).await?;
        if !response.status.is_success() {
            return Ok(response);
        }
        let mut state = self.state();
        if form.get("Action") == "CreatePlatformEndpoint"
            && let Some(arn) = form::xml_element(&response.body, "EndpointArn")
        {
            state.tokens.insert(arn, form.get("Token").to_owned());
        }
        let application = form.get("PlatformApplicationArn");
        for (name, value) in form.attributes() {
            if name.starts_with("Event") && !application.is_empty() {
                let event = (application.to_owned(), name);
                state.topics.insert(event, value);
            }
        }
        drop(state);
        Ok(response)
    }

    /// Publishes the event of a changed endpoint to the topic of its platform application, in the
    /// documented form
    /// (<https://docs.aws.amazon.com/sns/latest/dg/application-event-notifications.html>). It does
    /// not wait for the result.
    fn report_endpoint_event(&self, form: &Form) {
        let event = match form.get("Action") {
            "SetEndpointAttributes" => "EndpointUpdated",
            "DeleteEndpoint" => "EndpointDeleted",
            _ => return,
        };
        let arn = form.get("EndpointArn");
        let application = form::application_of(arn);
        let key = (application, format!("Event{event}"));
        let Some(topic) = self.state().topics.get(&key).cloned() else {
            return;
        };
        let message = json!({
            "EventType": event, "EndpointArn": arn, "Resource": key.0, "Service": "SNS",
        });
        let request = self.shared.topics.publish().topic_arn(topic);
        let request = request.message(message.to_string());
        tokio::spawn(async move {
            if let Err(error) = request.send().await {
                eprintln!("local: SNS proxy: cannot publish an endpoint event: {error:?}");
            }
        });
    }

    async fn forward(&self, headers: HeaderMap, body: Bytes) -> Result<HttpResponse> {
        forward(&self.shared.http, &self.shared.upstream, headers, body).await
    }

    /// Forwards a publish and records it, unless a fault is injected.
    async fn publish(&self, headers: HeaderMap, body: Bytes) -> Result<HttpResponse> {
        let fault = {
            let faults = &mut self.state().faults;
            (!faults.is_empty()).then(|| faults.remove(0))
        };
        match &fault {
            Some(Fault::HoldBefore(arrived)) => {
                arrived.notify_one();
                std::future::pending::<()>().await;
            }
            Some(Fault::Respond(status, code)) => return Ok(error_response(*status, code)),
            Some(Fault::HoldAfter(_)) | None => {}
        }
        let form = Form::parse(&body);
        let response = {
            let _order = self.shared.order.read().await;
            self.forward(headers, body).await?
        };
        if response.status.is_success() {
            self.record_push(&form)?;
        }
        if let Some(Fault::HoldAfter(accepted)) = fault {
            accepted.notify_one();
            std::future::pending::<()>().await;
        }
        Ok(response)
    }

    fn record_push(&self, form: &Form) -> Result<()> {
        let arn = form.get("TargetArn");
        let (platform, name) = platform_and_name_of(arn)
            .with_context(|| format!("{arn} is not the ARN of an endpoint"))?;
        let message: Value = serde_json::from_str(form.get("Message"))?;
        let payload = message
            .get(platform.sns_name())
            .or_else(|| message.get("default"))
            .and_then(Value::as_str)
            .unwrap_or_default();
        let mut state = self.state();
        let push = RecordedPush {
            seq: state.pushes.last().map_or(0, |push| push.seq) + 1,
            at: clients::now(),
            app: app_of_platform_application(name).to_owned(),
            platform: platform.as_str().to_owned(),
            token: state.tokens.get(arn).cloned().unwrap_or_default(),
            message: serde_json::from_str(payload).unwrap_or_else(|_| json!(payload)),
            attributes: form.message_attributes().collect(),
        };
        writeln!(state.push_file, "{}", serde_json::to_string(&push)?)?;
        state.pushes.push(push);
        Ok(())
    }
}

async fn handle(State(proxy): State<Proxy>, headers: HeaderMap, body: Bytes) -> Response<Body> {
    respond(&proxy, headers, body).await.map_or_else(
        |error| bad_gateway("SNS proxy", &error),
        IntoResponse::into_response,
    )
}

async fn respond(proxy: &Proxy, headers: HeaderMap, body: Bytes) -> Result<HttpResponse> {
    let form = Form::parse(&body);
    match form.get("Action") {
        "Publish" => proxy.publish(headers, body).await,
        action if CHANGES.contains(&action) => proxy.record_change(headers, body).await,
        _ => {
            let _order = proxy.shared.order.read().await;
            proxy.forward(headers, body).await
        }
    }
}

/// An error in the form of SNS
/// (<https://docs.aws.amazon.com/sns/latest/api/CommonErrors.html>).
pub(crate) fn error_response(status: u16, code: &str) -> HttpResponse {
    let body = format!(
        r#"<ErrorResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/">
             <Error><Type>Sender</Type><Code>{code}</Code><Message>injected</Message></Error>
             <RequestId>0</RequestId>
           </ErrorResponse>"#
    );
    HttpResponse {
        status: StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        content_type: Some(header::HeaderValue::from_static("text/xml")),
        body: Bytes::from(body),
    }
}
