//! The web page at `/`: three files in the binary, no build step, nothing from outside.
//!
//! Public as they stand: they hold nothing, and everything that they show is asked from the API by a signed-in user.

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};

use super::routes::Routes;

const HTML: &str = include_str!("index.html");
const SCRIPT: &str = include_str!("page.js");
const STYLE: &str = include_str!("page.css");

pub(super) fn routes(routes: Routes) -> Routes {
    routes
        .get("/", "the page", || async {
            file("text/html; charset=utf-8", HTML)
        })
        .get("/page.js", "its script", || async {
            file("text/javascript; charset=utf-8", SCRIPT)
        })
        .get("/page.css", "its looks", || async {
            file("text/css; charset=utf-8", STYLE)
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
    use super::{HTML, SCRIPT, STYLE};

    #[test]
    fn the_page_is_small_and_asks_nobody_else() {
        assert!(HTML.len() + SCRIPT.len() + STYLE.len() < 100 * 1024);
        for text in [HTML, SCRIPT, STYLE] {
            let outside =
                text.matches("://").count() - text.matches("http://www.w3.org/2000/svg").count();
            assert_eq!(outside, 0, "no address of another server");
        }
    }

    #[test]
    fn the_script_never_writes_markup() {
        for sink in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "new Function",
            "srcdoc",
        ] {
            assert!(!SCRIPT.contains(sink), "{sink}");
        }
    }
}
