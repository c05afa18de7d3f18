//! Lowercase hexadecimal, the form of ids and pubkeys in NIP-01
//! (<https://github.com/nostr-protocol/nips/blob/master/01.md>).

/// The hex characters, by their value.
const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// The value of each lowercase hex character; 0xf0 for every other byte.
const NIBBLE: [u8; 256] = {
    let mut table = [0xf0; 256];
    let mut digit = 0;
    while digit < 16 {
        table[DIGITS[digit as usize] as usize] = digit;
        digit += 1;
    }
    table
};

/// Encodes bytes as lowercase hex.
pub fn encode(bytes: &[u8]) -> String {
    digits(bytes).map(char::from).collect()
}

/// The hex characters of bytes, without allocating.
pub fn digits(bytes: &[u8]) -> impl Iterator<Item = u8> + '_ {
    let digit = |nibble: u8| DIGITS[usize::from(nibble)];
    bytes
        .iter()
        .flat_map(move |byte| [digit(byte >> 4), digit(byte & 0x0f)])
}

/// Decodes exactly 64 lowercase hex characters. Anything else is `None`.
///
/// There is no branch per character, because the listener calls this for every tag of every event.
pub fn decode_32(text: &str) -> Option<[u8; 32]> {
    let text: &[u8; 64] = text.as_bytes().try_into().ok()?;
    let mut bytes = [0; 32];
    let mut invalid = 0;
    for (byte, pair) in bytes.iter_mut().zip(text.as_chunks::<2>().0) {
        let (high, low) = (NIBBLE[usize::from(pair[0])], NIBBLE[usize::from(pair[1])]);
        invalid |= (high | low) & 0xf0;
        *byte = high << 4 | (low & 0x0f);
    }
    (invalid == 0).then_some(bytes)
}

/// A list of 32-byte values as a JSON array of hex strings, for `#[serde(with = "hex::list")]`.
pub mod list {
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    /// Writes the values as hex strings.
    pub fn serialize<S: Serializer>(values: &[[u8; 32]], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(values.iter().map(|value| super::encode(value)))
    }

    /// Reads hex strings of exactly 64 lowercase characters.
    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<[u8; 32]>, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        let decode = |text: &String| {
            super::decode_32(text)
                .ok_or_else(|| D::Error::custom("not 64 lowercase hex characters"))
        };
        texts.iter().map(decode).collect()
    }
}

/// As [`list`], for a list that may be absent (`null`).
pub mod optional_list {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(transparent)]
    struct List(#[serde(with = "super::list")] Vec<[u8; 32]>);

    /// Writes the values as hex strings, or `null`.
    pub fn serialize<S: Serializer>(
        values: &Option<Vec<[u8; 32]>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        values.clone().map(List).serialize(serializer)
    }

    /// Reads hex strings of exactly 64 lowercase characters, or `null`.
    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Vec<[u8; 32]>>, D::Error> {
        Ok(Option::<List>::deserialize(deserializer)?.map(|list| list.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_only_64_lowercase_characters() {
        assert_eq!(decode_32(&"0f".repeat(32)), Some([0x0f; 32]));
        for bad in [
            "",
            "0f",
            &"0F".repeat(32),
            &"0g".repeat(32),
            &"é0".repeat(32),
            &"0f".repeat(33),
        ] {
            assert_eq!(decode_32(bad), None);
        }
    }

    #[test]
    fn encodes_what_it_decodes() {
        let text = "0123456789abcdef".repeat(4);
        assert_eq!(encode(&decode_32(&text).unwrap()), text);
    }
}
