/** The Java program of {@code make bench-languages}. */
package trustlayer.bench;
