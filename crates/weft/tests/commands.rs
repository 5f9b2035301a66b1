//! The `weft` program as a shell sees it: what it prints where, and how it exits.

// Fixtures are test code too; clippy only knows functions marked #[test].
#![allow(clippy::unwrap_used)]

use std::{
    io::{BufRead, BufReader},
    process::{Command, Output, Stdio},
};

/// `weft` with a socket that nobody listens on, and none of this shell's settings.
fn weft(line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("WEFT_")) {
        command.env_remove(name);
    }
    command.env("WEFT_SOCKET", "/nonexistent/weft.sock").args(line.split_whitespace());
    command
}

fn run(line: &str) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = weft(line).output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

#[test]
fn a_failure_has_a_message_a_hint_and_an_exit_code() {
    for (line, code, message) in [
        (
            "status",
            6,
            "weft: no weft daemon answers at /nonexistent/weft.sock: there is no such socket\nhint: ",
        ),
        ("network ls", 6, "weft: no weft daemon answers at /nonexistent/weft.sock"),
        ("--socket /nonexistent/other node ls", 6, "weft: no weft daemon answers at /nonexistent/other:"),
        ("network rm a b", 6, "weft: no weft daemon answers at "),
        ("network create net --subnet 10.9.0.5/24", 5, "weft: --subnet: 10.9.0.5/24 has host bits set"),
        ("network create net --gateway 10.9.0.1", 5, "weft: --gateway 10.9.0.1 needs a --subnet"),
        (
            "attach net --netns /nonexistent/blue",
            3,
            "weft: there is no network namespace /nonexistent/blue\nhint: ",
        ),
        ("daemon --cluster-store redis://h:1", 5, "weft: --cluster-store: unknown store \"redis://h:1\""),
        (
            "daemon --cluster-store etcd://h:1 --cluster-store-opt kv.password=secret",
            5,
            "weft: --cluster-store-opt: kv.password would show the secret to everyone who lists the processes",
        ),
        (
            "daemon --cluster-store etcd://h:1 --cluster-store-opt kv.cacertfile=/nonexistent/ca.pem",
            5,
            "weft: --cluster-store-opt: kv.cacertfile=/nonexistent/ca.pem: No such file",
        ),
        ("daemon --config /nonexistent/weft.toml", 3, "weft: /nonexistent/weft.toml: No such file"),
        ("frobnicate", 2, "error: unrecognized subcommand"),
        ("network ls --format xml", 2, "error: invalid value 'xml'"),
    ] {
        let (exit, stdout, stderr) = run(line);
        assert_eq!(exit, Some(code), "weft {line}: {stderr}");
        assert!(stderr.starts_with(message), "weft {line}: {stderr}");
        assert_eq!(stdout, "", "weft {line}: failures are for stderr");
    }
}

#[test]
fn help_version_and_completions_need_no_daemon() {
    let (exit, help, _) = run("--help");
    assert_eq!(exit, Some(0));
    assert!(help.contains("Exit codes:") && help.contains("6  unreachable"), "{help}");
    assert_eq!(run("version"), (Some(0), format!("weft {}\n", env!("CARGO_PKG_VERSION")), String::new()));
    let (exit, script, _) = run("completions bash");
    assert!(exit == Some(0) && script.contains("cluster-advertise"));
}

#[test]
fn a_setting_of_the_file_that_means_nothing_stops_the_daemon_before_it_does_anything() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("weft.toml");
    std::fs::write(&file, "vni-rnage = \"5000-5999\"\n").unwrap();
    let output = weft("daemon").env("WEFT_CONFIG", &file).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(5), "{stderr}");
    assert!(
        stderr.contains("unknown key \"vni-rnage\"; known are ") && stderr.contains("vni-range"),
        "{stderr}"
    );
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let mut child = weft("completions zsh").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    BufReader::with_capacity(16, child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert!(first.starts_with("#compdef weft"), "{first}");
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr), (Some(0), vec![]));
}
