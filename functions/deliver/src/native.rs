//! The shape `native`: the fields of this service.

use crate::{
    notice::Notice,
    payload::{Content, Truncation},
};

/// The content of a notice.
pub fn content(notice: &Notice<'_>, truncation: Truncation) -> Content {
    Content {
        text: notice.text(truncation),
        fields: notice.routing_fields(truncation),
        thread: Some(notice.thread()),
        collapse_id: notice.id(),
        time_to_live: notice.time_to_live(),
    }
}
