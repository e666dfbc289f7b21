/** Asks the sidecar beside the app whether a session is valid, and what else the sidecar serves or relays. */
package trustlayer.client;
