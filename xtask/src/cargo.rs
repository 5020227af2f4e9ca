//! Asking cargo to build, and learning from its messages which programs came out.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

/// A program that cargo built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Program {
    /// The name of the binary target.
    pub(crate) name: String,
    /// Where cargo put it.
    pub(crate) path: PathBuf,
}

/// The messages of cargo that matter here.
#[derive(Deserialize)]
struct Message {
    reason: String,
    target: Option<Target>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

/// Runs a `cargo build` and returns the programs it built, whether just now or before. Diagnostics go to the terminal.
pub(crate) fn programs(build: &mut Command) -> Result<Vec<Program>> {
    let output = build
        .arg("--message-format=json-render-diagnostics")
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("`cargo` cannot be started")?;
    if !output.status.success() {
        bail!("the build failed; what is wrong stands above");
    }
    parse(&String::from_utf8_lossy(&output.stdout))
}

fn parse(messages: &str) -> Result<Vec<Program>> {
    let mut programs = Vec::new();
    for line in messages.lines().filter(|line| line.starts_with('{')) {
        let message: Message = serde_json::from_str(line).context("cargo printed a message that cannot be read")?;
        if message.reason == "compiler-artifact"
            && let (Some(target), Some(path)) = (message.target, message.executable)
        {
            programs.push(Program { name: target.name, path });
        }
    }
    Ok(programs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_programs_among_other_messages() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","target":{"name":"lib"},"executable":null}"#,
            "\n",
            r#"{"reason":"compiler-artifact","target":{"name":"e2e"},"executable":"/t/e2e"}"#,
            "\n",
            r#"{"reason":"build-finished","success":true}"#,
            "\n"
        );
        assert_eq!(parse(messages).unwrap(), [Program { name: "e2e".into(), path: "/t/e2e".into() }]);
    }
}
