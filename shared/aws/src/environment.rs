//! Environment variables. A stage's `config.rs` reads all that it needs, and gets one error that
//! names every missing or bad variable.

use std::fmt::Display;

/// A reader of environment variables that collects the problems it finds.
#[derive(Default)]
pub struct Environment {
    problems: Vec<String>,
}

/// The variables that are missing or bad.
#[derive(Debug)]
pub struct BadEnvironment(Vec<String>);

impl Display for BadEnvironment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "bad environment: {}", self.0.join("; "))
    }
}

impl std::error::Error for BadEnvironment {}

impl Environment {
    /// A required variable.
    pub fn required(&mut self, name: &str) -> String {
        match std::env::var(name) {
            Ok(value) if !value.is_empty() => value,
            _ => {
                self.problems.push(format!("{name} is not set"));
                String::new()
            }
        }
    }

    /// An optional variable, parsed by `parse`.
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

    /// An optional text.
    pub fn text(&mut self, name: &str) -> Option<String> {
        std::env::var(name).ok().filter(|value| !value.is_empty())
    }

    /// An optional number.
    pub fn number(&mut self, name: &str, default: u64) -> u64 {
        self.optional(name, default, str::parse)
    }

    /// Records a problem with a value.
    pub fn problem(&mut self, text: String) {
        self.problems.push(text);
    }

    /// Returns `config` if there was no problem.
    ///
    /// # Errors
    /// All problems.
    pub fn finish<T>(self, config: T) -> Result<T, BadEnvironment> {
        if self.problems.is_empty() {
            Ok(config)
        } else {
            Err(BadEnvironment(self.problems))
        }
    }
}
