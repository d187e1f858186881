//! The table of the paths on each listener.

use hyper::Method;

use super::access::Access;

/// A route of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resource {
    Page,
    Metrics,
    Health,
    Readiness,
    Tunnels,
    Tunnel,
    Rates,
    Drain,
}

/// A row of the table.
#[derive(Debug)]
pub(super) struct Route {
    /// The path; a last segment `ID` stands for any.
    pub(super) path: &'static str,
    pub(super) resource: Resource,
    /// Least access for reading it.
    pub(super) access: Access,
    /// Method for changing it, with [`Access::Control`] alone.
    change: Option<Method>,
}

static ROUTES: [Route; 8] = [
    Route { path: "/", resource: Resource::Page, access: Access::Read, change: None },
    Route { path: "/metrics", resource: Resource::Metrics, access: Access::Metrics, change: None },
    Route { path: "/healthz", resource: Resource::Health, access: Access::Metrics, change: None },
    Route { path: "/readyz", resource: Resource::Readiness, access: Access::Metrics, change: None },
    Route { path: "/api/tunnels", resource: Resource::Tunnels, access: Access::Read, change: None },
    Route { path: "/api/tunnels/ID", resource: Resource::Tunnel, access: Access::Read, change: Some(Method::DELETE) },
    Route { path: "/api/rates", resource: Resource::Rates, access: Access::Read, change: Some(Method::PATCH) },
    Route { path: "/api/drain", resource: Resource::Drain, access: Access::Read, change: Some(Method::POST) },
];

/// Meaning of a method for a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Read,
    Change,
    /// It would change the resource if the listener gave [`Access::Control`].
    NeedsControl,
    NotAllowed,
}

impl Route {
    /// Returns the route of a path with this access, and the last segment if it is an id.
    pub(super) fn find(access: Access, path: &str) -> Option<(&'static Self, &str)> {
        ROUTES.iter().filter(|route| route.access <= access).find_map(|route| Some((route, route.matches(path)?)))
    }

    fn matches<'a>(&self, path: &'a str) -> Option<&'a str> {
        match self.path.strip_suffix("ID") {
            Some(folder) => path.strip_prefix(folder),
            None => (self.path == path).then_some(""),
        }
    }

    /// Lists the readable paths with this access, for people.
    pub(super) fn paths(access: Access) -> String {
        let routes = ROUTES.iter().filter(|route| route.access <= access);
        routes.map(|route| route.path).collect::<Vec<_>>().join(" ")
    }

    pub(super) fn action(&self, access: Access, method: &Method) -> Action {
        match (*method == Method::GET || *method == Method::HEAD, self.change.as_ref() == Some(method), access) {
            (true, ..) => Action::Read,
            (false, true, Access::Control) => Action::Change,
            (false, true, _) => Action::NeedsControl,
            (false, false, _) => Action::NotAllowed,
        }
    }

    /// Value of the field `Allow`.
    pub(super) fn allowed(&self, access: Access) -> String {
        let change = self.change.as_ref().filter(|_| access == Access::Control);
        ["GET", "HEAD"].into_iter().chain(change.map(Method::as_str)).collect::<Vec<_>>().join(", ")
    }

    /// Tells if the route is a part of the API; the API refuses unknown parameters.
    pub(super) fn is_api(&self) -> bool {
        self.path.starts_with("/api/")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_listener_serves_its_part() {
        let served = |access| {
            let served = ROUTES.iter().filter(|route| Route::find(access, route.path).is_some());
            served.map(|route| route.path).collect::<Vec<_>>()
        };
        assert_eq!(served(Access::Metrics), ["/metrics", "/healthz", "/readyz"]);
        assert_eq!(served(Access::Read).len(), ROUTES.len());
        assert_eq!(served(Access::Control).len(), ROUTES.len());
    }

    #[test]
    fn nothing_is_changed_but_with_control() {
        let methods = [Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS, Method::CONNECT];
        for access in [Access::Metrics, Access::Read] {
            for (route, method) in ROUTES.iter().flat_map(|route| methods.iter().map(move |method| (route, method))) {
                let action = route.action(access, method);
                assert!(matches!(action, Action::NeedsControl | Action::NotAllowed), "{method} {}", route.path);
                assert_eq!(route.allowed(access), "GET, HEAD");
            }
        }
        let changes = ROUTES.iter().flat_map(|route| methods.iter().map(move |method| (route, method)));
        let changes = changes.filter(|(route, method)| route.action(Access::Control, method) == Action::Change);
        let changes: Vec<_> = changes.map(|(route, method)| format!("{method} {}", route.path)).collect();
        assert_eq!(changes, ["DELETE /api/tunnels/ID", "PATCH /api/rates", "POST /api/drain"]);
    }
}
