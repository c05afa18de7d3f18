//! Authors: they publish notes, reactions, messages and wraps that mention clients.

use std::sync::Arc;

use nostr::{
    event::Event,
    key::{Keys, PublicKey},
};
use nostr_push_testkit::event;

use crate::{
    random::Random,
    relays::Relays,
    world::{World, keys},
};

/// A hashtag that some clients follow.
pub const TOPIC: &str = "nostr";

/// What all people know.
pub struct People {
    /// The names and pubkeys of the clients.
    pub clients: Vec<(String, PublicKey)>,
    /// The authors.
    pub authors: Vec<Keys>,
}

/// The keys of the authors.
pub fn authors(world: &World) -> Vec<Keys> {
    let names = ["xena", "yuri", "zoe"];
    names
        .into_iter()
        .map(|name| {
            let keys = keys(&world.random);
            world.trace.name(keys.public_key().to_hex(), name);
            keys
        })
        .collect()
}

/// Publishes events for as long as the run lasts.
pub async fn run(world: Arc<World>, relays: Arc<Relays>, people: Arc<People>, random: Random) {
    let mut number = 0;
    while !world.faults.is_over() {
        let time = random.uneven_millis(20_000, 900_000);
        world.sleep(world.at_pace(time)).await;
        if let Some(author) = random.pick(&people.authors) {
            number += 1;
            let published = draw(&world, &random, &people, author, number);
            let at = world.now();
            world.oracle().published(&published, at);
            relays.publish(&published);
        }
    }
}

/// An event by this author.
fn draw(world: &World, random: &Random, people: &People, author: &Keys, number: u64) -> Event {
    let (kind, name) = *random
        .pick(&[
            (1, "note"),
            (1, "note"),
            (7, "reaction"),
            (4, "message"),
            (1059, "wrap"),
        ])
        .unwrap_or(&(1, "note"));
    let mut now = world.seconds().0;
    let mentioned: Vec<&(String, PublicKey)> = match kind {
        1 => (0..random.between(0, 3))
            .filter_map(|_| random.pick(&people.clients))
            .collect(),
        _ => random.pick(&people.clients).into_iter().collect(),
    };
    let one_time = keys(random);
    let author = if kind == 1059 { &one_time } else { author };
    match kind {
        // Wraps are backdated.
        1059 => now -= random.between(0, 2 * 86_400),
        _ => now = now + 60 - random.between(0, 300),
    }
    let hex: Vec<String> = mentioned
        .iter()
        .map(|(_, pubkey)| pubkey.to_hex())
        .collect();
    let mut tags: Vec<Vec<&str>> = hex.iter().map(|hex| vec!["p", hex]).collect();
    if kind == 1 && random.happens(300_000) {
        tags.push(vec!["t", TOPIC]);
    }
    let expiration = (now + random.between(120, 7_200)).to_string();
    if random.happens(100_000) {
        tags.push(vec!["expiration", &expiration]);
    }
    let tags: Vec<&[&str]> = tags.iter().map(Vec::as_slice).collect();
    let content = format!("{name} {number}");
    let published = event(author, kind, now, &tags, &content);
    world.trace.name(published.id.to_hex(), content.clone());
    world.tell(|| {
        let to: Vec<&str> = mentioned.iter().map(|(name, _)| name.as_str()).collect();
        let by = world.trace.name_of(&author.public_key().to_hex());
        format!("{by} publishes {content} (kind {kind}) to {to:?}")
    });
    published
}
