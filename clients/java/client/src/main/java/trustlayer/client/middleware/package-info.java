/** What lets only requests with a session pass: {@code SessionFilter} for servlets, {@code SessionInterceptor} for gRPC. */
package trustlayer.client.middleware;
