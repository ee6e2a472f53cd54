//! The alerts of `deploy/alerts.yml` fire when they should, and not otherwise: Prometheus' own tool runs them over made-up series.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

use std::path::Path;
use std::process::Command;

#[test]
fn each_alert_fires_for_its_own_and_for_nothing_else() {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("deploy");
    let output = Command::new("promtool").args(["test", "rules", "alerts.test.yml"]).current_dir(&deploy).output();
    let output = output.unwrap_or_else(|why| panic!("promtool is of Debian's package prometheus (make setup): {why}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let tested = std::fs::read_to_string(deploy.join("alerts.test.yml")).unwrap();
    let alerts = std::fs::read_to_string(deploy.join("alerts.yml")).unwrap();
    let names: Vec<&str> = alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(!names.is_empty(), "there are alerts");
    for name in names {
        let fires = format!("alertname: {name}\n        exp_alerts:\n          - exp_labels");
        let silent = format!("alertname: {name} }}");
        assert!(tested.contains(&fires) && tested.contains(&silent), "{name} is shown to fire, and to be silent");
    }
}
