//! Flowless and a sidecar as real processes, by `python -m tools.pair`.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::Value;
use tokio::sync::{Mutex, MutexGuard, OnceCell};
use trustlayer::v1;

/// Both programs; they end with this process, which ends their input.
pub struct Pair {
    pub facts: Value,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    _process: Child,
}

static SHARED: OnceCell<Mutex<Pair>> = OnceCell::const_new();

/// Have the pair of this process to oneself. Leave both programs running.
pub async fn take() -> MutexGuard<'static, Pair> {
    SHARED.get_or_init(async || Mutex::new(Pair::start())).await.lock().await
}

impl Pair {
    fn start() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut process = Command::new(root.join(".venv/bin/python"))
            .args(["-m", "tools.pair", "--role", "reader"])
            .current_dir(root)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the pair starts");
        let input = process.stdin.take().unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let facts = answer(&mut output);
        Self { facts, input, output, _process: process }
    }

    /// Have something done, such as `stop-sidecar`.
    pub fn command(&mut self, command: &str) {
        writeln!(self.input, "{command}").unwrap();
        let answer = answer(&mut self.output);
        assert_eq!(answer["done"], command, "{answer}");
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

/// Read a line of JSON. The pair bounds how long it takes for each, and ends its output when it fails.
fn answer(output: &mut impl BufRead) -> Value {
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    serde_json::from_str(&line).expect("an answer of the pair")
}
