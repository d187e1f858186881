//! Headings of the options in `--help`, in their order.

/// Listeners of clients.
pub const LISTENING: &str = "Listening";
/// Users and their credentials.
pub const USERS: &str = "Users";
/// Permitted targets, and how they are reached.
pub const TARGETS: &str = "Targets";
/// Parent proxies.
pub const PARENTS: &str = "Parents";
/// Time-outs, counts and rates.
pub const LIMITS: &str = "Limits and rates";
/// Moving bytes.
pub const ENGINES: &str = "Engines";
/// Configuration file, privileges, monitoring and log.
pub const OPERATION: &str = "Operation";
/// Every heading of `serve`.
pub const ALL: [&str; 7] = [LISTENING, USERS, TARGETS, PARENTS, LIMITS, ENGINES, OPERATION];
