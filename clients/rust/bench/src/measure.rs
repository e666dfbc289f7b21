//! Doing one thing over and over, and how long each time took.

use std::future::Future;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::task::JoinSet;

/// What is measured. Each concurrent caller has a clone.
pub(crate) trait Task: Clone + Send + 'static {
    /// Do it once; panics where it does not give what it should.
    fn once(&mut self) -> impl Future<Output = ()> + Send;
}

/// How long to go on.
#[derive(Clone, Copy)]
pub(crate) struct Times {
    pub(crate) warm_up: Duration,
    pub(crate) measured: Duration,
}

/// Do it with so many callers, first to warm up, and print how long it took.
pub(crate) async fn print(what: &str, task: &impl Task, concurrency: usize, times: Times) {
    repeat(task, concurrency, times.warm_up).await;
    let began = Instant::now();
    let mut took = repeat(task, concurrency, times.measured).await;
    let elapsed = began.elapsed().as_secs_f64();
    took.sort_unstable();
    let line = json!({
        "what": what,
        "concurrency": concurrency,
        "calls": took.len(),
        "p50_us": at_percent(&took, 50).as_secs_f64() * 1e6,
        "p99_us": at_percent(&took, 99).as_secs_f64() * 1e6,
        "per_second": took.len() as f64 / elapsed,
    });
    println!("{line}");
}

/// Do it at least once per caller, and until the time is over.
async fn repeat(task: &impl Task, concurrency: usize, time: Duration) -> Vec<Duration> {
    let end = Instant::now() + time;
    let mut callers = JoinSet::new();
    for _ in 0..concurrency {
        let mut task = task.clone();
        callers.spawn(async move {
            let mut took = Vec::new();
            loop {
                let began = Instant::now();
                task.once().await;
                took.push(began.elapsed());
                if Instant::now() >= end {
                    return took;
                }
            }
        });
    }
    callers.join_all().await.concat()
}

/// The nearest rank.
fn at_percent(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted[rank.saturating_sub(1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_the_nearest_rank() {
        let all: Vec<_> = (1..=200).map(Duration::from_micros).collect();
        assert_eq!(at_percent(&all, 50), Duration::from_micros(100));
        assert_eq!(at_percent(&all, 99), Duration::from_micros(198));
        assert_eq!(at_percent(&all[..1], 99), Duration::from_micros(1));
    }
}
