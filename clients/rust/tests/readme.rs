//! The README's first snippet is the example `first`, and does what it says.

mod pair;

use std::path::Path;

use tokio::process::Command;

const EXAMPLES: [&str; 3] = [
    include_str!("../examples/first.rs"),
    include_str!("../examples/devices.rs"),
    include_str!("../examples/guard.rs"),
];

#[test]
fn the_readmes_snippets_are_the_examples_as_they_stand() {
    let readme = include_str!("../README.md");
    let snippets = readme.split("```rust\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    assert_eq!(snippets.collect::<Vec<_>>(), EXAMPLES);
}

/// Run it as a person would, and return what it prints.
async fn first(socket: &Path, session_id: &str) -> String {
    let programs = std::env::current_exe().unwrap();
    let program = programs.parent().unwrap().parent().unwrap().join("examples/first");
    let said = Command::new(program)
        .env("TRUSTLAYER_SOCKET", socket)
        .env("SESSION_ID", session_id)
        .env("CLIENT_IP", "127.0.0.1")
        .output()
        .await
        .unwrap();
    assert!(said.status.success(), "{said:?}");
    String::from_utf8(said.stdout).unwrap()
}

#[tokio::test]
async fn the_first_snippet_tells_a_yes_from_a_no_and_from_not_knowing() {
    let mut pair = pair::take().await;
    let (socket, session_id) = (pair.socket(), pair.text("session_id"));
    assert_eq!(first(&socket, &session_id).await, format!("it is {}\n", pair.text("login")));
    assert!(first(&socket, "nonsense").await.starts_with("log in again: MALFORMED"));
    pair.command("stop-sidecar");
    assert!(first(&socket, &session_id).await.starts_with("try again later: "));
}
