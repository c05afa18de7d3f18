//! Between the service and SNS: records every accepted publish whole (moto's read-back lacks the
//! attributes), keeps SNS's state over a restart (moto has none), tells a topic what happens to
//! endpoints (nothing local does), and injects faults.
//!
//! The state is a journal of the requests that change it. Replaying them gives the same endpoint
//! ARNs, because moto's source of ids is seeded before each.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io::Write,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail};
use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, Response, StatusCode, header},
    response::IntoResponse,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::{
    net::TcpListener,
    sync::{Notify, RwLock},
    task::JoinHandle,
};

use crate::forward::{Answer, bad_gateway, forward};

/// The actions that change SNS's state.
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
pub struct Recorded {
    /// Counts from 1.
    pub seq: u64,
    /// When, in milliseconds since the epoch.
    pub at: u64,
    /// The name of the SNS platform application, which is the app's id.
    pub app: String,
    /// `apns`, `apns_sandbox` or `fcm`.
    pub platform: String,
    /// The phone's token.
    pub token: String,
    /// The platform's own payload, decoded.
    pub message: Value,
    /// The SNS message attributes.
    pub attributes: Map<String, Value>,
}

/// What happens to the next publish.
#[derive(Debug, Clone)]
pub enum Fault {
    /// It is kept and never passed on. Tells when it has come.
    HoldBefore(Arc<Notify>),
    /// It is passed on, and its answer kept. Tells when it has been accepted.
    HoldAfter(Arc<Notify>),
    /// It is answered with this status and SNS error code.
    Answer(u16, &'static str),
}

/// One line of the journal.
#[derive(Serialize, Deserialize)]
struct Change {
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
    /// Where the topics are.
    events: aws_sdk_sns::Client,
    /// Held for writing by whoever changes SNS's state: the journal must be in the order in which
    /// SNS saw it.
    order: RwLock<()>,
    kept: Mutex<Kept>,
}

struct Kept {
    journal: File,
    changes: u64,
    record: File,
    pushes: Vec<Recorded>,
    tokens: HashMap<String, String>,
    /// By platform application and event: the topic to tell.
    topics: HashMap<(String, String), String>,
    faults: Vec<Fault>,
}

impl Proxy {
    /// A proxy before `upstream`, with the state that `data` holds.
    ///
    /// # Errors
    /// The state cannot be read or replayed.
    pub async fn open(upstream: String, data: &Path, events: aws_sdk_sns::Client) -> Result<Self> {
        let (journal, record) = (data.join("sns.jsonl"), data.join("pushes.jsonl"));
        let changes: Vec<Change> = lines(&journal);
        let kept = Kept {
            journal: append(&journal)?,
            changes: 0,
            pushes: lines(&record),
            record: append(&record)?,
            tokens: HashMap::new(),
            topics: HashMap::new(),
            faults: Vec::new(),
        };
        let shared = Shared {
            upstream,
            http: reqwest::Client::new(),
            events,
            order: RwLock::new(()),
            kept: Mutex::new(kept),
        };
        let proxy = Self {
            shared: Arc::new(shared),
        };
        for change in changes {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, change.authorization.parse()?);
            headers.insert(
                header::CONTENT_TYPE,
                "application/x-www-form-urlencoded; charset=utf-8".parse()?,
            );
            proxy
                .change(change.seed, headers, Bytes::from(change.body))
                .await?;
            proxy.kept().changes = change.seed;
        }
        Ok(proxy)
    }

    /// Serves on this address until the task is aborted.
    ///
    /// # Errors
    /// The address is taken.
    pub async fn serve(&self, address: SocketAddr) -> Result<JoinHandle<()>> {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("no SNS at {address}"))?;
        let router = Router::new().fallback(handle).with_state(self.clone());
        Ok(tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                eprintln!("local: SNS proxy: {error}");
            }
        }))
    }

    /// The accepted publishes after this number.
    pub fn pushes(&self, after: u64) -> Vec<Recorded> {
        self.kept()
            .pushes
            .iter()
            .filter(|push| push.seq > after)
            .cloned()
            .collect()
    }

    /// What happens to the next publishes, one each.
    pub fn inject(&self, fault: Fault) {
        self.kept().faults.push(fault);
    }

    /// Disables all endpoints with this token, as an uninstalled app does. Answers how many there
    /// were.
    ///
    /// # Errors
    /// SNS refused.
    pub async fn disable(&self, token: &str) -> Result<usize> {
        let arns: Vec<String> = self
            .kept()
            .tokens
            .iter()
            .filter(|(_, t)| *t == token)
            .map(|(arn, _)| arn.clone())
            .collect();
        for arn in &arns {
            let form = [
                ("Action", "SetEndpointAttributes"),
                ("Version", "2010-03-31"),
                ("EndpointArn", arn),
                ("Attributes.entry.1.key", "Enabled"),
                ("Attributes.entry.1.value", "false"),
            ];
            let body = form_urlencoded::Serializer::new(String::new())
                .extend_pairs(form)
                .finish();
            // moto tells the region and the service by this header alone.
            let region = arn.split(':').nth(3).unwrap_or("us-east-1");
            let mut headers = HeaderMap::new();
            let scope = format!(
                "AWS4-HMAC-SHA256 Credential=local/20260101/{region}/sns/aws4_request, SignedHeaders=host, Signature=0"
            );
            headers.insert(header::AUTHORIZATION, scope.parse()?);
            headers.insert(
                header::CONTENT_TYPE,
                "application/x-www-form-urlencoded; charset=utf-8".parse()?,
            );
            let answer = self.record_change(headers, Bytes::from(body)).await?;
            if !answer.status.is_success() {
                bail!("SNS answered {} to SetEndpointAttributes", answer.status);
            }
        }
        Ok(arns.len())
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.shared
            .kept
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes a change on and writes it down.
    async fn record_change(&self, headers: HeaderMap, body: Bytes) -> Result<Answer> {
        let _order = self.shared.order.write().await;
        let seed = self.kept().changes + 1;
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
        let form = form(&body);
        let answer = self.change(seed, headers, body).await?;
        if answer.status.is_success() {
            self.tell(&form);
        }
        let mut kept = self.kept();
        kept.changes = seed;
        writeln!(kept.journal, "{}", serde_json::to_string(&change)?)?;
        Ok(answer)
    }

    async fn change(&self, seed: u64, headers: HeaderMap, body: Bytes) -> Result<Answer> {
        let url = format!("{}/moto-api/seed?a={seed}", self.shared.upstream);
        self.shared
            .http
            .post(url)
            .send()
            .await?
            .error_for_status()?;
        let form = form(&body);
        let answer = self.pass(headers, body).await?;
        if form
            .get("Action")
            .is_some_and(|action| action == "CreatePlatformEndpoint")
            && let Some(token) = form.get("Token")
            && let Some(arn) = element(&answer, "EndpointArn")
        {
            self.kept().tokens.insert(arn, token.clone());
        }
        if answer.status.is_success()
            && let Some(application) = form.get("PlatformApplicationArn")
        {
            let topics = attributes(&form).filter(|(name, _)| name.starts_with("Event"));
            self.kept()
                .topics
                .extend(topics.map(|(name, topic)| ((application.clone(), name), topic)));
        }
        Ok(answer)
    }

    /// Tells the application's topic of a change to an endpoint, in the form that AWS documents;
    /// later, as AWS does.
    fn tell(&self, form: &HashMap<String, String>) {
        let get = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
        let (arn, event) = match get("Action") {
            "SetEndpointAttributes" => (get("EndpointArn"), "EndpointUpdated"),
            "DeleteEndpoint" => (get("EndpointArn"), "EndpointDeleted"),
            _ => return,
        };
        // arn:…:endpoint/PLATFORM/application/id belongs to arn:…:app/PLATFORM/application.
        let application = arn
            .rsplit_once('/')
            .map(|(application, _)| application.replacen(":endpoint/", ":app/", 1))
            .unwrap_or_default();
        let Some(topic) = self
            .kept()
            .topics
            .get(&(application.clone(), format!("Event{event}")))
            .cloned()
        else {
            return;
        };
        let message = json!({"EventType": event, "EndpointArn": arn, "Resource": application, "Service": "SNS"}).to_string();
        let publish = self
            .shared
            .events
            .publish()
            .topic_arn(topic)
            .message(message);
        tokio::spawn(async move {
            if let Err(error) = publish.send().await {
                eprintln!("local: SNS proxy: topic not told: {error:?}");
            }
        });
    }

    async fn pass(&self, headers: HeaderMap, body: Bytes) -> Result<Answer> {
        forward(&self.shared.http, &self.shared.upstream, headers, body).await
    }

    fn record_push(&self, form: &HashMap<String, String>) -> Result<()> {
        let get = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
        let arn = get("TargetArn");
        // arn:aws:sns:region:account:endpoint/PLATFORM/application/id
        let mut parts = arn.split('/').skip(1);
        let (key, app) = (
            parts.next().unwrap_or_default(),
            parts.next().unwrap_or_default(),
        );
        let platform = match key {
            "APNS" => "apns",
            "APNS_SANDBOX" => "apns_sandbox",
            _ => "fcm",
        };
        let message: Value = serde_json::from_str(get("Message"))?;
        let payload = message
            .get(key)
            .or_else(|| message.get("default"))
            .and_then(Value::as_str)
            .unwrap_or_default();
        let attributes = (1..=10).map_while(|n| {
            let entry = |part: &str| {
                form.get(&format!("MessageAttributes.entry.{n}.{part}"))
                    .cloned()
            };
            Some((entry("Name")?, json!(entry("Value.StringValue")?)))
        });
        let at = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
        let mut kept = self.kept();
        let push = Recorded {
            seq: kept.pushes.last().map_or(0, |push| push.seq) + 1,
            at: u64::try_from(at)?,
            app: app.to_owned(),
            platform: platform.to_owned(),
            token: kept.tokens.get(arn).cloned().unwrap_or_default(),
            message: serde_json::from_str(payload).unwrap_or_else(|_| json!(payload)),
            attributes: attributes.collect(),
        };
        writeln!(kept.record, "{}", serde_json::to_string(&push)?)?;
        kept.pushes.push(push);
        Ok(())
    }
}

/// The text of the first XML element of this name, in a successful answer.
fn element(answer: &Answer, name: &str) -> Option<String> {
    let text = std::str::from_utf8(&answer.body)
        .ok()
        .filter(|_| answer.status.is_success())?;
    let after = text.split_once(&format!("<{name}>"))?.1;
    Some(after.split_once('<')?.0.to_owned())
}

async fn handle(State(proxy): State<Proxy>, headers: HeaderMap, body: Bytes) -> Response<Body> {
    answer(&proxy, headers, body).await.map_or_else(
        |error| bad_gateway("SNS proxy", &error),
        IntoResponse::into_response,
    )
}

async fn answer(proxy: &Proxy, headers: HeaderMap, body: Bytes) -> Result<Answer> {
    let form = form(&body);
    let action = form.get("Action").map(String::as_str).unwrap_or_default();
    if CHANGES.contains(&action) {
        return proxy.record_change(headers, body).await;
    }
    if action != "Publish" {
        let _order = proxy.shared.order.read().await;
        return proxy.pass(headers, body).await;
    }
    let fault = {
        let mut kept = proxy.kept();
        if kept.faults.is_empty() {
            None
        } else {
            Some(kept.faults.remove(0))
        }
    };
    match &fault {
        Some(Fault::HoldBefore(come)) => {
            come.notify_one();
            std::future::pending::<()>().await;
        }
        Some(Fault::Answer(status, code)) => return Ok(error_answer(*status, code)),
        Some(Fault::HoldAfter(_)) | None => {}
    }
    let answer = {
        let _order = proxy.shared.order.read().await;
        proxy.pass(headers, body).await?
    };
    if answer.status.is_success() {
        proxy.record_push(&form)?;
    }
    if let Some(Fault::HoldAfter(accepted)) = fault {
        accepted.notify_one();
        std::future::pending::<()>().await;
    }
    Ok(answer)
}

fn error_answer(status: u16, code: &str) -> Answer {
    let body = format!(
        r#"<ErrorResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/"><Error><Type>Sender</Type><Code>{code}</Code><Message>injected</Message></Error><RequestId>0</RequestId></ErrorResponse>"#
    );
    Answer {
        status: StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        content_type: Some(header::HeaderValue::from_static("text/xml")),
        body: Bytes::from(body),
    }
}

fn form(body: &[u8]) -> HashMap<String, String> {
    form_urlencoded::parse(body).into_owned().collect()
}

/// The attributes that a request sets, by name.
fn attributes(form: &HashMap<String, String>) -> impl Iterator<Item = (String, String)> + '_ {
    (1..=10).map_while(|n| {
        let entry = |part: &str| form.get(&format!("Attributes.entry.{n}.{part}")).cloned();
        Some((entry("key")?, entry("value")?))
    })
}

/// What the file's lines hold. One that was cut, because we were killed while writing it, is left
/// out.
fn lines<T: for<'de> Deserialize<'de>>(path: &Path) -> Vec<T> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}

/// The file, open for more lines. The first one begins on a line of its own.
fn append(path: &Path) -> Result<File> {
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    if std::fs::read(path)?
        .last()
        .is_some_and(|byte| *byte != b'\n')
    {
        writeln!(file)?;
    }
    Ok(file)
}
