//! From a request to its answer.

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;
use serde_json::json;

use super::{Admin, Ready, guard};
use crate::account::Unknown;

pub(super) type Answer = Response<Full<Bytes>>;

const PAGE: &str = include_str!("page.html");
/// What the page may do: run what it brings along and ask the gateway it came from, nothing else.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
                           connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const HTML: &str = "text/html; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
/// The text format of Prometheus, version 0.0.4.
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";
const READ: &str = "GET, HEAD";
const READ_OR_KILL: &str = "GET, HEAD, DELETE";
const READ_OR_CHANGE: &str = "GET, HEAD, PATCH";
/// The most that a change may hold: some thousand users.
const CHANGE_BYTES: usize = 256 << 10;

impl Admin {
    /// Answers a request, whose body is read if it says what to change.
    pub(super) async fn respond(&self, request: Request<Incoming>) -> Answer {
        if request.uri().path() != "/api/rates" || request.method() != Method::PATCH {
            return self.answer(&request);
        }
        let (head, body) = request.into_parts();
        if let Err(why) = guard::may_change(&head.headers) {
            return error(StatusCode::FORBIDDEN, why);
        }
        match Limited::new(body, CHANGE_BYTES).collect().await {
            Ok(body) => self.change_rates(&body.to_bytes()),
            Err(broken) => error(StatusCode::BAD_REQUEST, &format!("the body was not read: {broken}")),
        }
    }

    fn change_rates(&self, body: &[u8]) -> Answer {
        // An object alone: serde would take a list for the fields in their order.
        let object = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(body);
        let changed = match object.and_then(|object| serde_json::from_value(object.into())) {
            Ok(change) => self.registry.change_rates(&change),
            Err(wrong) => {
                let form = r#"write {"tunnel": "100MiB", "users": {"ann": "none"}, "tunnels": {"17": 1048576}}"#;
                return error(StatusCode::BAD_REQUEST, &format!("{wrong}; {form}, or null for what is configured"));
            }
        };
        match changed {
            Ok(()) => to_json(StatusCode::OK, &self.registry.rates()),
            Err(Unknown::User(name)) => {
                error(StatusCode::NOT_FOUND, &format!("no user is called '{name}'; nothing was changed"))
            }
            Err(Unknown::Tunnel(id)) => {
                error(StatusCode::NOT_FOUND, &format!("no tunnel {id} is open; nothing was changed"))
            }
        }
    }

    /// Answers a request without a look at its body.
    pub(super) fn answer<B>(&self, request: &Request<B>) -> Answer {
        let path = request.uri().path();
        if let Some(id) = path.strip_prefix("/api/tunnels/") {
            return self.tunnel(request, id);
        }
        let answer: &dyn Fn() -> Answer = match path {
            "/" => &page,
            "/metrics" => &|| self.metrics(),
            "/healthz" => &|| text(StatusCode::OK, "ok\n"),
            "/readyz" => &|| self.ready(),
            "/api/tunnels" => &|| to_json(StatusCode::OK, &self.registry.tunnels()),
            "/api/rates" => &|| to_json(StatusCode::OK, &self.registry.rates()),
            _ => {
                return text(
                    StatusCode::NOT_FOUND,
                    "not found; try / /metrics /healthz /readyz /api/tunnels /api/rates\n",
                );
            }
        };
        match (reads(request.method()), path) {
            (true, _) => answer(),
            (false, "/api/rates") => not_allowed(READ_OR_CHANGE),
            (false, _) => not_allowed(READ),
        }
    }

    fn metrics(&self) -> Answer {
        self.registry.publish();
        with_type(StatusCode::OK, PROMETHEUS, self.metrics.render())
    }

    fn ready(&self) -> Answer {
        let state = match self.readiness.get() {
            Ready::Ready if self.registry.is_full() => Ready::Full,
            state => state,
        };
        match state {
            Ready::Ready => text(StatusCode::OK, "ready\n"),
            Ready::Starting => text(StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
            Ready::Full => text(StatusCode::SERVICE_UNAVAILABLE, "full: --max-tunnels are open\n"),
            Ready::Draining => text(StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
        }
    }

    fn tunnel<B>(&self, request: &Request<B>, id: &str) -> Answer {
        let kills = request.method() == Method::DELETE;
        if !kills && !reads(request.method()) {
            return not_allowed(READ_OR_KILL);
        }
        if kills && let Err(why) = guard::may_change(request.headers()) {
            return error(StatusCode::FORBIDDEN, why);
        }
        // u64's parser takes a leading '+', which is not how a tunnel is numbered.
        let Some(id) = id.bytes().all(|digit| digit.is_ascii_digit()).then(|| id.parse().ok()).flatten() else {
            return error(StatusCode::BAD_REQUEST, "the id of a tunnel is a number, as in /api/tunnels/17");
        };
        if kills && self.registry.kill(id) {
            return with_type(StatusCode::NO_CONTENT, JSON, Bytes::new());
        }
        match self.registry.tunnel(id).filter(|_| !kills) {
            Some(tunnel) => to_json(StatusCode::OK, &tunnel),
            None => error(StatusCode::NOT_FOUND, &format!("no tunnel {id} is open")),
        }
    }
}

fn reads(method: &Method) -> bool {
    method == Method::GET || method == Method::HEAD
}

fn page() -> Answer {
    let mut answer = with_type(StatusCode::OK, HTML, PAGE);
    answer.headers_mut().insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(PAGE_POLICY));
    answer
}

fn not_allowed(allowed: &'static str) -> Answer {
    let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n");
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
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
