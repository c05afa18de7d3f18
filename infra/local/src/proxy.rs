//! A proxy between the service and the local AWS endpoint. It reads every request of the functions
//! and the listener, and no request of the tests or of the deployment.
//!
//! - [`meter`] counts what AWS would charge for.
//! - [`requests`] records which permissions the requests need.
//! - [`faults`] makes the endpoint throttle, delay and repeat, as AWS does.

mod call;
pub mod faults;
pub mod meter;
pub mod requests;

use std::sync::Arc;

use anyhow::Result;
use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, Response},
    response::IntoResponse,
};
use tokio::net::TcpListener;

use self::{
    call::{Call, Service},
    faults::Faults,
    meter::Meter,
    requests::Requests,
};
use crate::forward::{HttpResponse, bad_gateway, forward};

/// The state of all proxies of one stack. Clones share it.
#[derive(Clone, Default)]
pub struct ServiceProxy {
    /// The charges so far.
    pub meter: Meter,
    /// The requests so far.
    pub requests: Requests,
    /// The faults of the endpoint. There are none at first.
    pub faults: Faults,
}

/// A proxy in front of one endpoint.
struct Proxy {
    state: ServiceProxy,
    upstream: Upstream,
}

/// The endpoint behind a proxy.
struct Upstream {
    http: reqwest::Client,
    url: String,
}

impl Upstream {
    async fn send(&self, call: &Call) -> Result<HttpResponse> {
        let (headers, body) = (call.headers.clone(), call.body_bytes());
        forward(&self.http, &self.url, headers, body).await
    }
}

impl ServiceProxy {
    /// Starts a proxy in front of `upstream`, which serves until the process ends. Returns the URL
    /// of the proxy.
    ///
    /// # Errors
    /// There is no free port.
    pub async fn serve(&self, upstream: &str) -> Result<String> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let proxy = Arc::new(Proxy {
            state: self.clone(),
            upstream: Upstream {
                http: reqwest::Client::new(),
                url: upstream.to_owned(),
            },
        });
        let router = Router::new().fallback(handle).with_state(proxy);
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(url)
    }
}

async fn handle(
    State(proxy): State<Arc<Proxy>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    proxy.respond(headers, body).await.map_or_else(
        |error| bad_gateway("proxy of the service", &error),
        IntoResponse::into_response,
    )
}

impl Proxy {
    async fn respond(&self, headers: HeaderMap, body: Bytes) -> Result<HttpResponse> {
        let call = Call::parse(headers, &body)?;
        self.state.requests.record(&call);
        let faults = &self.state.faults;
        if let Some(error) = faults.refuse(&call) {
            return Ok(error);
        }
        match call.service {
            Service::DynamoDb => {
                let request = meter::with_consumed_capacity(call);
                let response = faults.dynamodb(&self.upstream, &request).await?;
                self.state.meter.count_dynamodb(&request, &response);
                Ok(response)
            }
            Service::Sqs => {
                self.state.meter.count_request(&call);
                faults.sqs(&self.upstream, call).await
            }
            Service::Sns | Service::SecretsManager => {
                self.state.meter.count_request(&call);
                self.upstream.send(&call).await
            }
        }
    }
}
