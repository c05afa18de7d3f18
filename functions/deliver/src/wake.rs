//! The shape `wake`: the same for every notice. The app fetches what is new.

use serde_json::{Map, json};

use crate::{
    payload::{Content, MAX_TIME_TO_LIVE},
    text::Text,
};

/// The content of every notice. A later push replaces an earlier one.
pub fn content() -> Content {
    Content {
        text: Text::generic(),
        fields: Map::from_iter([("wake".to_owned(), json!("1"))]),
        thread: None,
        collapse_id: "wake".to_owned(),
        time_to_live: MAX_TIME_TO_LIVE,
    }
}
