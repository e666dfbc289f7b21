// @ts-check
/** What people see. Every text that is not ours is escaped. */

/** @param {TemplateStringsArray} parts @param {(string | Html)[]} values */
function html(parts, ...values) {
  const text = parts.map((part, i) => part + (i < values.length ? shown(values[i] ?? "") : "")).join("");
  return new Html(text);
}

class Html {
  /** @param {string} text */
  constructor(text) {
    this.text = text;
  }
}

/** @type {Record<string, string>} */
const ESCAPES = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };

/** @param {string | Html} value */
function shown(value) {
  return value instanceof Html ? value.text : value.replace(/[&<>"']/g, (char) => ESCAPES[char] ?? "");
}

/** @param {string} title @param {Html} content */
function page(title, content) {
  return html`<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>${title}</title></head>
<body><main><h1>${title}</h1>
${content}
</main></body>
</html>
`.text;
}

export function loginPage(problem = "") {
  return page(
    "Log in",
    html`${problem === "" ? "" : html`<p role="alert">${problem}</p>`}
<form method="post" action="/login">
<p><label>E-mail or user name <input name="login" autocomplete="username" required autofocus></label></p>
<p><label>Password <input name="password" type="password" autocomplete="current-password" required></label></p>
<p><button>Log in</button></p>
</form>`,
  );
}

/**
 * @param {import("@trustlayer/client").Session} current
 * @param {import("@trustlayer/client").User} user
 * @param {import("@trustlayer/client").SessionSummary[]} sessions
 */
export function devicesPage(current, user, sessions) {
  const rows = sessions.map((session) => {
    const seen = session.lastSeenTime ?? session.createTime;
    const when = seen === undefined ? "" : new Date(Number(seen.seconds) * 1000).toISOString();
    const mark = session.handle === current.handle ? " (this one)" : "";
    return html`<tr><td>${session.deviceName || "unknown"}${mark}</td><td>${session.clientIp}</td><td>${when}</td></tr>
`;
  });
  return page(
    "Your devices",
    html`<p>You are ${user.name || user.email}.</p>
<table><thead><tr><th scope="col">Device</th><th scope="col">Address</th><th scope="col">Last seen</th></tr></thead>
<tbody>
${new Html(rows.map((row) => row.text).join(""))}</tbody></table>
<form method="post" action="/logout-everywhere-else"><button>Log out everywhere else</button></form>
<form method="post" action="/logout"><button>Log out</button></form>
<p><a href="/admin">Administration</a></p>`,
  );
}

/** @param {string} email */
export function adminPage(email) {
  return page("Administration", html`<p>${email} may see this, from the device and browser of the login.</p>`);
}

/** @param {string} text */
export function errorPage(text) {
  return page("Sorry", html`<p>${text}</p><p><a href="/">Back</a></p>`);
}
