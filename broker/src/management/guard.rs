//! Checks every request before its sender is identified, and adds the security headers to every
//! response.
//!
//! A foreign page must not reach this API through the browser of a signed-in user. Therefore `Host`
//! must be an address, `localhost`, or with TLS this machine's name, which a rebound name is not.
//! `Origin`, if the browser sends one, must be this server's own. The headers forbid framing,
//! sniffing, and every script but the page's own.

use axum::extract::Request;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::refusal::ApiError;

/// Whether the listener uses TLS, which decides the scheme of our own origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HttpScheme {
    /// Loopback only.
    Http,
    /// Anywhere.
    Https,
}

impl HttpScheme {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// The values that every request is checked against.
#[derive(Clone, Debug)]
pub(super) struct RequestGuard {
    pub(super) scheme: HttpScheme,
    /// Names of this machine in addition to `localhost` and its addresses, in lower case. They
    /// count with TLS alone: without it, browsers do not let the page check who answers.
    pub(super) names: Vec<String>,
}

const PROTECTION: [(HeaderName, HeaderValue); 7] = [
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
             connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
             require-trusted-types-for 'script'; trusted-types 'none'",
        ),
    ),
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    ),
    (
        header::REFERRER_POLICY,
        HeaderValue::from_static("no-referrer"),
    ),
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        HeaderValue::from_static("same-origin"),
    ),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        HeaderValue::from_static("same-origin"),
    ),
];

impl RequestGuard {
    /// Refuses a request for another server, or from a foreign page.
    pub(super) fn check(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let authority = self.host(headers)?;
        let Some(origin) = headers.get(header::ORIGIN) else {
            return Ok(());
        };
        let own = format!("{}://{authority}", self.scheme.as_str());
        if origin.as_bytes().eq_ignore_ascii_case(own.as_bytes()) {
            return Ok(());
        }
        Err(ApiError::suspicious(
            "the request comes from a foreign page",
        ))
    }

    fn host<'a>(&self, headers: &'a HeaderMap) -> Result<&'a str, ApiError> {
        let misdirected = || {
            let reason = "this server does not answer to that Host; use localhost or an address";
            ApiError::new(StatusCode::MISDIRECTED_REQUEST, "misdirected", reason)
        };
        let mut hosts = headers.get_all(header::HOST).iter();
        let (Some(host), None) = (hosts.next(), hosts.next()) else {
            return Err(misdirected());
        };
        let text = host.to_str().map_err(|_| misdirected())?;
        let authority: Authority = text.parse().map_err(|_| misdirected())?;
        if text.contains('@') || !self.is_own(authority.host()) {
            return Err(misdirected());
        }
        Ok(text)
    }

    /// Whether no foreign page can be served under this name. Addresses cannot be rebound, and
    /// browsers do not ask a name server for `localhost`. Where one might, `cbroker ui` opens no
    /// name below it.
    fn is_own(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        bare.parse::<std::net::IpAddr>().is_ok()
            || host == "localhost"
            || host.ends_with(".localhost")
            || self.scheme == HttpScheme::Https && self.names.contains(&host)
    }
}

/// The layer around every route.
pub(super) async fn protect(guard: RequestGuard, request: Request, next: Next) -> Response {
    let mut response = match guard.check(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    };
    let headers = response.headers_mut();
    for (name, value) in PROTECTION {
        headers.entry(name).or_insert(value);
    }
    response
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use axum::http::{HeaderMap, StatusCode, header};

    use super::{HttpScheme, RequestGuard};

    fn judged(
        scheme: HttpScheme,
        headers: &[(header::HeaderName, &str)],
    ) -> Result<(), StatusCode> {
        let guard = RequestGuard {
            scheme,
            names: vec!["build.example".into()],
        };
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name, value.parse().unwrap());
        }
        guard.check(&map).map_err(|refusal| refusal.status)
    }

    fn host(value: &str) -> Result<(), StatusCode> {
        judged(HttpScheme::Http, &[(header::HOST, value)])
    }

    #[test]
    fn a_rebound_name_is_not_answered() {
        for own in [
            "localhost:15672",
            "127.0.0.1",
            "[::1]:15672",
            "LOCALHOST",
            "app.localhost:1",
            "10.1.2.3:15672",
        ] {
            assert_eq!(host(own), Ok(()), "{own}");
        }
        for foreign in [
            "evil.example:15672",
            "build.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "u@localhost",
            "",
        ] {
            assert_eq!(
                host(foreign),
                Err(StatusCode::MISDIRECTED_REQUEST),
                "{foreign}"
            );
        }
        assert_eq!(
            judged(HttpScheme::Http, &[]),
            Err(StatusCode::MISDIRECTED_REQUEST),
            "no Host at all"
        );
        let two = [(header::HOST, "localhost"), (header::HOST, "evil.example")];
        assert_eq!(
            judged(HttpScheme::Http, &two),
            Err(StatusCode::MISDIRECTED_REQUEST)
        );
    }

    #[test]
    fn a_foreign_origin_is_refused() {
        let from = |origin| {
            judged(
                HttpScheme::Http,
                &[(header::HOST, "localhost:15672"), (header::ORIGIN, origin)],
            )
        };
        assert_eq!(from("http://localhost:15672"), Ok(()));
        for foreign in [
            "http://evil.example",
            "null",
            "http://localhost:1",
            "https://localhost:15672",
            "http://localhost",
        ] {
            assert_eq!(from(foreign), Err(StatusCode::FORBIDDEN), "{foreign}");
        }
        let named = [(header::HOST, "build.example")];
        assert_eq!(judged(HttpScheme::Https, &named), Ok(()));
        let secure = [
            (header::HOST, "localhost:15672"),
            (header::ORIGIN, "https://localhost:15672"),
        ];
        assert_eq!(judged(HttpScheme::Https, &secure), Ok(()));
    }
}
