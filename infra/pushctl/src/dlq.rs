//! `pushctl dlq`: the dead-letter queues.
//!
//! A redrive sends a message to its queue before it deletes the dead letter. If the process crashes
//! in between, the message is repeated, which every stage tolerates. No message is lost.

use anyhow::{Context, Result};
use aws_sdk_sqs::{
    Client,
    types::{Message, QueueAttributeName},
};
use serde_json::{Map, Value, json};

use crate::context::CommandContext;

/// The queues, in the order in which an event passes them.
pub(crate) const QUEUES: [&str; 4] = ["control", "event", "delivery", "feedback"];

/// How many seconds `show` hides a message, so that it shows each message once.
const SHOW_VISIBILITY_TIMEOUT: i32 = 60;

/// How many seconds `redrive` hides a message that it is about to delete.
const REDRIVE_VISIBILITY_TIMEOUT: i32 = 120;

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Counts the messages of each dead-letter queue.
    List,
    /// Shows messages of a dead-letter queue. They stay in it.
    Show {
        /// The queue: `control`, `event`, `delivery` or `feedback`.
        #[arg(value_parser = QUEUES)]
        queue: String,
        /// The maximum number of messages.
        #[arg(long, default_value_t = 10)]
        max: usize,
    },
    /// Sends all messages of a dead-letter queue back to their queue.
    Redrive {
        /// The queue: `control`, `event`, `delivery` or `feedback`.
        #[arg(value_parser = QUEUES)]
        queue: String,
    },
}

pub(crate) async fn run(context: &CommandContext, command: &Command) -> Result<()> {
    let queues = Queues::of(context);
    match command {
        Command::List => list(context, &queues).await,
        Command::Show { queue, max } => show(context, &queues, queue, *max).await,
        Command::Redrive { queue } => redrive(context, &queues, queue).await,
    }
}

async fn list(context: &CommandContext, queues: &Queues<'_>) -> Result<()> {
    let mut counts = Map::new();
    let mut lines = Vec::new();
    for queue in QUEUES {
        let n = queues.dead_letters(queue).await?;
        counts.insert(queue.to_owned(), json!(n));
        lines.push(format!("{queue}: {n}"));
    }
    context.print(&json!(counts), lines.join("\n"));
    Ok(())
}

async fn show(
    context: &CommandContext,
    queues: &Queues<'_>,
    queue: &str,
    max: usize,
) -> Result<()> {
    let url = queues.dead_letter_url(queue).await?;
    let mut shown: Vec<Value> = Vec::new();
    while shown.len() < max {
        let messages = queues.receive(&url, SHOW_VISIBILITY_TIMEOUT).await?;
        if messages.is_empty() {
            break;
        }
        shown.extend(messages.into_iter().map(show_message));
    }
    shown.truncate(max);
    context.print_json(&json!(shown));
    Ok(())
}

fn show_message(message: Message) -> Value {
    let text = message.body.unwrap_or_default();
    let body: Value = serde_json::from_str(&text).unwrap_or(Value::from(text));
    json!({"message_id": message.message_id, "body": body})
}

async fn redrive(context: &CommandContext, queues: &Queues<'_>, queue: &str) -> Result<()> {
    let from = queues.dead_letter_url(queue).await?;
    let to = queues.url(queue).await?;
    let mut moved = 0;
    loop {
        let messages = queues.receive(&from, REDRIVE_VISIBILITY_TIMEOUT).await?;
        if messages.is_empty() {
            break;
        }
        for message in messages {
            queues.move_message(message, &from, &to).await?;
            moved += 1;
        }
        eprintln!("{queue}: {moved} sent back so far");
    }
    context.print(
        &json!({"queue": queue, "moved": moved}),
        format_args!("{queue}: {moved} sent back"),
    );
    Ok(())
}

/// The queues of a stack.
pub(crate) struct Queues<'a> {
    client: Client,
    stack: &'a str,
}

impl<'a> Queues<'a> {
    pub(crate) fn of(context: &'a CommandContext) -> Self {
        Self {
            client: Client::new(&context.aws),
            stack: &context.stack,
        }
    }

    async fn url(&self, name: &str) -> Result<String> {
        let name = format!("{}-{name}", self.stack);
        let request = self.client.get_queue_url().queue_name(&name);
        let response = request
            .send()
            .await
            .with_context(|| format!("cannot find the queue {name}"))?;
        response.queue_url.context("SQS returned no URL")
    }

    async fn dead_letter_url(&self, queue: &str) -> Result<String> {
        self.url(&format!("{queue}-dead")).await
    }

    /// The number of dead letters of a queue.
    pub(crate) async fn dead_letters(&self, queue: &str) -> Result<u64> {
        let url = self.dead_letter_url(queue).await?;
        let count = QueueAttributeName::ApproximateNumberOfMessages;
        let request = self.client.get_queue_attributes().queue_url(url);
        let response = request.attribute_names(count.clone()).send().await?;
        Ok(response
            .attributes
            .and_then(|attributes| attributes.get(&count)?.parse().ok())
            .unwrap_or_default())
    }

    async fn receive(&self, url: &str, visibility_timeout: i32) -> Result<Vec<Message>> {
        let request = self
            .client
            .receive_message()
            .queue_url(url)
            .max_number_of_messages(10)
            .visibility_timeout(visibility_timeout)
            .wait_time_seconds(1);
        let response = request.send().await.context("cannot receive messages")?;
        Ok(response.messages.unwrap_or_default())
    }

    async fn move_message(&self, message: Message, from: &str, to: &str) -> Result<()> {
        let send = self
            .client
            .send_message()
            .queue_url(to)
            .message_body(message.body.unwrap_or_default());
        send.send().await.context("cannot send a message back")?;
        let delete = self
            .client
            .delete_message()
            .queue_url(from)
            .receipt_handle(message.receipt_handle.unwrap_or_default());
        let deleted = delete.send().await;
        deleted.context("a message was sent back, but its dead letter was not deleted")?;
        Ok(())
    }
}
