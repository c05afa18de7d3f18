//! Reading environment variables. A stage's `config.rs` asks for all it needs and is told of every
//! bad one at once.

use std::fmt::Display;

/// The variables as read so far, and what was wrong with them.
#[derive(Default)]
pub struct Environment {
    problems: Vec<String>,
}

/// Which variables are missing or bad.
#[derive(Debug)]
pub struct BadEnvironment(Vec<String>);

impl Display for BadEnvironment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "bad environment: {}", self.0.join("; "))
    }
}

impl std::error::Error for BadEnvironment {}

impl Environment {
    /// A variable that must be there.
    pub fn required(&mut self, name: &str) -> String {
        match std::env::var(name) {
            Ok(value) if !value.is_empty() => value,
            _ => {
                self.problems.push(format!("{name} is not set"));
                String::new()
            }
        }
    }

    /// A variable that may be missing, read by `parse`.
    pub fn optional<T, E: Display>(
        &mut self,
        name: &str,
        default: T,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> T {
        match std::env::var(name) {
            Ok(value) if !value.is_empty() => parse(&value).unwrap_or_else(|error| {
                self.problems.push(format!("{name}: {error}"));
                default
            }),
            _ => default,
        }
    }

    /// A number with a default.
    pub fn number(&mut self, name: &str, default: u64) -> u64 {
        self.optional(name, default, str::parse)
    }

    /// Notes a value that is there but wrong.
    pub fn problem(&mut self, text: String) {
        self.problems.push(text);
    }

    /// `config`, if nothing was wrong.
    ///
    /// # Errors
    /// All that was.
    pub fn finish<T>(self, config: T) -> Result<T, BadEnvironment> {
        if self.problems.is_empty() {
            Ok(config)
        } else {
            Err(BadEnvironment(self.problems))
        }
    }
}
