//! Forwards an HTTP request, for the proxies.

use anyhow::Result;
use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, HeaderValue, Response, StatusCode, header},
    response::IntoResponse,
};

/// The parts of a response that the proxies pass on.
pub(crate) struct HttpResponse {
    pub(crate) status: StatusCode,
    pub(crate) content_type: Option<HeaderValue>,
    pub(crate) body: Bytes,
}

impl IntoResponse for HttpResponse {
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

/// Posts the request to `upstream`.
pub(crate) async fn forward(
    http: &reqwest::Client,
    upstream: &str,
    mut headers: HeaderMap,
    body: Bytes,
) -> Result<HttpResponse> {
    for name in [
        header::HOST,
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::CONNECTION,
    ] {
        headers.remove(name);
    }
    let response = http
        .post(upstream)
        .headers(headers)
        .body(body)
        .send()
        .await?;
    Ok(HttpResponse {
        status: response.status(),
        content_type: response.headers().get(header::CONTENT_TYPE).cloned(),
        body: response.bytes().await?,
    })
}

/// The response of a proxy that failed to forward a request.
pub(crate) fn bad_gateway(proxy: &str, error: &anyhow::Error) -> Response<Body> {
    eprintln!("local: {proxy}: {error:#}");
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::BAD_GATEWAY;
    response
}
