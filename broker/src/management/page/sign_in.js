// Signing in and out: by a link, by the form, or by a sign-in that the browser still has.

import { $, ask, say, signIn, signOut } from "./dom.js";
import { askToConfirm } from "./confirm.js";
import { canProve } from "./proof.js";

/**
 * Signs in by a link. Another page may have sent this browser to a link that its author made: then
 * the person is asked to confirm the user.
 */
async function redeem(token) {
  try {
    await signIn({ token });
  } catch (error) {
    if (error.status !== 409) throw error;
    const { user, instead_of: before } = error.body;
    const title = before ? `Sign in as ${user} instead of ${before}?` : `Sign in as ${user}?`;
    const text =
      "You came here by a link. If you did not ask for it, cancel: " +
      "the person who made it would see what you do as this user.";
    const act = () => signIn({ token, confirmed: true });
    await askToConfirm({ title, text, go: `Sign in as ${user}`, act });
  }
}

/** A 401 whose proof is missing says no more than this. */
export const IS_OUT = "You are signed out, or another program answers here.";

/** What is shown where the browser cannot check a proof. */
const NEEDS_PROOF =
  "This page needs HTTPS or an address of the broker's own machine. Elsewhere the browser cannot " +
  "check that the broker answers.";

/** Shows the form to sign in, with an error or "". */
function showForm(error) {
  $("app").hidden = true;
  $("sign-in").hidden = false;
  say($("sign-in-error"), error);
}

/**
 * Shows why the sign-in ended. There is no form: another program may hold the port, and would get
 * the password. Nor is the page loaded again, because that program's script would run here.
 */
export function showEnd(why) {
  showForm(`${why} Run cbroker ui to open the page.`);
  $("with-password").hidden = true;
}

/**
 * Signs in with the link or the sign-in that the browser has, or shows the form. Calls `begin` with
 * the user who is signed in, and `end` with the reason if the broker does not answer to the end.
 */
export async function signInOrShowForm(begin, end) {
  $("sign-in-form").addEventListener("submit", (event) => {
    event.preventDefault();
    signInByForm(event.target.elements, begin);
  });
  $("leave").addEventListener("click", async () => {
    try {
      await signOut();
    } catch (error) {
      if (error.status === 401) return end(IS_OUT);
      const reason = error.message.replace(/\.$/, "");
      return end(`Signed out in this browser, but not at the broker: ${reason}.`);
    }
    location.reload();
  });
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (token) history.replaceState(null, "", location.pathname);
  if (!canProve()) return showEnd(NEEDS_PROOF);
  try {
    if (token) await redeem(token);
  } catch (error) {
    const used = "This link was used already or is older than a minute. Run cbroker ui again.";
    return showForm(error.status === 401 ? used : error.message);
  }
  try {
    begin(await ask("GET", "/api/session"));
  } catch (error) {
    showForm(error.status === 401 ? "" : error.message);
  }
}

/** Signs in by the form. */
async function signInByForm({ username, password }, begin) {
  try {
    await signIn({ username: username.value, password: password.value });
    password.value = "";
    begin(await ask("GET", "/api/session"));
  } catch (error) {
    say($("sign-in-error"), error.status === 401 ? "Wrong name or password." : error.message);
  }
}
