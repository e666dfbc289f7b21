"""One list of cases that holds the clients of all languages to `clients/README.md`, and the runner of it."""
