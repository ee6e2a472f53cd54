//! Whole-process tests: real nodes, a real custodian, a real PostgreSQL, real signals.
