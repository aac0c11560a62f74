//! The web page at `/`: a few files in the binary, with no build step and no external resources.
//!
//! The files are public and contain no data. The page requests everything that it shows from the
//! API, as a signed-in user.

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};

use super::routes::Routes;

const HTML: &str = include_str!("index.html");
const STYLE: &str = concat!(include_str!("frame.css"), include_str!("views.css"));

/// A script's path, what it is for, and its text.
type Script = (&'static str, &'static str, &'static str);

const SCRIPTS: [Script; 19] = [
    (
        "/page.js",
        "what keys and buttons do",
        include_str!("page.js"),
    ),
    ("/sign_in.js", "signing in", include_str!("sign_in.js")),
    (
        "/compose.js",
        "the form that sends",
        include_str!("compose.js"),
    ),
    ("/confirm.js", "asking back", include_str!("confirm.js")),
    (
        "/control.js",
        "what it asks of sessions",
        include_str!("control.js"),
    ),
    (
        "/drawer.js",
        "one queue, looked into",
        include_str!("drawer.js"),
    ),
    (
        "/archive.js",
        "what is kept on disk",
        include_str!("archive.js"),
    ),
    ("/views.js", "what it shows", include_str!("views.js")),
    (
        "/broker.js",
        "the view of the broker",
        include_str!("broker.js"),
    ),
    ("/model.js", "what it knows", include_str!("model.js")),
    (
        "/session_status.js",
        "what a session does and needs",
        include_str!("session_status.js"),
    ),
    ("/message.js", "one message", include_str!("message.js")),
    (
        "/envelope.js",
        "the JSON of messages",
        include_str!("envelope.js"),
    ),
    ("/names.js", "names on the broker", include_str!("names.js")),
    (
        "/live.js",
        "whether the broker answers",
        include_str!("live.js"),
    ),
    (
        "/attention.js",
        "calling the person",
        include_str!("attention.js"),
    ),
    (
        "/stream.js",
        "a stream of events",
        include_str!("stream.js"),
    ),
    ("/dom.js", "how it shows and asks", include_str!("dom.js")),
    (
        "/proof.js",
        "who answers, and what it signs in with",
        include_str!("proof.js"),
    ),
];

pub(super) fn routes(routes: Routes) -> Routes {
    let routes = routes
        .get("/", "the page", || async {
            file("text/html; charset=utf-8", HTML)
        })
        .get("/page.css", "its looks", || async {
            file("text/css; charset=utf-8", STYLE)
        });
    SCRIPTS.iter().fold(routes, |routes, (path, what, text)| {
        routes.get(path, what, move || async move {
            file("text/javascript; charset=utf-8", text)
        })
    })
}

fn file(kind: &'static str, text: &'static str) -> Response {
    (
        [(header::CONTENT_TYPE, HeaderValue::from_static(kind))],
        text,
    )
        .into_response()
}

#[cfg(test)]
mod tests {
    use super::{HTML, SCRIPTS, STYLE};

    const SVG: &str = "http://www.w3.org/2000/svg";

    #[test]
    fn the_page_is_small_and_asks_nobody_else() {
        let scripts = SCRIPTS.iter().map(|(_, _, text)| *text);
        let files: Vec<_> = [HTML, STYLE].into_iter().chain(scripts).collect();
        assert!(files.iter().map(|file| file.len()).sum::<usize>() < 144 * 1024);
        for text in files {
            let addresses = text.matches("://").count();
            assert_eq!(
                addresses,
                text.matches(SVG).count(),
                "an address of another server"
            );
        }
    }

    #[test]
    fn the_scripts_never_write_markup() {
        let sinks = [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "new Function",
            "srcdoc",
            "DOMParser",
        ];
        for (path, _, script) in SCRIPTS {
            for sink in sinks {
                assert!(!script.contains(sink), "{path}: {sink}");
            }
        }
    }
}
