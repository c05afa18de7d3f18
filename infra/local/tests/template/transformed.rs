//! A template of the repository after the SAM transform, for tests.

use nostr_push_local::{aws::transformed_template, tools::Tools};
use serde_json::Value;

/// A template after the SAM transform.
pub(crate) struct Template(pub(crate) Value);

impl Template {
    pub(crate) async fn main() -> Self {
        Self::load("template.yaml").await
    }

    pub(crate) async fn load(name: &str) -> Self {
        let tools = Tools::install().await.unwrap();
        Self(transformed_template(&tools, name).await.unwrap())
    }

    /// The names and properties of all resources of a type.
    pub(crate) fn of_type<'a>(
        &'a self,
        kind: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a Value)> {
        let resources = self.0["Resources"].as_object().unwrap().iter();
        resources
            .filter(move |(_, resource)| resource["Type"] == kind)
            .map(|(name, resource)| (name.as_str(), &resource["Properties"]))
    }

    pub(crate) fn properties(&self, name: &str) -> &Value {
        &self.0["Resources"][name]["Properties"]
    }
}

/// The logical id in a `Ref` or `Fn::GetAtt`.
pub(crate) fn target(value: &Value) -> &str {
    value["Fn::GetAtt"][0]
        .as_str()
        .or_else(|| value["Ref"].as_str())
        .unwrap_or_else(|| panic!("not a reference: {value}"))
}

/// The text of a `Fn::Sub`.
pub(crate) fn sub(value: &Value) -> &str {
    value["Fn::Sub"].as_str().unwrap()
}
