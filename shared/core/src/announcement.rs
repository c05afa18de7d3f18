//! The handler information of the service: kind 31990 (NIP-89,
//! <https://github.com/nostr-protocol/nips/blob/master/89.md>). `pushctl announce` publishes it
//! under the identifier [`SERVICE`]. The listener publishes its own under [`ADMISSION`], because
//! what new owners need changes by itself and must not replace the operator's profile.

use nostr::event::{EventBuilder, Kind, Tag};

use crate::app::App;

/// The kind of handler information.
pub const HANDLER_KIND: u16 = 31_990;

/// The identifier (`d` tag) of the operator's announcement.
pub const SERVICE: &str = "nostr-push";

/// The identifier (`d` tag) of the listener's announcement.
pub const ADMISSION: &str = "nostr-push-admission";

/// What an app asks of new owners.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnnouncedApp {
    /// The app's id.
    pub app: String,
    /// Who is admitted: `open`, `pow`, `grant`, `allow` or `closed`.
    pub admission: String,
    /// The difficulty of the work (NIP-13,
    /// <https://github.com/nostr-protocol/nips/blob/master/13.md>) that is asked for now, if any.
    pub difficulty: Option<u8>,
}

impl AnnouncedApp {
    /// This app, which asks for work of this difficulty now, if of any.
    pub fn new(app: &App, difficulty: Option<u8>) -> Self {
        Self {
            app: app.app.clone(),
            admission: app.admission.as_str().to_owned(),
            difficulty,
        }
    }
}

/// An announcement: the handled kinds, and for each app the tag `["admission", <app>, <admission>]`
/// and, if it asks for work now, `["pow", <app>, <difficulty>]`. `profile` is the content: a JSON
/// object as in kind 0, or empty.
pub fn announcement(
    identifier: &str,
    profile: &str,
    kinds: &[u16],
    apps: &[AnnouncedApp],
) -> EventBuilder {
    let mut tags = vec![vec!["d".to_owned(), identifier.to_owned()]];
    tags.extend(
        kinds
            .iter()
            .map(|kind| vec!["k".to_owned(), kind.to_string()]),
    );
    for app in apps {
        let AnnouncedApp { app, admission, .. } = app;
        tags.push(vec!["admission".to_owned(), app.clone(), admission.clone()]);
    }
    for AnnouncedApp {
        app, difficulty, ..
    } in apps
    {
        if let Some(difficulty) = difficulty {
            tags.push(vec!["pow".to_owned(), app.clone(), difficulty.to_string()]);
        }
    }
    let tags = tags.into_iter().filter_map(|tag| Tag::parse(tag).ok());
    EventBuilder::new(Kind::from_u16(HANDLER_KIND), profile).tags(tags)
}

#[cfg(test)]
mod tests {
    use nostr::{event::FinalizeEvent, key::Keys};

    use super::*;

    #[test]
    fn names_kinds_admission_and_work() {
        let app = |app: &str, difficulty| AnnouncedApp {
            app: app.to_owned(),
            admission: "open".to_owned(),
            difficulty,
        };
        let apps = [app("demo", Some(20)), app("other", None)];
        let event = announcement(ADMISSION, "", &[3079, 3081], &apps)
            .finalize(&Keys::generate())
            .unwrap();
        let tags: Vec<String> = event
            .tags
            .iter()
            .map(|tag| tag.as_slice().join(" "))
            .collect();
        assert_eq!(
            tags,
            [
                "d nostr-push-admission",
                "k 3079",
                "k 3081",
                "admission demo open",
                "admission other open",
                "pow demo 20",
            ]
        );
        assert_eq!(
            (event.kind.as_u16(), event.content.as_str()),
            (HANDLER_KIND, "")
        );
    }
}
