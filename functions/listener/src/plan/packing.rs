//! Packs index keys into the filters of one REQ.

use nostr_push_core::{MUTE_LIST_KIND, hex, index_key::IndexKey, is_private_kind};
use serde_json::json;

use super::{
    Key, PlanClass,
    kinds::{MAX_NAMED_KINDS, NamedKinds},
};
use crate::req::{
    EventClass, MAX_ENVELOPE_BYTES, MAX_RANGE_BYTES, MAX_VALUES_PER_FILTER, ReqFilter,
};

/// The field of a filter that requests an index key. Keys of one field share filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Field {
    Ids,
    Authors,
    MuteLists,
    Tag(char),
    PublicKinds,
    PrivateKinds,
}

impl Field {
    fn of(key: &IndexKey) -> Self {
        match key {
            IndexKey::Id(_) => Self::Ids,
            IndexKey::Author(_) => Self::Authors,
            IndexKey::MuteList(_) => Self::MuteLists,
            IndexKey::Tag(letter, _) => Self::Tag(*letter),
            IndexKey::Kind(kind) if is_private_kind(*kind) => Self::PrivateKinds,
            IndexKey::Kind(_) => Self::PublicKinds,
        }
    }

    /// The name of the field, quoted.
    fn name(self) -> String {
        match self {
            Self::Ids => "\"ids\"".to_owned(),
            Self::Authors | Self::MuteLists => "\"authors\"".to_owned(),
            Self::Tag(letter) => format!("\"#{letter}\""),
            Self::PublicKinds | Self::PrivateKinds => "\"kinds\"".to_owned(),
        }
    }

    /// The `kinds` fields of the filters that a list of values becomes.
    fn kinds(self, named: &NamedKinds) -> Vec<(String, EventClass)> {
        match self {
            Self::Ids | Self::Authors | Self::Tag(_) => named.fields.clone(),
            Self::MuteLists => {
                vec![(
                    format!("\"kinds\":[{MUTE_LIST_KIND}]"),
                    EventClass::MuteList,
                )]
            }
            Self::PublicKinds => vec![(String::new(), EventClass::Public)],
            Self::PrivateKinds => vec![(String::new(), EventClass::Private)],
        }
    }

    fn max_values(self) -> usize {
        match self {
            Self::PublicKinds | Self::PrivateKinds => MAX_NAMED_KINDS,
            _ => MAX_VALUES_PER_FILTER,
        }
    }
}

/// Keys sorted by field.
pub(super) fn sorted(mut keys: Vec<Key>) -> Vec<Key> {
    keys.sort_unstable_by(|(one, _), (two, _)| (Field::of(one), one).cmp(&(Field::of(two), two)));
    keys
}

/// The value of an index key as JSON.
fn value(key: &IndexKey) -> String {
    match key {
        IndexKey::Id(bytes) | IndexKey::Author(bytes) | IndexKey::MuteList(bytes) => {
            format!("\"{}\"", hex::encode(bytes))
        }
        IndexKey::Tag(_, value) => json!(value).to_string(),
        IndexKey::Kind(kind) => kind.to_string(),
    }
}

/// Fills one REQ with keys, counted in encoded bytes.
pub(super) struct Packing<'a> {
    class: PlanClass,
    kinds: &'a NamedKinds,
    lists: Vec<ValueList>,
    filters: usize,
    /// The bytes of the message, at most.
    pub(super) bytes: usize,
}

/// The values of one field, which become one or two filters.
struct ValueList {
    field: Field,
    kinds: Vec<(String, EventClass)>,
    /// The values, separated by commas.
    values: String,
    count: usize,
}

impl<'a> Packing<'a> {
    /// An empty REQ.
    pub(super) fn new(class: PlanClass, kinds: &'a NamedKinds) -> Self {
        Self {
            class,
            kinds,
            lists: Vec::new(),
            filters: 0,
            bytes: MAX_ENVELOPE_BYTES,
        }
    }

    /// Adds a key. Returns `false`, without adding it, if it does not fit.
    pub(super) fn add(&mut self, key: &IndexKey) -> bool {
        let (field, value) = (Field::of(key), value(key));
        let has_room =
            |list: &&mut ValueList| list.field == field && list.count < field.max_values();
        if let Some(list) = self.lists.last_mut().filter(has_room) {
            let bytes = self.bytes + list.kinds.len() * (value.len() + 1);
            if bytes > self.class.message_bytes {
                return false;
            }
            self.bytes = bytes;
            list.values.push(',');
            list.values.push_str(&value);
            list.count += 1;
            return true;
        }
        let kinds = field.kinds(self.kinds);
        let filters = self.filters + kinds.len();
        // The braces, commas, colon and brackets of the fields take eight bytes.
        let fixed = MAX_RANGE_BYTES + field.name().len() + 8;
        let added = kinds
            .iter()
            .map(|(kinds, _)| fixed + kinds.len() + value.len());
        let bytes = self.bytes + added.sum::<usize>();
        if filters > self.class.filters || bytes > self.class.message_bytes {
            return false;
        }
        (self.filters, self.bytes) = (filters, bytes);
        self.lists.push(ValueList {
            field,
            kinds,
            values: value,
            count: 1,
        });
        true
    }

    /// The filters of the REQ.
    pub(super) fn filters(self) -> Vec<ReqFilter> {
        let filters = |list: &ValueList| {
            let name = list.field.name();
            let filter = |(kinds, class): &(String, EventClass)| {
                let separator = if kinds.is_empty() { "" } else { "," };
                ReqFilter {
                    body: format!("{{{kinds}{separator}{name}:[{}]", list.values).into(),
                    class: *class,
                }
            };
            list.kinds.iter().map(filter).collect::<Vec<_>>()
        };
        self.lists.iter().flat_map(filters).collect()
    }
}
