//! The product from outside: the real binary, real sockets, real clients.
//!
//! | module | what belongs there |
//! |---|---|
//! | `support` | what the others share: the gateway, origins, clients, waiting |
//! | `handshake` | everything before the 200: requests, answers, users, limits, and those who mean no good |
//! | `budgets` | what strangers and users may take from each other: nothing |
//! | `control` | who may see and change something of a running gateway |
//! | `policy` | where tunnels may not go |
//! | `grants` | what each user may: where from, where to, until when, how much |
//! | `names` | how the names of targets are resolved, and by whose word |
//! | `parents` | tunnels through parent proxies |
//! | `proxy_protocol` | who a client is by the word of another proxy |
//! | `rates` | how fast tunnels may be |
//! | `engines` | every byte of a tunnel, however it begins, goes on and ends, on every engine |
//! | `tls` | TLS with clients and with parents |
//! | `metrics` | what `/metrics` says, as Prometheus reads it |
//! | `documents` | the commands that README.md and docs/ print |
//! | `life` | the life of a gateway, from its configuration to its end |
//! | `clients` | real programs that go through the gateway |
//! | `migration` | whole volumes through rsync, stunnel, the gateway and a router, as `cargo xtask demo` shows it |

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
