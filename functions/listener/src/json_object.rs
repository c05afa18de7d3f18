//! JSON objects of which each field is read by itself, so that a malformed field leaves the others.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

/// A JSON object. Its fields are checked when they are read.
#[derive(Debug, Default)]
pub struct JsonObject<'a>(BTreeMap<String, &'a RawValue>);

impl<'a> JsonObject<'a> {
    /// The object in this text. Anything else is an object without fields.
    pub fn parse(json: &'a [u8]) -> Self {
        Self(serde_json::from_slice(json).unwrap_or_default())
    }

    /// The value of a field. `None` if the field is missing or no `T`.
    pub fn get<T: DeserializeOwned>(&self, field: &str) -> Option<T> {
        serde_json::from_str(self.0.get(field)?.get()).ok()
    }

    /// The object in a field. Anything else is an object without fields.
    #[must_use]
    pub fn object(&self, field: &str) -> Self {
        let json = self.0.get(field).map(|value| value.get().as_bytes());
        json.map(Self::parse).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_field_leaves_the_others() {
        let json = r#"{"a": "\ud83d", "b": 1e999, "c": {"d": [null]}, "name": "x", "name": "y"}"#;
        let object = JsonObject::parse(json.as_bytes());
        assert_eq!(object.get::<String>("name").as_deref(), Some("y"));
        assert_eq!(object.get::<String>("a"), None);
        assert_eq!(object.get::<usize>("b"), None);
        assert_eq!(object.get::<String>("missing"), None);
        let inner = object.object("c");
        assert_eq!(inner.get::<Vec<()>>("d"), Some(vec![()]));
    }

    #[test]
    fn what_is_no_object_has_no_fields() {
        for json in ["", "<html>", "[1]", "null", "{\"a\": 1", "{\"a\": 1} b"] {
            let object = JsonObject::parse(json.as_bytes());
            assert_eq!(object.get::<usize>("a"), None, "{json}");
        }
        let object = JsonObject::parse(br#"{"a": "b"}"#);
        assert_eq!(object.object("a").get::<usize>("b"), None);
    }
}
