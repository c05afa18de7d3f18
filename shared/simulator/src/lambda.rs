//! Lambda: takes batches from a queue, runs the real handler of the stage, and returns what failed
//! to the queue. An invocation crashes when its future is dropped at a random await.

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, stream};
use nostr_push_core::retry::backoff;
use tokio::time::timeout;

use crate::{
    faults::Fault,
    planted::Planted,
    queue::{Message, Queue},
    stages::Stage,
    tables::Scope,
    world::World,
};

/// The time limit of a function, as `template.yaml` sets it.
const FUNCTION_TIMEOUT: Duration = Duration::from_secs(30);

/// The records of a batch that are handled at once.
const CONCURRENT_RECORDS: usize = 10;

/// What is to be done with a message.
#[derive(Debug)]
pub enum Verdict {
    /// Delete it.
    Done,
    /// Receive it again after this time. `None` means the usual backoff.
    Retry(Option<Duration>),
}

/// Runs one instance of a stage for ever.
pub async fn run<S: Stage>(world: Arc<World>, queue: fn(&World) -> &Queue) {
    loop {
        let scope = Arc::new(Scope::default());
        let instance = S::start(&world, &scope);
        // An instance serves until it crashes.
        while serve(&world, queue(&world), &instance, &scope).await {}
    }
}

/// Serves one batch. Returns `false` if the instance has crashed.
async fn serve<S: Stage>(world: &World, queue: &Queue, instance: &S, scope: &Scope) -> bool {
    let batch = queue.receive(world).await;
    world.oracle().begin_transfer();
    if world.has(Planted::AcknowledgedBeforeHandled) {
        for message in &batch {
            queue.delete(world, message);
        }
    }
    let is_served = invoke(world, queue, instance, &batch).await;
    let faults = scope.take_faults() + u64::from(!is_served);
    let mut oracle = world.oracle();
    if faults > 0 {
        for message in &batch {
            oracle.fault_met(&message.subject, faults);
        }
    }
    oracle.end_transfer();
    is_served
}

async fn invoke<S: Stage>(world: &World, queue: &Queue, instance: &S, batch: &[Message]) -> bool {
    let crashes = world.faults.happens(Fault::Crash);
    let polls = if crashes {
        // Early and late crashes are equally likely.
        Some(1 << world.random.between(0, 9)).map(|max| world.random.between(1, max))
    } else {
        None
    };
    let handled = stream::iter(batch.to_vec())
        .map(|message| async move {
            let verdict = handle(world, instance, &message).await;
            (message, verdict)
        })
        .buffer_unordered(CONCURRENT_RECORDS)
        .collect::<Vec<_>>();
    let handled = Crashing {
        future: Box::pin(handled),
        polls,
    };
    let verdicts = match timeout(FUNCTION_TIMEOUT, handled).await {
        Ok(Some(verdicts)) => verdicts,
        Ok(None) => {
            world.tell(|| format!("{} crashes", S::NAME));
            return false;
        }
        Err(_) => {
            world.tell(|| format!("{} reaches its time limit", S::NAME));
            return false;
        }
    };
    for (message, verdict) in verdicts {
        match verdict {
            Verdict::Retry(after) if !world.has(Planted::FailuresDeleted) => {
                let jitter = world.random.between(0, 100);
                let usual = || {
                    backoff(
                        message.receives,
                        f64::from(u8::try_from(jitter).unwrap_or(0)) / 100.0,
                    )
                };
                queue.hide(world, &message, after.unwrap_or_else(usual));
            }
            Verdict::Done | Verdict::Retry(_) => queue.delete(world, &message),
        }
    }
    true
}

/// Handles one record. A panic fails the record alone.
async fn handle<S: Stage>(world: &World, instance: &S, message: &Message) -> Verdict {
    let handled = AssertUnwindSafe(instance.handle(message)).catch_unwind();
    handled.await.unwrap_or_else(|_| {
        world.oracle().violation(format!("{} panics", S::NAME));
        Verdict::Retry(None)
    })
}

/// A future that is dropped when it has been polled this often.
struct Crashing<F> {
    future: Pin<Box<F>>,
    polls: Option<u64>,
}

impl<F: Future> Future for Crashing<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.polls == Some(0) {
            return Poll::Ready(None);
        }
        self.polls = self.polls.map(|polls| polls - 1);
        self.future.as_mut().poll(context).map(Some)
    }
}
