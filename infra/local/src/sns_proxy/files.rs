//! Files of JSON lines.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    path::Path,
};

use anyhow::Result;
use serde::de::DeserializeOwned;

/// Reads all lines of a file. An incomplete line, which a killed process may leave, is skipped.
pub(super) fn read_lines<T: DeserializeOwned>(path: &Path) -> Vec<T> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}

/// Opens a file for appending lines. If its last line is incomplete, the next line starts after it.
pub(super) fn append(path: &Path) -> Result<File> {
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    let ends_inside_line = |bytes: Vec<u8>| bytes.last().is_some_and(|byte| *byte != b'\n');
    if ends_inside_line(fs::read(path)?) {
        writeln!(file)?;
    }
    Ok(file)
}
