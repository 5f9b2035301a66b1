//! Another build takes over from the one that runs, host by host, without a lost frame: also from one that kept its maps and
//! programs in another layout.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};
use weft_e2e::{
    datapath, eventually, kernel_picture, lab, options_with_etcd, seen, traffic::moved_on, under_traffic,
    weft,
};
use weft_lab::{Fixture, figures, run, short_or_long};

/// The version of the build under test, as it is in the program.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A copy of the program that takes itself for version `version`, of as many bytes.
fn another_build(lab: &Fixture, version: &str) -> PathBuf {
    assert_eq!(version.len(), VERSION.len());
    let path = lab.dir().join(format!("weft-{version}"));
    fs::copy(weft(), &path).unwrap();
    // In all places: which of them is the one that is told is the linker's business.
    let replace = format!("s/{}/{version}/g", VERSION.replace('.', "\\."));
    run(Command::new("sed").env("LC_ALL", "C").args(["-i", &replace]).arg(&path)).unwrap();
    path
}

/// Stops a host's daemon, does something to what it has left, and starts the other build.
fn upgrade(lab: &mut Fixture, host: &str, build: &Path, version: &str, meanwhile: impl FnOnce(&Fixture)) {
    lab.daemon_mut(host).unwrap().stop().unwrap();
    meanwhile(lab);
    let daemon = lab.daemon_mut(host).unwrap();
    build.clone_into(&mut daemon.options.weft);
    daemon.start().unwrap();
    let daemon = lab.daemon(host).unwrap();
    assert_eq!(daemon.status().unwrap()["version"], version);
    lab.save().unwrap();
}

#[test]
fn another_build_adopts_what_is_there_and_no_frame_is_lost() {
    let Some(options) = options_with_etcd("neup") else { return };
    let Some(mut lab) = lab(options) else { return };
    let path = datapath(lab.daemon("h1").unwrap());
    let next = format!("{}9", &VERSION[..VERSION.len() - 1]);
    let builds = [(another_build(&lab, &next), next.as_str()), (weft(), VERSION)];
    let upgrades = short_or_long(2, 40);
    let before: Vec<_> = lab.daemons.iter().map(|d| kernel_picture(d, true)).collect();
    let ((), met) = under_traffic(&mut lab, |lab, flows| {
        // There and back again: a build that turns out bad is replaced by the one before it.
        for (build, version) in builds.iter().cycle().take(upgrades) {
            for host in ["h1", "h2"] {
                upgrade(lab, host, build, version, |_| {});
                moved_on(flows, "an upgrade");
            }
        }
    });
    let h1 = lab.daemon("h1").unwrap();
    let last = builds[(upgrades - 1) % 2].1;
    eventually("the new version of both nodes", Duration::from_secs(5), || {
        let nodes = h1.json(&["node", "ls"]).unwrap();
        seen(nodes.as_array().unwrap().iter().all(|n| n["version"] == last), nodes)
    });
    figures(&format!("upgraded, {path}"), &format!("{} times, {met}", 2 * upgrades));
    assert_eq!(met.lost, 0);
    assert_eq!(lab.daemons.iter().map(|d| kernel_picture(d, true)).collect::<Vec<_>>(), before);
}

#[test]
fn from_an_earlier_layout_of_maps_and_programs_no_frame_is_lost() {
    let Some(options) = options_with_etcd("neold") else { return };
    let Some(mut lab) = lab(options) else { return };
    if datapath(lab.daemon("h1").unwrap()) != "ebpf" {
        return;
    }
    let times = short_or_long(1, 40);
    let ((), met) = under_traffic(&mut lab, |lab, flows| {
        for _ in 0..times {
            for host in ["h1", "h2"] {
                // As if it was of another release: what is pinned is none of this one's, and frames go through it.
                upgrade(lab, host, &weft(), VERSION, |lab| {
                    let overlay = lab.daemon(host).unwrap().options.overlay_netns.clone();
                    let pins = Path::new("/sys/fs/bpf/weft").join(overlay);
                    fs::rename(pins.join("v2"), pins.join("v1")).unwrap();
                });
                moved_on(flows, "an upgrade");
            }
        }
    });
    figures("upgraded from another layout of maps, ebpf", &format!("{} times, {met}", 2 * times));
    assert_eq!(met.lost, 0);
    for daemon in &lab.daemons {
        let pins = Path::new("/sys/fs/bpf/weft").join(&daemon.options.overlay_netns);
        let layouts: Vec<_> = fs::read_dir(&pins).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(layouts, ["v2"]);
    }
}
