//! `devices`: key `device`. There are two kinds of rows.
//!
//! - `app#token_hash` is the row of one token. Its owner can change: a transfer of the token to
//!   another owner is one write.
//! - `owner:app#pubkey` is an owner's roster: the token hashes that the owner registered.
//!
//! The sparse index `by_endpoint` (`endpoint_arn`) finds the device of an endpoint. The table has a
//! stream: the old image of a deleted row contains the registration to clean up.
//!
//! Guarantee: both rows are written together or not at all, each only if its `version` has not
//! changed since it was read.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_dynamodb::{
    operation::scan::builders::ScanFluentBuilder,
    types::{Put, TransactWriteItem},
};
use nostr_push_core::{
    Seconds,
    device::{Device, DeviceId, Registration, Roster},
    order::Order,
    owner::Owner,
    ports::{Devices, PortResult, Standing, Standings, Unavailable},
};
use serde::{Deserialize, Serialize};

use super::{Item, Store, n, read, s, transaction, write};
use crate::cause::{unavailable, unreadable};

const GET: &str = "dynamodb.devices.get";
const BY_ENDPOINT_QUERY: &str = "dynamodb.devices.by_endpoint";
const COMMIT: &str = "dynamodb.devices.commit";
const SCAN: &str = "dynamodb.devices.scan";

const KEY: &str = "device";
const VERSION: &str = "version";
const ENDPOINT: &str = "endpoint_arn";
const BY_ENDPOINT: &str = "by_endpoint";
const ROSTER_PREFIX: &str = "owner:";

#[derive(Serialize, Deserialize)]
struct DeviceRow {
    device: String,
    /// The endpoint of the registration, for the index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    endpoint_arn: Option<String>,
    registration: Option<Registration>,
    removals: BTreeMap<String, Order>,
    expires_at: Seconds,
    version: u64,
}

#[derive(Serialize, Deserialize)]
struct RosterRow {
    device: String,
    owner: Owner,
    devices: Vec<String>,
    removed_all: Option<Order>,
    #[serde(default = "not_recorded")]
    active_until: Seconds,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    proven: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dormant_at: Option<Seconds>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    deleted_filters: BTreeMap<String, Order>,
    expires_at: Seconds,
    version: u64,
}

impl RosterRow {
    fn into_roster(self) -> Roster {
        Roster {
            owner: self.owner,
            devices: BTreeSet::from_iter(self.devices),
            removed_all: self.removed_all,
            active_until: self.active_until,
            proven: self.proven,
            dormant_at: self.dormant_at,
            deleted_filters: self.deleted_filters,
            expires_at: self.expires_at,
            version: self.version,
        }
    }
}

/// Rosters that earlier versions wrote do not have the end of the last device. These owners count
/// as having one until control reconciles them.
fn not_recorded() -> Seconds {
    Seconds(u64::MAX)
}

/// The attributes of a roster that the matcher reads.
#[derive(Deserialize)]
struct StandingRow {
    owner: Owner,
    active_until: Option<Seconds>,
    #[serde(default)]
    proven: bool,
}

impl StandingRow {
    /// The standing. Owners whose rosters earlier versions wrote count as proven as well, until
    /// control reconciles them. Otherwise an upgrade would put the pushes to all owners under the
    /// limits for newcomers.
    fn standing(&self) -> Standing {
        Standing {
            active_until: self.active_until.unwrap_or_else(not_recorded),
            proven: self.proven || self.active_until.is_none(),
        }
    }
}

impl Standings for Store {
    async fn standings(&self, owners: &[Owner]) -> PortResult<BTreeMap<Owner, Standing>> {
        let keys = owners
            .iter()
            .map(|owner| Item::from([(KEY.to_owned(), s(roster_key(owner)))]))
            .collect();
        let rows: Vec<StandingRow> = self.batch_get(GET, &self.tables.devices, keys).await?;
        let standing = |row: StandingRow| (row.owner.clone(), row.standing());
        Ok(rows.into_iter().map(standing).collect())
    }
}

impl Devices for Store {
    async fn devices(&self, ids: &[DeviceId]) -> PortResult<Vec<Device>> {
        let keys = ids
            .iter()
            .map(|id| Item::from([(KEY.to_owned(), s(id.to_string()))]))
            .collect();
        let rows: Vec<DeviceRow> = self.batch_get(GET, &self.tables.devices, keys).await?;
        rows.into_iter().map(device).collect()
    }

    async fn roster(&self, owner: &Owner) -> PortResult<Option<Roster>> {
        let row: Option<RosterRow> = self
            .get_row(GET, &self.tables.devices, KEY, roster_key(owner))
            .await?;
        Ok(row.map(RosterRow::into_roster))
    }

    async fn device_of_endpoint(&self, endpoint_arn: &str) -> PortResult<Option<DeviceId>> {
        let request = self
            .client
            .query()
            .table_name(&self.tables.devices)
            .index_name(BY_ENDPOINT);
        let request = request
            .key_condition_expression(format!("{ENDPOINT} = :arn"))
            .expression_attribute_values(":arn", s(endpoint_arn));
        let items = request
            .limit(1)
            .send()
            .await
            .map_err(unavailable(BY_ENDPOINT_QUERY))?
            .items
            .unwrap_or_default();
        let key = items
            .first()
            .and_then(|item| item.get(KEY))
            .and_then(|key| key.as_s().ok());
        key.map(|key| device_id(key)).transpose()
    }

    async fn commit(&self, device: Option<&Device>, roster: Option<&Roster>) -> PortResult<bool> {
        let mut request = self.client.transact_write_items();
        if let Some(device) = device {
            let row = DeviceRow {
                device: device.id.to_string(),
                endpoint_arn: device
                    .registration
                    .as_ref()
                    .and_then(|registration| registration.endpoint_arn.clone()),
                registration: device.registration.clone(),
                removals: device.removals.clone(),
                expires_at: device.expires_at,
                version: device.version + 1,
            };
            request = request
                .transact_items(self.put_if_unchanged(write(COMMIT, &row)?, device.version)?);
        }
        if let Some(roster) = roster {
            let row = RosterRow {
                device: roster_key(&roster.owner),
                owner: roster.owner.clone(),
                devices: roster.devices.iter().cloned().collect(),
                removed_all: roster.removed_all,
                active_until: roster.active_until,
                proven: roster.proven,
                dormant_at: roster.dormant_at,
                deleted_filters: roster.deleted_filters.clone(),
                expires_at: roster.expires_at,
                version: roster.version + 1,
            };
            request = request
                .transact_items(self.put_if_unchanged(write(COMMIT, &row)?, roster.version)?);
        }
        transaction::commit(COMMIT, || request.clone().send()).await
    }
}

/// One row of the table.
#[derive(Debug)]
pub enum DeviceTableRow {
    /// The row of a token.
    Device(Device),
    /// The row of an owner.
    Roster(Roster),
}

/// One page of rows.
#[derive(Debug)]
pub struct DevicesPage<T> {
    /// The rows.
    pub rows: Vec<T>,
    /// The key of the last row that was read; `None` at the end.
    pub next: Option<String>,
}

impl Store {
    /// One page of the devices that have an endpoint of this platform application, in any state.
    /// The reads are consistent. They go through the whole table, because the index could lack a
    /// row that has just been written.
    ///
    /// # Errors
    /// DynamoDB failed.
    pub async fn devices_of_application(
        &self,
        platform_application: &str,
        after: Option<String>,
    ) -> PortResult<DevicesPage<Device>> {
        let endpoints = platform_application.replacen(":app/", ":endpoint/", 1);
        let scan = self
            .scan_devices(after)
            .filter_expression(format!("begins_with({ENDPOINT}, :endpoints)"))
            .expression_attribute_values(":endpoints", s(format!("{endpoints}/")));
        page(scan, |item| device(read(SCAN, item)?)).await
    }

    /// One page of all rows. The reads are consistent.
    ///
    /// # Errors
    /// DynamoDB failed.
    pub async fn device_rows(
        &self,
        after: Option<String>,
    ) -> PortResult<DevicesPage<DeviceTableRow>> {
        let is_roster = |item: &Item| {
            let key = item.get(KEY).and_then(|key| key.as_s().ok());
            // No app id contains a colon.
            key.is_some_and(|key| key.starts_with(ROSTER_PREFIX))
        };
        page(self.scan_devices(after), |item| {
            Ok(if is_roster(&item) {
                DeviceTableRow::Roster(read::<RosterRow>(SCAN, item)?.into_roster())
            } else {
                DeviceTableRow::Device(device(read(SCAN, item)?)?)
            })
        })
        .await
    }

    fn scan_devices(&self, after: Option<String>) -> ScanFluentBuilder {
        self.client
            .scan()
            .table_name(&self.tables.devices)
            .consistent_read(true)
            .set_exclusive_start_key(after.map(|key| Item::from([(KEY.to_owned(), s(key))])))
    }

    fn put_if_unchanged(&self, item: Item, version: u64) -> PortResult<TransactWriteItem> {
        let put = Put::builder()
            .table_name(&self.tables.devices)
            .set_item(Some(item));
        let put = if version == 0 {
            put.condition_expression("attribute_not_exists(device)")
        } else {
            put.condition_expression("#version = :version")
                .expression_attribute_names("#version", VERSION)
                .expression_attribute_values(":version", n(version))
        };
        Ok(TransactWriteItem::builder()
            .put(put.build().map_err(unreadable(COMMIT))?)
            .build())
    }
}

/// Reads one page of a scan.
async fn page<T>(
    scan: ScanFluentBuilder,
    row: impl Fn(Item) -> PortResult<T>,
) -> PortResult<DevicesPage<T>> {
    let page = scan.send().await.map_err(unavailable(SCAN))?;
    let items = page.items.unwrap_or_default().into_iter();
    let end = page.last_evaluated_key.and_then(|mut key| key.remove(KEY));
    Ok(DevicesPage {
        rows: items.map(row).collect::<PortResult<_>>()?,
        next: end.and_then(|key| key.as_s().ok().cloned()),
    })
}

fn roster_key(owner: &Owner) -> String {
    format!("{ROSTER_PREFIX}{owner}")
}

fn device(row: DeviceRow) -> PortResult<Device> {
    Ok(Device {
        id: device_id(&row.device)?,
        registration: row.registration,
        removals: row.removals,
        expires_at: row.expires_at,
        version: row.version,
    })
}

/// The device in a record of the table's stream; `None` for a roster.
pub(crate) fn in_stream(image: serde_dynamo::Item) -> Option<Device> {
    device(serde_dynamo::from_item(image).ok()?).ok()
}

fn device_id(key: &str) -> PortResult<DeviceId> {
    let (app, token_hash) = key
        .rsplit_once('#')
        .ok_or_else(|| Unavailable::new(GET, "a device row's key is not app#token_hash"))?;
    Ok(DeviceId {
        app: app.to_owned(),
        token_hash: token_hash.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn standing(attributes: &[(&str, Value)]) -> Standing {
        let mut row = json!({"owner": format!("demo#{:064x}", 1)});
        for (name, value) in attributes {
            row[*name] = value.clone();
        }
        serde_json::from_value::<StandingRow>(row)
            .unwrap()
            .standing()
    }

    #[test]
    fn owners_of_earlier_versions_count_as_proven() {
        let earlier = Standing {
            active_until: Seconds(u64::MAX),
            proven: true,
        };
        assert_eq!(standing(&[]), earlier);
        for (is_proven, attributes) in [
            (false, vec![("active_until", json!(7))]),
            (
                false,
                vec![("active_until", json!(7)), ("proven", json!(false))],
            ),
            (
                true,
                vec![("active_until", json!(7)), ("proven", json!(true))],
            ),
        ] {
            let expected = Standing {
                active_until: Seconds(7),
                proven: is_proven,
            };
            assert_eq!(standing(&attributes), expected);
        }
    }
}
