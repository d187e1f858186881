//! The life of a gateway, from its configuration to its end.
//!
//! | file | contents |
//! |---|---|
//! | `start` | settings refused before anything is opened |
//! | `check` | every error of a configuration, and warnings |
//! | `doctor` | abilities of the host, reported in advance and then used |
//! | `files` | files replaced by unreadable ones |
//! | `explain` | the rules, tested in advance |
//! | `help` | help, man pages and completions |
//! | `log` | a log without a reader |
//! | `end` | signals, draining, killing one tunnel |
//! | `privileges` | privileges of the gateway once it listens |
//! | `signals` | ignored signals, and signals before it listens |
//! | `users` | changes of the users file, and passwords kept out of every output |

mod check;
mod doctor;
mod end;
mod explain;
mod files;
mod help;
mod log;
mod privileges;
mod signals;
mod start;
mod users;
