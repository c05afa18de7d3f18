//! `apps`: key `app`. Holds platform applications and options. Reads go through a cache of 60 s.

use std::collections::BTreeSet;

use aws_sdk_dynamodb::types::AttributeValue;
use nostr::key::PublicKey;
use nostr_push_core::{
    app::App,
    ports::{AllApps, Apps, PortResult},
};

use super::{Store, blocklist::BLOCKED, conditional, read, s, write};
use crate::cause::unavailable;

const GET: &str = "dynamodb.apps.get";
const PUT: &str = "dynamodb.apps.put";

impl Apps for Store {
    async fn app(&self, app: &str) -> PortResult<Option<App>> {
        let load = async {
            let answer = self
                .client
                .get_item()
                .table_name(&self.tables.apps)
                .key("app", s(app))
                .send()
                .await
                .map_err(unavailable(GET))?;
            answer.item.map(|item| read(GET, item)).transpose()
        };
        self.apps
            .try_get_with_by_ref(app, load)
            .await
            .map_err(|error| (*error).clone())
    }
}

impl AllApps for Store {
    async fn all_apps(&self) -> PortResult<Vec<App>> {
        Self::all_apps(self).await
    }

    async fn all_blocked(&self) -> PortResult<BTreeSet<PublicKey>> {
        let blocked = self.blocked().await?;
        let pubkeys = blocked.iter().map(|hex| PublicKey::from_hex(hex));
        Ok(pubkeys.filter_map(Result::ok).collect())
    }
}

impl Store {
    /// Stores an app. Functions see it within 60 s.
    ///
    /// # Errors
    /// DynamoDB failed.
    pub async fn put_app(&self, app: &App) -> PortResult<()> {
        let item = write(PUT, app)?;
        self.client
            .put_item()
            .table_name(&self.tables.apps)
            .set_item(Some(item))
            .send()
            .await
            .map_err(unavailable(PUT))
            .map(drop)
    }

    /// Stores the pubkeys that the app's follow lists name. Returns `false` if there is no such
    /// app. The other attributes keep their values.
    ///
    /// # Errors
    /// DynamoDB failed.
    pub async fn set_followed(&self, app: &str, followed: &[PublicKey]) -> PortResult<bool> {
        const UPDATE: &str = "dynamodb.apps.set_followed";
        let followed = followed.iter().map(|pubkey| s(pubkey.to_hex())).collect();
        let request = self
            .client
            .update_item()
            .table_name(&self.tables.apps)
            .key("app", s(app))
            .update_expression("SET followed = :followed")
            .condition_expression("attribute_exists(app)")
            .expression_attribute_values(":followed", AttributeValue::L(followed));
        conditional(UPDATE, request.send().await)
    }

    /// Removes an app. Functions may still see it for 60 s.
    ///
    /// # Errors
    /// DynamoDB failed.
    pub async fn delete_app(&self, app: &str) -> PortResult<()> {
        const DELETE: &str = "dynamodb.apps.delete";
        self.client
            .delete_item()
            .table_name(&self.tables.apps)
            .key("app", s(app))
            .send()
            .await
            .map_err(unavailable(DELETE))
            .map(drop)
    }

    /// All apps.
    ///
    /// # Errors
    /// DynamoDB failed.
    pub async fn all_apps(&self) -> PortResult<Vec<App>> {
        const SCAN: &str = "dynamodb.apps.scan";
        let mut pages = self
            .client
            .scan()
            .table_name(&self.tables.apps)
            .into_paginator()
            .items()
            .send();
        let mut apps = Vec::new();
        while let Some(item) = pages.next().await {
            let item = item.map_err(unavailable(SCAN))?;
            if item.get("app") != Some(&s(BLOCKED)) {
                apps.push(read(SCAN, item)?);
            }
        }
        Ok(apps)
    }
}
