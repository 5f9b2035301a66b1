//! A daemon whose state directory is full goes on, says so, loses nothing and recovers by itself.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};
use weft_e2e::{
    eventually, lab, one_more, only_on, options_with_etcd, ping, records, refusal, seen, under_traffic,
};
use weft_lab::{Container, Daemon, Fixture, LabOptions, NetNs, figures, run};

const WITHIN: Duration = Duration::from_secs(40);

/// A small filesystem on h2's state directory, which goes with this.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Puts it in place while no daemon runs there; what the directory holds is on it.
    fn under(dir: &Path) -> Self {
        let kept = dir.with_extension("kept");
        fs::rename(dir, &kept).unwrap();
        fs::create_dir(dir).unwrap();
        run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=256k", "weft-small"]).arg(dir)).unwrap();
        let disk = Self(dir.to_owned());
        run(Command::new("cp").arg("-a").arg(kept.join(".")).arg(dir)).unwrap();
        disk
    }

    /// Leaves not a byte.
    fn fill(&self) {
        let file = fs::File::create(self.0.join("ballast")).unwrap();
        let full = std::io::copy(&mut std::io::repeat(7), &mut &file).unwrap_err();
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    }

    fn free(&self) {
        fs::remove_file(self.0.join("ballast")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if let Err(error) = run(Command::new("umount").args(["--lazy"]).arg(&self.0)) {
            eprintln!("{error}");
        }
    }
}

fn says(daemon: &Daemon, what: &str, is: bool) {
    eventually(what, WITHIN, || {
        let problems = daemon.status().unwrap()["problems"].to_string();
        seen(problems.contains(what) == is, problems)
    });
}

fn connected(daemon: &Daemon, is: bool) {
    eventually("what the daemon says of its store", WITHIN, || {
        let status = daemon.status().unwrap();
        seen(status["store"]["connected"] == is, status)
    });
}

/// The addresses of the endpoints in the snapshot on disk.
fn kept(daemon: &Daemon, address: &str) -> bool {
    fs::read_to_string(daemon.state_dir().join("snapshot.json")).is_ok_and(|text| text.contains(address))
}

#[test]
fn a_full_state_directory_is_told_and_nothing_is_lost_with_the_store_there_or_away() {
    if !only_on("ebpf") {
        return;
    }
    let Some(options) = options_with_etcd("nedisk") else { return };
    let daemon_arguments = vec!["--store-timeout".to_owned(), "2".to_owned()];
    let Some(mut lab) = lab(LabOptions { daemon_arguments, ..options }) else { return };
    let daemon = lab.daemon_mut("h2").unwrap();
    daemon.stop().unwrap();
    let disk = SmallDisk::under(&daemon.state_dir());
    daemon.start().unwrap();
    lab.save().unwrap();
    let ((), met) = under_traffic(&mut lab, |lab, _| with_a_full_disk(lab, &disk));
    let before = records(lab.etcd.as_ref().unwrap());
    // It starts on a full disk as well.
    disk.fill();
    let daemon = lab.daemon_mut("h2").unwrap();
    daemon.kill().unwrap();
    daemon.start().unwrap();
    disk.free();
    says(daemon, "snapshot", false);
    let after = records(lab.etcd.as_ref().unwrap());
    let wrong = before.symmetric_difference(&after).count();
    figures("disk full", &format!("{met}, {wrong} records wrong, recovered by itself"));
    assert_eq!((met.lost, wrong), (0, 0));
    lab.daemon_mut("h2").unwrap().kill().unwrap();
}

fn with_a_full_disk(lab: &mut Fixture, disk: &SmallDisk) {
    let h2 = lab.daemon("h2").unwrap().clone();
    disk.fill();
    let near = lab.container("h1/c1").unwrap().clone();
    let mut fresh = one_more(lab, "h2", 2);
    fresh.attach(&h2, "lab", &[]).unwrap();
    ping(&fresh, &near.ip().unwrap()).unwrap();
    says(&h2, "snapshot cannot be kept", true);
    // The store is away besides: what would have to be noted is refused, with the reason, and leaves nothing.
    lab.etcd.as_mut().unwrap().kill().unwrap();
    connected(&h2, false);
    let mut noted = attach_until_refused(lab, &h2);
    let refused = noted.last().unwrap();
    assert_eq!(weft_e2e::devices(&refused.namespace), ["lo"]);
    disk.free();
    let last = noted.last_mut().unwrap();
    last.attach(&h2, "lab", &[]).unwrap();
    ping(last, &fresh.ip().unwrap()).unwrap();
    // Full again, with something noted: it can be told nevertheless.
    disk.fill();
    lab.etcd.as_mut().unwrap().start_again().unwrap();
    connected(&h2, true);
    says(&h2, "wait to be told", false);
    disk.free();
    says(&h2, "snapshot", false);
    eventually("the snapshot on disk", WITHIN, || {
        seen(kept(&h2, &noted.last().unwrap().ip().unwrap()), "it lacks the last container")
    });
    let h1 = lab.daemon("h1").unwrap();
    let knows = |count: usize| {
        eventually("the other host to know as many", WITHIN, || {
            let all = h1.json(&["endpoint", "ls"]).unwrap();
            seen(all.as_array().unwrap().len() == count, all)
        });
    };
    knows(3 + noted.len());
    for container in noted.iter_mut().chain([&mut fresh]) {
        container.detach(&h2, "lab").unwrap();
    }
    knows(2);
}

/// Containers that start without the store until nothing more can be noted. (The first ones find room in what the journal's
/// file occupies already.) The last one is the one that was refused.
fn attach_until_refused(lab: &mut Fixture, daemon: &Daemon) -> Vec<Container> {
    let mut noted = Vec::new();
    for number in 3..10 {
        let container = one_more(lab, "h2", number);
        NetNs::create(container.namespace.name()).unwrap();
        let path = container.namespace.path().display().to_string();
        let output = daemon.output(&["attach", "lab", "--netns", &path]).unwrap();
        if !output.status.success() {
            let said = refusal(&output, 6);
            assert!(said.contains("cannot be noted") && said.contains("No space left"), "{said}");
            noted.push(container);
            return noted;
        }
        noted.push(container);
    }
    panic!("{} containers were noted on a full disk", noted.len());
}
