//! Tells the driver which compiler it comes from.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let compiler = std::env::var("RUSTC").expect("cargo names the compiler");
    let said = Command::new(compiler).arg("--version").output().expect("the compiler runs");
    let version = String::from_utf8(said.stdout).expect("a version is text");
    println!("cargo::rustc-env=COMPILER={}", version.trim());
}
