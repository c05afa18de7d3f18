//! A parser of CloudWatch's search expressions, as strict as AWS's page
//! (<https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/search-expression-syntax.html>).

use std::str::Chars;

/// A search expression of the form `SEARCH('{namespace,dimension …} name="value" …', 'stat', 60)`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Search {
    /// The namespace of the metrics.
    pub(crate) namespace: String,
    /// The names of their dimensions.
    pub(crate) dimensions: Vec<String>,
    /// The terms: names of dimensions or `MetricName`, each with its value.
    pub(crate) terms: Vec<(String, String)>,
    /// The statistic.
    pub(crate) statistic: String,
}

impl Search {
    /// Parses an expression.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let inner = text
            .strip_prefix("SEARCH(")
            .and_then(|rest| rest.strip_suffix(')'))
            .ok_or("not a SEARCH")?;
        let quoted: Vec<&str> = inner.split('\'').collect();
        let ["", query, ", ", statistic, period] = quoted[..] else {
            return Err(format!("not two parts in single quotes: {inner}"));
        };
        let period = period.strip_prefix(", ").unwrap_or_default();
        period
            .parse::<u32>()
            .map_err(|_| format!("not a period: {period}"))?;
        let schema = query.strip_prefix('{').ok_or("the schema is missing")?;
        let (schema, terms) = schema.split_once('}').ok_or("the schema does not end")?;
        let mut names = schema.split(',').map(name);
        Ok(Self {
            namespace: names.next().ok_or("no namespace")??,
            dimensions: names.collect::<Result<_, _>>()?,
            terms: terms
                .split_whitespace()
                .map(term)
                .collect::<Result<_, _>>()?,
            statistic: statistic.to_owned(),
        })
    }
}

/// A name in the schema. It needs double quotes if it has a character that is not alphanumeric. The
/// slash of AWS's own namespaces is an exception in AWS's examples.
fn name(text: &str) -> Result<String, String> {
    if let Some(inner) = quoted(text) {
        return Ok(inner.to_owned());
    }
    let is_plain = |mut chars: Chars| chars.all(|c| c.is_ascii_alphanumeric() || c == '/');
    if text.is_empty() || !is_plain(text.chars()) {
        return Err(format!("{text} needs double quotes"));
    }
    Ok(text.to_owned())
}

/// A term such as `MetricName="Events"`. Without the quotes it would match parts of words.
fn term(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("not an exact match")?;
    let value = quoted(value).ok_or(format!("{value} needs double quotes"))?;
    Ok((name.to_owned(), value.to_owned()))
}

fn quoted(text: &str) -> Option<&str> {
    text.strip_prefix('"')?.strip_suffix('"')
}

#[test]
fn search_without_quotes_around_a_hyphen_is_refused() {
    let search = |namespace| {
        let text = format!("SEARCH('{{{namespace},Stage}} MetricName=\"Events\"', 'Sum', 60)");
        Search::parse(&text)
    };
    assert_eq!(
        search("nostr-push"),
        Err("nostr-push needs double quotes".to_owned())
    );
    assert_eq!(
        search("\"nostr-push\""),
        Ok(Search {
            namespace: "nostr-push".to_owned(),
            dimensions: vec!["Stage".to_owned()],
            terms: vec![("MetricName".to_owned(), "Events".to_owned())],
            statistic: "Sum".to_owned(),
        })
    );
    assert!(search("AWS/SQS").is_ok());
}
