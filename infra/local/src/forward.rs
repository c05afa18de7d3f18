//! Passes an HTTP request on, for the proxies.

use anyhow::Result;
use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, HeaderValue, Response, StatusCode, header},
    response::IntoResponse,
};

/// What was answered.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) content_type: Option<HeaderValue>,
    pub(crate) body: Bytes,
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response<Body> {
        let mut response = Response::new(Body::from(self.body));
        *response.status_mut() = self.status;
        if let Some(content_type) = self.content_type {
            response
                .headers_mut()
                .insert(header::CONTENT_TYPE, content_type);
        }
        response
    }
}

/// Posts this to `upstream`.
pub(crate) async fn forward(
    http: &reqwest::Client,
    upstream: &str,
    mut headers: HeaderMap,
    body: Bytes,
) -> Result<Answer> {
    for name in [
        header::HOST,
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::CONNECTION,
    ] {
        headers.remove(name);
    }
    let answer = http
        .post(upstream)
        .headers(headers)
        .body(body)
        .send()
        .await?;
    Ok(Answer {
        status: answer.status(),
        content_type: answer.headers().get(header::CONTENT_TYPE).cloned(),
        body: answer.bytes().await?,
    })
}

/// What is answered when the request could not be passed on.
pub(crate) fn bad_gateway(what: &str, error: &anyhow::Error) -> Response<Body> {
    eprintln!("local: {what}: {error:#}");
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::BAD_GATEWAY;
    response
}
