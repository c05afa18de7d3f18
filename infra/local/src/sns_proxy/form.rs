//! Requests and ARNs of SNS. A request is a form
//! (<https://docs.aws.amazon.com/sns/latest/api/welcome.html>).

use std::collections::HashMap;

use anyhow::Result;
use axum::{
    body::Bytes,
    http::{HeaderMap, header},
};
use serde_json::{Value, json};

use crate::aws::{REGION, unsigned_authorization};

/// The most attributes of a request that are read.
const MAX_ATTRIBUTES: usize = 10;

/// The fields of a request.
pub(super) struct Form(HashMap<String, String>);

impl Form {
    pub(super) fn parse(body: &[u8]) -> Self {
        Self(form_urlencoded::parse(body).into_owned().collect())
    }

    /// A field, or the empty string if it is absent.
    pub(super) fn get(&self, name: &str) -> &str {
        self.0.get(name).map(String::as_str).unwrap_or_default()
    }

    /// The attributes that a request sets: name and value.
    pub(super) fn attributes(&self) -> impl Iterator<Item = (String, String)> + '_ {
        self.entries("Attributes.entry", "key", "value")
    }

    /// The message attributes of a publish.
    pub(super) fn message_attributes(&self) -> impl Iterator<Item = (String, Value)> + '_ {
        self.entries("MessageAttributes.entry", "Name", "Value.StringValue")
            .map(|(name, value)| (name, json!(value)))
    }

    /// The pairs `<list>.1.<name>`, `<list>.1.<value>`, `<list>.2.<name>` and so on.
    fn entries<'a>(
        &'a self,
        list: &'a str,
        name: &'a str,
        value: &'a str,
    ) -> impl Iterator<Item = (String, String)> + 'a {
        (1..=MAX_ATTRIBUTES).map_while(move |n| {
            let field = |part: &str| self.0.get(&format!("{list}.{n}.{part}")).cloned();
            Some((field(name)?, field(value)?))
        })
    }
}

/// The headers of a request.
pub(super) fn headers(authorization: &str) -> Result<HeaderMap> {
    let content_type = "application/x-www-form-urlencoded; charset=utf-8";
    let mut headers = HeaderMap::new();
    headers.insert(header::AUTHORIZATION, authorization.parse()?);
    headers.insert(header::CONTENT_TYPE, content_type.parse()?);
    Ok(headers)
}

/// The request that disables an endpoint.
pub(super) fn disable_endpoint(arn: &str) -> Result<(HeaderMap, Bytes)> {
    let fields = [
        ("Action", "SetEndpointAttributes"),
        ("Version", "2010-03-31"),
        ("EndpointArn", arn),
        ("Attributes.entry.1.key", "Enabled"),
        ("Attributes.entry.1.value", "false"),
    ];
    let body = form_urlencoded::Serializer::new(String::new())
        .extend_pairs(fields)
        .finish();
    let region = arn.split(':').nth(3).unwrap_or(REGION);
    let headers = headers(&unsigned_authorization(region, "sns"))?;
    Ok((headers, Bytes::from(body)))
}

/// The ARN of an endpoint's platform application: `…:app/PLATFORM/application`.
pub(crate) fn application_of(arn: &str) -> String {
    arn.rsplit_once('/')
        .map(|(application, _)| application.replacen(":endpoint/", ":app/", 1))
        .unwrap_or_default()
}

/// The text of the first XML element with this name.
pub(super) fn xml_element(body: &[u8], name: &str) -> Option<String> {
    let text = std::str::from_utf8(body).ok()?;
    let after = text.split_once(&format!("<{name}>"))?.1;
    Some(after.split_once('<')?.0.to_owned())
}
