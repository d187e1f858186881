//! The life of a gateway, from its configuration to its end.
//!
//! | file | what is in it |
//! |---|---|
//! | `start` | what is refused before anything is opened |
//! | `doctor` | what the host can do, asked beforehand, and that it then does it |
//! | `explain` | the rules, asked beforehand |
//! | `log` | a log that nobody reads |
//! | `end` | signals, draining, killing one tunnel |
//! | `users` | the users file that changes, and passwords that are nowhere to be seen |

mod doctor;
mod end;
mod explain;
mod log;
mod start;
mod users;
