//! What is measured, in which order.

use crate::load::Arrival;
use crate::work::{Operation, Work};

/// One load on all sides that know it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Step {
    pub(crate) work: Work,
    pub(crate) arrival: Arrival,
}

/// What the command line can choose.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Choice {
    /// Only these operations, and of them every size, batch and number of clients that follow. Without it: the standing plan.
    #[arg(long, value_delimiter = ',')]
    operations: Vec<Operation>,
    /// Bytes of a value.
    #[arg(long, value_delimiter = ',', default_value = "1024")]
    sizes: Vec<usize>,
    /// Secrets in a request to open.
    #[arg(long, value_delimiter = ',', default_value = "1")]
    batches: Vec<usize>,
    /// Clients of the closed loop.
    #[arg(long, value_delimiter = ',', default_value = "1,8,64")]
    clients: Vec<usize>,
    /// Requests a second of the open loop, beside the closed one.
    #[arg(long, value_delimiter = ',')]
    rates: Vec<f64>,
}

/// The customary value.
const KIB: usize = 1024;

impl Choice {
    /// The steps in their order.
    pub(crate) fn steps(&self) -> Vec<Step> {
        if self.operations.is_empty() { standing() } else { self.chosen() }
    }

    fn chosen(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for operation in &self.operations {
            let sizes = if operation.sized() { self.sizes.clone() } else { vec![KIB] };
            let batches = if operation.opens() { self.batches.clone() } else { vec![1] };
            for size in sizes {
                for batch in &batches {
                    let work = Work { operation: *operation, size, batch: *batch };
                    steps.extend(
                        self.clients
                            .iter()
                            .map(|clients| Step { work, arrival: Arrival::Closed { clients: *clients } }),
                    );
                    steps.extend(self.rates.iter().map(|rate| Step { work, arrival: Arrival::Open { rate: *rate } }));
                }
            }
        }
        steps
    }
}

/// What the page of figures is made of: everything once at its customary size, and one thing varied at a time.
fn standing() -> Vec<Step> {
    let mut steps = Vec::new();
    let mut add = |operation, size, batch, arrivals: &[Arrival]| {
        let work = Work { operation, size, batch };
        steps.extend(arrivals.iter().map(|arrival| Step { work, arrival: *arrival }));
    };
    let closed = |clients| Arrival::Closed { clients };
    let open = |rate| Arrival::Open { rate };
    add(Operation::Open, KIB, 1, &[closed(1), closed(8), closed(64), closed(256), open(200.0), open(500.0)]);
    add(Operation::Write, KIB, 1, &[closed(1), closed(8), closed(64), closed(256), open(50.0)]);
    for size in [100, 64 * KIB, KIB * KIB] {
        add(Operation::Open, size, 1, &[closed(8)]);
        add(Operation::Write, size, 1, &[closed(8)]);
    }
    for batch in [16, 256] {
        add(Operation::Open, KIB, batch, &[closed(8)]);
    }
    for batch in [1, 16] {
        add(Operation::OpenCustomer, KIB, batch, &[closed(8)]);
        add(Operation::OpenRelayed, KIB, batch, &[closed(8)]);
    }
    add(Operation::List, KIB, 1, &[closed(8)]);
    add(Operation::Issue, KIB, 1, &[closed(1), closed(8)]);
    add(Operation::Renew, KIB, 1, &[closed(8)]);
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        choice: Choice,
    }

    fn steps(line: &str) -> Vec<Step> {
        Line::try_parse_from(line.split(' ')).unwrap().choice.steps()
    }

    #[test]
    fn a_choice_is_every_combination_that_means_something() {
        let all = steps("x --operations open,issue --sizes 100,1024 --batches 1,16 --clients 1,8 --rates 50");
        // Two sizes, two batches, three arrivals; and an issue has neither size nor batch.
        assert_eq!(all.len(), 2 * 2 * 3 + 3);
    }

    #[test]
    fn the_standing_plan_has_every_operation_and_nothing_twice() {
        let all = steps("x");
        for operation in <Operation as clap::ValueEnum>::value_variants() {
            assert!(all.iter().any(|s| s.work.operation == *operation), "{}", operation.name());
        }
        for (n, step) in all.iter().enumerate() {
            assert!(!all[..n].contains(step), "{step:?}");
        }
    }
}
