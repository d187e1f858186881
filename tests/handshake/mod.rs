//! Everything before the 200.
//!
//! | file | what is in it |
//! |---|---|
//! | `reasons` | each reason for a refusal once: status line, metric, log line |
//! | `scenes` | the situations in which those come about that no bytes alone bring about |
//! | `answers` | what belongs to every answer, to the byte |
//! | `requests` | what the known clients send |
//! | `no_auth_from` | clients that cannot send a password, let in by their network |
//! | `passwords` | password checks under attack and under shortage, and the forms that credentials come in |
//! | `upgrade` | requests to switch protocols, and what origins answer to those |
//! | `exchange` | what bounds, counts and ends the exchange before a 101 |
//! | `crowds` | clients that are slow, or send anything, by the thousand |

mod answers;
mod crowds;
mod exchange;
mod no_auth_from;
mod passwords;
mod reasons;
mod requests;
pub(crate) mod scenes;
mod upgrade;
