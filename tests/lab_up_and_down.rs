//! `weft lab up` builds a cluster on one machine, `weft lab exec` enters it, `weft lab down` leaves nothing.
#![allow(clippy::unwrap_used)]

use std::process::Output;
use weft_e2e::{only_on, refusal, traces, weft_output};
use weft_lab::{Lab, cannot_run};

/// Its name, of this test run only.
fn name() -> String {
    format!("cli-{}", std::process::id())
}

/// Takes the lab down whatever happens.
struct Down(String);

impl Drop for Down {
    fn drop(&mut self) {
        if let Ok(mut lab) = Lab::load(&self.0)
            && let Err(error) = lab.down()
        {
            eprintln!("{error}");
        }
    }
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn a_lab_of_three_hosts_comes_up_is_entered_and_goes_without_a_trace() {
    if !only_on("ebpf") {
        return;
    }
    if !nix::unistd::geteuid().is_root() {
        return cannot_run("weft lab", &"it makes network namespaces and must run as root");
    }
    let name = name();
    let down = Down(name.clone());
    let up = weft_output(&["lab", "up", "--hosts", "3", "--name", &name]);
    assert!(up.status.success(), "{}", text(&up));
    assert!(text(&up).contains("h3/c1"), "{}", text(&up));

    let ping = |from: &str, to: &str| {
        weft_output(&["lab", "exec", "--name", &name, from, "--", "ping", "-c", "1", "-W", "2", to])
    };
    for to in ["10.0.0.2", "10.0.0.3", "10.0.0.4"] {
        let output = ping("h1/c1", to);
        assert!(output.status.success(), "{}", text(&output));
    }
    let output = ping("h2", "10.77.0.3");
    assert!(output.status.success(), "a host reaches another: {}", text(&output));
    let status = weft_output(&["lab", "exec", "--name", &name, "h1/c1", "--", "sh", "-c", "exit 7"]);
    assert_eq!(status.status.code(), Some(7), "the command's own exit code is passed on");

    assert!(text(&weft_output(&["lab", "ls"])).contains(&name));
    let again = weft_output(&["lab", "up", "--name", &name]);
    assert!(refusal(&again, 4).contains("up already"));
    let nowhere = weft_output(&["lab", "exec", "--name", &name, "h9", "--", "true"]);
    assert!(refusal(&nowhere, 3).contains("h9"));

    let gone = weft_output(&["lab", "down", "--name", &name]);
    assert!(gone.status.success(), "{}", text(&gone));
    assert_eq!(traces(&name), Vec::<String>::new());
    assert!(refusal(&weft_output(&["lab", "down", "--name", &name]), 3).contains("there is no lab"));
    drop(down);
}
