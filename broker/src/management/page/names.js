// Names of exchanges, sessions and messages. Uses no DOM.

/** The vhost that this page shows. */
export const VHOST = "/";
export const EXCHANGE = "claudeBroker";
export const PRESENCE = "claudeBroker.presence";
/** A member's queue is bound to it by the name of the group. */
export const GROUPS = "claudeBroker.groups";
/** Answers to our requests go to this name, which is no queue; the page sees them in the tap. */
export const LISTENING = "amq.gen-cbroker-page";
/** A name as the command line writes it. */
export const NAME = /^[a-z][a-zA-Z0-9]{0,63}$/;
/** A session's own id. */
export const WRAP = /^[0-9A-Za-z]{1,64}$/;
/** The queues in which commands wait for answers. */
export const ASKING = /^ask[0-9A-HJKMNP-TV-Z]{26}$/;

/**
 * Makes `myBackend` of `my-backend`, `my_backend` and `My Backend`, as the command line does.
 * Throws if the result is not a name.
 */
export function sessionName(text) {
  const parts = text.split(/[-_\s]+/u).filter(Boolean);
  const joined = parts
    .map((part) => part[0].toUpperCase() + part.slice(1))
    .join("")
    .replace(/[^a-zA-Z0-9]/g, "");
  const name = joined.slice(0, 1).toLowerCase() + joined.slice(1);
  if (!NAME.test(name))
    throw new Error(
      `“${text}” is not a session's name: letters and digits, a letter first, at most 64.`,
    );
  return name;
}

/** Whether a queue of this name is a session's, by the rule of the command line. */
export const isSession = (name) => NAME.test(name) && !ASKING.test(name);

/**
 * Whether a binding of the sessions' exchange is a session's: its queue is bound by its own name.
 * Users with the right can bind any queue.
 */
export const isOfSession = ({ destination_type: kind, destination, routing_key: key }) =>
  kind === "queue" && key === destination && isSession(destination);

/** Whether a broker or a command made the queue for its own use. */
export const isInternal = (name) => name.startsWith("amq.") || ASKING.test(name);

/** A new ULID. */
export function ulid(now = Date.now()) {
  const letters = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
  let time = "";
  for (let place = 0, rest = now; place < 10; place++, rest = Math.floor(rest / 32))
    time = letters[rest % 32] + time;
  return (
    time +
    Array.from(crypto.getRandomValues(new Uint8Array(16)), (octet) => letters[octet % 32]).join("")
  );
}
