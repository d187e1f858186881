//! The life of a gateway, from its configuration to its end.
//!
//! | file | what is in it |
//! |---|---|
//! | `start` | what is refused before anything is opened |
//! | `check` | every error of a configuration, and warnings |
//! | `doctor` | what the host can do, asked beforehand, and that it then does it |
//! | `files` | files that are replaced by what cannot be read |
//! | `explain` | the rules, asked beforehand |
//! | `help` | help, man pages and completions |
//! | `log` | a log that nobody reads |
//! | `end` | signals, draining, killing one tunnel |
//! | `privileges` | privileges that are left once it listens |
//! | `signals` | signals that end nothing, and those before it listens |
//! | `users` | the users file that changes, and passwords that are nowhere to be seen |

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
