// Asks for confirmation before an action that cannot be undone.

import { $, say } from "./dom.js";

/** Does `act` if the person confirms, and shows why it fails. Resolves to whether it was done. */
export function sure({ title, text, go, act }) {
  say($("sure-title"), title);
  say($("sure-text"), text);
  say($("sure-error"), "");
  say($("sure-go"), go);
  const box = $("sure");
  box.showModal();
  // The button to cancel gets the focus, so that a key that was already pressed confirms nothing.
  box.querySelector("[data-close]").focus();
  return new Promise((resolve) => {
    let done = false;
    $("sure-go").onclick = async (event) => {
      event.preventDefault();
      try {
        await act();
        done = true;
        box.close();
      } catch (error) {
        say($("sure-error"), error.message);
      }
    };
    box.onclose = () => resolve(done);
  });
}
