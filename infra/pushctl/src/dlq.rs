//! `pushctl dlq`: the dead-letter queues. Redriving sends to the queue before it deletes: dying in
//! between repeats a message, which every stage takes, and loses none.

use anyhow::{Context, Result};
use aws_sdk_sqs::{
    Client,
    types::{Message, QueueAttributeName},
};
use serde_json::{Value, json};

use crate::operator::Operator;

/// The queues, in the order of the flow.
pub(crate) const QUEUES: [&str; 4] = ["control", "event", "delivery", "feedback"];

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// How many messages each dead-letter queue has.
    List,
    /// Shows some messages of one. They stay.
    Show {
        /// `control`, `event`, `delivery` or `feedback`.
        #[arg(value_parser = QUEUES)]
        queue: String,
        /// At most so many.
        #[arg(long, default_value_t = 10)]
        max: usize,
    },
    /// Sends all messages of one back to where they came from.
    Redrive {
        /// `control`, `event`, `delivery` or `feedback`.
        #[arg(value_parser = QUEUES)]
        queue: String,
    },
}

pub(crate) async fn run(operator: &Operator, command: &Command) -> Result<()> {
    let queues = Queues {
        client: Client::new(&operator.aws),
        stack: &operator.stack,
    };
    match command {
        Command::List => {
            let mut counts = Vec::new();
            for queue in QUEUES {
                counts.push((queue, queues.dead(queue).await?));
            }
            let lines: Vec<String> = counts
                .iter()
                .map(|(queue, n)| format!("{queue}: {n}"))
                .collect();
            operator.answer(
                &json!(
                    counts
                        .into_iter()
                        .map(|(queue, n)| (queue.to_owned(), json!(n)))
                        .collect::<serde_json::Map<_, _>>()
                ),
                lines.join("\n"),
            );
        }
        Command::Show { queue, max } => {
            let url = queues.url(&format!("{queue}-dead")).await?;
            let mut shown: Vec<Value> = Vec::new();
            while shown.len() < *max {
                // Hidden for a minute, so that each is shown once.
                let messages = queues.receive(&url, 60).await?;
                if messages.is_empty() {
                    break;
                }
                shown.extend(messages.into_iter().map(|message| {
                    let body = message.body.unwrap_or_default();
                    json!({"message_id": message.message_id, "body": serde_json::from_str::<Value>(&body).unwrap_or(Value::from(body))})
                }));
            }
            shown.truncate(*max);
            operator.answer(&json!(shown), serde_json::to_string_pretty(&shown)?);
        }
        Command::Redrive { queue } => {
            let (from, to) = (
                queues.url(&format!("{queue}-dead")).await?,
                queues.url(queue).await?,
            );
            let mut moved = 0;
            loop {
                let messages = queues.receive(&from, 120).await?;
                if messages.is_empty() {
                    break;
                }
                for message in messages {
                    let body = message.body.unwrap_or_default();
                    queues
                        .client
                        .send_message()
                        .queue_url(&to)
                        .message_body(body)
                        .send()
                        .await
                        .context("the queue takes no message")?;
                    let receipt = message.receipt_handle.unwrap_or_default();
                    queues
                        .client
                        .delete_message()
                        .queue_url(&from)
                        .receipt_handle(receipt)
                        .send()
                        .await
                        .context("a message was sent back but not deleted")?;
                    moved += 1;
                }
                eprintln!("{queue}: {moved} sent back so far");
            }
            operator.answer(
                &json!({"queue": queue, "moved": moved}),
                format!("{queue}: {moved} sent back"),
            );
        }
    }
    Ok(())
}

/// The stack's queues.
pub(crate) struct Queues<'a> {
    pub(crate) client: Client,
    pub(crate) stack: &'a str,
}

impl Queues<'_> {
    async fn url(&self, name: &str) -> Result<String> {
        let name = format!("{}-{name}", self.stack);
        let answer = self
            .client
            .get_queue_url()
            .queue_name(&name)
            .send()
            .await
            .with_context(|| format!("there is no queue {name}"))?;
        answer.queue_url.context("no URL")
    }

    /// How many dead letters a queue has.
    pub(crate) async fn dead(&self, queue: &str) -> Result<u64> {
        let url = self.url(&format!("{queue}-dead")).await?;
        let count = QueueAttributeName::ApproximateNumberOfMessages;
        let answer = self
            .client
            .get_queue_attributes()
            .queue_url(url)
            .attribute_names(count.clone())
            .send()
            .await?;
        Ok(answer
            .attributes
            .and_then(|attributes| attributes.get(&count)?.parse().ok())
            .unwrap_or_default())
    }

    async fn receive(&self, url: &str, hidden: i32) -> Result<Vec<Message>> {
        let request = self
            .client
            .receive_message()
            .queue_url(url)
            .max_number_of_messages(10)
            .visibility_timeout(hidden)
            .wait_time_seconds(1);
        Ok(request
            .send()
            .await
            .context("the queue gives no message")?
            .messages
            .unwrap_or_default())
    }
}
