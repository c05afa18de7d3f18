//! Runs a real `bootstrap` as Lambda does: the Runtime API on a port of this machine.
//!
//! <https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html>

use std::{
    net::SocketAddr,
    path::Path,
    process::Stdio,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail};
use axum::{
    Router,
    extract::{Path as UrlPath, State},
    http::{HeaderMap, StatusCode},
    routing::{get, post},
};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    process::{Child, Command},
    sync::{Mutex, mpsc, oneshot},
};

/// A running bootstrap.
pub struct Bootstrap {
    /// The process.
    pub process: Child,
    invocations: mpsc::Sender<Invocation>,
}

/// The response of an invocation, or the error that it reported.
type Response = Result<Value, String>;

struct Invocation {
    event: Value,
    response: oneshot::Sender<Response>,
}

struct Api {
    waiting: Mutex<mpsc::Receiver<Invocation>>,
    running: Mutex<Option<oneshot::Sender<Response>>>,
}

impl Bootstrap {
    /// Starts the binary with these environment variables.
    ///
    /// # Errors
    /// The binary cannot be started.
    pub async fn start<'a>(
        binary: impl AsRef<Path>,
        variables: impl IntoIterator<Item = (&'a str, String)>,
    ) -> Result<Self> {
        let mut command = Command::new(binary.as_ref());
        command.envs(variables);
        Self::run(command).await
    }

    /// Runs the command, which starts the binary.
    ///
    /// # Errors
    /// The command cannot be started.
    pub async fn run(mut command: Command) -> Result<Self> {
        let (invocations, waiting) = mpsc::channel(16);
        let api = Arc::new(Api {
            waiting: Mutex::new(waiting),
            running: Mutex::default(),
        });
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        let address = listener.local_addr()?;
        let router = Router::new()
            .route("/2018-06-01/runtime/invocation/next", get(next))
            .route(
                "/2018-06-01/runtime/invocation/{id}/response",
                post(response),
            )
            .route("/2018-06-01/runtime/invocation/{id}/error", post(error))
            .with_state(api);
        tokio::spawn(async move { axum::serve(listener, router).await });
        let process = command
            .env("AWS_LAMBDA_RUNTIME_API", address.to_string())
            .env("AWS_LAMBDA_FUNCTION_NAME", "test")
            .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256")
            .env("AWS_LAMBDA_FUNCTION_VERSION", "1")
            .env("AWS_LAMBDA_LOG_STREAM_NAME", "test")
            .env("AWS_LAMBDA_LOG_GROUP_NAME", "test")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| {
                format!("cannot start {}", command.as_std().get_program().display())
            })?;
        Ok(Self {
            process,
            invocations,
        })
    }

    /// Invokes the function with an SQS batch of these records (message id, body, receive count),
    /// which were sent now. Returns the ids of the records that failed.
    ///
    /// # Errors
    /// The process ended, or the invocation failed as a whole.
    pub async fn batch(&mut self, records: &[(&str, String, u32)]) -> Result<Vec<String>> {
        let sent_at = unix_millis().to_string();
        let record = |(id, body, receive_count): &(&str, String, u32)| {
            json!({
                "messageId": id, "receiptHandle": id, "body": body, "md5OfBody": "",
                "messageAttributes": {},
                "attributes": {
                    "ApproximateReceiveCount": receive_count.to_string(), "SentTimestamp": sent_at,
                },
                "eventSource": "aws:sqs", "eventSourceARN": "arn:aws:sqs:us-east-1:0:test",
                "awsRegion": "us-east-1",
            })
        };
        let event = json!({"Records": records.iter().map(record).collect::<Vec<_>>()});
        let response = self.invoke(event).await?;
        let failures = response["batchItemFailures"]
            .as_array()
            .context("the response has no batchItemFailures")?;
        Ok(failures
            .iter()
            .map(|failure| {
                failure["itemIdentifier"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned()
            })
            .collect())
    }

    async fn invoke(&mut self, event: Value) -> Result<Value> {
        let (response, received) = oneshot::channel();
        self.invocations
            .send(Invocation { event, response })
            .await
            .ok()
            .context("the Runtime API has stopped")?;
        tokio::select! {
            response = received => response?.map_err(anyhow::Error::msg),
            status = self.process.wait() => bail!("the bootstrap ended: {}", status?),
        }
    }
}

fn unix_millis() -> u128 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |now| now.as_millis())
}

async fn next(State(api): State<Arc<Api>>) -> (HeaderMap, String) {
    let Some(invocation) = api.waiting.lock().await.recv().await else {
        return std::future::pending().await;
    };
    *api.running.lock().await = Some(invocation.response);
    let deadline = unix_millis() + 30_000;
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("lambda-runtime-aws-request-id", "1".to_owned()),
        ("lambda-runtime-deadline-ms", deadline.to_string()),
        (
            "lambda-runtime-invoked-function-arn",
            "arn:aws:lambda:us-east-1:0:function:test".to_owned(),
        ),
    ] {
        headers.insert(name, value.parse().expect("ASCII"));
    }
    (headers, invocation.event.to_string())
}

async fn response(
    State(api): State<Arc<Api>>,
    UrlPath(_): UrlPath<String>,
    body: String,
) -> StatusCode {
    let response = serde_json::from_str(&body).map_err(|error| error.to_string());
    finish(&api, response).await
}

async fn error(
    State(api): State<Arc<Api>>,
    UrlPath(_): UrlPath<String>,
    body: String,
) -> StatusCode {
    finish(&api, Err(body)).await
}

/// Ends the running invocation.
async fn finish(api: &Api, response: Response) -> StatusCode {
    if let Some(running) = api.running.lock().await.take() {
        let _ = running.send(response);
    }
    StatusCode::ACCEPTED
}
