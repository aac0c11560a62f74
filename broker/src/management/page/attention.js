// What draws a person's attention: the title of the page, and notifications.

import { $, plain, toast } from "./dom.js";

/** The number of sessions whose last need is remembered. */
const REMEMBERED = 1000;
/** Since when each session has needed a person: a page that starts anew hears of it again. */
const needs = new Map();
/** The sessions that need a person now. */
let needy = new Set();

/** Shows in the title how many sessions need a person, and notifies of new ones if that is on. */
export function showAttention(sessions) {
  document.title = sessions.length ? `(${sessions.length}) cbroker` : "cbroker";
  const isWanted =
    localStorage.getItem("notify") === "yes" && window.Notification?.permission === "granted";
  for (const { key, name, label, reason, since } of sessions) {
    const isNew = !needy.has(key) && needs.get(key) !== since;
    needs.delete(key);
    needs.set(key, since);
    if (needs.size > REMEMBERED) needs.delete(needs.keys().next().value);
    if (!isWanted || !isNew || !document.hidden) continue;
    new Notification(plain(`${name}: ${label}`), { body: plain(reason ?? ""), tag: key });
  }
  needy = new Set(sessions.map(({ key }) => key));
}

$("notify").addEventListener("click", async () => {
  const isOn = localStorage.getItem("notify") === "yes";
  if (!isOn && (await window.Notification?.requestPermission()) !== "granted")
    return toast("The browser does not allow notifications from this page.");
  localStorage.setItem("notify", isOn ? "no" : "yes");
  toast(
    isOn
      ? "Notifications are off."
      : "You get a notification when a session needs you while this page is in the background.",
  );
});
