/** The driver of the conformance cases: uses the client as an app would, as clients/conformance says. */
package trustlayer.conformance;
