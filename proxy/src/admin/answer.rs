//! From a request to its answer.

use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::{Request, Response, StatusCode};
use serde::Serialize;
use serde_json::json;
use tokio::time::timeout;

use super::access::Access;
use super::connections::Connection;
use super::readiness::{DrainView, Ready};
use super::routes::{Action, Resource, Route};
use super::server::Admin;
use super::{recorder, web_guard};
use crate::account::{Change, Unknown};

pub(super) type Answer = Response<Full<Bytes>>;

const PAGE: &str = include_str!("page.html");
/// Content security policy of the page: run its own inline scripts, connect to the gateway that
/// served it, nothing else.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
                           connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const HTML: &str = "text/html; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
/// The text format of Prometheus, version 0.0.4.
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Most bytes of a change: some thousand users.
const MAX_CHANGE_BYTES: usize = 256 << 10;
/// Longest time for the answer to a POST of a drain to wait for the listeners to close, which takes
/// a moment.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

impl Admin {
    /// Answers a request; reads its content if the request changes something.
    pub(super) async fn respond(&self, connection: &Connection, request: Request<Incoming>) -> Answer {
        let answer = self.answer(connection, request).await;
        connection.set_complete();
        answer
    }

    async fn answer(&self, connection: &Connection, request: Request<Incoming>) -> Answer {
        let access = connection.access;
        if !connection.permitted {
            return error(StatusCode::FORBIDDEN, "only the gateway's user and root may use the control socket");
        }
        let (head, content) = request.into_parts();
        let Some((route, id)) = Route::find(access, head.uri.path()) else {
            let paths = Route::paths(access);
            return text(StatusCode::NOT_FOUND, format!("not found on the {}; try {paths}\n", access.listener()));
        };
        if route.is_api()
            && let Some(query) = head.uri.query().filter(|query| !query.is_empty())
        {
            return unknown_parameters(route, query);
        }
        let action = route.action(access, &head.method);
        match action {
            Action::NeedsControl => return needs_control(route, access),
            Action::NotAllowed => {
                return not_allowed(route, access, text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n"));
            }
            Action::Read | Action::Change => {}
        }
        if let Err(why) = web_guard::may_read(access, route, &head.headers) {
            return error(StatusCode::FORBIDDEN, why);
        }
        if action == Action::Read {
            return self.read(route.resource, id);
        }
        let content = Limited::new(content, MAX_CHANGE_BYTES).collect();
        let content = match timeout(connection.deadlines.content, content).await {
            Ok(Ok(content)) => content.to_bytes(),
            Ok(Err(broken)) => return error(StatusCode::BAD_REQUEST, &format!("cannot read the content: {broken}")),
            Err(_) => return error(StatusCode::REQUEST_TIMEOUT, "the content did not arrive in time"),
        };
        connection.set_complete();
        self.change(route.resource, id, &content).await
    }

    fn read(&self, resource: Resource, id: &str) -> Answer {
        match resource {
            Resource::Page => page(),
            Resource::Metrics => self.metrics(),
            Resource::Health => text(StatusCode::OK, "ok\n"),
            Resource::Readiness => self.ready(),
            Resource::Tunnels => to_json(StatusCode::OK, &self.registry.tunnels()),
            Resource::Tunnel => match number(id) {
                Err(why) => error(StatusCode::BAD_REQUEST, &why),
                Ok(id) => match self.registry.tunnel(id) {
                    Some(tunnel) => to_json(StatusCode::OK, &tunnel),
                    None => no_tunnel(id),
                },
            },
            Resource::Rates => to_json(StatusCode::OK, &self.registry.rates()),
            Resource::Drain => to_json(StatusCode::OK, &self.drain_view()),
        }
    }

    async fn change(&self, resource: Resource, id: &str, content: &[u8]) -> Answer {
        match resource {
            Resource::Rates => self.change_rates(content),
            Resource::Tunnel => match (number(id), no_members(content)) {
                (Err(why), _) | (_, Err(why)) => error(StatusCode::BAD_REQUEST, &why),
                (Ok(id), Ok(())) if self.registry.kill(id) => with_type(StatusCode::NO_CONTENT, JSON, Bytes::new()),
                (Ok(id), Ok(())) => no_tunnel(id),
            },
            Resource::Drain => match no_members(content) {
                Err(why) => error(StatusCode::BAD_REQUEST, &why),
                Ok(()) => self.start_drain().await,
            },
            Resource::Page | Resource::Metrics | Resource::Health | Resource::Readiness | Resource::Tunnels => {
                self.read(resource, id)
            }
        }
    }

    fn change_rates(&self, content: &[u8]) -> Answer {
        let changed = match object::<Change>(content) {
            Ok(change) => self.registry.change_rates(&change),
            Err(wrong) => {
                let form = r#"write {"tunnel": "100MiB", "users": {"ann": "none"}, "tunnels": {"17": 1048576}}"#;
                return error(StatusCode::BAD_REQUEST, &format!("{wrong}; {form}, or null for the configured limit"));
            }
        };
        match changed {
            Ok(()) => to_json(StatusCode::OK, &self.registry.rates()),
            Err(Unknown::User(name)) => error(StatusCode::NOT_FOUND, &format!("no user '{name}'; nothing was changed")),
            Err(Unknown::Tunnel(id)) => {
                error(StatusCode::NOT_FOUND, &format!("no tunnel {id} is open; nothing was changed"))
            }
        }
    }

    /// Asks for a drain, and answers once the listeners for clients are closed.
    async fn start_drain(&self) -> Answer {
        tracing::info!("asked to drain over the control socket");
        self.readiness.request_drain();
        let _ = timeout(CLOSE_TIMEOUT, self.readiness.closed()).await;
        to_json(StatusCode::ACCEPTED, &DrainView { draining: true, ..self.drain_view() })
    }

    fn drain_view(&self) -> DrainView {
        let tunnels = self.registry.active();
        let connections = *self.registry.connections().borrow();
        DrainView {
            draining: self.readiness.get() == Ready::Draining,
            accepting: self.readiness.get() != Ready::Starting && !self.readiness.is_closed(),
            tunnels,
            handshakes: connections.saturating_sub(tunnels),
        }
    }

    fn metrics(&self) -> Answer {
        self.registry.publish();
        with_type(StatusCode::OK, PROMETHEUS, recorder::render(&self.metrics))
    }

    fn ready(&self) -> Answer {
        let state = match self.readiness.get() {
            Ready::Ready if self.registry.is_full() => Ready::Full,
            state => state,
        };
        match state {
            Ready::Ready => text(StatusCode::OK, "ready\n"),
            Ready::Starting => text(StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
            Ready::Full => text(StatusCode::SERVICE_UNAVAILABLE, "full: --max-tunnels reached\n"),
            Ready::Draining => text(StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
        }
    }
}

/// Number of a tunnel in a path.
fn number(id: &str) -> Result<u64, String> {
    // u64's parser accepts a leading '+', never part of a tunnel's number.
    let number = id.bytes().all(|digit| digit.is_ascii_digit()).then(|| id.parse().ok()).flatten();
    number.ok_or_else(|| "the id of a tunnel is a number, as in /api/tunnels/17".to_owned())
}

/// Reads a JSON object.
fn object<'a, T: serde::Deserialize<'a>>(content: &'a [u8]) -> Result<T, String> {
    // serde would take a list for the fields in their order.
    if content.trim_ascii_start().first().is_some_and(|first| *first != b'{') {
        return Err("expected a JSON object".to_owned());
    }
    serde_json::from_slice(content).map_err(|wrong| wrong.to_string())
}

/// Passes no content, or an object without members.
fn no_members(content: &[u8]) -> Result<(), String> {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Empty {}
    if content.trim_ascii().is_empty() {
        return Ok(());
    }
    object::<Empty>(content).map(|Empty {}| ()).map_err(|wrong| format!("{wrong}; send no content"))
}

fn unknown_parameters(route: &Route, query: &str) -> Answer {
    let names: Vec<_> = query
        .split('&')
        .filter(|parameter| !parameter.is_empty())
        .map(|parameter| format!("'{}'", parameter.split('=').next().unwrap_or_default()))
        .collect();
    let plural = if names.len() == 1 { "" } else { "s" };
    let (names, path) = (names.join(", "), route.path);
    error(StatusCode::BAD_REQUEST, &format!("unknown query parameter{plural} {names}: {path} takes none; remove it"))
}

fn needs_control(route: &Route, access: Access) -> Answer {
    let words = format!(
        "the {} only reads: changes go through the control socket (--control PATH), which `sluicegate kill`, `rates` \
         and `drain` use, or curl --unix-socket PATH http://localhost{}",
        access.listener(),
        route.path
    );
    not_allowed(route, access, error(StatusCode::METHOD_NOT_ALLOWED, &words))
}

fn not_allowed(route: &Route, access: Access, mut answer: Answer) -> Answer {
    if let Ok(allowed) = HeaderValue::from_str(&route.allowed(access)) {
        answer.headers_mut().insert(ALLOW, allowed);
    }
    answer
}

fn no_tunnel(id: u64) -> Answer {
    error(StatusCode::NOT_FOUND, &format!("no tunnel {id} is open"))
}

fn page() -> Answer {
    let mut answer = with_type(StatusCode::OK, HTML, PAGE);
    answer.headers_mut().insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(PAGE_POLICY));
    answer
}

fn error(status: StatusCode, why: &str) -> Answer {
    to_json(status, &json!({ "error": why }))
}

fn to_json(status: StatusCode, value: &impl Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(body) => with_type(status, JSON, body),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    with_type(status, TEXT, body)
}

fn with_type(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}
