//! Faults that are planted in the simulated world, to show that the oracle finds them. They take
//! effect only with the feature `planted`.

/// A planted fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::VariantArray, strum::IntoStaticStr)]
pub enum Planted {
    /// Every attempt acquires the claim, even if another attempt has completed it.
    ClaimAlwaysAcquired,
    /// A claim's lease ends at once.
    ClaimWithoutLease,
    /// The devices that are done are not recorded in the claim, and it is never completed.
    ClaimNeverCompleted,
    /// Rows of devices are written whatever their version.
    DeviceVersionIgnored,
    /// An older filter or deletion overwrites a newer one.
    SubscriptionOrderIgnored,
    /// The last index row of a filter is not written.
    IndexRowLost,
    /// Index rows are not deleted.
    IndexRowKept,
    /// Index rows have no kinds in their filters, so that they match events of any kind.
    IndexFilterWithoutKinds,
    /// Messages are deleted before they are handled.
    AcknowledgedBeforeHandled,
    /// Messages that failed are deleted.
    FailuresDeleted,
    /// The last message of each batch that is sent is lost.
    LastMessageLost,
    /// The removal of a device is forgotten at once.
    TombstoneForgotten,
    /// Some pushes are published once more with another collapse id.
    PushRepeatedUnderOtherId,
    /// An older mute list overwrites a newer one.
    MuteListOrderIgnored,
    /// Mute lists are not stored.
    MuteListLost,
    /// Only the first heartbeat is stored, and no later one.
    HeartbeatLost,
    /// Heartbeats count as signed an hour later.
    HeartbeatAhead,
    /// A registration does not enable an endpoint that SNS has disabled.
    EndpointNotEnabled,
    /// Endpoints are not deleted.
    EndpointNotDeleted,
    /// Every endpoint is reported as disabled.
    EndpointReportedDisabled,
    /// The end of a registration is ignored.
    RegistrationNeverEnds,
    /// A push goes to the wrong endpoint.
    PushToOtherEndpoint,
    /// The standing of half of the owners is not found.
    StandingNotFound,
    /// Older settings overwrite newer ones.
    SettingsOrderIgnored,
    /// Some settings are not stored.
    SettingsLost,
    /// The roster is not written with the device.
    RosterNotWritten,
    /// Some rows of devices are not written.
    DeviceRowLost,
    /// The removal of all devices is forgotten at once.
    RemovalOfAllForgotten,
    /// Deletions of filters that are not stored are forgotten at once.
    DeletedFiltersForgotten,
    /// The end of a filter is ignored.
    SubscriptionNeverEnds,
    /// Ended devices and those with a rejected token are not reported to feedback.
    RetiredDevicesLost,
}
