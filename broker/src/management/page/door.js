// Signing in and out: by a link, by the form, or by a sign-in that the browser still has.

import { $, ask, say, signIn, signOut } from "./dom.js";
import { sure } from "./sure.js";

/**
 * Signs in by a link. Another page may have sent this browser to a link of its author: then a
 * person is asked.
 */
async function redeem(token) {
  try {
    await signIn({ token });
  } catch (error) {
    if (error.status !== 409) throw error;
    const { user, instead_of: before } = error.body;
    const title = before ? `Sign in as ${user} instead of ${before}?` : `Sign in as ${user}?`;
    const text =
      "A link brought you here. If you did not ask for it, cancel: " +
      "whoever made it would see what you do as this user.";
    const act = () => signIn({ token, confirmed: true });
    await sure({ title, text, go: `Sign in as ${user}`, act });
  }
}

/** Shows the form. */
export function knock(error) {
  $("app").hidden = true;
  $("door").hidden = false;
  say($("door-error"), error);
}

/** Signs in where that can be done, else shows the form. Calls `begin` with who is signed in. */
export async function enter(begin) {
  $("door-form").addEventListener("submit", (event) => {
    event.preventDefault();
    fill(event.target.elements, begin);
  });
  $("leave").addEventListener("click", async () => {
    await signOut();
    location.reload();
  });
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (token) history.replaceState(null, "", location.pathname);
  try {
    if (token) await redeem(token);
  } catch (error) {
    const used = "This link was used already or is older than a minute. Run cbroker ui again.";
    return knock(error.status === 401 ? used : error.message);
  }
  try {
    begin(await ask("GET", "/api/session"));
  } catch (error) {
    knock(error.status === 401 ? "" : error.message);
  }
}

/** Signs in by the form. */
async function fill({ username, password }, begin) {
  try {
    await signIn({ username: username.value, password: password.value });
    password.value = "";
    begin(await ask("GET", "/api/session"));
  } catch (error) {
    say($("door-error"), error.status === 401 ? "Wrong name or password." : error.message);
  }
}
