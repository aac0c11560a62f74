// Asks a person before something is done that cannot be undone.

import { $, say } from "./dom.js";

/** Does `act` where the person agrees, and shows why it fails. Resolves to whether it was done. */
export function sure({ title, text, go, act }) {
  say($("sure-title"), title);
  say($("sure-text"), text);
  say($("sure-error"), "");
  say($("sure-go"), go);
  const box = $("sure");
  box.showModal();
  // A key that was on its way confirms nothing.
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
