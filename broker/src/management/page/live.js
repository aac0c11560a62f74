// Shows whether the broker answers.

import { $, say, when } from "./dom.js";

let heard = Date.now();

/** Notes that the broker has answered. */
export const noteAnswer = () => (heard = Date.now());

/** Marks what is shown as current. */
export function showLive() {
  noteAnswer();
  $("live").className = "live on";
  say($("live"), "live");
  $("gone").hidden = true;
  document.body.classList.remove("stale");
}

const TROUBLES = {
  reconnecting: "The live stream was interrupted.",
  "no answer": "The broker does not answer.",
  refused: "The broker refused to answer.",
};

/** Marks what is shown as outdated, for the reason `why`, a key of `TROUBLES`. */
export function showStale(why) {
  const then = `The page shows the state of ${when(heard)} and tries again.`;
  if ($("gone").hidden || $("live").textContent !== why) say($("gone"), `${TROUBLES[why]} ${then}`);
  $("live").className = "live off";
  say($("live"), why);
  $("gone").hidden = false;
  document.body.classList.add("stale");
}
