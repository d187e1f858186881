//! Everything before the 200.
//!
//! | file | contents |
//! |---|---|
//! | `reasons` | each reason for a refusal once: status line, metric, log line |
//! | `scenes` | scenes for refusals not caused by request bytes alone |
//! | `answers` | properties of every answer, to the byte |
//! | `requests` | requests of well-known clients |
//! | `no_auth_from` | clients without a password, admitted by their network |
//! | `passwords` | password checks under attack and under shortage, and forms of credentials |
//! | `upgrade` | requests to switch protocols, and the answers of origins |
//! | `exchange` | limits, counters and the end of the exchange before a 101 |
//! | `crowds` | thousands of slow or garbage-sending clients |

mod answers;
mod crowds;
mod exchange;
mod no_auth_from;
mod passwords;
mod reasons;
mod refused;
mod requests;
pub(crate) mod scenes;
mod upgrade;
