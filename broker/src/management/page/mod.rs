//! The web page at `/`: a few files in the binary, with no build step and no external resources.
//!
//! The files are public and contain no data. The page requests everything that it shows from the
//! API, as a signed-in user.

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};

use super::routes::Routes;

const HTML: &str = include_str!("index.html");
const DOM: &str = include_str!("dom.js");
const MODEL: &str = include_str!("model.js");
const VIEWS: &str = include_str!("views.js");
const CONTROL: &str = include_str!("control.js");
const DRAWER: &str = include_str!("drawer.js");
const PAST: &str = include_str!("past.js");
const SCRIPT: &str = include_str!("page.js");
const STYLE: &str = concat!(include_str!("frame.css"), include_str!("views.css"));

pub(super) fn routes(routes: Routes) -> Routes {
    let script = |text| move || async move { file("text/javascript; charset=utf-8", text) };
    routes
        .get("/", "the page", || async {
            file("text/html; charset=utf-8", HTML)
        })
        .get("/page.css", "its looks", || async {
            file("text/css; charset=utf-8", STYLE)
        })
        .get("/page.js", "its script", script(SCRIPT))
        .get("/control.js", "what it asks of sessions", script(CONTROL))
        .get("/drawer.js", "one queue, looked into", script(DRAWER))
        .get("/past.js", "what is kept on disk", script(PAST))
        .get("/views.js", "what it shows", script(VIEWS))
        .get("/model.js", "what it knows", script(MODEL))
        .get("/dom.js", "how it shows and asks", script(DOM))
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
    use super::{CONTROL, DOM, DRAWER, HTML, MODEL, PAST, SCRIPT, STYLE, VIEWS};

    const SVG: &str = "http://www.w3.org/2000/svg";

    #[test]
    fn the_page_is_small_and_asks_nobody_else() {
        let files = [
            HTML, STYLE, SCRIPT, CONTROL, DRAWER, PAST, VIEWS, MODEL, DOM,
        ];
        assert!(files.iter().map(|file| file.len()).sum::<usize>() < 128 * 1024);
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
        for (script, sink) in [SCRIPT, CONTROL, DRAWER, PAST, VIEWS, MODEL, DOM]
            .iter()
            .flat_map(|script| sinks.map(|sink| (script, sink)))
        {
            assert!(!script.contains(sink), "{sink}");
        }
    }
}
