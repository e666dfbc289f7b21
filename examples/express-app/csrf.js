// @ts-check
/**
 * Refuses what other sites make a browser send.
 *
 * SameSite cookies already stay at home for a POST from another site, but a site of the same domain is no other site to
 * them, and logging somebody in needs no cookie. So every request that may change something has to say where it comes
 * from, which browsers do and scripts cannot forge: `Sec-Fetch-Site`, and in older browsers `Origin`. One that says
 * neither is refused.
 */
import { errorPage } from "./pages.js";

const SAFE = new Set(["GET", "HEAD", "OPTIONS"]);

/**
 * @param {string} origin
 * @returns {import("express").RequestHandler}
 */
export function refuseOtherSites(origin) {
  return (request, response, next) => {
    const site = request.get("sec-fetch-site");
    const isOurs = site === undefined ? request.get("origin") === origin : site === "same-origin";
    if (SAFE.has(request.method) || isOurs) {
      next();
    } else {
      response.status(403).send(errorPage("This came from another site."));
    }
  };
}
