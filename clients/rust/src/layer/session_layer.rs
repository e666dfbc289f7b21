//! What is asked of requests, and for whom: the layer's settings.

use std::sync::Arc;

use http::header::{HeaderName, USER_AGENT};
use http::{Extensions, HeaderMap};
use ipnet::IpNet;
use tower::Layer;

use super::client_ip::{self, Peer};
use super::refusal::Refusal;
use super::sent::{self, Sent, SessionIdFrom};
use super::service::SessionService;
use crate::{Active, Client, v1};

/// Longer than any session id: what is longer is none, and is not sent on.
const MAX_SESSION_ID_BYTES: usize = 128;
const MAX_DEVICE_BYTES: usize = 512;
const MAX_USER_AGENT_BYTES: usize = 1_024;

/// Lets requests through that have an active session. Cheap to clone; a clone with other settings is how one route
/// differs from the rest.
///
/// What is mounted behind it needs a session. Mount what needs none beside it, or behind an
/// [`optional`](SessionLayer::optional) one.
#[derive(Clone, Debug)]
pub struct SessionLayer {
    settings: Arc<Settings>,
}

#[derive(Clone, Debug)]
struct Settings {
    client: Client,
    mode: v1::ValidationMode,
    route: String,
    roles_all: Vec<String>,
    roles_any: Option<Vec<String>>,
    optional: bool,
    session_id_from: Vec<SessionIdFrom>,
    device_fingerprint_header: HeaderName,
    trusted_proxies: Vec<IpNet>,
}

impl SessionLayer {
    /// Make a layer that asks for a session: in the cookie `session_id` or else as `Authorization: Bearer`, in the mode that
    /// the sidecar is configured with, from the address of the connection's other end.
    pub fn new(client: Client) -> Self {
        Self {
            settings: Arc::new(Settings {
                client,
                mode: v1::ValidationMode::Unspecified,
                route: String::new(),
                roles_all: Vec::new(),
                roles_any: None,
                optional: false,
                session_id_from: vec![SessionIdFrom::Cookie("session_id".into()), SessionIdFrom::Bearer],
                device_fingerprint_header: HeaderName::from_static("x-device-fingerprint"),
                trusted_proxies: Vec::new(),
            }),
        }
    }

    fn set(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(Arc::make_mut(&mut self.settings));
        self
    }

    /// Set what is asked of a session: from here on there has to be one, else who drops it would pass.
    fn ask_more(self, change: impl FnOnce(&mut Settings)) -> Self {
        self.set(|settings| {
            change(settings);
            settings.optional = false;
        })
    }

    /// Set how much of the request context is compared. Takes [`optional`](Self::optional) back.
    #[must_use]
    pub fn mode(self, mode: v1::ValidationMode) -> Self {
        self.ask_more(|settings| settings.mode = mode)
    }

    /// Name the rule of the sidecar's configuration that holds for these requests. Takes [`optional`](Self::optional) back.
    #[must_use]
    pub fn route(self, name: impl Into<String>) -> Self {
        self.ask_more(|settings| settings.route = name.into())
    }

    /// Ask that the session's user has all of these roles. Takes [`optional`](Self::optional) back.
    #[must_use]
    pub fn roles_all<R: Into<String>>(self, roles: impl IntoIterator<Item = R>) -> Self {
        self.ask_more(|settings| settings.roles_all = roles.into_iter().map(Into::into).collect())
    }

    /// Ask that the session's user has one of these roles, beside all of [`roles_all`](Self::roles_all); one of none is nobody.
    /// Takes [`optional`](Self::optional) back.
    #[must_use]
    pub fn roles_any<R: Into<String>>(self, roles: impl IntoIterator<Item = R>) -> Self {
        self.ask_more(|settings| settings.roles_any = Some(roles.into_iter().map(Into::into).collect()))
    }

    /// Let requests without an active session pass as nobody's. What cannot be known is refused all the same.
    ///
    /// # Panics
    ///
    /// For a layer that asks for a mode, a rule or roles: who drops the session would pass.
    #[must_use]
    pub fn optional(self) -> Self {
        let Settings { mode, route, roles_all, roles_any, .. } = &*self.settings;
        let asks_nothing = *mode == v1::ValidationMode::Unspecified
            && route.is_empty()
            && roles_all.is_empty()
            && roles_any.is_none();
        assert!(asks_nothing, "a session of which a mode, a rule or roles are asked cannot be optional");
        self.set(|settings| settings.optional = true)
    }

    /// Set where the session id may stand; the first place in which anything was sent counts.
    #[must_use]
    pub fn session_id_from(self, places: impl IntoIterator<Item = SessionIdFrom>) -> Self {
        self.set(|settings| settings.session_id_from = places.into_iter().collect())
    }

    /// Set the header with the device fingerprint, instead of `x-device-fingerprint`.
    #[must_use]
    pub fn device_fingerprint_header(self, name: HeaderName) -> Self {
        self.set(|settings| settings.device_fingerprint_header = name)
    }

    /// Believe `X-Forwarded-For` as far as these proxies vouch for it.
    ///
    /// # Panics
    ///
    /// For a network of all addresses, which would make every client a proxy.
    #[must_use]
    pub fn trusted_proxies(self, networks: impl IntoIterator<Item = IpNet>) -> Self {
        let networks: Vec<IpNet> = networks.into_iter().collect();
        assert!(networks.iter().all(|network| network.prefix_len() > 0), "all addresses cannot be trusted");
        self.set(|settings| settings.trusted_proxies = networks)
    }

    /// Collect the request context as it is collected for validations, for a handler that logs people in.
    pub fn request_context(&self, headers: &HeaderMap, extensions: &Extensions) -> v1::RequestContext {
        let settings = &self.settings;
        let client_ip = client_ip::find(Peer::of(extensions), headers, &settings.trusted_proxies);
        let device = &settings.device_fingerprint_header;
        v1::RequestContext {
            client_ip: client_ip.map(|ip| ip.to_string()).unwrap_or_default(),
            device_fingerprint: sent::only(headers, device, MAX_DEVICE_BYTES),
            user_agent: sent::only(headers, &USER_AGENT, MAX_USER_AGENT_BYTES),
        }
    }

    /// Make the question that a request puts.
    pub(super) fn question(
        &self,
        headers: &HeaderMap,
        extensions: &Extensions,
    ) -> Result<v1::ValidateRequest, Refusal> {
        let session_id = match sent::session_id(headers, &self.settings.session_id_from) {
            Sent::Once(session_id) if session_id.len() <= MAX_SESSION_ID_BYTES => session_id,
            Sent::Nothing => return Err(Refusal::session_missing()),
            Sent::Once(_) | Sent::Ambiguous => return Err(Refusal::malformed()),
        };
        Ok(v1::ValidateRequest {
            session_id,
            mode: self.settings.mode.into(),
            context: Some(self.request_context(headers, extensions)),
            route: self.settings.route.clone(),
            ..Default::default()
        })
    }

    /// Say whose request it is. `None`: nobody's, where that is allowed.
    pub(super) async fn judge(
        &self,
        question: Result<v1::ValidateRequest, Refusal>,
    ) -> Result<Option<Active>, Refusal> {
        match self.ask(question).await {
            Ok(active) => Ok(Some(active)),
            Err(refusal) if self.settings.optional && refusal.is_about_session() => Ok(None),
            Err(refusal) => Err(refusal),
        }
    }

    async fn ask(&self, question: Result<v1::ValidateRequest, Refusal>) -> Result<Active, Refusal> {
        let answer = self.settings.client.validate(question?).await;
        let active = answer.map_err(Refusal::of)?;
        let has = active.session.user.as_ref().map_or(&[][..], |user| &user.roles);
        let Settings { roles_all, roles_any, .. } = &*self.settings;
        let has_one = roles_any.as_ref().is_none_or(|any| any.iter().any(|role| has.contains(role)));
        if has_one && roles_all.iter().all(|role| has.contains(role)) {
            Ok(active)
        } else {
            Err(Refusal::role_missing())
        }
    }
}

impl<S> Layer<S> for SessionLayer {
    type Service = SessionService<S>;

    fn layer(&self, inner: S) -> SessionService<S> {
        SessionService::new(self.clone(), inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header::COOKIE;

    fn layer() -> SessionLayer {
        SessionLayer::new(Client::new("/nowhere/bridge.sock"))
    }

    #[test]
    fn who_asks_more_of_a_session_asks_for_a_session() {
        for asking in [
            layer().optional().mode(v1::ValidationMode::Strict),
            layer().optional().route("admin"),
            layer().optional().roles_all(["admin"]),
            layer().optional().roles_any(["admin"]),
        ] {
            assert!(!asking.settings.optional, "{asking:?}");
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| asking.optional()))
                .expect_err("refused where it is made");
        }
        assert!(layer().optional().settings.optional);
    }

    #[test]
    fn what_is_longer_than_any_session_id_is_refused_unasked() {
        let question = |length: usize| {
            let mut headers = HeaderMap::new();
            headers.insert(COOKIE, format!("session_id={}", "a".repeat(length)).parse().unwrap());
            layer().question(&headers, &Extensions::new())
        };
        assert_eq!(question(128).unwrap().session_id.len(), 128);
        assert_eq!(question(129).unwrap_err(), Refusal::malformed());
    }
}
