use super::*;
use crate::work::Operation;

const WORK: Work = Work { operation: Operation::Open, size: 1, batch: 1 };

/// Answers after a pause; from a moment on it stalls once.
struct Slow {
    pause: Duration,
    stall_at: Option<u64>,
}

#[async_trait::async_trait]
impl Connection for Slow {
    async fn call(&self, _: &Work, n: u64) -> anyhow::Result<()> {
        let stalls = self.stall_at == Some(n);
        sleep(if stalls { Duration::from_millis(500) } else { self.pause }).await;
        anyhow::ensure!(n != 7, "seven is refused");
        Ok(())
    }
}

async fn measure(slow: Slow, arrival: Arrival) -> Outcome {
    let connections: Vec<Arc<dyn Connection>> = vec![Arc::new(slow)];
    let span = Span { warm_up: Duration::ZERO, length: Duration::from_secs(1) };
    run(&connections, WORK, arrival, span, &[], &Arc::default()).await.unwrap()
}

#[tokio::test]
async fn a_closed_loop_counts_what_ended_and_what_failed() {
    let slow = Slow { pause: Duration::from_millis(10), stall_at: None };
    let outcome = measure(slow, Arrival::Closed { clients: 1 }).await;
    // At most one in 10 ms; how many fewer depends on the machine.
    assert!((20..=100).contains(&outcome.requests), "{outcome:?}");
    assert!(outcome.p50 >= 10.0, "{outcome:?}");
    assert_eq!((outcome.failures, outcome.failure.as_deref()), (1, Some("seven is refused")));
    assert_eq!(outcome.p999, None);
}

/// One stall of 500 ms in a second of 100 requests: a closed loop would show one slow request, an open one all that were due meanwhile.
#[tokio::test]
async fn an_open_loop_charges_a_stall_to_all_who_came_meanwhile() {
    let slow = || Slow { pause: Duration::from_millis(1), stall_at: Some(20) };
    let open = measure(slow(), Arrival::Open { rate: 100.0 }).await;
    assert!(open.p90 > 100.0, "{open:?}");
    let closed = measure(slow(), Arrival::Closed { clients: 1 }).await;
    assert!(closed.p90 < 100.0, "{closed:?}");
}

#[test]
fn arrivals_come_at_the_rate_on_average() {
    let mut rng = SmallRng::seed_from_u64(1);
    let total: Duration = (0..10_000).map(|_| gap(rng.random(), 1_000.0)).sum();
    assert!((9.5..10.5).contains(&total.as_secs_f64()), "{total:?}");
}
