//! The shapes of payloads. A shape decides in which fields a push carries what it tells.

use nostr::key::PublicKey;
use serde::{Deserialize, Serialize};

use crate::app::{App, Platform};

/// The shape of a payload. `docs/protocol.md` shows each of them.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, strum::VariantArray,
)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// The fields of this service.
    Native,
    /// JSON in the data key `b`, from which a `UnifiedPush` distributor inside the app
    /// (<https://unifiedpush.org/developers/embedded_fcm/>) takes the message. FCM on Android only.
    EmbeddedDistributor,
    /// The fields of this service and those of verse-pbc's push service
    /// (<https://github.com/verse-pbc/nostr_push_service>). FCM only.
    Verse,
    /// The same text for every event, and no identifiers. The app fetches what is new.
    Wake,
}

impl Shape {
    /// Returns `true` if devices of this platform and operating system can read the shape.
    pub fn fits(self, platform: Platform, os: Option<Os>) -> bool {
        match self {
            Self::Native | Self::Wake => true,
            Self::Verse => platform == Platform::Fcm,
            Self::EmbeddedDistributor => {
                platform == Platform::Fcm && os.is_none_or(|os| os == Os::Android)
            }
        }
    }
}

/// The operating system of a device.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, strum::VariantArray,
)]
#[serde(rename_all = "lowercase")]
pub enum Os {
    /// iOS, which shows only what FCM hands to APNs.
    Ios,
    /// Android, where the app gets the data.
    Android,
    /// A browser.
    Web,
}

/// What a registration asks for about its payloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PayloadOptions {
    /// The shape. `None` means that of the app.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shape: Option<Shape>,
    /// The operating system behind an FCM token, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os: Option<Os>,
    /// The key of the device. If it is set, all that identifies a person or an event is encrypted
    /// to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encrypt_to: Option<PublicKey>,
}

impl PayloadOptions {
    /// Returns `true` if the registration asks for nothing.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The shape of the pushes to a device: the one that the registration names, else that of the
    /// app for the platform, else the default. A shape that does not fit the device is passed over.
    ///
    /// The default is [`Shape::EmbeddedDistributor`] for FCM tokens that settings of dialect H
    /// registered (`by_settings`), and [`Shape::Native`] for all others.
    pub fn shape(&self, app: &App, platform: Platform, by_settings: bool) -> Shape {
        let default = if by_settings {
            Shape::EmbeddedDistributor
        } else {
            Shape::Native
        };
        let candidates = [
            self.shape,
            app.payload.get(&platform).copied(),
            Some(default),
        ];
        candidates
            .into_iter()
            .flatten()
            .find(|shape| shape.fits(platform, self.os))
            .unwrap_or(Shape::Native)
    }
}

#[cfg(test)]
mod tests {
    use super::{Os::*, Shape::*, *};
    use crate::app::Platform::*;

    #[test]
    fn registration_precedes_app_and_app_precedes_default() {
        let native = App::named("demo");
        let verse = App {
            payload: [(Platform::Fcm, Shape::Verse)].into(),
            ..App::named("demo")
        };
        let asks = |shape, os| PayloadOptions {
            shape,
            os,
            encrypt_to: None,
        };
        for (app, options, platform, by_settings, shape) in [
            (&native, asks(None, None), Fcm, false, Native),
            (&native, asks(None, None), Fcm, true, EmbeddedDistributor),
            (
                &native,
                asks(None, Some(Android)),
                Fcm,
                true,
                EmbeddedDistributor,
            ),
            (&native, asks(None, Some(Ios)), Fcm, true, Native),
            (&native, asks(None, Some(Web)), Fcm, true, Native),
            (&native, asks(None, None), Apns, true, Native),
            (&verse, asks(None, None), Fcm, true, Verse),
            (&verse, asks(Some(Wake), None), Fcm, false, Wake),
            (&verse, asks(None, None), Apns, false, Native),
            (
                &verse,
                asks(Some(EmbeddedDistributor), Some(Ios)),
                Fcm,
                false,
                Verse,
            ),
        ] {
            let actual = options.shape(app, platform, by_settings);
            assert_eq!(actual, shape, "{options:?} {platform:?} {by_settings}");
        }
    }

    #[test]
    fn names_are_those_of_the_protocol() {
        let names: Vec<String> = <Shape as strum::VariantArray>::VARIANTS
            .iter()
            .map(|shape| serde_json::to_string(shape).unwrap())
            .collect();
        assert_eq!(
            names,
            [
                r#""native""#,
                r#""embedded-distributor""#,
                r#""verse""#,
                r#""wake""#
            ]
        );
    }
}
