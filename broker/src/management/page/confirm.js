// Asks for confirmation before an action that cannot be undone.

import { $, say } from "./dom.js";

/** Does `act` if the person confirms, and shows why it fails. Resolves to whether it was done. */
export function askToConfirm({ title, text, go, act }) {
  say($("confirm-title"), title);
  say($("confirm-text"), text);
  say($("confirm-error"), "");
  say($("confirm-go"), go);
  const box = $("confirm");
  box.showModal();
  // The button to cancel gets the focus, so that a key that was already pressed confirms nothing.
  box.querySelector("[data-close]").focus();
  return new Promise((resolve) => {
    let done = false;
    $("confirm-go").onclick = async (event) => {
      event.preventDefault();
      try {
        await act();
        done = true;
        box.close();
      } catch (error) {
        say($("confirm-error"), error.message);
      }
    };
    box.onclose = () => resolve(done);
  });
}
