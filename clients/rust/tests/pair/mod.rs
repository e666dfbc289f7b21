//! Flowless and a sidecar as real processes, by `python -m tools.pair`.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;
use trustlayer::v1;

const READY: Duration = Duration::from_secs(100);
const DONE: Duration = Duration::from_secs(60);

/// Both programs; they end when this is dropped, which ends their input.
pub struct Pair {
    pub facts: Value,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    _process: Child,
}

impl Pair {
    pub async fn start(arguments: &[&str]) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut process = Command::new(root.join(".venv/bin/python"))
            .args(["-m", "tools.pair"])
            .args(arguments)
            .current_dir(root)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the pair starts");
        let input = process.stdin.take().unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap()).lines();
        let line = timeout(READY, output.next_line()).await.expect("in time").unwrap();
        let facts = serde_json::from_str(&line.expect("a pair that is ready")).unwrap();
        Self { facts, input, output, _process: process }
    }

    /// Have something done, such as `stop-sidecar`.
    pub async fn command(&mut self, command: &str) {
        self.input.write_all(format!("{command}\n").as_bytes()).await.unwrap();
        let line = timeout(DONE, self.output.next_line()).await.expect("in time").unwrap().unwrap();
        assert_eq!(serde_json::from_str::<Value>(&line).unwrap()["done"], command, "{line}");
    }

    pub fn text(&self, name: &str) -> String {
        self.facts[name].as_str().unwrap().to_owned()
    }

    pub fn socket(&self) -> PathBuf {
        self.text("socket").into()
    }

    pub fn context(&self) -> v1::RequestContext {
        v1::RequestContext {
            client_ip: self.text("client_ip"),
            device_fingerprint: self.text("device_fingerprint"),
            user_agent: self.text("user_agent"),
        }
    }

    /// The question whether the first user's session is active for a request from where they logged in.
    pub fn question(&self) -> v1::ValidateRequest {
        v1::ValidateRequest {
            session_id: self.text("session_id"),
            context: Some(self.context()),
            ..Default::default()
        }
    }
}
