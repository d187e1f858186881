//! The product from outside: the real binary, real sockets, real clients.
//!
//! | module | contents |
//! |---|---|
//! | `support` | support for the tests: the gateway, origins, clients, waiting |
//! | `handshake` | everything before the 200: requests, answers, users, limits, attackers |
//! | `budgets` | protection of strangers and users from each other |
//! | `control` | views and changes of a running gateway |
//! | `policy` | forbidden targets |
//! | `grants` | permissions of each user: source addresses, targets, expiry and limits |
//! | `names` | resolution of target names |
//! | `parents` | tunnels through parent proxies |
//! | `proxy_protocol` | client addresses from the PROXY protocol |
//! | `rates` | rate limits of tunnels |
//! | `engines` | every byte of a tunnel, from its start to its end, on every engine |
//! | `tls` | TLS with clients and with parents |
//! | `metrics` | output of `/metrics`, as Prometheus reads it |
//! | `documents` | commands in README.md and docs/ |
//! | `life` | the life of a gateway, from its configuration to its end |
//! | `clients` | real programs going through the gateway |
//! | `migration` | volumes by rsync through stunnel, gateway and router (`cargo xtask demo`) |

mod budgets;
mod clients;
mod control;
mod documents;
mod engines;
mod grants;
mod handshake;
mod life;
mod metrics;
mod migration;
mod names;
mod parents;
mod policy;
mod proxy_protocol;
mod rates;
mod support;
mod tls;
