//! Everything on the page can be reached with the Tab key.

use crate::fixture::eventually;
use crate::layout::Busy;

const TAB: &str = "\u{e004}";

/// What takes part in the page and has not had the focus yet. A tab that is not chosen is reached
/// with the arrow keys.
const UNREACHED: &str = r"(() => {
  const box = document.querySelector('dialog[open]:last-of-type') ?? document.body;
  const kinds = 'a[href], button, input, select, textarea, summary, tr[tabindex]';
  const all = box.querySelectorAll(kinds);
  return [...all]
    .filter((one) => one.checkVisibility() && !one.disabled && !one.closest('dialog:not([open])'))
    .filter((one) => one.role !== 'tab' && !reached.has(one))
    .map((one) => `${one.tagName} ${one.id} ${one.className}: ${one.textContent.slice(0, 40)}`);
})()";

#[test]
fn everything_is_reached_with_the_tab_key() {
    let Some(busy) = Busy::open() else { return };
    let browser = &busy.browser;
    browser.run(
        "window.reached = new Set();
         document.addEventListener('focusin', ({ target }) => reached.add(target));
         done();",
    );
    busy.each_view(|view| {
        // What was drawn anew meanwhile is reached in the next round.
        eventually(&format!("all of {view} has had the focus"), || {
            browser.press(&TAB.repeat(60));
            let left = browser.value(UNREACHED);
            let left = left.as_array().unwrap();
            if !left.is_empty() {
                eprintln!("{view}: {left:?}");
            }
            left.is_empty().then_some(())
        });
        // Back to the top, also in the drawer: the next click is not behind its head.
        browser.value(
            "[document.activeElement.blur(), scrollTo(0, 0), \
             document.getElementById('look').scrollTop = 0]",
        );
    });
    // The tabs, with the arrow keys.
    browser.value("document.getElementById('tab-sessions').focus() ?? true");
    for tab in ["talk", "queues", "broker", "sessions"] {
        browser.press("\u{e014}");
        browser.until(&format!("document.activeElement.id === 'tab-{tab}'"));
        browser.until(&format!("!document.getElementById('{tab}').hidden"));
    }
}
